"""Guesses at what comes next, from where the last tokens stood before: prompt lookup decoding, over all that was read."""

from __future__ import annotations

CLUES = (4, 2)
"""Tokens by which a place is found again; the longer clue counts, where both do."""


class PromptLookup:
    """What followed a few tokens when they were last read, in any episode. Wrong guesses cost time, never a sample."""

    def __init__(self) -> None:
        self.after: dict[tuple[int, ...], int] = {}

    def read(self, text: list[int], start: int) -> None:
        """A text goes on: its tokens from `start` on are new."""
        for clue in CLUES:
            for place in range(max(start, clue), len(text)):
                self.after[tuple(text[place - clue : place])] = text[place]

    def guess(self, text: list[int], count: int) -> list[int]:
        """At most so many tokens that may come next, each behind the guess before it."""
        tail, guesses = text[-max(CLUES) :], list[int]()
        while len(guesses) < count:
            found = next((t for n in CLUES if (t := self.after.get(tuple(tail[-n:]))) is not None), None)
            if found is None:
                break
            guesses.append(found)
            tail.append(found)
        return guesses

    def forget(self) -> None:
        self.after.clear()
