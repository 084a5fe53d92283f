"""An MLflow that answers nonsense, drips or repeats passwords: `sync` ends with one line and exit code 2, and shows none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pilotrl import sync
from pilotrl.tracking import mlflow_client
from pilotrl.tracking.sync_state import RunInfo, SyncState
from tests.hostile.raw_server import Behaviour, Connection, response, serving

PASSWORD = "pa%40ssw0rd-0123456789"
PLAIN = "pa@ssw0rd-0123456789"
TOKEN = "tok-9876543210-zyx"


def drip(at: Connection) -> None:
    at.send("HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
    at.drip(" " * 10_000)


BEHAVIOURS: dict[str, Behaviour] = {
    "a page": lambda at: at.send(response("<html>It works!</html>")),
    "a password": lambda at: at.send(response(f"\x1b[2Jno {PASSWORD} {'x' * 150} {PLAIN} {TOKEN}", "403 Forbidden")),
    "a redirect": lambda at: at.send(response("", "307 Moved", Location=f"http://me:{PASSWORD}@127.0.0.1:9/{TOKEN}")),
    "drips": drip,
}


@pytest.mark.parametrize("behaviour", BEHAVIOURS.values(), ids=BEHAVIOURS)
def test_sync_ends_with_one_line(
    behaviour: Behaviour,
    tmp_path: Path,
    finished: Callable[[Path], SyncState],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sync, "SILENCE", 1.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    mlflow_client.load()  # which may take longer than that
    state = finished(tmp_path / "run")
    with serving(behaviour) as server:
        uri = f"http://me:{PASSWORD}@127.0.0.1:{server.port}"
        state.begin(uri, RunInfo("pilotrl", "run", {}, {}))
        state.end("FINISHED", 1.9e9)
        assert sync.main([str(tmp_path / "run"), "--uri", uri]) == 2
    said = "".join(capsys.readouterr())
    assert said.startswith(f"pilotrl: MLflow at http://***@127.0.0.1:{server.port} failed (")
    assert said.rstrip("\n").isprintable()
    assert len(said) < 500
    kept = "".join(path.read_text() for path in tmp_path.rglob("*.json*"))
    for secret in (PASSWORD[-10:], TOKEN[-10:], "pa%40", "pa@ss"):
        assert secret not in said + kept
