"""What a fleet's experiment is asked to be: the flags of `propeller emulate` and the keys of its file. Pure.

Every key of `[experiment]` is a field of `Wishes`; a list under `[sweep]` makes a run of each of its values,
and several lists a run of each combination.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal

from propeller.emulation.boards import Board, board
from propeller.errors import BadInput

DEVICES_MAX: Final = 1000
RUNS_MAX: Final = 1000
_TIMES: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0}
_RATES: Final = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6}
_NUMBER = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z%]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """One run. Shares are from 0 to 1; an `alpha` of 0 deals the data evenly."""

    devices: int = 5
    board: str = "qemu_x86"
    """One board, or several as `qemu_x86=8,linux-x86_64=2`, whose numbers then are the devices."""
    memory_mb: int | None = None
    rounds: int = 20
    clients: int = 0
    """Devices that take part in each round, drawn anew; 0: all that are ready."""
    enough: float = 1.0
    """The share of a round's participants whose updates close it."""
    epochs: int = 5
    batch: int = 5
    lr: float = 0.1
    alpha: float = 0.0
    seed: int = 0
    strategy: str = "fedavg"
    interval_s: float = 0.0
    timeout_s: float = 120.0
    heartbeat_s: float = 10.0
    loss: float = 0.0
    loss_by: Literal["iptables", "proxy"] = "iptables"
    delay_s: float = 0.0
    bytes_per_s: float = 0.0
    churn: float = 0.0
    """The share of devices that lose their power in each round, to come back in the next."""
    cpu_share: float = 0.0
    """Of one core, for each device; 0: as much as there is."""

    def fleet(self) -> list[Board]:
        """The board of every device, in order; raises `BadInput`."""
        if "=" not in self.board:
            return [board(self.board)] * self.devices
        found: list[Board] = []
        for part in self.board.split(","):
            name, _, count = part.partition("=")
            if not count.isdigit():
                raise BadInput(f"--board {self.board!r}: write NAME=COUNT,NAME=COUNT")
            found += [board(name.strip())] * int(count)
        if not all(one.emulated for one in found):
            raise BadInput("plain proplets do not mix with devices: --board plain --devices N")
        return found

    @property
    def plain(self) -> bool:
        """Whether ordinary proplets of this machine take the place of devices."""
        return self.board == "plain"

    def settings(self) -> dict[str, Any]:
        """All of it, for the results."""
        return asdict(self)

    @property
    def slow(self) -> bool:
        """Whether the network is to be worse than it is."""
        return bool(self.loss or self.delay_s or self.bytes_per_s)


def checked(wishes: Wishes) -> Wishes:
    """`wishes` if they can be, with `devices` counted; raises `BadInput` that says which cannot."""
    wishes = replace(wishes, devices=len(wishes.fleet()))
    if wishes.plain and (wishes.slow or wishes.churn or wishes.cpu_share):
        raise BadInput("plain proplets have no network of their own to worsen, and nothing that dies")
    for name, low, high in (
        ("devices", 1, DEVICES_MAX), ("rounds", 1, 100_000), ("clients", 0, wishes.devices),
        ("epochs", 1, 100_000), ("batch", 1, 100_000), ("enough", 0.01, 1.0), ("loss", 0.0, 0.9),
        ("churn", 0.0, 1.0), ("cpu_share", 0.0, 1.0), ("delay_s", 0.0, 60.0), ("timeout_s", 1.0, 86_400.0),
        ("interval_s", 0.0, 86_400.0),
    ):  # fmt: skip
        value = getattr(wishes, name)
        if not low <= value <= high:
            raise BadInput(f"{name} is {value}; it must be from {low} to {high}")
    return wishes


def share_of(text: str) -> float:
    """`10%` or `0.1` as 0.1."""
    number, unit = _parts(text, "share")
    if unit not in {"", "%"}:
        raise BadInput(f"{text!r} is no share; write 10% or 0.1")
    return number / 100 if unit == "%" else number


def seconds_of(text: str) -> float:
    """`50ms`, `2s`, `1m`, or seconds alone."""
    number, unit = _parts(text, "time")
    if unit not in _TIMES:
        raise BadInput(f"{text!r} is no time; write 50ms, 2s or 1m")
    return number * _TIMES[unit]


def rate_of(text: str) -> float:
    """Bytes per second: `20kB`, `1MB`, or bytes alone."""
    number, unit = _parts(text, "rate")
    if unit.removesuffix("B") not in _RATES:
        raise BadInput(f"{text!r} is no rate; write 20kB or 1MB, a second")
    return number * _RATES[unit.removesuffix("B")]


def megabytes_of(text: str) -> int:
    """`15M` or `15` as 15."""
    number, unit = _parts(text, "size")
    if unit not in {"", "M", "MB"} or number != math.floor(number):
        raise BadInput(f"{text!r} is no whole number of megabytes; write 15M")
    return int(number)


def of_document(document: Mapping[str, Any], base: Wishes) -> list[Wishes]:
    """The runs that a file asks for, over the flags' `base`; raises `BadInput` that names the key."""
    if unknown := set(document) - {"experiment", "sweep"}:
        raise BadInput(f"{', '.join(sorted(unknown))} stands in no table; there are [experiment] and [sweep]")
    told = replace(base, **{key: _value(key, value) for key, value in document.get("experiment", {}).items()})
    sweep: Mapping[str, Any] = document.get("sweep", {})
    for key, values in sweep.items():
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise BadInput(f"sweep.{key} must be a list of values")
    runs = [
        checked(replace(told, **{key: _value(key, value) for key, value in zip(sweep, values, strict=True)}))
        for values in itertools.islice(itertools.product(*sweep.values()), RUNS_MAX + 1)
    ]
    if len(runs) > RUNS_MAX:
        raise BadInput(f"the sweep has more than {RUNS_MAX} runs")
    return runs


_READ: Final = {
    "loss": share_of, "churn": share_of, "enough": share_of, "cpu_share": share_of, "delay_s": seconds_of,
    "interval_s": seconds_of, "timeout_s": seconds_of, "heartbeat_s": seconds_of, "bytes_per_s": rate_of,
    "memory_mb": megabytes_of,
}  # fmt: skip
"""Keys that may be written with a unit."""


def _value(key: str, value: Any) -> Any:
    kinds = {field.name: field.type for field in fields(Wishes)}
    if key not in kinds or key == "loss_by":
        raise BadInput(
            f"no setting {key!r}; there are {', '.join(name for name in kinds if name != 'loss_by')}"
        )
    if isinstance(value, str) and key in _READ:
        return _READ[key](value)
    wanted = (str,) if key in {"board", "strategy"} else (int, float)
    whole = key in {"devices", "rounds", "clients", "epochs", "batch", "seed", "memory_mb"}
    if not isinstance(value, wanted) or isinstance(value, bool) or (whole and not isinstance(value, int)):
        raise BadInput(f"{key} cannot be {value!r}")
    return value


def _parts(text: str, what: str) -> tuple[float, str]:
    found = _NUMBER.fullmatch(text.strip())
    if found is None:
        raise BadInput(f"{text!r} is no {what}; write a number, with its unit behind it")
    return float(found["number"]), found["unit"]
