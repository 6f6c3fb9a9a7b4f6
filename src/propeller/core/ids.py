"""Identifiers: what may name a task, experiment, round, proplet or model. Knows nothing of what they name."""

import re
import uuid
from random import Random

from propeller import limits
from propeller.errors import BadInput

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def check_id(value: str, what: str) -> str:
    """Return `value` if it is a lawful id, else raise `BadInput` naming `what` it should have named."""
    if _ID.fullmatch(value):
        return value
    shown = value if len(value) <= limits.ID_CHARS_MAX else value[: limits.ID_CHARS_MAX] + "…"
    raise BadInput(
        f"{what} {shown!r} is not an id: 1 to {limits.ID_CHARS_MAX} characters of letters, digits, "
        "'.', '_' and '-', beginning with a letter or digit",
        code="bad_id",
    )


def new_id(random: Random) -> str:
    """A fresh random UUID (version 4) drawn from `random`, so that a seeded world names things alike."""
    return str(uuid.UUID(int=random.getrandbits(128), version=4))


def new_ordered_id(random: Random, wall_s: float) -> str:
    """A fresh UUID (version 7, RFC 9562): the time in milliseconds, then 74 random bits.

    What is made together lies together in an index: a commit for many writes few pages.
    """
    value = int(wall_s * 1000) % (1 << 48) << 80 | random.getrandbits(80)
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(0x3 << 62) | 2 << 62
    return str(uuid.UUID(int=value))
