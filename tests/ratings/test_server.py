"""The page's web server over a real connection: who is let in, and what is answered."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from uvicorn import Config
from uvicorn import Server as UvicornServer

from ppokit.errors import DataError
from ppokit.ratings.page.assignments import AssignmentQueue
from ppokit.ratings.page.items import Item
from ppokit.ratings.page.log import Log, NotSavedError
from ppokit.ratings.page.server import LARGEST_BODY, application
from ppokit.ratings.page.serving import is_local, links, listen
from ppokit.ratings.page.session import RatingSession, SessionConfig

TOKEN = "a-token_of-22-letters."
TEXT = "</script><script>alert(1)</script> \u202e \U0001f469\u200d\U0001f467 \u2028 =1+1"
Answer = tuple[int, dict[str, str], bytes]


class Server:
    def __init__(self, out: Path) -> None:
        items = [Item(f"i{n}", "p", (f"{TEXT} {n}",), ("secret model",)) for n in range(500)]
        self.session = RatingSession(out, AssignmentQueue(items, 1), SessionConfig(False, (0, 10), 0))
        self.socket = listen("127.0.0.1", 0)
        self.port = self.socket.getsockname()[1]
        app = application(self.session, TOKEN, "127.0.0.1")
        config = Config(app, log_config=None, access_log=False, server_header=False, ws="none")
        self._server = UvicornServer(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self.socket]})
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self.socket.close()
        self.session.close()

    def send(self, method: str, path: str, body: Any = b"", **headers: str) -> Answer:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def call(self, path: str, body: Any, token: str = TOKEN, **headers: str) -> tuple[int, dict[str, Any]]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, _, answer = self.send(
            "POST", f"/api/{path}", data, Authorization=f"Bearer {token}", **headers
        )
        parsed: dict[str, Any] = json.loads(answer)
        return status, parsed


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("server") / "ratings.csv")
    yield running
    running.close()


def test_an_answer_does_not_wait_for_an_acknowledgement() -> None:
    """Its second part would, for 40 ms, where Nagle's algorithm is on."""
    with (
        closing(listen("127.0.0.1", 0)) as listening,
        closing(socket.create_connection(listening.getsockname())),
        closing(listening.accept()[0]) as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_page_is_for_who_has_the_link(server: Server) -> None:
    status, headers, body = server.send("GET", f"/?token={TOKEN}")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"<!doctype html>" in body
    for path in ("/", "/?token=", f"/?token={TOKEN}x", f"/?token={TOKEN[:-1]}", "/?token=%00", "/?token=%ff"):
        status, headers, body = server.send("GET", path)
        assert (status, headers["content-type"]) == (403, "text/plain; charset=utf-8"), path
        assert TOKEN.encode() not in body


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", "\u00e9"])
@pytest.mark.parametrize("path", ["state", "act"])
def test_calls_need_the_token(server: Server, path: str, token: str) -> None:
    before = server.session.log.path.read_bytes()
    body = {"rater": "ana", "kind": "answer", "key": "12345678", "item": "i0", "value": 1}
    assert server.call(path, body, token)[0] == 403
    status, _, _ = server.send("POST", f"/api/{path}?token={TOKEN}", json.dumps(body).encode())
    assert status == 403  # not from the address: another page could send that
    basic = server.send("POST", f"/api/{path}", json.dumps(body).encode(), Authorization=f"Basic {TOKEN}")
    assert basic[0] == 403
    assert server.session.log.path.read_bytes() == before


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("LOCALHOST", 200),
        ("[::1]:{port}", 200),
        ("192.168.1.7:{port}", 200),
        (f"{socket.gethostname()}:{{port}}", 200),
        ("rebound.example", 421),
        ("rebound.example:{port}", 421),
        ("127.0.0.1.rebound.example", 421),
        ("localhost.rebound.example:{port}", 421),
        ("127.0.0.1@rebound.example", 421),
        ("", 421),
    ],
)
def test_strange_hosts_are_refused(server: Server, host: str, status: int) -> None:
    """A stranger's name that leads to this machine would make their page and this one the same site."""
    named = host.format(port=server.port)
    result, headers, _ = server.send("GET", f"/?token={TOKEN}", Host=named)
    assert result == status
    assert "content-security-policy" in headers


def test_two_hosts_are_none(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        raw.sendall(
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: rebound.example\r\nConnection: close\r\n\r\n"
        )
        assert raw.recv(100).split(b" ")[1] in (b"400", b"421")


def test_every_answer_carries_the_policy(server: Server) -> None:
    """Nothing is loaded from elsewhere, no script but the page's own, no frame, no copy."""
    sent = [
        ("GET", f"/?token={TOKEN}"),
        ("GET", "/"),
        ("GET", "/page.js"),
        ("GET", "/page.css"),
        ("GET", "/none"),
    ]
    for method, path in [*sent, ("POST", "/api/state"), ("GET", "/api/state")]:
        _, headers, _ = server.send(method, path)
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == "'self'"
        assert policy["require-trusted-types-for"] == "'script'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"  # the address holds the token
        assert headers["cache-control"] == "no-store"
        assert not any(name.startswith("access-control-") for name in headers)
        assert "set-cookie" not in headers
        assert "server" not in headers


def test_another_page_gets_no_leave_to_call(server: Server) -> None:
    asked = {
        "Origin": "https://rebound.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    status, headers, _ = server.send("OPTIONS", "/api/act", **asked)
    assert status == 405
    assert not any(name.startswith("access-control-") for name in headers)


@pytest.mark.parametrize(
    "path",
    ["/page.html", "/..%2f..%2fdesk.py", "/static/page.js", "/page.js/", "//page.js", "/api/state/x", "/%00"],
)
def test_there_is_nothing_else(server: Server, path: str) -> None:
    assert server.send("GET", path)[0] in (307, 404)


def test_texts_are_json_and_nothing_else(server: Server) -> None:
    body = json.dumps({"rater": "texts"}).encode()
    status, headers, answer = server.send("POST", "/api/state", body, Authorization=f"Bearer {TOKEN}")
    assert (status, headers["content-type"]) == (200, "application/json")
    shown = json.loads(answer)["item"]
    assert shown["responses"][0].startswith(TEXT)
    assert b"secret model" not in answer


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "a JSON object"),
        (b"{", "a JSON object"),
        (b"[]", "a JSON object"),
        (b"null", "a JSON object"),
        (b"[" * 10_000, "a JSON object"),
        (b'{"rater": ' + b"9" * 5_000 + b"}", "a JSON object"),
        (b"\xff\xfe", "a JSON object"),
        (b"{}", "A name has"),
        (b'{"rater": "\\ud800"}', "A name has"),
        (b'{"rater": "ana", "pad": "' + b"x" * LARGEST_BODY + b'"}', "at most 16,384 bytes"),
        (
            {"rater": "ana", "kind": "answer", "key": "12345678", "item": "gone", "value": 1},
            "no longer to be rated",
        ),
        ({"rater": "ana", "kind": "\ud800", "key": "12345678"}, "There is no action"),
        (
            {"rater": "ana", "kind": "answer", "key": "12345678", "item": "i1", "value": "\ud800"},
            "expected a whole",
        ),
    ],
)
def test_bodies_that_are_none(server: Server, body: Any, message: str) -> None:
    status, answer = server.call("act", body)
    assert status == 400
    assert message in answer["error"]


def test_a_body_without_end_is_not_read(server: Server) -> None:
    """A chunked request says no length before."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        chunks = (b"x" * 1_000 for _ in range(20))
        connection.request(
            "POST", "/api/act", chunks, {"Authorization": f"Bearer {TOKEN}"}, encode_chunked=True
        )
        assert "at most 16,384 bytes" in json.loads(connection.getresponse().read())["error"]


def test_a_rating_is_on_the_disk_before_it_is_confirmed(server: Server) -> None:
    item = server.call("state", {"rater": "disk"})[1]["item"]["id"]
    body = {"rater": "disk", "kind": "answer", "key": "disk-123", "item": item, "value": 7}
    status, answer = server.call("act", body)
    assert status == 200
    assert answer["progress"]["mine"] == 1
    last = json.loads(server.session.log.path.read_bytes().splitlines()[-1])
    assert (last["rater"], last["item"], last["value"]) == ("disk", item, 7)


def test_a_full_disk_is_503_so_that_the_page_tries_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = server.call("state", {"rater": "full"})[1]["item"]["id"]
    body = {"rater": "full", "kind": "answer", "key": "full-123", "item": item, "value": 7}

    def full(self: Log, *records: Any) -> None:
        raise NotSavedError("ratings.log.jsonl cannot be written: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Log, "append", full)
        status, answer = server.call("act", body)
    assert (status, answer["error"][:9]) == (503, "Not saved")
    assert server.call("act", body)[1]["progress"]["mine"] == 1


def test_ports(server: Server) -> None:
    with pytest.raises(DataError, match=rf"--port {server.port} cannot be used: .*--port 0 takes any"):
        listen("127.0.0.1", server.port)
    with pytest.raises(DataError, match=r"--host 192\.0\.2\.1"):  # reserved for documentation, RFC 5737
        listen("192.0.2.1", 0)
    with pytest.raises(DataError, match=r"--host no\.such\.host"):
        listen("no.such.host.invalid", 0)


def test_links() -> None:
    assert links("127.0.0.1", 8765, "t") == ["http://127.0.0.1:8765/?token=t"]
    assert links("::1", 1, "t") == ["http://[::1]:1/?token=t"]
    assert links("0.0.0.0", 1, "t")[0] == "http://127.0.0.1:1/?token=t"
    assert [is_local(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_local(host) for host in ("0.0.0.0", "::", "192.168.1.7", "example")] == [False] * 4
