"""A batch as a file: it comes back as it was, and a file that was made by somebody else points nowhere outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pilotrl.training import batch_file
from pilotrl.training.batch import Batch
from pilotrl.types import UserError
from tests.conftest import Training


@pytest.fixture(scope="module")
def batch(tiny: Path) -> Batch:
    """Of both roles and with the environment's words, so that every column has something in it."""
    training = Training(tiny, trains=["planner", "executor"], agent_spec={"teacher_plans": False})
    training.source.observation_weight = 0.5
    return training.source.batch(0)


@pytest.fixture
def path(batch: Batch, tmp_path: Path) -> Path:
    batch_file.write(batch, tmp_path / "batch.safetensors", more=batch.logprobs + 1)
    return tmp_path / "batch.safetensors"


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))
    if isinstance(one, list) and one and isinstance(one[0], Tensor):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_it_comes_back_as_it_was(batch: Batch, path: Path) -> None:
    again, more = batch_file.read(path, more=["more"])
    for field in fields(Batch):
        assert same(getattr(batch, field.name), getattr(again, field.name)), field.name
    assert torch.equal(more["more"], batch.logprobs + 1)
    calls = [call for episode in again.episodes for call in episode.calls]
    assert all(call is None or any(call is one for one in calls) for call in again.trained)  # and not copies
    assert {type(call) for call in again.trained} == {type(calls[0]), type(None)}


def put(name: str, change: Callable[[Tensor], Any]) -> Callable[[dict[str, Tensor]], None]:
    def apply(held: dict[str, Tensor]) -> None:
        held[name] = change(held[name]).contiguous()

    return apply


def first(value: int) -> Callable[[Tensor], Tensor]:
    return lambda tensor: torch.cat([torch.tensor([value], dtype=tensor.dtype), tensor[1:]])


CHANGES = {
    **{f"{name} above": put(name, first(10**6)) for name in batch_file.BOUNDS if not name.endswith(("ids", "turn"))},
    **{f"{name} below": put(name, first(-2)) for name in batch_file.BOUNDS},
    **{f"{name} below its place": put(name, first(-1)) for name in ("token_position", "call_position", "group")},
    **{f"{name} behind its row": put(name, first(10**6)) for name in ("token_position", "call_position", "group")},
    "a huge id": put("row_ids", first(2**40)),
    "too short": put("logprobs", lambda tensor: tensor[1:]),
    "another type": put("rewards", lambda tensor: tensor.float()),
    "another shape": put("rewards", lambda tensor: tensor[None]),
    "none": lambda held: held.pop("followed") is None,
    "no json": put("json", lambda tensor: tensor[:-1]),
    "other json": put("json", lambda tensor: torch.tensor([*b"[]"], dtype=torch.uint8)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_does_not_fit_is_refused_in_a_line(path: Path, name: str) -> None:
    held = load_file(path)
    CHANGES[name](held)
    save_file(held, path)
    with pytest.raises(UserError, match=r"batch\.safetensors: is cut off or broken \(.*\); put") as error:
        batch_file.read(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"PK\x03\x04"])
def test_what_is_no_such_file_is_refused_in_a_line(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"batch\.safetensors: is cut off or broken"):
        batch_file.read(path)
