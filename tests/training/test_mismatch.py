"""An engine that is not the learner: the numbers that say how far it is, and what corrects for it, by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import exp, log
from typing import Any

import pytest
import torch

from pilotrl.training import mismatch
from pilotrl.training.algorithms import build
from pilotrl.types import UserError
from tests.conftest import Training, options

MOVED = torch.tensor([0.0, log(1.5), log(4.0), log(0.25)])
CALL = torch.tensor([7, 7, 8, 9])


def test_truncated_importance_sampling_caps_each_token() -> None:
    assert mismatch.weights("tis", MOVED, CALL).tolist() == pytest.approx([1.0, 1.5, 2.0, 0.25])


def test_a_sequence_mask_has_one_factor_a_call_and_leaves_out_what_is_above_its_cap() -> None:
    assert mismatch.weights("sequence_mask", MOVED, CALL).tolist() == pytest.approx([1.5, 1.5, 0.0, 0.25])
    both = torch.tensor([log(2.0), log(2.0)])
    assert mismatch.weights("sequence_mask", both, torch.tensor([0, 0])).tolist() == [0.0, 0.0]
    assert mismatch.weights("sequence_mask", both, torch.tensor([0, 1])).tolist() == pytest.approx([2.0, 2.0])
    assert mismatch.weights("sequence_mask", torch.tensor([2000.0]), torch.tensor([0])).tolist() == [0.0]
    assert len(mismatch.weights("sequence_mask", torch.empty(0), torch.empty(0).long())) == 0


def test_what_is_logged() -> None:
    found = mismatch.stats(torch.tensor([0.0, log(1.5), -log(3.0), 0.1], dtype=torch.float64))
    k3 = (0 + (0.5 - log(1.5)) + (1 / 3 - 1 + log(3.0)) + (exp(0.1) - 1 - 0.1)) / 4
    assert found == pytest.approx({"engine/kl": k3, "engine/largest": log(3.0), "engine/outside": 0.25})
    assert mismatch.stats(torch.empty(0)) == {}


def test_a_correction_that_there_is_not() -> None:
    with pytest.raises(UserError, match="correction=tsi: must be one of none, tis, sequence_mask"):
        build(options("grpo") | {"correction": "tsi"})


def one_step(training: Callable[..., Training], correction: str, shift: float) -> dict[str, float]:
    """Metrics of a step whose engine says that it was less sure of each token than the learner is, by `shift`."""
    run = training(steps=1, agent_spec={"temperature": 1.0})
    algorithm: Any = replace(run.module.algorithm, correction=correction)  # type: ignore[type-var]
    run.module.algorithm, run.module.correction, run.module.copied = algorithm, correction, True
    play = run.source.batch

    def shifted(step: int) -> Any:
        batch = play(step)
        batch.logprobs = batch.logprobs - shift
        return batch

    run.source.batch = shifted  # type: ignore[method-assign]
    run.fit()
    return run.module.metrics


def test_a_step_is_corrected_by_the_factor_of_its_tokens(training: Callable[..., Training]) -> None:
    plain = one_step(training, "none", 0.0)
    assert plain["train/grad_norm"] > 0
    assert plain["engine/kl"] < 1e-9
    assert plain["engine/largest"] < 1e-4
    shifted = one_step(training, "tis", log(1.5))
    assert shifted["train/grad_norm"] == pytest.approx(1.5 * plain["train/grad_norm"], rel=1e-4)
    assert shifted["train/kl"] == pytest.approx(0.0, abs=1e-9), "the learner has not moved"
    assert shifted["engine/kl"] == pytest.approx(0.5 - log(1.5), rel=1e-3)
    assert shifted["engine/largest"] == pytest.approx(log(1.5), rel=1e-3)
    assert shifted["engine/outside"] == 0.0
    capped = one_step(training, "tis", log(5.0))
    assert capped["train/grad_norm"] == pytest.approx(2.0 * plain["train/grad_norm"], rel=1e-4)
    assert capped["engine/outside"] == 1.0
    assert one_step(training, "sequence_mask", log(5.0))["train/grad_norm"] == 0.0


def test_an_engine_that_is_the_learner_is_not_compared_with_it(training: Callable[..., Training]) -> None:
    run = training(steps=1)
    run.fit()
    assert not [name for name in run.module.metrics if name.startswith("engine/")]
