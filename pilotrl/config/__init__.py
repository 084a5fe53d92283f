"""The configuration: its types, and how a node of it with `_target_` becomes an object. Values live in `conf/`.

Imports nothing of the project. Only commands, `runs` and `cli` may import `config.schema`: what is below takes
plain arguments.
"""
