"""The language model: loading, adapters, attention, value head; what is known of a model before it is loaded; shipped weights.

May import `prompts` and `envs` (a model from scratch learns its tokenizer from them). Never here: losses, optimizers, episodes.
"""
