"""One request to an OpenAI-compatible API; every failure becomes one exception type. The API key is masked in what comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from math import isnan
from time import time
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from pilotrl.endpoint import http
from pilotrl.store.redact import RUN, in_one_line, masked
from pilotrl.store.text import encodable

PATIENCE = 60.0
"""Seconds between two attempts, at most."""
HASTE = 20.0
"""Timeout of the probe before a run, at most, in seconds."""
AGAIN = (408, 409, 429)
"""HTTP statuses below 500 that are retried."""
MOST = 10**7
"""Tokens of a prompt or a reply that a server is believed to have counted, at most."""


class Answer(BaseModel):
    """A server's reply: its text, and the tokens that it counted."""

    text: str
    prompt_tokens: int
    reply_tokens: int


class Unanswered(Exception):
    """A request without a usable reply; the message is one line and never holds the API key."""

    def __init__(
        self, line: str, *, again: bool, status: int | None = None, after: float | None = None, unreadable: bool = False
    ) -> None:
        """again: retry it; after: the server's Retry-After, in seconds; unreadable: the reply could not be parsed."""
        super().__init__(line)
        self.again, self.status, self.after, self.unreadable = again, status, after, unreadable

    @property
    def refused(self) -> bool:
        """The server rejects a field of the request."""
        return self.status in (400, 422)

    @property
    def kind(self) -> str:
        """Equal for failures with the same cause."""
        return "unreadable" if self.unreadable else str(self.status)

    def key(self, credential: str | None) -> str:
        """The key of the configuration that most likely is wrong."""
        if self.status in (401, 403):
            return f"credential={credential or 'null'}"
        return "model" if self.status in (400, 404, 422) else "base_url"


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message


class _Body(BaseModel):
    """The fields of a response that are used; servers differ in the rest."""

    choices: list[_Choice] = Field(min_length=1)
    usage: Any = None


class Wire:
    """The HTTP client for one API model."""

    def __init__(self, base_url: str, model: str, key: str | None, timeout: float, body: dict[str, Any]) -> None:
        self.settings = base_url, model, key, timeout, body
        self.secrets = [key] if key else []

    def hasty(self) -> Wire:
        """The same client with a short timeout."""
        base_url, model, key, timeout, body = self.settings
        return Wire(base_url, model, key, min(timeout, HASTE), body)

    def post(
        self,
        messages: Sequence[tuple[str, str]],
        temperature: float | None,
        max_tokens: int | None,
        form: str,
        schema: str,
    ) -> Answer:
        """One request. Raises Unanswered."""
        base_url, model, key, timeout, body = self.settings
        fields: dict[str, Any] = {
            "temperature": temperature,
            "max_tokens": max_tokens,
            "response_format": _format(form, schema),
        }
        fields = {name: value for name, value in fields.items() if value is not None}
        chat = [{"role": speaker, "content": encodable(text)} for speaker, text in messages]
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            reply = http.post(
                base_url.rstrip("/") + "/chat/completions",
                {"model": model, "messages": chat, **fields, **body},
                timeout,
                headers,
            )
        except http.NoReply as error:
            raise Unanswered(f"does not answer ({in_one_line(error, *self.secrets)})", again=True) from None
        if reply.status >= 300:
            raise self._status(reply)
        return self._read(reply)

    def masked(self, text: str) -> str:
        """A reply without the API key, should it hold that; a key of a few characters is no secret, and may be a word."""
        return masked(text, *(key for key in self.secrets if len(key) >= RUN))

    def _status(self, reply: http.Reply) -> Unanswered:
        status = reply.status
        return Unanswered(
            reply.line(*self.secrets),
            again=status in AGAIN or status >= 500,
            status=status,
            after=_after(reply.headers),
        )

    def _read(self, reply: http.Reply) -> Answer:
        """The reply in the body of a response with status 200. Raises Unanswered if it is no chat completion."""
        try:
            body = _Body.model_validate_json(reply.content)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            why = in_one_line(f"{where}: {first['msg']}", *self.secrets)
            raise Unanswered(f"answers in no known way ({why})", again=True, unreadable=True) from None
        usage = body.usage if isinstance(body.usage, dict) else {}
        prompt, written = (_believed(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        return Answer(
            text=self.masked(body.choices[0].message.content or ""), prompt_tokens=prompt, reply_tokens=written
        )


def _believed(count: Any) -> int:
    """A server's count of tokens; 0, as of one that counts none, for what cannot be one."""
    return count if type(count) is int and 0 <= count <= MOST else 0


def _format(form: str, schema: str) -> dict[str, Any] | None:
    """`response_format` of a request; None for plain text."""
    if form == "json_schema":
        return {"type": form, "json_schema": {"name": "answer", "strict": True, "schema": json.loads(schema)}}
    return {"type": form} if form == "json_object" else None


def _after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header, which may be a date; None for what says no time."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time()
        except (TypeError, ValueError, OverflowError, OSError):
            return None
    return None if isnan(seconds) else max(0.0, seconds)
