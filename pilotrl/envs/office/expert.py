"""The scripted expert: knows the task and what replies have said, reads what is missing, computes, and hands in the result."""

from __future__ import annotations

from collections.abc import Iterator

from pilotrl.envs.office.scene import Event, Expr, Op, Read, leaves, number_of, ops
from pilotrl.envs.office.toolset import CALCULATOR, LISTS, Call, written
from pilotrl.envs.office.world import BUSY, World


class ToolsExpert:
    """The expert: one call a turn; after one that failed the same again, or what the reply names instead."""

    def __init__(self, world: World, form: str) -> None:
        self.world, self.form, self.goal = world, form, world.scene.goal

    def plan(self) -> list[str]:
        """A step for each call from here on. A number that is not known yet is called by where it comes from."""
        reads, sums = self._missing()
        steps = [_reading(read) for read in reads]
        steps += [self._calculating(op) for op in sums]
        steps += [] if self.world.over else [self._handing_in()]
        return [f"{step} again" for step in steps[:1] if self._refused()] + steps[int(self._refused()) :]

    def loose(self) -> list[str]:
        """The same steps without places, tools and numbers."""
        reads, sums = self._missing()
        steps = ["find out what the task still needs"] * len(reads) + ["work out what is known"] * len(sums)
        steps += [] if self.world.over else ["give the result where it belongs"]
        return [f"{step} once more" for step in steps[:1] if self._refused()] + steps[int(self._refused()) :]

    def equal(self, action: str) -> str:
        """Another place that is to be read, another calculation whose numbers are known."""
        reads, sums = self._missing()
        steps = {written(read.call, self.form): _reading(read) for read in reads}
        if not reads:
            steps = {written(call, self.form): self._calculating(op) for op in sums if (call := self._calculation(op))}
        return "" if self._refused() else steps.get(action, "")

    def action(self) -> str:
        """The next call. Raises RuntimeError once the episode has ended."""
        return written(self._next(), self.form)

    def thought(self) -> str:
        """The latest reply, and what is not known: `said 12; still open: rent.txt, the sum`."""
        reads, sums = self._missing()
        wanted = [*(read.names[-1] for read in reads), *(f"the {CALCULATOR[op.tool]}" for op in sums)]
        said = " ".join(self.world.last.split()[:9]).rstrip(".,") or "nothing yet"
        return f"said {said}; still open: {', '.join(wanted[:2]) or 'nothing'}"

    def detour(self) -> str | None:
        """A look at a list that was not asked for yet; None if no such tool is offered."""
        lists = [tool for tool in self.world.scene.tools if tool in LISTS and tool not in self.world.listed]
        return written(Call(lists[0], ()), self.form) if lists and self.world.last != BUSY else None

    def _refused(self) -> bool:
        """Whether the latest call was the one to make, and its tool was busy."""
        return self.world.refused is not None and not self.world.over and self.world.refused == self._next()

    def _next(self) -> Call:
        if self.world.over:
            raise RuntimeError("the episode has ended: there is no next action")
        reads, sums = self._missing()
        if reads:
            return reads[0].call
        if sums:
            call = self._calculation(sums[0])
            assert call is not None
            return call
        day = self.world.told[self._place(self.goal.day)] if self.goal.day else None
        value = self._value(self.goal.value)
        assert value is not None
        return Call(self.goal.tool, (*self.goal.names, *([day.day] if isinstance(day, Event) else []), value))

    def _missing(self) -> tuple[list[Read], list[Op]]:
        """Places to read, and calculations to do, in order."""
        if self.world.over:
            return [], []
        wanted = [*([self.goal.day] if self.goal.day else []), *leaves(self.goal.value)]
        places = [self._place(read) for read in wanted]
        return (
            [read for read in dict.fromkeys(places) if read not in self.world.told],
            [op for op in ops(self.goal.value) if self._value(op) is None],
        )

    def _place(self, read: Read) -> Read:
        """Where the content of a place is, as far as replies have said."""
        while isinstance(entry := self.world.told.get(read), Read):
            read = entry
        return read

    def _value(self, expr: Expr) -> int | None:
        """A number, if replies have said it; of an event the hour."""
        if isinstance(expr, int):
            return expr
        if isinstance(expr, Read):
            entry = self.world.told.get(self._place(expr))
            return None if entry is None or isinstance(entry, Read) else number_of(entry)
        a, b = self._value(expr.left), self._value(expr.right)
        return None if a is None or b is None else self.world.sums.get((expr.tool, min(a, b), max(a, b)))

    def _calculation(self, op: Op) -> Call | None:
        """The call for a calculation, if both of its numbers are known."""
        a, b = self._value(op.left), self._value(op.right)
        return None if a is None or b is None else Call(op.tool, (a, b))

    def _calculating(self, op: Op) -> str:
        return f"use {op.tool} on {self._named(op.left)} and {self._named(op.right)}"

    def _named(self, expr: Expr) -> str:
        """A number, or where it will come from."""
        if (value := self._value(expr)) is not None:
            return str(value)
        return f"the {CALCULATOR[expr.tool]}" if isinstance(expr, Op) else next(self._names(expr))

    def _names(self, expr: Expr) -> Iterator[str]:
        for read in leaves(expr):
            yield self._place(read).names[-1]

    def _handing_in(self) -> str:
        value, name = self._named(self.goal.value), self.goal.names[0] if self.goal.names else ""
        if self.goal.day:
            entry = self.world.told.get(self._place(self.goal.day))
            day = entry.day if isinstance(entry, Event) else f"the day of {self._place(self.goal.day).names[-1]}"
            return f"put {name} into the calendar on {day} at {value}"
        return {
            "answer": f"answer {value}",
            "write_file": f"put {value} into file {name}",
            "save_note": f"put {value} into note {name}",
        }[self.goal.tool]


def _reading(read: Read) -> str:
    *_, last = read.names
    return {
        "look_up": f"look up {last} in {read.names[0]}",
        "read_file": f"read file {last}",
        "read_note": f"read note {last}",
        "find_event": f"look up {last} in the calendar",
    }[read.tool]
