"""What a report says was found, whom it compares with whom, and the main effects of a factorial."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pytest

from pilotrl.analysis.statistics import Contrast, difference, effect
from pilotrl.report.comparisons import APART, baselines, compared
from pilotrl.report.configurations import Panel, sorted_out
from pilotrl.report.factorial import factorial, main_effects
from pilotrl.report.figures import groups, learning
from pilotrl.report.findings import ASKED, finding
from pilotrl.report.forest import forest
from pilotrl.report.html import View, findings
from pilotrl.report.runs import Cell, Run
from pilotrl.types import Task, UserError

TAUGHT = Cell("eval_teacher", "sampled", "success")


def made(keys: Mapping[str, Any], values: Any, seed: int = 0, name: str = "toy", metrics: Any = (), **more: Any) -> Run:
    """A run whose success on each task after training is in `values`, and 0.25 before."""
    tasks = [Task("toy", str(i), "test", 0) for i in range(len(values))]
    after = {ASKED: dict(zip(tasks, map(float, values), strict=True)), **more}
    summary = {"panel": {"name": name, "sha256": name * 9}, "git_revision": "0", "stage": "s", "algorithm": "a"}
    before = {cell: dict.fromkeys(tasks, 0.25) for cell in after}
    return Run(name, dict(keys), [seed], summary, list(metrics), {"sha256": name * 9}, before, after)


def panel_of(*ways: tuple[Mapping[str, Any], float], seeds: int = 3, noise: float = 0.05, tasks: int = 40) -> Panel:
    """An evaluation set with a configuration for each (keys, mean success): runs differ by a hundredth, tasks by `noise`."""
    rng = np.random.default_rng(1)
    found = [
        made(keys, mean + rng.normal(size=tasks) * noise + 0.01 * seed, seed)
        for keys, mean in ways
        for seed in range(seeds)
    ]
    (panel,), _ = sorted_out(found)
    return panel


def said(panel: Panel, label: str | None = None) -> list[str]:
    (baseline,), _ = baselines([panel], label) if label else ([None], [])
    return finding(panel, [*compared(panel, baseline)], [*main_effects(panel, baseline)], baseline)


def shown(found: Contrast) -> str:
    held = found.over_seeds or found.over_tasks
    low, high = held["low"], held["high"]
    assert low is not None
    assert high is not None
    ends = f"{100 * low:+.1f} to {100 * high:+.1f}"
    return f"{100 * (held['mean'] or 0):+.1f} percentage points (95 % CI over {{}} {ends})".replace("-", "−")


def test_the_one_that_comes_out_first_is_named_with_its_distance_to_the_second() -> None:
    panel = panel_of(({"lr": 1}, 0.3), ({"lr": 2}, 0.6), ({"lr": 3}, 0.5))
    (line,) = said(panel)
    after = [[run.after[ASKED] for run in one.runs] for one in panel.configurations]
    gap = shown(difference(after[1], after[2])).format("tasks and seeds")
    assert line.startswith("B (lr=2) came out first with 6")
    assert f"success after training, {gap} above C (lr=3), and is told apart from the others too." in line
    assert line.endswith(" 40 tasks, 3 seeds each; intervals are not adjusted for the 3 comparisons.")


def test_where_nothing_can_be_told_apart_it_says_what_could_have_been() -> None:
    panel = panel_of(({"lr": 1}, 0.5), ({"lr": 2}, 0.505), ({"lr": 3}, 0.5), noise=0.3)
    (line,) = said(panel)
    found = [one for one in compared(panel) if one.cell == ASKED]
    assert {one.verdict for one in found} == {APART}
    widest = max(found, key=lambda one: abs(one.contrast.over_tasks["mean"] or 0))
    assert line.startswith("No two of the 3 configurations can be told apart in success after training")
    assert shown(widest.contrast).format("tasks and seeds") in line
    largest = max(one.contrast.detectable or 0 for one in found)
    assert f"a true difference of {100 * largest:.1f} points or more would have been detected with 80 %" in line
    (two,) = said(panel_of(({"lr": 1}, 0.5), ({"lr": 2}, 0.505), noise=0.3))
    assert two.startswith("A (lr=1) and B (lr=2) cannot be told apart")
    assert "not adjusted" not in two


def test_a_leader_that_is_not_told_apart_from_all_did_not_come_out_first() -> None:
    panel = panel_of(({"lr": 1}, 0.2), ({"lr": 2}, 0.602), ({"lr": 3}, 0.6))
    (line,) = said(panel)
    leader = "B" if line.startswith("B") else "C"
    other = {"B": "C (lr=3)", "C": "B (lr=2)"}[leader]
    assert line.startswith(f"{leader} (lr=")
    assert f"above A, but is not told apart from {other}: " in line
    assert "2 of 3 pairs can be told apart" in line
    assert "came out first" not in line


def test_one_seed_is_said_to_be_one() -> None:
    (line,) = said(panel_of(({"lr": 1}, 0.3), ({"lr": 2}, 0.6), seeds=1))
    assert line.startswith("B (lr=2) came out first")
    assert "(95 % CI over tasks +" in line
    assert line.endswith("40 tasks, 1 seed each; of one seed nothing follows for another.")


def test_one_configuration_is_told_by_what_training_changed() -> None:
    (line,) = said(panel_of(({"lr": 1}, 0.5)))
    assert "success was 25.0 % before training and 5" in line
    assert "chance alone" not in line
    (line,) = said(panel_of(({"lr": 1}, 0.25), noise=0.4))
    assert "which chance alone could explain; a true difference of " in line


def test_configurations_are_compared_within_an_evaluation_set_only() -> None:
    rng = np.random.default_rng(0)
    runs = [
        made({"lr": lr}, 0.2 * lr + 0.1 * rng.random(30), seed, name)
        for lr, name in ((1, "one"), (2, "one"), (1, "other"), (4, "other"))
        for seed in (0, 1)
    ]
    panels, notes = sorted_out(runs)
    lines = findings([View(panel) for panel in panels])
    assert [line.partition(": ")[0] for line in lines] == [
        "Evaluation set one (oneoneon)",
        "Evaluation set other (otheroth)",
    ]
    assert "B (lr=2) came out first" in lines[0]
    assert "B (lr=4) came out first" in lines[1]
    assert "lr=4" not in lines[0]
    assert "is another one" in notes[0]
    alone = findings([View(panel) for panel in sorted_out([runs[0], runs[1], runs[6], runs[7]])[0]])
    assert all("One configuration" in line and "came out" not in line for line in alone)


def test_a_report_of_nothing_says_so() -> None:
    assert findings([]) == ["No finished run could be read: there is nothing to report."]


THREE = panel_of(
    ({"stage.name": "joint", "train.lr": 1, "stage.order": ["a", "b"]}, 0.3),
    ({"stage.name": "joint", "train.lr": 2, "stage.order": ["a", "b"]}, 0.6),
    ({"stage.name": "planning", "train.lr": 2, "stage.order": []}, 0.31),
)


@pytest.mark.parametrize(
    ("label", "mark"),
    [
        ("A", "A"),
        ("C", "C"),
        ("stage=joint, lr=1", "A"),
        ("B: stage=joint, lr=2", "B"),
        ("lr=2,stage=joint", "B"),
        ("train.lr=1", "A"),
        ("stage.name=planning", "C"),
        ("order=[a,b],lr=2", "B"),
    ],
)
def test_a_baseline_is_picked_by_its_letter_its_label_or_its_keys(label: str, mark: str) -> None:
    assert THREE.configurations[0].label == "stage=joint, lr=1"
    (found,), notes = baselines([THREE], label)
    assert found is not None
    assert (found.mark, notes) == (mark, [])


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("D", "there is no such configuration; there are A: stage=joint, lr=1; B: stage=joint, lr=2; C: "),
        ("joint", "there is no such configuration"),
        ("lr=3", "there is no such configuration"),
        ("unheard=1", "there is no such configuration"),
        ("lr=2", "picks 2 configurations (B: stage=joint, lr=2; C: stage=planning, lr=2); name one"),
    ],
)
def test_a_baseline_that_is_none_or_several_is_refused(label: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        baselines([THREE], label)
    assert str(error.value).startswith(f"baseline={label}: {says}")


def test_with_a_baseline_every_other_configuration_is_compared_with_it_and_with_nothing_else() -> None:
    (baseline,), _ = baselines([THREE], "B")
    against = [(one.pair, one.contrast.over_tasks["mean"]) for one in compared(THREE, baseline)]
    pairs = {one.pair: one.contrast.over_tasks["mean"] for one in compared(THREE)}
    assert against == [("A − B", pairs["A − B"]), ("C − B", pytest.approx(-(pairs["B − C"] or 0)))]
    (line,) = said(THREE, "A")
    assert line.startswith("A (stage=joint, lr=1), the baseline, has 3")
    above, _, alike = line.partition("; not told apart from it: ")
    assert "; above it: B (stage=joint, lr=2) +" in above
    assert alike.startswith("C (stage=planning, lr=2)")
    (line,) = said(THREE, "B")
    assert line.index("; below it: C (stage=planning, lr=2) −") < line.index(", A (stage=joint, lr=1) −")


def test_an_evaluation_set_without_the_baseline_compares_every_two_and_says_so() -> None:
    other = panel_of(({"lr": 7}, 0.3), ({"lr": 8}, 0.5))
    found, notes = baselines([THREE, other], "lr=1")
    assert [one and one.mark for one in found] == ["A", None]
    assert notes == ["evaluation set toy: no configuration is lr=1, so every two are compared"]


def crossed(stages: str = "xy", rates: tuple[int, ...] = (1, 2, 3), **more: Any) -> list[Mapping[str, Any]]:
    """Two crossed keys; an option sets another key along."""
    return [
        {"stage.steps": 9 * (stage == "x"), "stage.name": stage, "lr": rate, **more}
        for stage, rate in product(stages, rates)
    ]


def test_main_effects_are_means_over_the_other_keys() -> None:
    means = (0.1, 0.2, 0.3, 0.5, 0.6, 0.8)
    panel = panel_of(*zip(crossed(), means, strict=True))
    found = {one.pair: one for one in main_effects(panel)}
    assert [*found] == ["stage: x − y", "lr: 1 − 2", "lr: 1 − 3", "lr: 2 − 3"]
    after = [[run.after[ASKED] for run in one.runs] for one in panel.configurations]
    assert found["stage: x − y"].contrast == effect(after[:3], after[3:])
    assert found["lr: 1 − 3"].contrast == effect(after[0::3], after[2::3])
    pairs = {one.pair: one.contrast.over_tasks["mean"] or 0 for one in compared(panel)}
    by_hand = (pairs["A − C"] + pairs["D − F"]) / 2
    assert found["lr: 1 − 3"].contrast.over_tasks["mean"] == pytest.approx(by_hand)
    assert found["stage: x − y"].verdict == "y higher"
    first, second = said(panel)
    assert first.startswith("F (stage=y, lr=3) came out first")
    assert second.startswith(f"Main effects on success: stage: x − y {shown(found['stage: x − y'].contrast)}"[:50])


def test_main_effects_are_against_the_value_of_the_baseline() -> None:
    panel = panel_of(*zip(crossed(), (0.1, 0.2, 0.3, 0.5, 0.6, 0.8), strict=True))
    (baseline,), _ = baselines([panel], "stage=y,lr=2")
    assert [one.pair for one in main_effects(panel, baseline)] == ["stage: x − y", "lr: 1 − 2", "lr: 3 − 2"]


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (crossed()[:-1], "5 of the 6 combinations of stage and lr are there"),
        ([*crossed("xy", (1, 2)), {"stage.name": "x", "stage.steps": 9, "lr": 3}], "5 of the 6 combinations of"),
        (
            [{"a": a, "b": b, "c": a ^ b} for a, b in product((0, 1), (0, 1))],
            "c varies with no single one of a and b",
        ),
    ],
)
def test_an_unbalanced_design_has_no_main_effects_and_a_note_says_why(keys: Any, why: str) -> None:
    panel = panel_of(*((one, 0.3) for one in keys))
    design, note = factorial(panel.configurations)
    assert design == [] == [*main_effects(panel)]
    assert why in str(note)
    assert View(panel).without_effects == note


def test_one_key_is_no_factorial_and_needs_no_note() -> None:
    """However many others it sets, and if it refines another."""
    for keys in (
        [{"lr": 1}, {"lr": 2}],
        [{"stage.name": name, "a": name * 2, "b": name < "y"} for name in "xyz"],
        [{"coarse": rate > 2, "fine": rate} for rate in (1, 2, 3)],
    ):
        assert factorial(panel_of(*((one, 0.3) for one in keys)).configurations) == ([], None)


def test_what_not_every_configuration_measured_has_no_main_effect_and_no_empty_rows() -> None:
    rng = np.random.default_rng(2)
    taught = {Task("toy", str(i), "test", 0): 0.5 + 0.01 * i for i in range(30)}
    more: list[dict[Cell, Any]] = [{TAUGHT: taught}, {TAUGHT: taught}, {}, {}]
    runs = []
    for keys, cells in zip(crossed("xy", (1, 2)), more, strict=True):
        for seed in (0, 1):
            run = made(keys, rng.random(30), seed)
            runs.append(Run(**{**vars(run), "after": run.after | cells, "before": run.before | cells}))
    (panel,), _ = sorted_out(runs)
    assert {one.cell for one in main_effects(panel)} == {ASKED}
    view = View(panel)
    figure = forest({cell: {one.pair: one.contrast for one in found} for cell, found in view.comparisons.items()})
    assert figure is not None
    assert [[tick.get_text() for tick in axes.get_yticklabels()] for axes in figure.axes] == [
        ["A − B", "A − C", "A − D", "B − C", "B − D", "C − D"],
        ["A − B"],
    ]
    assert all(axes.get_lines() for axes in figure.axes)


def test_a_forest_says_what_its_letters_stand_for_where_there_is_room() -> None:
    rows = {one.pair: one.contrast for one in compared(THREE)}
    names = [one.name for one in THREE.configurations]
    figure = forest({ASKED: rows}, names)
    assert figure is not None
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    many = forest({ASKED: rows}, names * 9)
    assert many is not None
    assert not many.legends
    assert forest({}) is None
    assert forest({ASKED: {}}) is None


def test_fields_with_other_rows_stand_on_a_line_of_their_own() -> None:
    """Two judges leave pairs of one block without a comparison: each field names its own rows."""
    rows = {one.pair: one.contrast for one in compared(THREE)}
    graded = Cell("eval", "sampled", "adherence")
    figure = forest({ASKED: rows, graded: {"B − C": rows["B − C"]}, TAUGHT: rows})
    assert figure is not None
    named = [[tick.get_text() for tick in axes.get_yticklabels()] for axes in figure.axes]
    assert named == [[*rows], ["B − C"], [*rows]]


def test_nothing_empty_is_drawn() -> None:
    """No curve that no run has, none of steps that runs do not share, no groups where all have spread."""
    lines = [{"step": step, "train/entropy": None, "train/frac_reward_zero_std": 0.0} for step in (1, 2)]
    first = [{**line, "env/turns": 3.0} if line["step"] == 1 else line for line in lines]
    second = [{**line, "env/turns": 3.0} if line["step"] == 2 else line for line in lines]
    runs = [made({"lr": 1}, [0.5] * 3, seed, metrics=metrics) for seed, metrics in enumerate((first, second))]
    (panel,), _ = sorted_out(runs)
    assert learning(panel) is None
    assert groups(panel) is None
    assert not View(panel).pictures
    (panel,), _ = sorted_out([runs[0]])
    figure = learning(panel)
    assert figure is not None
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "turns an episode"
    assert axes.get_lines()[0].get_marker() == "o", "one step is a dot: it makes no line"
    low, high = axes.get_xlim()
    assert low < 1
    assert high > 2, "the axis of steps is that of the whole training"
