"""Storage of runs on disk: the run folder and its lock, records as JSON lines, secrets masked, text made fit to be shown.

May import `types` alone. Never here: what the records mean.
"""
