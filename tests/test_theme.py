"""What a rendered page loses: scripts that it does not use. What it needs stays."""

from pathlib import Path

from inference_lib.course import theme

PAGE = """<html><head>
<link href="../_static/styles/pydata-sphinx-theme.css" rel="stylesheet" />
<script defer src="../_static/scripts/fontawesome.js?digest=1"></script>
<script defer src="../_static/scripts/bootstrap.js?digest=1"></script>
<script>const THEBE_JS_URL = "https://example.org/thebe.js"; const thebe_selector = ".cell"</script>
<script async="async" src="../_static/sphinx-thebe.js?v=1"></script>
<script>DOCUMENTATION_OPTIONS.pagename = 'a page';</script>
<script>window.MathJax = {"options": {}}</script>
<script defer="defer" src="../_static/mathjax/tex-chtml.js"></script>
</head><body>%s
<script type="text/x-thebe-config">
{ requestKernel: true }
</script>
<script>kernelName = 'python3'</script>
<div role="list"><div role="doc-biblioentry">A book</div></div>
</body></html>
"""
WITHOUT, WITH = PAGE % "<p>no formula</p>", PAGE % '<span class="math notranslate nohighlight">\\(x^2\\)</span>'


def test_a_page_loses_what_it_does_not_use() -> None:
    mended = theme.mend(WITHOUT)
    assert not [
        word for word in ("fontawesome", "thebe", "THEBE", "kernelName", "MathJax", "mathjax") if word in mended
    ]
    assert all(word in mended for word in ("bootstrap.js", "pagename", "pydata-sphinx-theme.css"))
    assert mended.count("<script") == mended.count("</script>") == 2
    assert "\n\n" not in mended, "a script goes with its line"
    assert 'role="listitem"' in mended


def test_formulas_keep_what_draws_them() -> None:
    mended = theme.mend(WITH)
    assert mended.count("<script") == 4
    assert "../_static/mathjax/tex-chtml.js" in mended


def test_mending_twice_changes_nothing_and_what_is_not_a_page_stays(tmp_path: Path) -> None:
    for name in ("book/page.html", "_static/template.html"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(WITHOUT)
    theme.mend_pages(tmp_path)
    theme.mend_pages(tmp_path)
    assert (tmp_path / "book/page.html").read_text() == theme.mend(WITHOUT)
    assert (tmp_path / "_static/template.html").read_text() == WITHOUT
