"""The prompts of a run in MLflow's prompt registry: a prompt for each file of the set, a version for each wording of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

LINKED = "mlflow.linkedPrompts"
"""Tag of a run, a model or a trace by which MLflow shows the prompts that belong to it."""
EXPERIMENTS = "_mlflow_experiment_ids"
"""Tag of a prompt: the experiments whose page lists it, as `,1,7,`."""
MODEL = "model"
"""Tag of a version: the models that were played with it."""

Version = dict[str, str]
"""`name` and `version` of a prompt."""


def send_prompts(
    client: MlflowClient, experiment: str, prompt_set: str, texts: Mapping[str, str], model: str
) -> list[Version]:
    """A version with each of the texts; one that MLflow has is used again, whoever registered it.

    Returns name and version of each, in the order of the texts. Raises whatever MLflow raises."""
    sent = []
    for file, text in texts.items():
        if text.strip():  # MLflow keeps no empty prompt
            name = "-".join(["pilotrl", re.sub(r"[^\w.-]+", "_", prompt_set).strip("_"), file])
            _listed(client, experiment, name, prompt_set, file)
            sent.append({"name": name, "version": _version(client, name, text, prompt_set, model)})
    return sent


def linked(versions: Sequence[Version]) -> dict[str, str]:
    """The tag that links a run, a model or a trace with prompts; none without any."""
    return {LINKED: json.dumps(list(versions))} if versions else {}


def link_traces(client: MlflowClient, traces: Sequence[str], versions: Sequence[Version]) -> None:
    """So that traces are found by a prompt (`prompt = "NAME/VERSION"`), which their tag alone does not do. Twice is once."""
    from mlflow.entities.model_registry import PromptVersion

    made = [PromptVersion(one["name"], int(one["version"]), "-") for one in versions]
    for trace in traces:
        client._tracking_client.store.link_prompts_to_trace(trace, made)  # MLflow's own goes to a global address


def _listed(client: MlflowClient, experiment: str, name: str, prompt_set: str, file: str) -> None:
    """The prompt exists, and the page of the experiment lists it."""
    prompt = client.get_prompt(name)
    if prompt is None:
        told = f"{file}.txt of the prompts that model.prompts={prompt_set} names; {{...}} is filled in by PilotRL."
        client.create_prompt(name, told, {"prompt_set": prompt_set, EXPERIMENTS: f",{experiment},"})
        return
    known = [each for each in (prompt.tags or {}).get(EXPERIMENTS, "").split(",") if each]
    if experiment not in known:
        client.set_prompt_tag(name, EXPERIMENTS, "," + ",".join([*known, experiment]) + ",")


def _version(client: MlflowClient, name: str, text: str, prompt_set: str, model: str) -> str:
    known = [version for version in client.search_prompt_versions(name) if version.template == text]
    if not known:
        tags = {"prompt_set": prompt_set, MODEL: model}
        return str(client.create_prompt_version(name, text, tags=tags).version)
    first = min(known, key=lambda version: int(version.version))
    models = [each for each in (first.tags or {}).get(MODEL, "").split(", ") if each]
    if model not in models:
        client.set_prompt_version_tag(name, first.version, MODEL, ", ".join([*models, model]))
    return str(first.version)
