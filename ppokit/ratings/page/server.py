"""The page's web server: static files, and three calls in JSON, all for whoever has the token.

Any web page that a rater has open may send requests to this machine, so

- the Host header must be an IP address, `localhost` or the machine's own name: a stranger's name that leads
  here (DNS rebinding) is refused;
- each call carries the token in the Authorization header, which no other page can set unless it is allowed,
  and none is; there are no cookies;
- the page may load nothing from elsewhere, nor be put in a frame (Content-Security-Policy).
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ppokit.errors import PpokitError
from ppokit.ratings.page.log import NotSavedError
from ppokit.ratings.page.session import RatingSession, RefusedError

SAVE_EVERY = 10.0
LARGEST_BODY = 16_384
STATIC = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
logger = logging.getLogger(__name__)


def application(session: RatingSession, token: str, host: str) -> ASGIApp:
    """The ASGI application of a session.

    Args:
        token: at the end of the link, as `/?token=...`.
        host: what the server listens on; allowed as Host besides addresses.
    """
    static = {name: (files(__package__) / "static" / name).read_bytes() for name in STATIC}

    def is_token(text: str) -> bool:
        return hmac.compare_digest(text.encode("utf-8", "replace"), token.encode())

    async def page(request: Request) -> Response:
        if not is_token(request.query_params.get("token", "")):
            return PlainTextResponse(
                "This link is incomplete, or no longer valid. Ask for the one that `ppokit rate` printed.\n",
                403,
            )
        return Response(static["page.html"], media_type=STATIC["page.html"])

    async def asset(request: Request) -> Response:
        name = request.url.path.lstrip("/")
        return Response(static[name], media_type=STATIC[name])

    def call(answer: Callable[[dict[str, Any]], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not is_token(bearer):
                return _error(
                    403, "This link is no longer valid. Ask for the one that `ppokit rate` printed."
                )
            try:
                return JSONResponse(await run_in_threadpool(answer, await _body(request)))
            except RefusedError as error:
                return _error(400, str(error))
            except NotSavedError as error:
                logger.error("%s", error)
                return _error(503, f"Not saved: {error}")
            except ClientDisconnect:
                return _error(400, "The request was broken off.")

        return endpoint

    def state(body: dict[str, Any]) -> dict[str, Any]:
        return session.state(session.rater(body.get("rater")), body.get("prefer"))

    def act(body: dict[str, Any]) -> dict[str, Any]:
        rater = session.rater(body.get("rater"))
        return session.act(rater, *(body.get(name) for name in ("kind", "key", "item", "value")))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        saving = asyncio.create_task(_save_often(session))
        yield
        saving.cancel()
        with suppress(asyncio.CancelledError):
            await saving

    routes = [
        Route("/", page),
        Route("/page.css", asset),
        Route("/page.js", asset),
        Route("/api/state", call(state), methods=["POST"]),
        Route("/api/act", call(act), methods=["POST"]),
    ]
    return _Guard(Starlette(routes=routes, lifespan=lifespan), host)


async def _save_often(session: RatingSession) -> None:
    while True:
        await asyncio.sleep(SAVE_EVERY)
        try:
            await run_in_threadpool(session.save)
        except PpokitError as error:  # the log has everything; the next save, or the next start, makes good
            logger.error("%s", error)


async def _body(request: Request) -> dict[str, Any]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise RefusedError(f"A request has at most {LARGEST_BODY:,} bytes.")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RefusedError("Expected a JSON object.")
    return value


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)


class _Guard:
    """Refuses requests under a strange name, and puts the headers on every response."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app = app
        own = socket.gethostname().lower()
        self.names = {"localhost", host.lower(), own, f"{own}.local"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) == 1 and self._allowed(hosts[0]):
            await self.app(scope, receive, guarded)
        else:
            refused = PlainTextResponse(
                "This page has another address; use the link that was printed.\n", 421
            )
            await refused(scope, receive, guarded)

    def _allowed(self, host: str) -> bool:
        name = host.rsplit(":", 1)[0] if host.rpartition(":")[2].isdigit() else host
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name.lower() in self.names
        return True
