"""What a run takes over from a folder instead of playing it again: panels, as episodes.jsonl holds them."""

from __future__ import annotations

import json
from pathlib import Path

from pilotrl.cli.compose import stored_config
from pilotrl.config.schema import Config
from pilotrl.runs.describe import as_dict, git_revision
from pilotrl.runs.evaluation_set import TEACHER, EpisodesByProtocol
from pilotrl.store.records import from_record
from pilotrl.store.run_folder import RunFolder
from pilotrl.types import UserError

PLAYERS = ("env", "agent", "model", "engine", "panel", "trainer")
"""Nodes of a configuration that, beside weights and code, decide every token of a panel."""


def recalled(folder: RunFolder, when: str) -> EpisodesByProtocol:
    """The panel that was played `before` or `after` training, by protocol."""
    played: EpisodesByProtocol = {}
    with open(folder.episodes, encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(f'{{"phase": "{when}/'):  # episodes of training are most of the file, and not parsed
                record = json.loads(line)
                played.setdefault(record["phase"].partition("/")[2], []).append(from_record(record))
    return played


def handed_over(config: Config, panel: str, weights: str) -> EpisodesByProtocol:
    """The panel that the parent played at its end, where this run would play the very same before it begins: same panel, same
    weights (sha256 of both), same code, and nothing else that decides a token differs. Else nothing; and of another teacher's
    plans nothing.
    """
    parent = RunFolder(Path(config.parent or "/dev/null"))
    if not (parent.begun and parent.finished):
        return {}
    summary = json.loads(parent.summary.read_text(encoding="utf-8"))
    try:
        theirs = stored_config(parent)
    except UserError:  # of a revision that had other keys
        return {}
    same = (summary["panel"]["sha256"], summary["weights_sha256"], summary["git_revision"]) == (
        panel,
        weights,
        git_revision(),
    )
    alike = all(as_dict(getattr(theirs, node)) == as_dict(getattr(config, node)) for node in PLAYERS)
    played = recalled(parent, "after") if same and alike else {}
    same_teacher = as_dict(theirs.teacher) == as_dict(config.teacher)
    return {
        protocol: episodes for protocol, episodes in played.items() if same_teacher or not protocol.startswith(TEACHER)
    }
