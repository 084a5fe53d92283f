"""What a user may have meant: the known word that is likest, and how a value is shown as it is typed."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import Any

from omegaconf import OmegaConf


def nearest(word: str, known: Iterable[str]) -> str:
    """The known key that looks most like `word`, or like its last part: `lr` finds `train.lr`."""

    def likeness(key: str) -> tuple[float, float]:
        whole = SequenceMatcher(None, word, key).ratio()
        leaf = SequenceMatcher(None, word.rpartition(".")[2], key.rpartition(".")[2]).ratio()
        return max(whole, leaf - 0.01), whole

    return max(sorted(known), key=likeness)


def show(value: Any) -> str:
    return str(value).replace("'", "").replace(" ", "") if OmegaConf.is_list(value) else str(value)
