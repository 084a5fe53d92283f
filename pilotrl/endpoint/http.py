"""One HTTP request that ends: a deadline and a size limit for the whole reply, no redirects, nothing compressed.

Each request has a connection of its own. Proxies and certificates are those of the environment (HTTPS_PROXY, NO_PROXY,
SSL_CERT_FILE), as httpx reads them.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from ssl import SSLContext
from typing import Any

from pilotrl.store.redact import in_one_line

LIMIT = 2**20
"""Bytes of a reply."""
LONGEST = 3600.0
"""Seconds that a timeout may be."""

for _name in ("httpx2", "httpcore2"):  # which log what a server sends, its headers too
    logging.getLogger(_name).setLevel(logging.WARNING)


class NoReply(Exception):
    """There is no whole reply. The message may hold whatever the server sent."""

    def __init__(self, why: object, *, sent: bool) -> None:
        """sent: the server may have received the request."""
        super().__init__(str(why))
        self.sent = sent


@dataclass(frozen=True)
class Reply:
    """What a server sent."""

    status: int
    headers: Mapping[str, str]
    """Their names in lower case."""
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """Raises ValueError for a reply that is none."""
        try:
            return json.loads(self.text)
        except RecursionError:
            raise ValueError("JSON without end") from None

    def line(self, *secrets: str) -> str:
        """What it says of an error: its status, and its message if it has one as OpenAI's, else its text; or where it leads."""
        if "location" in self.headers and 300 <= self.status < 400:
            there = in_one_line(self.headers["location"], *secrets)
            return f"redirects to {there} with status {self.status}, which is not followed: give that address, if it is right"
        try:
            said = self.json()
        except ValueError:
            said = self.text
        for name in ("error", "message"):
            said = said.get(name, said) if isinstance(said, dict) else said
        why = in_one_line(said, *secrets)
        return f"answers with status {self.status}" + (f" ({why})" if why else "")


def post(url: str, body: Any, timeout: float, headers: Mapping[str, str] | None = None) -> Reply:
    """The reply to a POST of JSON, of any status, within `timeout` seconds. Raises NoReply."""
    return _reply(
        "POST", url, timeout, {**(headers or {}), "Content-Type": "application/json"}, json.dumps(body).encode()
    )


def get(url: str, timeout: float) -> Reply:
    """The reply to a GET, of any status, within `timeout` seconds. Raises NoReply."""
    return _reply("GET", url, timeout, {})


def _reply(method: str, url: str, timeout: float, headers: dict[str, str], body: bytes | None = None) -> Reply:
    asked = _asked(method, url, timeout, headers, body)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(asked)
    with ThreadPoolExecutor(1) as other:  # in a notebook, whose loop runs in this thread
        return other.submit(asyncio.run, asked).result()


async def _asked(method: str, url: str, timeout: float, headers: dict[str, str], body: bytes | None) -> Reply:
    import httpx2

    headers |= {"Accept-Encoding": "identity", "User-Agent": "pilotrl"}
    try:
        async with (
            asyncio.timeout(timeout),
            httpx2.AsyncClient(verify=_certificates(), timeout=timeout, follow_redirects=False) as client,
            client.stream(method, url, content=body, headers=headers) as response,
        ):
            if (coding := response.headers.get("content-encoding", "identity").lower()) != "identity":
                raise NoReply(f"its reply is compressed ({coding}), which was not asked for", sent=True)
            content = bytearray()
            async for part in response.aiter_raw():
                content += part
                if len(content) > LIMIT:
                    raise NoReply(f"its reply is longer than {LIMIT} bytes", sent=True)
            return Reply(response.status_code, {**response.headers}, bytes(content))
    except (TimeoutError, httpx2.TimeoutException):
        raise NoReply("no answer in time", sent=True) from None
    except (httpx2.ConnectError, httpx2.ProxyError, httpx2.UnsupportedProtocol) as error:
        raise NoReply(error, sent=False) from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, ImportError) as error:
        raise NoReply(error or type(error).__name__, sent=True) from None


@cache
def _certificates() -> SSLContext:
    """Whom to trust; reading it takes a while."""
    import httpx2

    return httpx2.create_ssl_context()
