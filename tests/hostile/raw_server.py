"""A server that sends whatever bytes a test gives it, HTTP or not, at whatever speed."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

Behaviour = Callable[["Connection"], None]


class Connection:
    """One request, and what is sent back on it."""

    def __init__(self, made: socket.socket, over: threading.Event) -> None:
        self.socket, self.over, self.sent = made, over, 0
        self.head, self.body = "", ""

    def read(self) -> bool:
        """Whether a whole request came."""
        got = b""
        while b"\r\n\r\n" not in got:
            if not (part := self.socket.recv(65536)):
                return False
            got += part
        head, _, body = got.partition(b"\r\n\r\n")
        self.head = head.decode()
        lengths = [line[15:] for line in self.head.lower().splitlines() if line.startswith("content-length:")]
        length = int(lengths[0]) if lengths else 0
        while len(body) < length:
            body += self.socket.recv(65536)
        self.body = body.decode()
        return True

    def send(self, data: bytes | str) -> None:
        raw = data.encode() if isinstance(data, str) else data
        self.socket.sendall(raw)
        self.sent += len(raw)

    def drip(self, data: bytes | str) -> None:
        """A byte every twentieth of a second."""
        for byte in data.encode() if isinstance(data, str) else data:
            if self.over.wait(0.05):
                return
            self.send(bytes([byte]))

    def hang(self) -> None:
        self.over.wait()

    def reset(self) -> None:
        """End the connection with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class RawServer:
    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour, self.over = behaviour, threading.Event()
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.requests: list[Connection] = []
        self.threads: list[threading.Thread] = []

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                made, _ = self.listening.accept()
                self.threads.append(threading.Thread(target=self.serve, args=(made,), daemon=True))
                self.threads[-1].start()

    def serve(self, made: socket.socket) -> None:
        connection = Connection(made, self.over)
        with suppress(OSError), made:
            if connection.read():
                self.requests.append(connection)
                self.behaviour(connection)
                made.shutdown(socket.SHUT_WR)


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[RawServer]:
    """A server while the block lasts."""
    server = RawServer(behaviour)
    accepting = threading.Thread(target=server.accept, daemon=True)
    accepting.start()
    try:
        yield server
    finally:
        server.over.set()
        server.listening.shutdown(socket.SHUT_RDWR)
        server.listening.close()
        for thread in (accepting, *server.threads):
            thread.join(30)


def response(body: bytes | str, status: str = "200 OK", **headers: Any) -> bytes:
    """A whole HTTP response; headers by name, with _ for -; None leaves one out."""
    raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    given = {"Content-Type": "application/json", "Content-Length": len(raw)}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in given.items() if value is not None]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + raw


def completion(content: Any, usage: Any = None, **changes: Any) -> str:
    """The JSON of a chat completion."""
    usage = {"prompt_tokens": 10, "completion_tokens": 5} if usage is None else usage
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}], "usage": usage} | changes)
