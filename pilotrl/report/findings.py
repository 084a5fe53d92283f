"""What was found, in a sentence or two for each evaluation set: on top of the page, of the tables, and in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from pilotrl.analysis.statistics import Contrast
from pilotrl.report.comparisons import Comparison, clear, told_apart
from pilotrl.report.configurations import Configuration, Panel
from pilotrl.report.factorial import Effect
from pilotrl.report.formatting import change, interval, number, size
from pilotrl.report.runs import Cell

ASKED = Cell("eval", "sampled", "success")
"""What a finding is about: success under the policy's own plans, sampled, which every run measures."""
MOST = 4
"""Things of a kind that a sentence lists."""
Ahead = tuple[Configuration, Contrast, bool]
"""Another configuration, the difference to it, and whether that is written the other way round."""


def finding(
    panel: Panel,
    comparisons: Sequence[Comparison],
    effects: Sequence[Effect],
    baseline: Configuration | None = None,
) -> list[str]:
    """Which configuration is ahead in success, by how much and how surely, or what could have been found; then, of a factorial,
    what each key does.

    Comparisons and effects may be of any measure; those of success under the policy's own plans count."""
    asked = [found for found in comparisons if found.cell == ASKED]
    if len(panel.configurations) == 1:
        return [_alone(panel.configurations[0])]
    if not asked:
        return ["No two configurations can be compared in success after training: no task was measured in both."]
    said = _against(asked, baseline) if baseline is not None else _first(panel, asked)
    return [said, *_means([effect for effect in effects if effect.cell == ASKED])]


def _alone(one: Configuration) -> str:
    """Of the only configuration: what training changed."""
    if one.mean("before", ASKED) is None or one.mean("after", ASKED) is None:
        return "Success was not measured before and after training."
    gained = one.gain(ASKED)
    before, after = (number(one.mean(when, ASKED), ASKED) for when in ("before", "after"))
    told = f"success was {before} before training and {after} after: {_sized(gained)}"
    sure = "" if told_apart(gained) else f", which chance alone could explain{_power(gained)}"
    return f"One configuration ({one.label}): {told}{sure}. {_about([one], gained)}."


def _first(panel: Panel, asked: Sequence[Comparison]) -> str:
    """Of every two configurations."""
    alike = [found for found in asked if not told_apart(found.contrast)]
    if len(alike) == len(asked):
        return _nobody(panel, asked)
    leader, others = max(
        ((one, _seen_from(one, asked)) for one in panel.configurations if _seen_from(one, asked)),
        key=lambda of: min(_mean(found, turned) for _, found, turned in of[1]),
    )
    second, nearest, turned = min(others, key=lambda other: _mean(*other[1:]))
    beaten = [other for other, found, turn in others if told_apart(found) and _mean(found, turn) > 0]
    solved = number(leader.mean("after", ASKED), ASKED)
    about = _about(panel.configurations, nearest, len(asked))
    if len(beaten) == len(others):
        rest = "" if len(others) == 1 else ", and is told apart from the others too"
        lead = f"{_called(leader)} came out first with {solved} success after training, {_sized(nearest, turned)}"
        return f"{lead} above {_called(second)}{rest}. {about}."
    close = _some([f"{_called(one)}: {_sized(found, turn)}" for one, found, turn in others if one not in beaten])
    above = f"above {_some([one.mark for one in beaten])}, but " if beaten else "but "
    apart = f"{len(asked) - len(alike)} of {len(asked)} pairs can be told apart"
    power = _power(*(found.contrast for found in alike))
    lead = f"{_called(leader)} has the highest success after training ({solved}), {above}is not told apart from {close}"
    return f"{lead}; {apart}{power}. {about}."


def _nobody(panel: Panel, asked: Sequence[Comparison]) -> str:
    """No pair can be told apart."""
    widest = max(asked, key=lambda found: abs(found.contrast.over_tasks["mean"] or 0))
    size_of = f"is {_sized(widest.contrast)}{_power(*(found.contrast for found in asked))}"
    first, second = _called(widest.first), _called(widest.second)
    about = _about(panel.configurations, widest.contrast, len(asked))
    if len(asked) == 1:
        lead = f"{first} and {second} cannot be told apart in success after training: the difference, {widest.pair},"
    else:
        whom = f"No two of the {len(panel.configurations)} configurations can be told apart in success after training"
        lead = f"{whom}: the largest difference, {first} − {second},"
    return f"{lead} {size_of}. {about}."


def _against(asked: Sequence[Comparison], baseline: Configuration) -> str:
    """Of each with a baseline."""
    parts = [
        f"{_called(baseline)}, the baseline, has {number(baseline.mean('after', ASKED), ASKED)} success after training"
    ]
    ranked = sorted(asked, key=lambda found: -(found.contrast.over_tasks["mean"] or 0))
    sure = [found for found in ranked if told_apart(found.contrast)]
    for where, sign in (("above it", 1), ("below it", -1)):
        side = [found for found in sure if sign * (found.contrast.over_tasks["mean"] or 0) > 0]
        if side:
            parts.append(f"{where}: {_some([f'{_called(one.first)} {_sized(one.contrast)}' for one in side])}")
    if alike := [found for found in ranked if not told_apart(found.contrast)]:
        close = _some([f"{_called(one.first)} {_sized(one.contrast)}" for one in alike])
        parts.append(f"not told apart from it: {close}{_power(*(one.contrast for one in alike))}")
    about = _about([baseline, *(one.first for one in asked)], asked[0].contrast, len(asked))
    return f"{'; '.join(parts)}. {about}."


def _means(effects: Sequence[Effect]) -> list[str]:
    """Of each key what can be told, or else its largest effect."""
    if not effects:
        return []
    keys: dict[str, list[Effect]] = {}
    for effect in effects:
        keys.setdefault(effect.factor.key, []).append(effect)
    parts = []
    for found in keys.values():
        found.sort(key=lambda effect: -abs(effect.contrast.over_tasks["mean"] or 0))
        sure = [effect for effect in found if told_apart(effect.contrast)]
        told = _some([f"{effect.pair} {_sized(effect.contrast)}" for effect in sure or found[:1]])
        parts.append(told if sure else f"{told}, not told apart from 0")
    return [f"Main effects on success: {'; '.join(parts)}."]


def _seen_from(one: Configuration, asked: Sequence[Comparison]) -> list[Ahead]:
    """Everything it is compared with."""
    first = [(found.second, found.contrast, False) for found in asked if found.first is one]
    return first + [(found.first, found.contrast, True) for found in asked if found.second is one]


def _mean(found: Contrast, turned: bool) -> float:
    mean = found.over_tasks["mean"] or 0.0
    return -mean if turned else mean


def _sized(found: Contrast, turned: bool = False) -> str:
    """+8.3 percentage points (95 % CI over tasks and seeds +2.0 to +14.0)"""
    held, name = _widest(found)
    low, high = held["low"], held["high"]
    if turned and low is not None and high is not None:
        held = {"low": -high, "high": -low}
    ends = interval(held, ASKED)
    return f"{change(_mean(found, turned), ASKED)} percentage points" + (
        "" if ends == "-" else f" (95 % CI over {name} {ends})"
    )


def _widest(found: Contrast) -> tuple[dict[str, float | None], str]:
    """The interval that decides, and what it is over."""
    if found.over_seeds is None or (clear(found.over_seeds) and not clear(found.over_tasks)):
        return found.over_tasks, "tasks"
    return found.over_seeds, "tasks and seeds"


def _power(*alike: Contrast) -> str:
    """What could have been found."""
    known = [found.detectable for found in alike if found.detectable is not None]
    return (
        f"; a true difference of {size(max(known), ASKED)} points or more would have been detected with 80 % probability"
        if known
        else ""
    )


def _about(configurations: Sequence[Configuration], found: Contrast, intervals: int = 1) -> str:
    """Over how many tasks and seeds; what does not follow."""
    counts = sorted({len(one.runs) for one in configurations})
    seeds = (
        f"{counts[0]} to {counts[-1]} seeds each"
        if len(counts) > 1
        else f"{counts[0]} seed{'s' * (counts[0] > 1)} each"
    )
    seeds = seeds.removesuffix(" each") if len(configurations) == 1 else seeds
    more = "; of one seed nothing follows for another" if counts[0] == 1 else ""
    more += f"; intervals are not adjusted for the {intervals} comparisons" if intervals > 1 else ""
    return f"{found.tasks} tasks, {seeds}{more}"


def _called(one: Configuration) -> str:
    return f"{one.mark} ({one.label})"


def _some(parts: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(parts) - MOST} more" if len(parts) > MOST else ""
    return ", ".join(parts[:MOST]) + more
