"""The simulator of one episode: what the tools answer, and what the player has been told so far."""

from __future__ import annotations

from pilotrl.envs.office.scene import (
    Event,
    Read,
    Scene,
    call_wanted,
    computed,
    constants,
    number_of,
    place,
    reads_of,
    spoken,
)
from pilotrl.envs.office.toolset import CALCULATOR, LISTS, SOURCES, Call

BUSY = "Error: busy, try again."
KINDS = dict(zip(LISTS, SOURCES, strict=True))
NUMBERS = 6
"""The player's latest numbers, so many of which listed actions are made of."""


class World:
    """One episode. `told` and `sums` are what replies have said, and all that an expert may know beside the goal."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.busy = scene, dict(scene.busy)
        self.told: dict[Read, int | Event | Read] = {}
        """Place -> what it says, or where that is."""
        self.sums: dict[tuple[str, int, int], int] = {}
        """Calculator and numbers, the smaller one first -> what it gave."""
        self.made: dict[Read, str] = {}
        """What the player has written."""
        self.numbers, self.listed = list[int](), set[str]()
        self.last, self.solved, self.over = "", False, False
        self.refused: Call | None = None
        """The latest call, if its tool was busy."""

    def do(self, call: Call) -> str:
        """Carries out a call, whose tool is offered; the reply."""
        self.refused = call if self.busy.get(call.tool, 0) else None
        if self.refused:
            self.busy[call.tool] -= 1
        self.last = BUSY if self.refused else self._done(call)
        return self.last

    def _done(self, call: Call) -> str:
        tool, given = call
        if tool in SOURCES:
            return self._read(Read(tool, tuple(map(str, given))))
        if tool in CALCULATOR:
            a, b = sorted(map(int, given))
            self.sums[tool, a, b] = computed(tool, a, b)
            return self._heard(self.sums[tool, a, b])
        if tool in KINDS:
            self.listed.add(tool)
            reads = [read for read in self.scene.entries if read.tool == KINDS[tool] and read not in self.scene.moved]
            return ", ".join(sorted({read.names[0] for read in reads})) or "none"
        if tool in ("clock", "weather"):
            return "9:40" if tool == "clock" else "sunny"
        return self._finished(call)

    def _heard(self, number: int) -> str:
        self.numbers = [*(n for n in self.numbers if n != number), number]
        return str(number)

    def _read(self, read: Read) -> str:
        if read in self.scene.moved:
            new = self.told[read] = self.scene.moved[read]
            return f"Error: no {place(read)}; it is now {place(new)}."
        if read in self.made:
            return self.made[read]
        entry = self.scene.entries.get(read)
        if entry is None:
            return f"Error: no {place(read)[:40]}."
        self.told[read] = entry
        if isinstance(entry, Read):
            return f"see {spoken(entry)}"
        number = self._heard(number_of(entry))
        return f"{entry.day} {number}" if isinstance(entry, Event) else number

    def _finished(self, call: Call) -> str:
        tool, given = call
        wanted, said = call_wanted(self.scene), tuple(map(str, given))
        self.solved = tool == wanted.tool and said == tuple(map(str, wanted.arguments))
        self.over = tool == "answer" or (tool == wanted.tool and said[0] == wanted.arguments[0])
        if self.over:
            return "Right." if self.solved else "Wrong."
        kind = {"write_file": "read_file", "save_note": "read_note", "book_event": "find_event"}[tool]
        read = Read(kind, (said[0],))
        if read in self.scene.entries or read in self.scene.moved:
            return f"Error: {place(read)} must stay as it is."
        self.made[read] = " ".join(said[1:])
        return "Done."

    def actions(self) -> list[Call]:
        """Calls of the offered tools with names and numbers that the player has met."""
        goal, reads = self.scene.goal, self._met()
        numbers = [*dict.fromkeys([*constants(goal.value), *self.numbers])][-NUMBERS:]
        days = sorted({entry.day for entry in self.told.values() if isinstance(entry, Event)})
        target = goal.names[0] if goal.names else "result"
        found = list[Call]()
        for tool in self.scene.tools:
            if tool in SOURCES:
                found += [Call(tool, read) for read in reads[tool]]
            elif tool in CALCULATOR:
                found += [Call(tool, (a, b)) for i, a in enumerate(numbers) for b in numbers[i:]]
            elif tool == "answer":
                found += [Call(tool, (number,)) for number in numbers]
            elif tool == "book_event":
                found += [Call(tool, (target, day, number)) for day in days for number in numbers]
            elif tool in ("write_file", "save_note"):
                found += [Call(tool, (target, number)) for number in numbers]
            else:
                found.append(Call(tool, ("monday",) if tool == "weather" else ()))
        return found

    def _met(self) -> dict[str, list[tuple[str, ...]]]:
        """Tool -> the places that it could read, by the names that the task or a reply has said, whatever they are names of."""
        met = [*reads_of(self.scene), *(entry for entry in self.told.values() if isinstance(entry, Read))]
        names = [*dict.fromkeys(read.names[-1].removesuffix(".txt") for read in met)]
        tables = [*dict.fromkeys(read.names[0] for read in met if read.tool == "look_up")]
        one: list[tuple[str, ...]] = [(name,) for name in names]
        rows: list[tuple[str, ...]] = [(table, name) for table in tables for name in names]
        files: list[tuple[str, ...]] = [(f"{name}.txt",) for name in names]
        return {"look_up": rows, "read_file": files, "read_note": one, "find_event": one}
