"""What the theme's pages carry and cannot be told to leave out: mended in the rendered pages."""

import re
from pathlib import Path

HEAVY_ICONS = re.compile(r'\s*<script [^>]*src="[^"]*fontawesome\.js[^"]*"[^>]*></script>')
"""Every icon there is, as a program of 1.5 MB; the style sheets beside it draw the same from a font of 0.15 MB."""

KERNELS = re.compile(
    r"\s*<script>const THEBE_JS_URL.*?</script>"
    r'|\s*<script [^>]*src="[^"]*sphinx-thebe\.js[^"]*"[^>]*></script>'
    r'|\s*<script type="text/x-thebe-config">.*?</script>'
    r"|\s*<script>kernelName = [^<]*</script>",
    re.DOTALL,
)
"""Cells that run on somebody's server: no page offers it, and its constants, declared twice, are an error."""

MATHJAX = re.compile(
    r'\s*<script>window\.MathJax = .*?</script>|\s*<script [^>]*src="[^"]*/mathjax/[^"]*"[^>]*></script>', re.DOTALL
)
FORMULA = 'class="math'


def mend(html: str) -> str:
    """Return a rendered page without the scripts that it does not use, and readable by a screen reader."""
    for unused in (HEAVY_ICONS, KERNELS, *([] if FORMULA in html else [MATHJAX])):
        html = unused.sub("", html)
    return html.replace('role="doc-biblioentry"', 'role="listitem"')  # what is in a list is an item of it


def mend_pages(folder: Path) -> None:
    """Mend every page of a rendered book."""
    for path in folder.rglob("*.html"):
        if "_static" not in path.parts:
            path.write_text(mend(path.read_text(encoding="utf-8")), encoding="utf-8")
