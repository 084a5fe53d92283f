"""What a run shows in the terminal: two bars while it lasts, a table with a legend at its end."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.control import Control
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table
from rich.text import Text

from pilotrl.analysis.measures import BLOCKS, LIVE, LOSS, MEANINGS, RATES, RULE, plays
from pilotrl.store.redact import hide_credentials
from pilotrl.store.text import printable

PLAIN_EVERY = 10
"""Steps between two lines where there is no terminal."""
WIDE = 100
"""Columns of a table in a log file."""
FEW = 32
"""Tasks of an evaluation set below which its intervals are too wide to show more than large differences."""
INTERVAL = "95 %, paired bootstrap over tasks; * where 0 lies outside of it"
TINY = 1e-9
"""What a bound of an interval may be off by rounding: 0 is outside an interval only if it is further away than this."""


@dataclass
class Printable(RenderHook):
    """A console's hook, and what it puts around all that is printed: escapes stand for what a terminal would obey."""

    shown: ConsoleRenderable | None = None

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [one if isinstance(one, Control) else Printable(one) for one in renderables]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.shown or "", options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def guarded(console: Console) -> Console:
    """The console, which from now on prints no control character of a task, an environment, a model or a folder's name."""
    console.push_render_hook(Printable())
    return console


class Display:
    """Progress of one run; where there is no terminal (a log of SLURM or CI), a plain line now and then.

    console: where it is written; standard output if not given. A step is named by how many steps lie behind it.
    brief: of a job of a sweep, whose terminal shows all jobs: fewer lines, and the table goes to the job's own log.
    """

    def __init__(self, console: Console | None = None, *, brief: bool = False) -> None:
        self._console, self._brief = guarded(console or Console(highlight=False)), brief
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
        """`done` of `total` episodes of an evaluation have been played."""
        if self._panel is None or self._panel[1] != name:
            self._panel = time.monotonic(), name
        self._show_phase(f"evaluation {name}", done, total)
        if done == total:
            if not self._brief:
                self._say(f"evaluation {name}: {total} episodes in {time.monotonic() - self._panel[0]:.0f} s")
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
        if step % PLAIN_EVERY == 0 or (step in (1, steps) and not self._brief):
            self._say(f"step {step}/{steps}  {text}")
        if step == steps:
            self._bars.update(self._phase, visible=False)

    def finish(self, summary: Mapping[str, Any], folder: Path, uri: str | None) -> None:
        """The bars give way to the table of before and after, and to where everything is."""
        self._close()
        if not self._brief:
            show_end(self._console, summary, folder, uri)
            return
        with open(folder / "pilotrl.log", "a", encoding="utf-8") as log:
            show_end(guarded(Console(file=log, width=WIDE, highlight=False)), summary, folder, uri)

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


def show_end(console: Console, summary: Mapping[str, Any], folder: Path, uri: str | None) -> None:
    """The tables of a run or of an evaluation, what their rows mean, and the commands that go on from here."""
    tables = [side_by_side(summary) if "sides" in summary else results(summary)]
    tables += [table for table in (by_env(summary), by_level(summary)) if table.row_count]
    if "sides" in summary and {"by_env", "by_level"} & {*summary["sides"][0]["eval"]}:
        tables.append(sides_by_env(summary["sides"]))
    for table in tables:
        console.print()
        console.print(table)
    console.print()
    told = [*legend(summary)]
    width = max(len(name) for name, _ in told)
    for name, meaning in told:
        console.print(f"  {name:<{width}} {meaning}", style="dim", markup=False, soft_wrap=True)
    console.print()
    for line in commands(folder, uri, report=bool(summary.get("stage"))):
        console.print(line, markup=False, soft_wrap=True)
    console.print(folder, markup=False, soft_wrap=True)


def commands(folder: Path, uri: str | None, *, report: bool = True) -> Iterator[str]:
    """What to type next about the folder of a run or of a sweep. uri: of MLflow; None or `off` where nothing is tracked."""
    if report:
        here = Path.cwd()
        near = folder.relative_to(here) if folder.is_relative_to(here) and folder != here else folder
        yield f"python -m pilotrl.report {shlex.quote(str(near))}"
    if uri and uri != "off":
        yield f"mlflow ui --backend-store-uri {hide_credentials(uri)}"


def results(summary: Mapping[str, Any]) -> Table:
    """Before, after, and the difference with its interval, for every block of a summary; a star where 0 is not in it."""
    title = evaluation_set(summary["panel"])
    table = table_of_changes(title)
    table.min_width = len(title)  # in one line
    for key, whose in BLOCKS.items():
        if (block := summary.get(key)) is not None:
            table.add_row(Text(whose, style="italic"))
            _add_rows(table, block)
    if rule := summary.get("rule"):
        table.add_row(Text(RULE, style="italic"))
        for key, value in rule.items():
            table.add_row(f"  {key}", *[_cell(value, 100.0, ".1f", " %")] * 2, "", "", "")
    return table


def evaluation_set(panel: Mapping[str, Any]) -> str:
    """`evaluation set: 16 tasks of webshop, split test, 1 sample each`. panel: the node of that name in a summary."""
    env, _, split = panel["name"].rpartition("-")[0].rpartition("-")
    tasks, samples = panel["tasks"], panel["samples_per_task"]
    return f"evaluation set: {tasks} tasks of {env}, split {split}, {samples} sample{'s' * (samples != 1)} each"


def legend(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each measure that the tables show, what it means, and what the interval is."""
    blocks = [summary[key] for key in BLOCKS if summary.get(key)] or [side["eval"] for side in summary.get("sides", ())]
    for key, meaning in MEANINGS.items():
        if any(block["after"].get(key) is not None for block in blocks):
            yield key.replace("_", " "), meaning
    if summary.get("rule"):
        yield "a rule", "a few lines of string replacement, no model: what following these plans takes"
    if any(block.get("greedy") for block in blocks):
        yield "greedy", "each task once at temperature 0; everything else is sampled"
    other = "less that of 1" if "sides" in summary else "after minus before"
    yield "difference", f"{other}, on the same tasks"
    yield "interval", INTERVAL
    tasks = summary["tasks"] if "sides" in summary else summary["panel"]["tasks"]
    if tasks < FEW:
        yield "note", f"{tasks} tasks are few: intervals are wide; panel.tasks=128 narrows them"


def side_by_side(summary: Mapping[str, Any]) -> Table:
    """A row for each checkpoint and paradigm: its numbers and, below, how they differ from the first's; a star where 0 is
    not in the interval."""
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
    """A column for each checkpoint and paradigm: its success in each environment of a mixture, on average, and at each level."""
    table = table_of("success by environment and level", *(f"{side['side']}  {side['agent']}" for side in sides))
    for part in ("by_env", "averages", "by_level"):
        for name in sides[0]["eval"].get(part, ()):
            table.add_row(f"  {name}", *(_compared(side["eval"][part][name], "success") for side in sides))
    return table


def _compared(block: Mapping[str, Any], key: str) -> Text:
    """A number, its difference, and the interval of that, one below the other; of the first side the number alone."""
    scale, unit = (100.0, " %") if key in RATES else (1.0, "")
    paired = block["paired"][key]
    low, high = paired["low"], paired["high"]
    sure = excludes_zero(low, high)
    lines = [_cell(block["after"][key], scale, ".1f", unit), _cell(paired["mean"], scale, "+.1f") + " *" * sure]
    lines += [] if low is None or high is None else [interval(low, high, scale)]
    return Text("\n".join(lines), style="bold" if sure else "")


def by_env(summary: Mapping[str, Any]) -> Table:
    """Success in each environment of a mixture, and the averages over them. Rows of held-out ones in the model's start say so."""
    return _by_part(summary, "success by environment", "by_env", "averages")


def by_level(summary: Mapping[str, Any]) -> Table:
    """Success at each level of the tasks, with the number of tasks in it."""
    return _by_part(summary, "success by level (tasks)", "by_level")


def _by_part(summary: Mapping[str, Any], title: str, *parts: str) -> Table:
    table = table_of_changes(title)
    for key, whose in BLOCKS.items():
        if rows := [item for part in parts for item in ((summary.get(key) or {}).get(part) or {}).items()]:
            table.add_row(Text(whose, style="italic"))
            for name, of in rows:
                before, after = of["before"]["success"], of["after"]["success"]
                note = " in the start" if name in summary.get("in_the_start", ()) else ""
                note += f" ({of['tasks']})" if "tasks" in of else ""
                add_change(table, "success", name + note, before, after, of["paired"]["success"])
    return table


def table_of(title: str, *headings: str) -> Table:
    """An empty table: a column of names, and one of numbers under each heading."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def table_of_changes(title: str) -> Table:
    return table_of(title, "before", "after", "difference", "95 % interval", "")


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
    sure = excludes_zero(low, high)
    cells = [_cell(before, scale, ".1f", unit), _cell(after, scale, ".1f", unit), _cell(paired["mean"], scale, "+.1f")]
    table.add_row(f"  {name}", *cells, interval(low, high, scale), "*" * sure, style="bold" if sure else "")


def excludes_zero(low: float | None, high: float | None) -> bool:
    """Whether 0 lies outside of an interval; on its edge it does not."""
    return low is not None and high is not None and (low > TINY or high < -TINY)


def interval(low: float | None, high: float | None, scale: float) -> str:
    """`-12.5 to +25.0`; a dash where there is none."""
    return "-" if low is None or high is None else f"{_bound(scale * low)} to {_bound(scale * high)}"


def _bound(value: float) -> str:
    """One digit, and more where that would read 0 for what is not; a bound that is 0 has no sign."""
    if abs(value) <= TINY:
        return "0"
    return f"{value:+.1f}" if abs(value) >= 0.05 else f"{value:+.1g}"


def _cell(value: float | None, scale: float, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{scale * value:{form}}{unit}"


def _live(metrics: Mapping[str, float | None]) -> list[str]:
    shown = LIVE if plays([metrics]) or "train/loss" not in metrics else LOSS
    return [f"{name} {value:.2f}" for key, name in shown.items() if (value := metrics.get(key)) is not None]


def _stream_handlers() -> Iterator[logging.StreamHandler[TextIO]]:
    known = [logging.getLogger(), *logging.root.manager.loggerDict.values()]
    for logger in known:
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler):
                yield handler
