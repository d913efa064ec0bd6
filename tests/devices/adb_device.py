"""A small device that speaks the ADB protocol over TCP, so that the real adb program can talk to it.

It is what the daemon of a phone is to adb: a transport of messages, on it streams, behind each stream a service
(a shell, a command with bare pipes, files). The commands are run for real by a phone (adb_phone.py), in a folder.
Written after the public documents of the protocol: protocol.txt, SERVICES.TXT, SYNC.TXT, the shell protocol.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from tests.devices.adb_phone import Phone
from tests.devices.adb_sync import serve_files

VERSION = 0x01000001  # from this version on nobody sums up the payload
MAX_PAYLOAD = 256 * 1024
MAX_HOST_PAYLOAD = 1024 * 1024
FEATURES = ("shell_v2", "cmd", "stat_v2", "ls_v2", "fixed_push_mkdir")
AUTH_TOKEN, AUTH_SIGNATURE, AUTH_PUBLIC_KEY = 1, 2, 3
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN, WINDOW_SIZE = range(6)


@dataclass
class Faults:
    """What goes wrong, changed at any time by a test."""

    cut_after_bytes: int | None = None  # the connection breaks once the host has sent so much on streams; once
    cut_at_output: bytes | None = None  # the connection breaks when a command has written this; once
    gone: bool = False  # no connection is accepted
    silent: bool = False  # a connection is accepted and never answered: adb calls it offline
    unauthorized: bool = False  # nobody has tapped "allow"
    bytes_per_second: float | None = None  # of what the host sends


class Closed(Exception):
    """The stream or its connection is at its end."""


class Stream:
    """One stream of a connection: bytes both ways, each message confirmed before the next."""

    def __init__(self, connection: Connection, mine: int, theirs: int) -> None:
        self.connection, self.mine, self.theirs = connection, mine, theirs
        self.incoming: queue.Queue[bytes | None] = queue.Queue()
        self.confirmed = threading.Semaphore(1)  # an OPEN is a READY too
        self.closed = threading.Event()
        self._writing = threading.Lock()

    def read(self) -> bytes:
        """Return what the host sent next, and let it send more; b"" at the end."""
        data = self.incoming.get()
        if data is None:
            self.incoming.put(None)
            return b""
        self.connection.send(b"OKAY", self.mine, self.theirs)
        return data

    def write(self, data: bytes) -> None:
        """Send ``data``; raises :class:`Closed` when the host has closed."""
        with self._writing:
            for start in range(0, len(data), self.connection.max_payload):
                self.confirmed.acquire()
                if self.closed.is_set():
                    self.confirmed.release()
                    raise Closed
                piece = data[start : start + self.connection.max_payload]
                self.connection.send(b"WRTE", self.mine, self.theirs, piece)

    def end(self) -> None:
        """Let go of whoever reads or writes here."""
        self.closed.set()
        self.incoming.put(None)
        self.confirmed.release()

    def close(self) -> None:
        if not self.closed.is_set():
            self.connection.send(b"CLSE", self.mine, self.theirs)
            self.end()
        self.connection.streams.pop(self.mine, None)


class Connection:
    """The transport: messages of 24 bytes and a payload."""

    def __init__(self, device: AdbDevice, connected: socket.socket) -> None:
        self.device, self.socket = device, connected
        self.streams: dict[int, Stream] = {}
        self.max_payload = 4096
        self._sending = threading.Lock()
        self._next = 0

    def send(self, command: bytes, first: int, second: int, payload: bytes = b"") -> None:
        number = int.from_bytes(command, "little")
        header = struct.pack("<6I", number, first, second, len(payload), sum(payload), number ^ 0xFFFFFFFF)
        with self._sending, contextlib.suppress(OSError):
            self.socket.sendall(header + payload)

    def cut(self) -> None:
        """End at once, as when a cable is pulled."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def serve(self) -> None:
        try:
            while True:
                command, first, second, length, _, magic = struct.unpack("<6I", self._exactly(24))
                self.device.received_bytes += 24 + length
                if command ^ 0xFFFFFFFF != magic or length > MAX_HOST_PAYLOAD:
                    return
                self._take(command.to_bytes(4, "little"), first, second, self._exactly(length))
        except (Closed, OSError):
            pass
        finally:
            self.cut()
            for stream in list(self.streams.values()):
                stream.end()

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise Closed
            data += piece
        return bytes(data)

    def _take(self, command: bytes, first: int, second: int, payload: bytes) -> None:
        faults = self.device.faults
        if command == b"CNXN":
            self.max_payload = min(second, MAX_PAYLOAD)
            if faults.unauthorized:
                self.send(b"AUTH", AUTH_TOKEN, 0, os.urandom(20))
            elif not faults.silent:
                self.send(b"CNXN", VERSION, MAX_PAYLOAD, self.device.banner())
        elif command == b"AUTH" and first == AUTH_SIGNATURE and faults.unauthorized:
            self.send(b"AUTH", AUTH_TOKEN, 0, os.urandom(20))
        elif command == b"OPEN":
            self._open(first, payload.rstrip(b"\0").decode("utf-8", "surrogateescape"))
        elif command == b"WRTE" and second in self.streams:
            self.device.let_through(self, payload)
            self.streams[second].incoming.put(payload)
        elif command == b"OKAY" and second in self.streams:
            self.streams[second].confirmed.release()
        elif command == b"CLSE" and second in self.streams:
            self.streams.pop(second).end()

    def _open(self, theirs: int, destination: str) -> None:
        serve = self.device.service(destination)
        if serve is None:
            self.send(b"CLSE", 0, theirs)
            return
        self._next += 1
        stream = self.streams[self._next] = Stream(self, self._next, theirs)

        def run() -> None:
            with contextlib.suppress(Closed, OSError):
                serve(stream)
            stream.close()

        self.send(b"OKAY", stream.mine, theirs)
        threading.Thread(target=run, daemon=True).start()


class AdbDevice:
    """The device: ``with AdbDevice(phone) as device: adb connect 127.0.0.1:{device.port}``."""

    def __init__(self, phone: Phone, port: int = 0) -> None:
        self.phone, self.faults = phone, Faults()
        self.features: tuple[str, ...] = FEATURES
        self.received_bytes = 0  # from the host, on all connections
        self.connections: list[Connection] = []
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listening.getsockname()[1]

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> AdbDevice:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.faults.gone = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # or accept() would wait on
        self._listening.close()
        self.disconnect()

    def disconnect(self) -> None:
        """Break every connection."""
        for connection in self.connections:
            connection.cut()
        self.connections.clear()

    def banner(self) -> bytes:
        properties = {
            "ro.product.name": self.phone.properties["ro.product.device"],
            "ro.product.model": self.phone.properties["ro.product.model"],
            "ro.product.device": self.phone.properties["ro.product.device"],
            "features": ",".join(self.features),
        }
        return b"device::" + "".join(f"{name}={value};" for name, value in properties.items()).encode()

    def let_through(self, connection: Connection, payload: bytes) -> None:
        """Let through what the host sent on a stream, as slowly and as far as the faults allow."""
        faults = self.faults
        if faults.bytes_per_second:
            time.sleep(len(payload) / faults.bytes_per_second)
        if faults.cut_after_bytes is not None:
            faults.cut_after_bytes -= len(payload)
            if faults.cut_after_bytes <= 0:
                faults.cut_after_bytes = None
                connection.cut()
                raise Closed

    def service(self, destination: str) -> Callable[[Stream], None] | None:
        kind, _, argument = destination.partition(":")
        options = kind.split(",")
        if options[0] == "shell" and "v2" in options:
            return lambda stream: self._shell(stream, argument)
        if options[0] in ("shell", "exec"):
            return lambda stream: self._pipes(stream, argument)
        if destination == "sync:":
            return lambda stream: serve_files(stream, self.phone)
        return None

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connected, _ = self._listening.accept()
                if self.faults.gone:
                    connected.close()
                    continue
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = Connection(self, connected)
                self.connections.append(connection)
                threading.Thread(target=connection.serve, daemon=True).start()

    def _shell(self, stream: Stream, command: str) -> None:
        """The shell protocol: packets of a kind, a length and bytes, and the exit status at the end."""

        def output(kind: int, pipe: IO[bytes]) -> None:
            with contextlib.suppress(Closed, OSError, ValueError):
                while data := os.read(pipe.fileno(), 65536):
                    if self.faults.cut_at_output is not None and self.faults.cut_at_output in data:
                        self.faults.cut_at_output = None
                        stream.connection.cut()
                    stream.write(struct.pack("<BI", kind, len(data)) + data)

        def feed() -> None:
            for kind, data in _packets(stream):
                with contextlib.suppress(OSError, ValueError):
                    if kind == STDIN:
                        _write_all(stdin, data)
                    elif kind == CLOSE_STDIN:
                        stdin.close()
            _hang_up(process, stdin)

        with self.phone.start(command, subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            stdin = process.stdin
            threading.Thread(target=feed, daemon=True).start()
            outputs = ((STDOUT, process.stdout), (STDERR, process.stderr))
            pumps = [threading.Thread(target=output, args=each, daemon=True) for each in outputs]
            for pump in pumps:
                pump.start()
            for pump in pumps:
                pump.join()
            status = process.wait()
        stream.write(struct.pack("<BIB", EXIT, 1, status if status >= 0 else 0x80 | -status))

    def _pipes(self, stream: Stream, command: str) -> None:
        """A command with bare bytes both ways; errors and output are one."""

        def feed() -> None:
            while data := stream.read():
                with contextlib.suppress(OSError, ValueError):
                    _write_all(stdin, data)
            _hang_up(process, stdin)

        with self.phone.start(command, subprocess.STDOUT) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            stdin = process.stdin
            threading.Thread(target=feed, daemon=True).start()
            while data := os.read(process.stdout.fileno(), 65536):
                stream.write(data)


def _packets(stream: Stream) -> Iterator[tuple[int, bytes]]:
    waiting = bytearray()
    while data := stream.read():
        waiting += data
        while len(waiting) >= 5:
            kind, length = struct.unpack_from("<BI", waiting)
            if len(waiting) < 5 + length:
                break
            yield kind, bytes(waiting[5 : 5 + length])
            del waiting[: 5 + length]


def _write_all(pipe: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(pipe.fileno(), view) :]


def _hang_up(process: subprocess.Popen[bytes], stdin: IO[bytes]) -> None:
    """The host has gone: what it started is told so, and only the process itself, as a phone does it."""
    with contextlib.suppress(OSError, ValueError):
        stdin.close()
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGHUP)
