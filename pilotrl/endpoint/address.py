"""Where an API model is, and the limits of what it is asked: the keys that every configuration of one has."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from pilotrl.endpoint.http import LONGEST
from pilotrl.endpoint.wire import MOST
from pilotrl.store.redact import has_credentials, is_address, without_secrets
from pilotrl.types import UserError

ABOVE_ZERO = {
    "timeout": LONGEST,
    "concurrency": 1000,
    "requests_per_minute": 1e6,
    "attempts": 100,
    "max_tokens": MOST,
}
FROM_ZERO = {"backoff": LONGEST, "temperature": 100, "price_prompt": 1e6, "price_reply": 1e6}
"""Numbers of an address, and the largest that each may be."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Settings of an API model: its URL and name, sampling, limits and prices. Part of every configuration of an endpoint."""

    base_url: str
    """URL of the API, such as https://api.deepseek.com or http://127.0.0.1:8000/v1."""
    model: str
    """Name of the model at the endpoint."""
    credential: str | None
    """Environment variable that holds the API key; null: the endpoint needs none."""
    timeout: float
    """Seconds that a reply may take."""
    concurrency: int
    """Requests under way at once."""
    requests_per_minute: float | None
    """Rate limit; null: none."""
    attempts: int
    """Requests for one question, at most, until a reply can be parsed."""
    backoff: float
    """Seconds before the second attempt, at most; doubled for each further one."""
    temperature: float | None
    """Sampling temperature; null: not sent."""
    max_tokens: int | None
    """Tokens of a reply, at most; null: not sent."""
    body: Any
    """Further fields of a request, by name."""
    cache: str | None
    """File that keeps replies for later runs; null: none."""
    price_prompt: float | None
    """Price of a million prompt tokens; null: no cost is counted."""
    price_reply: float | None
    """Price of a million reply tokens."""

    def check(self) -> None:
        """Raises UserError for the first invalid value."""
        if has_credentials(self.base_url) or "@" in self.base_url:
            raise UserError(
                "base_url: holds a user or a password; name the variable that holds the key as credential instead"
            )
        if {"?", "#"} & {*self.base_url}:
            raise UserError("base_url: must be an address without ? and #, as in http://127.0.0.1:8000/v1")
        if not is_address(self.base_url):
            raise UserError(f"base_url={self.base_url}: must be an address, as in http://127.0.0.1:8000/v1")
        for name, high in ABOVE_ZERO.items():
            if (value := getattr(self, name)) is not None and not 0 < value <= high:
                raise UserError(f"{name}={value}: must be above 0, at most {high:g}")
        for name, high in FROM_ZERO.items():
            if (value := getattr(self, name)) is not None and not 0 <= value <= high:
                raise UserError(f"{name}={value}: must be at least 0, at most {high:g}")
        if not isinstance(self.body, dict):
            raise UserError(f"body={self.body}: must be fields by name, as in {{seed: 1}}; {{}} for none")
        if without_secrets(self.body) != self.body:
            why = "holds what looks like a key, and would be stored"
            raise UserError(f"body: {why}; name the variable that holds the key as credential instead")
        if (self.price_prompt is None) != (self.price_reply is None):
            raise UserError("price_prompt, price_reply: give both, or neither")

    def key(self) -> str | None:
        """The API key, from its environment variable. Raises UserError if that is not set; the message never holds the key."""
        if self.credential is None:
            return None
        if not re.fullmatch(r"[A-Za-z_]\w{0,63}", self.credential):
            raise UserError(
                "credential: must be the name of an environment variable, such as OPENAI_API_KEY, not the key"
            )
        if not (key := os.environ.get(self.credential, "").strip()):
            raise UserError(
                f"credential={self.credential}: this environment variable is not set; export it, or give null"
            )
        if not (key.isascii() and key.isprintable()):
            raise UserError(
                f"credential={self.credential}: this variable holds characters that no key has; copy the key anew"
            )
        return key
