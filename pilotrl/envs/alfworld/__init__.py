"""ALFWorld (arXiv 2010.03768) in plain Python: find things in a household, clean, heat or cool them, put them somewhere."""

from pilotrl.envs.alfworld.env import AlfWorld
from pilotrl.envs.alfworld.text import resolve

__all__ = ["AlfWorld", "resolve"]
