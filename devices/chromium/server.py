"""The page's server, on 127.0.0.1 and a free port: its files, and the bytes of a file on their way in or out.

Chromium is told that the host of :data:`ORIGIN` lies there: the origin, and so its storage, is the same at every start.
All paths begin with a secret, since every user of this machine can reach the port.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

HOST: Final = "edgestill.localhost"
ORIGIN: Final = f"http://{HOST}"
"""A host below ``localhost`` is a secure context without a certificate. Source: W3C Secure Contexts, 3.1."""

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".wasm": "application/wasm",
}
_ISOLATION: Final = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_WAIT_SECONDS: Final = 0.2
_PIECES: Final = 4
_BLOCK: Final = 1 << 20
_SEND_BUFFER: Final = 256 << 10


class Outgoing:
    """Pieces of a file on their way to the page, a few at a time."""

    def __init__(self) -> None:
        self._pieces: queue.Queue[bytes | None] = queue.Queue(_PIECES)
        self._stopped = threading.Event()

    def put(self, piece: bytes | None, go_on: Callable[[], bool]) -> bool:
        """Hand over a piece, None after the last; ``go_on`` is asked while none is taken. False: nobody takes it."""
        while go_on():
            with contextlib.suppress(queue.Full):
                self._pieces.put(piece, timeout=_WAIT_SECONDS)
                return True
        return False

    def stop(self) -> None:
        """Break the connection off: the page sees that this wasn't all."""
        self._stopped.set()

    def take(self) -> bytes | None:
        """Return the next piece, None at the end. Raises ConnectionAbortedError once it was stopped."""
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Empty):
                return self._pieces.get(timeout=_WAIT_SECONDS)
        raise ConnectionAbortedError


class PageServer:
    """Serves files by name, ``vendor/`` files, and transfers."""

    def __init__(self, files: Mapping[str, Path], vendor: Mapping[str, Path], listing: str, *, isolated: bool) -> None:
        self._secret = secrets.token_urlsafe(16)
        self._files = {**files, **{f"vendor/{name}": path for name, path in vendor.items()}}
        self._texts = {"vendor/vendored.json": listing.encode()}
        self._headers = _ISOLATION if isolated else {}
        self._outgoing: dict[str, Outgoing] = {}
        self._incoming: dict[str, bytearray] = {}
        owner = self

        class Handler(_Handler):
            server_of = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        threading.Thread(target=self._server.serve_forever, daemon=True, name="edgestill page server").start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, name: str) -> str:
        """Return the address of a file or a transfer."""
        return f"{ORIGIN}/{self._secret}/{name}"

    def outgoing(self) -> tuple[str, Outgoing]:
        """Return a new transfer to the page, with its address."""
        key = secrets.token_urlsafe(8)
        self._outgoing[key] = Outgoing()
        return self.url(f"out/{key}"), self._outgoing[key]

    def incoming(self) -> tuple[str, bytearray]:
        """Return the address of a new transfer from the page, and the place that it fills."""
        key = secrets.token_urlsafe(8)
        self._incoming[key] = bytearray()
        return self.url(f"in/{key}"), self._incoming[key]

    def close(self) -> None:
        for one in self._outgoing.values():
            one.stop()
        self._server.shutdown()
        self._server.server_close()

    def name_of(self, path: str) -> str | None:
        """Return what a path asks for; None without the secret."""
        start = f"/{self._secret}/"
        return path.partition("?")[0].removeprefix(start) if path.startswith(start) else None

    def found(self, name: str) -> tuple[str, bytes | Path] | None:
        """Return a file's type and its bytes or where it lies."""
        if name in self._texts:
            return _TYPES[".json"], self._texts[name]
        path = self._files.get(name)
        if path is None or not path.is_file():
            return None
        return _TYPES.get(path.suffix, "application/octet-stream"), path

    def headers(self) -> Mapping[str, str]:
        return self._headers

    def take_outgoing(self, key: str) -> Outgoing | None:
        return self._outgoing.pop(key, None)

    def take_incoming(self, key: str) -> bytearray | None:
        return self._incoming.pop(key, None)


class _Handler(BaseHTTPRequestHandler):
    """One connection of the page's."""

    server_of: PageServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = self._name()
        if name is not None and name.startswith("out/"):
            outgoing = self.server_of.take_outgoing(name.removeprefix("out/"))
            if outgoing is not None:
                self._stream(outgoing)
                return
        found = None if name is None else self.server_of.found(name)
        if found is None:
            self._answer(404, "text/plain", b"not found\n")
            return
        kind, content = found
        if isinstance(content, bytes):
            self._answer(200, kind, content)
            return
        self._head(200, kind, {"Content-Length": str(content.stat().st_size)})
        with contextlib.suppress(OSError), content.open("rb") as file:
            while block := file.read(_BLOCK):
                self.wfile.write(block)

    def do_POST(self) -> None:
        name = self._name() or ""
        place = self.server_of.take_incoming(name.removeprefix("in/")) if name.startswith("in/") else None
        if place is None:
            self.close_connection = True
            self._answer(404, "text/plain", b"not found\n")
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left and (block := self.rfile.read(min(left, _BLOCK))):
            place += block
            left -= len(block)
        self._answer(200, "text/plain", b"")

    def _name(self) -> str | None:
        # A page of another site that got our address by DNS rebinding names its own host.
        return self.server_of.name_of(self.path) if self.headers.get("Host") == HOST else None

    def _stream(self, outgoing: Outgoing) -> None:
        # Little under way: what was handed over is nearly what arrived.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self._head(200, "application/octet-stream", {"Transfer-Encoding": "chunked"})
        self.close_connection = True
        try:
            while piece := outgoing.take():
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            return  # without its last chunk the page knows that it was cut

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self._head(status, kind, {"Content-Length": str(len(content))})
        self.wfile.write(content)

    def _head(self, status: int, kind: str, more: Mapping[str, str]) -> None:
        self.send_response(status)
        fixed = {"Content-Type": kind, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        for name, value in {**fixed, **self.server_of.headers(), **more}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return
