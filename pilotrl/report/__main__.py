"""One page from run folders: `python -m pilotrl.report FOLDER... [out=FOLDER] [baseline=LABEL] [contrast=A,B:C ...] [uri=URI]`.

Each FOLDER is that of a run or of a sweep. Configurations (runs equal but for the seed) are compared two by two; with baseline=,
each with that one: a letter such as A, or what picks it, such as baseline=algorithm=grpo or baseline=stage=joint,lr=1e-4.
With contrast=, once or several times, nothing is compared but the means of two groups: contrast=A,D,E:B,C or contrast=lr=1:lr=2.
uri=: address of the MLflow that a folder was tracked in, which gets the report too; the default database needs no typing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pilotrl.cli.exit_codes import ended
from pilotrl.cli.signals import at_once
from pilotrl.report.configurations import Configuration, sorted_out
from pilotrl.report.html import PAGE, View, files, findings
from pilotrl.report.planned import baselines, contrasts
from pilotrl.report.runs import Refused, Run, find, read
from pilotrl.store.redact import hide_credentials
from pilotrl.store.run_folder import RunFolder, write_whole
from pilotrl.store.text import printable
from pilotrl.tracking.mlflow_client import absolute, complaint, is_default, send_files
from pilotrl.tracking.sync_state import STATE_FILE, SyncState
from pilotrl.types import UserError


def command(words: Sequence[str]) -> None:
    """Read the runs, write the report, and say where it is."""
    places, out, baseline, asked, uri = arguments(words)
    runs: list[Run] = []
    notes: list[str] = []
    folders = find(places)
    for name, folder in folders.items():
        try:
            runs.append(read(name, folder))
        except Refused as why:
            notes.append(f"{name} is left out: it {why}")
    if not runs:
        raise UserError(f"no run can be reported: {'; '.join(notes)}")
    panels, more = sorted_out(runs)
    against: list[Configuration | None] = [None] * len(panels)
    if baseline is not None:
        against, other = baselines(panels, baseline)
        more += other
    planned, other = contrasts(panels, asked)
    more += other
    views = [View(*of) for of in zip(panels, against, planned, strict=True)]
    notes += more + [
        f"evaluation set {view.panel.name}: {view.without_effects}" for view in views if view.without_effects
    ]
    written = files(places[0].resolve().name, [str(place) for place in places], views, notes)
    out.mkdir(parents=True, exist_ok=True)
    for name, content in written.items():
        write_whole(out / name, content)
    notes += [line for place in places for line in tracked(place, [out / name for name in written], uri)]
    print(printable("\n".join([*notes, *findings(views), str(out / PAGE)])))


def arguments(words: Sequence[str]) -> tuple[list[Path], Path, str | None, list[str], str | None]:
    """Folders; where the report goes, `report/` in the first of them unless `out=` says otherwise; the baseline, if any; the
    planned contrasts; and the address of MLflow, if any."""
    keys = ("out=", "baseline=", "contrast=", "uri=")
    outs, baseline, asked, uri = ([word.removeprefix(key) for word in words if word.startswith(key)] for key in keys)
    places = [Path(word).expanduser() for word in words if not word.startswith(keys)]
    if not places:
        raise UserError("no folder is given; python -m pilotrl.report FOLDER... [out=FOLDER], of runs or of sweeps")
    for place in places:
        if not place.is_dir():
            told = "name folders of runs or of sweeps, out=FOLDER for the report, and baseline=LABEL or contrast=A:B,C"
            raise UserError(f"{place}: is no folder; {told}")
    if outs and not outs[-1].strip():
        raise UserError("out=: is empty; name the folder that the report goes to, or leave it out")
    if baseline and asked:
        raise UserError(
            f"baseline={baseline[-1]} contrast={asked[0]}: name one of the two; contrast=B:A compares B with A"
        )
    out = Path(outs[-1]).expanduser() if outs else places[0] / "report"
    if not outs:
        RunFolder(out).check_inside()
        if out.is_symlink():
            raise UserError(f"{out}: is a link, and a report is not written through it; say where, out=FOLDER")
    try:
        RunFolder(out).check_writable()
    except UserError as error:
        raise UserError(f"out={out}: cannot be written; choose another folder with out=FOLDER") from error
    return places, out, baseline[-1] if baseline else None, asked, uri[-1] if uri else None


def tracked(place: Path, report: Sequence[Path], typed: str | None) -> list[str]:
    """Give the report to the run in MLflow of a folder, a sweep's or a chain's too. Returns a line where that failed, and where
    its address is not the default one and was not typed."""
    path = place / STATE_FILE
    if not path.exists():
        return []
    uri = "its address"
    try:
        parent = SyncState(place).read()
        uri = absolute(typed or str(parent["uri"]))
        if typed is None and not is_default(uri, place):
            return [f"the report is not in MLflow; uri={hide_credentials(uri)} beside it sends it there"]
        send_files(uri, str(parent["run_id"]), report, near=typed is None)
    except UserError as error:
        return [f"{error}; the report is not in MLflow"]
    except Exception as error:  # of any kind: the report is written, whatever happens in MLflow
        return [f"{complaint(uri, error)}; the report is not in MLflow"]
    return []


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 after one line about what the user got wrong."""
    return ended(command, argv, __doc__)


if __name__ == "__main__":
    sys.exit(at_once(main()))
