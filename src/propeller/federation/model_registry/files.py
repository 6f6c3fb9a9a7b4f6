"""Model versions that come as files: from a request's stream to the store, piece by piece. Knows no routes.

A body is either one safetensors file, described by the query, or (`MODEL_FILES`) a line of JSON, the model's
file and the state's. Nothing is in memory whole: pieces go to the store's writers, and what they wrote is
checked where it lies.
"""

from collections.abc import AsyncIterator

from propeller import limits
from propeller.errors import BadInput, TooLarge
from propeller.federation.model_registry.content import propose_files
from propeller.federation.offload import Offload
from propeller.fl.versions import ModelVersion
from propeller.ports import Clock
from propeller.stores.models import ModelStore
from propeller.wire import codec
from propeller.wire.models import StoreFiles


class Pieces:
    """A stream of bytes, taken in portions that its sender did not choose."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream = stream
        self._rest = b""

    async def line(self, limit_bytes: int) -> bytes:
        """Up to the first line feed, which is left out. Raises `BadInput`, `TooLarge`."""
        found = b""
        while b"\n" not in self._rest:
            found += self._rest
            if len(found) > limit_bytes:
                raise TooLarge(f"the line before the files is over {limit_bytes} bytes")
            self._rest = await self._next()
            if not self._rest:
                raise BadInput("the body ends within its first line; send a line of JSON, then the files")
        head, _, self._rest = self._rest.partition(b"\n")
        return found + head

    async def exactly(self, size: int) -> AsyncIterator[bytes]:
        """The next `size` bytes. Raises `BadInput` if the body ends before."""
        missing = size
        while missing:
            piece = self._rest or await self._next()
            if not piece:
                raise BadInput(f"the body ends {missing} bytes before a file of {size} does", code="cut_off")
            now, self._rest = piece[:missing], piece[missing:]
            missing -= len(now)
            yield now

    async def rest(self) -> AsyncIterator[bytes]:
        """All that is left."""
        while piece := self._rest or await self._next():
            self._rest = b""
            yield piece

    async def _next(self) -> bytes:
        async for piece in self._stream:
            if piece:
                return piece
        return b""


async def store_files(
    pieces: Pieces, head: StoreFiles | None, store: ModelStore, clock: Clock, offload: Offload
) -> tuple[ModelVersion, bool]:
    """Store what `pieces` bring: one model's file if `head` is given, else a line and files.

    Raises what `ModelStore.adopt` and `content.propose_files` raise.
    """
    state = None
    if head is not None:
        model = await _written(pieces.rest(), store)
    else:
        line = await pieces.line(limits.MODEL_LINE_BYTES_MAX)
        head = codec.decode(StoreFiles, line, what="the line before the files")
        model = await _written(pieces.exactly(head.model_bytes), store)
        if head.state_bytes:
            state = await _written(pieces.exactly(head.state_bytes), store)
    beside = await store.file(state) if state is not None else memoryview(b"")
    proposal = await offload(propose_files, head, await store.file(model), beside)
    return await store.adopt(proposal, model, state=state, created_at_s=clock.now().wall_s)


async def _written(pieces: AsyncIterator[bytes], store: ModelStore) -> str:
    async with store.open_writer() as writer:
        async for piece in pieces:
            await writer.write(piece)
        return await writer.commit()
