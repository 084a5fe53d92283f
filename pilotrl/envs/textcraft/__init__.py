"""TextCraft (arXiv 2311.05772) in plain Python: get raw ingredients and craft an item, by Minecraft's recipes."""

from pilotrl.envs.textcraft.env import TextCraft, resolve

__all__ = ["TextCraft", "resolve"]
