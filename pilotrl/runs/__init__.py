"""One run from start to end: build its parts, evaluate, train, evaluate again, write the run folder; chains of runs.

May import every room below. Never here: what a command line means (`cli`), how a step learns (`training`), how an episode is
played (`rollout`).
"""
