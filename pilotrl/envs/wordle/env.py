"""The Wordle environment: `reset`, `step` and the arguments."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from typing import Any, NamedTuple

from pilotrl.envs import Info
from pilotrl.envs.wordle.expert import History, WordleExpert
from pilotrl.envs.wordle.game import LMRL_WORDS, Game, Lmrl, Standard, vocabulary
from pilotrl.types import UserError

SHARES = {"train": range(0, 10), "dev": range(10, 12), "test": range(12, 14), "unseen": range(14, 16)}
"""Sixteenths of the words in each split."""
SEEDS = {"train": range(1000), "dev": range(1000, 1200), "test": range(1200, 1400), "unseen": range(1400, 1600)}
"""Seeds of each split under LMRL-Gym's rules."""
INVALID = "invalid word"


class Source(NamedTuple):
    """The arguments that decide the tasks of a split."""

    split: str
    seed: int
    rules: str
    words: int


class Tasks(NamedTuple):
    """The tasks of a split."""

    turns: dict[str, int]
    """Task -> guesses of the expert, in the order of the split."""
    rejected: int
    """Number of candidate tasks that the expert did not solve within the turn limit."""


class Wordle:
    """Find a word of five letters in six guesses.

    Actions: a word of the vocabulary, `s h i r e` or `shire`. Any other costs a guess too, and is answered by
    `invalid word`.
    Observation: `Let's start Wordle!` at reset, then a mark for each letter, `b y g g b`: g in place, y elsewhere in the
    word, b not in it.
    Reward: 1 for the word, else 0. Score: the same.
    End: terminated when the word is found; truncated after `max_turns` guesses.
    Arguments: `split` (train, dev, test: other words to find, any of which may be guessed; unseen: words that the
    vocabulary of the other splits lacks); `seed` that assigns words to splits; `rules` (standard; lmrl: LMRL-Gym's, by which the
    word may change after each guess, marks ignore how often a letter occurs, and a task is a seed); `words` in the
    vocabulary (20 or more; None for all of ours, or the 40 of AgentGym under lmrl); `max_turns`.
    Raises UserError for invalid values.
    References: LMRL-Gym (arXiv 2311.18232), AgentGym (arXiv 2406.04151).
    """

    chance = 0.01

    def __init__(self, *, split: str, max_turns: int, seed: int, rules: str, words: int | None) -> None:
        for key, value, good, span in (
            ("split", split, split in SHARES, f"one of {', '.join(SHARES)}"),
            ("rules", rules, rules in ("standard", "lmrl"), "one of standard, lmrl"),
            ("words", words, words is None or 20 <= words <= len(vocabulary()), f"from 20 to {len(vocabulary())}"),
            ("max_turns", max_turns, max_turns >= 1, "at least 1"),
        ):
            if not good:
                raise UserError(f"env.{key}={value}: must be {span}")
        self.max_turns, self._source = max_turns, Source(split, seed, rules, words or 0)
        self._turns, self._words = solvable(self._source, max_turns).turns, known(self._source)
        self.tasks = list(self._turns)
        if not self.tasks:
            raise UserError(f"env.max_turns={max_turns}: no word of split {split} can be found in so few; raise it")
        self._allowed, self._actions = frozenset(self._words), [" ".join(word) for word in self._words]
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Starts `options["task"]`, or the task that `seed` picks. KeyError for a task that is not of this split."""
        task = (options or {}).get("task", self.tasks[(seed or 0) % len(self.tasks)])
        par = self._turns[task]
        self._game, self._taken, self._over = game(self._source, task), 0, False
        self._history: History = ()
        return "Let's start Wordle!", self._info(True) | {"par": par}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """One turn; RuntimeError once the episode has ended, or before the first reset."""
        if self._over:
            raise RuntimeError("the episode has ended: reset first")
        self._taken += 1
        word = action.strip().replace(" ", "")
        valid, text = word in self._allowed, INVALID
        if valid:
            marks = self._game.guess(word)
            self._history += ((word, marks),)
            text = " ".join(marks)
        solved = self._game.solved
        truncated = not solved and self._taken >= self.max_turns
        self._over = solved or truncated
        return text, float(solved), solved, truncated, self._info(valid)

    def _info(self, valid: bool) -> Info:
        solved = self._game.solved
        return {"score": float(solved), "solved": solved, "valid": valid, "actions": self._actions}

    @property
    def expert(self) -> WordleExpert | None:
        """The scripted expert for the running episode; None before the first reset."""
        if not hasattr(self, "_game"):
            return None
        return WordleExpert(self._source.rules, self._words, self._history, self._game.solved)


@cache
def known(source: Source) -> tuple[str, ...]:
    """The words that may be guessed."""
    if source.rules == "lmrl" and not source.words:
        return LMRL_WORDS
    words = vocabulary()[: source.words or None]
    if source.rules == "lmrl" or source.split == "unseen":
        return words
    return tuple(word for word in words if _drawn(source.seed, word) not in SHARES["unseen"])


@cache
def solvable(source: Source, max_turns: int) -> Tasks:
    """The candidate tasks that the expert solves within the turn limit."""
    if source.rules == "lmrl":
        names = [f"lmrl-{seed}" for seed in SEEDS[source.split]]
    else:
        names = [word for word in known(source) if _drawn(source.seed, word) in SHARES[source.split]]
    turns = {name: turns for name in names if (turns := _efficient(source, name, max_turns))}
    return Tasks(turns, len(names) - len(turns))


def game(source: Source, task: str) -> Game:
    """A task's game, from its name."""
    return Lmrl(known(source), int(task.removeprefix("lmrl-"))) if source.rules == "lmrl" else Standard(task)


def _efficient(source: Source, task: str, max_turns: int) -> int | None:
    """Guesses that the expert needs; None if it does not find the word within the limit."""
    played = game(source, task)
    history: History = ()
    for turn in range(1, max_turns + 1):
        word = WordleExpert(source.rules, known(source), history, False).action().replace(" ", "")
        history += ((word, played.guess(word)),)
        if played.solved:
            return turn
    return None


def _drawn(seed: int, word: str) -> int:
    """A number from 0 to 15, hashed from seed and word."""
    return sha256(f"{seed} {word}".encode()).digest()[0] % 16


def resolve(observation: str, action: str, reply: str = "") -> str:
    """The guessed word; "" if it has not five letters."""
    word = action.strip().replace(" ", "")
    return f"guess {word}" if len(word) == 5 and word.isascii() and word.isalpha() and word.islower() else ""
