"""Asks registries what tags mean, for runs that wait to be placed. One question serves all who ask it.

It remembers nothing: a run that got no answer asks again. Questions to one image never hold up another's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from propeller import limits
from propeller.core import events as e
from propeller.errors import PeerUnavailable, PropellerError
from propeller.manager.dispatch import aliased_image
from propeller.ports import ImageTags
from propeller.telemetry.logs import logger

ASKING_MAX = 64
"""Images asked for at once; further runs ask again in their own time."""


class Pins:
    """Answers `PinImage` by `images`. `post` hands the answers to the shell."""

    def __init__(
        self,
        images: ImageTags,
        *,
        aliases: Mapping[str, str],
        post: Callable[[e.Event], Awaitable[None]],
    ) -> None:
        self._images = images
        self._aliases = aliases
        self._post = post
        self._asking: dict[str, tuple[asyncio.Task[None], list[e.PinImage]]] = {}

    def ask(self, effect: e.PinImage) -> None:
        """Have one run's image looked up; never waits."""
        image = aliased_image(effect.task.image_url, self._aliases)
        if image in self._asking:
            self._asking[image][1].append(effect)
        elif len(self._asking) < ASKING_MAX:
            runs = [effect]
            self._asking[image] = (asyncio.create_task(self._answer(image, runs)), runs)

    async def close(self) -> None:
        """Give up what is still asked."""
        asking = [task for task, _ in self._asking.values()]
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _answer(self, image: str, runs: list[e.PinImage]) -> None:
        try:
            verdict = await self._look_up(image)
        except Exception as error:  # noqa: BLE001 - the boundary of a task that nobody waits for
            logger().error("bug: image not looked up", image=image, exc_info=error)
            return
        finally:
            del self._asking[image]
        for asked in runs:
            await self._post(_told(asked, verdict))

    async def _look_up(self, image: str) -> str | PropellerError:
        try:
            async with asyncio.timeout(limits.IMAGE_PIN_S):
                return await self._images.pin(image)
        except TimeoutError:
            return PeerUnavailable(f"the registry of image {image} did not answer in time")
        except PropellerError as error:
            return error


def _told(asked: e.PinImage, verdict: str | PropellerError) -> e.ImagePinned | e.ImageNotPinned:
    if isinstance(verdict, str):
        return e.ImagePinned(
            task_id=asked.task.id, run=asked.run, revision=asked.revision, digest=verdict, cause="registry"
        )
    return e.ImageNotPinned(
        task_id=asked.task.id,
        run=asked.run,
        revision=asked.revision,
        error=verdict.message,
        for_good=not isinstance(verdict, PeerUnavailable),
        cause="registry",
    )
