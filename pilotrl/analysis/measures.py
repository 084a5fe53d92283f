"""What measures and blocks of summary.json are called where people read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

LOSS = {"train/loss": "loss", "valid/loss": "loss on held-out tasks"}
"""Shown instead of those where demonstrations are learned from, whose rewards are their expert's. Elsewhere a loss says little:
that of a policy gradient is near zero by construction."""
BLOCKS = {"eval": "own plans", "eval_teacher": "teacher's plans"}
"""Blocks of summary.json, and whose plans they are about."""
RULE = "teacher's plans, a rule"
"""The block `rule`: what following takes without a model. It learns nothing, so it is the same before and after."""
ENDED = ("ended/environment", "ended/turn_limit", "ended/context")
RATES = ("success", "score", "adherence", "plan_quality", "correctness", *ENDED)
"""Measures in [0, 1], shown in percent; the others are counts an episode."""
MEANINGS = {
    "success": "episodes that the environment itself calls solved (ground truth)",
    "score": "the environment's own measure at the end of an episode",
    "adherence": "how far actions follow the current plan, by the judge",
    "plan_quality": "how good the policy's plans are, by the judge: the mean of three scores",
    "correctness": "the first of those scores: how far the plans lead to the goal; any plan has most of the other two",
    "turns": "actions an episode",
    "tokens": "tokens that the model generates an episode",
    "ended/environment": "episodes that the environment itself ended, solved or not",
    "ended/turn_limit": "episodes that came to the limit of turns",
    "ended/context": "episodes that had no room left: model.max_length, agent.window",
}
"""What each measure is, in a line."""
LIVE = {"reward/total": "reward", "env/success": "success", "reward/adherence": "adherence"}
"""Metrics shown beside the bar, and what they are called there."""


def plays(lines: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a run learns from its own episodes, whatever its algorithm logs: some step generated tokens."""
    return any(line.get("tokens/generated") for line in lines)
