"""Everything that MLflow is told, read from run folders: runs, metrics, traces, models.

May import `store` and `analysis`. Never here: anything that a run's result depends on; without MLflow a run is the same.
"""
