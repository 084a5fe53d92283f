"""TextCraft (arXiv 2311.05772) in plain Python: get what can be had, craft the rest, after Minecraft's recipes."""

from pilotrl.envs.textcraft.env import TextCraft, resolve

__all__ = ["TextCraft", "resolve"]
