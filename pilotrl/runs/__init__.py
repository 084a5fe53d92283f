"""One run from start to end: build its parts, evaluate, train, evaluate again, write the run folder; chains of runs.

May import every package below it. Never here: parsing of command lines (`cli`), the training step (`training`), or episodes
(`rollout`).
"""
