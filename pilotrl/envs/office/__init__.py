"""Tools of an office (`env=tools`), in plain Python: a calculator, tables, files, notes, a calendar; some fail at first."""

from pilotrl.envs.office.tools import Tools, resolve

__all__ = ["Tools", "resolve"]
