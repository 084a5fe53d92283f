"""What a run takes over from another folder instead of playing it again: evaluations, as episodes.jsonl holds them.

From its parent the one that the parent ended with; from another job of the same sweep the one that this job began with.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

import pilotrl
from pilotrl.cli.stored_config import read_elsewhere, stored_config
from pilotrl.config.schema import Config
from pilotrl.models.policy import Policy, acting_sha256
from pilotrl.runs.describe import as_dict, git_revision
from pilotrl.runs.evaluation_set import TEACHER, EpisodesByProtocol
from pilotrl.store.records import from_record, read_episodes
from pilotrl.store.run_folder import RunFolder, write_whole
from pilotrl.types import UserError

PLAYERS = ("env", "agent", "model", "engine", "panel", "trainer")
"""Nodes of a configuration that, beside weights and code, decide every token of a panel."""
BEFORE = "before.json"
"""In the folder of a job of a sweep, once its first evaluation is complete in episodes.jsonl: what decided it."""


def recalled(folder: RunFolder, when: str) -> EpisodesByProtocol:
    """The evaluation that was run `before` or `after` training, by protocol."""
    played: EpisodesByProtocol = {}
    for phase, episode in read_episodes(folder.episodes, lambda line: line.startswith(f'{{"phase": "{when}/')):
        played.setdefault(phase.partition("/")[2], []).append(episode)
    return played


def handed_over(config: Config, panel: str, weights: str) -> EpisodesByProtocol:
    """The panel that the parent played at its end, where this run would play the very same before it begins: same panel, same
    weights (sha256 of both), same code, and nothing else that decides a token differs. Else nothing; and of another teacher's
    plans nothing.
    """
    parent = RunFolder(Path(config.parent or "/dev/null"))
    if not (parent.begun and parent.finished):
        return {}
    summary = parent.results()
    try:
        theirs = read_elsewhere(parent)
    except UserError:  # of a revision that had other keys
        return {}
    same = (summary["panel"].get("sha256"), summary.get("weights_sha256"), summary.get("git_revision")) == (
        panel,
        weights,
        git_revision(),
    )
    played = recalled(parent, "after") if same and _alike(theirs, config) else {}
    tasks, samples = (summary["panel"].get(name) for name in ("tasks", "samples_per_task"))
    whole = {False: tasks and samples and tasks * samples, True: tasks}  # what has lost episodes is played again
    kept = {protocol: each for protocol, each in played.items() if len(each) == whole[protocol.endswith("greedy")]}
    return _of_teacher(kept, theirs, config)


def _alike(theirs: Config, ours: Config) -> bool:
    return all(as_dict(getattr(theirs, node)) == as_dict(getattr(ours, node)) for node in PLAYERS)


def _of_teacher(played: EpisodesByProtocol, theirs: Config, ours: Config) -> EpisodesByProtocol:
    """Without the episodes under the plans of another teacher."""
    same = as_dict(theirs.teacher) == as_dict(ours.teacher)
    return {protocol: episodes for protocol, episodes in played.items() if same or not protocol.startswith(TEACHER)}


@dataclass(frozen=True)
class FirstEvaluation:
    """The evaluation that a job of a sweep begins with: written down for later jobs, or taken from an earlier one."""

    sweep: Path
    folder: RunFolder
    config: Config
    key: Mapping[str, Any]
    """What decides its tokens and is not in the configuration."""

    @classmethod
    def of(cls, folder: RunFolder, config: Config, panel: str, policy: Policy, device: str) -> FirstEvaluation | None:
        """None for a run that is no job of a sweep. panel: SHA-256 of the evaluation set."""
        above = (place for place in folder.path.absolute().parents if (place / "multirun.yaml").is_file())
        if (sweep := next(above, None)) is None:
            return None
        key = {"panel": panel, "weights": acting_sha256(policy.model), "git_revision": git_revision()}
        return cls(sweep, folder, config, key | {"parent": config.parent, "machine": _machine(device)})

    def begin(self) -> None:
        """Nothing is complete any more: the folder's episodes are about to be written anew."""
        (self.folder / BEFORE).unlink(missing_ok=True)

    def known(self, wanted: Collection[str]) -> tuple[EpisodesByProtocol, dict[str, str]]:
        """Of the wanted protocols, episodes that other jobs have played just as this one would, and the folders they are from."""
        found: EpisodesByProtocol = {}
        source: dict[str, str] = {}
        for other, counts in self._equal():
            theirs = stored_config(other)
            for protocol, episodes in _of_teacher(_complete(other, counts), theirs, self.config).items():
                if protocol in wanted and protocol not in found:
                    found[protocol], source[protocol] = episodes, str(other.path.relative_to(self.sweep))
        return found, source

    def remember(self, played: EpisodesByProtocol, source: Mapping[str, str]) -> None:
        """All of `played` stands in episodes.jsonl. source: folders of the jobs that it was taken from."""
        counts = {protocol: len(episodes) for protocol, episodes in played.items()}
        record = {"schema": 1, "key": self.key, "episodes": counts, "taken_from": source}
        write_whole(self.folder / BEFORE, json.dumps(record, indent=2) + "\n")

    def _equal(self) -> Iterator[tuple[RunFolder, dict[str, int]]]:
        """Other jobs with a complete first evaluation of equal weights under equal settings, and its sizes."""
        for path in sorted(self.sweep.rglob(BEFORE)):
            other = RunFolder(path.parent)
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                same = record["key"] == self.key and _alike(stored_config(other), self.config)
            except (
                OSError,
                ValueError,
                LookupError,
                TypeError,
                UserError,
            ):  # it has begun anew meanwhile, or is of another revision
                continue
            if same and other.path.resolve() != self.folder.path.resolve():
                yield other, record["episodes"]


def _complete(folder: RunFolder, counts: Mapping[str, int]) -> EpisodesByProtocol:
    """What was played before training, without protocols of which an episode is missing or broke: that one may not again."""
    played: EpisodesByProtocol = {}
    try:
        with open(folder.episodes, encoding="utf-8") as lines:
            for line in takewhile(lambda line: line.startswith('{"phase": "before/'), lines):
                record = json.loads(line)
                played.setdefault(record["phase"].partition("/")[2], []).append(from_record(record))
    except (OSError, ValueError, LookupError, TypeError):  # it has begun anew meanwhile, or is broken
        return {}
    return {
        protocol: episodes
        for protocol, episodes in played.items()
        if len(episodes) == counts.get(protocol) and all(episode.outcome != "broken" for episode in episodes)
    }


def _machine(device: str) -> dict[str, Any]:
    """What rounds sums, and so may decide a token between two that are nearly as likely."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "versions": [pilotrl.__version__, torch.__version__],
    }
