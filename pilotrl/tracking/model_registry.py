"""The trained policy as a model in MLflow, and whose weights a run started from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilotrl.store.redact import hide_credentials
from pilotrl.store.run_folder import is_inside
from pilotrl.tracking.sync_state import STATE_FILE, Sent

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

PARENT = "starts_from_run"
"""Tag: the run whose weights this one started from."""
WEIGHTS = (".safetensors", ".bin", ".pt")
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Parent:
    """The run that another one started from, as the same MLflow knows it."""

    run_id: str
    model_id: str | None


def parent_in(uri: str, folder: str | None) -> Parent | None:
    """What a run folder's own ledger says; None without a folder, or where it was tracked elsewhere or never."""
    try:
        sent = json.loads((Path(folder or "/dev/null") / STATE_FILE).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(sent, dict):
        return None
    known = sent.get("uri") == hide_credentials(uri) and sent.get("run_id")
    return Parent(sent["run_id"], sent.get("model_id")) if known else None


def link_parent(client: MlflowClient, run: Run, parent: Parent) -> None:
    """The parent's run becomes a tag, its policy a model that goes into this run."""
    from mlflow.entities import LoggedModelInput

    if parent.model_id and parent.model_id not in [model.model_id for model in run.inputs.model_inputs]:
        client.log_inputs(run.info.run_id, models=[LoggedModelInput(parent.model_id)])
    if run.data.tags.get(PARENT) != parent.run_id:
        client.set_tag(run.info.run_id, PARENT, parent.run_id)


def sweep_of(folder: Path) -> Path | None:
    """The folder of the sweep that a run is a job of: it lies there, and has a ledger of its own."""
    return next((above for above in folder.absolute().parents if (above / STATE_FILE).is_file()), None)


def send_model(
    client: MlflowClient, experiment: str, sent: Sent, summary: Mapping[str, Any], policy: Path
) -> str | None:
    """Make `policy/` a model that comes out of the run, and return its id. A second call goes on with the same model.

    Its files are copied, weights only up to the size that the ledger allows: the model's tag `folder` says where all
    of them lie. None where the run left no policy."""
    from mlflow.entities import LoggedModelOutput

    if not policy.is_dir():
        return None
    run = client.get_run(sent["run_id"])
    tags = {**sent["tags"], "folder": str(policy.absolute()), "weights_sha256": str(summary.get("weights_sha256"))}
    model = _made(client, experiment, run) or client.create_logged_model(
        experiment, name=_allowed(sent["run_name"]), source_run_id=run.info.run_id, tags=tags, model_type="policy"
    )
    files = [path for path in sorted(policy.rglob("*")) if path.is_file() and is_inside(path, policy.parent)]
    weights = sum(path.stat().st_size for path in files if path.suffix in WEIGHTS)
    for path in files:
        if path.suffix not in WEIGHTS or weights <= sent["model_mb"] * MEGABYTE:
            place = str(path.parent.relative_to(policy)) if path.parent != policy else None
            client.log_model_artifact(model.model_id, str(path), place)
    if model.model_id not in [output.model_id for output in run.outputs.model_outputs]:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, summary["train"]["steps"])])
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def _allowed(name: str) -> str:
    """Without the characters that MLflow takes in names of runs and not of models."""
    return re.sub(r"""[/:.%"']""", "_", name)


def _made(client: MlflowClient, experiment: str, run: Run) -> LoggedModel | None:
    """The run's model, where a call before this one died after it had made it."""
    made = client.search_logged_models([experiment], f"source_run_id = '{run.info.run_id}'", max_results=1)
    return made[0] if made else None
