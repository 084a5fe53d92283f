"""Redaction: removes API keys, tokens and passwords from what goes to logs, stored configurations and MLflow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

SECRET = re.compile("key|token|secret|password", re.IGNORECASE)
CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def without_secrets(value: Any) -> Any:
    """A copy of a configuration (mappings, sequences, scalars) without secrets: values whose keys contain key, token,
    secret or password, and user and password in a URL. Numbers of tokens (`max_plan_tokens: 64`) stay."""
    if isinstance(value, Mapping):
        return {key: without_secrets(item) for key, item in value.items() if not _is_secret(str(key), item)}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [without_secrets(item) for item in value]
    return hide_credentials(value) if isinstance(value, str) else value


def hide_credentials(text: str) -> str:
    """The text with user and password in its URLs replaced by stars."""
    return CREDENTIALS.sub("***", text)


def has_credentials(text: str) -> bool:
    """Whether a URL in the text holds a user or password, hidden or not."""
    return CREDENTIALS.search(text) is not None


def is_address(text: str) -> bool:
    """Whether it is the URL of a server."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an unclosed bracket, or a port that is no number
        return False


def _is_secret(name: str, value: Any) -> bool:
    counts = name.endswith("tokens") and isinstance(value, int | float)
    return SECRET.search(name) is not None and not counts
