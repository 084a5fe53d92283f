"""Groups runs into configurations, equal but for the seed, within each evaluation set."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from string import ascii_uppercase
from typing import Any

from pilotrl.analysis.contrasts import Contrast, gain
from pilotrl.analysis.measures import BLOCKS
from pilotrl.analysis.statistics import MEASURES
from pilotrl.prompts import BY_AGENT
from pilotrl.report.runs import DECODINGS, Cell, Run
from pilotrl.teacher.plan_dataset import REACHING

PLAYER = ("agent", "tokens")
"""What of the protocol of an evaluation set is said by the configuration alone, and may be the very thing that
configurations differ in."""
HEADLINES = ("success", "adherence", "plan_quality")
"""Measures on the page; the others are in the tables beside it."""
GRADED = ("adherence", "plan_quality")
"""Measures that are a judge's."""


@dataclass(frozen=True)
class Configuration:
    """Runs of equal configuration but for the seed, on one evaluation set."""

    mark: str
    """A letter, unique within the evaluation set."""
    label: str
    """The keys in which it differs from the others on the evaluation set."""
    runs: list[Run]

    @property
    def judge(self) -> dict[str, Any]:
        """Who graded, but for how a model behind an address is reached."""
        keys = self.runs[0].keys
        return {key: keys[key] for key in keys if key.startswith("judge.") and key.rpartition(".")[2] not in REACHING}

    @property
    def seeds(self) -> str:
        """Of the runs; where their own are alike, as 2→0: that of the run it started from, and its own."""
        alone = len({run.seed for run in self.runs}) == len(self.runs)
        return ", ".join(str(run.seed) if alone else "→".join(map(str, reversed(run.seeds))) for run in self.runs)

    @property
    def name(self) -> str:
        return f"{self.mark}: {self.label}"

    def mean(self, when: str, cell: Cell) -> float | None:
        """Over its runs, of what their summaries say; None where one of them does not define it."""
        means = [fmean(values.values()) for run in self.runs if (values := getattr(run, when).get(cell))]
        return fmean(means) if len(means) == len(self.runs) else None

    def gain(self, cell: Cell) -> Contrast:
        """After minus before."""
        return gain([run.before[cell] for run in self.runs], [run.after[cell] for run in self.runs])

    def spent(self, key: str) -> float:
        """Mean over its runs of a total of summary.json, of all the seconds they took, or of the actions they tried."""
        return fmean(
            {**run.summary["train"], "seconds": run.summary["seconds"], "env_steps": run.env_steps}[key]
            for run in self.runs
        )

    @property
    def learned(self) -> str:
        """The mean over its runs of the summed learning rate: `planner 0.041, executor 0.078`, or `each 0.078`."""
        if not all(run.learned for run in self.runs):
            return "-"
        shown = {role: f"{fmean(run.learned[role] for run in self.runs):.3g}" for role in self.runs[0].learned}
        alike = len(shown) > 1 and len(set(shown.values())) == 1
        return f"each {shown.popitem()[1]}" if alike else ", ".join(f"{role} {rate}" for role, rate in shown.items())


@dataclass(frozen=True)
class Panel:
    """An evaluation set: what was played, and by whom."""

    name: str
    sha256: str
    configurations: list[Configuration]

    @property
    def runs(self) -> list[Run]:
        return [run for configuration in self.configurations for run in configuration.runs]

    @property
    def chains(self) -> list[Configuration]:
        """Configurations that are several stages in a row."""
        return [configuration for configuration in self.configurations if configuration.runs[0].stages]

    @property
    def cells(self) -> list[Cell]:
        """What at least one run measured, sampled before greedy, the policy's own plans first."""
        known = {cell for run in self.runs for cell in run.cells if run.after[cell]}
        every = (Cell(of, decoding, measure) for of in BLOCKS for measure in MEASURES for decoding in DECODINGS)
        return [cell for cell in every if cell in known]

    @property
    def headlines(self) -> list[Cell]:
        """The cells that the page shows: greedy stands only beside success."""
        return [
            cell for cell in self.cells if cell.measure in HEADLINES and cell.decoding in ("sampled", *_beside(cell))
        ]

    def differing(self) -> dict[str, list[Any]]:
        """Every key in which configurations differ, and each one's value."""
        keys = [configuration.runs[0].keys for configuration in self.configurations]
        return {key: [of.get(key, "absent") for of in keys] for key in differing(keys)}


def _beside(cell: Cell) -> tuple[str, ...]:
    return DECODINGS if cell.measure == "success" else ()


def sorted_out(runs: Sequence[Run]) -> tuple[list[Panel], list[str]]:
    """Evaluation sets with the configurations of their runs, each in the order given, and what a reader has to know about
    that, a line each."""
    kept, notes = _once(runs)
    panels = [
        _panel(members)
        for members in _grouped(kept, lambda run: json.dumps(comparable(run.panel), sort_keys=True)).values()
    ]
    for panel in panels[1:]:
        names, why = ", ".join(run.name for run in panel.runs), unlike(panels[0].runs[0].panel, panel.runs[0].panel)
        notes.append(
            f"evaluation set {panel.name} ({names}) is another one ({why}) than that of the first run: it stands by itself"
        )
    notes += [note for panel in panels for note in (*_revisions(panel), *_judges(panel))]
    return panels, notes


def comparable(panel: Mapping[str, Any]) -> Any:
    """What of an evaluation set must be equal where numbers are compared: all but the player that the configuration describes."""
    if "protocol" not in panel:
        return panel["sha256"]
    protocol = {key: value for key, value in panel["protocol"].items() if key not in PLAYER}
    if "prompts" in protocol:
        protocol["prompts"] = {name: text for name, text in protocol["prompts"].items() if name not in BY_AGENT}
    return {**panel, "sha256": None, "protocol": protocol}


def unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """In which key two evaluation sets differ."""
    ours, theirs = comparable(one), comparable(other)
    if not (isinstance(ours, dict) and isinstance(theirs, dict)):
        return f"{other['sha256'][:8]} instead of {one['sha256'][:8]}"
    pairs = {**theirs, **theirs["protocol"]}, {**ours, **ours["protocol"]}
    keys = [key for key in pairs[0] if key != "protocol" and pairs[0][key] != pairs[1].get(key)]
    return f"other {', '.join(keys)}"


def differing(configurations: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for configuration in configurations for key in configuration)
    return [
        key
        for key in keys
        if len({plain(configuration.get(key)) + str(key in configuration) for configuration in configurations}) > 1
    ]


def labels(configurations: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each configuration the keys, as few as tell all of them apart, and their values; what an option is called comes first,
    since it stands for the keys that it sets."""
    chosen: list[str] = []
    for key in sorted(differing(configurations), key=lambda key: not key.endswith(".name")):
        if len({_shown(configuration, [*chosen, key]) for configuration in configurations}) > len(
            {_shown(configuration, chosen) for configuration in configurations}
        ):
            chosen.append(key)
    return [_shown(configuration, chosen) for configuration in configurations]


def _shown(configuration: Mapping[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(f"{_short(key, keys)}={plain(configuration.get(key, 'absent'))}" for key in keys)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """What keys are called beside each other."""
    return {key: _short(key, keys) for key in keys}


def _short(key: str, keys: Sequence[str]) -> str:
    """algorithm.name -> algorithm, train.lr -> lr, unless another key is then called the same."""
    last = key.removesuffix(".name").split(".")[-1]
    alike = [other for other in keys if other.removesuffix(".name").split(".")[-1] == last]
    return last if len(alike) == 1 else key


def plain(value: Any) -> str:
    """As it is typed."""
    if isinstance(value, list):
        return f"[{','.join(map(plain, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def _panel(runs: Sequence[Run]) -> Panel:
    groups = list(_grouped(runs, lambda run: json.dumps(run.keys, sort_keys=True)).values())
    said = labels([group[0].keys for group in groups])
    if len(groups) == 1:
        said = ["stage={stage}, algorithm={algorithm}".format(**groups[0][0].summary)]
    marks = [*ascii_uppercase, *(f"{a}{b}" for a in ascii_uppercase for b in ascii_uppercase)]
    configurations = [
        Configuration(mark, label, group) for mark, label, group in zip(marks, said, groups, strict=False)
    ]
    about = runs[0].summary["panel"]
    return Panel(about["name"], about["sha256"], configurations)


def _once(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Without runs that repeat another: counted twice, one seed would pass for two."""
    seen: dict[str, Run] = {}
    notes = []
    for run in runs:
        first = seen.setdefault(json.dumps([run.keys, run.seeds, run.panel["sha256"]], sort_keys=True), run)
        if first is not run:
            notes.append(f"{run.name} is left out: it has the configuration and the seed of {first.name}")
    return list(seen.values()), notes


def _revisions(panel: Panel) -> Iterator[str]:
    revisions = dict.fromkeys((run.summary["git_revision"] or "unknown")[:8] for run in panel.runs)
    if len(revisions) > 1:
        yield f"evaluation set {panel.name}: its runs are of several revisions of the code ({', '.join(revisions)})"


def _judges(panel: Panel) -> Iterator[str]:
    if any(configuration.judge != panel.configurations[0].judge for configuration in panel.configurations):
        yield f"evaluation set {panel.name}: not all configurations have the same judge; what two judges said is not compared"


def _grouped(runs: Sequence[Run], key: Any) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups
