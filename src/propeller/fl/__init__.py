"""Pure federated learning: models, updates, rounds, experiments, strategies.

No I/O, clock, log or randomness: decisions only, taken from what they are given.
"""
