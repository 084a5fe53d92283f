"""Learning from episodes: the Lightning module and its data source, batches, algorithms, checkpoints.

May import `rollout`, `rewards` and `models`. `batch` is the only place where text becomes tensors. Never here: the
configuration object, a word of a prompt, MLflow.
"""
