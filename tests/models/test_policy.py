"""The policy: its log-probabilities are those of plain transformers, and it saves an ordinary model."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pilotrl import PACKAGE
from pilotrl.models import policy
from pilotrl.models.micro_batch import MicroBatch
from pilotrl.models.policy import Policy, distributed, in_parts, weights_sha256


def micro_batch(rows: list[list[int]], calls: list[tuple[int, int, int]]) -> MicroBatch:
    """Rows without a common prefix; `calls`: row, where its reply starts, and how many tokens it has."""
    start = [sum(map(len, rows[:number])) for number in range(len(rows))]
    flat = [token for row in rows for token in row]
    tokens = [
        (start[row] + at, number)
        for number, (row, begin, count) in enumerate(calls)
        for at in range(begin, begin + count)
    ]
    places, number = (torch.tensor(column) for column in zip(*tokens, strict=True))
    return MicroBatch(
        ids=torch.tensor(flat),
        position=torch.tensor([place for row in rows for place in range(len(row))]),
        fresh=[*map(len, rows)],
        lengths=[*map(len, rows)],
        path=torch.arange(len(flat)),
        sampled=torch.tensor(flat)[places],
        token_state=places - 1,
        token_call=number,
        logprobs=torch.zeros(len(tokens)),
        recomputed=torch.empty(0),
        call=torch.arange(len(calls)),
        call_state=torch.tensor([start[row] + begin - 1 for row, begin, _ in calls]),
        adapter=None,
    )


ROWS = [[5, 6, 7, 8, 9, 10, 11], [20, 21, 22], [30, 1, 0, 33]]
CALLS = [(0, 2, 2), (0, 6, 1), (1, 1, 2), (2, 3, 1)]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_scores_are_those_of_a_plain_forward_pass(tiny: Path, model: Any, temperature: float) -> None:
    plain = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32, attn_implementation="sdpa").eval()
    scored = Policy(model, critic=False)(micro_batch(ROWS, CALLS), temperature)
    i = 0
    for row, start, count in CALLS:
        logits = plain(torch.tensor([ROWS[row]]), use_cache=False).logits[0] / temperature
        for at in range(start, start + count):
            here = torch.distributions.Categorical(logits=logits[at - 1])
            torch.testing.assert_close(
                scored.logprobs[i], here.log_prob(torch.tensor(ROWS[row][at])), atol=1e-5, rtol=0
            )
            torch.testing.assert_close(scored.entropy[i], here.entropy(), atol=1e-5, rtol=0)
            i += 1
    assert not scored.entropy.requires_grad
    assert len(scored.values) == 0


@pytest.mark.parametrize("entropy", [False, True])
def test_distributions_in_parts_have_the_same_scores_and_gradient(
    model: Any, entropy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, found = Policy(model, critic=False), []
    for states in (100, 2):
        monkeypatch.setattr("pilotrl.models.policy.WHOLE", states * model.config.vocab_size)
        scored = policy(micro_batch(ROWS, CALLS), 0.7, entropy_gradient=entropy)
        policy.zero_grad()
        (scored.logprobs.sum() + (scored.entropy.square().sum() if entropy else 0)).backward()
        grads = [p.grad.clone() for p in policy.parameters() if p.grad is not None]
        found.append((scored, grads))
    (whole, gradient), (parts, same) = found
    torch.testing.assert_close(parts.logprobs, whole.logprobs)
    torch.testing.assert_close(parts.entropy, whole.entropy)
    assert parts.entropy.requires_grad == whole.entropy.requires_grad == entropy
    assert gradient
    torch.testing.assert_close(same, gradient)


def test_distributions_in_parts_come_in_the_order_of_their_tokens() -> None:
    torch.manual_seed(0)
    head = partial(distributed, torch.nn.Linear(8, 30), 0.7, False)
    given = torch.randn(5, 8), torch.tensor([4, 0, 3, 0, 2, 1]), torch.tensor([1, 2, 3, 4, 5, 6])
    for part, whole in zip(in_parts(head, 2, *given), head(*given), strict=True):
        torch.testing.assert_close(part, whole)


def test_the_value_head_starts_at_zero_and_has_no_gradient_into_the_policy(model: Any) -> None:
    both = Policy(model, critic=True)
    values = both(micro_batch(ROWS, CALLS), 1.0).values
    assert values.tolist() == [0.0] * len(CALLS)
    (values - 1.0).square().sum().backward()  # type: ignore[no-untyped-call]
    assert both.value is not None
    assert both.value.weight.grad is not None
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_stays_off(tiny: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny, attn_implementation="pilotrl", attention_dropout=0.5)
    kept = Policy(model, critic=False).train()
    assert not any(module.training for module in kept.modules())


def test_what_is_saved_is_an_ordinary_model(tiny: Path, tokenizer: Any, model: Any, tmp_path: Path) -> None:
    policy.save(model, tokenizer, tmp_path)
    assert "pilotrl" not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([ROWS[0]])
    torch.testing.assert_close(again(ids).logits, model(ids, use_cache=False).logits, atol=1e-5, rtol=0)
    assert model.config._attn_implementation == "pilotrl"
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tokenizer.chat_template
    assert weights_sha256(again) == weights_sha256(model) == weights_sha256(policy.load_model(str(tiny), "float32"))


def test_every_weight_counts_in_the_hash(model: Any) -> None:
    whole = Policy(model, critic=True)
    before = weights_sha256(whole)
    for parameter in (*list(model.parameters())[:2], whole.value.weight):  # type: ignore[union-attr]
        with torch.no_grad():
            parameter.view(-1)[-1] += 1e-6
            assert weights_sha256(whole) != before
            before = weights_sha256(whole)
    assert before == weights_sha256(whole)


def test_a_shipped_model_lies_in_the_package() -> None:
    assert policy.resolve("pilotrl:nano") == str(PACKAGE / "models" / "weights" / "nano")
    assert policy.resolve("org/model") == "org/model"
