"""`--dry-run` says what would start, and what it takes, on machines that could not run it too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from pilotrl.__main__ import main
from pilotrl.engine import vllm
from pilotrl.models import model_info, policy
from pilotrl.models.published import PUBLISHED, architecture

SEVEN = ("env=webshop", "model=qwen2.5-7b", "trainer.accelerator=gpu", "trainer.devices=8", "--dry-run")

BILLIONS = {
    "smollm2-135m": 0.1345,
    "qwen2.5-0.5b": 0.494,
    "qwen2.5-7b": 7.616,
    "llama3.1-8b": 8.030,
    "qwen3-8b": 8.191,
}
"""Parameters, as the models' pages have them."""


@pytest.fixture(autouse=True)
def no_internet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nothing(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr(AutoConfig, "from_pretrained", nothing)
    monkeypatch.setattr(policy, "load_tokenizer", nothing)
    monkeypatch.setattr(vllm, "_version", lambda package: None)
    monkeypatch.chdir(tmp_path)


def test_eight_gpus_are_planned_on_a_machine_with_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SEVEN) == 0
    out = capsys.readouterr().out
    assert "starts 8 processes (1 x 8, gpu), each with the whole model; a step plays 64 episodes, 8 a process" in out
    assert "weights 15.39" in out
    assert "room on one card of 24 GB: no, 40 GB: no, 80 GB: " in out
    assert "this machine would not do: trainer.accelerator=gpu" in out
    assert "this machine would not do: model.path=Qwen/Qwen2.5-7B-Instruct" in out


def test_all_weights_of_it_in_shards_need_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SEVEN, "trainer.strategy=fsdp", "model.lora.rank=null", "engine=vllm"]) == 0
    out = capsys.readouterr().out
    assert "each with a part of the weights, and an engine with a copy of it and 4 GB" in out
    assert "trains all weights" in out
    assert "this machine would not do: engine=vllm: vLLM is not installed" in out


def test_what_is_wrong_stays_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SEVEN, "train.steps=0"]) == 2
    assert main([*SEVEN, "model.path=nobody/nothing"]) == 2
    assert main(SEVEN[:-1]) == 2
    assert "trainer.accelerator=gpu: there is none" in capsys.readouterr().err


def test_a_laptop_has_no_card_to_say_something_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env=toy", "model=scratch", "trainer.accelerator=cpu", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "starts 1 process (1 x 1, cpu), each with the whole model; a step plays 64 episodes, 64 a process" in out
    assert "room on" not in out


@pytest.mark.parametrize("path", PUBLISHED)
def test_a_published_shape_has_as_many_parameters_as_its_model(path: str) -> None:
    model = model_info.shaped(architecture(PUBLISHED[path], 8192), torch.float32)
    found = sum({id(p): p.numel() for p in model.parameters()}.values()) / 1e9
    assert found == pytest.approx(BILLIONS[PUBLISHED[path]], rel=1e-3)
