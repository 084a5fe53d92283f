"""A reward term: the fewer tokens a turn takes, the better."""

from __future__ import annotations

from pilotrl.types import Episode


class Brevity:
    """1 for replies of no tokens, 0 from `tokens` a turn on; None, which does not count, for an episode without turns."""

    def __init__(self, *, tokens: int) -> None:
        self.tokens = tokens

    def __call__(self, episode: Episode) -> float | None:
        if not episode.turns:
            return None
        return max(0.0, 1 - episode.tokens / len(episode.turns) / self.tokens)
