"""IQA, interactive question answering: walk through a kitchen to answer a question (IQUAD V1, arXiv 1712.03316, as text)."""

from pilotrl.envs.iqa.env import Iqa

__all__ = ["Iqa"]
