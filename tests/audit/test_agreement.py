"""Agreement and kappa: equal to scikit-learn's, with intervals of the right coverage."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from pilotrl.audit.agreement import agreed
from pilotrl.types import Task


def pairs(tasks: int, each: int, seed: int = 0, levels: int = 5) -> list[tuple[Task, int, int]]:
    """Verdicts of two judges that mostly agree."""
    rng = np.random.default_rng(seed)
    said = rng.integers(levels, size=tasks * each)
    other = np.where(rng.random(len(said)) < 0.6, said, rng.integers(levels, size=len(said)))
    names = [Task("toy", f"t{i // each}", "test", 0) for i in range(len(said))]
    return list(zip(names, said.tolist(), other.tolist(), strict=True))


@pytest.mark.parametrize(("power", "weights"), [(0, None), (2, "quadratic")])
def test_kappa_is_that_of_scikit_learn(power: int, weights: str | None) -> None:
    said = pairs(20, 7)
    found = agreed(said, power)
    assert found is not None
    one, other = [a for _, a, _ in said], [b for _, _, b in said]
    assert found["kappa"]["mean"] == pytest.approx(cohen_kappa_score(one, other, weights=weights))
    assert found["agreement"] == pytest.approx(np.mean(np.equal(one, other)))
    assert (found["tasks"], found["items"]) == (20, 140)


def test_an_interval_over_tasks_holds_the_kappa_of_very_many_tasks() -> None:
    truth = agreed(pairs(2000, 5, seed=99), 0)
    assert truth is not None
    held = 0
    for seed in range(30):
        found = agreed(pairs(25, 5, seed), 0)
        assert found is not None
        held += found["kappa"]["low"] <= truth["kappa"]["mean"] <= found["kappa"]["high"]
    assert held >= 25  # of 30; 95 % are 28


def test_verdicts_of_one_task_are_one_draw() -> None:
    """Ten times the same verdicts within each task say no more than once."""
    once = pairs(30, 1)
    often = [pair for pair, _ in product(once, range(10))]
    (a, b) = (agreed(said, 0) for said in (once, often))
    assert a is not None
    assert b is not None
    assert a["kappa"] == pytest.approx(b["kappa"])


def test_what_is_not_defined_is_none() -> None:
    task, other = (Task("toy", name, "test", 0) for name in "ab")
    none = {"mean": None, "low": None, "high": None}
    assert agreed([], 0) is None
    assert agreed([(task, 2, 2), (other, 2, 2)], 0) == {"tasks": 2, "items": 2, "agreement": 1.0, "kappa": none}
    alone = agreed([(task, 2, 2), (task, 1, 1)], 0)
    assert alone is not None
    assert alone["kappa"] == {"mean": 1.0, "low": None, "high": None}
