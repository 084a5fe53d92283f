"""What is installed: floors below which a known hole is open, and the versions that the project is tested with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = {(one := Requirement(line)).name.lower(): one for line in PROJECT["dependencies"]}
LINES = (ROOT / "constraints.txt").read_text().splitlines()
WITH_VLLM = (ROOT / "constraints-vllm.txt").read_text().splitlines()
WITH_VERIFIERS = (ROOT / "constraints-verifiers.txt").read_text().splitlines()


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("hydra-core", "1.3.3"),
        ("jinja2", "3.1.5"),
        ("lightning", "2.6.2"),
        ("lightning", "2.6.3"),
        ("lightning", "2.6.5"),
        ("mlflow", "3.15.2"),
        ("pyarrow", "23.0.0"),
        ("pytorch-lightning", "2.6.3"),
        ("pytorch-lightning", "2.6.5"),
        ("torch", "2.9.1"),
        ("transformers", "5.2.0"),
    ],
)
def test_releases_with_a_hole_are_refused(name: str, version: str) -> None:
    assert not NEEDED[name].specifier.contains(version)


@pytest.mark.parametrize("lines", [LINES, WITH_VLLM, WITH_VERIFIERS], ids=["plain", "with vLLM", "with verifiers"])
def test_constraints_are_names_and_versions_and_nothing_of_the_machine_that_wrote_them(lines: list[str]) -> None:
    assert lines[0].startswith("# ")
    assert [line for line in lines[1:] if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []


def test_with_vllm_all_is_as_without_but_what_it_forbids() -> None:
    plain, other = (dict(line.lower().split("==") for line in lines[1:]) for lines in (LINES, WITH_VLLM))
    assert {name for name in plain.keys() & other if plain[name] != other[name]} == {"fastapi", "numpy"}
    assert {*NEEDED} <= {*other}


def test_with_verifiers_all_is_as_without_but_mcp_and_what_needs_it() -> None:
    plain, other = (dict(line.lower().split("==") for line in lines[1:]) for lines in (LINES, WITH_VERIFIERS))
    assert {name for name in plain if plain[name] != other.get(name)} == {"mcp", "mcp-types", "mcp-server-time"}
    asked = Requirement(PROJECT["optional-dependencies"]["verifiers"][0])
    assert asked.specifier.contains(other["verifiers"])


def test_the_tested_versions_are_in_the_ranges_that_are_asked_for() -> None:
    pinned = dict(line.lower().split("==") for line in LINES[1:])
    every = [*PROJECT["dependencies"], *(line for of in PROJECT["optional-dependencies"].values() for line in of)]
    known = [one for one in map(Requirement, every) if one.name.lower() in pinned]
    assert {name for name in NEEDED if name not in pinned} == set()
    assert [str(one) for one in known if not one.specifier.contains(pinned[one.name.lower()])] == []
