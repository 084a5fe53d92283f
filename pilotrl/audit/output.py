"""The terminal output of an audit: tables, notes and alarms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from pilotrl.analysis.terminal import add_change, table_of, table_of_changes
from pilotrl.audit.episodes import PROBES
from pilotrl.audit.findings import RECORDED, WORDS

RATE = "success"
"""A measure shown in percent; all measures here are shown like it."""
PLANS = {"says_nothing": "say nothing", "names_nothing": "name nothing", "restates_task": "restate the task"}
REFERENCES = {"constant": "one constant plan", "first_step": "the expert's next step alone"}


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print the findings of a run."""
    whole = filter(None, (_changes(found), _training(found)))
    for table in (*whole, *_agreement(found), *_success(found), *filter(None, (_planted(found), _references(found)))):
        console.print(table)
        console.print()
    for line in _notes(found):
        console.print(line, markup=False, soft_wrap=True)
    for line in found["alarms"]:
        console.print(f"ALARM  {line}", style="bold red", markup=False, soft_wrap=True)


def _changes(found: Mapping[str, Any]) -> RenderableType | None:
    table = table_of_changes("before and after training")
    for protocol, scopes in found["panels"].items():
        table.add_row(Text(protocol, style="italic"))
        for key, one in scopes["all"].items():
            if key in PROBES and not one["before"] and not one["after"]:
                continue
            add_change(table, RATE, WORDS.get(key, key), one["before"], one["after"], one)
            for name in _others(found):
                if (anew := found["regraded"][name][protocol].get(key)) and anew != one:
                    add_change(table, RATE, f"{WORDS[key]}, by {name}", anew["before"], anew["after"], anew)
    return table if found["panels"] else None


def _training(found: Mapping[str, Any]) -> Table | None:
    parts = found["training"]
    table = table_of("in training", *(f"steps {part['first']} to {part['last']}" for part in parts))
    for key in ("success", *WORDS):
        if any(part[key] for part in parts) or (key not in PROBES and any(part[key] is not None for part in parts)):
            table.add_row(f"  {WORDS.get(key, key)}", *(_percent(part[key]) for part in parts))
    return table if parts else None


def _agreement(found: Mapping[str, Any]) -> Iterator[Table]:
    """A table for each two judges; none for a judge that graded the run itself and repeats what is recorded."""
    rows = [row for row in found["agreement"] if row["first"] != RECORDED or row["second"] not in _repeats(found)]
    for (first, second), held in _grouped(rows, "first", "second"):
        table = _narrow(f"judges with each other: {first} and {second}", "verdicts", ())
        for row, name in _rows(held, lambda row: row["of"].replace("_", " ")):
            table.add_row(name, *_measured(row["both"]), *(_kappa(row.get(when)) for when in ("before", "after")))
        yield table


def _success(found: Mapping[str, Any]) -> Iterator[Table]:
    """A table for each judge and whose plans it graded."""
    rows = [row for row in found["success"] if row["judge"] in (RECORDED, *_others(found))]
    for (plans, name), held in _grouped(rows, "plans", "judge"):
        title = f"judges with the environment's success: {name}, {plans}"
        table = _narrow(title, "episodes", ("solved\ngraded\nhigher",))
        for row, measure in _rows(held, lambda row: WORDS[row["of"]]):
            ends = [_kappa(row.get(when)) for when in ("before", "after")]
            table.add_row(measure, *_measured(row["both"]), *ends, _percent(row["both"]["solved_higher"]))
        yield table


def _grouped(rows: Iterable[dict[str, Any]], *keys: str) -> Iterable[tuple[tuple[str, ...], list[dict[str, Any]]]]:
    grouped: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(tuple(row[key] for key in keys), []).append(row)
    return grouped.items()


def _narrow(title: str, counted: str, more: Sequence[str]) -> Table:
    """A table of what `_measured` and the kappas say, whose rows fit into 80 columns."""
    table = table_of(title, counted, "agreement", "kappa", "95 %\ninterval", "kappa\nbefore", "kappa\nafter", *more)
    table.padding = (0, 1, 0, 0)
    for column in table.columns[1:]:
        column.no_wrap = True
    return table


def _planted(found: Mapping[str, Any]) -> Table | None:
    return _others_plans("what a judge gives for plans that ...", found["planted"], PLANS)


def _references(found: Mapping[str, Any]) -> Table | None:
    return _others_plans("where plan quality begins: in the same states", found["references"], REFERENCES)


def _others_plans(title: str, judged: Mapping[str, Any], names: Mapping[str, str]) -> Table | None:
    table = table_of_changes(title)
    table.columns[1].header, table.columns[2].header = "own plans", "planted ones"
    for name, of in judged.items():
        for measure, plans in of.items():
            table.add_row(Text(f"{name}: {WORDS[measure]}", style="italic"))
            for which, one in plans.items():
                add_change(table, RATE, names[which], one["written"], one["planted"], one)
    return table if table.row_count else None


def _others(found: Mapping[str, Any]) -> list[str]:
    """Judges whose verdicts differ from the recorded ones; the others need no row of their own."""
    rows = [row for row in found["agreement"] if row["first"] == RECORDED]
    return [name for name in found["regraded"] if any(row["second"] == name and row["agreement"] < 1 for row in rows)]


def _repeats(found: Mapping[str, Any]) -> list[str]:
    """Judges that graded the run when it was played, and say the same when they are asked again: compared with themselves."""
    own = [name for name, of in found["judges"].items() if of.get("_target_") == found["recorded_by"]]
    asked = {row["second"] for row in found["agreement"] if row["first"] == RECORDED}
    return [name for name in own if name in asked and name not in _others(found)]


def _rows(rows: list[dict[str, Any]], name: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Rows of a table: the values before, after and for both, and the row's name."""
    grouped: dict[str, dict[str, Any]] = {}
    for row in rows:
        env = "" if row["env"] == "all" else f", {row['env']}"
        grouped.setdefault(f"  {name(row)}{env}", {})[row["when"]] = row
    yield from ((held, about) for about, held in grouped.items())


def _notes(found: Mapping[str, Any]) -> Iterator[str]:
    if any(one.get("low") is not None for held in found["panels"].values() for one in held["all"].values()):
        yield "* 0 lies outside of the 95 % interval (paired bootstrap over tasks)"
    for name in _repeats(found):
        yield f"{name} graded the run itself and repeats what is recorded; judges=[openai], say, asks another judge"
    for name, count in found["missing"].items():
        if count["missing"]:
            whose = "the run's own judge" if name == RECORDED else name
            yield f"{whose}: {count['missing']} of {count['asked']} grades are missing; they are in no number above"
    if not any(
        "after" in scope["all"].get(RATE, {}) and scope["all"][RATE]["tasks"] for scope in found["panels"].values()
    ):
        yield "there is no evaluation from before and after training yet: nothing can be said to have risen"


def _measured(row: Mapping[str, Any]) -> list[str]:
    kappa = row["kappa"]
    interval = "-" if kappa["low"] is None else f"{kappa['low']:.2f} to {kappa['high']:.2f}"
    return [f"{row['items']:,}", _percent(row["agreement"]), _kappa(row), interval]


def _kappa(row: Mapping[str, Any] | None) -> str:
    return "-" if row is None or row["kappa"]["mean"] is None else f"{row['kappa']['mean']:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
