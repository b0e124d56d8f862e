"""Listen, and serve a session until a signal ends it."""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from ppokit.errors import DataError, first_line
from ppokit.ratings.page.server import application
from ppokit.ratings.page.session import RatingSession

PATIENCE = 3  # seconds for requests that are under way when the server stops


def listen(host: str, port: int) -> socket.socket:
    """A socket that nobody else listens on.

    Raises:
        DataError: the port is taken, or the host is no address of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family)
    except OSError as error:
        raise DataError(
            f"--host {host} --port {port} cannot be used: {first_line(error)}. --port 0 takes any that "
            "is free."
        ) from error
    # asyncio does so only where a socket names its protocol. An answer is written in two parts, of which the
    # second would wait for the first one's delayed acknowledgement, 40 ms (Nagle 1984, RFC 896).
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def is_local(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def links(host: str, port: int, token: str) -> list[str]:
    """What raters open in a browser: for this machine, and for others where they can reach it."""
    names = [host]
    if host in ("0.0.0.0", "::"):
        names = ["127.0.0.1", *_own_address()]
    return [f"http://{f'[{name}]' if ':' in name else name}:{port}/?token={token}" for name in names]


def _own_address() -> list[str]:
    """This machine's address in its network; asked of the system, nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for documentation, RFC 5737
        except OSError:
            return []
        return [probe.getsockname()[0]]


def serve(
    session: RatingSession, token: str, host: str, listening: socket.socket, began: Callable[[], None]
) -> None:
    """Serve until SIGINT or SIGTERM; returns then.

    Args:
        began: called first; from then on a signal ends the serving, however early it comes.
    """
    config = uvicorn.Config(
        application(session, token, host),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=PATIENCE,
    )
    server = uvicorn.Server(config)
    with _signals_end(server):
        began()
        server.run(sockets=[listening])


@contextlib.contextmanager
def _signals_end(server: uvicorn.Server) -> Iterator[None]:
    """Let signals end the server, and no more than that: there are files to write.

    uvicorn handles them itself only once it runs, and raises the one that stopped it again when all is done.
    """

    def end(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
