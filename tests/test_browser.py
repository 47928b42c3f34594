"""Every page of the published edition in a real browser: light and dark, on a phone, a tablet and a desktop screen.

The browser is the system's Chromium, driven by Playwright; where there is none, these tests are skipped. All pages are
visited once, and each test looks at one kind of what was found.
"""

import contextlib
import functools
import gzip
import http.server
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import numpy as np
import pytest
from chromium import a_browser
from prose import BOOK, messages
from rendered import rendered

from inference_lib.report import canvas, plots

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra test)")
axe = pytest.importorskip("axe_playwright_python.base", reason="needs axe-playwright-python (the extra test)")

pytestmark = pytest.mark.slow

MODES = ("light", "dark")
WIDTHS = (390, 768, 1400)
HEIGHT = 900

MOST_BYTES = 1.5e6
MOST_BYTES_OF = {"explorer": 2.5e6}

OF_COLOURS = ["color-contrast", "link-in-text-block"]
"""The rules of axe-core that take longest, and depend on how text is coloured, which pages have in common."""

QUESTIONS = (Path(__file__).parent / "browser.js").read_text()

AT_ONCE = "* { animation: none !important; scroll-behavior: auto !important; transition: none !important }"

SEARCH_AGAIN = "words => (document.getElementById('search-results').replaceChildren(), Search.performSearch(words))"

Found = dict[str, dict[str, list[Any]]]
"""What was found: kind, then page."""


@functools.cache
def compressed(content: bytes) -> bytes:
    return gzip.compress(content, 6)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder as web servers do: text compressed, connections kept."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_dir():
            path /= "index.html"
        if not path.is_file():
            self.send_error(404)
            return
        kind, content = self.guess_type(path), path.read_bytes()
        self.send_response(200)
        if kind.startswith("text/") or path.suffix in (".js", ".json", ".svg"):
            content = compressed(content)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "max-age=600")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Say nothing: what went wrong is found by the browser."""


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rendered("published", tmp_path_factory)


@pytest.fixture(scope="module")
def site(html: Path) -> Iterator[str]:
    """Return the address under which the rendered edition is served."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(html)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with a_browser() as started:
        yield started


@pytest.fixture(scope="module")
def found(html: Path, site: str, browser: Any) -> Found:
    """Visit every page, look at it at every width and in both modes, and return what was found."""
    pages = [path.relative_to(html).as_posix() for path in sorted(html.rglob("*.html")) if _is_page(html, path)]
    found: Found = defaultdict(dict)
    page = browser.new_page(viewport={"width": WIDTHS[0], "height": HEIGHT})
    heard = _listen(page)
    colours: dict[str, list[str]] = {mode: [] for mode in MODES}
    for name in pages:
        _load(page, site, name, heard, found)
        _look(page, name, colours, found)
    page.close()
    return found


def _is_page(html: Path, path: Path) -> bool:
    """Tell a page of the book from a theme's template and from the first page, which leads to another."""
    return not {"_static", "_sources"} & set(path.relative_to(html).parts) and path != html / "index.html"


def _listen(page: Any) -> dict[str, list[Any]]:
    """Return lists that fill while a page is loaded, as a newcomer loads it: complaints, addresses, bytes sent."""
    heard: dict[str, list[Any]] = {"console": [], "requests": [], "bytes": []}
    network = page.context.new_cdp_session(page)
    page.on("console", lambda said: said.type in ("error", "warning") and heard["console"].append(said.text))
    page.on("pageerror", lambda error: heard["console"].append(str(error)))
    page.on("request", lambda request: heard["requests"].append(request.url))
    network.send("Network.enable")
    network.send("Network.setCacheDisabled", {"cacheDisabled": True})
    network.on("Network.loadingFinished", lambda event: heard["bytes"].append(event["encodedDataLength"]))
    return heard


def _load(page: Any, site: str, name: str, heard: dict[str, list[Any]], found: Found) -> None:
    """Load a page, unfold what is folded, and note what was sent, said and left out of reach."""
    page.goto("about:blank")  # which is resized sooner than the page before
    page.set_viewport_size({"width": WIDTHS[0], "height": HEIGHT})
    for what in heard.values():
        what.clear()
    page.goto(site + name)
    page.add_script_tag(content=QUESTIONS)
    page.add_style_tag(content=AT_ONCE)
    if page.evaluate("!!window.MathJax"):
        page.evaluate("MathJax.startup.promise.then(() => true)")
    found["folded"][name] = _open_all(page)
    found["console"][name] = list(heard["console"])
    found["elsewhere"][name] = [url for url in heard["requests"] if not url.startswith((site, "data:", "blob:"))]
    found["bytes"][name] = [sum(heard["bytes"])]
    found["anchors"][name] = [page.evaluate("anchors()")]
    found["keyboard"][name] = _unreachable(page)


def _look(page: Any, name: str, colours: dict[str, list[str]], found: Found) -> None:
    """Look at a loaded page at every width, in dark at the last, and at each way of colouring text that is new."""
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": HEIGHT})
        for mode in MODES if width == WIDTHS[-1] else MODES[:1]:  # colours move nothing; another picture may
            found["layout"][f"{name}, {width} pixels, {mode}"] = page.evaluate("mode => layout(mode)", mode)
    modes = MODES[::-1]  # begins with the one that the page is in
    page.evaluate(axe.AXE_SCRIPT)
    new = {mode: page.evaluate("([mode, known]) => newColours(mode, known)", [mode, colours[mode]]) for mode in modes}
    page.evaluate("kept => plainer(kept)", ", ".join(f"[data-contrast-{mode}]" for mode in MODES))
    for mode in MODES:
        if new[mode]:
            colours[mode] += new[mode]
            page.evaluate("mode => choose(mode)", mode)
            context = f"{{include: [['[data-contrast-{mode}]']]}}"
            found["contrast"][f"{name}, {mode}"] = _violations(page, context, {"runOnly": OF_COLOURS})
    page.evaluate("plainer()")
    rules = {rule: {"enabled": False} for rule in (*OF_COLOURS, "region")}  # the last is moderate, and slow
    found["axe"][name] = _violations(page, "document", {"rules": rules})


def _unreachable(page: Any) -> list[str]:
    """Return what no key reaches; the theme takes a moment to see what scrolls."""
    with contextlib.suppress(playwright.TimeoutError):
        page.wait_for_function("!unreachable().length", timeout=10_000)
    return page.evaluate("unreachable()")


def _open_all(page: Any) -> list[str]:
    """Open whatever is folded with the Enter key; return what stays shut."""
    places = page.query_selector_all("article :is(details:not([open]) > summary, .toggle-button)")
    for folded in places:
        folded.focus()
        page.keyboard.press("Enter")
    is_open = "e => e.closest('details') ? e.parentElement.open : e.ariaExpanded == 'true'"
    return page.evaluate(f"all => all.filter(e => !({is_open})(e)).map(e => named(e.parentElement))", places)


def _violations(page: Any, context: str, options: dict[str, Any]) -> list[str]:
    """Return axe-core's serious and critical violations."""
    options = options | {"resultTypes": ["violations"], "preload": False}
    response = page.evaluate(f"axe.run({context}, {json.dumps(options)})")
    return [
        f"{violation['id']}: {node['html'][:200]} ({'; '.join(m['message'] for m in node['any'] + node['all'])[:200]})"
        for violation in response["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def nothing_wrong(found: Found, kind: str) -> None:
    """Fail with what was found, a line each, at most twenty."""
    lines = [f"{place}: {what}" for place, findings in found[kind].items() for what in findings]
    if lines:
        more = [f"and {len(lines) - 20} more"] if len(lines) > 20 else []
        pytest.fail("\n".join([*lines[:20], *more]), pytrace=False)


def test_no_page_complains(found: Found) -> None:
    nothing_wrong(found, "console")


def test_no_page_asks_another_host(found: Found) -> None:
    nothing_wrong(found, "elsewhere")


def test_a_page_is_light_enough_for_a_phone(found: Found) -> None:
    def most(name: str) -> float:
        return MOST_BYTES_OF.get(Path(name).stem, MOST_BYTES)

    heavy = {name: size for name, (size,) in found["bytes"].items() if size > most(name)}
    assert not heavy
    assert all(size for (size,) in found["bytes"].values())


def test_nothing_is_cut_off_overlaps_or_is_missing(found: Found) -> None:
    nothing_wrong(found, "layout")


def test_nothing_is_wrong_for_a_screen_reader(found: Found) -> None:
    nothing_wrong(found, "axe")


def test_text_stands_out_from_what_is_behind_it(found: Found) -> None:
    nothing_wrong(found, "contrast")


def test_what_is_folded_opens_with_the_enter_key(found: Found) -> None:
    nothing_wrong(found, "folded")


def test_the_keyboard_reaches_and_scrolls_everything(found: Found) -> None:
    nothing_wrong(found, "keyboard")


def test_every_link_within_the_book_leads_somewhere(found: Found, html: Path) -> None:
    ids = {f"/{name}": set(page["ids"]) for name, (page,) in found["anchors"].items()}
    dead = []
    for name, (page,) in found["anchors"].items():
        for link in page["links"]:
            path, fragment = unquote(urlsplit(link).path), unquote(urlsplit(link).fragment)
            there = (html / path.lstrip("/")).is_file() or path == "/"
            if not there or (fragment and path in ids and fragment not in ids[path]):
                dead.append(f"{name}: {link}")
    assert not dead


def test_the_search_finds_a_symptom_by_the_words_of_its_error_message(site: str, browser: Any) -> None:
    page, lost = browser.new_page(), []
    asked = messages(BOOK / "symptoms.md")
    page.goto(f"{site}search.html?q={quote(asked[0])}")  # the others on the same page
    for number, message in enumerate(asked):
        if number:
            page.evaluate(SEARCH_AGAIN, message)
        page.wait_for_function("document.querySelector('.search-summary')?.textContent.match(/finished|did not match/)")
        found = page.locator("#search-results li > a").evaluate_all("links => links.map(link => link.pathname)")
        lost += [] if "/book/symptoms.html" in found else [message]
    page.close()
    assert len(asked) >= 30
    assert not lost


@pytest.mark.parametrize("mode", MODES)
def test_a_page_follows_the_reader_s_system(site: str, browser: Any, mode: str) -> None:
    page = browser.new_page(color_scheme=mode)
    page.goto(f"{site}book/index.html")
    assert page.evaluate("document.documentElement.dataset.theme") == mode
    page.close()


def test_the_tab_key_passes_everything_and_shows_where_it_is(site: str, browser: Any) -> None:
    page = browser.new_page(viewport={"width": WIDTHS[-1], "height": HEIGHT})
    page.goto(f"{site}book/index.html")
    page.add_script_tag(content=QUESTIONS)
    page.add_style_tag(content=AT_ONCE)
    wanted = page.evaluate("tabStops()")
    passed, hidden = set(), []
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        place, seen = page.evaluate("focused()")
        passed.add(place)
        hidden += [] if seen else [page.evaluate("named(document.activeElement)")]
    page.close()
    assert wanted > 20
    assert not set(range(wanted)) - passed
    assert not hidden


def test_many_equal_marks_are_one_element_and_look_the_same(browser: Any) -> None:
    figure, (axes,) = plots.new_figure()
    for color, angles in (("#d55e00", np.linspace(0, 6, 300)), ("#009e73", np.linspace(0, 3, 200))):
        axes.plot(angles, np.sin(angles), ".", color=color, ms=4)
    axes.plot([1, 2, 3], [0, 0, 0], "s", color="#d55e00")
    before = canvas._drawn(figure, "marks")
    page, seen = browser.new_page(viewport={"width": 600, "height": 400}), []
    for html in (before, canvas._light(before)):
        page.set_content(html)
        seen.append((page.screenshot(), page.locator("use").count(), page.locator("path").count()))
    page.close()
    (old, many, paths), (new, few, and_lines) = seen
    assert (many - few, and_lines - paths) == (498, 2)  # of each kind, one is left for the line to repeat
    assert new == old


FAULTS = {
    "out of the page": '<p style="position: absolute; left: 380px; width: 90px">beyond the edge</p>',
    "wide in a window": '<div style="width: 900px; height: 9px"></div>',
    "cut off across": '<div style="width: 40px; overflow: hidden; white-space: nowrap">a sentence too long</div>',
    "cut off along": '<div style="height: 14px; overflow: hidden">two lines<br>and the second is lost</div>',
    "number 10. is cut": '<div style="overflow: hidden"><ol start="10" style="padding-left: 1em"><li>ten</ol></div>',
    "overlap": '<p>one upon</p><p style="margin-top: -2em">the other</p>',
    'overlap: "5" in the figure "drawn"': '<svg aria-label="drawn"><text y="20">5</text><text y="22">6</text></svg>',
    "missing image": '<img src="nowhere.png" alt="nothing" width="20" height="20">',
    "no Tab reaches": '<a href="#" tabindex="-1">a link</a>',
    "no key scrolls": '<pre style="overflow: auto; width: 60px">a line that is much longer than its box</pre>',
    "color-contrast": '<p style="color: #999">pale</p>',
    "link-in-text-block": '<p>text with <a href="#" style="color: #222; text-decoration: none">a link</a> in it</p>',
    "image-alt": '<img src="data:," style="width: 9px; height: 9px">',
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_found(browser: Any, what: str) -> None:
    page = browser.new_page(viewport={"width": WIDTHS[0], "height": HEIGHT})
    page.set_content(f"<!doctype html><html lang='en'><title>A page</title><main><h1>A page</h1>{FAULTS[what]}</main>")
    page.evaluate(f"() => {{ {axe.AXE_SCRIPT}\n window.axe = axe }}")
    page.add_script_tag(content=QUESTIONS)
    found = page.evaluate("[...layout('light'), ...unreachable()]") + _violations(page, "document", {})
    page.close()
    assert [line for line in found if what in line]
