"""A training step against one of TRL's GRPOTrainer on the very same episodes: `python -m pilotrl.bench against=trl`.

A run plays and learns; after two steps the next ones are kept, with every call's tokens, and their seconds. TRL then does those
steps, with the model that the run began with and adapters of the same shape, the first of them once more before time counts: for
every turn it generates as many tokens after the same prompts, with its own code (left padding, nothing kept from the turn
before), and what it learns from are the recorded tokens and rewards, in as many updates. Environments and judges are left out on
both sides, and steps that taught nothing.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from pilotrl.cli.compose import Job, composed_job, parse
from pilotrl.cli.validate import check
from pilotrl.models import policy
from pilotrl.runs.setup import model_path, silence_libraries
from pilotrl.store.reading import read_lines
from pilotrl.store.run_folder import RunFolder
from pilotrl.training import batch_file
from pilotrl.training.batch import Batch
from pilotrl.types import Call, UserError

AGAINST = "against="
ROWS, STEPS = "rows=", "steps="
PARTS = {"generate": "generate", "update": "train"}
"""Of a step, and their names among the seconds of a run."""
WARM = 2
"""Steps of the run before those that are compared."""
BRIEF = [
    "checkpoint.calls_every=1",
    "panel.tasks=1",
    "panel.samples=1",
    "panel.greedy=false",
    "drift.every=0",
    "tracking=off",
    "engine=local",
    "algorithm.beta=0",
    "train.resample=0",
]


@dataclass
class Replay:
    """TRL's rollout: generates anew, in its way, and hands over what was recorded."""

    batches: list[Batch]
    """Of each time, the first of them once more in front."""
    handed: list[dict[str, Any]]
    """What was recorded of each."""
    seconds: list[float] = field(default_factory=list)
    """That generating took, each time."""

    def __call__(self, prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        start, index = time.perf_counter(), len(self.seconds)
        for calls in turns(self.batches[index]):
            longest = max(len(call.ids) for call in calls)
            trainer.generation_config.max_new_tokens = trainer.generation_config.min_new_tokens = longest
            trainer._generate_single_turn([call.prompt for call in calls], None, {}, 1)
        self.seconds.append(time.perf_counter() - start)
        return self.handed[index]


def recorded(batch: Batch) -> dict[str, Any]:
    """One row an episode, with a 1 for every token that is trained."""
    first = [batch.token_position[batch.token_row == row].min() for row in range(len(batch.rows))]
    trained = [torch.zeros(len(row), dtype=torch.long) for row in batch.rows]
    for row, position in zip(batch.token_row.tolist(), batch.token_position.tolist(), strict=True):
        trained[row][position] = 1
    return {
        "prompt_ids": [row[:begin].tolist() for row, begin in zip(batch.rows, first, strict=True)],
        "completion_ids": [row[begin:].tolist() for row, begin in zip(batch.rows, first, strict=True)],
        "env_mask": [row[begin:].tolist() for row, begin in zip(trained, first, strict=True)],
        "earned": [float(batch.rewards[episode]) for episode in batch.row_episode],
        "logprobs": None,
    }


def turns(batch: Batch) -> list[list[Call]]:
    """What the model said in all episodes at once: the first call of each, the second, and so on."""
    said = [[call for call in episode.calls if call.logprobs] for episode in batch.episodes]
    return [[call for call in calls if call] for calls in zip_longest(*said)]


def command(words: Sequence[str]) -> None:
    """Prints three JSON lines. Raises UserError for invalid arguments, those of the run included."""
    for word in words:
        if word.startswith(AGAINST) and word != f"{AGAINST}trl":
            raise UserError(f"{word}: there is {AGAINST}trl")
    if importlib.util.find_spec("trl") is None:
        raise UserError(f"{AGAINST}trl: TRL is not installed; pip install trl")
    given, steps = number(words, ROWS), number(words, STEPS) or 1
    typed = [word for word in words if not word.startswith((AGAINST, ROWS, STEPS))] + BRIEF
    typed.append(f"train.steps={WARM + steps}")
    arguments = parse(typed)
    job = composed_job(arguments, arguments.overrides)
    check(job.config)
    rows = rows_of(job, given)
    with TemporaryDirectory() as place:
        folder = RunFolder(Path(place, "run"))
        run(typed, folder)
        lines = [line for line in [*read_lines(folder.metrics)][WARM:] if line.get("train/frac_reward_zero_std", 0) < 1]
        if not lines:
            raise UserError(f"{STEPS}{steps}: nothing was learned from; compare more steps, or another seed")
        batches = [batch_file.read(folder.calls / f"step-{line['step']:06d}.safetensors")[0] for line in lines]
        for batch in batches:
            check_rows(batch, job)
        count = {"steps": len(lines), "episodes": sum(len(batch.rows) for batch in batches)}
        count["tokens"] = sum(len(batch.logprobs) for batch in batches)
        count["updates"] = len(lines) * job.config.train.minibatches
        seconds = {f"{name}_s": sum(line[f"seconds/{key}"] for line in lines) for name, key in PARTS.items()}
        show({"who": "pilotrl"} | count | seconds)
        theirs = trl(job, batches, rows, folder)
        show({"who": "trl", "version": importlib.metadata.version("trl"), "rows": rows} | count | theirs)
        ratio = {name.removesuffix("_s"): theirs[name] / value for name, value in seconds.items()}
        show({"who": "ratio", **ratio, "step": sum(theirs.values()) / sum(seconds.values())})


def number(words: Sequence[str], word: str) -> int | None:
    """What was typed last after a word. Raises UserError unless it is at least 1."""
    given = [one.removeprefix(word) for one in words if one.startswith(word)]
    if given and not (given[-1].isdecimal() and int(given[-1])):
        raise UserError(f"{word}{given[-1]}: must be a whole number of at least 1")
    return int(given[-1]) if given else None


def run(words: Sequence[str], folder: RunFolder) -> None:
    """A short run of its own process. What it complains of goes on to who asked."""
    line = [sys.executable, "-m", "pilotrl", *words, f"hydra.run.dir={folder.path}"]
    done = subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode == 2:
        raise UserError((done.stderr.strip().splitlines() or ["the run failed"])[-1].removeprefix("pilotrl: "))
    if done.returncode:
        raise RuntimeError(f"the run ended with {done.returncode}: {done.stderr}")


def rows_of(job: Job, given: int | None) -> int:
    """Rows of a pass of TRL's: as given, or eight if they divide a minibatch, or all of it."""
    train = job.config.train
    if train.group_size < 2:
        raise UserError(f"train.group_size={train.group_size}: TRL compares at least 2 episodes of a task")
    if train.tasks % train.minibatches:
        raise UserError(f"train.minibatches={train.minibatches}: must divide train.tasks={train.tasks} here")
    share = train.tasks * train.group_size // train.minibatches
    fitting = [n for n in range(1, share + 1) if share % n == 0]
    if given is not None and given not in fitting:
        raise UserError(
            f"{ROWS}{given}: must divide the {share} episodes of a minibatch: {', '.join(map(str, fitting))}"
        )
    return given or (8 if 8 in fitting else share)


def check_rows(batch: Batch, job: Job) -> None:
    """Raises UserError where an episode is no row, or more than one."""
    wanted = job.config.train.tasks * job.config.train.group_size
    if len(batch.rows) != wanted or len({*batch.row_episode}) != wanted:
        raise UserError(
            f"{AGAINST}trl: {len(batch.rows)} rows of {wanted} episodes; TRL has one of each: model.roles=shared, "
            "agent.context=append, more room in model.max_length"
        )


def trl(job: Job, batches: list[Batch], rows: int, folder: RunFolder) -> dict[str, float]:
    """Seconds of the same steps by TRL."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    silence_libraries()
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    config = job.config
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    train, lora = config.train, config.model.lora
    passes, ended = len(batches[0].rows) // rows, list[float]()

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ended.append(time.perf_counter())

    start = model_path(config, folder.path)
    model = AutoModelForCausalLM.from_pretrained(policy.base_of(start), dtype=getattr(torch, config.model.dtype))
    adapters = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=[*lora.targets], task_type="CAUSAL_LM")
    again = [batches[0], *batches]
    replay = Replay(again, [*map(recorded, again)])
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, earned, **_: earned,
        args=GRPOConfig(
            output_dir=str(folder.path),
            max_steps=(1 + len(batches)) * train.minibatches,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=passes // train.minibatches,
            steps_per_generation=passes,
            num_generations=train.group_size,
            max_completion_length=max(len(row) for batch in batches for row in batch.rows),
            learning_rate=train.lr,
            max_grad_norm=train.grad_clip,
            temperature=train.temperature,
            gradient_checkpointing=config.model.gradient_checkpointing,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"prompt": str(number)} for number in range(train.tasks)]),
        processing_class=policy.load_tokenizer(start),
        peft_config=adapters if lora.rank else None,
        rollout_func=replay,
        callbacks=[Clock()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    whole, generating = ended[-1] - ended[train.minibatches - 1], sum(replay.seconds[1:])
    return {"generate_s": generating, "update_s": whole - generating}


def show(line: dict[str, Any]) -> None:
    print(json.dumps({key: float(f"{v:.3g}") if isinstance(v, float) else v for key, v in line.items()}), flush=True)
