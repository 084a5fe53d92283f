"""The X-ray of a row: who said a token, whether it is trained, and that the trainer sees what the sampler saw."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console

from pilotrl import xray
from pilotrl.cli.compose import composed_job, parse
from pilotrl.store.run_folder import RunFolder
from pilotrl.training import batch_file
from pilotrl.training.batch import Batch
from pilotrl.types import UserError
from tests.conftest import RESULTS, Training

NAME = "step-000001.safetensors"


@pytest.fixture(scope="module")
def batch(warm: Path) -> Batch:
    """A step that was looked at, then learned from."""
    training = Training(warm, steps=1)
    kept: list[Batch] = []
    play = training.source.batch

    def watched(step: int) -> Batch:
        kept.append(play(step))
        kept[0].recomputed = training.module.recomputed(kept[0])
        return kept[0]

    training.source.batch = watched  # type: ignore[method-assign]
    training.fit()
    return kept[0]


@pytest.fixture
def folder(batch: Batch, warm: Path, tmp_path: Path) -> RunFolder:
    """Of a run that kept this step."""
    made = RunFolder(tmp_path / "run")
    made.calls.mkdir(parents=True)
    batch_file.write(batch, made.calls / NAME)
    made.config.parent.mkdir()
    OmegaConf.save({"model": {"path": str(warm), "scratch": None}, "parent": None, "seed": 0}, made.config)
    return made


def shown(folder: RunFolder, episode: int | None = 0, **changes: Any) -> str:
    out = io.StringIO()
    settings = {"step": None, "each": False} | changes
    xray.show(folder, episode, console=Console(file=out, width=200, highlight=False), **settings)
    return out.getvalue()


def test_every_trained_token_is_one_that_was_sampled_and_weighs_what_the_trainer_computes(batch: Batch) -> None:
    count = 0
    for episode, played in enumerate(batch.episodes):
        for tokens in xray.rows(batch, episode):
            learned = [token for token in tokens if token.call is not None]
            assert {token.role for token in learned} == {"executor"}
            sampled = [i for call in played.calls if call.role == "executor" for i in call.ids]
            assert [token.id for token in learned] == sampled
            assert all(abs(token.sampled - token.recomputed) < 1e-4 for token in learned)
            assert {token.advantage for token in learned} == {c.advantage for c in played.calls if c.role == "executor"}
            count += len(learned)
    assert count == len(batch.logprobs) > 0


def test_recomputed_are_of_the_weights_that_played_and_not_of_those_that_have_learned(warm: Path) -> None:
    training = Training(warm, steps=1, lr=1e-1).fit()
    fresh = Training(warm, steps=1)
    played = fresh.source.batch(0)
    torch.testing.assert_close(fresh.module.recomputed(played), played.logprobs, atol=1e-4, rtol=1e-4)
    assert (training.module.recomputed(played) - played.logprobs).abs().max() > 1e-2


def test_what_was_not_sampled_is_not_shown_as_if_it_had_been(batch: Batch, folder: RunFolder) -> None:
    kept, _ = batch_file.read(folder.calls / NAME)
    kept.rows[0][kept.token_position[0]] += 1
    with pytest.raises(AssertionError, match="is trained"):
        xray.rows(kept, kept.row_episode[0])


def test_a_row_in_words(batch: Batch, folder: RunFolder) -> None:
    said = shown(folder)
    assert f"step 1, episode 0: toy {batch.episodes[0].task.id}, {batch.episodes[0].outcome}, reward" in said
    assert batch.episodes[0].turns[0].reply.split()[0] in said
    assert "all as they were sampled" in said
    assert len([line for line in shown(folder, each=True).splitlines() if " yes " in line]) == sum(
        token.call is not None for row in xray.rows(batch, 0) for token in row
    )


@pytest.mark.parametrize("episode", [None, 0])
def test_what_a_task_is_called_does_not_command_the_terminal(folder: RunFolder, episode: int | None) -> None:
    path = folder.calls / NAME
    kept, _ = batch_file.read(path)
    kept.episodes[0].task = replace(kept.episodes[0].task, id="\x1b]0;title\x07\x1b[2J", env="\x9b31m")
    batch_file.write(kept, path)
    said = shown(folder, episode)
    assert "\\x1b]0;title" in said
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", said)


def test_a_step_without_recomputed_ones_says_so(folder: RunFolder) -> None:
    path = folder.calls / NAME
    kept, _ = batch_file.read(path)
    kept.recomputed = None
    batch_file.write(kept, path)
    assert "only the sampled ones are known" in shown(folder)


def finish(run: RunFolder) -> None:
    run.summary.write_text(RESULTS)


def test_what_to_type_where_nothing_was_kept_is_this_run_again(folder: RunFolder, tmp_path: Path) -> None:
    """Composed from the line that is named, it is the run that was, but for the calls that it keeps."""
    (folder.calls / NAME).unlink()
    mine = tmp_path / "my conf"
    (mine / "agent").mkdir(parents=True)
    (mine / "agent" / "mine.yaml").write_text("defaults: [react]\nwindow: 3\n")
    words = ["env=toy", "agent=mine", "checkpoint.calls_every=0", "seed=3", "reward.weights={format: 2.0}"]
    job = composed_job(parse(["-cd", str(mine)]), words)
    OmegaConf.save(job.config, folder.config)
    OmegaConf.save(words, folder.config.parent / "overrides.yaml")
    sources = [{"provider": "command-line", "path": str(mine)}, {"provider": "main", "path": "elsewhere"}]
    hydra = {"runtime": {"config_sources": sources, "cwd": str(tmp_path)}, "job": {"config_name": "config"}}
    OmegaConf.save({"hydra": hydra}, folder.hydra)
    finish(folder)
    with pytest.raises(UserError) as error:
        shown(folder)
    arguments = parse(shlex.split(str(error.value).partition("python -m pilotrl ")[2]))
    again = composed_job(arguments, arguments.overrides).config
    assert (again.checkpoint.calls_every, again.agent.window, again.seed) == (1, 3, 3)
    again.checkpoint.calls_every = 0
    assert OmegaConf.to_container(again) == OmegaConf.to_container(job.config)  # type: ignore[arg-type]


def test_a_run_whose_first_step_is_not_over_is_gone_on_with(folder: RunFolder) -> None:
    (folder.calls / NAME).unlink()
    OmegaConf.save(composed_job(parse([]), ["env=toy"]).config, folder.config)
    with pytest.raises(UserError, match=r"its first step is not over; python -m pilotrl resume=.*run goes on"):
        shown(folder)


def test_without_an_episode_there_is_a_list_to_choose_from(batch: Batch, folder: RunFolder) -> None:
    head, _, *lines = shown(folder, None).splitlines()
    assert head == f"step 1: {len(batch.episodes)} episodes; --episode N shows one"
    for number, (one, line) in enumerate(zip(batch.episodes, lines, strict=True)):
        cells = line.split()
        assert cells[:5] == [str(number), str(one.group), "toy", one.task.id, one.outcome]
        assert cells[5] == ("-" if one.reward is None else f"{one.reward:.3f}")
        assert int(cells[7]) == sum(token.call is not None for row in xray.rows(batch, number) for token in row)


GONE = {"model": {"path": "/gone/policy", "scratch": None}, "parent": None, "seed": 0}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda run: {"episode": 99}, "--episode 99: step 1 has episodes 0 to 11"),
        (lambda run: {"step": 7}, "--step 7: was not kept in .*/calls; there are 1"),
        (
            lambda run: (run.calls / NAME).unlink() or finish(run) or {},
            "holds no calls/ of a step; the same run with its calls kept: python -m pilotrl checkpoint.calls_every=1$",
        ),
        (
            lambda run: (run / "1-a").mkdir() or (run.calls.rename(run / "1-a" / "calls") and {}),
            "of its stages .*run/1-a do",
        ),
        (lambda run: run.config.unlink() or {}, "is not a run folder"),
        (lambda run: (run.calls / NAME).write_bytes(b"PK") and {}, "step-000001.safetensors: is cut off or broken"),
        (lambda run: OmegaConf.save(GONE, run.config) or {}, "started from /gone/policy, which has no tokenizer"),
    ],
)
def test_what_is_not_there(change: Callable[[RunFolder], dict[str, Any]], says: str, folder: RunFolder) -> None:
    with pytest.raises(UserError, match=says):
        shown(folder, **change(folder))


def test_a_parent_is_where_it_was_when_the_run_began(
    folder: RunFolder, warm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named as the command named it, and read from another working folder."""
    (tmp_path / "there" / "before").mkdir(parents=True)
    (tmp_path / "there" / "before" / "policy").symlink_to(warm)
    OmegaConf.save({"model": {"path": "pilotrl:nano", "scratch": None}, "parent": "before", "seed": 0}, folder.config)
    OmegaConf.save({"hydra": {"runtime": {"cwd": str(tmp_path / "there")}}}, folder.hydra)
    monkeypatch.chdir(tmp_path)
    assert "step 1, episode 0" in shown(folder)


def test_a_run_that_is_over_needs_no_parent(folder: RunFolder, warm: Path) -> None:
    OmegaConf.save({"model": {"path": str(warm), "scratch": None}, "parent": "deleted", "seed": 0}, folder.config)
    folder.policy.symlink_to(warm)
    assert "step 1, episode 0" in shown(folder)


def test_the_command_ends_with_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert xray.main([str(tmp_path), "--episode", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
