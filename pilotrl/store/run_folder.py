"""The run folder: names of its files, its lock, atomic writes, and cutting it back to a checkpoint. No torch.

RUN/.hydra/           the configuration, as composed
RUN/pilotrl.log       the log, as in the terminal
RUN/metrics.jsonl     one line a step, from which MLflow is filled
RUN/episodes.jsonl    one line for each episode
RUN/calls/            a safetensors file for each of a kept sample of steps: ids, log-probabilities, masks, advantages
RUN/probe.safetensors calls from before training, on which the KL of each role is measured
RUN/checkpoints/      Lightning's, of tensors and numbers alone, from which an interrupted run resumes
RUN/before.json       of a job of a sweep: what decided its first evaluation, once that is complete in episodes.jsonl
RUN/policy/           the trained model, for `from_pretrained`
RUN/value.safetensors the value head, where there is one
RUN/summary.json      the results, written last: a run that has it is finished
RUN/audit.json        the findings of `pilotrl.audit`, if it was run

All of it is data, and nothing is unpickled. `store/reading.py` is how a file of it is opened.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from pilotrl.store.reading import read_json, read_lines, unreadable
from pilotrl.types import UserError

LINES = ("metrics.jsonl", "episodes.jsonl")
"""Append-only files, which are cut back when a run resumes from a checkpoint."""
RUN = "PILOTRL_RUN"
"""Environment variable that holds the run's folder while a run lasts. The ranks that Lightning starts get the same command
line, in a sweep too, from which their folder does not follow: they take it from here."""
OLD = ("probe.pt", "value.pt", "calls/*.pt")
"""Files that versions before wrote, as pickles."""
LEVELS = 4
"""ROOT/DATE/SWEEP/JOB/STAGE: how far below `root` a run folder is, at most."""
ROOM = 2**20
"""Free bytes below which a disk counts as full."""


class RunFolder:
    """Paths and state of one run folder. Constructing it touches nothing on disk."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / ".hydra" / "config.yaml"
        self.hydra = self.path / ".hydra" / "hydra.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.episodes = self.path / "episodes.jsonl"
        self.calls = self.path / "calls"
        self.checkpoints = self.path / "checkpoints"
        self.policy = self.path / "policy"
        self.summary = self.path / "summary.json"
        self.probe = self.path / "probe.safetensors"
        self.value = self.path / "value.safetensors"
        self._locked: os.stat_result | None = None

    def __str__(self) -> str:
        return str(self.path)

    @property
    def begun(self) -> bool:
        """Whether it holds the configuration of a run."""
        return self.config.is_file()

    @property
    def finished(self) -> bool:
        """Whether it holds the results of a run. Raises UserError for a summary.json that is none."""
        return self.summary.exists() and bool(self.results())

    def results(self) -> dict[str, Any]:
        """What summary.json says. Raises UserError where it is no run's."""
        remedy = f"delete it, and resume={self} writes it anew"
        held = read_json(self.summary, remedy)
        if not all(isinstance(held.get(node), dict) for node in ("train", "panel")):
            raise unreadable(self.summary, "is not the summary of a run", remedy)
        return held

    def check_whole(self) -> None:
        """Raises UserError where a finished run has lost lines of `LINES`."""
        steps, lines = self.results()["train"].get("steps"), sum(1 for _ in read_lines(self.metrics))
        if lines != steps:
            raise unreadable(self.metrics, f"has {lines} lines of {steps} steps")
        evaluations = read_lines(self.episodes, wanted=lambda line: not line.startswith('{"phase": "train"'))
        phases = [str(record.get("phase")) for record in evaluations]
        if not phases or not phases[-1].startswith("after/"):
            raise unreadable(self.episodes, "has lost the episodes of the last evaluation")

    def check_version(self) -> None:
        """Raises UserError where it holds files of an older version, which are not opened: they are pickles."""
        for path in (path for name in OLD for path in sorted(self.path.glob(name))):
            why = "is of an older version, which wrote pickles; they can execute code, and are not opened"
            raise unreadable(path, why, "start a new run")

    def check_there(self) -> None:
        """Raises UserError where the folder is not the one that was locked any more: half of one would be made anew."""
        if self._locked is not None and not self._is_there(self._locked):
            raise UserError(f"{self}: was removed or moved while it was written; start the run again, in a new folder")

    def _is_there(self, before: os.stat_result) -> bool:
        try:
            return os.path.samestat(before, os.stat(self.path))
        except OSError:
            return False

    def check_inside(self) -> None:
        """Raises UserError for a link that leads out of the folder, through which something else would be written, and for what
        is no file or folder. A folder that is not there has none."""
        root = self.path.resolve()
        for place, folders, files in os.walk(root):
            for path in (Path(place, name) for name in (*folders, *files)):
                if not path.resolve().is_relative_to(root) or (path.exists() and not (path.is_file() or path.is_dir())):
                    raise UserError(
                        f"{path}: leads out of the run folder, and nothing is written there; put a copy in its place"
                    )

    def check_writable(self) -> None:
        """Raises UserError if the folder cannot be written, or cannot be created. Leaves no file behind.

        It writes a temporary file: permission bits do not tell for root, on network file systems, or on a full disk.
        """
        existing = next(p for p in (self.path, *self.path.absolute().parents) if os.path.exists(p))
        try:
            with tempfile.TemporaryFile(dir=existing) as file:
                file.write(bytes(ROOM))
        except OSError as error:
            raise UserError(
                f"hydra.run.dir={self}: {existing} cannot be written ({error.strerror}); choose another with root=FOLDER"
            ) from error

    def check_free(self) -> None:
        """Raises UserError while a live process writes the folder."""
        if (self.path / ".lock").exists():
            with self.lock():
                pass

    def owner(self) -> int:
        """The process that holds its lock, or that held it last."""
        return int((self.path / ".lock").read_text(encoding="ascii"))

    @contextlib.contextmanager
    def complains(self, then: str = "go on with resume={}") -> Iterator[None]:
        """Turns any error inside that a full disk caused, or the folder's removal, into a UserError; `then` says how to
        continue."""
        try:
            yield
        except Exception as error:
            self.check_there()
            if not _is_full(error, self.path):
                raise
            raise UserError(f"{self}: no space is left on its disk; free some, then {then.format(self)}") from error

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder for this process; the system releases the lock however the process ends.

        Raises UserError when another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / ".lock", "a+", encoding="ascii", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = file.read().strip()
                raise UserError(f"{self}: is being written by process {owner}; wait for its end, or end it") from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            self._locked = os.stat(self.path)
            yield

    def lines(self, name: str) -> Lines:
        """A writer that appends to one of `LINES`."""
        assert name in LINES, name
        return Lines(self.path / name)

    def offsets(self) -> dict[str, int]:
        """Bytes in each of `LINES`, after fsync: a checkpoint stores them."""
        sizes = dict.fromkeys(LINES, 0)
        for name in LINES:
            with contextlib.suppress(FileNotFoundError), open(self.path / name, "rb") as file:
                os.fsync(file.fileno())
                sizes[name] = os.fstat(file.fileno()).st_size
        return sizes

    def cut(self, offsets: Mapping[str, int]) -> None:
        """Cut the files of `LINES` back to their sizes at a checkpoint; a file it does not name becomes empty.

        Raises UserError, before anything is cut, when a file is shorter than its checkpoint says.
        """
        sizes = {name: (self.path / name).stat().st_size for name in LINES if (self.path / name).exists()}
        for name in sizes:
            if not (self.path / name).is_file():
                raise unreadable(self.path / name, "is no file")
        for name, offset in offsets.items():
            if sizes.get(name, 0) < offset:
                raise UserError(f"{self / name}: has lost lines since the checkpoint; restore it, or start a new run")
        for name in sizes:
            os.truncate(self.path / name, offsets.get(name, 0))
        for place in (self.path, self.calls, self.policy):  # what `write_whole` was killed in
            for draft in place.glob(".*.*"):
                if draft.suffix[1:].isdigit():
                    draft.unlink()

    def __truediv__(self, name: str) -> Path:
        return self.path / name


class Lines:
    """A JSON-lines writer; each line is completely in the file before `write` returns.

    An undefined number is None: NaN raises ValueError, since JSON has none. A lone surrogate becomes a question mark.
    """

    def __init__(self, path: Path) -> None:
        self._file: IO[str] = open(path, "a", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed by close)

    def write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def above(folder: Path) -> list[Path]:
    """The folders that a run folder lies in, as far as a job of a sweep lies below `root`: there it may say that it lies."""
    return list(folder.resolve().parents)[:LEVELS]


def is_inside(path: Path, folder: Path) -> bool:
    """Whether it is there, and no link leads from it out of the folder."""
    return path.exists() and path.resolve().is_relative_to(folder.resolve())


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically, in a folder that is there: after a crash it is either the old one or the complete new one."""
    data = content.encode(errors="replace") if isinstance(content, str) else content
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError) and path.is_dir():
            raise unreadable(path, "is a folder", "remove it: a file is written there") from error
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _is_full(error: BaseException | None, path: Path) -> bool:
    """Whether an error comes from a full disk. Some libraries only name it in their message, and with others only the disk
    itself tells."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return shutil.disk_usage(path).free < ROOM
