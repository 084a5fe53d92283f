"""The client for an OpenAI-compatible endpoint: concurrent requests with rate limit, retries, cost counts and a cache.

Equal questions get the same reply: while one is under way, as long as the cache is kept, and in all processes that share the
cache. So results do not depend on which request finishes first. A question without a reply gives None, and is counted.

`http` is one bounded request, which environments on a server use too.

May import `prompts` and `store`. Never here: the prompts' contents (`engine`, `teacher` and `rewards.judge` write them).
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from hashlib import sha256
from threading import Lock
from typing import Any, ClassVar, TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    stop_never,
    wait_random_exponential,
)
from tenacity.stop import stop_base

from pilotrl import prompts
from pilotrl.endpoint.address import Address
from pilotrl.endpoint.cache import Cache
from pilotrl.endpoint.wire import HASTE, PATIENCE, Answer, Unanswered, Wire
from pilotrl.store.redact import in_one_line
from pilotrl.types import UserError

T = TypeVar("T")
Read = Callable[[str], T]
"""Parses a reply; raises ValueError for one that cannot be parsed."""

FORMATS = ("json_schema", "json_object", "text")
"""Values of `response_format`, best first; after a server refuses one, the next is used."""

COUNTS = ("requests", "cached", "retries", "unreadable", "unanswered", "prompt_tokens", "reply_tokens")
"""Counters: requests sent; questions answered by the cache; retries; questions none of whose replies could be parsed;
questions without a reply; tokens of prompts and replies, as the server counts them."""

QUOTED = 4000
"""Characters of a reply that could not be read which its writer is shown again."""

SIZE = " tokens"
"""Suffix of a question's cache key, under which the number of tokens of its reply is stored."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """One prompt to an API model. Equal questions share one request and one reply."""

    messages: tuple[tuple[str, str], ...]
    """(speaker, text)."""
    schema: str = ""
    """JSON schema of the reply; "" for plain text."""
    sample: int = 0
    """Number of the sample, which makes otherwise equal questions distinct where several replies are wanted."""


class Endpoint:
    """A client of one API model, with its own thread pool. `shared` gives equal settings the same client."""

    known: ClassVar[dict[str, Endpoint]] = {}

    def __init__(self, address: Address) -> None:
        """Opens no connection. Raises UserError for invalid values, and for an API key that is not set."""
        address.check()
        self.address = address
        self.wire = Wire(address.base_url, address.model, address.key(), address.timeout, address.body)
        self.pace = Pace(address.requests_per_minute)
        self.counts: Counter[str] = Counter()
        self.lock = Lock()
        self.asked: dict[str, Future[Any]] = {}
        self.sizes: dict[str, int] = {}
        self.format = 0
        self.silent, self.closed_until = 0, 0.0
        self.probed = False
        self.warned: set[str] = set()

    @classmethod
    def shared(cls, address: Address) -> Endpoint:
        """The client for these settings, one for each kind of user, so that they share its rate limit and counts."""
        own = {field.name: getattr(address, field.name) for field in fields(Address)}
        key = os.environ.get(address.credential or "", "")
        name = sha256(json.dumps([type(address).__name__, own, key], sort_keys=True).encode()).hexdigest()
        if name not in cls.known:
            cls.known[name] = cls(Address(**own))
        return cls.known[name]

    @cached_property
    def cache(self) -> Cache | None:
        return Cache(self.address.cache) if self.address.cache else None

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.address.concurrency, "endpoint")

    def probe(self) -> None:
        """Send one short request, once a process. Raises UserError if it gets no reply."""
        if self.probed:
            return
        if self.address.cache:
            Cache.check(self.address.cache)
        question = Question((("user", "Say yes."),))
        wire, most = self.wire.hasty(), self.address.max_tokens
        try:
            self._retrying(lambda error: error.again and error.status is not None, stop_before_delay(HASTE))(
                self._send, replace(self.address, max_tokens=most and min(most, 8)), question, "text", wire
            )
        except Unanswered as error:
            raise UserError(f"{error.key(self.address.credential)}: {error}") from None
        self.probed = True

    def answers(self, questions: Sequence[Question], read: Read[T]) -> list[T | None]:
        """The parsed replies, in order; None for a question without one. Collects what `ask` has started."""
        futures = [self.ask(question, read) for question in questions]
        try:
            return [future.result() for future in futures]
        except BaseException:  # interrupted: nobody waits for the rest
            self.drop()
            raise
        finally:
            for question in questions:
                self.asked.pop(self._name(question), None)

    def drop(self) -> None:
        """Cancel the questions that no request was sent for yet."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        del self.pool
        self.asked.clear()

    def ask(self, question: Question, read: Read[T], *, anew: bool = False) -> Future[T | None]:
        """Start a question, unless it was started before; `anew`: start it again if it ended without a reply."""
        name = self._name(question)
        before = self.asked.get(name)
        if before is None or (anew and before.done() and before.result() is None):
            self.asked[name] = self.pool.submit(self._answer, name, question, read)
        return self.asked[name]

    def tokens(self, question: Question) -> int:
        """Tokens of the reply to a question, as the server counted them; 0 if it did not."""
        name = self._name(question)
        return self.sizes[name] if name in self.sizes else int((self.cache and self.cache.get(name + SIZE)) or 0)

    def spent(self) -> dict[str, float]:
        """The counts so far, and their cost if there are prices."""
        with self.lock:
            counts = {name: float(self.counts[name]) for name in COUNTS}
        at = self.address
        if at.price_prompt is not None and at.price_reply is not None:
            counts["cost"] = (counts["prompt_tokens"] * at.price_prompt + counts["reply_tokens"] * at.price_reply) / 1e6
        return counts

    def _name(self, question: Question) -> str:
        """Cache key of a question: a hash of everything that decides the reply except the URL."""
        at = self.address
        return sha256(
            json.dumps([at.model, at.temperature, at.max_tokens, at.body, asdict(question)]).encode()
        ).hexdigest()

    def _answer(self, name: str, question: Question, read: Read[T]) -> T | None:
        if self.cache and (kept := self.cache.get(name)) is not None:
            with suppress(ValueError):  # the parser has changed since: ask again
                found = read(self.wire.masked(kept))
                self._count(cached=1)
                return found
            self.cache.drop(name)
        if time.monotonic() < self.closed_until:
            self._count(unanswered=1)
            return None
        try:
            answer = self._retrying(lambda error: error.again)(self._attempt, question, read, [])
        except Unanswered as error:
            self._count_failure(error)
            return None
        text, size = answer.text, str(answer.reply_tokens)
        self.sizes[name] = int(self.cache.put(name + SIZE, size) if self.cache else size)
        return read(self.wire.masked(self.cache.put(name, text)) if self.cache else text)

    def _retrying(self, again: Callable[[Unanswered], bool], stop: stop_base = stop_never) -> Retrying:
        """Calls a function until it succeeds, fails with an error that `again` does not retry, attempts run out, or `stop`."""
        return Retrying(
            stop=stop_after_attempt(self.address.attempts) | stop,
            wait=self._pause,
            retry=retry_if_exception(lambda error: isinstance(error, Unanswered) and again(error)),
            before_sleep=lambda state: self._count(retries=1),
            reraise=True,
        )

    def _pause(self, state: RetryCallState) -> float:
        """Seconds until the next attempt: the server's Retry-After, or exponential backoff."""
        error = state.outcome.exception() if state.outcome else None
        after = error.after if isinstance(error, Unanswered) else None
        return wait_random_exponential(self.address.backoff, PATIENCE)(state) if after is None else min(after, PATIENCE)

    def _attempt(self, question: Question, read: Read[T], since: list[tuple[str, str]]) -> Answer:
        """One reply that can be parsed. `since`: the last one that could not, and the message that says so; without them a
        model at temperature 0 would repeat its reply."""
        answer = self._formatted(replace(question, messages=(*question.messages, *since)))
        self.silent = 0
        try:
            read(answer.text)
        except ValueError as error:
            why = in_one_line(error, *self.wire.secrets) or "it is empty"
            since[:] = [
                ("assistant", answer.text[:QUOTED]),
                ("user", prompts.load("endpoint")["again"].format(why=why)),
            ]
            raise Unanswered(f"a reply cannot be read ({why})", again=True, unreadable=True) from None
        return answer

    def _formatted(self, question: Question) -> Answer:
        """The reply, in the best JSON format that the server accepts, which is remembered."""
        at = partial(self._send, self.address, question, wire=self.wire)
        if not question.schema:
            return at("text")
        for index, form in enumerate(FORMATS[self.format :], self.format):
            try:
                answer = at(form)
            except Unanswered as error:
                if not error.refused or form == "text":
                    raise
            else:
                self.format = max(self.format, index)
                return answer
        raise AssertionError("plain text is the last format, and returns or raises")

    def _send(self, address: Address, question: Question, form: str, wire: Wire) -> Answer:
        self.pace.wait()
        self._count(requests=1)
        answer = wire.post(question.messages, address.temperature, address.max_tokens, form, question.schema)
        self._count(prompt_tokens=answer.prompt_tokens, reply_tokens=answer.reply_tokens)
        return answer

    def _count_failure(self, error: Unanswered) -> None:
        """Count a question without a reply, and warn once a cause. If the endpoint is down, skip requests for a while."""
        self._count(**{"unreadable" if error.unreadable else "unanswered": 1})
        with self.lock:
            self.silent += error.again and not error.unreadable
            if self.silent >= 2 * self.address.concurrency:
                self.closed_until = time.monotonic() + self.address.timeout
            new = error.kind not in self.warned
            self.warned.add(error.kind)
        if new:
            log.warning(
                "%s (%s): %s; such questions stay without an answer", self.address.base_url, self.address.model, error
            )

    def _count(self, **more: int) -> None:
        with self.lock:
            self.counts.update(more)


class Pace:
    """A rate limiter for any number of threads: spaces requests evenly, `a_minute` of them a minute."""

    def __init__(self, a_minute: float | None) -> None:
        self.gap, self.next, self.lock = 60 / a_minute if a_minute else 0.0, 0.0, Lock()

    def wait(self) -> None:
        with self.lock:
            now = time.monotonic()
            slot = max(now, self.next)
            self.next = slot + self.gap
        time.sleep(slot - now)
