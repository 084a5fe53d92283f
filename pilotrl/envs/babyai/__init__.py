"""BabyAI (arXiv 1810.08272) as text: missions in rooms with balls, boxes, keys and doors, simulated by minigrid."""

from pilotrl.envs.babyai.env import BabyAi
from pilotrl.envs.babyai.text import resolve

__all__ = ["BabyAi", "resolve"]
