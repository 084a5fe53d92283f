"""Statistics, and how numbers are shown: intervals, the tables of the terminal, the learning curve.

May import `store` and `types`. Never here: reading run folders (`report` and `audit` do), or anything that a run's result
depends on.
"""
