"""Wasm guests: worker processes, limits, the guest ABIs. It knows nothing of tasks, rounds or transports.

`pool` is the adapter that the agent's process imports; it loads neither wasmtime nor numpy. Everything else
but `messages` and `process` runs in the worker processes only.
"""
