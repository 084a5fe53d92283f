"""WebShop against its own small catalogue, and against the rankings of its own search engine."""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pilotrl.envs import load
from pilotrl.envs.webshop import catalogue
from pilotrl.envs.webshop.search import Index

DATA = Path(os.environ.get("PILOTRL_PARITY_DATA") or Path(__file__).parents[2] / "../shared/data") / "webshop"

pytestmark = pytest.mark.parity


@pytest.fixture(autouse=True)
def _data() -> None:
    if not DATA.is_dir():
        reason = f"NO PARITY DATA: {DATA} is absent; set PILOTRL_PARITY_DATA to the folder that holds webshop/"
        pytest.skip(reason)


def test_parity_goals(tell: Callable[[str], None]) -> None:
    """The product of option values over products with an instruction: 6,910 goals in the original."""
    splits = ("train", "dev", "test")
    tasks = [load("webshop", split=split, data_dir=str(DATA), fidelity="original").tasks for split in splits]
    ids = {task for split in tasks for task in split}
    counts = ", ".join(f"{split} {len(own)}" for split, own in zip(splits, tasks, strict=True))
    tell(f"webshop goals: {len(ids)} / 6910 matched ({counts})")
    assert len(ids) == sum(map(len, tasks)) == 6910


def test_parity_search(tell: Callable[[str], None]) -> None:
    """Of Lucene's first ten hits, how many are among ours: on average over its queries."""
    products = catalogue.products(*catalogue.read(str(DATA)), seed=0)
    index = Index(products)
    lines = lzma.decompress((DATA / "lucene_rankings.jsonl.xz").read_bytes()).decode().splitlines()
    matched = total = 0
    shares = []
    for line in lines:
        ranking = json.loads(line)
        theirs = {asin for asin, _ in ranking["hits"][:10]}
        ours = {products[place].asin for place in index.search(ranking["query"])[:10]}
        matched, total = matched + len(theirs & ours), total + len(theirs)
        shares.append(len(theirs & ours) / len(theirs))
    mean = sum(shares) / len(shares)
    tell(f"webshop search: {matched} / {total} of the first ten matched over {len(lines)} queries, mean {mean:.1%}")
    assert mean >= 0.95
