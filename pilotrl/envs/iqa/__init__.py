"""IQA: questions about a kitchen that have to be answered by walking through it (IQUAD V1, arXiv 1712.03316, in words)."""

from pilotrl.envs.iqa.env import Iqa

__all__ = ["Iqa"]
