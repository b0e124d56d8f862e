"""What models write, and what other pages try: shown as text, run by nobody; nothing leaves the machine."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from page_server import rows_of

pytest.importorskip("selenium")

from page_browser import Page, strangers

if TYPE_CHECKING:
    from conftest import Serve

ENTER = "\ue007"
SCRIPTS = (
    "<script>window.taken = 1</script>",
    "<img src=x onerror='window.taken = 1'>",
    "<svg onload='window.taken = 1'></svg>",
    '<iframe srcdoc="<script>parent.taken = 1</script>"></iframe>',
    "</div></article></main><body onload='window.taken = 1'>",
    "<a href='javascript:window.taken=1'>click</a>",
    "<style>* { display: none }</style><link rel=stylesheet href=https://rebound.example/x.css>",
    "<meta http-equiv=refresh content='0;url=https://rebound.example/'>",
    "![x](https://rebound.example/x.png) {{7*7}} ${window.taken = 1}",
    "<!--",
    "]]>",
    "&lt;b&gt; &amp; &#0; &nbsp;",
)
TEXTS = (
    "=cmd|' /C calc'!A1",
    "+1+1",
    "@SUM(1;1)",
    "\u202eevil\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 (abc)",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308",
    "w" * 10_000,
    "many words " * 1_000,
    "tabs\tand\nbreaks\n\n\n  and   blanks",
    "e" + "\u0301" * 200,
    "null \x00 and escape \x1b[31m",
)


@pytest.fixture
def other_site() -> Iterator[tuple[str, list[str]]]:
    """Another server on this machine, and what it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>other</title>")

        do_POST = do_OPTIONS = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("texts", [SCRIPTS, TEXTS], ids=["scripts", "texts"])
@pytest.mark.parametrize("pairs", [False, True], ids=["single", "pairs"])
def test_texts_are_texts(page: Page, serve: Serve, texts: tuple[str, ...], pairs: bool) -> None:
    """As prompt and as response: shown letter by letter, no element made of them, none too wide."""
    rows = [(f"{text} ", one) for text in texts for one in ([text, f"{text}."] if pairs else [text])]
    server = serve(rows, *(["--pairs"] if pairs else []))
    page.requests()
    page.join(server.link, "<script>window.taken = 1</script>")
    shown = []
    for _ in texts:
        shown += [(page.prompt(), response) for response in page.responses()]
        assert page.script("return window.taken ?? null") is None
        assert page.script(
            "return [...document.querySelectorAll('.text')].every((e) => e.childElementCount === 0)"
            " && document.querySelectorAll('script').length === 1"
            " && document.querySelectorAll('iframe, img, svg, style, object').length === 0"
        )
        assert page.script("return document.documentElement.scrollWidth <= innerWidth")
        page.keys("t" if pairs else "5", ENTER)
    assert page.text("#end-title") == "All is rated. Thank you."
    assert sorted(shown) == sorted(rows)
    assert strangers(page.requests(), server.link) == []
    assert [
        complaint for complaint in page.complaints() if "Refused" in complaint or "violat" in complaint
    ] == []
    server.end()
    if not pairs:
        assert sorted((row["prompt"], row["response"]) for row in rows_of(server.out)) == sorted(rows)


def test_right_to_left_text_does_not_turn_the_page(page: Page, serve: Serve) -> None:
    """An override that is never closed ends with its text; each paragraph runs its own way."""
    server = serve([("\u202e unclosed", "\u202e unclosed \u2067"), ("p", "\u05e9\u05dc\u05d5\u05dd\nabc")])
    page.join(server.link, "\u05d0\u05e0\u05d4")
    for _ in range(2):
        assert page.script("return getComputedStyle(document.querySelector('.told')).direction") == "ltr"
        assert (
            page.script("return getComputedStyle(document.querySelector('#prompt')).unicodeBidi")
            == "plaintext"
        )
        assert page.script(
            "const boxes = [...document.querySelectorAll('.choice')].map((e) => e.getBoundingClientRect());"
            "return boxes.every((box, n) => !n || box.left > boxes[n - 1].left)"
        )
        page.keys("5", ENTER)


def test_nothing_leaves_the_machine(page: Page, serve: Serve, other_site: tuple[str, list[str]]) -> None:
    """All that the browser asks for is on this server; what a script would try is refused by the policy."""
    site, asked = other_site
    server = serve([("p", f"<img src={site}/image><script src={site}/script></script>")])
    page.requests()
    page.join(server.link, "ana")
    page.keys("f", "5", ENTER, "u", "?", "\ue00c")
    requests = page.requests()
    assert {"/page.js", "/page.css", "/api/state", "/api/act"} <= {
        a.removeprefix(server.link.split("/?")[0]) for a in requests
    }
    assert strangers(requests, server.link) == []
    tried = page.here().execute_async_script(
        "const [site, done] = arguments; const tried = {}; const broken = [];"
        "addEventListener('securitypolicyviolation', (e) => broken.push(e.effectiveDirective));"
        "const attempt = async (name, work) => {"
        "  try { tried[name] = await work() ?? 'done'; } catch (error) { tried[name] = error.name; } };"
        "(async () => {"
        "  await attempt('fetch', () => fetch(site + '/fetch').then(() => 'sent'));"
        "  await attempt('html', () => { document.body.innerHTML = '<b>x</b>'; });"
        "  await attempt('handler', () => { document.body.setAttribute('onclick', '1'); });"
        "  await attempt('script', () => { document.createElement('script').src = site + '/script'; });"
        "  await attempt('image', () => new Promise((ok) => { const i = new Image();"
        "    i.onload = () => ok('loaded'); i.onerror = () => ok('refused'); i.src = site + '/image'; }));"
        "  await attempt('beacon', () => { navigator.sendBeacon(site + '/beacon', 'x'); });"
        "  await attempt('form', () => { const f = document.createElement('form'); f.action = site + '/form';"
        "    document.body.append(f); f.submit(); });"
        "  setTimeout(() => done([tried, broken]), 300);"
        "})()",
        site,
    )
    assert tried[0] == {
        "fetch": "TypeError",
        "html": "TypeError",
        "handler": "TypeError",
        "script": "TypeError",
        "image": "refused",
        "beacon": "done",
        "form": "done",
    }
    assert {"connect-src", "img-src", "form-action", "require-trusted-types-for"} <= set(tried[1])
    assert asked == []


def test_another_page_cannot_use_it(
    tab: Callable[[], Page], serve: Serve, other_site: tuple[str, list[str]]
) -> None:
    """Even one that knows the address and the token: no call, no frame, no reading."""
    site, asked = other_site
    server = serve([("p", "r"), ("p", "s")])
    own = server.link.split("/?")[0]
    before = server.log.read_bytes()
    page = tab()
    page.open(site)
    assert asked
    got = page.here().execute_async_script(
        "const [own, link, token, done] = arguments;"
        "const body = JSON.stringify({rater: 'eve', kind: 'skip', key: '12345678', item: 'x'});"
        "const call = (options) => fetch(own + '/api/state', {method: 'POST', body, ...options})"
        ".then((r) => r.status + r.type, (e) => e.name);"
        "(async () => {"
        "  const plain = await call({mode: 'no-cors'});"
        "  const token_ = await call({headers: {Authorization: 'Bearer ' + token}});"
        "  const read = await fetch(link).then((r) => r.text(), (e) => e.name);"
        "  const frame = document.createElement('iframe'); frame.src = link; document.body.append(frame);"
        "  frame.onload = () => done([plain, token_, read, frame.contentDocument?.title ?? 'no']);"
        "})()",
        own,
        server.link,
        server.token,
    )
    assert got == ["TypeError", "TypeError", "TypeError", "no"]
    assert any("frame" in complaint and own in complaint for complaint in page.complaints())
    assert server.log.read_bytes() == before
    assert server.records("answer", "skip", "flag") == []
