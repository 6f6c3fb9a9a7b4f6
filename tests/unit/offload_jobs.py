"""Jobs for the tests of `offload`: in a module of their own, which the worker process can import."""

import os
import signal
import threading

from propeller.errors import BadInput


def where(payload: bytes, *, extra: int = 0) -> tuple[int, int, bytes, int]:
    """Process, thread, the payload turned, and the keyword."""
    return os.getpid(), threading.get_ident(), payload[::-1], extra


def refuse(payload: bytes) -> None:
    """A caller's error with a code of its own."""
    raise BadInput(f"{len(payload)} bytes are bad", code="special")


def fail(payload: bytes) -> None:
    """A bug."""
    raise ZeroDivisionError(len(payload))


def chatter(payload: bytes) -> bytes:
    """A library that prints to the stream that answers travel on."""
    os.write(1, b"noise")
    return payload


def die(_payload: bytes) -> None:
    """The kernel takes the process."""
    os.kill(os.getpid(), signal.SIGKILL)


def spin(payload: bytes) -> int:
    """Hold the interpreter lock of wherever this runs for about a second: one call that never lets go."""
    return sum(range(60_000_000)) + len(payload)
