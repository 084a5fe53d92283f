"""One training row in colour: `python -m pilotrl.xray RUN_FOLDER [--episode N] [--step S] [--tokens]`.

Who said what, what of it is trained and with which advantage, and its log-probability when it was sampled against that which
the trainer computed from the same weights before it learned. Of the steps that the run has kept in calls/: the first one, and
every `checkpoint.calls_every` steps. Without --episode: a list of the step's episodes.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pilotrl.analysis.terminal import guarded
from pilotrl.cli.compose import key_of
from pilotrl.cli.exit_codes import ended, in_one_line
from pilotrl.cli.signals import at_once
from pilotrl.cli.stored_config import hydra_node, read_elsewhere, typed_words
from pilotrl.models.policy import load_tokenizer
from pilotrl.runs.setup import model_path
from pilotrl.store.reading import read_json, unreadable
from pilotrl.store.run_folder import RunFolder
from pilotrl.training import batch_file
from pilotrl.training.batch import Batch, rows_of
from pilotrl.types import Call, UserError

INK = {"planner": "cyan", "executor": "green", "world": "bright_black"}
"""Colour of whoever said a token ..."""
GOOD, BAD = "on dark_green", "on dark_red"
"""... and what it stands on where it is trained: better than expected, or worse. Of an advantage of 0, underlined."""


@dataclass(frozen=True)
class Token:
    """One token of a row."""

    id: int
    role: str
    """Who said it; `world` for all that the model did not sample."""
    call: int | None
    """Index of the batch's trained call that it is learned in; None: masked."""
    advantage: float
    sampled: float
    """Log-probability as recorded when sampling ..."""
    recomputed: float
    """... and as the trainer computes it; NaN of what is masked."""

    @property
    def style(self) -> str:
        mark = "underline" if not self.advantage else GOOD if self.advantage > 0 else BAD
        return INK[self.role] + (f" {mark}" if self.call is not None else "")


def rows(batch: Batch, episode: int) -> list[list[Token]]:
    """The rows of an episode in which something is trained. Raises AssertionError where a trained id was not sampled so."""
    trained = {id(call) for call in batch.trained}
    calls = [row for row in rows_of(batch.episodes[episode].calls) if any(id(call) in trained for call in row)]
    mine = [index for index, owner in enumerate(batch.row_episode) if owner == episode]
    return [_row(batch, index, said) for index, said in zip(mine, calls, strict=True)]


def _row(batch: Batch, index: int, calls: Sequence[Call]) -> list[Token]:
    ids = batch.rows[index].tolist()
    roles = ["world"] * len(ids)
    for call in calls:
        roles[len(call.prompt) : len(call.prompt) + len(call.ids)] = [call.role] * len(call.ids)
    nan = float("nan")
    tokens = [Token(token, role, None, 0.0, nan, nan) for token, role in zip(ids, roles, strict=False)]
    again = batch.recomputed if batch.recomputed is not None else torch.full_like(batch.logprobs, nan)
    for place in (batch.token_row == index).nonzero()[:, 0].tolist():
        number, position = int(batch.token_call[place]), int(batch.token_position[place])
        learned = batch.trained[number]
        said = learned.ids[position - len(learned.prompt)] if learned else ids[position]
        assert said == ids[position], f"row {index}, token {position}: {ids[position]} is trained, {said} was sampled"
        advantage = learned.advantage if learned and learned.advantage is not None else 0.0
        logprobs = float(batch.logprobs[place]), float(again[place])
        tokens[position] = Token(said, roles[position], number, advantage, *logprobs)
    return tokens


def picture(tokens: Sequence[Token], tokenizer: Any) -> Text:
    """The words of a row, in the colours of who said them."""
    return Text.assemble(*((tokenizer.decode([token.id]), token.style) for token in tokens))


def by_call(batch: Batch, tokens: Sequence[Token]) -> Table:
    """A line for each trained call of a row: its log-probabilities, summed, and the largest difference of a token's."""
    table = _table("turn", "role", "tokens", "advantage", "sampled", "recomputed", "largest difference")
    for number in dict.fromkeys(token.call for token in tokens if token.call is not None):
        mine = [token for token in tokens if token.call == number]
        apart = max(abs(token.sampled - token.recomputed) for token in mine)
        sums = (sum(token.sampled for token in mine), sum(token.recomputed for token in mine))
        about = (str(int(batch.call_turn[number])), mine[0].role, str(len(mine)), f"{mine[0].advantage:+.3f}")
        table.add_row(*about, *(f"{value:.3f}" for value in sums), f"{apart:.1e}", style=mine[0].style)
    return table


def by_token(tokens: Sequence[Token], tokenizer: Any) -> Table:
    """A line for each token of a row."""
    table = _table("place", "id", "token", "role", "trained", "advantage", "sampled", "recomputed")
    for place, token in enumerate(tokens):
        about = [str(place), str(token.id), repr(tokenizer.decode([token.id])), token.role]
        numbers = [f"{value:+.3f}" for value in (token.advantage, token.sampled, token.recomputed)]
        learned = ["yes", *numbers] if token.call is not None else ["", "", "", ""]
        table.add_row(*(Text(cell) for cell in [*about, *learned]), style=token.style)
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading)
    return table


def kept(folder: RunFolder, step: int | None) -> Batch:
    """The batch of a step that the run has kept, the last one if none is named. Raises UserError where there is none."""
    places = sorted(folder.calls.glob("step-*.safetensors"))
    known = {int(number): path for path in places if (number := path.stem.partition("-")[2]).isdigit()}
    if not known:
        folder.check_version()
        stages = ", ".join(str(path.parent) for path in sorted(folder.path.glob("*-*/calls")))
        remedy = f"of its stages {stages} do" if stages else how_to_keep(folder)
        raise UserError(f"{folder}: holds no calls/ of a step; {remedy}")
    if step is not None and step not in known:
        raise UserError(f"--step {step}: was not kept in {folder.calls}; there are {', '.join(map(str, known))}")
    path = known[max(known) if step is None else step]
    return batch_file.read(path, "name another step with --step, or the same run with checkpoint.calls_every=1")[0]


def how_to_keep(folder: RunFolder) -> str:
    """What to type so that there is a step to look at: go on with a run that has none yet, or this run once more."""
    key = "checkpoint.calls_every"
    if not folder.metrics.is_file() and not folder.finished and read_elsewhere(folder).checkpoint.calls_every:
        return f"its first step is not over; python -m pilotrl resume={shlex.quote(str(folder))} goes on"
    lines = [line for line in typed_words(folder) if key_of(line) not in (key, "trust")]
    words = [*given_flags(folder), *lines, f"{key}=1"]
    return f"the same run with its calls kept: python -m pilotrl {shlex.join(words)}"


def given_flags(folder: RunFolder) -> list[str]:
    """`--config-dir` and `--config-name` of the command that began a run, where it had them."""
    found = hydra_node(folder)
    sources = found.get("runtime", {}).get("config_sources", [])
    places = [str(source["path"]) for source in sources if source["provider"] == "command-line"]
    name = str(found.get("job", {}).get("config_name", "config"))
    return [
        *(word for place in places for word in ("--config-dir", place)),
        *(["--config-name", name] if name != "config" else []),
    ]


def tokenizer_of(folder: RunFolder) -> Any:
    """The run's own where it has left a policy, else that of what it started from. Raises UserError where both are gone."""
    path = str(folder.policy) if folder.policy.is_dir() else model_path(read_elsewhere(folder), folder.path)
    if folder.policy.is_dir():
        read_json(folder.policy / "tokenizer.json")
    try:
        return load_tokenizer(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: started from {path}, which has no tokenizer any more; put it back") from error


def by_episode(batch: Batch) -> Table:
    """A line for each episode of a step."""
    table = _table("episode", "group", "task", "outcome", "reward", "turns", "trained tokens")
    owners = [batch.row_episode[row] for row in batch.token_row.tolist()]
    for number, one in enumerate(batch.episodes):
        reward = "-" if one.reward is None else f"{one.reward:.3f}"
        cells = [str(number), str(one.group), f"{one.task.env} {one.task.id}", one.outcome, reward, str(len(one.turns))]
        table.add_row(*(Text(cell) for cell in [*cells, str(owners.count(number))]))
    return table


def show(folder: RunFolder, episode: int | None, step: int | None, each: bool, console: Console) -> None:
    """Print the rows of an episode, or the list of episodes to choose from. Raises UserError for what is not there."""
    if not folder.begun:
        raise UserError(f"{folder}: is not a run folder; give one that holds .hydra/config.yaml")
    batch, console = kept(folder, step), guarded(console)
    if episode is None:
        console.print(f"step {batch.step + 1}: {len(batch.episodes)} episodes; --episode N shows one", style="bold")
        console.print(by_episode(batch))
        return
    if not 0 <= episode < len(batch.episodes):
        raise UserError(f"--episode {episode}: step {batch.step + 1} has episodes 0 to {len(batch.episodes) - 1}")
    tokenizer, one = tokenizer_of(folder), batch.episodes[episode]
    reward = "none" if one.reward is None else f"{one.reward:.3f}"
    head = f"step {batch.step + 1}, episode {episode}: {one.task.env} {one.task.id}, {one.outcome}, reward {reward}"
    console.print(head, style="bold", markup=False)
    legend = [*INK.items(), ("trained, better than expected", GOOD), ("worse", BAD), ("no difference", "underline")]
    console.print(Text("  ").join(Text(name, style) for name, style in legend))
    try:
        found = rows(batch, episode)
    except (AssertionError, LookupError, ValueError) as error:
        remedy = "it is not what a run writes; name another step with --step"
        raise unreadable(folder.calls, f"step {batch.step + 1}, {error}", remedy) from error
    for number, tokens in enumerate(found, start=1):
        trained = sum(token.call is not None for token in tokens)
        console.rule(f"row {number} of {len(found)}: {len(tokens)} tokens, {trained} trained, all as they were sampled")
        console.print(picture(tokens, tokenizer), soft_wrap=False)
        console.print(by_token(tokens, tokenizer) if each else by_call(batch, tokens))
    if not found:
        console.print("nothing of this episode is trained: no reward, or no call of a trained role")
    if batch.recomputed is None:
        console.print("this run kept no recomputed log-probabilities: only the sampled ones are known")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 after one line about what the user got wrong."""
    parser = in_one_line(argparse.ArgumentParser(prog="python -m pilotrl.xray", description=__doc__))
    parser.add_argument("folder", metavar="RUN_FOLDER", type=Path)
    parser.add_argument("--episode", type=int, help="of the step, from 0, in order of play; a list if not given")
    parser.add_argument("--step", type=int, help="one of those in calls/; the last one if not given")
    parser.add_argument("--tokens", action="store_true", help="a line for each token, not for each call")

    def command(words: Sequence[str]) -> None:
        given = parser.parse_args(words)
        show(RunFolder(given.folder), given.episode, given.step, given.tokens, Console(highlight=False))

    return ended(command, argv, parser.format_help())


if __name__ == "__main__":
    sys.exit(at_once(main()))
