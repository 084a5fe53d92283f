"""Wordle: both sets of rules, its words and tasks, and an expert that knows only what was observed."""

from __future__ import annotations

import random
from collections import Counter
from hashlib import sha256
from typing import Any

import pytest

from pilotrl.envs import load
from pilotrl.envs.wordle import Wordle, resolve
from pilotrl.envs.wordle.env import SHARES, game, known, solvable
from pilotrl.envs.wordle.expert import WordleExpert, left
from pilotrl.envs.wordle.game import LMRL_WORDS, Lmrl, Standard, fits, learned, marks, possible, vocabulary
from pilotrl.rewards.judge.rule import RuleJudge
from pilotrl.types import UserError


def wordle(**options: Any) -> Wordle:
    env = load("wordle", **options)
    assert isinstance(env, Wordle)
    return env


# Rules


@pytest.mark.parametrize(
    ("guess", "target", "said"),
    [
        ("shire", "shire", "ggggg"),
        ("mamma", "macho", "ggbbb"),  # the original marks it g g y y y
        ("geese", "elder", "byybb"),
        ("eerie", "geese", "ygbbg"),
        ("allow", "llama", "ygybb"),
        ("speed", "abide", "bbyby"),
        ("panic", "robot", "bbbbb"),
    ],
)
def test_a_letter_is_marked_as_often_as_the_word_has_it(guess: str, target: str, said: str) -> None:
    assert marks(guess, target) == said


def test_marks_agree_with_their_definition() -> None:
    """Green where the letters are equal; greens and yellows of a letter are as many as both words have of it."""
    draw = random.Random(0)
    for _ in range(2000):
        guess, target = draw.sample(vocabulary()[:300], 2)
        said = marks(guess, target)
        assert [mark == "g" for mark in said] == [a == b for a, b in zip(guess, target, strict=True)]
        for letter in set(guess):
            colored = [mark for a, mark in zip(guess, said, strict=True) if a == letter and mark != "b"]
            assert len(colored) == min(guess.count(letter), target.count(letter))
            first = [mark for a, mark in zip(guess, said, strict=True) if a == letter and mark != "g"]
            assert first == sorted(first, reverse=True)  # yellows come before blacks


def test_the_original_ignores_how_often_a_letter_occurs() -> None:
    one = Lmrl(("macho",), 0)
    one.words = ("mamma", "macho")
    assert one.guess("mamma") == "ggyyy"
    known = learned({}, "mamma", "ggyyy")
    assert fits(known, "macho")
    assert not fits(known, "mamma")


def test_the_original_draws_the_word_anew_among_those_that_are_possible() -> None:
    """Its answers never contradict each other, and with different seeds it may answer differently at any time."""
    later = set()
    for seed in range(60):
        one = Lmrl(LMRL_WORDS, seed)
        said = [(word, one.guess(word)) for word in ("panic", "those", "sugar")]
        assert possible("lmrl", LMRL_WORDS, tuple(said)) == one.left
        again = Lmrl(LMRL_WORDS, seed)
        assert said == [(word, again.guess(word)) for word, _ in said]
        if said[0][1] == "bbbbb":
            later.add(said[1][1])
    assert len(later) > 1


def test_the_original_ends_when_one_word_is_left_and_was_guessed() -> None:
    one = Lmrl(("macho", "panic"), 3)
    target = one.left[0] if one.guess("macho") == "ggggg" else "panic"
    assert one.left == (target,)
    assert one.solved == (target == "macho")
    assert one.guess(target) == "ggggg"
    assert one.solved


# Words and tasks


def test_an_episode_word_for_word() -> None:
    env = wordle(split="test")
    word = env.tasks[0]
    other = next(other for other in env.tasks if marks(other, word) not in ("bbbbb", "ggggg"))
    text, info = env.reset(options={"task": word})
    assert text == "Let's start Wordle!"
    assert len(info["actions"]) == len(known(env._source))
    assert env.step(other)[:4] == (" ".join(marks(other, word)), 0.0, False, False)
    for odd in ("abcde", "shir", word.upper()):
        assert env.step(odd)[:4] == ("invalid word", 0.0, False, False)
    *said, info = env.step(f" {' '.join(word)}\n")
    assert said == ["g g g g g", 1.0, True, False]
    assert (info["score"], info["solved"], info["valid"]) == (1.0, True, True)


def test_six_guesses_are_all_there_are() -> None:
    env = wordle(split="test")
    env.reset(options={"task": env.tasks[0]})
    said = [env.step(word) for word in ("shirt", "zzzzz", "shirt", "shirt", "shirt", "shirt")]
    assert [over for _, _, _, over, _ in said] == [False] * 5 + [True]


def test_words_are_words_of_five_letters() -> None:
    words = vocabulary()
    assert len(words) == len(set(words)) > 1800
    assert all(len(word) == 5 and word.isalpha() and word.islower() and word.isascii() for word in words)
    assert len(set(LMRL_WORDS)) == 40


def test_splits_are_big_enough_and_unseen_words_are_unknown_to_the_others() -> None:
    envs = {split: wordle(split=split) for split in SHARES}
    assert len(envs["train"].tasks) >= 1000
    assert all(len(env.tasks) >= 200 for env in envs.values())
    for split in ("train", "dev", "test"):
        assert not set(envs["unseen"].tasks) & set(known(envs[split]._source))
    assert set(envs["unseen"].tasks) <= set(known(envs["unseen"]._source))
    assert wordle(seed=1).tasks != wordle(seed=0).tasks


def test_the_originals_splits_are_seeds() -> None:
    names = [task for split in SHARES for task in wordle(split=split, rules="lmrl").tasks]
    assert len(names) == len(set(names)) == 1600


def test_tasks_are_the_same_on_every_machine() -> None:
    """A digest of ids: it changes only where somebody means to change the tasks."""
    names = [task for split in SHARES for task in wordle(split=split).tasks]
    assert sha256(" ".join(names).encode()).hexdigest()[:16] == "6e521145305bdc26"


def test_fewer_words_are_easier() -> None:
    def par(**options: Any) -> float:
        env = wordle(**options)
        return sum(solvable(env._source, 6).turns.values()) / len(env.tasks)

    assert par(words=50) + 0.3 < par(words=300) < par() - 0.3


def test_few_random_guessers_find_the_word() -> None:
    """The bound that the page gives."""
    env, draw, solved = wordle(split="test"), random.Random(0), 0
    for task in env.tasks * 4:
        _, info = env.reset(options={"task": task})
        while not (said := env.step(draw.choice(info["actions"])))[2] and not said[3]:
            pass
        solved += said[2]
    assert solved / (4 * len(env.tasks)) < 0.02


@pytest.mark.parametrize(
    ("key", "value"),
    [("split", "exam"), ("rules", "hard"), ("words", 3), ("words", 10_000), ("max_turns", 0)],
)
def test_an_invalid_value_is_refused_with_its_key(key: str, value: Any) -> None:
    with pytest.raises(UserError) as error:
        wordle(**{key: value})
    assert str(error.value).startswith(f"env.{key}={value}: ")


# The expert


@pytest.mark.parametrize("options", [{}, {"split": "unseen", "seed": 1}, {"rules": "lmrl"}, {"words": 200}])
def test_the_expert_finds_nearly_every_word(options: dict[str, Any]) -> None:
    env = wordle(**{"split": "test", **options})
    tasks = solvable(env._source, env.max_turns)
    assert tasks.rejected <= 0.02 * len(env.tasks)
    for task in env.tasks:
        par, turns, over = env.reset(options={"task": task})[1]["par"], 0, False
        while not over:
            assert env.expert is not None
            _, _, over, truncated, _ = env.step(env.expert.action())
            assert over or not truncated
            turns += 1
        assert turns == par


def test_every_guess_of_the_expert_is_possible_after_random_guesses() -> None:
    env, draw = wordle(split="dev"), random.Random(1)
    for task in env.tasks:
        _, info = env.reset(options={"task": task})
        for action in draw.sample(info["actions"], 3):
            env.step(action)
        if env._game.solved:
            continue
        assert env.expert is not None
        guess = env.expert.action().replace(" ", "")
        assert all(marks(word, guess) == said for word, said in env._history)


def test_the_plan_depends_on_the_answers_and_not_on_the_word() -> None:
    source = wordle(split="test")._source
    words = known(source)
    plans: dict[tuple[tuple[str, str], ...], set[str]] = {}
    for target in words[:200]:
        one, history = game(source, target), ()
        for _ in range(3):
            expert = WordleExpert("standard", words, history, False)
            assert set(expert.plan()[1:]) <= {"guess a matching word"}
            assert (len(expert.plan()) == 1) == (len(left("standard", words, history)) == 1)
            plans.setdefault(history, set()).add(expert.plan()[0])
            word = expert.action().replace(" ", "")
            history = (*history, (word, one.guess(word)))
    assert Counter(map(len, plans.values())) == {1: len(plans)}
    assert WordleExpert("standard", words, (), True).plan() == []


def test_the_judge_tells_every_word_from_every_other() -> None:
    judge, words = RuleJudge(resolve=resolve), sorted({*vocabulary()})
    for word, other in zip(words, words[1:] + words[:1], strict=True):
        step = f"guess {word}"
        items = [" ".join(word), word, " ".join(other), f"guess {word}", word[:4]]
        assert judge.grade([(step, "", action) for action in items]) == [2, 2, 0, 0, 0], word
        assert judge.grade([("guess a matching word", "", " ".join(word))]) == [2]


def test_a_standard_game_is_solved_by_its_word_alone() -> None:
    one = Standard("shire")
    assert one.guess("shirt") == "ggggb"
    assert not one.solved
    assert one.guess("shire") == "ggggg"
    assert one.solved
