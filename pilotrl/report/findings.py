"""What was found, in plain words for each evaluation set: on top of the page, of the tables, and in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from pilotrl.analysis.contrasts import Contrast
from pilotrl.analysis.measures import BLOCKS
from pilotrl.report.comparisons import Comparison
from pilotrl.report.configurations import Configuration, Panel
from pilotrl.report.factorial import Effect
from pilotrl.report.formatting import change, interval, number, size
from pilotrl.report.runs import Cell

ASKED = Cell("eval", "sampled", "success")
"""What a finding is about: success under the policy's own plans, sampled, which every run measures ..."""
TAUGHT = Cell("eval_teacher", "sampled", "success")
"""... and before it, where nothing but following a teacher's plans was trained, success with those."""
MOST = 4
"""Things of a kind that a sentence lists."""


def finding(
    panel: Panel,
    comparisons: Sequence[Comparison],
    effects: Sequence[Effect],
    baseline: Configuration | None = None,
    planned: bool = False,
) -> list[str]:
    """Which differences in success hold, how large and how sure they are, or what could have been found; of a factorial
    what each key does first, since the pairs are many.

    Comparisons and effects may be of any measure; those of success count. `baseline` and `planned` say how they were chosen."""
    if len(panel.configurations) == 1:
        return [_alone(panel.configurations[0], cell, _called(cell, panel)) for cell in _cells(panel)]
    lines = []
    for cell in _cells(panel):
        what = f"success with {_called(cell, panel)}"
        if keys := [effect for effect in effects if effect.cell == cell]:
            lines.append(f"{_found(keys, 'main effects on', what)}.")
        if asked := [found for found in comparisons if found.cell == cell]:
            kind = "planned comparisons of" if planned else "comparisons of"
            against = f" with the baseline {_name(baseline)}" if baseline is not None else ""
            first = "" if planned else _first(panel, asked)
            lines.append(f"{_found(asked, kind, what + against)}{first}. {_about(asked)}.")
    return lines or ["No two configurations can be compared in success after training: no task was measured in both."]


def _cells(panel: Panel) -> list[Cell]:
    taught = all(_follows(one) for one in panel.configurations) and TAUGHT in panel.cells
    return [TAUGHT, ASKED] if taught else [ASKED]


def _follows(one: Configuration) -> bool:
    """Whether its runs trained nothing but following a teacher's plans."""
    run = one.runs[0]
    return not run.stages and (run.keys.get("stage.actor"), run.keys.get("stage.planner")) == ("policy", "teacher")


def _called(cell: Cell, panel: Panel) -> str:
    trained = " (what was trained)" if cell == TAUGHT else ""
    return ("the " if cell == TAUGHT else "") + BLOCKS[cell.block] + trained


def _alone(one: Configuration, cell: Cell, plans: str) -> str:
    """Of the only configuration: what training changed."""
    if one.mean("before", cell) is None or one.mean("after", cell) is None:
        return f"Success with {plans} was not measured before and after training."
    gained = one.gain(cell)
    before, after = (number(one.mean(when, cell), cell) for when in ("before", "after"))
    size_of = f"{change(gained.over_tasks['mean'], cell)} percentage points{_ends(gained, 1)}"
    sure = "" if gained.holds else f", which chance alone could explain{_power([gained])}"
    told = f"success with {plans} was {before} before training and {after} after: {size_of}{sure}"
    return f"One configuration ({one.label}): {told}. {_counts([one], gained)}."


def _found(asked: Sequence[Comparison | Effect], kind: str, what: str) -> str:
    """Of how many how many hold, and which; where none does, the largest; and what could have been seen."""
    ranked = sorted(asked, key=lambda found: -abs(found.contrast.over_tasks["mean"] or 0))
    held = [found for found in ranked if found.contrast.holds]
    close = [found.contrast for found in ranked if not found.contrast.holds]
    if len(asked) == 1:
        head = f"Planned comparison of {what}" if kind.startswith("planned") else ""
        head = head or f"{what[0].upper()}{what[1:]}"
        sure = "" if held else f"{asked[0].called[0]} and {asked[0].called[1]} cannot be told apart: "
        return f"{head}: {sure}{_over(asked[0])}{_power(close)}"
    of = f"Of {len(asked)} {kind} {what}"
    if held:
        told = _some([_over(found) for found in held])
        return f"{of}, {len(held)} hold{'s' * (len(held) == 1)} after Holm's correction: {told}{_power(close)}"
    whom = (
        "no difference can be told from 0"
        if isinstance(asked[0], Effect)
        else "no configuration can be told from another"
    )
    none = f"{of}, none holds after Holm's correction: {whom if not kind.startswith('planned') else 'nothing can be told apart'}"
    return f"{none}; the largest difference is {_over(ranked[0])}{_power(close)}"


def _first(panel: Panel, asked: Sequence[Comparison]) -> str:
    """The configuration that is above every other, if there is one."""
    if len(asked) == 1:
        return ""
    for one in panel.configurations:
        mine = [found for found in asked if one is found.first[0] or one is found.second[0]]
        won = [found for found in mine if found.contrast.holds and _ahead(found)[0] is one]
        if len(won) == len(panel.configurations) - 1:
            after = number(one.mean("after", asked[0].cell), asked[0].cell)
            return f"; {_name(one)} came out first with {after}, above every other"
    return ""


def _ahead(found: Comparison) -> Sequence[Configuration]:
    sides = found.first, found.second
    return sides[(found.contrast.over_tasks["mean"] or 0) < 0][:1]


def _over(found: Comparison | Effect) -> str:
    """C (lr=2) over D (lr=1) by 8.3 points (95 % CI over tasks and seeds +2.1 to +14.4)"""
    mean = found.contrast.over_tasks["mean"] or 0.0
    first, second = found.called[::-1] if mean < 0 else found.called
    return (
        f"{first} over {second} by {size(abs(mean), found.cell)} points{_ends(found.contrast, -1 if mean < 0 else 1)}"
    )


def _ends(found: Contrast, sign: int) -> str:
    held, name = (found.over_tasks, "tasks") if found.over_seeds is None else (found.over_seeds, "tasks and seeds")
    low, high = held["low"], held["high"]
    if low is None or high is None:
        return ""
    ends = sorted((sign * low, sign * high))
    return f" (95 % CI over {name} {interval({'low': ends[0], 'high': ends[1]}, ASKED)})"


def _power(close: Sequence[Contrast]) -> str:
    """What could have been seen, of those that do not hold."""
    known = [detectable for found in close if (detectable := found.detectable) is not None]
    if not known:
        return ""
    return f"; a true difference below {size(max(known), ASKED)} points could not have been seen with 80 % probability"


def _about(asked: Sequence[Comparison]) -> str:
    """Over how many tasks and seeds; what the intervals are."""
    told = _counts([one for found in asked for one in (*found.first, *found.second)], asked[0].contrast)
    return told + ("; each interval is a single one, the verdicts are corrected" if len(asked) > 1 else "")


def _counts(configurations: Sequence[Configuration], found: Contrast) -> str:
    counts = sorted({len(one.runs) for one in configurations})
    seeds = f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else f"{counts[0]} seed{'s' * (counts[0] > 1)}"
    each = " each" if len(configurations) > 1 else ""
    more = "; of one seed nothing follows for another" if counts[0] == 1 else ""
    return f"{found.tasks} tasks, {seeds}{each}{more}"


def _name(one: Configuration | None) -> str:
    return f"{one.mark} ({one.label})" if one else ""


def _some(parts: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(parts) - MOST} more" if len(parts) > MOST else ""
    return ", ".join(parts[:MOST]) + more
