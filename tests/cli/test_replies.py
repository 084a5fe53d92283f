"""What agent.replies asks of a chat template is said before a run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pilotrl.cli.compose import composed_job, parse
from pilotrl.cli.machine import check_context
from pilotrl.config import search_path
from pilotrl.types import UserError
from tests.envs.page import written
from tests.prompts.templates import HERMES, OTHER

PAGE = Path(__file__).parents[2] / "docs" / "replies.md"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + HERMES


@pytest.mark.parametrize(
    ("template", "replies", "says"),
    [
        (HERMES, "tool_call", None),
        (OTHER, "tool_call", "agent.replies=tool_call: the chat template of model.path="),
        (OTHER, "tagged", None),
        (NO_SYSTEM, "tagged", "its chat template fails (no system)"),
    ],
)
def test_a_template_that_cannot_do_it_is_refused_before_a_run(
    tiny: Path, tmp_path: Path, template: str, replies: str, says: str | None
) -> None:
    search_path.add(written(PAGE, tmp_path, "till"))
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(template)
    words = ["-cd", str(tmp_path), "env=till", "agent=naive", f"agent.replies={replies}"]
    words += [f"model.path={tmp_path / 'model'}", "model.max_length=4096"]
    arguments = parse(words)
    config = composed_job(arguments, arguments.overrides).config
    if says is None:
        check_context(config)
        return
    with pytest.raises(UserError) as refused:
        check_context(config)
    assert says in str(refused.value)
