"""What a report says was found, whom it compares with whom, and the main effects of a factorial."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pytest

from pilotrl.analysis.contrasts import Contrast, difference, effect
from pilotrl.report.comparisons import APART, compared
from pilotrl.report.configurations import Panel, sorted_out
from pilotrl.report.factorial import factorial, main_effects
from pilotrl.report.figures import groups, learning
from pilotrl.report.findings import ASKED, TAUGHT, finding
from pilotrl.report.forest import forest
from pilotrl.report.html import View, findings
from pilotrl.report.planned import baselines, contrasts
from pilotrl.report.runs import Cell, Run
from pilotrl.types import Task, UserError


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
    """The difference, from the side that is higher."""
    held = found.over_seeds or found.over_tasks
    mean, low, high = held["mean"] or 0, held["low"], held["high"]
    assert low is not None
    assert high is not None
    low, high = (low, high) if mean > 0 else (-high, -low)
    return f"{abs(100 * mean):.1f} points (95 % CI over {{}} {100 * low:+.1f} to {100 * high:+.1f})".replace("-", "−")


def test_it_says_how_many_comparisons_hold_and_who_came_out_first() -> None:
    panel = panel_of(({"lr": 1}, 0.3), ({"lr": 2}, 0.6), ({"lr": 3}, 0.5))
    (line,) = said(panel)
    after = [[run.after[ASKED] for run in one.runs] for one in panel.configurations]
    gaps = [shown(difference(after[a], after[b])).format("tasks and seeds") for a, b in ((1, 0), (2, 0), (1, 2))]
    assert line.startswith(
        "Of 3 comparisons of success with own plans, 3 hold after Holm's correction: "
        f"B (lr=2) over A (lr=1) by {gaps[0]}, C (lr=3) over A (lr=1) by {gaps[1]}, B (lr=2) over C (lr=3) by {gaps[2]}; "
        "B (lr=2) came out first with 6"
    )
    assert line.endswith(
        "above every other. 40 tasks, 3 seeds each; each interval is a single one, the verdicts are corrected."
    )


def test_where_nothing_can_be_told_apart_it_says_what_could_have_been() -> None:
    panel = panel_of(({"lr": 1}, 0.5), ({"lr": 2}, 0.505), ({"lr": 3}, 0.5), noise=0.3)
    (line,) = said(panel)
    found = [one for one in compared(panel) if one.cell == ASKED]
    assert {one.verdict for one in found} == {APART}
    widest = max(found, key=lambda one: abs(one.contrast.over_tasks["mean"] or 0))
    assert (
        "none holds after Holm's correction: no configuration can be told from another; the largest difference" in line
    )
    assert shown(widest.contrast).format("tasks and seeds") in line
    largest = max(one.contrast.detectable or 0 for one in found)
    assert f"a true difference below {100 * largest:.1f} points could not have been seen with 80 %" in line
    (two,) = said(panel_of(({"lr": 1}, 0.5), ({"lr": 2}, 0.505), noise=0.3))
    assert two.startswith("Success with own plans: A (lr=1) and B (lr=2) cannot be told apart: ")
    assert "single" not in two


def test_a_leader_that_is_not_told_apart_from_all_did_not_come_out_first() -> None:
    (line,) = said(panel_of(({"lr": 1}, 0.2), ({"lr": 2}, 0.602), ({"lr": 3}, 0.6)))
    assert line.startswith("Of 3 comparisons of success with own plans, 2 hold after Holm's correction: ")
    assert "could not have been seen" in line
    assert "came out first" not in line


def test_one_seed_is_said_to_be_one() -> None:
    (line,) = said(panel_of(({"lr": 1}, 0.3), ({"lr": 2}, 0.6), seeds=1))
    assert line.startswith("Success with own plans: B (lr=2) over A (lr=1) by ")
    assert "(95 % CI over tasks +" in line
    assert line.endswith("40 tasks, 1 seed each; of one seed nothing follows for another.")


def test_one_configuration_is_told_by_what_training_changed() -> None:
    (line,) = said(panel_of(({"lr": 1}, 0.5)))
    assert "success with own plans was 25.0 % before training and 5" in line
    assert "chance alone" not in line
    (line,) = said(panel_of(({"lr": 1}, 0.25), noise=0.4))
    assert "which chance alone could explain; a true difference below " in line


@pytest.mark.parametrize("rates", [(1,), (1, 2)])
def test_what_learned_to_follow_a_teacher_is_told_by_the_teachers_plans_first(rates: tuple[int, ...]) -> None:
    """Each line says whose plans; a chain, or a stage that trains own plans, has them alone."""
    rng = np.random.default_rng(3)

    def lines(**keys: Any) -> list[str]:
        runs = []
        for rate in rates:
            for seed in (0, 1):
                run = made({"lr": rate, **keys}, rng.random(30) * rate / 2, seed)
                taught = {task: value + 0.2 for task, value in run.after[ASKED].items()}
                cells = run.after | {TAUGHT: taught}, run.before | {TAUGHT: run.before[ASKED]}
                runs.append(Run(**{**vars(run), "after": cells[0], "before": cells[1]}))
        (panel,), _ = sorted_out(runs)
        return said(panel)

    first, second = lines(**{"stage.actor": "policy", "stage.planner": "teacher"})
    assert "uccess with the teacher's plans (what was trained)" in first
    assert "uccess with own plans" in second
    (only,) = lines(**{"stage.actor": "policy", "stage.planner": "policy"})
    assert "uccess with own plans" in only


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
    assert "B (lr=2) over A (lr=1)" in lines[0]
    assert "B (lr=4) over A (lr=1)" in lines[1]
    assert "lr=4" not in lines[0]
    assert "is another one" in notes[0]
    alone = findings([View(panel) for panel in sorted_out([runs[0], runs[1], runs[6], runs[7]])[0]])
    assert all("One configuration" in line and " over " not in line.replace("over tasks", "") for line in alone)


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
    assert line.startswith("Of 2 comparisons of success with own plans with the baseline A (stage=joint, lr=1), ")
    assert "hold after Holm's correction: B (stage=joint, lr=2) over A (stage=joint, lr=1) by " in line.replace(
        "holds", "hold"
    )


def test_planned_comparisons_are_of_means_of_groups_and_a_family_of_their_own() -> None:
    ways = [({"lr": rate}, mean) for rate, mean in ((1, 0.3), (2, 0.32), (3, 0.31), (4, 0.5))]
    panel = panel_of(*ways, noise=0.2)
    (planned,), notes = contrasts([panel], ["A,C:B", "lr=4 : lr=1, lr=2"])
    found = [one for one in compared(panel, planned=planned) if one.cell == ASKED]
    after = [[run.after[ASKED] for run in one.runs] for one in panel.configurations]
    expected = [effect([after[0], after[2]], [after[1]]), effect([after[3]], after[:2])]
    assert [one.contrast.p for one in found] == [one.p for one in expected]
    assert [one.contrast.over_tasks for one in found] == [one.over_tasks for one in expected]
    assert [one.contrast.family for one in found] == [2, 2], "not the six of all pairs"
    assert [one.pair for one in found] == ["(A, C) − B", "D − (A, B)"]
    assert [one.verdict for one in found] == [APART, "D higher"]
    (line,) = finding(panel, found, [], planned=True)
    assert line.startswith(
        "Of 2 planned comparisons of success with own plans, 1 holds after Holm's correction: D (lr=4) over the mean of A, B by "
    )
    assert notes == []
    view = View(panel, None, planned)
    assert (view.all_effects, view.without_effects) == ([], None)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("A", "is not two groups with a colon between"),
        ("A:", "is not two groups"),
        ("A:B:C", "is not two groups"),
        ("A,B:B", "a configuration is in both groups"),
        ("A:Z", "there are no such configurations; there are A: stage=joint, lr=1; B: "),
        ("A,Z:B", "there are no such configurations"),
    ],
)
def test_a_contrast_that_is_none_is_refused(asked: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        contrasts([THREE], [asked])
    assert str(error.value).startswith(f"contrast={asked}: {says}")


def test_an_evaluation_set_without_the_groups_says_so() -> None:
    other = panel_of(({"lr": 7}, 0.3), ({"lr": 8}, 0.5))
    found, notes = contrasts([THREE, other], ["lr=1:lr=2"])
    assert [len(planned) for planned in found] == [1, 0]
    assert notes == ["evaluation set toy: it has no configurations for contrast=lr=1:lr=2"]


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
    alone = {"stage: x − y": effect(after[:3], after[3:]), "lr: 1 − 3": effect(after[0::3], after[2::3])}
    for name, one in alone.items():
        held = found[name].contrast
        assert (held.over_tasks, held.over_seeds, held.p, held.family) == (one.over_tasks, one.over_seeds, one.p, 4)
    pairs = {one.pair: one.contrast.over_tasks["mean"] or 0 for one in compared(panel)}
    by_hand = (pairs["A − C"] + pairs["D − F"]) / 2
    assert found["lr: 1 − 3"].contrast.over_tasks["mean"] == pytest.approx(by_hand)
    assert found["stage: x − y"].verdict == "y higher"
    first, second = said(panel)  # what each key does comes first
    assert first.startswith(
        "Of 4 main effects on success with own plans, 4 hold after Holm's correction: stage=y over stage=x by "
    )
    assert shown(alone["stage: x − y"]).format("tasks and seeds") in first
    assert "F (stage=y, lr=3) came out first" in second


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
