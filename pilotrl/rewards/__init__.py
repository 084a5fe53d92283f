"""What an episode is worth: named reward terms, and judges of adherence and plans.

May import `endpoint` and `prompts` (for judges behind an API). Never here: tensors. Success is the environment's, not a judge's.
"""
