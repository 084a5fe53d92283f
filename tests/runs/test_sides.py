"""Evaluation of several checkpoints and paradigms: numbers are those of the episodes, other differences are refused."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from pilotrl import evaluate
from pilotrl.cli.compose import composed_job, parse
from pilotrl.cli.evaluation_request import evaluated
from pilotrl.models import policy
from pilotrl.store.run_folder import RunFolder

SMALL = (
    "env=toy",
    "model.max_length=192",
    "model.max_plan_tokens=12",
    "model.max_action_tokens=8",
    "model.lora.rank=null",
)
SMALL += ("panel.tasks=12", "panel.samples=3", "tracking.uri=off")


def finished(folder: Path, source: Path, *overrides: str) -> RunFolder:
    """What an evaluation reads of a finished run: its configuration and its policy."""
    run = RunFolder(folder)
    run.config.parent.mkdir(parents=True)
    OmegaConf.save(composed_job(parse([]), [*SMALL, f"model.path={source}", *overrides]).config, run.config)
    policy.save(policy.load_model(str(source), "float32"), policy.load_tokenizer(str(source)), run.policy)
    return run


@pytest.fixture(scope="module")
def place(tiny: Path, warm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders A, of a policy that solves some tasks, and B, of one that does not."""
    root = tmp_path_factory.mktemp("sides")
    for name, source in (("A", warm), ("B", tiny)):
        finished(root / name, source, f"root={root}")
    return root


@pytest.fixture(scope="module")
def found(place: Path) -> Path:
    """Folder of an evaluation of both, under two paradigms."""
    assert evaluate.main([f"checkpoint=[{place}/A,{place}/B]", "agents=[adaplan,react]"]) == 0
    (folder,) = place.glob("*/*-evaluate-toy")
    return folder


def recomputed(lines: list[dict[str, Any]], side: int, decoding: str) -> dict[str, dict[str, float]]:
    """Ten lines that know nothing of PilotRL: each task's mean of each number, for one side."""
    numbers: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        if line["phase"] == f"{side}/own plans, {decoding}" and line["outcome"] != "broken":
            task = line["task"]["id"]
            numbers["success"][task].append(line["outcome"] == "solved")
            numbers["score"][task].append(line["score"])
            numbers["turns"][task].append(len(line["turns"]))
            numbers["tokens"][task].append(sum(call["sampled"] for call in line["calls"]))
    return {name: {task: float(np.mean(values)) for task, values in of.items()} for name, of in numbers.items()}


def test_the_table_is_what_the_episodes_say(found: Path) -> None:
    summary = json.loads((found / "evaluation.json").read_text())
    lines = [json.loads(line) for line in (found / "episodes.jsonl").read_text().splitlines()]
    assert [(Path(row["checkpoint"]).name, row["agent"]) for row in summary["sides"]] == [
        ("A", "adaplan"),
        ("A", "react"),
        ("B", "adaplan"),
        ("B", "react"),
    ]
    differed = 0
    for row in summary["sides"]:
        mine = [line for line in lines if line["phase"] == f"{row['side']}/own plans, sampled"]
        assert row["env_steps"] == sum(len(line["turns"]) for line in mine) > 0
        assert row["generated_tokens"] == sum(call["sampled"] for line in mine for call in line["calls"]) > 0
        for decoding, block in (("sampled", row["eval"]), ("greedy", row["eval"]["greedy"])):
            first, this = recomputed(lines, 1, decoding), recomputed(lines, row["side"], decoding)
            for name, of in this.items():
                assert len(of) == 12
                assert block["before"][name] == pytest.approx(np.mean([*first[name].values()]), abs=1e-12)
                assert block["after"][name] == pytest.approx(np.mean([*of.values()]), abs=1e-12)
                gaps = np.array([of[task] - first[name][task] for task in of])
                paired = block["paired"][name]
                assert paired["mean"] == pytest.approx(gaps.mean(), abs=1e-12)
                again = np.random.default_rng(1).choice(gaps, (20_000, len(gaps))).mean(axis=1)
                assert [paired["low"], paired["high"]] == pytest.approx(
                    np.quantile(again, [0.025, 0.975]), abs=0.15 * gaps.std()
                )
                differed += gaps.any()
    assert differed >= 6  # tokens, at least, of three sides in two decodings


def test_the_same_side_twice_does_not_differ(place: Path, found: Path) -> None:
    """Seeds follow from the evaluation set; a side evaluated alone has the same numbers."""
    before = {*place.glob("*/*-evaluate-toy")}
    assert evaluate.main([f"checkpoint=[{place}/A,{place}/A]", "agents=react"]) == 0
    (folder,) = {*place.glob("*/*-evaluate-toy")} - before
    rows = json.loads((folder / "evaluation.json").read_text())["sides"]
    assert all(interval["mean"] in (0, None) for interval in rows[1]["eval"]["paired"].values())
    wide = json.loads((found / "evaluation.json").read_text())["sides"][1]
    assert rows[0]["eval"]["after"] == wide["eval"]["after"]


def test_the_table_shows_every_side(found: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from pilotrl.analysis.terminal import side_by_side

    Console(width=160).print(side_by_side(json.loads((found / "evaluation.json").read_text())))
    shown = capsys.readouterr().out
    for word in ("avg@3", "greedy", "score", "turns", "tokens", "env steps", "1  adaplan", "4  react", " to "):
        assert word in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["checkpoint=[A,C]"], "checkpoint=C: env.max_turns is 3 there and"),
        (["checkpoint=[A,C]", "env=toy"], "checkpoint=C: its tokenizer is not that of A"),
        (["checkpoint=[A,nowhere]"], "checkpoint=nowhere: is not the folder of a finished run"),
        (["checkpoint=A", "agents=[adaplan,reakt]"], "agent=reakt: there is no such option; the nearest is react"),
        (["checkpoint=A", "agents=[adaplan,react]", "agent=naive"], "agent=naive: agents= names all paradigms"),
        (["checkpoint=[A,B", "agents=react"], "cannot be read"),
        (["checkpoint=A", "root=A/.hydra/config.yaml/x"], "A/.hydra/config.yaml cannot be written"),
        (["checkpoint=A", "hydra/launcher=local"], "hydra/launcher=local: is no key of an evaluation"),
    ],
)
def test_sides_that_cannot_be_compared_are_refused(
    place: Path,
    tiny: Path,
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    if not (place / "C").exists():
        other = finished(place / "C", tiny, "env.max_turns=3")
        (other.policy / "tokenizer.json").write_text("{}")
    before = {*place.glob("*/*-evaluate-*")}
    capsys.readouterr()  # loading a model above says how far it is
    assert evaluate.main(arguments) == 2
    complaint = capsys.readouterr().err
    assert says in complaint
    assert complaint.count("\n") == 1
    assert {*place.glob("*/*-evaluate-*")} == before


def test_a_parent_is_named_from_where_the_run_began(place: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished(place / "D", tiny)
    config = OmegaConf.load(run.config)
    config.parent = "A"
    OmegaConf.save(config, run.config)
    OmegaConf.save({"hydra": {"runtime": {"cwd": str(place)}}}, run.hydra)
    monkeypatch.chdir(place.parent)
    ((found, _),) = evaluated([f"checkpoint={place}/D"])
    assert found.parent == str(place / "A")


def test_the_papers_table_of_two_checkpoints_is_what_their_episodes_say(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixture = [
        "env=paper",
        "env.trains=[toy]",
        "env.holds_out=[maze]",
        "env.options={toy: {max_turns: 3}}",
        "panel.tasks=8",
    ]
    assert evaluate.main([f"checkpoint=[{place}/A,{place}/B]", *mixture]) == 0
    (folder,) = place.glob("*/*-evaluate-paper")
    lines = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    turns: dict[tuple[int, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        if line["phase"].endswith("own plans, sampled"):
            turns[int(line["phase"][0]), line["task"]["env"]][line["task"]["id"]].append(len(line["turns"]))
    means = {key: {task: np.mean(values) for task, values in tasks.items()} for key, tasks in turns.items()}
    first, second = (row["eval"] for row in json.loads((folder / "evaluation.json").read_text())["sides"])
    for env, average in (("toy", "ID"), ("maze", "OOD")):
        gap = np.mean([means[2, env][task] - means[1, env][task] for task in means[1, env]])
        for block in (second["by_env"][env], second["averages"][average]):
            assert block["after"]["turns"] == pytest.approx(np.mean([*means[2, env].values()]))
            assert block["paired"]["turns"]["mean"] == pytest.approx(gap)
        assert first["by_env"][env]["after"]["turns"] == pytest.approx(np.mean([*means[1, env].values()]))
    both = [np.mean([*means[2, env].values()]) for env in ("toy", "maze")]
    assert second["averages"]["Avg"]["after"]["turns"] == pytest.approx(np.mean(both))
    shown = capsys.readouterr().out.split("success by environment")[1].split("\n\n")[0]
    rows = [line.split()[0] for line in shown.splitlines() if line[:2] == "  " != line[1:3]]
    assert rows == ["maze", "toy", "ID", "OOD", "Avg"]
