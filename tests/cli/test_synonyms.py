"""What users of other frameworks type is answered with what it is called here."""

from __future__ import annotations

import re

import pytest

from pilotrl import CONF
from pilotrl.__main__ import main
from pilotrl.cli.compose import known_keys, parse
from pilotrl.cli.synonyms import SYNONYMS, meant


def test_every_answer_names_a_key_or_a_group_that_exists() -> None:
    known = (
        set(known_keys(parse([]), []))
        | set(known_keys(parse([]), ["algorithm=ppo", "engine=vllm"]))
        | {"root", "panel.*", "reward.weights"}
    )
    for word, here in SYNONYMS.items():
        named = re.findall(r"\b(?:[a-z_]+\.)+[a-z_*]+", here) or [re.split(r"[ =]", here)[0]]
        for key in named:
            assert here.startswith("not there") or key in known or (CONF / key).is_dir() or key == "metrics.jsonl", (
                word,
                key,
            )


def test_there_are_enough() -> None:
    assert len(SYNONYMS) >= 60


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("learning_rate=1e-4", "learning_rate=1e-4: there is no such key; here that is train.lr"),
        ("train.learning_rate=1e-4", "here that is train.lr"),
        ("max_steps=5", "here that is train.steps"),
        ("trainer.precision=bf16", "here that is model.dtype"),
        ("algorithm.kl_loss_coef=0.1", "here that is algorithm.beta"),
        ("+num_generations=4", "here that is train.group_size"),
        ("tracking=wandb", "MLflow is what there is"),
        ("vllm=true", "here that is engine (engine=vllm;"),
        ("actor_rollout_ref.rollout.n=4", "here that is train.group_size"),
        ("train.stpes=4", "the nearest is train.steps"),
    ],
)
def test_what_is_meant_is_said_before_what_looks_alike(
    capsys: pytest.CaptureFixture[str], typed: str, says: str
) -> None:
    assert main([typed]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_likeness_of_case_and_hyphens() -> None:
    assert meant("Learning-Rate") == "train.lr"
    assert meant("nonsense") is None
