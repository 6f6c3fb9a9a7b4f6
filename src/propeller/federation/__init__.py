"""The services of federated learning: coordinator, aggregator, model registry and data store.

Each is a role of its own with its own database; they meet over HTTP and MQTT only, also inside one process.
"""
