"""The local engine: generates with a transformers model in this process, with continuous batching and a slotted KV cache.

The model is the one being trained, so that weights need no syncing and log-probabilities are the learner's own. Every step is
one forward pass over all new tokens of all sessions, long prompts and single tokens together; a session that ends frees its
slot for the next. Prefix caching: keys and values in a session's slot are reused as far as the next prompt starts with the same
tokens, and so are those in the slot of another episode of its group, which has the same instruction.

Agents repeat themselves and each other: a new plan mostly repeats the steps of the one before. So a few tokens are drafted by
prompt lookup and verified in the same pass (speculative decoding, arXiv 2211.17192). Random numbers belong to a call and a
position in it, so each position gets the token it would have got without drafts; what was sampled after a wrong draft token
is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor

from pilotrl.engine.prompt_lookup import PromptLookup
from pilotrl.models.attention import AHEAD, Cache
from pilotrl.models.narrow import Frozen
from pilotrl.models.prefix import common
from pilotrl.types import Reply, Request

Session = tuple[int, int]
DRAFT = AHEAD - 1
"""Tokens that are drafted, at most."""
MIN_COPY = 16
"""Tokens from which on it pays to copy them from another slot, or to wait a step for them."""
FEW = 16
"""Top-p looks at so many of the likeliest tokens first, which mostly suffice: sorting all takes longer than the model."""


@dataclass
class _Running:
    request: Request
    slot: int
    fresh: list[int]
    """Tokens the model has not seen yet: the rest of the prompt, then each sampled one."""
    read: int
    """Tokens of the text that prompt lookup has indexed."""
    text: list[int]
    """Prompt and reply."""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def take(self, draft: list[int], chosen: list[int], logprobs: list[float], end: int) -> None:
        """Accept sampled tokens in order, up to the first that differs from its draft: later ones followed a wrong prefix."""
        for token, logprob, guess in zip(chosen, logprobs, [*draft, None], strict=True):
            self.text.append(token)
            self.ids.append(token)
            self.logprobs.append(logprob)
            if token != guess or self.over(end):
                break

    def over(self, end: int) -> bool:
        return self.ids[-1] == end or len(self.ids) >= self.request.max_tokens


class LocalEngine:
    """`model` is a causal LM of transformers with attention `pilotrl`; `end` closes a reply."""

    def __init__(self, *, model: Any, end: int, slots: int) -> None:
        self.model, self.end, self.slots = model, end, slots
        self.cache = Cache(slots)
        self.free = list(range(slots))
        self.slot_of: dict[Session, int] = {}
        self.known: list[list[int]] = [[] for _ in range(slots)]
        """Tokens whose keys and values each slot holds."""
        self.running: list[_Running] = []
        self.drafts = PromptLookup()

    def settle(self) -> None:
        """Merge the adapter into the weights, in a process that never trains: faster, and equal up to rounding. Only in
        float32, where rounding is too small to change a sample."""
        if isinstance(self.model, PeftModel) and self.model.dtype == torch.float32:
            self.model.merge_adapter()

    def submit(self, request: Request) -> None:
        """Raises RuntimeError when more sessions are open than there are slots."""
        if request.session not in self.slot_of:
            if not self.free:
                raise RuntimeError(f"{self.slots} sessions are open already: release one first")
            self.slot_of[request.session] = self.free.pop(0)
        slot = self.slot_of[request.session]
        shared = _shared(self.known[slot], request.prompt)
        del self.known[slot][shared:]
        self.running.append(_Running(request, slot, request.prompt[shared:], shared, list(request.prompt)))

    def release(self, session: Session) -> None:
        """Free a session's slot: its keys and values belong to these weights and this episode."""
        if (slot := self.slot_of.pop(session, None)) is not None:
            self.known[slot] = []
            self.free = sorted([*self.free, slot])
            self.running = [r for r in self.running if r.request.session != session]
        if not self.slot_of:
            self.drafts.forget()  # so that a batch of episodes does not depend on those before it, even by rounding

    def take(self, version: int) -> None:
        """Have frozen layers laid out, if they are not yet: processes that fork from this one share them. Else nothing: the
        weights are the learner's, and slots were emptied when their episodes ended."""
        for layer in self.model.modules():
            if isinstance(frozen := vars(layer).get("forward"), Frozen):
                frozen.lay_out(layer.weight)

    def rest(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""

    @torch.inference_mode()
    def step(self) -> list[Reply]:
        """One forward pass, at least one more token for every running request; returns those that ended."""
        if not self.running:
            return []
        active = self._active()
        drafts = [self._draft(run) for run in active]
        chosen, logprobs = self._sample(active, self._logits(active, drafts), drafts)
        for run, draft in zip(active, drafts, strict=True):
            had, rows = len(run.ids), len(draft) + 1
            run.take(draft, chosen[:rows], logprobs[:rows], self.end)
            self.known[run.slot] += run.fresh + run.ids[had:-1]
            run.fresh = run.ids[-1:]
            chosen, logprobs = chosen[rows:], logprobs[rows:]
        done = [r for r in active if r.over(self.end)]
        self.running = [r for r in self.running if not (r.ids and r.over(self.end))]
        return [Reply(r.request.session, r.ids, r.logprobs, "end" if r.ids[-1] == self.end else "length") for r in done]

    def _active(self) -> list[_Running]:
        """The requests in the next forward pass: all but those that wait for a prefix another one is about to compute."""
        active: list[_Running] = []
        for run in self.running:
            if len(run.fresh) <= MIN_COPY or not self._waits(run, active):
                active.append(run)
        return active

    def _waits(self, run: _Running, active: list[_Running]) -> bool:
        """Copy the prefix of this prompt that another episode of the group has cached. Returns whether one is about to have
        a longer one, for which this request waits."""
        prompt, session = run.request.prompt, run.request.session
        others = [slot for other, slot in self.slot_of.items() if other[0] == session[0] and other != session]
        held, slot = max(((_shared(self.known[slot], prompt), slot) for slot in others), default=(0, run.slot))
        if held >= len(prompt) - len(run.fresh) + MIN_COPY:
            self.cache.copy(slot, run.slot, held)
            self.known[run.slot], run.fresh, run.read = prompt[:held], prompt[held:], held
        more = len(prompt) - len(run.fresh) + MIN_COPY
        return any(r.request.session[0] == session[0] and _shared(r.request.prompt, prompt) >= more for r in active)

    def _draft(self, run: _Running) -> list[int]:
        """Draft tokens for a request, within its token limit."""
        self.drafts.read(run.text, run.read)
        run.read = len(run.text)
        return self.drafts.guess(run.text, min(DRAFT, run.request.max_tokens - len(run.ids) - 1))

    def _logits(self, active: list[_Running], drafts: list[list[int]]) -> Tensor:
        """[rows, vocabulary] logits after the last token of each request, and after each token of its draft."""
        fed = [run.fresh + draft for run, draft in zip(active, drafts, strict=True)]
        counts = [len(tokens) for tokens in fed]
        slots = [run.slot for run in active]
        device = self.model.device
        position = self.cache.place(slots, [len(self.known[slot]) for slot in slots], counts, device)
        ids = torch.tensor([token for tokens in fed for token in tokens], device=device).unsqueeze(0)
        ends = [
            end - i for end, draft in zip(accumulate(counts), drafts, strict=True) for i in range(len(draft) + 1, 0, -1)
        ]
        rows = torch.tensor(ends, device=device)
        out = self.model(input_ids=ids, position_ids=position, use_cache=False, cache=self.cache, logits_to_keep=rows)
        logits: Tensor = out.logits[0].float()
        return logits

    def _sample(self, active: list[_Running], logits: Tensor, drafts: list[list[int]]) -> tuple[list[int], list[float]]:
        """Draw from softmax(logits / temperature) cut at top_p; log-probabilities are those before the cut."""
        rows = [(run, i) for run, draft in zip(active, drafts, strict=True) for i in range(len(draft) + 1)]
        requests = [run.request for run, _ in rows]
        temperature = torch.tensor([r.temperature or 1.0 for r in requests], device=logits.device)
        logprobs = (logits / temperature[:, None]).log_softmax(-1)
        draws = _uniform([r.seed for r in requests], [len(run.ids) + i for run, i in rows])
        chosen = _draw(logprobs, torch.from_numpy(draws).to(logits.device), [r.top_p for r in requests])
        greedy = torch.tensor([r.temperature == 0 for r in requests], device=logits.device)
        chosen = torch.where(greedy, logits.argmax(-1), chosen)
        return chosen.tolist(), logprobs.gather(1, chosen[:, None])[:, 0].tolist()


def _shared(known: list[int], prompt: list[int]) -> int:
    """Length of the cached prefix of a prompt, at most all but its last token."""
    return min(common(known, prompt), len(prompt) - 1)


def _uniform(seeds: list[int], positions: list[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """One number in [0, 1) for each (seed, position): SplitMix64 (doi 10.1145/2714064.2660195) of both."""
    with np.errstate(over="ignore"):
        z = np.array(seeds, np.uint64) + np.array(positions, np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    uniform: np.ndarray[Any, np.dtype[np.float64]] = (z >> np.uint64(11)) / float(1 << 53)
    return uniform


def _draw(logprobs: Tensor, uniform: Tensor, top_p: list[float]) -> Tensor:
    """Sample by inverting the cumulative distribution; with top_p below 1, over the likeliest tokens that reach it.

    Each row by its own top_p: what a call samples does not depend on the other rows."""
    share = torch.tensor(top_p, dtype=torch.float64, device=logprobs.device)
    chosen = torch.empty(len(share), dtype=torch.long, device=logprobs.device)
    for draw, rows in ((_draw_all, share == 1), (_draw_top_p, share < 1)):
        if len(rows := rows.nonzero()[:, 0]):
            chosen[rows] = draw(logprobs[rows], uniform[rows], share[rows])
    return chosen


def _draw_all(logprobs: Tensor, uniform: Tensor, share: Tensor) -> Tensor:
    """[rows] tokens, drawn from the whole vocabulary in order of ids, which rounding does not change."""
    return _invert(logprobs.double().exp(), uniform)


def _draw_top_p(logprobs: Tensor, uniform: Tensor, share: Tensor) -> Tensor:
    """[rows] tokens, drawn by top-p; all are sorted only for rows in which the `FEW` likeliest do not reach the share."""
    top = logprobs.topk(min(FEW, logprobs.shape[-1]))
    chosen = _draw_sorted(*top, uniform, share)
    if len(rest := (top.values.double().exp().sum(-1) < share).nonzero()[:, 0]):
        every = logprobs[rest].sort(stable=True, dim=-1, descending=True)
        chosen[rest] = _draw_sorted(*every, uniform[rest], share[rest])
    return chosen


def _draw_sorted(logprobs: Tensor, tokens: Tensor, uniform: Tensor, share: Tensor) -> Tensor:
    """[rows] tokens, drawn from those that together reach the share; they come in order of probability."""
    probs = logprobs.double().exp()
    kept = probs * (probs.cumsum(-1) - probs < share[:, None])
    return tokens.gather(1, _invert(kept, uniform)[:, None])[:, 0]


def _invert(probs: Tensor, uniform: Tensor) -> Tensor:
    """[rows] index of the first entry whose cumulative probability passes uniform * total."""
    total = probs.cumsum(-1)
    found = torch.searchsorted(total, uniform[:, None] * total[:, -1:], right=True)[:, 0]
    return found.clamp(max=probs.shape[-1] - 1)
