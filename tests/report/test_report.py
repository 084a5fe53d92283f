"""`python -m pilotrl.report`: what is read, what is refused, and that every number comes from the run folders."""

from __future__ import annotations

import base64
import csv
import json
import math
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from pilotrl import PACKAGE
from pilotrl.analysis.statistics import panel_block
from pilotrl.cli.compose import composed_job, parse
from pilotrl.cli.renamed import KEYS, METRICS
from pilotrl.prompts import load
from pilotrl.report import html
from pilotrl.report.__main__ import main
from pilotrl.report.comparisons import compared
from pilotrl.report.configurations import labels, sorted_out
from pilotrl.report.figures import _smoothed, learning
from pilotrl.report.runs import Cell, find, read
from pilotrl.runs.evaluation_set import Panel
from pilotrl.store.records import to_record
from pilotrl.store.run_folder import RunFolder
from pilotrl.types import Episode, Outcome, Task, Turn

PANEL = Panel(
    "toy",
    "test",
    tuple(f"t{i}" for i in range(24)),
    2,
    0.6,
    0.9,
    {"env": {"max_turns": 4}, "tokens": [1]},
    (),
    "toy",
    (),
)
LEVELLED = replace(PANEL, levels=("low",) * 6 + ("high",) * 17 + ("",))
SHOWS = ("step", "plan", "none")
PHASES = {"own plans, sampled": 2, "own plans, greedy": 1, "teacher's plans, sampled": 2, "teacher's plans, greedy": 1}


def episode(rng: np.random.Generator, task: str, group: int, sample: int, skill: float) -> Episode:
    solved = rng.random() < 1 / (1 + np.exp(group / 6 - 2 - skill))
    outcome: Outcome = "solved" if solved else "broken" if rng.random() < 0.03 else "failed"
    turns = [
        Turn(("look",), "reply", "act", "page", valid=True, well_formed=True, score=0.0, adherence=int(rng.integers(3)))
        for _ in range(rng.integers(1, 4))
    ]
    place = Task("toy", task, "test", 0)
    return Episode(
        place, group, sample, "page", turns=turns, outcome=outcome, score=float(solved), tokens=9 * len(turns)
    )


def measured(rng: np.random.Generator, panel: Panel, skill: float) -> dict[str, list[Episode]]:
    return {
        configuration: [episode(rng, task, g, s, skill) for g, task in enumerate(panel.tasks) for s in range(samples)]
        for configuration, samples in PHASES.items()
    }


def line(rng: np.random.Generator, step: int, steps: int) -> dict[str, Any]:
    """Of metrics.jsonl."""
    done = step / steps
    rates = {f"reward/{name}": done * 0.3 + 0.4 + rng.normal() / 20 for name in ("total", "format", "adherence")}
    dead = {"train/frac_reward_zero_std": 0.2 + 0.3 * done, "train/frac_groups_unsolved": 0.2 - 0.1 * done}
    dead |= {"env/episodes": 4, "train/broken": 1}
    played = {"env/success": 0.5 + done * 0.2 + rng.normal() / 20, "env/turns": 3 - done, "tokens/generated": 100}
    return {
        "step": step,
        **rates,
        **dead,
        **played,
        "train/entropy": 0.6 - 0.4 * done,
        "train/grad_norm": None,
        "train/lr": 0.001,
    }


def make(folder: Path, *overrides: str, skill: float = 0.0, panel: Panel = PANEL, **changes: Any) -> Path:
    """The folder of a finished run whose policy gained `skill`; `changes` are of its summary."""
    config = composed_job(parse([]), ["env=toy", *overrides]).config
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    rng = np.random.default_rng([config.seed, *map(ord, config.algorithm.name)])
    before, after = measured(np.random.default_rng(0), panel, 0.0), measured(rng, panel, skill)
    with open(folder / "episodes.jsonl", "w", encoding="utf-8") as file:
        for when, played in (("before", before), ("train", {"": before["own plans, greedy"]}), ("after", after)):
            for configuration, episodes in played.items():
                for one in episodes:
                    file.write(
                        json.dumps(to_record(one, f"{when}/{configuration}" if configuration else when, 0)) + "\n"
                    )
    steps = [line(rng, step, 30) for step in range(1, 31)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    (folder / "panel.json").write_text(json.dumps(panel.record()))
    (folder / "summary.json").write_text(json.dumps(summary(config, panel, before, after) | changes, indent=2))
    return folder


def summary(config: Any, panel: Panel, before: Any, after: Any) -> dict[str, Any]:
    def block(planner: str) -> dict[str, Any]:
        parts = [played[f"{planner} plans, {how}"] for how in ("sampled", "greedy") for played in (before, after)]
        return panel_block(*parts)

    totals = ("episodes", "generated_tokens", "trained_tokens", "rollout_seconds", "update_seconds")
    return {
        "schema": 1,
        **{key: config[key].name for key in ("stage", "model", "agent", "algorithm")},
        "env": "toy",
        "seed": config.seed,
        "parent": config.parent,
        "git_revision": "0123456789",
        "panel": panel.summary(),
        "eval": block("own"),
        "eval_teacher": block("teacher's"),
        "train": {"steps": 30, **dict.fromkeys(totals, 3600 + config.seed)},
        "seconds": 60.0,
    }


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three ways of training, three seeds each."""
    place = tmp_path_factory.mktemp("runs") / "sweep"
    ways = {"algorithm=grpo": 2.2, "algorithm=ppo": 2.1, "train.shuffle_rewards=true": 0.0}
    for number, (way, skill) in enumerate(ways.items()):
        for seed in range(3):
            make(place / str(3 * number + seed), way, f"seed={seed}", skill=skill + 0.1 * seed)
    return place


@pytest.fixture(scope="module")
def written(sweep: Path) -> Path:
    assert main([str(sweep)]) == 0
    return sweep / "report"


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def text(page: Path) -> str:
    """What a reader sees of a page: no markup, no pictures."""
    return " ".join(re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8").partition("<body>")[2]).split())


def test_the_page_holds_every_run_every_configuration_and_its_pictures(written: Path) -> None:
    page = (written / "report.html").read_text(encoding="utf-8")
    for number in range(9):
        assert f"<code>{number}</code>" in page
    for configuration in (
        "A: algorithm=grpo, shuffle_rewards=false",
        "B: algorithm=ppo, shuffle_rewards=false",
        "C: algorithm=grpo, shuffle_rewards=true",
    ):
        assert configuration in page
    inside = [base64.b64decode(code) for code in re.findall(r"base64,([^\"]+)", page)]
    assert inside == [(written / f"{name}.png").read_bytes() for name in ("differences", "learning", "groups")]
    assert all(png.startswith(b"\x89PNG") for png in inside)


def test_the_page_needs_nothing_but_itself(written: Path) -> None:
    page = (written / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:)|@import|<script|https?://""", page)


def test_the_csv_has_the_numbers_of_every_summary(sweep: Path, written: Path) -> None:
    found = {
        tuple(row[key] for key in ("run", "plans", "decoding", "measure")): row for row in rows(written / "runs.csv")
    }
    expected = 0
    for number in range(9):
        told = json.loads((sweep / str(number) / "summary.json").read_text())
        for plans, block in (("own plans", told["eval"]), ("teacher's plans", told["eval_teacher"])):
            for decoding, held in (("sampled", block), ("greedy", block["greedy"])):
                for measure, after in held["after"].items():
                    row = found[str(number), plans, decoding, measure]
                    numbers = [held["before"][measure], after, *held["paired"][measure].values()]
                    columns = [row[key] for key in ("before", "after", "difference", "ci_low", "ci_high")]
                    assert [None if cell == "" else float(cell) for cell in columns] == numbers
                    assert (row["seed"], row["algorithm"]) == (str(told["seed"]), told["algorithm"])
                    expected += 1
    assert len(found) == expected


def test_a_comparison_is_what_the_episodes_say(sweep: Path, written: Path) -> None:
    """GRPO minus PPO, computed again from the files in ten lines."""

    def by_task(configuration: range) -> Any:
        values: dict[str, dict[int, list[float]]] = {}
        for run in configuration:
            for played in map(json.loads, (sweep / str(run) / "episodes.jsonl").read_text().splitlines()):
                if played["phase"] == "after/teacher's plans, sampled" and played["outcome"] != "broken":
                    solved = float(played["outcome"] == "solved")
                    values.setdefault(played["task"]["id"], {}).setdefault(run, []).append(solved)
        return {task: np.mean([np.mean(v) for v in runs.values()]) for task, runs in values.items() if len(runs) == 3}

    grpo, ppo = by_task(range(3)), by_task(range(3, 6))
    gaps = np.array([grpo[task] - ppo[task] for task in grpo if task in ppo])
    draws = [gaps[np.random.default_rng(i).integers(0, len(gaps), len(gaps))].mean() for i in range(4000)]
    (row,) = (
        row
        for row in rows(written / "comparisons.csv")
        if (row["plans"], row["decoding"], row["measure"]) == ("teacher's plans", "sampled", "success")
        and (row["configuration_a"][0], row["configuration_b"][0]) == ("A", "B")
    )
    assert int(row["tasks"]) == len(gaps)
    assert float(row["difference"]) == pytest.approx(gaps.mean())
    error = gaps.std(ddof=1) / np.sqrt(len(gaps))
    for key, percent in (("ci_low_over_tasks", 2.5), ("ci_high_over_tasks", 97.5)):
        assert float(row[key]) == pytest.approx(np.percentile(draws, percent), abs=0.15 * error)


def test_nobody_is_ahead_inside_an_interval_or_without_the_correction(written: Path) -> None:
    """Holm's correction is computed again, for the comparisons of each measure."""
    verdicts, families = [], defaultdict(list)
    for row in rows(written / "comparisons.csv"):
        families[row["plans"], row["decoding"], row["measure"]].append(row)
        ends = [row[f"ci_{end}_over_{what}"] for what in ("tasks", "tasks_and_seeds") for end in ("low", "high")]
        held = any(float(low) <= 0 <= float(high) for low, high in (ends[:2], ends[2:]))
        assert held == (float(row["p"]) >= 0.05)
    for found in families.values():
        ranked, left, least = sorted(found, key=lambda row: float(row["p"])), len(found), 0.0
        for row in ranked:
            least, left = max(least, left * float(row["p"])), left - 1
            leader = row["configuration_a"][0] if float(row["difference"]) > 0 else row["configuration_b"][0]
            assert float(row["p_holm"]) == pytest.approx(min(1, least))
            assert row["verdict"] == (f"{leader} higher" if least < 0.05 else "cannot be told apart")
            assert row["family"] == "3"
            verdicts.append(row["verdict"])
    assert {"cannot be told apart", "A higher"} <= set(verdicts)


def test_a_reader_sees_that_intervals_are_single_and_the_verdict_is_corrected(written: Path) -> None:
    page = text(written / "report.html")
    for place in (page, (written / "tables.md").read_text()):
        assert "single 95 % CI over tasks and seeds" in place
        assert "p after Holm" in place
        assert "verdict after Holm" in place


def test_one_seed_is_never_taken_for_a_way_of_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "0", skill=9.0)
    make(tmp_path / "1", "train.lr=1", skill=-9.0)
    report(tmp_path, out=tmp_path / "out", capsys=capsys)
    found = {row["verdict"] for row in rows(tmp_path / "out" / "comparisons.csv") if row["measure"] == "success"}
    assert found == {"A higher in these runs (one seed)"}


def test_the_same_runs_give_the_same_files(sweep: Path, written: Path, tmp_path: Path) -> None:
    assert main([f"out={tmp_path / 'again'}", str(sweep)]) == 0
    names = sorted(path.name for path in written.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    assert all((written / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)


def test_the_tables_can_be_quoted(written: Path) -> None:
    lines = (written / "tables.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len([line for line in table if "| teacher's plans: success | A − B |" in line]) == 1
    for line, before in zip(lines[1:], lines, strict=False):
        if line.startswith("|---"):
            assert before.count("|") == line.count("|")
    assert "* A: algorithm=grpo, shuffle_rewards=false (seeds 0, 1, 2)" in lines


def test_texts_of_others_are_neither_formulas_nor_markup_nor_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the names of folders, environments and evaluation sets, whoever made them."""
    panel = {"name": "<b>|`x`\x1b[2J\ud800-test-0", "sha256": "0" * 64, "tasks": 24, "samples_per_task": 2}
    for name, way in (("=1+1", "algorithm=grpo"), ("\x1b]0;t\x07|[a](b)", "algorithm=ppo")):
        path = make(tmp_path / "runs" / name, way) / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"env": "=cmd|' /C calc'!A0", "panel": panel}))
    assert main([str(tmp_path / "runs"), f"out={tmp_path / 'out'}"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    found = rows(tmp_path / "out" / "runs.csv")
    assert {row["env"] for row in found} == {"'=cmd|' /C calc'!A0"}
    assert "'=1+1" in {row["run"] for row in found}
    assert min(float(row["difference"]) for row in found if row["difference"]) < 0  # numbers stay numbers
    tables = (tmp_path / "out" / "tables.md").read_text()
    assert "<b>" not in tables
    assert r"&lt;b>\|\`x\`" in tables
    assert "<b>" not in (tmp_path / "out" / "report.html").read_text()


def report(*places: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Writes a report, and returns the notes that were said about it; what was found stands in the tables too."""
    assert main([*map(str, places), f"out={out}"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    *said, path = printed.out.splitlines()
    assert path == str(out / "report.html")
    assert all(line in text(out / "report.html").replace("&#39;", "'") for line in said)
    found = re.split(r"^Evaluation set \S+ \(\w+\), ", (out / "tables.md").read_text(), flags=re.MULTILINE)[0].split(
        "\n\n"
    )
    found = [line.strip() for line in found if line.strip()]
    assert found
    assert said[-len(found) :] == found
    return said[: -len(found)]


def test_a_run_of_another_evaluation_set_is_compared_with_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = [make(tmp_path / "runs" / str(i), way) for i, way in enumerate(("algorithm=grpo", "algorithm=ppo"))]
    make(tmp_path / "runs" / "2", "train.lr=1", panel=replace(PANEL, samples=4))
    (note,) = report(tmp_path / "runs", out=tmp_path / "all", capsys=capsys)
    assert (
        note
        == "evaluation set toy-test-24x4 (2) is another one (other samples) than that of the first run: it stands by itself"
    )
    assert report(*ours, out=tmp_path / "two", capsys=capsys) == []
    found, alone = ((tmp_path / name / "comparisons.csv").read_text() for name in ("all", "two"))
    assert found == alone
    assert {row["run"] for row in rows(tmp_path / "all" / "runs.csv")} == {"0", "1", "2"}
    assert (tmp_path / "all" / "2-toy-test-24x4-learning.png").is_file()
    assert "|\n\nEvaluation set" in (tmp_path / "all" / "tables.md").read_text(), (
        "an evaluation set begins no row of the table before"
    )


def test_a_list_is_written_as_it_is_typed() -> None:
    orders: list[dict[str, Any]] = [{"stage.order": ["adherence", "planning"]}, {"stage.order": ["joint"]}]
    assert labels(orders) == ["order=[adherence,planning]", "order=[joint]"]


def test_paradigms_are_compared_and_other_words_are_not(tmp_path: Path) -> None:
    """The agent is part of the hash of an evaluation set, and may be what a question is about; nothing else of it may."""
    react = replace(PANEL, protocol={**PANEL.protocol, "agent": {"plans": "never"}})
    words = replace(PANEL, protocol={**PANEL.protocol, "prompts": {"planner": "other"}})
    folders = [
        make(tmp_path / "0"),
        make(tmp_path / "1", "agent=react", panel=react),
        make(tmp_path / "2", "train.lr=1", panel=words),
    ]
    panels, notes = sorted_out([read(folder.name, found) for folder in folders for found in find([folder]).values()])
    assert [[configuration.label for configuration in panel.configurations] for panel in panels] == [
        ["agent=adaplan", "agent=react"],
        ["stage=adherence, algorithm=grpo"],
    ]
    assert "other prompts" in notes[0]


def test_what_the_executor_is_shown_may_be_what_a_question_is_about(tmp_path: Path) -> None:
    """Arms that differ in agent.shows use other templates of one set of prompts, and are compared."""
    arms = {
        shows: replace(PANEL, protocol={**PANEL.protocol, "prompts": load("short", shows=shows)}) for shows in SHOWS
    }
    assert len({panel.sha256 for panel in arms.values()}) == 2  # `step` needs one template less
    folders = [make(tmp_path / shows, f"agent.shows={shows}", panel=panel) for shows, panel in arms.items()]
    panels, notes = sorted_out([read(folder.name, found) for folder in folders for found in find([folder]).values()])
    assert [configuration.label for panel in panels for configuration in panel.configurations] == [
        "shows=step",
        "shows=plan",
        "shows=none",
    ]
    assert (len(panels), notes) == (1, [])


def test_steps_that_last_are_compared_with_one_step_an_action(tmp_path: Path) -> None:
    """They have words of their own in the same set of prompts."""
    arms = {
        s: replace(PANEL, protocol={**PANEL.protocol, "prompts": load("full", steps=s)}) for s in ("action", "subgoal")
    }
    folders = [make(tmp_path / steps, f"agent.steps={steps}", panel=panel) for steps, panel in arms.items()]
    panels, notes = sorted_out([read(folder.name, found) for folder in folders for found in find([folder]).values()])
    assert [configuration.label for panel in panels for configuration in panel.configurations] == [
        "steps=action",
        "steps=subgoal",
    ]
    assert (len(panels), notes) == (1, [])


def test_what_cannot_be_read_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    make(runs / "good")
    make(runs / "late", "seed=1", "train.steps=50")
    (runs / "late" / "summary.json").unlink()
    make(runs / "new", "seed=2", schema=2)
    make(runs / "cut", "seed=3")
    (runs / "cut" / "summary.json").write_text('{"schema": 1,')
    make(runs / "lost", "seed=4")
    (runs / "lost" / "episodes.jsonl").unlink()
    make(runs / "changed", "seed=5")
    told = json.loads((runs / "changed" / "summary.json").read_text())
    told["eval"]["after"]["success"] += 0.01
    (runs / "changed" / "summary.json").write_text(json.dumps(told))
    (runs / "begun" / ".hydra").mkdir(parents=True)
    (runs / "begun" / ".hydra" / "config.yaml").write_text("train: {steps: 5}")
    notes = report(runs, out=tmp_path / "out", capsys=capsys)
    for start in (
        f"late is left out: it is not finished (30 of 50 steps); python -m pilotrl resume={runs / 'late'} goes on with it",
        "new is left out: it has a summary.json of schema 2, and schema 1 is read here",
        f"cut is left out: it is broken: {runs}/cut/summary.json: is cut off or broken (",
        f"lost is left out: it is broken: {runs}/lost/episodes.jsonl: is not there",
        "changed is left out: it is broken: after, eval sampled success is ",
        "begun is left out: it is not finished (0 of 5 steps)",
    ):
        assert len([note for note in notes if note.startswith(start)]) == 1, start
    assert len(notes) == 6
    assert {row["run"] for row in rows(tmp_path / "out" / "runs.csv")} == {"good"}


def rename_back(folder: Path) -> None:
    """A run folder as revisions wrote it before keys, classes and metrics were renamed."""
    path = folder / ".hydra" / "config.yaml"
    text = path.read_text().replace("pilotrl.rewards.judge.", "pilotrl.judge.")
    for old, new in KEYS.items():
        assert f"  {new.rpartition('.')[2]}:" in text
        text = text.replace(f"  {new.rpartition('.')[2]}:", f"  {old.rpartition('.')[2]}:")
    path.write_text(text)
    metrics = (folder / "metrics.jsonl").read_text()
    for old, new in METRICS.items():
        metrics = metrics.replace(f'"{new}"', f'"{old}"')
    (folder / "metrics.jsonl").write_text(metrics)


def test_a_run_of_before_a_renaming_is_of_the_same_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its metrics too, and as a parent."""
    runs = tmp_path / "runs"
    for seed, name in enumerate(("old", "new")):
        make(runs / name, f"seed={seed}")
        make(runs / f"{name}-child", f"seed={seed}", "train.lr=1", f"parent={runs / name}")
    rename_back(runs / "old")
    rename_back(runs / "old-child")
    found = [read(name, folder) for name, folder in find([runs]).items()]
    assert {line["train/frac_groups_unsolved"] for line in found[2].metrics}
    (panel,), notes = sorted_out(found)
    assert notes == []
    assert [[run.name for run in one.runs] for one in panel.configurations] == [
        ["new", "old"],
        ["new-child", "old-child"],
    ]
    report(runs, out=tmp_path / "out", capsys=capsys)


def test_a_run_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twice the same seed is not two seeds; neither is one folder under two names."""
    make(tmp_path / "a")
    make(tmp_path / "b", "root=elsewhere", "trainer.threads=2", "checkpoint.every=1")
    make(tmp_path / "c", "train.lr=1", git_revision="fedcba9876")
    notes = report(tmp_path, tmp_path / "a", out=tmp_path / "out", capsys=capsys)
    assert notes == [
        "b is left out: it has the configuration and the seed of a",
        "evaluation set toy-test-24x2: its runs are of several revisions of the code (01234567, fedcba98)",
    ]
    assert {row["ci_low_over_tasks_and_seeds"] for row in rows(tmp_path / "out" / "comparisons.csv")} == {""}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no folder is given"),
        (["nowhere"], "nowhere: is no folder"),
        (["empty"], "empty: holds no run"),
        (["run", "empty"], "empty: holds no run"),
        (["run", "into=x"], "into=x: is no folder"),
        (["run", "baseline=B"], "baseline=B: there is no such configuration; there are A: stage=adherence"),
        (["run", "baseline=lr=1", "out=new"], "baseline=lr=1: there is no such configuration"),
        (["run", "contrast=A:B"], "contrast=A:B: there are no such configurations; there are A: stage=adherence"),
        (["run", "contrast=A:B", "baseline=A"], "baseline=A contrast=A:B: name one of the two"),
        (["run", "out=/proc/report"], "out=/proc/report: cannot be written"),
    ],
)
def test_mistakes_end_in_one_line_and_write_nothing(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"pilotrl: {says}")
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert sorted(tmp_path.rglob("*")) == before


def test_labels_name_as_few_keys_as_tell_configurations_apart() -> None:
    grpo, ppo = {"algorithm.name": "grpo", "algorithm.gamma": None}, {"algorithm.name": "ppo", "algorithm.gamma": 0.9}
    assert labels([grpo, ppo]) == ["algorithm=grpo", "algorithm=ppo"]
    assert labels([grpo, ppo, ppo | {"algorithm.gamma": 0.5}]) == [
        "algorithm=grpo, gamma=null",
        "algorithm=ppo, gamma=0.9",
        "algorithm=ppo, gamma=0.5",
    ]
    assert labels([{"a.lr": 1, "b.lr": 1}, {"a.lr": 2, "b.lr": 1}, {"a.lr": 1, "b.lr": 3}]) == [
        "a.lr=1, b.lr=1",
        "a.lr=2, b.lr=1",
        "a.lr=1, b.lr=3",
    ]
    assert labels([{"x": 1}, {}]) == ["x=1", "x=absent"]


def test_a_parent_counts_by_its_configuration(tmp_path: Path) -> None:
    """Each seed of a chain has a parent of its own: they are one configuration where the parents are."""
    for seed in (0, 1):
        make(tmp_path / f"first-{seed}", f"seed={seed}", "stage=warmstart")
        made = make(tmp_path / f"second-{seed}", f"seed={seed}")
        config = OmegaConf.load(made / ".hydra" / "config.yaml")
        config.parent = f"first-{seed}"
        OmegaConf.save(config, made / ".hydra" / "config.yaml")
        OmegaConf.save({"hydra": {"runtime": {"cwd": str(tmp_path)}}}, made / ".hydra" / "hydra.yaml")
    make(tmp_path / "third")
    folders = [tmp_path / name for name in ("second-0", "second-1", "third")]
    panels, _ = sorted_out([read(name, folder) for name, folder in find(folders).items()])
    assert [configuration.seeds for configuration in panels[0].configurations] == ["0, 1", "0"]
    assert panels[0].differing()["parent.stage.name"] == ["warmstart", "absent"]


def test_runs_whose_parents_differ_in_seed_all_count(tmp_path: Path) -> None:
    """A sweep over the last one's runs keeps the seed of its own."""
    for seed in (0, 1, 2):
        make(tmp_path / f"first-{seed}", f"seed={seed}", "stage=warmstart")
        make(tmp_path / f"second-{seed}", f"parent={tmp_path}/first-{seed}")
    folders = [tmp_path / f"second-{seed}" for seed in (0, 1, 2)]
    panels, notes = sorted_out([read(name, folder) for name, folder in find(folders).items()])
    assert [configuration.seeds for configuration in panels[0].configurations] == ["0→0, 1→0, 2→0"]
    assert notes == []


def test_what_two_judges_said_is_not_compared(tmp_path: Path) -> None:
    make(tmp_path / "rule")
    make(tmp_path / "model", "judge=openai", skill=0.3)
    make(tmp_path / "same", "judge=openai", "judge.timeout=7", "train.lr=1", skill=0.3)
    runs = [read(name, folder) for name, folder in find([tmp_path]).items()]
    (panel,), notes = sorted_out(runs)
    assert len(panel.configurations) == 3
    assert sum("not all configurations have the same judge" in note for note in notes) == 1
    found = {(c.first[0].runs[0].name, c.second[0].runs[0].name): set() for c in compared(panel)}
    for comparison in compared(panel):
        found[comparison.first[0].runs[0].name, comparison.second[0].runs[0].name].add(comparison.cell.measure)
    assert found["model", "same"] - found["model", "rule"] == {"adherence"}
    assert "success" in found["model", "rule"]


def test_a_run_and_one_inside_it_have_names(tmp_path: Path) -> None:
    make(tmp_path / "chain")
    make(tmp_path / "chain" / "1-adherence")
    assert [*find([tmp_path / "chain", tmp_path / "chain" / "1-adherence"])] == ["chain", "chain/1-adherence"]


def test_what_a_configuration_gained_is_what_its_run_says(sweep: Path) -> None:
    run = next(read(name, folder) for name, folder in find([sweep / "4"]).items())
    (panel,), _ = sorted_out([run])
    told = run.summary["eval_teacher"]
    for measure in ("success", "score", "adherence", "turns"):
        cell = Cell("eval_teacher", "sampled", measure)
        assert panel.configurations[0].gain(cell).over_tasks == pytest.approx(told["paired"][measure], abs=1e-9)
        assert panel.configurations[0].mean("after", cell) == pytest.approx(told["after"][measure], abs=1e-12)


def test_episodes_of_training_are_not_parsed(tmp_path: Path) -> None:
    made = make(tmp_path / "run")
    with open(made / "episodes.jsonl", "a") as file:
        file.write('{"phase": "train", and then nothing that could be read\n')
    read("run", next(iter(find([made]).values())))


def test_a_folder_that_is_no_run_below_one_that_holds_some_is_passed_over(sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "summary.json").write_text("{}")
    make(tmp_path / "9")
    make(tmp_path / "10", "seed=1")
    assert list(find([tmp_path])) == ["9", "10"]
    assert len(find([tmp_path, sweep])) == 11


def test_a_run_as_it_is_really_written_is_read(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pilotrl.runs import run

    small = (
        "train.steps=2",
        "train.tasks=2",
        "train.group_size=2",
        "train.minibatches=1",
        "panel.tasks=3",
        "panel.samples=2",
    )
    lengths = ("model.max_length=192", "model.max_plan_tokens=12", "model.max_action_tokens=8")
    for seed in (0, 1):
        config = composed_job(
            parse([]), ["env=toy", f"model.path={tiny}", "tracking.uri=off", f"seed={seed}", *small, *lengths]
        ).config
        (tmp_path / str(seed) / ".hydra").mkdir(parents=True)
        OmegaConf.save(config, tmp_path / str(seed) / ".hydra" / "config.yaml")
        run.run(config, tmp_path / str(seed))
    capsys.readouterr()
    assert report(tmp_path, out=tmp_path / "out", capsys=capsys) == []
    assert {row["run"] for row in rows(tmp_path / "out" / "runs.csv")} == {"0", "1"}
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".html", ".md", ".csv", ".png"}


def test_a_chain_is_drawn_stage_after_stage_with_its_hand_overs(tmp_path: Path) -> None:
    """One axis of steps; a mean reaches across no hand-over; what each stage was is said where it begins."""
    told = [{"stage": name, "steps": steps} for name, steps in (("adherence", 10), ("planning", 20))]
    whole = make(tmp_path / "chain", stages=told)
    run = read("chain", RunFolder(whole))
    assert run.stages == [("adherence", 1), ("planning", 11)]
    values = {line["step"]: line["reward/format"] for line in run.metrics}
    means = dict(_smoothed(run, "reward/format"))
    assert [*means] == [*range(1, 11), 10.5, *range(11, 31)]
    assert math.isnan(means[10.5])
    assert means[10] == pytest.approx((values[9] + values[10]) / 2)
    assert means[11] == pytest.approx((values[11] + values[12]) / 2)
    (panel,), _ = sorted_out([run, read("other", RunFolder(make(tmp_path / "other", "seed=1")))])
    figure = learning(panel)
    assert figure is not None
    for place in figure.axes:
        assert [text.get_text() for text in place.texts] == ["adherence", "planning"]
        assert any([*line.get_xdata()] == [10.5, 10.5] for line in place.get_lines())


def test_what_a_run_took_counts_the_steps_of_its_world(tmp_path: Path) -> None:
    run = read("run", RunFolder(make(tmp_path / "run")))
    assert run.env_steps == pytest.approx(sum(3 * (3 - step / 30) for step in range(1, 31)))
    (panel,), _ = sorted_out([run])
    assert panel.configurations[0].spent("env_steps") == run.env_steps


def test_the_summed_learning_rate_is_that_of_all_updates_by_role(tmp_path: Path) -> None:
    """A step is several updates; a chain is its stages, each of which trains other roles."""
    alone = make(tmp_path / "alone", "train.minibatches=4", "train.tasks=3")
    assert read("run", RunFolder(alone)).learned == {"executor": pytest.approx(30 * 3 * 0.001)}
    told = [{"stage": name, "steps": 30, "folder": name} for name in ("adherence", "joint")]
    chain = make(tmp_path / "chain", stages=told)
    for name in ("adherence", "joint"):
        make(chain / name, f"stage={name}", "train.minibatches=2")
    run = read("run", RunFolder(chain))
    assert run.learned == {"executor": pytest.approx(0.12), "planner": pytest.approx(0.06)}
    (panel,), _ = sorted_out([run])
    assert panel.configurations[0].learned == "executor 0.12, planner 0.06"
    assert read("run", RunFolder(make(tmp_path / "bare", stages=[{"stage": "a", "steps": 30}]))).learned == {}


@pytest.fixture
def parent(tmp_path: Path) -> Callable[[str], Path]:
    """A sweep of one run which says that MLflow has a run for it."""

    def sweep(uri: str, run_id: str = "0" * 32) -> Path:
        make(tmp_path / "sweep" / "0")
        told = {"uri": uri, "experiment": "sweep", "run_id": run_id}
        (tmp_path / "sweep" / "mlflow.json").write_text(json.dumps(told))
        return tmp_path / "sweep"

    return sweep


def test_the_report_is_an_artifact_of_the_sweep(
    tmp_path: Path, parent: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("sweep", artifact_location=str(tmp_path / "files"))
    run_id = client.create_run(experiment).info.run_id
    place = parent(uri, run_id)
    assert main([str(place)]) == 0
    *found, path = capsys.readouterr().out.splitlines()
    assert path == f"{place / 'report' / 'report.html'}"
    assert ["teacher's plans" in line for line in found] == [True, False]
    assert {file.path for file in client.list_artifacts(run_id, "report")} >= {"report/report.html", "report/runs.csv"}
    assert main([str(place), f"out={place}"]) == 0  # beside the runs, of which nothing goes along
    sent = {file.path for file in client.list_artifacts(run_id, "sweep")}
    assert sent >= {"sweep/report.html", "sweep/runs.csv"}
    assert not sent & {"sweep/0", "sweep/mlflow.json", "sweep/report"}


@pytest.mark.parametrize("uri", ["sqlite:///{place}/gone.db", "http://127.0.0.1:9"])
def test_without_mlflow_the_report_is_written_and_one_line_says_so(
    uri: str, tmp_path: Path, parent: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    place = parent(uri.format(place=tmp_path))
    assert main([str(place)]) == 0
    assert "uri=" in capsys.readouterr().out, "an address counts only where it is typed"
    assert main([str(place), f"uri={uri.format(place=tmp_path)}"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 4
    assert re.match(r"MLflow at .* failed \(.*\); the report is not in MLflow$", said[0])
    assert (place / "report" / "report.html").is_file()
    assert not (tmp_path / "gone.db").exists()


def test_the_command_loads_no_tensors(sweep: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-X", "importtime", "-m", "pilotrl.report", str(sweep / "0"), f"out={tmp_path}"]
    done = subprocess.run(line, cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pilotrl.report.html" in imported
    assert not imported & {"torch", "transformers", "lightning", "mlflow"}


def test_success_by_level_is_over_its_tasks_and_the_runs(tmp_path: Path) -> None:
    for seed in (0, 1):
        make(tmp_path / "runs" / str(seed), f"seed={seed}", skill=1.0, panel=LEVELLED)
    runs = [read(str(seed), RunFolder(tmp_path / "runs" / str(seed))) for seed in (0, 1)]
    (panel,), _ = sorted_out(runs)
    rows, cell = html.View(panel).levels, Cell("eval", "sampled", "success")
    assert [(row.level, row.tasks) for row in rows[cell]] == [("high", 17), ("low", 6)]
    own = {f"t{number}" for number in range(6)}
    for when in ("before", "after"):
        of = [[value for task, value in getattr(run, when)[cell].items() if task.id in own] for run in runs]
        assert getattr(rows[cell][1], when) == pytest.approx(fmean(map(fmean, of)))
    assert rows[cell][1].contrast.over_seeds is not None
    assert not html.View(sorted_out([read("plain", RunFolder(make(tmp_path / "plain")))])[0][0]).levels
