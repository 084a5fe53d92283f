"""The benchmark measures what it says: rows as training has them, every part a line, and a failure is a finding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pilotrl.bench import __main__ as bench
from pilotrl.bench import against_trl
from pilotrl.bench.parts import TRAINED, Bench, Options
from pilotrl.models.micro_batch import MicroBatch

SMALL = ("shape=tiny", "length=64", "rows=3", "threads=1")


def test_every_part_is_a_line_with_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert bench.main([*SMALL, f"out={tmp_path / 'lines.jsonl'}"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["part"] for line in lines] == ["machine", *["update"] * 3, "engine", "agreement", "handover"]
    assert not [line for line in lines if "failed" in line or "left_out" in line]
    assert (tmp_path / "lines.jsonl").read_text().splitlines() == [json.dumps(line) for line in lines]
    agreement = next(line for line in lines if line["part"] == "agreement")
    assert agreement["largest_difference"] < 1e-4
    assert agreement["same_gradient_twice"]


def test_rows_that_share_their_beginning_are_scored_as_each_alone() -> None:
    made = Bench(Options(shape="tiny", length=64, rows=3, threads=1))
    together = made.batch(3, 48)
    assert len(together.ids) == 64 + 2 * 16
    whole = torch.stack([together.ids[path] for path in together.path.split(64)])
    alone = [MicroBatch.of([row.tolist()], range(64 - 64 // TRAINED, 64)) for row in whole]
    expected = torch.cat([made.policy(row, 1.0).logprobs for row in alone])
    torch.testing.assert_close(made.policy(together, 1.0).logprobs, expected)


def test_operations_are_those_of_the_matrix_products() -> None:
    made = Bench(Options(shape="tiny", length=64, rows=1, threads=1, rank=None))
    row = made.batch(1, 0)
    model = made.policy.model
    weights = sum(
        m.weight.numel() for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "head" not in n
    )
    scored = 64 // TRAINED * model.lm_head.weight.numel()
    assert made.flops(row) == 3 * (2 * 64 * weights + 2 * scored + 4 * (64 * 32) * 32 * 2)


def test_a_part_without_time_or_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("no room\nat all")

    made = Bench(Options(shape="tiny", length=64, rows=1, threads=1))
    monkeypatch.setattr(Bench, "engine", full)
    found = {line["part"]: line for line in made.lines()}
    assert found["engine"] == {"part": "engine", "failed": "OutOfMemoryError: no room"}
    assert "mean_difference" in found["agreement"]
    clock = iter(range(0, 10**9, 400))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert {line.get("left_out") for line in made.lines()} == {"300 seconds are over"}


@pytest.mark.parametrize(
    ("word", "says"),
    {
        "shape=huge": "shape=huge: there are tiny, nano",
        "dtype=int8": "dtype=int8: there are float32, bfloat16",
        "device=tpu": "device=tpu: is not there",
        "rows=0": "rows=0: must be at least 1",
        "rows=many": "rows=many: must be a whole number",
        "speed=9": "speed=9: there are shape=, device=",
        "out=/nowhere/lines": "out=/nowhere/lines: its folder does not exist",
        "against=verl": "against=verl: there is against=trl",
        "against=trl rows=0": "rows=0: must be a whole number of at least 1",
        "against=trl steps=some": "steps=some: must be a whole number of at least 1",
        "against=trl train.group_size=1": "train.group_size=1: TRL compares at least 2",
        "against=trl train.minibatches=3": "train.minibatches=3: must divide train.tasks=8",
        "against=trl env=nowhere": "env=nowhere: there is no such option",
    }.items(),
)
def test_bad_words_are_one_line(word: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(word.split()) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"pilotrl: {says}")
    assert said.err.count("\n") == 1
    assert not said.out


BRIEF = ["against=trl", "env=toy", "train.tasks=2", "train.group_size=4", "train.minibatches=2", "trainer.threads=1"]


def test_trl_learns_from_the_tokens_that_were_recorded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[dict[str, Any]] = []
    rollout = against_trl.Replay.__call__
    monkeypatch.setattr(against_trl.Replay, "__call__", lambda *given: handed.append(rollout(*given)) or handed[-1])
    assert bench.main([*BRIEF, "rows=2", "steps=2"]) == 0
    ours, theirs, ratio = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (ours["who"], theirs["who"], ratio["who"]) == ("pilotrl", "trl", "ratio")
    same = ("steps", "episodes", "tokens", "updates")
    assert [ours[name] for name in same] == [theirs[name] for name in same]
    assert (ours["steps"], ours["updates"]) == (2, 4)
    assert handed.pop(0) == handed[0] != handed[1]
    assert len(handed) == 2
    assert sum(len(rows["prompt_ids"]) for rows in handed) == ours["episodes"] == 16
    assert sum(sum(map(sum, rows["env_mask"])) for rows in handed) == ours["tokens"]
    for rows in handed:
        assert [*map(len, rows["env_mask"])] == [*map(len, rows["completion_ids"])]
        assert all(mask[0] and mask[-1] for mask in rows["env_mask"])
        assert len({*rows["earned"]}) > 1


@pytest.mark.parametrize("idle", [[0, 0, 1, 0], [0, 0, 1, 1]])
def test_steps_that_taught_nothing_are_left_out(
    idle: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, shares = against_trl.read_lines, iter(idle)

    def lines(path: Path) -> Any:
        return ({**line, "train/frac_reward_zero_std": next(shares)} for line in real(path))

    monkeypatch.setattr(against_trl, "read_lines", lines)
    ended = bench.main([*BRIEF, "steps=2"])
    said = capsys.readouterr()
    if all(idle[2:]):
        assert (ended, said.out) == (2, "")
        assert "steps=2: nothing was learned from" in said.err
    else:
        assert [json.loads(line).get("steps") for line in said.out.splitlines()] == [1, 1, None]


def test_rows_that_trl_cannot_deal_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([*BRIEF, "rows=3"]) == 2
    assert "rows=3: must divide the 4 episodes of a minibatch: 1, 2, 4" in capsys.readouterr().err
