"""Makes `model=nano` of a run: python docs/ship_model.py RUN_FOLDER [TARGET]

The weights in bfloat16, half the size on disk; the tokenizer; and in `config.json` the environments (`started_in`) that the run
and those that it began from were trained in.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pilotrl import PACKAGE
from pilotrl.cli.stored_config import began_in, read_elsewhere
from pilotrl.runs.describe import environments
from pilotrl.store.run_folder import RunFolder


def trained_in(folder: RunFolder) -> set[str]:
    """The environments of a run and of its parents, without those that a mixture holds out."""
    config = read_elsewhere(folder)
    own = {*environments(config)} - {*config.env.get("holds_out", ())}
    return own | (trained_in(RunFolder(began_in(folder) / config.parent)) if config.parent else set())


def main(run: str, target: str = str(PACKAGE / "models" / "weights" / "nano")) -> None:
    folder, place = RunFolder(Path(run)), Path(target)
    model = AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.bfloat16)
    model.save_pretrained(place)
    AutoTokenizer.from_pretrained(folder / "policy").save_pretrained(place)
    settings = json.loads((place / "config.json").read_text()) | {"started_in": sorted(trained_in(folder))}
    (place / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    size = sum(file.stat().st_size for file in place.iterdir())
    print(f"{place}: {model.num_parameters():,} parameters, {size / 1e6:.1f} MB, started in {settings['started_in']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
