"""The maze: walk to a goal while seeing only adjacent walls, in the texts of LMRL-Gym (arXiv 2311.18232)."""

from pilotrl.envs.maze.env import Maze, resolve

__all__ = ["Maze", "resolve"]
