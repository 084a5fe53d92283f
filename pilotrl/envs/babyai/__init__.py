"""BabyAI (arXiv 1810.08272) in words: missions in rooms full of balls, boxes, keys and doors. Minigrid is the engine."""

from pilotrl.envs.babyai.env import BabyAi
from pilotrl.envs.babyai.text import resolve

__all__ = ["BabyAi", "resolve"]
