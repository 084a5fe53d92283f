"""Environments of PrimeIntellect's verifiers (https://github.com/PrimeIntellect-ai/verifiers), played in this process."""

from pilotrl.envs.verifiers.env import Verifiers

__all__ = ["Verifiers"]
