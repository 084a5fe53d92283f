"""Redaction: removes API keys, tokens and passwords from what goes to logs, stored configurations and MLflow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import ascii_lowercase, ascii_uppercase
from typing import Any
from urllib.parse import unquote, urlsplit

SECRET = re.compile("key|token|secret|password", re.IGNORECASE)
CREDENTIALS = re.compile(r"(?<=://)[^/\s]+(?=@)")
HEADERS = re.compile(
    r"\b((?:set-|set_)?cookie|(?:proxy-)?authorization|(?:x-)?api-key)\b(['\"]?\s*[:=,]\s*)[^\r\n]+", re.IGNORECASE
)
"""Headers that hold secrets, as servers repeat them in error texts: the rest of the line is theirs."""
BEARER = re.compile(r"\b(bearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE)

RUN = 8
"""Characters in a row that a text has in common with a secret, from which on they are masked. A shorter secret is masked
where all of it stands alone."""
STARS = "***"
LINE = 200
"""Characters of an error that are shown."""
LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
SPELLED = re.compile(
    r"\\+u00([0-9a-f]{2})|\\+x([0-9a-f]{2})|%(?:25)*([0-9a-f]{2})|&#x([0-9a-f]{1,2});|&#([0-9]{1,3});"
    r"|(?:\\+[nrt]?|[\s\x00-\x1f\x7f-\xa0\xad\u200b-\u200f\u2060\ufeff])+",
    re.IGNORECASE,
)
"""A character written as JSON, Python, a URL or HTML do; or what may stand between two characters and is not seen."""


def without_secrets(value: Any) -> Any:
    """A copy of a configuration (mappings, sequences, scalars) without secrets: values whose keys contain key, token,
    secret or password, and user and password in a URL. Numbers of tokens (`max_plan_tokens: 64`) stay."""
    if isinstance(value, Mapping):
        return {key: without_secrets(item) for key, item in value.items() if not _is_secret(str(key), item)}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [without_secrets(item) for item in value]
    return hide_credentials(value) if isinstance(value, str) else value


def in_one_line(what: object, *secrets: str) -> str:
    """An error as a user is shown it: its first 200 characters, in one line.

    Secrets, headers that hold some and credentials in URLs are masked before it is cut; characters that steer a terminal
    are dropped."""
    text = hide_credentials(masked(str(what), *secrets))
    text = BEARER.sub(rf"\1{STARS}", HEADERS.sub(rf"\1\2{STARS}", text))
    return " ".join("".join(char for char in text if char.isprintable() or char.isspace()).split())[:LINE]


def masked(text: str, *secrets: str) -> str:
    """The text with stars for whatever has 8 characters in a row in common with a secret, in either case, escaped as JSON,
    Python, URLs or HTML do it, or with blanks and line ends in between. A shorter secret: where it stands alone, as it is."""
    for secret in secrets:
        if len(secret) >= RUN:
            text = _without_runs(text, secret)
        elif secret:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", STARS, text)
    return text


def _without_runs(text: str, secret: str) -> str:
    key, (chars, starts, ends) = _spelled_out(secret)[0], _spelled_out(text)
    runs = {key[i : i + RUN] for i in range(len(key) - RUN + 1)}
    pieces, kept = list[str](), 0
    for i in range(len(chars) - RUN + 1):
        if chars[i : i + RUN] in runs:
            if starts[i] >= kept:
                pieces += [text[kept : starts[i]], "" if pieces and starts[i] == kept else STARS]
            kept = ends[i + RUN - 1]
    return "".join(pieces) + text[kept:]


def _spelled_out(text: str) -> tuple[str, list[int], list[int]]:
    """The characters that a text stands for, in lower case and without blanks; where each one starts and ends in it."""
    chars, starts, ends, last = list[str](), list[int](), list[int](), 0
    for found in [*SPELLED.finditer(text), None]:
        start, end = found.span() if found else (len(text), len(text))
        chars.append(text[last:start])
        starts.extend(range(last, start))
        ends.extend(range(last + 1, start + 1))
        if found and found.lastindex:
            chars.append(chr(int(found[found.lastindex], 10 if found.lastindex == 5 else 16)))
            starts.append(start)
            ends.append(end)
        last = end
    return "".join(chars).translate(LOWER), starts, ends


def hide_credentials(text: str) -> str:
    """The text with user and password in its URLs replaced by stars."""
    return CREDENTIALS.sub(STARS, text)


def has_credentials(text: str) -> bool:
    """Whether a URL in the text holds a user or password, hidden or not."""
    return CREDENTIALS.search(text) is not None


def secrets_in(url: str) -> list[str]:
    """The password of a URL, as it is written and as it is meant; without one its user, which then is a token."""
    held = CREDENTIALS.search(url)
    name, colon, password = held[0].partition(":") if held else ("", "", "")
    secret = password if colon else name
    return [secret, unquote(secret)] if secret else []


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
