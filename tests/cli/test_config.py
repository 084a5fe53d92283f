"""The configuration: every key is described, read somewhere, and has a value in every option."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pilotrl import CONF, PACKAGE
from pilotrl.cli.compose import composed_job, parse
from pilotrl.cli.open_nodes import GIVEN, GIVEN_TO_COPIES, NAMED, OPEN, keywords, locate
from pilotrl.cli.suggestions import nearest
from pilotrl.cli.validate import config_keys, flat
from pilotrl.config import schema
from pilotrl.config.search_path import settings

OPTIONS = [(p.parent.name, p.stem) for p in sorted(CONF.glob("*/*.yaml"))]
LAUNCHERS = [p.stem for p in sorted(CONF.glob("hydra/launcher/*.yaml"))]


def described() -> dict[str, bool]:
    """Whether each field of each class has a sentence below it."""
    found = {}
    for node in ast.parse(inspect.getsource(schema)).body:
        if isinstance(node, ast.ClassDef):
            for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    sentence = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                    found[f"{node.name}.{field.target.id}"] = sentence
    return found


def test_every_key_is_described() -> None:
    assert not [key for key, sentence in described().items() if not sentence]


def words(path: Path) -> set[str]:
    """Every name that a file uses: attributes, arguments, and strings."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
    return found


def test_every_key_is_read() -> None:
    aside, typed = ("schema.py", "validate.py"), ("trust",)  # what counts only on the command line is read there
    used = set[str]().union(*(words(path) for path in PACKAGE.rglob("*.py") if path.name not in aside))
    used |= {name for path in CONF.rglob("*.yaml") for name in re.findall(r"\$\{([\w.]+)\}", path.read_text())}
    assert not [key for key in config_keys() if key.split(".")[-1] not in used and key not in typed]


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids="/".join)
def test_every_option_composes_and_gives_every_key_a_value(group: str, option: str) -> None:
    job = composed_job(parse([]), [f"{group}={option}"])
    assert not OmegaConf.missing_keys(job.config)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_composes(launcher: str) -> None:
    job = composed_job(parse([]), [f"hydra/launcher={launcher}"])
    assert job.hydra.launcher._target_.endswith("Launcher")


@pytest.mark.parametrize(("group", "option"), [pair for pair in OPTIONS if pair[0] in OPEN], ids="/".join)
def test_an_open_node_gives_every_keyword_of_its_class_a_value(group: str, option: str) -> None:
    node = settings(group, option)
    cls: Any = locate(f"{group}._target_", node["_target_"])
    if parts := {part: locate(f"{group}.{part}", node[part]) for part in getattr(cls, "PARTS", ())}:
        cls = cls.of(**parts)
    aside = {"_target_", "credit", "loss", *(["name"] if group in NAMED else [])}
    given = (*GIVEN.get(group, ()), *(GIVEN_TO_COPIES if getattr(cls, "copies", False) else ()))
    assert set(node) - aside == set(keywords(cls)) - set(given)
    defaults = {name for name, p in inspect.signature(cls).parameters.items() if p.default is not p.empty}
    assert defaults <= {"correction", "beta", "entropy_coef"}, (
        "defaults live in conf/ alone; runs of before lack these keys"
    )


def test_defaults_live_in_conf_alone() -> None:
    assert all(value == "???" for value in flat(OmegaConf.structured(schema.Config)).values())


@pytest.mark.parametrize(
    ("word", "found"), [("train.stpes", "train.steps"), ("lr", "train.lr"), ("agent.windw", "agent.window")]
)
def test_the_nearest_key_is_found(word: str, found: str) -> None:
    assert nearest(word, config_keys()) == found
