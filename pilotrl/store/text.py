"""Text that others wrote, such as task ids, observations, replies and names of folders, where it is shown or stored."""

from __future__ import annotations

import logging
import re

OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but line feed and tab, marks that reverse the direction of writing, and lone surrogates."""


def printable(text: str) -> str:
    r"""The text with escapes such as `\x1b` for what a terminal would obey instead of showing it."""
    return OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def encodable(text: str) -> str:
    """The text with a question mark for each lone surrogate, which neither UTF-8 nor a tokenizer can encode."""
    return text.encode(errors="replace").decode()


def markdown(text: str) -> str:
    """The text in one line of Markdown, also of a table, without markup, links or HTML of its own."""
    return re.sub(r"([\\`|\[])", r"\\\1", " ".join(text.splitlines()).replace("<", "&lt;"))


def code(text: str) -> str:
    """The text as code within a line of Markdown."""
    return f"`{' '.join(text.splitlines()).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def spreadsheet(value: object) -> object:
    """A cell of a CSV file. A text that a spreadsheet would take for a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value


class PrintableFormatter(logging.Formatter):
    """Of a log, whose messages quote servers and folders."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
