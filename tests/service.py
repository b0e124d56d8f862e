"""A local HTTP service whose answers a test writes, and which counts what it is asked."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], bytes | Iterator[bytes]]


class Service:
    """Attributes: url; asked: body and headers of each request; on_path: called with the path of each."""

    def __init__(self, answer: Callable[[Any, int], Any]) -> None:
        self.answer = answer
        self.asked: list[tuple[Any, dict[str, str]]] = []
        self.lock = threading.Lock()
        self.running = self.most = 0
        self.url = ""
        self.on_path: Callable[[str], None] = lambda path: None


def as_answer(given: Any) -> Answer:
    """JSON with status 200, unless it is an answer already."""
    if isinstance(given, tuple):
        return given
    return 200, {}, json.dumps(given).encode()


@contextmanager
def serve(answer: Callable[[Any, int], Any], tls: ssl.SSLContext | None = None) -> Iterator[Service]:
    """A service that answers `answer(body, number of the request from 0)`."""
    service = Service(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            service.on_path(self.path)
            with service.lock:
                number = len(service.asked)
                service.asked.append((body, dict(self.headers)))
                service.running += 1
                service.most = max(service.most, service.running)
            try:
                status, headers, content = as_answer(service.answer(body, number))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if isinstance(content, bytes):
                    self.send_header("Content-Length", str(len(content)))
                else:
                    self.send_header("Connection", "close")
                self.end_headers()
                for chunk in [content] if isinstance(content, bytes) else content:
                    self.wfile.write(chunk)
            except (BrokenPipeError, ConnectionResetError):
                pass
            finally:
                with service.lock:
                    service.running -= 1

        def log_message(self, format: str, *args: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None: ...

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    service.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
