"""The longest common prefix of two token sequences."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common prefix. By bisection: comparing slices is fast, and prefixes are long."""
    lengths = range(1, min(len(one), len(other)) + 1)
    return bisect_left(lengths, True, key=lambda length: one[:length] != other[:length])
