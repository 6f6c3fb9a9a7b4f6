"""The Wasm trainers that ship with the package. It must not know who runs them."""

from importlib import resources


def mlp() -> bytes:
    """The perceptron of any layer sizes (`examples/trainers/mlp`)."""
    return (resources.files("propeller.roles") / "assets" / "mlp.wasm").read_bytes()
