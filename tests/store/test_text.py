"""Text that others wrote reaches no terminal as commands, no spreadsheet as formulas, no page as markup, and ends no run."""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from pilotrl.analysis.terminal import guarded
from pilotrl.store.run_folder import Lines, write_whole
from pilotrl.store.text import PrintableFormatter, code, encodable, markdown, printable, spreadsheet

ATTACK = "a\x1b]0;title\x07\x1b[2J\x9b31m\x7f\u202eb\ud800c\rd"
"""Sets a title, clears the screen, colours, deletes, reverses, cannot be encoded, goes back to the start of the line."""
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def test_what_a_terminal_obeys_is_shown_as_what_it_is() -> None:
    assert not RAW.search(printable(ATTACK))
    assert printable("\x1b[2J") == "\\x1b[2J"
    assert printable("plain\n\ttext, ü 漢字 🙂 ⁠") == "plain\n\ttext, ü 漢字 🙂 ⁠"


@pytest.mark.parametrize("soft_wrap", [False, True])
def test_a_guarded_console_prints_no_control_character_that_it_was_given(soft_wrap: bool) -> None:
    out = Console(file=io.StringIO(), width=200, highlight=False)
    console, table = guarded(out), Table(title=ATTACK)
    table.add_column(ATTACK)
    table.add_row(ATTACK)
    for shown in (ATTACK, table):
        console.print(shown, markup=False, soft_wrap=soft_wrap)
    console.rule(ATTACK)
    assert isinstance(out.file, io.StringIO)
    assert not RAW.search(out.file.getvalue())
    assert out.file.getvalue().count("\\x1b[2J") == 5  # a line, title, heading and cell of the table, the rule


def test_a_guarded_console_keeps_its_own_colours() -> None:
    out = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor")
    guarded(out).print("x", style="red")
    assert isinstance(out.file, io.StringIO)
    assert out.file.getvalue() == "\x1b[31mx\x1b[0m\n"


def test_a_log_holds_no_control_character() -> None:
    record = logging.LogRecord("x", logging.WARNING, "x", 1, "%s", (ATTACK,), None)
    assert not RAW.search(PrintableFormatter("%(message)s").format(record))


def test_a_lone_surrogate_is_written_and_read_again(tmp_path: Path) -> None:
    with Lines(tmp_path / "episodes.jsonl") as lines:
        lines.write({"observation": "a\ud800b ü"})
    assert json.loads((tmp_path / "episodes.jsonl").read_text(encoding="utf-8")) == {"observation": "a?b ü"}
    write_whole(tmp_path / "page", "a\ud800b ü")
    assert (tmp_path / "page").read_text(encoding="utf-8") == "a?b ü"
    assert encodable("a\ud800b ü") == "a?b ü"


@pytest.mark.parametrize("text", ["=1+1", "+1|cmd", "-1+1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_formula_is_text(text: str) -> None:
    assert spreadsheet(text) == f"'{text}"


def test_numbers_and_plain_texts_stay_as_they_are() -> None:
    assert [spreadsheet(value) for value in (-1.5, 3, None, "grpo", "a=b", "")] == [-1.5, 3, None, "grpo", "a=b", ""]


def test_markdown_of_others_is_text() -> None:
    assert markdown("a|b\n<img src=x> `c` [d](http://e)") == r"a\|b &lt;img src=x> \`c\` \[d](http://e)"
    assert markdown("train.shuffle_rewards=true") == "train.shuffle_rewards=true"
    assert code("a`b|c\nd") == r"`a'b\|c d`"
