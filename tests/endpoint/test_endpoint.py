"""The endpoint client: caching, retries, rate limit, counts, and that the API key is never shown."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from time import sleep, time
from types import SimpleNamespace
from typing import Any

import pytest

from pilotrl import endpoint
from pilotrl.endpoint import Endpoint, Pace, Question
from pilotrl.endpoint.address import Address
from pilotrl.endpoint.cache import Cache
from pilotrl.endpoint.wire import PATIENCE, Unanswered
from pilotrl.types import UserError
from tests.endpoint.server import HTML, failure, said, serving, stop

KEY = "sk-secret-1234567890"


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Address]:
    """Settings of an endpoint with short timeouts."""
    monkeypatch.setenv("SOME_KEY", KEY)
    usual: dict[str, Any] = {
        "model": "m",
        "credential": "SOME_KEY",
        "timeout": 5.0,
        "concurrency": 4,
        "requests_per_minute": None,
        "attempts": 3,
        "backoff": 0.01,
        "temperature": 0.0,
        "max_tokens": 50,
        "body": {},
        "cache": None,
        "price_prompt": None,
        "price_reply": None,
    }
    return lambda url, **changes: Address(base_url=url, **usual | changes)


def question(text: str, **changes: Any) -> Question:
    return Question((("user", text),), **changes)


def number(text: str) -> int:
    return int(text)


def echo(request: dict[str, Any], _: int) -> Any:
    """What was said last."""
    return said(request["messages"][-1]["content"])


def test_answers_come_in_order_and_are_counted(at: Callable[..., Address]) -> None:
    with serving(echo) as server:
        end = Endpoint(at(server.url, price_prompt=1.0, price_reply=4.0))
        assert end.answers([question(str(i)) for i in range(9, -1, -1)], number) == [*range(9, -1, -1)]
    assert end.spent() == {
        "requests": 10, "cached": 0, "retries": 0, "unreadable": 0, "unanswered": 0,
        "prompt_tokens": 100, "reply_tokens": 50, "cost": pytest.approx((100 * 1 + 50 * 4) / 1e6),
    }  # fmt: skip
    assert server.keys == {f"Bearer {KEY}"}
    assert server.busiest <= 4
    assert "cost" not in Endpoint(at(server.url)).spent()


PASSING = {
    "429": failure(429),
    "429 that says when": failure(429, Retry_After="0.01"),
    "500": failure(500),
    "503 in HTML": (503, b"<html>down</html>", {"Content-Type": "text/html"}),
    "HTML": HTML,
    "nothing": (200, b"", {}),
    "half a JSON": (200, said("7")[1][:40], {"Content-Type": "application/json"}),
    "cut off": (200, said("7")[1][:40], {"Content-Length": "4000"}),
    "no choices": said("7", choices=[]),
    "choices that are none": said("7", choices="seven"),
    "a message that is none": said("7", choices=[{"message": ["7"]}]),
    "no content": said(None),
    "content that cannot be read": said("seven"),
}


@pytest.mark.parametrize("answer", PASSING.values(), ids=PASSING)
def test_transient_failures_are_retried(at: Callable[..., Address], answer: Any) -> None:
    with serving(lambda request, number: answer if number < 2 else said("7")) as server:
        end = Endpoint(at(server.url))
        assert end.answers([question("?")], number) == [7]
    spent = end.spent()
    assert (spent["requests"], spent["retries"], spent["unreadable"], spent["unanswered"]) == (3, 2, 0, 0)


def test_a_reply_that_cannot_be_parsed_is_quoted_in_the_next_request(at: Callable[..., Address]) -> None:
    """A model at temperature 0 would repeat its reply to the same messages."""
    with serving(lambda request, count: said("7" if count == 2 else f"no. {count}")) as server:
        assert Endpoint(at(server.url)).answers([question("?")], number) == [7]
    asked = [[(m["role"], m["content"]) for m in request["messages"]] for request in server.seen]
    assert [len(messages) for messages in asked] == [1, 3, 3]
    assert asked[2][:2] == [("user", "?"), ("assistant", "no. 1")]
    assert asked[2][2][1].startswith("That could not be read (invalid literal for int() with base 10: 'no. 1').")


def test_a_request_that_times_out_is_retried(at: Callable[..., Address]) -> None:
    with serving(lambda request, number: None if number == 0 else said("7")) as server:
        assert Endpoint(at(server.url, timeout=0.3)).answers([question("?")], number) == [7]
        assert server.asked == 2


LASTING = {
    "500": (failure(500), 3, "unanswered"),
    "unreadable": (said("seven"), 3, "unreadable"),
    "HTML": (HTML, 3, "unreadable"),
    "a request that it will never take": (failure(400), 1, "unanswered"),
    "no money": (failure(402), 1, "unanswered"),
}


@pytest.mark.parametrize(("answer", "requests", "count"), LASTING.values(), ids=LASTING)
def test_permanent_failures_give_no_reply_and_are_counted(
    at: Callable[..., Address], answer: Any, requests: int, count: str
) -> None:
    with serving(lambda request, _: answer if "bad" in str(request) else said("7")) as server:
        end = Endpoint(at(server.url))
        assert end.answers([question("bad"), question("good")], number) == [None, 7]
    spent = end.spent()
    assert spent["requests"] == requests + 1
    assert {name: spent[name] for name in ("unreadable", "unanswered")} == {"unreadable": 0, "unanswered": 0, count: 1}


def test_equal_questions_share_one_request(at: Callable[..., Address], tmp_path: Path) -> None:
    with serving(lambda request, number: said(str(number))) as server:
        end = Endpoint(at(server.url))
        for _ in range(5):
            end.ask(question("?"), number)
        assert end.answers([question("?")] * 20, number) == [0] * 20
        assert server.asked == 1
        assert end.answers([question("?"), question("?", sample=1)], number) != [0, 0], (
            "without a cache it is asked anew"
        )


def test_cached_replies_need_no_request(at: Callable[..., Address], tmp_path: Path) -> None:
    cache = str(tmp_path / "deep" / "replies.db")
    asked = [question(str(i)) for i in range(8)]
    with serving(
        lambda request, number: said("no number") if "3" in str(request["messages"]) else echo(request, number)
    ) as one:
        first = Endpoint(at(one.url, cache=cache)).answers(asked, number)
        assert first == [0, 1, 2, None, 4, 5, 6, 7]
    with serving(echo) as other:
        again = Endpoint(at(other.url, cache=cache))
        assert again.answers(asked, number) == [*range(8)]
        assert [body["messages"][0]["content"] for body in other.seen] == ["3"], "what was never read is asked again"
    assert (again.spent()["cached"], again.spent()["requests"], again.spent()["prompt_tokens"]) == (7, 1, 10)


@pytest.mark.parametrize(
    "change", [{"model": "n"}, {"temperature": 0.5}, {"max_tokens": 9}, {"body": {"seed": 1}}], ids=str
)
def test_the_cache_key_depends_on_everything_that_decides_a_reply(
    at: Callable[..., Address], tmp_path: Path, change: Any
) -> None:
    cache = str(tmp_path / "replies.db")
    with serving(echo) as server:
        for changes in ({}, change, {"base_url": server.url + "/"}):
            Endpoint(replace(at(server.url, cache=cache), **changes)).answers([question("1")], number)
        assert server.asked == 2, "the address is no part of it"
        end = Endpoint(at(server.url, cache=cache))
        for other in (question("1", schema="{}"), question("1", sample=1), Question((("system", "1"),)), question("2")):
            end.answers([other], number)
        assert server.asked == 6


def test_a_cached_reply_that_no_longer_parses_is_requested_again(at: Callable[..., Address], tmp_path: Path) -> None:
    with serving(lambda request, count: said("one" if count == 0 else "1")) as server:
        address = at(server.url, cache=str(tmp_path / "replies.db"))
        assert Endpoint(address).answers([question("?")], str) == ["one"]
        for _ in range(2):
            assert Endpoint(address).answers([question("?")], number) == [1]
        assert server.asked == 2


def test_a_run_survives_the_loss_of_its_cache(
    at: Callable[..., Address], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(echo) as server:
        end = Endpoint(at(server.url, cache=str(tmp_path / "replies.db")))
        assert end.answers([question("1")], number) == [1]
        assert end.cache is not None
        end.cache.database.close()
        assert end.answers([question("2"), question("3"), question("1")], number) == [2, 3, 1]
        assert server.asked == 4
    assert [record.message.partition(" failed")[0] for record in caplog.records] == [
        f"the cache {tmp_path / 'replies.db'}"
    ]


def test_of_many_threads_that_lose_the_cache_one_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(str(tmp_path / "replies.db"))
    cache.database.close()
    warn = logging.Logger.warning
    monkeypatch.setattr(logging.Logger, "warning", lambda *said: (sleep(0.05), warn(*said)))
    with ThreadPoolExecutor(6) as pool:
        assert [*pool.map(cache.get, "abcdef")] == [None] * 6
    assert len(caplog.records) == 1


def test_concurrent_writers_of_one_key_read_the_same_reply(tmp_path: Path) -> None:
    caches = [Cache(str(tmp_path / "replies.db")) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        read = [*pool.map(lambda i: [caches[i].put(str(k), f"{k} by {i}") for k in range(40)], range(6))]
    assert all(other == read[0] for other in read)


def test_a_server_that_rejects_the_json_schema_gets_a_simpler_format(at: Callable[..., Address]) -> None:
    def script(request: dict[str, Any], _: int) -> Any:
        form = request.get("response_format", {"type": "text"})["type"]
        return failure(400) if form != "text" else echo(request, 0)

    with serving(script) as server:
        end = Endpoint(at(server.url, concurrency=1))
        assert end.answers([question(str(i), schema='{"type": "integer"}') for i in range(3)], number) == [0, 1, 2]
        forms = [body.get("response_format", {"type": "text"})["type"] for body in server.seen]
    assert forms == ["json_schema", "json_object", "text", "text", "text"]


def test_a_question_rejected_in_every_format_changes_nothing_for_others(at: Callable[..., Address]) -> None:
    with serving(lambda request, _: failure(400) if "bad" in str(request) else echo(request, 0)) as server:
        end = Endpoint(at(server.url, concurrency=1))
        assert end.answers([question(text, schema="{}") for text in ("bad", "1")], number) == [None, 1]
    assert server.seen[-1]["response_format"]["type"] == "json_schema"


def test_requests_are_skipped_while_an_endpoint_is_down(at: Callable[..., Address]) -> None:
    with serving(echo) as server:
        end = Endpoint(at(server.url, concurrency=2, timeout=60.0))
        assert end.answers([question("1")], number) == [1]
        stop(server)
        assert end.answers([question(str(i)) for i in range(30)], number) == [None] * 30
    assert end.spent()["unanswered"] == 30
    assert end.spent()["requests"] < 20


def test_requests_resume_when_the_endpoint_is_back(at: Callable[..., Address]) -> None:
    down = True
    with serving(lambda request, _: failure(500) if down else echo(request, 0)) as server:
        end = Endpoint(at(server.url, concurrency=2, timeout=60.0))
        assert end.answers([question(str(i)) for i in range(10)], number) == [None] * 10
        down, end.closed_until = False, 0.0
        assert end.answers([question(str(i)) for i in range(10)], number) == [*range(10)]


@pytest.mark.parametrize(("header", "after"), [("7", 7.0), ("-3", 0.0), ("soon", None), ("600", 600.0)])
def test_retry_after_in_seconds_is_honoured(at: Callable[..., Address], header: str, after: float | None) -> None:
    with serving(lambda request, number: failure(429, Retry_After=header)) as server:
        end = Endpoint(at(server.url))
        with pytest.raises(Unanswered) as caught:
            end.wire.post([("user", "?")], None, None, "text", "")
    assert caught.value.after == after
    waits = end._pause(SimpleNamespace(outcome=SimpleNamespace(exception=lambda: caught.value), attempt_number=1))  # type: ignore[arg-type]
    assert waits == min(after, PATIENCE) if after is not None else waits <= 0.02


def test_retry_after_as_a_date_is_honoured(at: Callable[..., Address]) -> None:
    busy = failure(503, Retry_After=formatdate(time() + 3600, usegmt=True))
    with serving(lambda request, number: busy) as server, pytest.raises(Unanswered) as caught:
        Endpoint(at(server.url)).wire.post([("user", "?")], None, None, "text", "")
    assert caught.value.after is not None
    assert 3000 < caught.value.after <= 3600


def test_the_rate_limit_spaces_requests_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(endpoint, "time", SimpleNamespace(monotonic=lambda: 100.0, sleep=slept.append))
    pace = Pace(120)
    for _ in range(4):
        pace.wait()
    assert slept == [0.0, 0.5, 1.0, 1.5]


def test_the_api_key_never_appears_in_messages(at: Callable[..., Address], caplog: pytest.LogCaptureFixture) -> None:
    with (
        serving(lambda request, number: failure(401, f"the key {KEY} is wrong")) as server,
        caplog.at_level(logging.DEBUG),
    ):
        end = Endpoint(at(server.url))
        assert end.answers([question("?")], number) == [None]
        with pytest.raises(UserError, match=r"credential=SOME_KEY: .* 401 \(the key \*\*\* is wrong\)"):
            end.probe()
    assert "401" in caplog.text
    assert KEY not in caplog.text + repr(end.address) + json.dumps(server.seen)


BAD = {
    "no address": ({"base_url": "api.deepseek.com"}, "base_url=api.deepseek.com: must be an address"),
    "half an address": ({"base_url": "http://[::1"}, "base_url=http://[::1: must be an address"),
    "no port": ({"base_url": "http://host:port/v1"}, "base_url=http://host:port/v1: must be an address"),
    "no host": ({"base_url": "http://"}, "base_url=http://: must be"),
    "a key in the address": ({"base_url": f"http://me:{KEY}@host/v1"}, "base_url: holds a user or a password"),
    "a key for the variable": ({"credential": KEY}, "credential: must be the name of an environment variable"),
    "no variable": ({"credential": "NO_SUCH_KEY"}, "credential=NO_SUCH_KEY: this environment variable is not set"),
    "nobody at work": ({"concurrency": 0}, "concurrency=0: must be above 0"),
    "no attempt": ({"attempts": 0}, "attempts=0"),
    "no time": ({"timeout": 0.0}, "timeout=0.0"),
    "negative temperature": ({"temperature": -1.0}, "temperature=-1.0: must be at least 0"),
    "no fields": ({"body": [1]}, "body=[1]: must be fields by name, as in {seed: 1}"),
    "half a price": ({"price_prompt": 1.0}, "give both, or neither"),
}


@pytest.mark.parametrize(("changes", "line"), BAD.values(), ids=BAD)
def test_invalid_settings_are_refused_before_any_connection(
    at: Callable[..., Address], changes: Any, line: str
) -> None:
    with pytest.raises(UserError) as caught:
        Endpoint(replace(at("http://127.0.0.1:9/v1"), **changes))
    assert line in str(caught.value)
    assert KEY not in str(caught.value)


def test_an_api_key_with_invalid_characters_is_refused(
    at: Callable[..., Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", f"{KEY}\u2026")
    with pytest.raises(
        UserError, match="credential=SOME_KEY: this variable holds characters that no key has"
    ) as caught:
        Endpoint(at("http://127.0.0.1:9/v1"))
    assert KEY not in str(caught.value)


PROBES = {
    "HTML": (HTML, {}, "base_url: answers in no known way"),
    "no such model": (failure(404, "no model m"), {}, "model: answers with status 404 (no model m)"),
    "forbidden": (failure(403), {}, "credential=SOME_KEY: answers with status 403"),
    "a hang": (None, {"timeout": 0.2}, "base_url: does not answer (no answer in time)"),
    "out of order": (failure(500), {}, "base_url: answers with status 500"),
}


@pytest.mark.parametrize(("answer", "changes", "line"), PROBES.values(), ids=PROBES)
def test_an_endpoint_that_does_not_answer_is_refused(
    at: Callable[..., Address], answer: Any, changes: Any, line: str
) -> None:
    with serving(lambda request, number: answer) as server, pytest.raises(UserError) as caught:
        Endpoint(at(server.url, **changes)).probe()
    assert str(caught.value).startswith(line)


def test_an_endpoint_without_a_server_is_refused(at: Callable[..., Address]) -> None:
    with serving(echo) as server:
        stop(server)
        with pytest.raises(UserError, match="base_url: does not answer"):
            Endpoint(at(server.url)).probe()


@pytest.mark.parametrize(("most", "sent"), [(None, None), (50, 8), (3, 3)])
def test_the_probe_sends_no_limit_that_other_requests_do_not(
    at: Callable[..., Address], most: int | None, sent: int | None
) -> None:
    """Some models refuse `max_tokens`."""
    with serving(echo) as server:
        Endpoint(at(server.url, max_tokens=most)).probe()
        assert [request.get("max_tokens") for request in server.seen] == [sent]


def test_an_endpoint_that_answers_is_probed_once(at: Callable[..., Address], tmp_path: Path) -> None:
    with serving(lambda request, number: failure(429) if number == 0 else said(None)) as server:
        end = Endpoint(at(server.url, cache=str(tmp_path / "no.db")))
        end.probe()
        end.probe()
        assert (len(server.seen), server.asked) == (2, 0)
    assert not (tmp_path / "no.db").exists()


def test_a_file_that_is_no_cache_is_refused(at: Callable[..., Address], tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("these are my notes, and there are quite many of them\n" * 100)
    with serving(echo) as server, pytest.raises(UserError, match=r"notes\.db: holds no replies"):
        Endpoint(at(server.url, cache=str(tmp_path / "notes.db"))).probe()
