"""Names of earlier revisions, read as those of today."""

from __future__ import annotations

import copy
from typing import Any

from omegaconf import OmegaConf

from pilotrl.cli.compose import composed_job, parse
from pilotrl.cli.renamed import CLASSES, KEYS, translated
from pilotrl.cli.validate import flat

OLD: dict[str, Any] = {
    "stage": {"name": "warmstart", "plays": "expert", "world": 0.25},
    "algorithm": {"name": "grpo", "scale": False},
    "judge": {
        "_target_": "pilotrl.judge.ensemble.Ensemble",
        "members": {"rule": {"_target_": "pilotrl.judge.rule.RuleJudge"}},
        "others": [{"_target_": "pilotrl.judge.openai.OpenAiJudge"}],
    },
    "env": {"_target_": "mygames.judge.Game", "scale": 3, "world": "flat"},
}


def test_keys_and_classes_are_renamed_at_every_depth_and_nothing_else_is() -> None:
    before = copy.deepcopy(OLD)
    assert translated(OLD) == {
        "stage": {"name": "warmstart", "actor": "expert", "observation_weight": 0.25},
        "algorithm": {"name": "grpo", "scale_rewards": False},
        "judge": {
            "_target_": "pilotrl.rewards.judge.ensemble.Ensemble",
            "members": {"rule": {"_target_": "pilotrl.rewards.judge.rule.RuleJudge"}},
            "others": [{"_target_": "pilotrl.rewards.judge.openai.OpenAiJudge"}],
        },
        "env": {"_target_": "mygames.judge.Game", "scale": 3, "world": "flat"},
    }
    assert before == OLD


def test_a_configuration_of_today_stays_as_it_is() -> None:
    config = composed_job(parse([]), ["env=toy", "judge=ensemble"]).config
    today: Any = OmegaConf.to_container(OmegaConf.create(dict(config)))
    assert translated(today) == today
    assert translated(translated(OLD)) == translated(OLD)


def test_the_new_name_counts_where_both_are_there() -> None:
    assert translated({"stage": {"actor": "policy", "plays": "expert"}}) == {"stage": {"actor": "policy"}}


def test_every_new_name_is_one_of_today() -> None:
    keys = flat(composed_job(parse([]), ["env=toy"]).config)
    assert {*KEYS.values()} <= keys.keys()
    assert not {*KEYS} & keys.keys()
    assert any(str(value).startswith(tuple(CLASSES.values())) for value in keys.values())
