"""Rollout: runs episodes by Algorithm 1 of the paper (arXiv 2508.00344), many at once, in one process or several.

May import `engine`, `envs`, `prompts` and `teacher`. Never here: tensors, rewards, the configuration object.
"""
