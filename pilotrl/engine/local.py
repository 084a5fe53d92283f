"""transformers in this process: continuous batching over slots of kept keys and values.

The model is the one that learns, so a weight sync is nothing, and log-probabilities are those of the learner. Every step is
one forward pass over all new tokens of all sessions, long prompts and single tokens side by side; a session that ends
frees its slot for the next. What a session's slot holds is reused as far as the next prompt starts with the same tokens, and
so is what the slot of another episode of its group holds, which began alike.

Agents repeat themselves and each other: a plan is written anew with most of its steps as they were. So a few tokens are guessed
from where the last ones stood before, and seen in the same pass (speculative decoding, arXiv 2211.17192). A seed belongs
to a call and a place in it, so each place gets the token that it would have got one by one, and what was sampled behind a wrong
guess is dropped.
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
from pilotrl.models.prefix import common
from pilotrl.types import Reply, Request

Session = tuple[int, int]
DRAFT = AHEAD - 1
"""Tokens that are guessed, at most."""
WORTH = 16
"""Tokens that are worth copying from another slot, or waiting a step for."""
FEW = 16
"""Likeliest tokens that are looked at first: mostly what is drawn is among them, and to sort all takes longer than the model."""


@dataclass
class _Running:
    request: Request
    slot: int
    fresh: list[int]
    """Tokens the model has not seen yet: the prompt's rest, then each sampled one."""
    read: int
    """Tokens of the text that are known as phrases."""
    text: list[int]
    """Prompt and reply."""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def take(self, draft: list[int], chosen: list[int], logprobs: list[float], end: int) -> None:
        """Tokens in order, as long as each was sampled behind the one before it and not behind another guess."""
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
        """Work an adapter into the weights, for a process that will never learn: the same up to rounding, and faster. In
        float32 only, where rounding is below what sampling sees."""
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
        """Forget a session: what its slot holds belongs to these weights and this episode."""
        if (slot := self.slot_of.pop(session, None)) is not None:
            self.known[slot] = []
            self.free = sorted([*self.free, slot])
            self.running = [r for r in self.running if r.request.session != session]
        if not self.slot_of:
            self.drafts.forget()  # so that no batch of episodes depends on those before it, not even in its rounding

    @torch.inference_mode()
    def step(self) -> list[Reply]:
        """One forward pass, at least one more token for every running request; returns those that ended."""
        if not self.running:
            return []
        going = self._going()
        drafts = [self._draft(run) for run in going]
        chosen, logprobs = self._sample(going, self._logits(going, drafts), drafts)
        for run, draft in zip(going, drafts, strict=True):
            had, rows = len(run.ids), len(draft) + 1
            run.take(draft, chosen[:rows], logprobs[:rows], self.end)
            self.known[run.slot] += run.fresh + run.ids[had:-1]
            run.fresh = run.ids[-1:]
            chosen, logprobs = chosen[rows:], logprobs[rows:]
        done = [r for r in going if r.over(self.end)]
        self.running = [r for r in self.running if not (r.ids and r.over(self.end))]
        return [Reply(r.request.session, r.ids, r.logprobs, "end" if r.ids[-1] == self.end else "length") for r in done]

    def _going(self) -> list[_Running]:
        """Who takes part in the next forward pass: all but those that wait for what another one is about to compute."""
        going: list[_Running] = []
        for run in self.running:
            if len(run.fresh) <= WORTH or not self._waits(run, going):
                going.append(run)
        return going

    def _waits(self, run: _Running, going: list[_Running]) -> bool:
        """Take over what another episode of the group holds of this prompt. Whether one will hold more in a moment."""
        prompt, session = run.request.prompt, run.request.session
        others = [slot for other, slot in self.slot_of.items() if other[0] == session[0] and other != session]
        held, slot = max(((_shared(self.known[slot], prompt), slot) for slot in others), default=(0, run.slot))
        if held >= len(prompt) - len(run.fresh) + WORTH:
            self.cache.copy(slot, run.slot, held)
            self.known[run.slot], run.fresh, run.read = prompt[:held], prompt[held:], held
        more = len(prompt) - len(run.fresh) + WORTH
        return any(r.request.session[0] == session[0] and _shared(r.request.prompt, prompt) >= more for r in going)

    def _draft(self, run: _Running) -> list[int]:
        """What may come next, within the room that is left."""
        self.drafts.read(run.text, run.read)
        run.read = len(run.text)
        return self.drafts.guess(run.text, min(DRAFT, run.request.max_tokens - len(run.ids) - 1))

    def _logits(self, going: list[_Running], drafts: list[list[int]]) -> Tensor:
        """[rows, vocabulary] after each one's last token, and after each token of its draft."""
        fed = [run.fresh + draft for run, draft in zip(going, drafts, strict=True)]
        counts = [len(tokens) for tokens in fed]
        slots = [run.slot for run in going]
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

    def _sample(self, going: list[_Running], logits: Tensor, drafts: list[list[int]]) -> tuple[list[int], list[float]]:
        """Draw from softmax(logits / temperature) cut at top_p; log-probabilities are those before the cut."""
        rows = [(run, i) for run, draft in zip(going, drafts, strict=True) for i in range(len(draft) + 1)]
        requests = [run.request for run, _ in rows]
        heat = torch.tensor([r.temperature or 1.0 for r in requests], device=logits.device)
        logprobs = (logits / heat[:, None]).log_softmax(-1)
        draws = _uniform([r.seed for r in requests], [len(run.ids) + i for run, i in rows])
        chosen = _draw(logprobs, torch.from_numpy(draws).to(logits.device), [r.top_p for r in requests])
        greedy = torch.tensor([r.temperature == 0 for r in requests], device=logits.device)
        chosen = torch.where(greedy, logits.argmax(-1), chosen)
        return chosen.tolist(), logprobs.gather(1, chosen[:, None])[:, 0].tolist()


def _shared(known: list[int], prompt: list[int]) -> int:
    """Tokens that a slot need not see again: the common prefix, short of the prompt's last token."""
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
    """Invert the cumulative distribution; below top_p 1 only over the likeliest tokens that together reach it.

    Each row by its own: what a call samples does not depend on its neighbours."""
    share = torch.tensor(top_p, dtype=torch.float64, device=logprobs.device)
    chosen = torch.empty(len(share), dtype=torch.long, device=logprobs.device)
    for draw, rows in ((_of_all, share == 1), (_of_likeliest, share < 1)):
        if len(rows := rows.nonzero()[:, 0]):
            chosen[rows] = draw(logprobs[rows], uniform[rows], share[rows])
    return chosen


def _of_all(logprobs: Tensor, uniform: Tensor, share: Tensor) -> Tensor:
    """[rows] tokens, over all of them in their own order, which rounding does not change."""
    return _invert(logprobs.double().exp(), uniform)


def _of_likeliest(logprobs: Tensor, uniform: Tensor, share: Tensor) -> Tensor:
    """[rows] tokens, the likeliest first; only where the few do not reach the share are all sorted."""
    few = logprobs.topk(min(FEW, logprobs.shape[-1]))
    chosen = _inside(*few, uniform, share)
    if len(rest := (few.values.double().exp().sum(-1) < share).nonzero()[:, 0]):
        every = logprobs[rest].sort(stable=True, dim=-1, descending=True)
        chosen[rest] = _inside(*every, uniform[rest], share[rest])
    return chosen


def _inside(logprobs: Tensor, tokens: Tensor, uniform: Tensor, share: Tensor) -> Tensor:
    """[rows] one of the tokens, given in order, that together reach the share."""
    probs = logprobs.double().exp()
    kept = probs * (probs.cumsum(-1) - probs < share[:, None])
    return tokens.gather(1, _invert(kept, uniform)[:, None])[:, 0]


def _invert(probs: Tensor, uniform: Tensor) -> Tensor:
    """[rows] index of the first entry whose cumulative probability passes uniform * total."""
    total = probs.cumsum(-1)
    found = torch.searchsorted(total, uniform[:, None] * total[:, -1:], right=True)[:, 0]
    return found.clamp(max=probs.shape[-1] - 1)
