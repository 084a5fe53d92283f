"""The language model: loading, adapters, attention, value head, metadata and memory estimate, and the shipped weights.

May import `prompts` and `envs` (a model from scratch learns its tokenizer from them). Never here: losses, optimizers, episodes.
"""
