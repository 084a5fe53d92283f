"""From the words of a command line to a checked configuration: compose, validate, preflight, sweeps, SLURM, exit codes.

May import `config` and the rooms whose values it checks; loads no tensor library before a check needs a model's own files.
Never here: anything that trains or plays.
"""
