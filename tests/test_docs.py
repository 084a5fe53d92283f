"""What the pages say about the repository is so: the picture of the imports, the commands of the front page, the links."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/*.md")]


def script(name: str) -> ModuleType:
    """A file of docs/ as a module."""
    spec = spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_of_the_imports_is_what_they_are() -> None:
    made = script("make_architecture")
    assert made.PICTURE.read_text() == made.picture(), "run python docs/make_architecture.py"


def test_what_a_longer_way_implies_is_not_drawn() -> None:
    made = script("make_architecture")
    rooms = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert made.floors(rooms) == [["c"], ["b"], ["a"]]
    assert made.arrows(rooms) == [("a", "b"), ("b", "c")]
    with pytest.raises(RecursionError):
        made.floors({"a": {"b"}, "b": {"a"}})


def test_the_commands_of_the_front_page_are_those_that_are_run() -> None:
    """`.ci/run` runs the second one."""
    first, second = re.findall(r"^    (.*pip install -c .*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert first.endswith("&& pip install -c constraints.txt -e . && python -m pilotrl stage=adherence env=webshop")
    assert second in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^(```.*?^```|    .*?)$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target
