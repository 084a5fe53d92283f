"""How fast is the tensor half on this machine? Random weights of a shape, part by part: see `python -m pilotrl.bench --help`."""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pilotrl.engine.local import LocalEngine
from pilotrl.models import model_info
from pilotrl.models.kl import k3
from pilotrl.models.micro_batch import MicroBatch
from pilotrl.models.narrow import narrowed
from pilotrl.models.policy import Policy, adapted, learned
from pilotrl.models.published import SHAPES, architecture
from pilotrl.types import Request, UserError

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DTYPES = ("float32", "bfloat16")
DECODED = 64
"""Tokens that each session of the engine generates."""
TRAINED = 4
"""One token in so many is trained, as the estimate of memory has it."""
SHARED = 0.75
"""Of each row, what it has in common with the others of its group."""
TIMES = 3
"""That a pass is timed; the fastest counts."""


@dataclass(frozen=True)
class Options:
    """The words of the command line."""

    shape: str = "tiny"
    device: str = "cpu"
    dtype: str = "float32"
    rank: int | None = 16
    length: int = 1024
    rows: int = 8
    threads: int = torch.get_num_threads()
    seconds: int = 300
    out: str | None = None

    def __post_init__(self) -> None:
        for key, found in (("shape", SHAPES), ("dtype", DTYPES)):
            if getattr(self, key) not in found:
                raise UserError(f"{key}={getattr(self, key)}: there are {', '.join(found)}")
        if self.device != "cpu" and not (self.device == "cuda" and torch.cuda.is_available()):
            raise UserError(f"device={self.device}: is not there; cpu is, and cuda where torch finds one")
        for key, least in (("rank", 1), ("length", 64), ("rows", 1), ("threads", 1), ("seconds", 1)):
            if (value := getattr(self, key)) is not None and value < least:
                raise UserError(f"{key}={value}: must be at least {least}")
        if self.out and not Path(self.out).absolute().parent.is_dir():
            raise UserError(f"out={self.out}: its folder does not exist; make it, or name another file")


class Bench:
    """A model of the shape with random weights, and the parts that measure it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.device = torch.device(options.device)
        self.peak: float | None = None

    @cached_property
    def config(self) -> Any:
        return architecture(self.options.shape, 2 * self.options.length + DECODED)

    @cached_property
    def policy(self) -> Policy:
        from transformers import AutoModelForCausalLM

        torch.manual_seed(0)
        with self.device:
            model = AutoModelForCausalLM.from_config(
                self.config, dtype=getattr(torch, self.options.dtype), attn_implementation="pilotrl"
            )
            rank = self.options.rank
            return Policy(narrowed(adapted(model, rank, 2.0 * rank, TARGETS)) if rank else model, critic=False)

    def machine(self) -> dict[str, Any]:
        """Peak of a matrix product, in the dtype of the weights, and how fast memory is copied."""
        size = 8192 if self.device.type == "cuda" else 1024
        a = torch.randn(size, size, device=self.device, dtype=getattr(torch, self.options.dtype))
        seconds = self.fastest(lambda: a @ a)
        self.peak = 2 * size**3 / seconds
        copied = self.fastest(a.clone)
        moved = 2 * a.numel() * a.element_size() / copied / 1e9
        name = (
            torch.cuda.get_device_name() if self.device.type == "cuda" else platform.processor() or platform.machine()
        )
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        return {"processor": name, **versions, "product_tflops": self.peak / 1e12, "copy_gb_s": moved}

    def engine(self) -> dict[str, Any]:
        """The engine with `rows` sessions whose prompts share nothing: prefill, then one token a session and step."""
        generator = torch.Generator().manual_seed(1)
        rows, length = self.options.rows, self.options.length
        prompts = torch.randint(2, self.config.vocab_size, (rows, length), generator=generator).tolist()
        engine = LocalEngine(model=self.policy.model, end=-1, slots=rows)
        taken: dict[str, float] = {}
        for part, tokens in (("prefill", 1), ("both", 1 + DECODED)):
            for i, prompt in enumerate(prompts):
                engine.submit(Request((i, 0), prompt, seed=i, max_tokens=tokens, temperature=1.0, top_p=1.0))
            taken[part] = self.seconds(lambda: [*drained(engine, rows)])
            for i in range(rows):
                engine.release((i, 0))
        step = (taken["both"] - taken["prefill"]) / DECODED
        return {
            "context": length,
            "sessions": rows,
            "prefill_tokens_s": rows * length / taken["prefill"],
            "decode_ms_a_step": 1000 * step,
            "decode_tokens_s": rows / step,
        }

    def update(self) -> Iterator[dict[str, Any]]:
        """Forward and backward passes of training: one row, many that share nothing, many that share their beginnings."""
        rows, length = self.options.rows, self.options.length
        for count, share in dict.fromkeys(((1, 0.0), (rows, 0.0), (rows, SHARED))):
            batch = self.batch(count, int(share * length))
            seconds = self.fastest(lambda batch=batch: self.learn(batch))  # type: ignore[misc]
            done = {"rows": count, "row": length, "shared": share, "tokens": len(batch.ids)}
            speed = {"tokens_s": len(batch.ids) / seconds, "tflops": self.flops(batch) / seconds / 1e12}
            reached = {"share_of_peak": self.flops(batch) / seconds / self.peak} if self.peak else {}
            yield done | speed | reached | self.held(batch)

    def held(self, batch: MicroBatch) -> dict[str, float]:
        """Memory of a pass against the estimate that a run prints, in GB; on GPUs, where it can be told exactly."""
        options = self.options
        sizes: dict[str, Any] = {"row": len(batch.ids), "trained": 1 / TRAINED, "slots": 0, "length": options.length}
        sizes["cpu"] = self.device.type == "cpu"
        estimate = model_info.memory(self.config, options.dtype, False, options.rank, 32.0, TARGETS, **sizes)
        expected = {"estimate_gb": (estimate.weights + estimate.gradients + estimate.activations) / 1e9}
        if self.device.type != "cuda":
            return expected
        torch.cuda.reset_peak_memory_stats()
        self.learn(batch)
        return expected | {"peak_gb": torch.cuda.max_memory_allocated() / 1e9}

    def agreement(self) -> dict[str, Any]:
        """What the engine recorded of its tokens against what training computes for them, and a gradient twice."""
        prompt = torch.randint(2, self.config.vocab_size, (self.options.length // 2,)).tolist()
        engine = LocalEngine(model=self.policy.model, end=-1, slots=1)
        engine.submit(Request((0, 0), prompt, seed=0, max_tokens=DECODED, temperature=1.0, top_p=1.0))
        (reply,) = drained(engine, 1)
        batch = MicroBatch.of([prompt + reply.ids], range(len(prompt), len(prompt) + DECODED)).to(self.device)
        with torch.no_grad():
            off = self.policy(batch, 1.0).logprobs.cpu().double() - torch.tensor(reply.logprobs, dtype=torch.double)
        twice = [self.learn(batch) for _ in range(2)]
        return {
            "mean_difference": float(off.abs().mean()),
            "largest_difference": float(off.abs().max()),
            "kl": float(k3(off).mean()),
            "same_gradient_twice": all(torch.equal(a, b) for a, b in zip(*twice, strict=True)),
        }

    def handover(self) -> dict[str, Any]:
        """What is learned, written to a folder and read again, as an engine outside of this process gets it."""
        from safetensors.torch import load_file, save_file

        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in learned(self.policy).items()}
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        memory = Path("/dev/shm")
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
            file = Path(folder, "learned.safetensors")
            written = self.seconds(lambda: save_file(tensors, file))
            return {"gb": size / 1e9, "write_s": written, "read_s": self.seconds(lambda: load_file(file))}

    def batch(self, rows: int, shared: int) -> MicroBatch:
        """Rows of random tokens, the first `shared` alike, of which the last quarter is trained."""
        generator = torch.Generator().manual_seed(rows + shared)
        length = self.options.length
        ids = torch.randint(2, self.config.vocab_size, (rows, length), generator=generator)
        ids[:, :shared] = ids[0, :shared]
        return MicroBatch.of(ids.tolist(), range(length - length // TRAINED, length)).to(self.device)

    def learn(self, batch: MicroBatch) -> list[Tensor]:
        """A forward and a backward pass; the gradient."""
        self.policy(batch, 1.0).logprobs.sum().backward()
        found = [p.grad for p in self.policy.parameters() if p.grad is not None]
        self.policy.zero_grad()
        return found

    def flops(self, batch: MicroBatch) -> float:
        """Of a forward and a backward pass: two for each weight and token, and again for the gradient of what goes in, and
        again for that of the weights where they learn; attention likewise, over what each token sees."""
        config = self.config
        head = config.hidden_size // config.num_attention_heads
        block = config.hidden_size * (2 * config.hidden_size + 2 * head * config.num_key_value_heads)
        block += 3 * config.hidden_size * config.intermediate_size
        seen = sum(n * (length - n / 2) for n, length in zip(batch.fresh, batch.lengths, strict=True))
        linear = 2.0 * len(batch.ids) * config.num_hidden_layers * block
        linear += 2.0 * len(batch.token_state) * config.vocab_size * config.hidden_size
        attention = 4.0 * seen * config.hidden_size * config.num_hidden_layers
        return float(linear * (2 if self.options.rank else 3) + 3 * attention)

    def fastest(self, work: Callable[[], object]) -> float:
        work()
        return min(self.seconds(work) for _ in range(TIMES))

    def seconds(self, work: Callable[[], object]) -> float:
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def lines(self) -> Iterator[dict[str, Any]]:
        """The results, part by part; a part that fails, or that no time is left for, says so."""
        start = time.perf_counter()
        parts: dict[str, Callable[[], dict[str, Any] | Iterator[dict[str, Any]]]] = {
            "machine": self.machine,
            "update": self.update,
            "engine": self.engine,
            "agreement": self.agreement,
            "handover": self.handover,
        }
        for name, part in parts.items():
            if time.perf_counter() - start > self.options.seconds:
                yield {"part": name, "left_out": f"{self.options.seconds} seconds are over"}
                continue
            try:
                found = part()
                for values in [found] if isinstance(found, dict) else found:
                    yield {"part": name} | values
            except (RuntimeError, ValueError, TypeError) as error:  # out of memory is a RuntimeError: a finding
                yield {"part": name, "failed": f"{type(error).__name__}: {str(error).splitlines()[0]}"}


def drained(engine: LocalEngine, count: int) -> Iterator[Any]:
    """So many replies, when they end."""
    while count:
        for reply in engine.step():
            count -= 1
            yield reply


def options(words: Sequence[str]) -> Options:
    """Raises UserError for a key that there is not, or a value that is no number."""
    given: dict[str, Any] = {}
    kinds = {field.name: str(field.type) for field in fields(Options)}
    for word in words:
        key, _, value = word.partition("=")
        if key not in kinds:
            raise UserError(f"{word}: there are {', '.join(f'{name}=' for name in kinds)}")
        try:
            given[key] = (
                value if "str" in kinds[key] else None if value == "null" and "None" in kinds[key] else int(value)
            )
        except ValueError:
            raise UserError(f"{word}: must be a whole number") from None
    return Options(**given)


def command(words: Sequence[str]) -> None:
    """Prints the lines, and appends them to `out`. Raises UserError for invalid arguments."""
    chosen = options(words)
    torch.set_num_threads(chosen.threads)
    same = {name: getattr(chosen, name) for name in ("shape", "device", "dtype", "rank", "threads")}
    for values in Bench(chosen).lines():
        rounded = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in values.items()}
        line = json.dumps(same | rounded)
        print(line, flush=True)
        if chosen.out:
            with Path(chosen.out).open("a") as file:
                file.write(line + "\n")
