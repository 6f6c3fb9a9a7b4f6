"""The stores of the roles, as Protocols: `ports` holds the rest of the world, apart because it stays light.

Each has an adapter over SQL and an in-memory twin under `storage/` that pass one contract suite.
"""
