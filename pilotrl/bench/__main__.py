"""How fast is the tensor half on this machine? `python -m pilotrl.bench [shape=tiny] [device=cpu] [seconds=300] [out=FILE]`

Random weights of a shape (tiny, nano, smollm2-135m, qwen2.5-0.5b, qwen2.5-7b): nothing is downloaded. One JSON line a part, as
soon as it is known: the machine's peak, the engine's prefill and decoding, training's forward and backward passes as a share of
that peak and their memory against the estimate, whether engine and trainer agree, and what it costs to hand weights over. A part
that no time is left for, or that fails, is a line too. Other words: dtype=float32|bfloat16, rank=16 (null: all weights are
trained), length=1024 (tokens of a row), rows=8 (rows of a batch, and sessions of the engine), threads=N.

    python -m pilotrl.bench against=trl [steps=1] [rows=8] [env=webshop] [model=nano] [KEY=VALUE ...]

Trains two steps and so many more, then has TRL's GRPOTrainer generate and learn from the very episodes of those: as many tokens,
adapters and updates, in passes of so many rows. What is typed besides is the run's own (as after `python -m pilotrl`). Three JSON
lines: seconds of PilotRL, of TRL, and the ratio. Needs `pip install trl`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pilotrl.cli.exit_codes import ended
from pilotrl.cli.signals import at_once


def command(words: Sequence[str]) -> None:
    """One of the two benchmarks. Raises UserError for invalid arguments."""
    if any(word.startswith("against=") for word in words):
        from pilotrl.bench import against_trl

        against_trl.command(words)
    else:
        from pilotrl.bench import parts

        parts.command(words)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2, with a one-line message, for invalid arguments."""
    return ended(command, argv, __doc__)


if __name__ == "__main__":
    sys.exit(at_once(main()))
