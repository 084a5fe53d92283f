"""Every bad input of `bad_inputs.yaml` ends in one line that says what is wrong, exit code 2, and nothing written."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.numpy import save_file
from yaml import safe_load

from pilotrl import PACKAGE
from pilotrl.__main__ import main
from pilotrl.cli.compose import composed_job, parse

SMALL = ("env=toy", "model=scratch", "tracking.uri=off")
TABLE = safe_load((Path(__file__).parent / "bad_inputs.yaml").read_text(encoding="utf-8"))
ROWS = [(command, words, says) for command, rows in TABLE.items() for *words, says in rows]


@pytest.fixture(scope="module")
def config() -> str:
    """Of a run folder."""
    return OmegaConf.to_yaml(composed_job(parse([]), list(SMALL)).config)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str) -> Iterator[Path]:
    """A working folder with all kinds of files, in which nothing may be made; what would run fails."""

    def nothing(*given: Any) -> None:
        raise AssertionError("it ran")

    monkeypatch.setattr("pilotrl.__main__.execute", nothing)  # Hydra makes folders, wherever it is told
    monkeypatch.setattr("pilotrl.store.run_folder.RunFolder.lock", nothing)
    monkeypatch.setattr(sys, "argv", ["pilotrl"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    for name in (
        "SLURM_JOB_ID",
        "MASTER_ADDR",
        "DEEPSEEK_API_KEY",
        "OPENAI_API_KEY",
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    for device in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(device, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("no database, no model, no run")
    Path("link").symlink_to("/nowhere")
    os.mkfifo("fifo")
    for folder in ("folder", "run/.hydra", "run/policy"):
        Path(folder).mkdir(parents=True)
    Path("run/.hydra/config.yaml").write_text(config)
    Path("run/episodes.jsonl").write_text("")
    for name in ("config.json", "tokenizer.json"):
        Path("run/policy", name).write_text("{}")
    save_file({}, "run/policy/model.safetensors")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        yield tmp_path


def told(command: str, words: list[str]) -> int:
    if command in ("run", "alone"):
        return main([*(SMALL if command == "run" else ()), *words])
    module = import_module(f"pilotrl.{command}.__main__" if (PACKAGE / command).is_dir() else f"pilotrl.{command}")
    return int(module.main(words))


@pytest.mark.parametrize(
    ("command", "words", "says"), ROWS, ids=[f"{c} {' '.join(w)}".encode("unicode_escape").decode() for c, w, _ in ROWS]
)
def test_what_is_wrong_is_one_line(
    command: str, words: list[str], says: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(place.rglob("*"))
    assert told(command, words) == 2
    out, err = capsys.readouterr()
    line = err.removesuffix("\n")
    assert says in line
    assert line.startswith("pilotrl: ")
    assert line.isprintable(), "one line, without anything that a terminal would obey"
    assert (out, sorted(place.rglob("*"))) == ("", before)


def test_there_are_many() -> None:
    assert len({(command, *words) for command, words, _ in ROWS}) == len(ROWS) > 268
    assert all(says for _, _, says in ROWS)
