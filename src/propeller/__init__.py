"""Propeller: WebAssembly workloads and federated learning, from cloud servers to microcontrollers."""

__version__ = "0.1.0"
