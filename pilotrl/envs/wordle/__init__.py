"""Wordle in plain Python, by the usual rules or by LMRL-Gym's (arXiv 2311.18232): guess the hidden word from hints."""

from pilotrl.envs.wordle.env import Wordle, resolve

__all__ = ["Wordle", "resolve"]
