"""A scripted OpenAI-compatible server for tests, which can also fail in many ways."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HTML = (200, b"<html><body>It works!</body></html>", {"Content-Type": "text/html"})


def said(text: str | None, **changes: Any) -> tuple[int, bytes, dict[str, str]]:
    """A whole reply, of 10 tokens read and 5 written."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    body |= {"usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}} | changes
    return 200, json.dumps(body).encode(), {"Content-Type": "application/json"}


def verdict(adherence: Any) -> tuple[int, bytes, dict[str, str]]:
    return said(json.dumps({"reason": "so it is", "adherence": adherence}))


def failure(status: int, message: str = "no", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    body = json.dumps({"error": {"message": message}}).encode()
    return (
        status,
        body,
        {"Content-Type": "application/json"} | {name.replace("_", "-"): v for name, v in headers.items()},
    )


class Server(ThreadingHTTPServer):
    """`script(request, number)` gives status, body and headers of an answer; None: none ever, the connection just hangs
    (until the server is closed). `number` counts from 0 the requests that ask the same, whether
    or not they say that a reply could not be read."""

    daemon_threads = True

    request_queue_size = 128  # as many as a test may ask at once: else they are refused where the machine is busy

    def __init__(self, script: Callable[[dict[str, Any], int], Any]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.seen, self.over = script, [], threading.Event()  # type: ignore[var-annotated]
        self.times: Counter[str] = Counter()
        self.keys: set[str | None] = set()
        self.lock, self.busy, self.busiest = threading.Lock(), 0, 0
        self.moments: list[float] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def asked(self) -> int:
        """Requests but for probes."""
        return sum("Say yes." not in json.dumps(body) for body in self.seen)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, messages = self.server, body["messages"]
        again = messages[-1]["content"].startswith("That could not be read")
        name = json.dumps(body | {"messages": messages[:-2] if again else messages}, sort_keys=True)
        with server.lock:
            number = server.times[name]
            server.times[name] += 1
            server.seen.append(body)
            server.moments.append(time.monotonic())
            server.keys.add(self.headers["Authorization"])
            server.busy += 1
            server.busiest = max(server.busiest, server.busy)
        try:
            answer = server.script(body, number)
        finally:
            with server.lock:
                server.busy -= 1
        if answer is None:
            server.over.wait()
            return
        status, content, headers = answer
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *given: Any) -> None:
        """Quiet."""


@contextmanager
def serving(script: Callable[[dict[str, Any], int], Any]) -> Iterator[Server]:
    """A server while the block lasts."""
    server = Server(script)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        stop(server)


def stop(server: Server) -> None:
    """Refuse connections from now on; may be called twice."""
    if not server.over.is_set():
        server.over.set()
        server.shutdown()
        server.server_close()
