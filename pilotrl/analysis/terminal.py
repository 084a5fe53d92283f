"""What a run shows in the terminal: two bars while it lasts, a table at its end."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table
from rich.text import Text

from pilotrl.analysis.measures import BLOCKS, LIVE, LOSS, ON_POLICY, RATES
from pilotrl.store.redact import hide_credentials

PLAIN_EVERY = 10
"""Steps between two lines where there is no terminal."""


class Display:
    """Progress of one run; where there is no terminal (a log of SLURM or CI), a plain line now and then.

    console: where it is written; standard output if not given. A step is named by how many steps lie behind it.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._bars = Progress(
            BarColumn(bar_width=12),
            TextColumn("{task.fields[count]}", justify="right", markup=False),
            TextColumn("{task.fields[text]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        )
        self._run = self._bars.add_task("", visible=False, count="", text="")
        self._phase = self._bars.add_task("", visible=False, count="", text="")
        self._live = Live(self._bars, console=self._console, transient=True)
        self._streams: list[tuple[logging.StreamHandler[TextIO], TextIO]] = []
        self._began: tuple[float, int] | None = None
        self._panel: tuple[float, str] | None = None

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            before = {sys.stdout: "stdout", sys.stderr: "stderr"}
            self._live.start()  # whatever is printed from now on goes above the bars ...
            for handler in _stream_handlers():  # ... and so does what is logged by handlers that were there before
                if handler.stream in before:
                    self._streams.append((handler, handler.stream))
                    handler.setStream(getattr(sys, before[handler.stream]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def panel(self, name: str, done: int, total: int) -> None:
        """`done` of `total` episodes of a panel have been played."""
        if self._panel is None or self._panel[1] != name:
            self._panel = time.monotonic(), name
        self._show_phase(f"panel {name}", done, total)
        if done == total:
            self._say(f"panel {name}: {total} episodes in {time.monotonic() - self._panel[0]:.0f} s")
            self._bars.update(self._phase, visible=False)

    def rollout(self, step: int, steps: int, done: int, total: int) -> None:
        """`done` of `total` episodes of a training step have been played; with the last of them, learning begins."""
        if self._began is None:
            self._began = time.monotonic(), step
            self._show_run(step, steps, "")
        if done < total:
            self._show_phase("playing", done, total)
        else:
            self._show_phase("learning", 0, None)

    def update(self, step: int, steps: int, metrics: Mapping[str, float | None]) -> None:
        """`step` steps have been learned from; the metrics are those of the last."""
        text = "  ".join([*_live(metrics), *self._left(step, steps)])
        self._show_run(step, steps, text)
        if step % PLAIN_EVERY == 0 or step in (1, steps):
            self._say(f"step {step}/{steps}  {text}")
        if step == steps:
            self._bars.update(self._phase, visible=False)

    def finish(self, summary: Mapping[str, Any], folder: Path, uri: str | None) -> None:
        """The bars give way to the table of before and after, and to where everything is."""
        self._close()
        self._console.print()
        self._console.print(side_by_side(summary) if "sides" in summary else results(summary))
        self._console.print()
        if any((summary.get(key) or {}).get("by_env") for key in BLOCKS):
            self._console.print(by_env(summary))
            self._console.print()
        if "sides" in summary and "by_env" in summary["sides"][0]["eval"]:
            self._console.print(sides_by_env(summary["sides"]))
            self._console.print()
        if uri and uri != "off":
            self._console.print(f"mlflow ui --backend-store-uri {hide_credentials(uri)}", markup=False, soft_wrap=True)
        self._console.print(folder, markup=False, soft_wrap=True)

    def _close(self) -> None:
        for handler, stream in self._streams:
            handler.setStream(stream)
        self._streams.clear()
        self._live.stop()

    def _show_run(self, step: int, steps: int, text: str) -> None:
        self._bars.update(self._run, completed=step, total=steps, count=f"step {step}/{steps}", text=text, visible=True)

    def _show_phase(self, text: str, done: int, total: int | None) -> None:
        count = "" if total is None else f"{done}/{total}"
        self._bars.update(self._phase, completed=done, count=count, text=text, visible=True)
        self._bars.tasks[1].total = total  # update() takes None for "as before", not for "unknown"

    def _left(self, step: int, steps: int) -> Iterator[str]:
        """Time to the last step, from the pace since this process began."""
        if self._began is not None and self._began[1] < step < steps:
            pace = (time.monotonic() - self._began[0]) / (step - self._began[1])
            minutes, seconds = divmod(round(pace * (steps - step)), 60)
            yield f"{minutes}:{seconds:02d} left"

    def _say(self, line: str) -> None:
        if not self._console.is_terminal:
            self._console.print(line, markup=False, soft_wrap=True)


def results(summary: Mapping[str, Any]) -> Table:
    """Before, after, and the difference with its interval, for every block of a summary; bold where 0 is not in it."""
    table = table_of_changes(f"panel {summary['panel']['name']}")
    for key, whose in BLOCKS.items():
        if (block := summary.get(key)) is not None:
            table.add_row(Text(whose, style="italic"))
            _add_rows(table, block)
    return table


def side_by_side(summary: Mapping[str, Any]) -> Table:
    """A row for each checkpoint and paradigm: its numbers and, below, how they differ from the first's; bold where 0 is not
    in the interval."""
    told = "own plans; below each number its difference to 1, with its 95 % interval"
    title = f"{summary['env']}: {summary['tasks']} tasks, {told}"
    totals = {"generated_tokens": "tokens in all", "env_steps": "env steps"}
    totals |= {"broken_episodes": "broken"} if any(row["broken_episodes"] for row in summary["sides"]) else {}
    table = table_of(title, f"avg@{summary['k']}", "greedy", "score", "turns", "tokens", *totals.values())
    for row in summary["sides"]:
        greedy = row["eval"].get("greedy")
        cells = [_compared(row["eval"], "success"), _compared(greedy, "success") if greedy else Text("-")]
        cells += [_compared(row["eval"], key) for key in ("score", "turns", "tokens")]
        who = Path(row["checkpoint"]).name if row["checkpoint"] else row["model"]
        table.add_row(Text(f"{row['side']}  {row['agent']}\n   {who}"), *cells, *(f"{row[key]:,}" for key in totals))
    return table


def sides_by_env(sides: Sequence[Mapping[str, Any]]) -> Table:
    """A column for each checkpoint and paradigm: its success in each environment of a mixture, and the averages over them."""
    table = table_of("success by environment", *(f"{side['side']}  {side['agent']}" for side in sides))
    for part in ("by_env", "averages"):
        for name in sides[0]["eval"][part]:
            table.add_row(f"  {name}", *(_compared(side["eval"][part][name], "success") for side in sides))
    return table


def _compared(block: Mapping[str, Any], key: str) -> Text:
    """A number, its difference, and the interval of that, one below the other; of the first side the number alone."""
    scale, unit = (100.0, " %") if key in RATES else (1.0, "")
    paired = block["paired"][key]
    low, high = paired["low"], paired["high"]
    lines = [_cell(block["after"][key], scale, ".1f", unit), _cell(paired["mean"], scale, "+.1f")]
    lines += [] if low is None or high is None else [f"{scale * low:+.1f} to {scale * high:+.1f}"]
    sure = low is not None and high is not None and not low <= 0 <= high
    return Text("\n".join(lines), style="bold" if sure else "")


def by_env(summary: Mapping[str, Any]) -> Table:
    """Success in each environment of a mixture, and the averages over them: what papers put side by side."""
    table = table_of_changes("success by environment")
    for key, whose in BLOCKS.items():
        if (block := summary.get(key)) is not None:
            table.add_row(Text(whose, style="italic"))
            for name, of in [*block["by_env"].items(), *block["averages"].items()]:
                before, after = of["before"]["success"], of["after"]["success"]
                add_change(table, "success", name, before, after, of["paired"]["success"])
    return table


def table_of(title: str, *headings: str) -> Table:
    """An empty table: a column of names, and one of numbers under each heading."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def table_of_changes(title: str) -> Table:
    return table_of(title, "before", "after", "difference", "95 % interval")


def _add_rows(table: Table, block: Mapping[str, Any], note: str = "") -> None:
    for key, after in block["after"].items():
        if after is not None and (not note or key == "success"):
            add_change(table, key, f"{key.replace('_', ' ')}{note}", block["before"][key], after, block["paired"][key])
        if key == "success" and block.get("greedy"):
            _add_rows(table, block["greedy"], ", greedy")


def add_change(
    table: Table, key: str, name: str, before: float | None, after: float | None, paired: Mapping[str, float | None]
) -> None:
    scale, unit = (100.0, " %") if key in RATES else (1.0, "")
    low, high = paired["low"], paired["high"]
    sure = low is not None and high is not None and not low <= 0 <= high
    interval = "-" if low is None or high is None else f"{scale * low:+.1f} to {scale * high:+.1f}"
    cells = [_cell(before, scale, ".1f", unit), _cell(after, scale, ".1f", unit), _cell(paired["mean"], scale, "+.1f")]
    table.add_row(f"  {name}", *cells, interval, style="bold" if sure else "")


def _cell(value: float | None, scale: float, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{scale * value:{form}}{unit}"


def _live(metrics: Mapping[str, float | None]) -> list[str]:
    shown = (
        LIVE if ON_POLICY in metrics or "train/loss" not in metrics else LOSS
    )  # a step that taught nothing has neither
    return [f"{name} {value:.2f}" for key, name in shown.items() if (value := metrics.get(key)) is not None]


def _stream_handlers() -> Iterator[logging.StreamHandler[TextIO]]:
    known = [logging.getLogger(), *logging.root.manager.loggerDict.values()]
    for logger in known:
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler):
                yield handler
