"""What the theme's pages carry and cannot be told to leave out: mended in the rendered pages."""

import re
from pathlib import Path

SCRIPT = re.compile(r"(<script\b.*?</script>)", re.DOTALL)
"""A script, without the space before it: a pattern that began with any space would be tried at each of a page."""

HEAVY_ICONS = re.compile(r'<script [^>]*src="[^"]*fontawesome\.js')
"""Every icon there is, as a program of 1.5 MB; the style sheets beside it draw the same from a font of 0.15 MB."""

KERNELS = re.compile(
    r"<script>const THEBE_JS_URL"
    r'|<script [^>]*src="[^"]*sphinx-thebe\.js'
    r'|<script type="text/x-thebe-config">'
    r"|<script>kernelName = "
)
"""Cells that run on somebody's server: no page offers it, and its constants, declared twice, are an error."""

MATHJAX = re.compile(r'<script>window\.MathJax = |<script [^>]*src="[^"]*/mathjax/')
FORMULA = 'class="math'


def mend(html: str) -> str:
    """Return a rendered page without the scripts that it does not use, and readable by a screen reader."""
    unused = [HEAVY_ICONS, KERNELS, *([] if FORMULA in html else [MATHJAX])]
    kept = ""
    for part in SCRIPT.split(html):
        if any(pattern.match(part) for pattern in unused):
            kept = kept.rstrip()
        else:
            kept += part
    return kept.replace('role="doc-biblioentry"', 'role="listitem"')  # what is in a list is an item of it


def mend_pages(folder: Path) -> None:
    """Mend every page of a rendered book."""
    for path in folder.rglob("*.html"):
        if "_static" not in path.parts:
            path.write_text(mend(path.read_text(encoding="utf-8")), encoding="utf-8")
