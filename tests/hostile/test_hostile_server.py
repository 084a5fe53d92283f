"""An API server that fails, lies or attacks: every request ends in time, with one line, and the API key is shown nowhere."""

from __future__ import annotations

import gzip
import json
import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import pytest

from pilotrl import endpoint
from pilotrl.endpoint import Endpoint, Question
from pilotrl.endpoint.address import Address
from pilotrl.rewards.judge.openai import read_verdict
from pilotrl.types import UserError
from tests.hostile.raw_server import Behaviour, Connection, completion, response, serving

KEY = "sk-Proj-0123456789-abcdefghij_KLMNOPQ"
ATTEMPTS = 2
GENEROUS = 60.0
"""Seconds after which something counts as hanging."""
SHORT, LONG = 0.3, 30.0
"""Timeouts of a request in seconds: of those that can only end by it, and of the others."""
VERDICT = json.dumps({"reason": "so it is", "adherence": 2})


class Case(NamedTuple):
    send: Behaviour
    ends: str
    """Of a question: answered, unreadable, unanswered."""
    requests: int = ATTEMPTS
    says: str = ""
    """Part of the line."""
    accepted: bool = False
    """By the probe, which reads no text."""
    waits: bool = False
    """Only the timeout ends it."""


def sends(data: bytes) -> Behaviour:
    return lambda at: at.send(data)


def text(content: Any, usage: Any = None, **changes: Any) -> Behaviour:
    return sends(response(completion(content, usage, **changes)))


def error(message: str, status: str = "401 Unauthorized", **headers: Any) -> Behaviour:
    return sends(response(json.dumps({"error": {"message": message}}), status, **headers))


def status(line: str, body: str = "", **headers: Any) -> Behaviour:
    return sends(response(body, line, **headers))


def hang(at: Connection) -> None:
    at.hang()


def hang_within(at: Connection) -> None:
    at.send(response(completion(VERDICT))[:150])
    at.hang()


def drip_headers(at: Connection) -> None:
    at.send("HTTP/1.1 200 OK\r\n")
    at.drip("X-Waiting: yes\r\n" * 10_000)


def drip_body(at: Connection) -> None:
    head, _, body = response(completion(" " * 10_000)).partition(b"\r\n\r\n")
    at.send(head + b"\r\n\r\n")
    at.drip(body)


def reset_within(at: Connection) -> None:
    at.send(response(completion(VERDICT))[:150])
    at.reset()


def endless(at: Connection) -> None:
    at.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not at.over.is_set():
        at.send(b"10000\r\n" + b" " * 65536 + b"\r\n")


def endless_headers(at: Connection) -> None:
    at.send("HTTP/1.1 200 OK\r\n")
    while not at.over.is_set():
        at.send("X-More: yes\r\n" * 1000)


def big(at: Connection) -> None:
    at.send("HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
    for _ in range(500):
        at.send(b" " * 100_000)


def continued(at: Connection) -> None:
    while not at.over.is_set():
        at.send("HTTP/1.1 100 Continue\r\n\r\n")


BOMB = gzip.compress(b" " * 50_000_000)
ESCAPED = "".join(f"\\u{ord(char):04x}" for char in KEY)
FAILS = {"ends": "unanswered", "says": "does not answer ("}
WAITS = {"ends": "unanswered", "says": "does not answer (no answer in time)", "waits": True}

CASES: dict[str, Case] = {
    # what HTTP says goes wrong
    "500": Case(status("500 Internal Server Error"), "unanswered", says="status 500"),
    "503 in HTML": Case(status("503 Down", "<html>down</html>"), "unanswered", says="status 503 (<html>down</html>)"),
    "429, soon": Case(status("429 Slow Down", Retry_After="0.01"), "unanswered", says="status 429"),
    "429, never": Case(status("429 Slow Down", Retry_After="nan"), "unanswered", says="status 429"),
    "429, in years": Case(status("429 Slow Down", Retry_After="1e9"), "unanswered", says="status 429"),
    "429, without end": Case(status("429 Slow Down", Retry_After="inf"), "unanswered", says="status 429"),
    "429, before": Case(status("429 Slow Down", Retry_After="-5"), "unanswered", says="status 429"),
    "429, on no day": Case(
        status("429 Slow", Retry_After="Mon, 99 Foo 99999 25:61:61 GMT"), "unanswered", says="status 429"
    ),
    "204": Case(sends(b"HTTP/1.1 204 No Content\r\n\r\n"), "unreadable", says="answers in no known way"),
    "a redirect loop": Case(
        lambda at: at.send(response("", "307 Temporary Redirect", Location="/v1/chat/completions")),
        "unanswered",
        1,
        "redirects to",
    ),
    "a redirect elsewhere": Case(
        status("308 Permanent Redirect", Location="http://elsewhere.example/v1"),
        "unanswered",
        1,
        "redirects to http://elsewhere.example/v1",
    ),
    "a redirect to nowhere": Case(status("302 Found", Location="http://[::1"), "unanswered", says="", requests=0),
    "a redirect without an address": Case(status("302 Found"), "unanswered", 1, "status 302"),
    # what is no chat completion
    "HTML": Case(status("200 OK", "<html>It works!</html>"), "unreadable", says="answers in no known way"),
    "half a JSON": Case(status("200 OK", completion(VERDICT)[:60]), "unreadable", says="answers in no known way"),
    "wrong types": Case(text(VERDICT, choices={"a": 1}), "unreadable", says="answers in no known way"),
    "nothing": Case(status("200 OK"), "unreadable", says="answers in no known way"),
    "200,000 brackets": Case(status("200 OK", "[" * 200_000), "unreadable", says="answers in no known way"),
    "brackets in an error": Case(status("400 Bad Request", "[" * 200_000), "unanswered", 1, "status 400"),
    "brackets in a text": Case(text('{"a":' * 50_000), "unreadable", says="cannot be read", accepted=True),
    "invalid UTF-8": Case(sends(response(b'{"choices": "\xff\xfe"}')), "unreadable", says="answers in no known way"),
    "a lone surrogate": Case(text('{"adherence": "\ud800"}'), "unreadable", says="answers in no known way"),
    "no choices": Case(text(VERDICT, choices=[]), "unreadable", says="answers in no known way"),
    "content null": Case(text(None), "unreadable", says="cannot be read", accepted=True),
    "content a list": Case(text([{"type": "text", "text": VERDICT}]), "unreadable", says="answers in no known way"),
    "a million characters": Case(text("x" * 1_000_000), "unreadable", says="cannot be read", accepted=True),
    "10^30 tokens": Case(
        text(VERDICT, {"prompt_tokens": 10**30, "completion_tokens": 10**30}), "answered", 1, accepted=True
    ),
    "tokens that are none": Case(
        text(VERDICT, {"prompt_tokens": True, "completion_tokens": "many"}), "answered", 1, accepted=True
    ),
    "tokens below zero": Case(
        text(VERDICT, {"prompt_tokens": -5, "completion_tokens": float("nan")}), "answered", 1, accepted=True
    ),
    "usage a list": Case(text(VERDICT, [1, 2]), "answered", 1, accepted=True),
    # what never ends, or never begins
    "hanging before headers": Case(hang, **WAITS),
    "hanging within": Case(hang_within, **WAITS),
    "dripping headers": Case(drip_headers, **WAITS),
    "dripping a body": Case(drip_body, **WAITS),
    "closing at once": Case(lambda at: None, **FAILS),
    "a reset at once": Case(Connection.reset, **FAILS),
    "a reset within": Case(reset_within, **FAILS),
    "50 MB": Case(big, **FAILS),
    "an endless body": Case(endless, **FAILS),
    "endless headers": Case(endless_headers, **FAILS),
    "endless continues": Case(continued, **WAITS),
    "a gzip bomb": Case(sends(response(BOMB, Content_Encoding="gzip")), **FAILS),
    "gzip in gzip": Case(sends(response(gzip.compress(BOMB), Content_Encoding="gzip, gzip")), **FAILS),
    "broken gzip": Case(sends(response(b"\x1f\x8bnonsense", Content_Encoding="gzip")), **FAILS),
    "more promised than sent": Case(sends(response(completion(VERDICT), Content_Length=9999)), **FAILS),
    "less promised than sent": Case(
        sends(response(completion(VERDICT), Content_Length=20)), "unreadable", says="answers in no known way"
    ),
    "a length that is none": Case(sends(response(completion(VERDICT), Content_Length="-1")), **FAILS),
    # what is no HTTP
    "HTTP/0.9": Case(sends(completion(VERDICT).encode()), **FAILS),
    "SSH": Case(sends(b"SSH-2.0-OpenSSH_9.9\r\n"), **FAILS),
    "TLS": Case(sends(b"\x15\x03\x01\x00\x02\x02\x28"), **FAILS),
    "noise": Case(sends(bytes(range(256)) * 100), **FAILS),
    # what is to be shown
    "ESC in an error": Case(
        error("\x1b]0;owned\x07\x1b[2J\r\x9b31mred", "400 No"), "unanswered", 1, "status 400 (]0;owned[2J 31mred)"
    ),
    "ESC in a redirect": Case(status("302 Found", Location="/\x1b[2J"), "unanswered", says="", requests=0),
    "a wall of text": Case(error("no " * 100_000, "400 No"), "unanswered", 1, "status 400 (no no"),
    # the API key
    "key in an error": Case(error(f"{KEY} is wrong"), "unanswered", 1, "status 401 (*** is wrong)"),
    "key at the cut": Case(error("x" * 150 + KEY), "unanswered", 1, "xxx***"),
    "half the key": Case(error(f"{KEY[:14]}... is wrong"), "unanswered", 1, "status 401 (***... is wrong)"),
    "key in upper case": Case(error(f"{KEY.upper()} is wrong"), "unanswered", 1, "(*** is wrong)"),
    "key in escapes": Case(error(f"{ESCAPED} is wrong"), "unanswered", 1, "(*** is wrong)"),
    "key in a URL": Case(error("".join(f"%{ord(char):02X}" for char in KEY)), "unanswered", 1, "(***)"),
    "key over lines": Case(error("\r\n  ".join(KEY[i : i + 5] for i in range(0, 40, 5))), "unanswered", 1, "(***)"),
    "key among ESC": Case(error("\x1b".join(KEY)), "unanswered", 1, "(***)"),
    "key in HTML": Case(status("401 No", "".join(f"&#{ord(c)};" for c in KEY)), "unanswered", 1, "(***)"),
    "key in the status": Case(status(f"401 {KEY}"), "unanswered", 1, "status 401"),
    "key in headers": Case(error("no", X_Key=KEY, Set_Cookie=f"a={KEY}"), "unanswered", 1, "status 401 (no)"),
    "key in a redirect": Case(status("302 Found", Location=f"/{KEY}?k={KEY}"), "unanswered", 1, "redirects to"),
    "key in no HTTP": Case(sends(f"{KEY}\r\n".encode()), **FAILS),
    "key in a text": Case(text(KEY), "unreadable", says="cannot be read", accepted=True),
    "key in a verdict": Case(text(json.dumps({"adherence": KEY})), "unreadable", says="cannot be read", accepted=True),
    "key in a reason": Case(text(json.dumps({"reason": KEY, "adherence": 2})), "answered", 1, accepted=True),
    "key in an escaped reason": Case(
        text('{"adherence": 2, "reason": "' + ESCAPED + '"}'), "answered", 1, accepted=True
    ),
    "key in a field": Case(text(VERDICT, choices={KEY: KEY}), "unreadable", says="answers in no known way"),
    "cookies in an error": Case(
        error("you sent Cookie: session=abcdef0123456789"), "unanswered", 1, "(you sent Cookie: ***)"
    ),
    "a password in an error": Case(
        error("no route to http://me:pa@ss@host/x"), "unanswered", 1, "(no route to http://***@host/x)"
    ),
}
SECRETS = ("session=abcdef", "pa@ss", "me:pa")


def leaks(shown: str) -> list[str]:
    """Parts of the key, or other secrets, in what was shown, however they are written."""
    spelled = re.sub(r"\\+u00(..)", lambda found: chr(int(found[1], 16)), shown)
    forms = [
        re.sub(r"[\s\x1b]|\\n|\\r", "", form).lower() for form in (shown, spelled, unescape(shown), unquote(shown))
    ]
    parts = [*SECRETS, *(KEY[i : i + 8].lower() for i in range(len(KEY) - 7))]
    return [part for part in parts if any(part in form for form in forms)]


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Address]:
    """Settings of an endpoint that waits for little."""
    monkeypatch.setenv("SOME_KEY", KEY)
    monkeypatch.setattr(endpoint, "PATIENCE", 0.05)
    usual: dict[str, Any] = {
        "model": "m",
        "credential": "SOME_KEY",
        "timeout": LONG,
        "concurrency": 4,
        "requests_per_minute": None,
        "attempts": ATTEMPTS,
        "backoff": 0.01,
        "temperature": 0.0,
        "max_tokens": 50,
        "body": {},
        "cache": str(tmp_path / "replies.db"),
        "price_prompt": None,
        "price_reply": None,
    }
    return lambda url, **changes: Address(base_url=url, **usual | changes)


def in_time(work: Callable[[], Any]) -> Any:
    """What it returns or raises, unless it hangs."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(work).result(GENEROUS)
    finally:
        pool.shutdown(wait=False)


@pytest.mark.parametrize("whom", ["probe", "question"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_request_ends_with_one_line_and_never_shows_the_key(
    at: Callable[..., Address],
    case: Case,
    whom: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with serving(case.send) as server, caplog.at_level(logging.DEBUG):
        end = Endpoint(at(server.url, timeout=SHORT if case.waits else LONG))
        line = probed(end) if whom == "probe" else asked(end, case)
        sent = len(server.requests)
    assert end.spent()["requests"] == sent
    if whom == "probe":
        assert (line == "") == case.accepted
        assert line == "" or case.says == "" or "cannot be read" in case.says or case.says in line
    else:
        assert sent == case.requests or case.requests == 0
        assert case.says in line
    assert len(line) < 400
    assert line.isprintable(), line
    shown = line + caplog.text + "".join(capfd.readouterr())
    kept = "".join(path.read_bytes().decode("latin-1") for path in tmp_path.iterdir())
    assert not leaks(shown + kept)


def probed(end: Endpoint) -> str:
    """What the probe says."""
    try:
        in_time(end.probe)
    except UserError as failure:
        return str(failure)
    return ""


def asked(end: Endpoint, case: Case) -> str:
    """What a run is told of a question that got no answer."""
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr(endpoint.log, "warning", lambda text, *given: lines.append(text % given))
        found = in_time(lambda: end.answers([Question((("user", "?"),))], read_verdict))
    counts = {name: end.spent()[name] for name in ("unreadable", "unanswered")}
    assert counts == {"unreadable": 0, "unanswered": 0} | ({} if case.ends == "answered" else {case.ends: 1})
    assert found == [2 if case.ends == "answered" else None]
    assert all(0 <= end.spent()[name] <= 10 * ATTEMPTS for name in ("prompt_tokens", "reply_tokens"))
    assert len(lines) == (case.ends != "answered")
    return lines[0] if lines else ""


def test_no_more_of_a_reply_is_read_than_the_limit(at: Callable[..., Address]) -> None:
    for behaviour in (big, endless):
        with serving(behaviour) as server:
            assert "longer than" in probed(Endpoint(at(server.url, timeout=LONG)))
            (connection,) = server.requests
        assert connection.sent < 20_000_000, "what lies in the system's buffers is sent, and no more"


def test_a_redirect_sends_nothing_to_the_other_host(at: Callable[..., Address]) -> None:
    with serving(text(VERDICT)) as other:
        address = f"{other.url}/chat/completions"
        with serving(status("307 Temporary Redirect", Location=address)) as server:
            assert f"redirects to {address}" in probed(Endpoint(at(server.url)))
        assert other.requests == []


def test_a_short_key_is_masked_where_it_stands_alone(
    at: Callable[..., Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "ab12")
    with serving(error("ab12 is wrong, ab123 is not")) as server:
        assert "(*** is wrong, ab123 is not)" in probed(Endpoint(at(server.url)))
    with serving(text("1. go to ab12")) as server:
        assert Endpoint(at(server.url)).answers([Question((("user", "?"),))], str) == ["1. go to ab12"]


def test_a_key_in_replies_kept_by_others_is_masked(at: Callable[..., Address], monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that another key, or an earlier revision, has written."""
    question = Question((("user", "?"),))
    with serving(text(f"1. say {KEY}")) as server:
        monkeypatch.setenv("SOME_KEY", "another-key-9876543210")
        assert Endpoint(at(server.url)).answers([question], str) == [f"1. say {KEY}"]
        monkeypatch.setenv("SOME_KEY", KEY)
        end = Endpoint(at(server.url))
        assert end.answers([question], str) == ["1. say ***"]
        assert end.spent()["cached"] == 1


REFUSED = {
    "timeout=nan": {"timeout": float("nan")},
    "timeout=inf": {"timeout": float("inf")},
    "timeout=1e+300": {"timeout": 1e300},
    "concurrency=1000000": {"concurrency": 10**6},
    "attempts=1000000": {"attempts": 10**6},
    "requests_per_minute=nan": {"requests_per_minute": float("nan")},
    "backoff=inf": {"backoff": float("inf")},
    "temperature=nan": {"temperature": float("nan")},
    "max_tokens=1000000000000": {"max_tokens": 10**12},
    "price_prompt=nan": {"price_prompt": float("nan"), "price_reply": 1.0},
}


@pytest.mark.parametrize("said", REFUSED)
def test_numbers_out_of_range_are_refused(at: Callable[..., Address], said: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(said)}: must be "):
        Endpoint(at("http://127.0.0.1:9/v1", **REFUSED[said]))


@pytest.mark.parametrize(
    "changes",
    [
        {"base_url": f"http://me:{KEY}@host/v1"},
        {"base_url": f"http://me:pa/ss{KEY}@host/v1"},
        {"base_url": f"http://host/v1?api_key={KEY}"},
        {"base_url": f"http://host/v1#{KEY}"},
        {"body": {"api_key": KEY}},
        {"body": {"extra": {"authorization_token": KEY}}},
        {"body": {"metadata": f"http://me:{quote(KEY)}@host"}},
        {"credential": KEY},
    ],
    ids=str,
)
def test_a_key_where_none_belongs_is_refused_without_being_shown(
    at: Callable[..., Address], changes: dict[str, Any]
) -> None:
    given = {"url": changes.pop("base_url", "http://127.0.0.1:9/v1")}
    with pytest.raises(UserError) as caught:
        Endpoint(at(**given, **changes))
    assert not leaks(str(caught.value))
