"""Prompt templates, one text file each, in sets: `short` for small models, `full` for chat models, and those for APIs.

`judge` and `teacher` hold the prompts of API models in these roles, `endpoint` the request to repeat an unreadable reply, `tools`
the words for models whose chat template shows no tools.
`context` builds token ids from templates and history; `parsing` and `replies` read the replies.
May import `config` (not its schema) and `types`. Never here: tensors; the tokenizer is given.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pilotrl.config import search_path
from pilotrl.config.instantiate import make
from pilotrl.prompts.replies import FORMS
from pilotrl.types import UserError

FOLDER = Path(__file__).parent
ACTING = ("act", "act_free", "act_turn", "think")
BY_FORM = tuple(f"{name}_{form}" for name in ACTING for form in FORMS)
"""Templates that ask for an action in another form than a line, `act_tagged` say; a set may lack any."""
SUBGOAL = "_subgoal"
"""In the name of a template that takes another's place where steps last: `act_subgoal_tagged` that of `act_tagged`."""
BY_STEPS = tuple(
    f"{name}{SUBGOAL}{form}"
    for name in ("act", "act_turn", "plan", "replan", "system")
    for form in ("", *(f"_{form}" for form in FORMS if name.startswith("act")))
)
"""Templates for steps that last; a set may lack any but `plan_subgoal`, and `replan_subgoal` where that is asked for."""
BY_AGENT = ("replan", "act_turn", *BY_FORM, *BY_STEPS)
"""Templates that only some values of agent.plans, agent.steps, agent.shows and agent.replies use."""


def load(
    named: str | dict[str, Any],
    plans: str = "always",
    shows: str = "step",
    replies: str = "line",
    steps: str = "action",
) -> dict[str, str]:
    """Templates of one set by file name, less those that `plans`, `shows`, `replies` and `steps` (of `agent`) do not ask for.

    named: a folder here; a file `prompts/NAME.yaml` of one's own; or the settings of a class (`_target_` and keywords) whose
    objects have a method `texts()`, which gives the templates by name. Raises UserError for a set that does not exist, lacks a
    template that every set has, or uses an unknown placeholder.
    """
    texts = _shipped(named) if isinstance(named, str) else _made(named)
    unused = {"replan"} if plans != "asked" else set()
    unused |= {"act_turn"} if shows == "step" or plans == "never" else set()
    unused |= {
        name for name in BY_FORM if not name.endswith(f"_{replies}") or name.rpartition(f"_{replies}")[0] in unused
    }
    unused |= {name for name in BY_STEPS if steps == "action" or name.replace(SUBGOAL, "") in unused}
    for name in ("plan_subgoal", "replan_subgoal"):
        if steps != "action" and name not in unused and name not in texts:
            called = named if isinstance(named, str) else named["_target_"]
            raise UserError(
                f"agent.steps={steps}: the prompts {called} have no {name}; add it, or set agent.steps=action"
            )
    return {name: text for name, text in sorted(texts.items()) if name not in unused}


def worded(texts: dict[str, str], plans: str, thinks: bool, replies: str) -> dict[str, str]:
    """Templates of `load` in the words that an agent uses: those for steps that last, where they were loaded, and of those that
    ask for an action the ones for this form of replies, where the set has them. Between the result of a tool and the next call
    nothing is asked if there are neither plans nor thoughts."""
    texts = {name: texts.get(lasting(name), text) for name, text in texts.items() if name not in BY_STEPS}
    own = {name: texts[f"{name}_{replies}"] for name in ACTING if f"{name}_{replies}" in texts}
    silent = {"act_free": ""} if replies == "tool_call" and plans == "never" and not thinks else {}
    return {name: text for name, text in texts.items() if name not in BY_FORM} | own | silent


def lasting(name: str) -> str:
    """What the template is called that takes a template's place where steps last."""
    bare, form = next(((name.removesuffix(f"_{f}"), f"_{f}") for f in FORMS if name.endswith(f"_{f}")), (name, ""))
    return f"{bare}{SUBGOAL}{form}"


def _shipped(name: str) -> dict[str, str]:
    files = sorted((FOLDER / name).glob("*.txt")) if re.fullmatch(search_path.NAME, name) else []
    if files:
        return {path.stem: path.read_text(encoding="utf-8").rstrip("\n") for path in files}
    if (path := search_path.find("prompts", name)) is None:
        known = ", ".join([*sets(), *search_path.options("prompts")])
        raise UserError(
            f"model.prompts={name}: there is no such set of prompts; there are {known}; -cd FOLDER adds yours"
        )
    from omegaconf import OmegaConf

    held = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    assert isinstance(held, dict)
    return _made({str(key): value for key, value in held.items()})


def _made(settings: dict[str, Any]) -> dict[str, str]:
    """The templates of the user's own class, checked against the shipped ones."""
    texts = dict(make(settings).texts())
    ours, target = _shipped("short"), settings["_target_"]
    if missing := sorted(ours.keys() - texts.keys() - {*BY_STEPS}):
        raise UserError(f"model.prompts._target_={target}: its texts() lack {', '.join(missing)}")
    for name, text in texts.items():
        try:
            text.format(next=1, plan="1. Look.", step="Look.")
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(
                f"model.prompts._target_={target}: {name} cannot be filled in ({error}); there are {{next}}, {{step}}, {{plan}}"
            ) from error
    return texts


def sets() -> list[str]:
    """Names of the sets for the policy."""
    return sorted(path.parent.name for path in FOLDER.glob("*/act.txt"))
