"""The WebShop environment: `reset`, `step` and the arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pilotrl.envs import Info, replay
from pilotrl.envs.webshop import generator, pages, tasks
from pilotrl.envs.webshop.expert import WebShopExpert
from pilotrl.envs.webshop.generator import Source
from pilotrl.envs.webshop.session import Layout, Session
from pilotrl.envs.webshop.vocabulary import BRANDS
from pilotrl.types import UserError

FIDELITY: dict[str, dict[str, Any]] = {
    "small": {"page_size": 5, "title_words": 8, "handles": "short", "repeat_instruction": False, "max_turns": 6},
    "original": {"page_size": 10, "title_words": 0, "handles": "asin", "repeat_instruction": True, "max_turns": 10},
}
"""Values that `fidelity` sets for keys left null. `title_words` 0: whole titles."""


class WebShop:
    """Search for and buy a product that the instruction describes.

    Actions: `search[words]` on any page; `click[text]` of anything printed as clickable on the page.
    Observation: parts joined by " [SEP] "; the first one holds the instruction.
    Reward: WebShop's score, at the purchase. Solved: a score of 1.
    End: terminated by `click[buy now]`; truncated after `max_turns`.
    Arguments: `split` (train, dev, test: other products; unseen: other types of product); `seed` of catalogue and goals;
    `data_dir` with WebShop's own files, or None for a generated catalogue; of the latter `confusable` (near-duplicates beside
    each product), `max_attributes` (1 to 3) and `max_options` (0 to 2) of a task; `fidelity` (small, original), which
    decides those left None of `page_size`, `title_words` (0: whole titles), `handles` (short, asin),
    `repeat_instruction` (on every page), `max_turns`.
    Raises UserError for invalid values.
    """

    chance = 0.42

    def __init__(
        self,
        *,
        split: str,
        max_turns: int | None,
        seed: int,
        data_dir: str | None,
        fidelity: str,
        page_size: int | None,
        title_words: int | None,
        handles: str | None,
        repeat_instruction: bool | None,
        confusable: int,
        max_attributes: int,
        max_options: int,
    ) -> None:
        self._arguments = {key: value for key, value in locals().items() if key != "self"}
        _check("split", split, tuple(generator.STORES) if data_dir is None else ("train", "dev", "test"))
        _check("fidelity", fidelity, tuple(FIDELITY))
        _check("confusable", confusable, range(len(BRANDS)))
        _check("max_attributes", max_attributes, range(1, 4))
        _check("max_options", max_options, range(3))
        given = {
            "page_size": page_size,
            "title_words": title_words,
            "handles": handles,
            "repeat_instruction": repeat_instruction,
            "max_turns": max_turns,
        }
        self._source = Source(data_dir, split, seed, confusable, max_attributes, max_options)
        self._layout = _layout(fidelity, given)
        self.max_turns = self._layout.max_turns
        self.tasks = tasks.solvable(self._source, self._layout)
        if not self.tasks:
            limits = f"env.max_turns={self.max_turns}: no task of split {split} can be solved in so few"
            raise UserError(f"{limits}, with env.title_words={self._layout.title_words}; raise one of them")
        self._session: Session | None = None
        self._task: str | None = None
        self._actions: list[str] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Starts `options["task"]`, or the task that `seed` picks. KeyError for a task that is not of this split."""
        task = (options or {}).get("task", self.tasks[(seed or 0) % len(self.tasks)])
        goal, store = tasks.worlds(self._source)[task]
        self._session, self._task, self._actions = Session(store, goal, self._layout), task, []
        par = tasks.efficient(self._source, self._layout, task)
        return pages.render(self._session), self._info(self._session, True) | {"par": par}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """One turn; RuntimeError once the episode has ended, or before the first reset."""
        session = self._session
        if session is None or session.done or len(self._actions) >= self.max_turns:
            raise RuntimeError("the episode has ended: reset first")
        self._actions.append(action)
        valid = session.act(action)
        terminated = session.done
        truncated = not terminated and len(self._actions) >= self.max_turns
        return pages.render(session), session.score, terminated, truncated, self._info(session, valid)

    def _info(self, session: Session, valid: bool) -> Info:
        actions = ["search[words]", *(f"click[{text}]" for text in session.clickables())]
        return {
            "score": session.score,
            "solved": session.score == 1.0,
            "valid": valid,
            "actions": [] if session.done else actions,
        }

    @property
    def expert(self) -> WebShopExpert | None:
        """The scripted expert for the running episode; None before the first reset."""
        return WebShopExpert(self._session) if self._session is not None else None

    def __getstate__(self) -> dict[str, Any]:
        """State for pickling: arguments, task and actions since the reset; stores are rebuilt, once a process."""
        return {"arguments": self._arguments, "task": self._task, "actions": self._actions}

    __setstate__ = replay


def _layout(fidelity: str, given: dict[str, Any]) -> Layout:
    """The layout from given values, and from the fidelity for those that are None."""
    values = {key: FIDELITY[fidelity][key] if value is None else value for key, value in given.items()}
    for key, least in (("page_size", 1), ("title_words", 0), ("max_turns", 1)):
        if values[key] < least:
            raise UserError(f"env.{key}={values[key]}: must be at least {least}")
    _check("handles", values["handles"], ("short", "asin"))
    return Layout(
        small=fidelity == "small",
        page_size=values["page_size"],
        title_words=values["title_words"] or None,
        short_handles=values["handles"] == "short",
        repeat_instruction=values["repeat_instruction"],
        max_turns=values["max_turns"],
    )


def _check(key: str, value: Any, allowed: Sequence[Any]) -> None:
    if value not in allowed:
        span = f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else ", ".join(allowed)
        raise UserError(f"env.{key}={value}: must be one of {span}")
