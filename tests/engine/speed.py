"""Generated tokens a second of vLLM, of the local engine and of transformers' `generate`, on the same prompts in one run:

    python -m tests.engine.speed [model=smollm2] [model.dtype=bfloat16] [KEY=VALUE ...]

Sixteen conversations of three turns begin as episodes in WebShop do; every reply has 24 tokens, and every observation 48. Both
engines keep what a conversation began with; `generate` pads on the left and begins each turn anew. How long new weights take is
measured apart. Best of two, by the clock, with `trainer.threads` threads; vLLM has as many in its own process.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from pilotrl import envs, prompts
from pilotrl.cli.compose import composed_job, parse
from pilotrl.engine import Engine
from pilotrl.engine.local import LocalEngine
from pilotrl.engine.vllm import VllmEngine
from pilotrl.models import policy
from pilotrl.models.policy import Policy, RoleModel
from pilotrl.prompts.chat import Chat
from pilotrl.runs.setup import load_model, model_path, silence_libraries
from pilotrl.types import Request

EPISODES, TURNS, REPLY, OBSERVATION = 16, 3, 24, 48
NEVER = 0
"""A token that ends no reply."""
Turn = Callable[[int, list[list[int]]], list[list[int]]]
"""(turn, prompts) -> replies."""


def conversation(first: list[list[int]], turn: Turn) -> float:
    """Seconds that all turns take, each of them in all conversations at once."""
    spoken, begin = first, time.perf_counter()
    for number in range(TURNS):
        replies = turn(number, spoken)
        assert {len(reply) for reply in replies} == {REPLY}
        seen = [text[:OBSERVATION] for text in first]
        spoken = [[*text, *reply, *more] for text, reply, more in zip(spoken, replies, seen, strict=True)]
    return time.perf_counter() - begin


def by_engine(engine: Engine) -> Turn:
    def turn(number: int, texts: list[list[int]]) -> list[list[int]]:
        for i, text in enumerate(texts):
            engine.submit(Request((i, 0), text, REPLY, 1.0, 1.0, seed=TURNS * i + number))
        replies: dict[int, list[int]] = {}
        while len(replies) < len(texts):
            replies |= {reply.session[0]: reply.ids for reply in engine.step()}
        if number == TURNS - 1:
            for i in range(len(texts)):
                engine.release((i, 0))
        return [replies[i] for i in range(len(texts))]

    return turn


def by_generate(model: Any) -> Turn:
    def turn(_: int, texts: list[list[int]]) -> list[list[int]]:
        longest = max(map(len, texts))
        ids = torch.tensor([[NEVER] * (longest - len(text)) + text for text in texts])
        mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts])
        length: Any = {"max_new_tokens": REPLY, "min_new_tokens": REPLY}
        said = model.generate(ids, attention_mask=mask, do_sample=True, top_k=0, pad_token_id=NEVER, **length)
        return said[:, longest:].tolist()  # type: ignore[no-any-return]

    return turn


def players(config: Any, folder: Path) -> Iterator[tuple[str, float, Turn]]:
    """Name, seconds until it has new weights, and how it generates."""
    from transformers import AutoModelForCausalLM

    path = model_path(config, folder)
    actor = Policy(load_model(config, path), critic=False)
    with closing(
        VllmEngine(model=actor, end=NEVER, folder=folder, rank=0, slots=EPISODES, memory_gb=2.0, max_length=1024)
    ) as vllm:
        vllm.take(0)
        begin = time.perf_counter()
        vllm.take(1)
        yield "vllm", time.perf_counter() - begin, by_engine(vllm)
    yield "local", 0.0, by_engine(LocalEngine(model=RoleModel(actor, "executor"), end=NEVER, slots=EPISODES))
    model = AutoModelForCausalLM.from_pretrained(policy.base_of(path), dtype=getattr(torch, config.model.dtype))
    yield "generate", 0.0, by_generate(model)


def main(words: list[str]) -> None:
    silence_libraries()
    chosen = {"model": "smollm2", "model.dtype": "bfloat16", "trainer.threads": "1"}
    arguments = parse([*(f"{key}={value}" for key, value in chosen.items()), *words])
    config = composed_job(arguments, arguments.overrides).config
    torch.set_num_threads(config.trainer.threads or torch.get_num_threads())
    with TemporaryDirectory() as place:
        chat = Chat(policy.load_tokenizer(model_path(config, Path(place))))
        world, system = envs.load("webshop"), prompts.load("full")["system"]
        seen = [world.reset(options={"task": task})[0] for task in world.tasks[:EPISODES]]
        first = [chat.render([("system", system), ("user", text)]) for text in seen]
        for name, sent, turn in players(config, Path(place)):
            seconds = min(conversation(first, turn) for _ in range(2))
            print(f"{name:9} {EPISODES * TURNS * REPLY / seconds:7.0f} tokens/s, new weights {sent:.2f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
