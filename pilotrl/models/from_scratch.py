"""A small language model from scratch: a byte-level BPE tokenizer learned from the expert's episodes, and a random Llama."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pilotrl.envs import Env, LooseExpert, thought_of
from pilotrl.models.published import configured
from pilotrl.types import UserError

NOT_SIZES = ("texts", "copying")
"""Keys of `model.scratch` that say how the model is made, not how large it is."""
CONTROL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# [SEP] includes the spaces around it, so that a word after it is the same token as inside brackets.
WORDS = r" ?\[SEP\] ?| ?[\p{L}\p{N}_]+| ?[^\s\p{L}\p{N}_]|\s+"


def texts(env: Env, tasks: int) -> Iterator[str]:
    """Texts to learn a tokenizer from: observations, plans, thoughts and actions of the expert's episodes."""
    for task in env.tasks[:tasks]:
        text, _ = env.reset(options={"task": task})
        over = False
        while not over:
            if (expert := env.expert) is None:
                raise UserError(
                    "model=scratch: a tokenizer is learned from the expert's episodes, and this environment ships no expert"
                )
            plan, action = expert.plan(), expert.action()
            steps = [f"{i}. {step}" for i, step in enumerate(plan, 1)]
            loose = expert.loose()[:1] if isinstance(expert, LooseExpert) else []
            yield "\n".join([text, *steps, *loose, f"Thought: {thought_of(expert)}\nAction: {action}"])
            text, _, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
        yield text


def sizes(scratch: Mapping[str, Any], positions: int) -> dict[str, int]:
    """The arguments of `architecture`, from what `model.scratch` says and the longest context."""
    return {key: value for key, value in scratch.items() if key not in NOT_SIZES} | {"positions": positions}


def architecture(
    *, vocabulary: int, width: int, inner: int, layers: int, heads: int, kv_heads: int, positions: int
) -> Any:
    """The transformers configuration of a Llama with these sizes."""
    special = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    more = {"architectures": ["LlamaForCausalLM"], "initializer_range": width**-0.5, **special}
    return configured("llama", vocabulary, width, inner, layers, heads, kv_heads, True, positions, **more)


def build(
    folder: Path,
    corpus: Sequence[str],
    *,
    vocabulary: int,
    seed: int,
    copying: int,
    **sizes: int,
) -> None:
    """Write a tokenizer and random weights to a folder for `from_pretrained`; `sizes` are those of `architecture`.

    The heads of the last `copying` layers begin as copies (see `copy_heads`).
    """
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=CONTROL[0], eos_token=CONTROL[1])
    tokenizer.add_special_tokens({"additional_special_tokens": list(CONTROL[2:])})
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(seed)
    model = LlamaForCausalLM(architecture(vocabulary=vocabulary, **sizes))
    for layer in model.model.layers[len(model.model.layers) - copying :]:
        copy_heads(layer.self_attn)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def copy_heads(attention: Any) -> None:
    """Let each head write back what it reads: its output matrix becomes the transpose of its value matrix.

    With tied embeddings such a head raises the logit of the very tokens that it looks at, so that copying has only to learn where
    to look. Mimetic initialization (arXiv 2305.09828) has the same product, found in trained models, with another sign and scale.
    """
    import torch

    with torch.no_grad():
        read = attention.v_proj.weight.view(-1, attention.head_dim, attention.v_proj.in_features)
        read = read.repeat_interleave(attention.num_key_value_groups, 0)
        attention.o_proj.weight.copy_(read.flatten(0, 1).T)
