"""The model registry: named, immutable, content-addressed versions of models, and where each came from."""
