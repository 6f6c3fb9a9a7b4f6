"""What a device would have used of energy: an estimate by a stated model, never a measurement. Pure."""

from typing import Final

ACTIVE_W: Final = 0.33
"""While it computes: 3.3 V at 100 mA, a microcontroller with its radio or Ethernet on."""
IDLE_W: Final = 0.033
"""While it waits: a tenth of that."""
MODEL: Final = (
    f"estimate, not a measurement: {ACTIVE_W} W x processor seconds of the emulator "
    f"+ {IDLE_W} W x the other seconds"
)


def joules(cpu_s: float, wall_s: float) -> float:
    """The energy of one device that computed for `cpu_s` of `wall_s`."""
    busy_s = min(cpu_s, wall_s)
    return ACTIVE_W * busy_s + IDLE_W * (wall_s - busy_s)
