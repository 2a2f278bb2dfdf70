"""A file server on the loopback address that does what flaky and hostile ones do."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FileServer(ThreadingHTTPServer):
    """Serves ``files`` with ranges; ``faults`` are taken one a request, None for a sound answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, str] = {"ETag": '"first"'}
        self.ranges = True
        self.faults: list[Callable[[Any], object] | None] = []
        self.asked: list[dict[str, str | None]] = []
        self.over = threading.Event()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    @property
    def ranges_asked(self) -> list[str | None]:
        return [request["Range"] for request in self.asked]


class _Handler(BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_GET(self) -> None:
        self.close_connection = True
        self.server.asked.append({"path": self.path, **{n: self.headers.get(n) for n in ("Range", "If-Range")}})
        fault = self.server.faults.pop(0) if self.server.faults else None
        with suppress(ConnectionError):
            if fault is not None:
                fault(self)
            else:
                self.answer()

    def answer(self, most: int | None = None, headers: dict[str, str] | None = None) -> None:
        """The file or the range asked for; ``most`` bytes of it, whatever was promised."""
        content = self.server.files.get(self.path.lstrip("/"))
        if content is None:
            self.refuse(404)
            return
        sent = self.server.headers | (headers or {})
        first, status = 0, 200
        match = re.fullmatch("bytes=([0-9]+)-", self.headers.get("Range") or "")
        current = self.headers.get("If-Range") in (None, sent.get("ETag"), sent.get("Last-Modified"))
        if self.server.ranges and match and current:
            first, status = int(match[1]), 206
            if first >= len(content):
                self.refuse(416, {"Content-Range": f"bytes */{len(content)}"})
                return
            sent = {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"} | sent
        sent = {"Content-Length": str(len(content) - first)} | sent
        self.send(status, sent, content[first:][:most])

    def refuse(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send(status, {"Content-Length": "0"} | (headers or {}), b"")

    def send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def cut(after: int) -> Callable[[Any], object]:
    return lambda handler: handler.answer(most=after)


def status(code: int, **headers: str) -> Callable[[Any], object]:
    return lambda handler: handler.refuse(code, {name.replace("_", "-"): value for name, value in headers.items()})


def redirect(url: str) -> Callable[[Any], object]:
    return status(302, Location=url)


def hang(handler: Any) -> None:
    handler.server.over.wait(10)


def trickle(handler: Any) -> None:
    """A byte now and then: never silent for long, never done."""
    handler.answer(most=1)
    with suppress(OSError):
        while not handler.server.over.wait(0.02):
            handler.wfile.write(b"x")


@contextmanager
def serving() -> Iterator[FileServer]:
    server = FileServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
