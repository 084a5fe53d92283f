"""The evaluation set of a run as MLflow keeps one: an evaluation dataset with a record for each task, and an input of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import EvaluationDataset, Run

DIGEST = 36
"""Characters that MLflow keeps of a digest."""
CONTEXT = "mlflow.data.context"
"""Tag of an input: what it was used for."""


@dataclass(frozen=True)
class EvaluationSet:
    """panel.json, as far as MLflow is told."""

    env: str
    split: str
    tasks: tuple[str, ...]
    samples: int
    sha256: str

    @classmethod
    def of(cls, panel: Mapping[str, Any]) -> EvaluationSet:
        """panel: the contents of panel.json."""
        return cls(
            panel.get("called", panel["env"]), panel["split"], tuple(panel["tasks"]), panel["samples"], panel["sha256"]
        )

    @property
    def name(self) -> str:
        """`webshop-test-16x1-0a1b2c3d`: environment, split, tasks x episodes on each, and the start of the hash."""
        return f"{self.env}-{self.split}-{len(self.tasks)}x{self.samples}-{self.sha256[:8]}"

    @property
    def digest(self) -> str:
        """The hash of panel.json, as far as MLflow's digests go."""
        return self.sha256[:DIGEST]

    def records(self) -> list[dict[str, Any]]:
        """One for each task, in order; a record is known by its inputs."""
        return [{"inputs": {"env": self.env, "split": self.split, "task": task}} for task in self.tasks]

    def tags(self) -> dict[str, str]:
        """Of the evaluation dataset."""
        return {"sha256": self.sha256, "samples_per_task": str(self.samples)}


def send_dataset(client: MlflowClient, experiment: str, panel: EvaluationSet) -> EvaluationDataset:
    """The evaluation dataset with the records, which all runs on the same evaluation set share. Twice is once.

    Raises whatever MLflow raises, and AttributeError where it is too old for evaluation datasets (before 3.4)."""
    store = client._tracking_client.store  # the methods of datasets go to a global address
    found = client.search_datasets(filter_string=f"name = '{panel.name}'", max_results=1)
    dataset = found[0] if found else client.create_dataset(panel.name, experiment, panel.tags())
    if experiment not in store.get_dataset_experiment_ids(dataset.dataset_id):
        client.add_dataset_to_experiments(dataset.dataset_id, [experiment])
    if json.loads(dataset.profile or "{}").get("num_records") != len(panel.tasks):
        store.upsert_dataset_records(dataset.dataset_id, panel.records())
        dataset = client.get_dataset(dataset.dataset_id)
    return dataset


def link_run(client: MlflowClient, run: Run, panel: EvaluationSet, dataset: EvaluationDataset | None) -> None:
    """The evaluation set becomes an input of the run. Twice is once.

    dataset: None where MLflow cannot keep one; the input then says itself which tasks it holds."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if any(known.dataset.digest == panel.digest for known in run.inputs.dataset_inputs):
        return
    if dataset is None:
        tasks = json.dumps({"env": panel.env, "split": panel.split, "tasks": panel.tasks})
        made = Dataset(panel.name, panel.digest, "code", tasks, profile=_profile(panel))
    else:
        place = dataset.source
        made = Dataset(
            panel.name, panel.digest, place._get_source_type(), place.to_json(), dataset.schema, _profile(panel)
        )
    client.log_inputs(run.info.run_id, datasets=[DatasetInput(made, [InputTag(CONTEXT, "eval")])])


def _profile(panel: EvaluationSet) -> str:
    return json.dumps({"num_records": len(panel.tasks), "samples_per_task": panel.samples, "sha256": panel.sha256})
