"""A batch as a safetensors file: tensors under their names, and beside them, as JSON in a tensor of bytes, its episodes.

Anybody can read it: `held = safetensors.torch.load_file(path)`, and `json.loads(bytes(held["json"].tolist()))`. It is not
trusted when it comes back: every shape, dtype and index is checked first. (The JSON is no metadata of the file, since
safetensors takes at most 100 MB of that.)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pilotrl.store.reading import RESTORE, read_bytes, reason, unreadable
from pilotrl.store.run_folder import write_whole
from pilotrl.training.batch import ROLES, Batch
from pilotrl.types import Episode

COLUMNS: dict[str, tuple[torch.dtype, str]] = {
    **dict.fromkeys(("token_row", "token_position", "token_call"), (torch.long, "N")),
    **dict.fromkeys(("call_row", "call_position", "call_episode", "call_turn", "call_role"), (torch.long, "C")),
    **dict.fromkeys(("call_observation", "call_plan"), (torch.long, "C")),
    **dict.fromkeys(("call_weight", "step_rewards"), (torch.float64, "C")),
    "followed": (torch.bool, "C"),
    "process_rewards": (torch.float64, "2C"),
    "logprobs": (torch.float32, "N"),
    "rewards": (torch.float64, "E"),
    "group": (torch.long, "E"),
    "success": (torch.bool, "E"),
    "terminated": (torch.bool, "E"),
}
"""Tensors of a batch, with dtypes and axes: N trained tokens, C trained calls, E episodes."""
LAYOUT: dict[str, tuple[torch.dtype, str]] = {
    **dict.fromkeys(("row_lengths", "row_episode"), (torch.long, "R")),
    "row_ids": (torch.long, "L"),
    "trained": (torch.long, "C"),
    **dict.fromkeys(("prompt_lengths", "sampled_lengths"), (torch.long, "K")),
    "prompt_ids": (torch.long, "P"),
    "sampled_ids": (torch.long, "S"),
    "sampled_logprobs": (torch.float64, "S"),
    "json": (torch.uint8, "B"),
}
"""The rest: R rows of L tokens in all; `trained`: which of the K calls of all episodes a trained call is, -1 for the
environment's words; their prompts and sampled tokens, one call after another."""
BOUNDS = {
    "row_episode": (0, "E"),
    "token_row": (0, "R"),
    "token_call": (0, "C"),
    "call_row": (0, "R"),
    "call_episode": (0, "E"),
    "call_role": (-1, len(ROLES)),
    "trained": (-1, "K"),
    **dict.fromkeys(("row_ids", "prompt_ids", "sampled_ids", "call_turn", "prompt_lengths"), (0, 2**31)),
    **dict.fromkeys(("row_lengths", "sampled_lengths"), (0, 2**31)),
}
"""The least value of an index, and that below which, or the axis below whose length, all of them are."""


@dataclass(frozen=True)
class Head:
    """What is no tensor. The calls of the episodes have their ids and log-probabilities in tensors."""

    step: int
    version: int
    groups: int
    row_adapter: list[str | None]
    episodes: list[Episode]


HEAD = TypeAdapter(Head)


def write(batch: Batch, path: Path, **more: Tensor) -> None:
    """Write a batch, and further tensors beside it; the file appears as a whole."""
    calls = [call for episode in batch.episodes for call in episode.calls]
    number = {id(call): index for index, call in enumerate(calls)}
    bare = [
        replace(episode, calls=[replace(call, prompt=[], ids=[], logprobs=[]) for call in episode.calls])
        for episode in batch.episodes
    ]
    head = asdict(Head(batch.step, batch.version, batch.groups, batch.row_adapter, bare))
    for episode in head["episodes"]:
        del episode["seconds"]  # runs that are equal write equal files
    held = {name: getattr(batch, name) for name in COLUMNS} | more
    if batch.recomputed is not None:
        held["recomputed"] = batch.recomputed
    held |= {
        "row_ids": _longs([token for row in batch.rows for token in row.tolist()]),
        "row_lengths": _longs([len(row) for row in batch.rows]),
        "row_episode": _longs(batch.row_episode),
        "trained": _longs([number[id(call)] if call else -1 for call in batch.trained]),
        "prompt_ids": _longs([token for call in calls for token in call.prompt]),
        "prompt_lengths": _longs([len(call.prompt) for call in calls]),
        "sampled_ids": _longs([token for call in calls for token in call.ids]),
        "sampled_lengths": _longs([len(call.ids) for call in calls]),
        "sampled_logprobs": torch.tensor([x for call in calls for x in call.logprobs], dtype=torch.float64),
        "json": torch.frombuffer(bytearray(json.dumps(head).encode()), dtype=torch.uint8),
    }
    write_whole(path, save({name: tensor.contiguous() for name, tensor in held.items()}))


def read(path: Path, remedy: str = RESTORE, more: Sequence[str] = ()) -> tuple[Batch, dict[str, Tensor]]:
    """A batch that `write` wrote, and of the tensors beside it those named, [N] float32 each. Raises UserError for any file
    that is not as it writes them."""
    content = read_bytes(path, remedy)
    try:
        held = load(content)
        head = HEAD.validate_json(bytes(held["json"].tolist()))
        check(held, head, more)
        return _batch(held, head), {name: held[name] for name in more}
    except (SafetensorError, KeyError, RuntimeError, ValueError, OverflowError) as error:
        raise unreadable(path, reason(error), remedy) from error


def check(held: dict[str, Tensor], head: Head, more: Sequence[str] = ()) -> None:
    """Raises ValueError for a tensor of another dtype or shape, or an index that points outside."""
    sizes = {"2": len(ROLES), "R": len(head.row_adapter), "E": len(head.episodes)}
    sizes["K"] = sum(len(episode.calls) for episode in head.episodes)
    extra = [*more, *(["recomputed"] if "recomputed" in held else [])]
    for name, (dtype, axes) in (COLUMNS | LAYOUT | dict.fromkeys(extra, (torch.float32, "N"))).items():
        tensor = held[name]
        _demand(tensor.dtype == dtype and tensor.dim() == len(axes), f"{name} is {tensor.dtype} {[*tensor.shape]}")
        for axis, size in zip(axes, tensor.shape, strict=True):
            _demand(sizes.setdefault(axis, size) == size, f"{name} has {size} entries, not {sizes[axis]}")
    for name, (low, high) in BOUNDS.items():
        _within(name, held[name], low, torch.tensor(sizes[high] if isinstance(high, str) else high))
    _demand(held["group"].tolist() == [episode.group for episode in head.episodes], "group is not that of the episodes")
    _demand(head.groups > 0 or not head.episodes, f"groups is {head.groups}")
    for ids, lengths in (
        ("row_ids", "row_lengths"),
        ("prompt_ids", "prompt_lengths"),
        ("sampled_ids", "sampled_lengths"),
    ):
        _demand(int(held[lengths].sum()) == len(held[ids]), f"{lengths} do not add up")
    _within("token_position", held["token_position"], 1, held["row_lengths"][held["token_row"]])
    _within("call_position", held["call_position"], 0, held["row_lengths"][held["call_row"]])
    call = held["trained"][held["token_call"]]
    mine, call = call >= 0, call.clamp(min=0)
    if mine.any():
        place = held["token_position"] - held["prompt_lengths"][call]
        _within("token_position in its call", place[mine], 0, held["sampled_lengths"][call][mine])


def _batch(held: dict[str, Tensor], head: Head) -> Batch:
    """Of tensors that were checked."""
    calls = [call for episode in head.episodes for call in episode.calls]
    for part, name in (("prompt_ids", "prompt"), ("sampled_ids", "ids"), ("sampled_logprobs", "logprobs")):
        lengths = held["prompt_lengths" if name == "prompt" else "sampled_lengths"].tolist()
        for call, tokens in zip(calls, torch.split(held[part], lengths), strict=True):
            setattr(call, name, tokens.tolist())
    return Batch(
        step=head.step,
        version=head.version,
        groups=head.groups,
        rows=list(torch.split(held["row_ids"], held["row_lengths"].tolist())),
        row_episode=held["row_episode"].tolist(),
        row_adapter=head.row_adapter,
        episodes=head.episodes,
        trained=[None if index < 0 else calls[index] for index in held["trained"].tolist()],
        recomputed=held.get("recomputed"),
        **{name: held[name] for name in COLUMNS},
    )


def _longs(numbers: Sequence[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.long)


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _within(name: str, index: Tensor, low: int, high: Tensor) -> None:
    _demand(bool(((index >= low) & (index < high)).all()), f"{name} points outside")
