"""A trained model into the file that travels: done in a process of its own, which may be large and then ends.

The agent imports no numpy; so it starts this module as a program, which reads one order from standard input
and answers with nothing, or with the reason why not. Also what an order says, and the agent's half.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec import Struct

from propeller.errors import CallerError, EnvironmentError_
from propeller.fl.update_format import parse_format
from propeller.proplet.failure import AttemptFailed

if TYPE_CHECKING:
    from propeller.fl.tensors import Tensors

_REFUSED = 3
_JSON = ".json"


class PackOrder(Struct, frozen=True, kw_only=True):
    """Files are safetensors, or a JSON object of tensors if their names end in `.json`."""

    base: str
    update: str
    out: str
    """Written, synced, and there only if whole."""
    form: str
    round_id: str
    participant: str


class Packer(Protocol):
    """Carries an order out."""

    async def __call__(self, order: PackOrder, /) -> None:
        """Return once `out` is there. Raises `AttemptFailed` `invalid_update`: the trainer's mistake."""
        ...


async def in_a_process(order: PackOrder, /) -> None:
    """The `Packer` of a device."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        said, _ = await child.communicate(msgspec.json.encode(order))
    except asyncio.CancelledError:
        child.kill()
        await child.wait()
        raise
    if child.returncode == _REFUSED:
        raise AttemptFailed("invalid_update", said.decode())
    if child.returncode != 0:
        raise EnvironmentError_(f"packing the update ended with status {child.returncode}; see the log")


async def at_once(order: PackOrder, /) -> None:
    """The same here and now."""
    try:
        carry_out(order)
    except CallerError as error:
        raise AttemptFailed("invalid_update", error.message) from error


def carry_out(order: PackOrder) -> None:
    """Write `order.out`. Raises `CallerError` for tensors that are not those of the base."""
    from propeller.fl.formats import pack  # noqa: PLC0415 - numpy, which the agent does without
    from propeller.fl.tensors import (  # noqa: PLC0415
        cast_like,
        check_like,
        to_safetensors,
        with_companions,
    )

    what, form = "the trained model", parse_format(order.form)
    base, update = _read(Path(order.base), "the base model"), _read(Path(order.update), what)
    out, temporary = Path(order.out), Path(order.out + ".tmp")
    base = with_companions(base, update)
    fitting = cast_like(update, base, what)
    check_like(fitting, base, what)
    if form.delta:
        packed = pack(update, base, form, round_id=order.round_id, participant=order.participant)
        with temporary.open("wb") as file:
            file.writelines(packed.pieces)
    elif Path(order.update).suffix != _JSON and all(fitting[name] is update[name] for name in base):
        # In the model's own types already: a file of any size goes on as it is.
        Path(order.update).rename(temporary)
    else:
        temporary.write_bytes(to_safetensors(fitting))
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.rename(out)


def _read(path: Path, what: str) -> "Tensors":
    import mmap  # noqa: PLC0415 - as above

    from propeller.fl.tensor_files import view  # noqa: PLC0415
    from propeller.fl.tensors import from_json  # noqa: PLC0415

    if path.suffix == _JSON:
        return from_json(msgspec.json.decode(path.read_bytes()), what)[0]
    with path.open("rb") as file:
        return view(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), what)


def main() -> int:
    """Carry out the order on standard input."""
    try:
        carry_out(msgspec.json.decode(sys.stdin.buffer.read(), type=PackOrder))
    except (CallerError, msgspec.MsgspecError) as error:
        sys.stdout.write(str(error))
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
