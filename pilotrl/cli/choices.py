"""What a command line chooses: an option of each group, and the values of a sweep, counted before they are composed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from hydra.core.override_parser.types import Override

from pilotrl import CONF
from pilotrl.config import search_path
from pilotrl.types import UserError

JOBS, TOLD = 10_000, 50
"""Jobs that a sweep may have, and from how many on it is said that they are checked, which takes a fraction of a second each."""


def product(overrides: Sequence[Override]) -> list[tuple[str, ...]]:
    """The overrides of each job, in the order of Hydra's own sweeper; the last of several for a key counts.

    Raises UserError for more than `JOBS` of them, without counting those."""
    values: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_interval_sweep():
            raise UserError(f"{override.input_line}: give the values of a sweep one by one, as in 1,2,3 or range(1,4)")
        swept = override.sweep_string_iterator() if override.is_sweep_override() else iter(())
        try:
            values[key] = [f"{key}={value}" for value in itertools.islice(swept, JOBS + 1)]
        except (ArithmeticError, ValueError) as error:
            raise UserError(f"{override.input_line}: cannot be counted; give finite numbers, range(1,4)") from error
        if override.is_sweep_override() and not values[key]:
            raise UserError(f"{override.input_line}: has no value; give some, as in 1,2,3 or range(1,4)")
        values[key] = values[key] or [str(override.input_line)]
    if math.prod(map(len, values.values())) > JOBS:
        many = " ".join(str(override.input_line) for override in overrides if override.is_sweep_override())
        raise UserError(
            f"{many}: makes more than {JOBS} jobs, and each is checked before one starts; give fewer values"
        )
    return [*itertools.product(*values.values())]


def check_groups(lines: Sequence[str]) -> None:
    """A group takes one option: Hydra would take several, or none, and fail later."""
    groups = {str(path.relative_to(CONF)) for path in CONF.rglob("*") if path.is_dir()}
    for line in lines:
        key, _, value = line.partition("=")
        if key.lstrip("+") in groups and (value.startswith("[") or value in ("", "null", "''", '""')):
            options = ", ".join(search_path.options(key.lstrip("+")))
            raise UserError(f"{line}: must be one option of the group {key.lstrip('+')} ({options})")
        if key.lstrip("+") in groups and value.endswith((".yaml", ".yml")):
            raise UserError(f"{line}: is the name of a file; leave its ending out, {line.rpartition('.')[0]}")
