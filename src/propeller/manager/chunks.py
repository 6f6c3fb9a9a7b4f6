"""Modules for proplets that reach nothing but the broker: fetched here, and published in chunks.

Who asks names the module as its start message did, so only modules of live runs are to be had: the manager
fetches nothing that merely somebody on the channel wishes for. Chunks go to all on one topic, as the original
has it, so one answer serves all who asked meanwhile. What cannot be had is said, with a reason.
"""

import asyncio
import base64
from collections.abc import Callable

from propeller.core.engine import Engine
from propeller.core.run import Run
from propeller.core.task import Task
from propeller.errors import DecodeError, NotFound, PeerUnavailable, PropellerError, TooLarge
from propeller.manager.config import ManagerConfig
from propeller.manager.dispatch import image_of, module_url
from propeller.ports import Blobs, Bus, Images, Message
from propeller.telemetry.logs import logger
from propeller.wire import codec
from propeller.wire.messages import ImageChunk, ImageWish

SENDERS = 4
"""Modules on their way at once."""
WISHES_MAX = 100
"""Modules that may wait for a sender; further wishes are dropped, and repeated by who has them."""


class ImageChunks:
    """Answers wishes; `run` sends until it is cancelled. Without `images` there are inline modules only."""

    def __init__(
        self,
        *,
        config: ManagerConfig,
        bus: Bus,
        blobs: Blobs,
        images: Images | None,
        engine: Callable[[], Engine],
    ) -> None:
        self._config = config
        self._bus = bus
        self._blobs = blobs
        self._images = images
        self._engine = engine
        self._wished: set[str] = set()
        self._queue: asyncio.Queue[str] = asyncio.Queue(WISHES_MAX)

    def heard(self, payload: bytes) -> None:
        """Take one wish; one that is being answered already is answered. Raises `DecodeError`."""
        name = codec.decode(ImageWish, payload, what="a wish for an image").app_name
        if not name:
            raise DecodeError("a wish for an image names none in app_name")
        if name in self._wished or self._queue.full():
            return
        self._wished.add(name)
        self._queue.put_nowait(name)

    async def run(self) -> None:
        """Send what is wished for."""
        async with asyncio.TaskGroup() as group:
            for _ in range(SENDERS):
                group.create_task(self._send_forever())

    async def _send_forever(self) -> None:
        while True:
            name = await self._queue.get()
            try:
                await self._send(name, await self._module(name))
            except PropellerError as error:
                logger().warning("image not sent in chunks", image=name[:200], error=error.message)
                await self._publish(ImageChunk(app_name=name, error=error.message, failure=error.reason))
            except Exception as error:  # noqa: BLE001 - one module must not end the manager
                logger().error("bug: image not sent in chunks", image=name[:200], exc_info=error)
            finally:
                self._wished.discard(name)

    async def _module(self, name: str) -> bytes:
        """The module that a live run's start names so. Raises as `Images.fetch` does."""
        for run, task in self._live():
            if task.file_sha256 and name == module_url(self._config, task.file_sha256):
                return await self._blobs.get(task.file_sha256)
            if self._images is not None and name in _names(task, run, self._config):
                return (await self._images.fetch(image_of(task, run, self._config))).content
        raise NotFound(f"no live task has the image {name[:200]!r}", code="unknown_image")

    def _live(self) -> list[tuple[Run, Task]]:
        ledger = self._engine().ledger
        return [(run, ledger.tasks[task_id]) for task_id, run in ledger.runs.items()]

    async def _send(self, name: str, module: bytes) -> None:
        size = self._config.chunk_bytes
        total = max(1, -(-len(module) // size))
        for index in range(total):
            piece = base64.b64encode(module[index * size : (index + 1) * size])
            chunk = ImageChunk(app_name=name, chunk_idx=index, total_chunks=total, data=piece.decode())
            if not await self._publish(chunk):
                raise PeerUnavailable("the broker went away between two chunks", code="no_broker")

    async def _publish(self, chunk: ImageChunk) -> bool:
        topic = self._config.topics.image_chunks()
        try:
            return await self._bus.publish(Message(topic, codec.encode(chunk)))
        except TooLarge as error:
            logger().error("chunk too large for the broker", error=error.message)
            return False


def _names(task: Task, run: Run, config: ManagerConfig) -> set[str]:
    """What start messages call the image, on either lane, and what the user called it."""
    if not task.image_url:
        return set()
    return {task.image_url, image_of(task, None, config), image_of(task, run, config)}
