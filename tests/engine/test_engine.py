"""The local engine: samples and log-probabilities are those of the trained model, whatever its cache held before."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest
from torch import Tensor
from transformers import AutoModelForCausalLM

from pilotrl.engine import local
from pilotrl.engine.local import LocalEngine, _draw, _uniform
from pilotrl.types import Reply, Request

END = 1
VOCABULARY = 360
Session = tuple[int, int]


def request(session: Session, prompt: list[int], **changes: Any) -> Request:
    values = {"max_tokens": 12, "temperature": 1.0, "top_p": 1.0, "seed": 7} | changes
    return Request(session, prompt, **values)


def finish(engine: LocalEngine, count: int = 1) -> dict[Session, Reply]:
    replies: dict[Session, Reply] = {}
    while len(replies) < count:
        replies |= {reply.session: reply for reply in engine.step()}
    return replies


def reply_to(engine: LocalEngine, prompt: list[int], **changes: Any) -> Reply:
    """One reply in a session of its own."""
    engine.submit(request((0, 0), prompt, **changes))
    reply = finish(engine)[0, 0]
    engine.release((0, 0))
    return reply


def noise(draw: Random, count: int) -> list[int]:
    return [draw.randrange(5, VOCABULARY) for _ in range(count)]


@pytest.fixture
def plain(tiny: Path) -> Any:
    """The same weights under transformers' own attention."""
    return AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32, attn_implementation="sdpa").eval()


@torch.inference_mode()
def logits_of(plain: Any, prompt: list[int], ids: list[int]) -> Tensor:
    """[reply, vocabulary], by one forward pass over everything."""
    logits: Tensor = plain(torch.tensor([prompt + ids]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return logits


def recomputed(plain: Any, prompt: list[int], reply: Reply, temperature: float) -> Tensor:
    logprobs = (logits_of(plain, prompt, reply.ids) / temperature).log_softmax(-1)
    return logprobs.gather(1, torch.tensor(reply.ids)[:, None])[:, 0]


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_sampled_log_probabilities_are_those_of_a_plain_forward_pass(model: Any, plain: Any, slots: int) -> None:
    """Sessions of several turns: prompts that continue, that branch off, that have nothing in common."""
    engine, draw, gaps = LocalEngine(model=model, end=END, slots=slots), Random(slots), []
    waiting = [(0, i) for i in range(16)]
    prompts: dict[Session, list[int]] = {}
    turns = dict.fromkeys(waiting, 0)
    heat = {session: draw.choice([0.6, 1.0, 1.7]) for session in waiting}

    def ask(session: Session) -> None:
        changes = {"max_tokens": draw.randrange(1, 30), "top_p": draw.choice([1.0, 0.9])}
        engine.submit(
            request(session, prompts[session], temperature=heat[session], seed=hash(session) % 2**60, **changes)
        )

    while waiting or engine.running:
        while waiting and len(engine.slot_of) < slots:
            session = waiting.pop(0)
            prompts[session] = noise(draw, draw.randrange(1, 70))
            ask(session)
        for reply in engine.step():
            session, prompt = reply.session, prompts[reply.session]
            again = recomputed(plain, prompt, reply, heat[session])
            gaps += (again - torch.tensor(reply.logprobs)).abs().tolist()
            turns[session] += 1
            if turns[session] == 4:
                engine.release(session)
                continue
            whole = prompt + reply.ids
            cut = draw.choice([len(whole), len(whole), len(prompt), draw.randrange(len(prompt)), 0])
            prompts[session] = whole[:cut] + noise(draw, draw.randrange(1, 25))
            ask(session)
    assert len(gaps) > 500
    assert np.mean(gaps) <= 1e-5
    assert max(gaps) <= 1e-4


def test_a_prompt_that_is_fully_cached_gets_a_reply(model: Any, plain: Any) -> None:
    engine, prompt = LocalEngine(model=model, end=END, slots=2), noise(Random(0), 40)
    engine.submit(request((0, 0), prompt))
    finish(engine)
    for again in (prompt, prompt[:20], prompt[:1]):
        engine.submit(request((0, 0), again))
        reply = finish(engine)[0, 0]
        gap = recomputed(plain, again, reply, 1.0) - torch.tensor(reply.logprobs)
        assert gap.abs().max() <= 1e-4


def test_keys_and_values_are_computed_once(model: Any) -> None:
    seen: list[int] = []
    model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    engine, prompt = LocalEngine(model=model, end=END, slots=2), noise(Random(1), 50)
    engine.submit(request((0, 0), prompt))
    reply = finish(engine)[0, 0]
    longer = prompt + reply.ids + noise(Random(2), 9)
    engine.submit(request((0, 0), longer, max_tokens=1))
    engine.step()
    assert seen == [50, *[1] * (len(reply.ids) - 1), 10]  # the last sampled token was not seen yet


def test_the_prefix_of_another_episode_of_the_group_is_reused(model: Any, plain: Any) -> None:
    """At once if it is cached; a step later if it is about to be computed. Other groups share nothing."""
    seen: list[int] = []
    model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    draw, engine = Random(9), LocalEngine(model=model, end=END, slots=8)
    start = noise(draw, 80)
    prompts = {(g, s): start + noise(draw, 5 + s) for g in (0, 1) for s in (0, 1, 2)}
    for session, prompt in prompts.items():
        engine.submit(request(session, prompt, max_tokens=9, seed=sum(session)))
    replies: dict[Session, Reply] = {}
    while len(replies) < len(prompts):
        replies |= {reply.session: reply for reply in engine.step()}
    assert seen[0] == 2 * 85, "one of each group goes first"
    assert seen[1] < 2 * (6 + 7) + 2 * (1 + local.DRAFT) + 1
    late = start + noise(draw, 30)
    engine.submit(request((0, 3), late))
    before = len(seen)
    replies[0, 3] = finish(engine)[0, 3]
    assert seen[before] == 30
    for session, reply in replies.items():
        gap = recomputed(plain, prompts.get(session, late), reply, 1.0) - torch.tensor(reply.logprobs)
        assert gap.abs().max() <= 1e-4


def test_episodes_of_a_group_sample_what_they_would_alone(model: Any) -> None:
    draw, engine = Random(10), LocalEngine(model=model, end=END, slots=12)
    start = noise(draw, 60)
    due = [request((g, s), start[: 20 * g + 20] + noise(draw, 20), seed=3 * g + s) for g in range(3) for s in range(4)]
    alone = [reply_to(engine, one.prompt, seed=one.seed).ids for one in due]
    for one in due:
        engine.submit(one)
    together = finish(engine, len(due))
    assert [together[one.session].ids for one in due] == alone


def test_an_engine_without_sessions_keeps_no_drafts(model: Any) -> None:
    """Otherwise a resumed run would round differently from one that was never interrupted."""
    engine = LocalEngine(model=model, end=END, slots=2)
    engine.submit(request((0, 0), noise(Random(11), 30)))
    engine.submit(request((0, 1), noise(Random(12), 30)))
    finish(engine, 2)
    engine.release((0, 0))
    assert engine.drafts.after
    engine.release((0, 1))
    assert not engine.drafts.after


def test_a_released_slot_is_empty(model: Any) -> None:
    draw = Random(3)
    prompt, other = noise(draw, 30), noise(draw, 60)
    fresh = reply_to(LocalEngine(model=model, end=END, slots=1), prompt)
    used = LocalEngine(model=model, end=END, slots=1)
    reply_to(used, other, max_tokens=30)
    assert reply_to(used, prompt) == fresh
    with torch.no_grad():  # the weights change between episodes: nothing of the old ones is left
        reply_to(used, prompt)
        for parameter in model.parameters():
            parameter += 0.01
    assert reply_to(used, prompt) == reply_to(LocalEngine(model=model, end=END, slots=1), prompt) != fresh


def test_release_in_the_middle_of_a_reply_frees_the_slot(model: Any) -> None:
    engine, prompt = LocalEngine(model=model, end=END, slots=1), noise(Random(4), 20)
    engine.submit(request((0, 0), prompt))
    engine.step()
    engine.release((0, 0))
    assert engine.running == []
    engine.release((9, 9))  # was never there
    assert reply_to(engine, prompt) == reply_to(LocalEngine(model=model, end=END, slots=1), prompt)


def test_a_step_with_nothing_to_do_does_nothing(model: Any) -> None:
    assert LocalEngine(model=model, end=END, slots=1).step() == []


def test_more_sessions_than_slots_are_refused(model: Any) -> None:
    engine = LocalEngine(model=model, end=END, slots=1)
    engine.submit(request((0, 0), [5, 6]))
    with pytest.raises(RuntimeError, match="release"):
        engine.submit(request((0, 1), [5, 6]))


def test_greedy_is_greedy_of_transformers(model: Any, plain: Any) -> None:
    draw = Random(5)
    for _ in range(5):
        prompt = noise(draw, draw.randrange(2, 40))
        ours = reply_to(LocalEngine(model=model, end=END, slots=2), prompt, temperature=0.0, max_tokens=20)
        theirs = plain.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=20,
            eos_token_id=END,
            pad_token_id=0,
        )
        assert ours.ids == theirs[0, len(prompt) :].tolist()
        torch.testing.assert_close(torch.tensor(ours.logprobs), recomputed(plain, prompt, ours, 1.0), atol=1e-4, rtol=0)


def test_a_reply_ends_with_the_end_token_or_at_its_limit(model: Any) -> None:
    with torch.no_grad():
        model.get_input_embeddings().weight[END] *= 0.0
    endings = set()
    for seed in range(30):
        reply = reply_to(
            LocalEngine(model=model, end=END, slots=1), [5, 6, 7], seed=seed, max_tokens=40, temperature=3.0
        )
        assert END not in reply.ids[:-1]
        assert (reply.stop == "end") == (reply.ids[-1] == END)
        assert reply.stop == "end" or len(reply.ids) == 40
        endings.add(reply.stop)
    assert endings == {"end", "length"}


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (1.0, 0.7)])
def test_samples_are_distributed_as_the_model_says(model: Any, plain: Any, temperature: float, top_p: float) -> None:
    prompt, count = noise(Random(6), 8), 3000
    engine = LocalEngine(model=model, end=END, slots=500)
    drawn = np.zeros(VOCABULARY)
    for start in range(0, count, 500):
        for i in range(500):
            engine.submit(
                request((0, i), prompt, max_tokens=1, temperature=temperature, top_p=top_p, seed=11 * (start + i))
            )
        for session, reply in finish(engine, 500).items():
            drawn[reply.ids[0]] += 1
            engine.release(session)
    probs = (logits_of(plain, prompt, [5])[0] / temperature).double().softmax(-1)
    ordered, order = probs.sort(descending=True)
    nucleus = order[: int((ordered.cumsum(0) < top_p).sum()) + 1] if top_p < 1 else order
    kept = torch.zeros_like(probs)
    kept[nucleus] = probs[nucleus] / probs[nucleus].sum()
    expected = kept.numpy() * count
    assert drawn[expected == 0].sum() == 0
    often = expected >= 5
    counts, means = list(drawn[often]), list(expected[often])
    if (rest := expected[~often].sum()) > 1:  # the rare ones together
        counts, means = [*counts, drawn[~often].sum()], [*means, rest]
    assert len(counts) > 10
    assert chisquare(counts, means, sum_check=False).pvalue > 0.01


def test_every_token_of_a_reply_is_drawn_anew(model: Any) -> None:
    reply = reply_to(LocalEngine(model=model, end=END, slots=1), [5, 6], temperature=1e6, max_tokens=60)
    assert len(set(reply.ids)) > 40
    other = reply_to(LocalEngine(model=model, end=END, slots=1), [5, 6], temperature=1e6, max_tokens=60, seed=8)
    assert reply.ids != other.ids


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
def test_drafts_change_the_number_of_steps_and_nothing_else(
    model: Any, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repetitive text, so that some drafts are accepted, and a token limit that may fall inside a draft."""
    prompts = [[5, 6, 7, 8, 9, 10, 11] * 3 + [20 + i, 5, 6, 7] for i in range(6)]

    def played(ahead: int) -> tuple[list[Reply], int]:
        monkeypatch.setattr(local, "DRAFT", ahead)
        engine, replies, steps = LocalEngine(model=model, end=END, slots=6), list[Reply](), 0
        for i, prompt in enumerate(prompts):
            engine.submit(request((0, i), prompt, max_tokens=30 + i, temperature=temperature, seed=i))
        while len(replies) < len(prompts):
            replies += engine.step()
            steps += 1
        return sorted(replies, key=lambda reply: reply.session), steps

    (plain, many), (guessed, few) = played(0), played(3)
    assert [reply.ids for reply in guessed] == [reply.ids for reply in plain]
    assert [reply.stop for reply in guessed] == [reply.stop for reply in plain]
    for one, other in zip(guessed, plain, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    assert few < many or temperature == 1


@pytest.mark.parametrize("sharpness", [0.01, 1.0, 8.0])
def test_top_p_over_the_likeliest_tokens_draws_what_sorting_all_would(
    sharpness: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flat distributions, in which the `FEW` likeliest tokens do not reach top_p, and peaked ones, in which they do."""
    noise = torch.Generator().manual_seed(0)
    logprobs = (sharpness * torch.randn(200, 300, generator=noise)).log_softmax(-1)
    uniform = torch.rand(200, generator=noise, dtype=torch.float64)
    top_p = [(0.3, 0.9, 1.0)[i % 3] for i in range(200)]
    few = _draw(logprobs, uniform, top_p)
    monkeypatch.setattr(local, "FEW", 300)
    assert torch.equal(few, _draw(logprobs, uniform, top_p))
    if sharpness < 1:
        assert int(few[0::3].max()) > 64, "a flat distribution is drawn from beyond the few"


def test_recorded_log_probabilities_are_those_before_the_top_p_cut(model: Any, plain: Any) -> None:
    prompt = noise(Random(7), 8)
    reply = reply_to(LocalEngine(model=model, end=END, slots=1), prompt, temperature=0.8, top_p=0.3)
    torch.testing.assert_close(torch.tensor(reply.logprobs), recomputed(plain, prompt, reply, 0.8), atol=1e-4, rtol=0)


def test_a_call_samples_the_same_in_a_batch_with_other_sampling_parameters(model: Any) -> None:
    draw, engine = Random(8), LocalEngine(model=model, end=END, slots=8)
    kinds = [(1.0, 1.0), (0.6, 0.9), (0.0, 1.0), (2.0, 1.0), (1.0, 0.5), (1.0, 1.0)]
    due = [
        request((1, i), noise(draw, 5 + 9 * i), temperature=heat, top_p=top_p, seed=100 + i)
        for i, (heat, top_p) in enumerate(kinds)
    ]
    alone = [reply_to(engine, r.prompt, temperature=r.temperature, top_p=r.top_p, seed=r.seed).ids for r in due]
    for one in due:
        engine.submit(one)
    together = finish(engine, len(due))
    assert [together[one.session].ids for one in due] == alone


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logprobs = torch.tensor([0.1, 0.4, 0.2, 0.3]).log().repeat(200, 1)
    uniform = torch.linspace(0, 1, 201, dtype=torch.float64)[:-1]
    for top_p, kept in ((0.05, {1}), (0.4 - 1e-6, {1}), (0.5, {1, 3}), (0.75, {1, 2, 3}), (0.95, {0, 1, 2, 3})):
        assert set(_draw(logprobs, uniform, [top_p] * 200).tolist()) == kept
    assert np.bincount(_draw(logprobs, uniform, [1.0] * 200), minlength=4).tolist() == pytest.approx(
        [20, 80, 40, 60], abs=1
    )


def test_uniform_numbers_are_uniform_and_independent_of_their_neighbours() -> None:
    many = list(range(3000))
    for drawn in (_uniform(many, [0] * 3000), _uniform([5] * 3000, many), _uniform([2**63 - 1] * 3000, many)):
        assert 0 <= drawn.min() <= drawn.max() < 1
        assert kstest(drawn, "uniform").pvalue > 0.01
        assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.05
    assert all(a != b for a, b in pairwise(_uniform([1, 2, 3], [0, 0, 0])))
