"""What the terminal shows while a run lasts and at its end, in a terminal and in a log file."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from pilotrl.analysis.learning_curve import _draw, learning_curve
from pilotrl.analysis.terminal import Display, legend, results

PNG = b"\x89PNG\r\n\x1a\n"
METRICS: dict[str, float | None] = {
    "step": 12,
    "reward/total": 0.614,
    "env/success": 0.43,
    "reward/adherence": None,
    "train/loss": 1e-9,
    "tokens/generated": 2763,
}


def _console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=80, highlight=False)


def _written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _block(before: float, after: float, low: float | None, high: float | None) -> dict[str, Any]:
    keys = ("success", "score", "adherence", "turns", "tokens")
    interval = {"mean": after - before, "low": low, "high": high}
    return {
        "before": dict.fromkeys(keys, before) | {"plan_quality": None},
        "after": dict.fromkeys(keys, after) | {"plan_quality": None},
        "paired": dict.fromkeys(keys, interval) | {"plan_quality": dict.fromkeys(("mean", "low", "high"))},
    }


def _summary(**blocks: Any) -> dict[str, Any]:
    panel = {"name": "toy-test-40x4", "tasks": 40, "samples_per_task": 4}
    return {"stage": "adherence", "panel": panel, "eval_teacher": None} | blocks


def _rows(summary: dict[str, Any]) -> list[str]:
    console = _console(terminal=False)
    console.print(results(summary))
    return [" ".join(line.split()) for line in _written(console).splitlines()]


def _play(display: Display, steps: int, first: int = 0) -> None:
    for step in range(first, steps):
        for done in range(1, 5):
            display.rollout(step, steps, done, 4)
        display.update(step + 1, steps, METRICS)


def test_a_log_file_gets_a_plain_line_now_and_then() -> None:
    console = _console(terminal=False)
    with Display(console) as display:
        for done in range(1, 5):
            display.panel("before: own plans", done, 4)
        _play(display, 35)
    lines = _written(console).splitlines()
    assert lines[0].startswith("evaluation before: own plans: 4 episodes in ")
    assert [line.split()[1] for line in lines[1:]] == ["1/35", "10/35", "20/35", "30/35", "35/35"]
    assert "\x1b" not in _written(console)
    assert "reward 0.61  success 0.43  0:00 left" in lines[1]  # what is not defined is not shown
    assert "left" not in lines[-1]


def test_a_terminal_gets_two_bars_and_keeps_neither() -> None:
    console = _console(terminal=True)
    with Display(console) as display:
        display.panel("before: own plans", 4, 4)
        display.rollout(0, 10, 3, 4)
        display._live.refresh()
        assert "step 0/10" in _written(console)
        assert "3/4" in _written(console)
        assert "playing" in _written(console)
        display.rollout(0, 10, 4, 4)
        display._live.refresh()
        assert "learning" in _written(console)
        display.update(1, 10, METRICS)
        display._live.refresh()
        assert "success 0.43" in _written(console)
        assert "episodes in" not in _written(console)  # bars, and no lines as well
    assert "step 1/10" not in _written(console).rsplit("\x1b[2K", 1)[-1]  # wiped at the end


def test_time_left_is_counted_from_where_this_process_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run has not played the steps before its checkpoint within its own time."""
    now = iter([0.0, 20.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    console = _console(terminal=False)
    display = Display(console)
    display.rollout(90, 100, 1, 4)
    display.update(92, 100, METRICS)  # 10 s a step, 8 to go
    assert "1:20 left" in str(display._bars.tasks[0].fields["text"])


def test_what_is_logged_or_printed_meanwhile_goes_above_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    console = _console(terminal=True)
    monkeypatch.setattr(sys, "stdout", console.file)
    handler = logging.StreamHandler(sys.stdout)
    logger = logging.getLogger("test_display")
    logger.addHandler(handler)
    try:
        with Display(console) as display:
            display.rollout(0, 10, 1, 4)
            assert handler.stream is sys.stdout is not console.file  # what rich wraps around the bars
            logger.warning("the server is down")
        assert handler.stream is sys.stdout is console.file
    finally:
        logger.removeHandler(handler)
    assert "the server is down" in _written(console)


def test_bars_go_when_a_run_fails() -> None:
    console = _console(terminal=True)
    display = Display(console)

    def fails() -> None:
        with display:
            display.rollout(0, 10, 1, 4)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert not display._live.is_started


def test_demonstrations_show_their_loss_and_not_the_reward_of_their_expert() -> None:
    console = _console(terminal=False)
    with Display(console) as display:
        display.update(1, 10, {"reward/total": 1.0, "train/loss": 0.25, "tokens/generated": 0})
    assert _written(console).split() == ["step", "1/10", "loss", "0.25"]


def test_table_of_results() -> None:
    block = _block(0.33, 0.46, 0.09, 0.17) | {"greedy": _block(0.5, 0.5, -0.1, 0.1)}
    rows = _rows(_summary(eval=_block(0.4, 0.4, None, None), eval_teacher=block))
    assert rows[0] == "evaluation set: 40 tasks of toy, split test, 4 samples each"
    own, teacher = rows.index("own plans"), rows.index("teacher's plans")
    assert rows[own + 1] == "success 40.0 % 40.0 % +0.0 -"  # no interval where there is none
    assert rows[own + 2].startswith("score")  # nothing was played greedily
    assert rows[teacher + 1] == "success 33.0 % 46.0 % +13.0 +9.0 to +17.0 *"
    assert rows[teacher + 2] == "success, greedy 50.0 % 50.0 % +0.0 -10.0 to +10.0"
    assert rows[teacher + 5] == "turns 0.3 0.5 +0.1 +0.1 to +0.2 *"
    assert not any("plan quality" in row for row in rows)
    assert "teacher's plans" not in _rows(_summary(eval=block))


INTERVALS: dict[tuple[float | None, float | None], str] = {
    (0.01, 0.2): "+1.0 to +20.0 *",
    (-0.2, -0.01): "-20.0 to -1.0 *",
    (-0.01, 0.2): "-1.0 to +20.0",
    (0.0, 0.312): "0 to +31.2",
    (1e-17, 0.312): "0 to +31.2",  # the mean of equal numbers, summed up in another order
    (0.0004, 0.312): "+0.04 to +31.2 *",  # one digit would read +0.0
    (-0.0004, 0.312): "-0.04 to +31.2",
    (None, None): "-",
}


@pytest.mark.parametrize(("bounds", "shown"), INTERVALS.items(), ids=str)
def test_only_an_interval_without_zero_is_shown_as_a_finding(
    bounds: tuple[float | None, float | None], shown: str
) -> None:
    """Bold in a terminal, and a star for log files."""
    summary = _summary(eval=_block(0.3, 0.4, *bounds))
    assert _rows(summary)[3] == f"success 30.0 % 40.0 % +10.0 {shown}"
    assert results(summary).rows[1].style == ("bold" if shown.endswith("*") else "")


def _end(summary: dict[str, Any]) -> str:
    console = _console(terminal=False)
    with Display(console) as display:
        display.finish(summary, Path("run"), None)
    return _written(console)


def test_every_measure_of_the_table_is_explained_below_it() -> None:
    end = _end(_summary(eval=_block(0.3, 0.4, 0.1, 0.2)))
    for name in ("success", "score", "adherence", "turns", "tokens", "difference", "interval"):
        assert re.search(rf"^  {name} +[a-z9]", end, re.MULTILINE), name
    assert "plan quality" not in end  # which no row is about
    assert "at temperature 0" not in end  # nothing was played so
    assert all(len(line) <= 80 for line in end.splitlines())


def test_few_tasks_are_said_to_give_wide_intervals() -> None:
    block = _block(0.3, 0.4, 0.1, 0.2)
    few = {"name": "toy-test-31x1", "tasks": 31, "samples_per_task": 1}
    assert "31 tasks are few: intervals are wide" in _end(_summary(eval=block) | {"panel": few})
    assert "1 sample each" in _end(_summary(eval=block) | {"panel": few})
    assert "few" not in _end(_summary(eval=block) | {"panel": few | {"tasks": 32}})


def test_the_end_names_folder_and_tracking_in_lines_that_can_be_copied() -> None:
    console, long = _console(terminal=False), "multirun/" + "x" * 90
    with Display(console) as display:
        display.finish(_summary(eval=_block(0.3, 0.4, 0.1, 0.2)), Path(long), f"sqlite:///{long}.db")
    report, tracking, folder = _written(console).splitlines()[-3:]
    assert (tracking, folder) == (f"mlflow ui --backend-store-uri sqlite:///{long}.db", long)
    assert report == f"python -m pilotrl.report {long}"


def test_an_evaluation_is_no_run_that_a_report_reads() -> None:
    assert "pilotrl.report" in _end(_summary(eval=_block(0.3, 0.4, 0.1, 0.2)))
    assert "pilotrl.report" not in _end({"checkpoint": "run"} | _summary(eval=_block(0.3, 0.4, 0.1, 0.2), stage=None))


def test_a_job_of_a_sweep_says_little_and_keeps_its_table_in_its_log(tmp_path: Path) -> None:
    console = _console(terminal=False)
    with Display(console, brief=True) as display:
        display.panel("before: own plans", 4, 4)
        _play(display, 25)
        display.finish(_summary(eval=_block(0.3, 0.4, 0.1, 0.2)), tmp_path, None)
    assert [line.split()[1] for line in _written(console).splitlines()] == ["10/25", "20/25"]
    assert "evaluation set: 40 tasks of toy" in (tmp_path / "pilotrl.log").read_text()


@pytest.mark.parametrize("uri", [None, "off"])
def test_no_tracking_no_line(uri: str | None) -> None:
    console = _console(terminal=False)
    with Display(console) as display:
        display.finish(_summary(eval=_block(0.3, 0.4, 0.1, 0.2)), Path("[run]"), uri)
    assert _written(console).splitlines()[-3:] == ["", "python -m pilotrl.report '[run]'", "[run]"]


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_learning_curve(steps: int, tmp_path: Path) -> None:
    lines = [METRICS | {"step": step, "train/entropy": None if step % 2 else 0.5} for step in range(1, steps + 1)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    learning_curve(tmp_path / "metrics.jsonl", tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 30])
def test_there_is_no_tick_between_two_steps(steps: int) -> None:
    axes = Figure().add_subplot()
    _draw(axes, "reward", [(step, 0.5) for step in range(1, steps + 1)])
    assert all(tick == round(tick) for tick in axes.get_xticks())


def test_no_steps_no_picture(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    learning_curve(tmp_path / "metrics.jsonl", tmp_path / "curve.png")
    assert not (tmp_path / "curve.png").exists()


def test_importing_it_is_cheap() -> None:
    modules = "pilotrl.analysis.learning_curve, pilotrl.analysis.terminal"
    code = f"import sys, {modules}; print({{'matplotlib', 'torch', 'numpy'}} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


@pytest.mark.parametrize("rule", [None, {"success": 1.0}])
def test_the_legend_says_what_a_rule_is_where_there_is_one(rule: dict[str, float] | None) -> None:
    summary = {"eval": {"before": {}, "after": {"success": 1.0}}, "panel": {"tasks": 128}, "rule": rule}
    names = [name for name, _ in legend(summary)]
    assert ("a rule" in names) == (rule is not None)
    assert len(names) == len({*names})
