"""One HTTP request to an OpenAI-compatible API with the `openai` library; every failure becomes one exception type."""

from __future__ import annotations

import json
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from pilotrl.store.redact import hide_credentials
from pilotrl.types import UserError

PATIENCE = 60.0
"""Seconds between two attempts, at most."""
HASTE = 20.0
"""Timeout of the probe before a run, at most, in seconds."""
AGAIN = (408, 409, 429)
"""HTTP statuses below 500 that are retried."""


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


class _Usage(BaseModel):
    prompt_tokens: int = Field(0, ge=0)
    completion_tokens: int = Field(0, ge=0)


class _Body(BaseModel):
    """The fields of a response that are used; servers differ in the rest."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class Wire:
    """The HTTP client for one API model."""

    def __init__(self, base_url: str, model: str, key: str | None, timeout: float, body: dict[str, Any]) -> None:
        """Raises UserError if the `openai` library is not installed."""
        try:
            import openai
        except ImportError as error:
            raise UserError("openai: is not installed; pip install 'pilotrl[openai]'") from error
        self.lib = openai
        self.client = openai.OpenAI(base_url=base_url, api_key=key or "none", timeout=timeout, max_retries=0)
        self.settings = base_url, model, key, min(timeout, HASTE), body

    def hasty(self) -> Wire:
        """The same client with a short timeout."""
        return Wire(*self.settings)

    def post(
        self,
        messages: Sequence[tuple[str, str]],
        temperature: float | None,
        max_tokens: int | None,
        form: str,
        schema: str,
    ) -> Answer:
        """One request. Raises Unanswered."""
        fields: dict[str, Any] = {
            "temperature": temperature,
            "max_tokens": max_tokens,
            "response_format": _format(form, schema),
        }
        fields = {name: value for name, value in fields.items() if value is not None}
        _, model, _, _, body = self.settings
        chat = [{"role": speaker, "content": text} for speaker, text in messages]
        try:
            raw = self.client.chat.completions.with_raw_response.create(
                model=model, messages=chat, extra_body=body or None, **fields
            )
            return _read(raw.content)
        except self.lib.APIStatusError as error:
            raise self._status(error) from None
        except self.lib.APIError as error:
            why = (
                "no answer in time"
                if isinstance(error, self.lib.APITimeoutError)
                else in_one_line(error.__cause__ or error)
            )
            raise Unanswered(self._clean(f"does not answer ({why})"), again=True) from None

    def _status(self, error: Any) -> Unanswered:
        status = int(error.status_code)
        why = in_one_line(error.message).removeprefix(f"Error code: {status} - ")
        line = self._clean(f"answers with status {status} ({why})")
        return Unanswered(
            line, again=status in AGAIN or status >= 500, status=status, after=_after(error.response.headers)
        )

    def _clean(self, line: str) -> str:
        """The line without the API key, which some servers repeat."""
        key = self.settings[2]
        return hide_credentials(line.replace(key, "***") if key else line)


def _format(form: str, schema: str) -> dict[str, Any] | None:
    """`response_format` of a request; None for plain text."""
    if form == "json_schema":
        return {"type": form, "json_schema": {"name": "answer", "strict": True, "schema": json.loads(schema)}}
    return {"type": form} if form == "json_object" else None


def _read(content: bytes) -> Answer:
    """The reply in the body of a response with status 200. Raises Unanswered if it is no chat completion."""
    try:
        body = _Body.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise Unanswered(f"answers in no known way ({where}: {first['msg']})", again=True, unreadable=True) from None
    usage = body.usage or _Usage(prompt_tokens=0, completion_tokens=0)
    text = body.choices[0].message.content or ""
    return Answer(text=text, prompt_tokens=usage.prompt_tokens, reply_tokens=usage.completion_tokens)


def _after(headers: Any) -> float | None:
    """Seconds of a Retry-After header, which may be a date."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (TypeError, ValueError):
        return None


def in_one_line(what: object) -> str:
    """Its first 200 characters, in one line."""
    return " ".join(str(what).split())[:200]
