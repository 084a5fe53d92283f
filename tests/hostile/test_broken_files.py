"""Each file of a run folder, broken in each way, under each command that reads it: the command does what it would have done,
or ends with 2 and one line that names the file."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from pilotrl import __main__ as pilotrl
from pilotrl import evaluate, sync, xray
from pilotrl.audit import __main__ as audit
from pilotrl.cli import typed_again
from pilotrl.report import __main__ as report
from pilotrl.runs import run as running
from pilotrl.runs.evaluation_cache import recalled
from pilotrl.store.run_folder import RunFolder
from pilotrl.tracking import mlflow_client, mlflow_sync
from pilotrl.types import UserError

WORDS = (
    *("stage=adherence", "env=toy", "algorithm=ppo", "model.lora.rank=null"),
    *("model.max_length=192", "model.max_plan_tokens=8", "model.max_action_tokens=8"),
    *("train.steps=2", "train.tasks=2", "train.group_size=2", "train.micro_tokens=512"),
    *("panel.tasks=2", "panel.samples=1", "panel.greedy=false", "drift.tasks=1", "drift.every=1"),
    *("checkpoint.every=1", "checkpoint.calls_every=1", "trainer.threads=1", "tracking.traces=0"),
)
CALLS, CHECKPOINT = "calls/step-000002.safetensors", "checkpoints/step-000002.ckpt"
CONFIG, HYDRA, TYPED = (f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides"))
LINES = ("metrics.jsonl", "episodes.jsonl")


def broken(path: Path, how: str) -> None:
    """Break a file."""
    whole = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how != "gone":
        path.write_bytes({"cut": whole[: len(whole) // 2], "emptied": b"", "garbled": b"\xff" * len(whole)}[how])


HOWS = ("cut", "emptied", "garbled", "gone", "folder")
CONTENT = HOWS[:4]
READS: dict[str, dict[str, Sequence[str]]] = {
    "resume": {
        **{CONFIG: (), HYDRA: ["gone"], TYPED: ["gone"], "pilotrl.log": CONTENT, ".lock": CONTENT},
        **{"metrics.jsonl": (), "episodes.jsonl": (), "probe.safetensors": (), CHECKPOINT: ["gone"]},
        **{"panel.json": ["gone"], "mlflow.json": ["gone"], CALLS: HOWS},
    },
    "resume finished": {CONFIG: (), "summary.json": ["gone"]},
    "report": {
        **{CONFIG: (), HYDRA: HOWS, "summary.json": (), "metrics.jsonl": (), "episodes.jsonl": ()},
        **{"panel.json": ["gone"], "mlflow.json": HOWS},
    },
    "audit": {CONFIG: (), "episodes.jsonl": (), "metrics.jsonl": (), "summary.json": ["gone"], "audit.json": CONTENT},
    "sync": {
        "mlflow.json": (),
        "panel.json": ["gone"],
        "summary.json": ["gone"],
        "metrics.jsonl": (),
        "episodes.jsonl": (),
    },
    "evaluate": {
        CONFIG: (),
        **dict.fromkeys((f"policy/{name}" for name in ("model.safetensors", "config.json", "tokenizer.json")), ()),
        **{"policy/tokenizer_config.json": ["gone"], "policy/README.md": HOWS, "value.safetensors": HOWS},
    },
    "parent": {
        **{CONFIG: (), "summary.json": ["gone"], "value.safetensors": HOWS},
        **dict.fromkeys((f"policy/{name}" for name in ("model.safetensors", "config.json", "tokenizer.json")), ()),
    },
    "xray": {
        **{CONFIG: HOWS[:3], HYDRA: HOWS, TYPED: HOWS, CALLS: ()},
        "policy/tokenizer.json": (),
    },
}
"""Files that a command reads, and how they may be broken so that it works all the same."""
CASES = [
    (command, name, how)
    for command, files in READS.items()
    for name, works in files.items()
    for how in HOWS
    if len(works) < len(CONTENT) or how == "garbled" or how not in works  # what is not read, is not read however broken
]


class Interrupted(BaseException):
    """Stands for whatever ends a process."""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Without MLflow and pictures; and what a run does to its process is undone."""
    root, handlers, level = logging.getLogger(), [*logging.getLogger().handlers], logging.getLogger().level
    monkeypatch.chdir(tmp_path)
    with quiet():
        yield
    close(handlers)
    root.setLevel(level)


def close(handlers: Sequence[logging.Handler]) -> None:
    """Leave these handlers of the log alone."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        handler.close()
    root.handlers[:] = handlers


class quiet:
    """Runs are not followed by MLflow, and draw no picture."""

    def __enter__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        client = MagicMock()
        client.get_run.return_value.data.tags = {}
        self.patch.setattr(mlflow_client, "load", lambda: None)
        self.patch.setattr(mlflow_client, "alone", lambda uri: nullcontext())
        self.patch.setattr(mlflow_sync.MlflowSync, "_open", lambda self: client)
        self.patch.setattr(running, "learning_curve", lambda *given: None)
        self.patch.setattr(report, "send_files", lambda *given, **more: None)
        for place in (typed_again, sync, report):  # a copy of a run does not lie below its database
            self.patch.setattr(place, "is_default", lambda *given: True)
        self.patch.setattr("sys.argv", ["pilotrl"])

    def __exit__(self, *_: object) -> None:
        self.patch.undo()


@pytest.fixture(scope="session")
def runs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a run that is finished, and of one that was interrupted after its last step."""
    place, here = tmp_path_factory.mktemp("runs"), Path.cwd()
    words = [*WORDS, f"model.path={tiny}", f"tracking.uri=sqlite:///{place}/mlflow.db"]
    handlers = [*logging.getLogger().handlers]

    def stop(*given: Any) -> None:
        raise Interrupted

    os.chdir(place)
    try:
        with quiet(), pytest.MonkeyPatch.context() as patch:
            assert pilotrl.main([*words, f"hydra.run.dir={place}/finished"]) == 0
            patch.setattr(running.Run, "summary", stop)
            with pytest.raises(Interrupted):
                pilotrl.main([*words, f"hydra.run.dir={place}/interrupted"])
        shutil.rmtree(place / "interrupted" / "policy")
    finally:
        os.chdir(here)
        close(handlers)
    (place / "finished" / "audit.json").write_text("{}")
    return place / "finished", place / "interrupted"


Command = Callable[[Path], int]
Copied = Callable[[str, str], Path]
COMMANDS: dict[str, Command] = {
    "resume": lambda run: pilotrl.main([f"resume={run}"]),
    "resume finished": lambda run: pilotrl.main([f"resume={run}"]),
    "report": lambda run: report.main([str(run), f"out={run.parent}/report"]),
    "audit": lambda run: audit.main([str(run)]),
    "sync": lambda run: sync.main([str(run)]),
    "evaluate": lambda run: evaluate.main([f"checkpoint={run}", "panel.tasks=1", f"root={run.parent}/out"]),
    "parent": lambda run: pilotrl.main([*child(run), "train.steps=1", f"hydra.run.dir={run.parent}/child"]),
    "xray": lambda run: xray.main([str(run), "--episode", "0", "--step", "2"]),
}


def child(run: Path) -> list[str]:
    path = json.loads((run.parent / "path").read_text())
    return [*WORDS, f"model.path={path}", "tracking.uri=off", f"parent={run}"]


@pytest.fixture
def copied(runs: tuple[Path, Path], tiny: Path, tmp_path: Path) -> Copied:
    """Makes a folder of the kind that a command reads, which may be broken, in a place of its own."""

    def copy(command: str, name: str) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "path").write_text(json.dumps(str(tiny)))
        return Path(shutil.copytree(runs[command == "resume"], tmp_path / name / "run"))

    return copy


def result(command: str, run: Path, out: str) -> Any:
    """What a command has made of a folder."""
    if command.startswith("resume"):
        summary = RunFolder(run).results()
        return {key: summary[key] for key in ("eval", "eval_teacher", "drift", "weights_sha256")}
    if command == "parent":
        return RunFolder(run.parent / "child").results()["weights_sha256"]
    if command == "evaluate":
        (made,) = (run.parent / "out").glob("*/*/evaluation.json")
        return json.loads(made.read_text())["eval"]
    if command == "audit":
        return json.loads((run / "audit.json").read_text())
    if command == "report":
        return (run.parent / "report" / "report.html").is_file()
    return out.replace(str(run), "RUN")


@pytest.fixture(scope="session")
def known() -> dict[str, Any]:
    """What the commands make of whole folders."""
    return {}


@pytest.mark.parametrize(("command", "name", "how"), CASES, ids=lambda part: part.replace("/", "-"))
def test_a_broken_file(
    copied: Copied,
    known: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    command: str,
    name: str,
    how: str,
) -> None:
    if how in READS[command][name] and command not in known:
        whole = copied(command, "whole")
        assert COMMANDS[command](whole) < 2
        known[command] = result(command, whole, capsys.readouterr().out)
    run = copied(command, "broken")
    broken(run / name, how)
    code = COMMANDS[command](run)
    out, err = capsys.readouterr()
    if how in READS[command][name]:
        assert code < 2, err
        assert result(command, run, out) == known[command]
    else:
        assert code == 2, out
        assert len(err.splitlines()) == 1, err
        assert Path(name).name in err or (how == "gone" and str(run) in err)
        assert "Traceback" not in out + err


@pytest.mark.parametrize("how", HOWS)
def test_episodes_that_a_run_takes_over_are_whole(copied: Copied, how: str) -> None:
    run = copied("parent", "parent")
    assert recalled(RunFolder(run), "after")
    broken(run / "episodes.jsonl", how)
    if how == "emptied":
        assert recalled(RunFolder(run), "after") == {}  # and is played again
        return
    with pytest.raises(UserError, match=r"episodes\.jsonl: .*; put a whole copy of it back"):
        recalled(RunFolder(run), "after")


class Trap:
    """What is executed where it is unpickled."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> Any:
        return Path.touch, (self.sign,)


@pytest.mark.parametrize(
    ("command", "name", "says"),
    [
        ("resume", CHECKPOINT, "is of an older version of PilotRL, or no checkpoint, and not opened"),
        ("resume", "probe.pt", "is of an older version"),
        ("resume", "value.pt", "is of an older version"),
        ("resume", "calls/step-000001.pt", "is of an older version"),
        ("xray", "calls/step-000001.pt", "is of an older version"),
        ("evaluate", "value.pt", None),
        ("report", "probe.pt", None),
    ],
)
def test_nothing_is_unpickled(
    copied: Copied,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    name: str,
    says: str | None,
) -> None:
    """Neither what versions before have left, nor what somebody has put there."""
    run = copied(command, "old")
    if name.startswith("calls/"):
        shutil.rmtree(run / "calls")
        (run / "calls").mkdir()
    torch.save({"callbacks": Trap(tmp_path / "sprung")}, run / name)
    code = COMMANDS[command](run)
    err = capsys.readouterr().err
    assert not (tmp_path / "sprung").exists()
    assert code == (0 if says is None else 2), err
    if says is not None:
        assert len(err.splitlines()) == 1
        assert f"{name}: " in err
        assert says in err


def test_a_checkpoint_of_other_weights_is_refused(copied: Copied, capsys: pytest.CaptureFixture[str]) -> None:
    run = copied("resume", "other")
    held = torch.load(run / CHECKPOINT, weights_only=True)
    held["state_dict"]["policy.value.bias"] = torch.zeros(7)
    torch.save(held, run / CHECKPOINT)
    assert COMMANDS["resume"](run) == 2
    assert "step-000002.ckpt: is of another model (policy.value.bias differs); delete it" in capsys.readouterr().err


def test_a_bit_that_flips_in_a_checkpoint_is_found(copied: Copied, capsys: pytest.CaptureFixture[str]) -> None:
    """torch itself would load it."""
    run = copied("resume", "flipped")
    whole = bytearray((run / CHECKPOINT).read_bytes())
    whole[len(whole) // 2] ^= 1
    (run / CHECKPOINT).write_bytes(whole)
    assert COMMANDS["resume"](run) == 2
    assert "step-000002.ckpt: is cut off or broken" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["cut", "emptied", "garbled", "folder"])
def test_a_broken_summary_is_no_result_and_is_written_anew_once_it_is_deleted(
    copied: Copied, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    run = copied("report", "broken")
    before = result("resume", run, "")
    broken(run / "summary.json", how)
    assert COMMANDS["resume"](run) == 2
    assert f"summary.json: is {'a folder' if how == 'folder' else 'cut off or broken'}" in (
        said := capsys.readouterr().err
    )
    assert f"delete it, and resume={run} writes it anew" in said
    if how == "cut":
        (run / "summary.json").unlink()
        assert COMMANDS["resume"](run) == 0
        assert result("resume", run, "") == before


@pytest.mark.parametrize("when", ["load_probe", "after_step", "summary"])
def test_a_folder_that_is_removed_meanwhile_is_not_made_anew(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    when: str,
) -> None:
    kept = getattr(running.Run, when)

    def removed(self: Any, *given: Any) -> Any:
        shutil.rmtree(self.folder.path)
        return kept(self, *given)

    monkeypatch.setattr(running.Run, when, removed)
    words = [*WORDS, f"model.path={tiny}", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", "train.steps=1"]
    assert pilotrl.main([*words, f"hydra.run.dir={tmp_path}/run"]) == 2
    assert not (tmp_path / "run").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}/run: was removed or moved while it was written" in line


def test_a_folder_that_is_removed_while_the_model_is_loaded(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = running.TrainSetup.of

    def removed(config: Any, folder: Path) -> Any:
        shutil.rmtree(folder)
        return kept(config, folder)

    monkeypatch.setattr(running.TrainSetup, "of", removed)
    words = [*WORDS, f"model.path={tiny}", "tracking.uri=off", f"hydra.run.dir={tmp_path}/run"]
    assert pilotrl.main(words) == 2
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().err.count("\n") == 1
