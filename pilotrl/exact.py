"""What each credit gets wrong, exactly: `python -m pilotrl.exact [CREDIT[,KEY=VALUE...] ...] [--groups N] [--picture FILE]`.

In a world small enough to know the true policy gradient (`training/exact.py`) every credit of `conf/algorithm/credit/` estimates
it from the same episodes: whether it points the same way (bias), and how far one group's estimate lies from its mean (variance).
Named ones, with other options if wanted, are compared alone: `python -m pilotrl.exact rloo gae,gamma=1 gigpo,shrinkage=4`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from pilotrl.analysis.learning_curve import FAINT, INK
from pilotrl.analysis.terminal import guarded
from pilotrl.cli.exit_codes import ended, in_one_line
from pilotrl.cli.open_nodes import check_target
from pilotrl.cli.signals import at_once
from pilotrl.config import search_path
from pilotrl.config.instantiate import make
from pilotrl.training import exact
from pilotrl.training.algorithms import Algorithm
from pilotrl.types import UserError


def credit(word: str) -> Algorithm:
    """The credit that `NAME,KEY=VALUE,...` means. Raises UserError for a name, a key or a value that is not there."""
    name, *typed = word.split(",")
    group = next((group for group in ("algorithm/credit", "algorithm") if search_path.find(group, name)), None)
    if group is None:
        known = ", ".join(search_path.options("algorithm/credit"))
        raise UserError(f"{name}: there is no such credit; there are {known}")
    held: dict[str, Any] = search_path.settings(group, name)
    if "credit" in held:
        held["_target_"] = held.pop("credit")
    settings = OmegaConf.create({key: value for key, value in held.items() if key != "name"})
    chosen = OmegaConf.merge(settings, OmegaConf.from_dotlist(typed))
    check_target(f"credit.{name}", chosen)  # type: ignore[arg-type]
    return make(OmegaConf.to_container(chosen))  # type: ignore[arg-type,no-any-return]


def show(
    words: Sequence[str], episodes: int, groups: int, seed: int, console: Console, drawn: Path | None = None
) -> None:
    """Print the table, and draw it where a file is named."""
    named = {word: credit(word) for word in words or search_path.options("algorithm/credit")}
    chosen = {word: one for word, one in named.items() if words or not (one.demonstrations or one.compares_plans)}
    for word, one in chosen.items():
        if one.compares_plans:
            raise UserError(f"{word}: needs episodes without a plan, and in this world every episode has one")
        if episodes < one.smallest_group:
            raise UserError(f"--episodes {episodes}: must be at least {one.smallest_group} for {word}")
    known = exact.world(seed)
    table = Table(*("credit", "size", "turned", "noise", "variance", "95 %"), box=None, pad_edge=False)
    table.columns[0].overflow, table.columns[0].min_width = "fold", max(map(len, chosen))
    estimates = {word: exact.estimate(known, one, groups, episodes, seed) for word, one in chosen.items()}
    for word, found in estimates.items():
        turned = f"{found.turned:.3f}{' *' if found.surprise > exact.NOISE else ''}"
        interval = f"{found.low:.2f} to {found.high:.2f}"
        table.add_row(word, f"{found.size:.3f}", turned, f"{found.noise:.3f}", f"{found.variance:.2f}", interval)
    if drawn is not None:
        draw(estimates, drawn)
    reward = float(known.chance @ known.rewards)
    console.print(f"{groups} groups of {episodes} episodes; expected reward {reward:.3f}", style="bold")
    console.print(table)
    console.print(
        "size: the part along the true gradient, over it. turned: the part across, over it, less the noise of the mean;\n"
        "* where it is no noise. variance: of one group's gradient, over the plain policy gradient's, both at size 1."
    )


def draw(estimates: Mapping[str, exact.Estimate], picture: Path) -> None:
    """A row each: how far the mean is turned from the true gradient (filled where that is no noise), and how much it varies."""
    from matplotlib.figure import Figure  # a second to import; without pyplot there is no state and no window

    figure = Figure(figsize=(9.0, 1.2 + 0.3 * len(estimates)), layout="constrained")
    turned, varies = figure.subplots(1, 2, sharey=True)
    for row, found in enumerate(estimates.values()):
        fill = INK if found.surprise > exact.NOISE else "white"
        turned.plot(found.turned, row, "o", color=INK, markerfacecolor=fill, clip_on=False)
        varies.plot([found.low, found.high], [row, row], color=INK, linewidth=3)
        varies.plot(found.variance, row, "|", color=INK, markersize=10)
    turned.set_yticks(range(len(estimates)), [word.replace(",", ", ") for word in estimates])
    turned.invert_yaxis()
    turned.set_title("bias: turned from the true gradient by", fontsize=10, loc="left")
    varies.set_title("variance, 95 %", fontsize=10, loc="left")
    varies.axvline(1.0, color=FAINT, linestyle=":")
    for axes in (turned, varies):
        axes.set_xlim(left=0)
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    figure.savefig(picture, dpi=150)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 after one line about what the user got wrong."""
    parser = in_one_line(argparse.ArgumentParser(prog="python -m pilotrl.exact", description=__doc__))
    parser.add_argument("credits", metavar="CREDIT[,KEY=VALUE...]", nargs="*", help="those of conf/ if none is given")
    parser.add_argument("--episodes", type=int, default=8, help="of a group")
    parser.add_argument("--groups", type=int, default=4000, help="that the mean and the variance are over")
    parser.add_argument("--seed", type=int, default=0, help="of the policy and of the episodes")
    parser.add_argument("--picture", metavar="FILE", type=Path, help="a PNG or SVG of the table")
    parser.add_argument("-cd", "--config-dir", metavar="FOLDER", type=Path, help="a folder with credits of your own")

    def command(words: Sequence[str]) -> None:
        given = parser.parse_args(words)
        for name, low, high in (("episodes", 1, 1000), ("groups", 40, 100_000)):
            if not low <= (value := getattr(given, name)) <= high:
                raise UserError(f"--{name} {value}: must be from {low} to {high}")
        if given.picture and not (
            given.picture.suffix in (".png", ".svg") and given.picture.absolute().parent.is_dir()
        ):
            raise UserError(f"--picture {given.picture}: must end in .png or .svg, in a folder that is there")
        if given.config_dir is not None:
            search_path.add(given.config_dir)
        console = guarded(Console(highlight=False))
        show(given.credits, given.episodes, given.groups, given.seed, console, given.picture)

    return ended(command, argv, parser.format_help())


if __name__ == "__main__":
    sys.exit(at_once(main()))
