"""The loader of a run's recorded episodes for an audit: evaluation episodes whole, of training only the measures."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import Any

from pilotrl.analysis.statistics import MEASURES as PANEL
from pilotrl.rewards.judge.grading import due
from pilotrl.rewards.judge.plan_rules import restates
from pilotrl.rewards.judge.step_parser import Step, read_step
from pilotrl.store.reading import unreadable
from pilotrl.store.records import from_record
from pilotrl.store.run_folder import RunFolder
from pilotrl.types import Episode, UserError

Panels = dict[str, dict[str, list[Episode]]]
"""Sampled episodes, by whose plans (`own plans`, `teacher's plans`) and when (`before`, `after`)."""

FULL = 2
"""The verdict of full marks."""
PARTS = 4
"""Parts that training is divided into."""


def _share(holds: Callable[[Step], bool]) -> Callable[[Episode], float | None]:
    """Measures the share of current plan steps, one a turn, for which `holds` is true."""
    return lambda episode: _mean([holds(read_step(step)) for _, (step, *_) in due(episode)])


def _without(episode: Episode) -> float | None:
    return _mean([not turn.remaining(t) for t, turn in enumerate(episode.turns, 1)])


def _restated(episode: Episode) -> float | None:
    """The share of turns whose plan, from the current step on, copies the task."""
    plans = [plan for t, turn in enumerate(episode.turns, 1) if (plan := turn.remaining(t))]
    return _mean([any(restates(step, episode.observation) for step in plan) for plan in plans])


def _rejected(episode: Episode) -> float | None:
    """The share of turns with full marks whose action the environment rejected."""
    return _mean([not turn.valid for turn in episode.turns if turn.adherence == FULL])


def _repeated(episode: Episode) -> float | None:
    """The share of turns whose action was taken before in the episode."""
    taken = [turn.action for turn in episode.turns]
    return _mean([action in taken[:t] for t, action in enumerate(taken)])


PROBES: dict[str, Callable[[Episode], float | None]] = {
    "without_step": _without,
    "vacuous": _share(lambda step: step.vacuous),
    "nameless": _share(lambda step: step.nameless),
    "restated": _restated,
    "rejected": _rejected,
    "repeated": _repeated,
}
"""Measures of plans that say little, each a share of an episode: of its turns, current steps, current steps, and plans; of
marks for nothing: of its turns with full marks. The last is not of plans: the share of its turns whose action is not new."""
JUDGED = ("adherence", "plan_quality")
GRADED = (*JUDGED, "correctness")
MEASURES = {key: PANEL[key] for key in ("success", *GRADED)} | PROBES


@dataclass
class RecordedEpisodes:
    """A run's recorded episodes."""

    panels: Panels = field(default_factory=dict)
    training: dict[int, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))
    """By step, the measures that each episode defines."""

    @property
    def envs(self) -> list[str]:
        """Names of the environments in its evaluation set."""
        whole = (episodes for protocol in self.panels.values() for episodes in protocol.values())
        return sorted({episode.task.env for episodes in whole for episode in episodes})

    def stretches(self) -> list[dict[str, Any]]:
        """Means over the episodes of each part of training; of each step, if there are fewer steps than parts."""
        steps = sorted(self.training)
        cuts = [round(len(steps) * part / PARTS) for part in range(PARTS + 1)]
        return [self._stretch(steps[low:high]) for low, high in pairwise(cuts) if low < high]

    def _stretch(self, steps: list[int]) -> dict[str, Any]:
        values = [value for step in steps for value in self.training[step]]
        means = {key: _mean([value[key] for value in values if key in value]) for key in MEASURES}
        return {"first": steps[0], "last": steps[-1], "episodes": len(values), **means}


def read(folder: RunFolder, learns_by_playing: bool) -> RecordedEpisodes:
    """The episodes of a run, also of one that is still being written.

    learns_by_playing: it trains on the policy's own rollouts. Raises UserError for a line that cannot be parsed."""
    if folder.finished:
        folder.check_whole()
    recorded = RecordedEpisodes()
    for number, line in enumerate(_lines(folder), start=1):
        try:
            record = json.loads(line)
            when, _, protocol = record["phase"].partition("/")
            whose, _, decoding = protocol.partition(", ")
            if decoding == "sampled":
                recorded.panels.setdefault(whose, {}).setdefault(when, []).append(_episode(record))
            elif when == "train" and learns_by_playing and record["outcome"] != "broken":
                recorded.training[record["step"]].append(_measured(_episode(record)))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{folder.episodes}, line {number}: is no episode ({error}); restore the file") from error
    if not recorded.panels:
        raise unreadable(folder.episodes, "holds no episodes of an evaluation", "audit the run again once it has some")
    return recorded


def _lines(folder: RunFolder) -> Iterator[bytes]:
    """The complete lines: the last one may still be being written."""
    with open(folder.episodes, "rb") as lines:
        yield from (line for line in lines if line.endswith(b"\n"))


def _episode(record: Mapping[str, Any]) -> Episode:
    """The episode without its numbers of tokens, which are not needed here, and take most of the memory."""
    calls = [call | {"prompt": 0, "sampled": 0} for call in record["calls"]]
    return from_record({**record, "calls": calls})


def _measured(episode: Episode) -> dict[str, float]:
    values = {key: measure(episode) for key, measure in MEASURES.items()}
    return {key: value for key, value in values.items() if value is not None}


def _mean(values: list[Any]) -> float | None:
    return fmean(values) if values else None
