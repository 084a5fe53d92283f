"""Redaction: secrets and credentials are removed, and nothing else is."""

from __future__ import annotations

from pilotrl.store.redact import has_credentials, hide_credentials, without_secrets


def test_secrets_are_dropped_and_counts_of_tokens_are_not() -> None:
    secret = {"api_key": "a", "API-Token": "b", "password": 1234, "tokens": ["c"], "aws": {"secret": {"x": "d"}}}
    plain = {"max_plan_tokens": 64, "micro_tokens": 8192, "name": "nano", "steps": [1, {"key": "e"}]}
    assert without_secrets(secret) == {"aws": {}}
    assert without_secrets(plain) == plain | {"steps": [1, {}]}
    assert without_secrets({"url": "https://me:pw@host/v1"}) == {"url": "https://***@host/v1"}


def test_credentials_in_addresses_are_hidden_wherever_they_stand() -> None:
    text = "no route to http://me:pw@host/api, tried postgresql://you@other:5432/db as well"
    assert hide_credentials(text) == "no route to http://***@host/api, tried postgresql://***@other:5432/db as well"
    assert has_credentials(hide_credentials(text))
    plain = "mail me@host, see sqlite:////home/me/mlflow.db and http://host/a@b"
    assert hide_credentials(plain) == plain
    assert not has_credentials(plain)
