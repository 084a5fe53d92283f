"""Benchmarks: of a model's shape on this machine, and of a training step against TRL's."""
