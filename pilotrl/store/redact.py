"""Secrets never reach a log, a copy of the configuration, or the tracking server: what leaves a process passes here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

SECRET = re.compile("key|token|secret|password", re.IGNORECASE)
CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def without_secrets(value: Any) -> Any:
    """A copy of a configuration (mappings, sequences, scalars) without what is secret: values of keys that contain key,
    token, secret or password, and user and password in an address. Numbers of tokens (`max_plan_tokens: 64`) stay."""
    if isinstance(value, Mapping):
        return {key: without_secrets(item) for key, item in value.items() if not _is_secret(str(key), item)}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [without_secrets(item) for item in value]
    return hide_credentials(value) if isinstance(value, str) else value


def hide_credentials(text: str) -> str:
    """The text with user and password in its addresses replaced by stars."""
    return CREDENTIALS.sub("***", text)


def has_credentials(text: str) -> bool:
    """Whether an address in the text holds a user or password, hidden or not."""
    return CREDENTIALS.search(text) is not None


def is_address(text: str) -> bool:
    """Whether it is the address of a server."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # half a bracket, or a port that is no number
        return False


def _is_secret(name: str, value: Any) -> bool:
    counts = name.endswith("tokens") and isinstance(value, int | float)
    return SECRET.search(name) is not None and not counts
