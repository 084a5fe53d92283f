"""A set of prompts: one word for each thing that a model is asked for."""

from __future__ import annotations


class Terse:
    """`{next}` is the number of the turn, `{step}` the current step of the plan, `{plan}` the current plan."""

    def texts(self) -> dict[str, str]:
        return {
            "plan": "steps from {next}:",
            "replan": "steps from {next}, or keep:",
            "act": "{step} ->",
            "act_free": "->",
            "act_turn": "{next} ->",
            "think": "why, and ->",
            "plan_in_force": "{plan}",
            "left_out": "...",
        }
