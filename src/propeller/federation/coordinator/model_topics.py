"""Model versions for devices that only a broker reaches: retained topics, and pieces of what is too large.

A version that fits into a message is retained on `B/fl/models/{name}_v{N}` as the JSON that the registry
serves; of a larger one there is a manifest, and its file comes in pieces to who asks. The older application's
spellings go out beside. It decides nothing: versions are shown when a round begins with them or made them.
"""

import asyncio
from collections import OrderedDict

from propeller import limits
from propeller.errors import BadInput, CallerError, PeerRefused, PropellerError
from propeller.federation.coordinator.peers import Peers
from propeller.federation.offload import Offload, by_size
from propeller.fl.model_ref import ModelRef, parse_model_ref
from propeller.fl.tensors import Tensors, to_json
from propeller.ports import Bus, Message
from propeller.telemetry.logs import logger
from propeller.wire import codec
from propeller.wire.rounds import ModelManifest, ModelWish
from propeller.wire.topics import Topics

_SHOWN_MAX = 64


class ModelTopics:
    """Shows versions on their topics, and answers wishes."""

    def __init__(self, *, bus: Bus, topics: Topics, mirror: bool, peers: Peers, offload: Offload) -> None:
        self._bus = bus
        self._topics = topics
        self._mirror = mirror
        self._peers = peers
        self._offload = offload
        self._wanted: OrderedDict[ModelRef, bool] = OrderedDict()
        self._shown: OrderedDict[ModelRef, None] = OrderedDict()
        self._wishes: OrderedDict[ModelWish, None] = OrderedDict()
        self._wished = asyncio.Event()
        self._wake = asyncio.Event()

    def show(self, ref: ModelRef, *, new: bool = False) -> None:
        """Have a version retained soon; a `new` one is also announced as the older application does."""
        if ref not in self._shown:
            # A version that is still to be announced stays so when the next round begins with it.
            self._wanted[ref] = new or self._wanted.get(ref, False)
            self._wake.set()

    def hear(self, payload: bytes) -> None:
        """Take a wish for a model; one too many is dropped, and its sender asks again.

        What several devices wish for while it waits is said once: they all hear it.
        """
        try:
            wish = codec.decode(ModelWish, payload, what="a wish for a model")
            parse_model_ref(wish.model_uri, "model_uri")
        except CallerError as error:
            logger().warning("wish for a model dropped", error=str(error))
            return
        if len(self._wishes) < limits.MODEL_WISHES_MAX:
            self._wishes[wish] = None
            self._wished.set()
        else:
            logger().warning("wish for a model dropped", error="too many wait")

    def again(self) -> None:
        """There is a new connection, perhaps to a broker that forgot everything it had retained."""
        for ref in self._shown:
            self._wanted.setdefault(ref, False)
        self._shown.clear()
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._show_all())
            tasks.create_task(self._answer_all())

    async def _show_all(self) -> None:
        pause_s = 0.0
        while True:
            self._wake.clear()
            pause_s = 0.0 if await self._show_some() else limits.ROUND_NOTICE_RETRY_S
            try:
                async with asyncio.timeout(pause_s or None):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _show_some(self) -> bool:
        """Show what is wanted; False if something is left to be tried again."""
        for ref, new in list(self._wanted.items()):
            try:
                if not await self._publish(ref, new=new):
                    return False
            except (CallerError, PeerRefused) as error:
                logger().warning("model not shown on its topic", model=ref.uri, error=error.message)
            except PropellerError:
                return False
            self._wanted.pop(ref, None)
            self._shown[ref] = None
            while len(self._shown) > _SHOWN_MAX:
                self._shown.popitem(last=False)
        return True

    async def _payload(self, ref: ModelRef) -> bytes:
        """What stands on the version's topic: the model, or if it is large its manifest."""
        base = await self._peers.base(ref)
        if base.large or base.tensors.elements > limits.MODEL_TOPIC_BYTES_MAX // 2:
            content = None
        else:
            content = await by_size(self._offload, base.tensors.bytes, shown, base.tensors, ref.version)
        small = content is not None and len(content) <= limits.MODEL_TOPIC_BYTES_MAX
        return content if content is not None and small else codec.encode(await self._manifest(ref))

    async def _publish(self, ref: ModelRef, *, new: bool) -> bool:
        payload = await self._payload(ref)
        topics = [self._topics.model(ref.uri)]
        if self._mirror:
            topics.append(ref.uri)
        sent = all([await self._bus.publish(Message(topic, payload, retain=True)) for topic in topics])
        if sent and new:
            await self._announce(ref, payload)
        return sent

    async def _announce(self, ref: ModelRef, payload: bytes) -> None:
        """Say that there is a version, and take the one from the broker that has been there longest."""
        await self._bus.publish(Message(self._topics.model_publish(), payload))
        if self._mirror:
            await self._bus.publish(Message(self._topics.root(self._topics.model_publish()), payload))
        if ref.version >= limits.MODEL_TOPICS_KEPT:
            old = ModelRef(name=ref.name, version=ref.version - limits.MODEL_TOPICS_KEPT).uri
            for topic in [self._topics.model(old), *([old] if self._mirror else [])]:
                await self._bus.publish(Message(topic, b"", retain=True))

    async def _manifest(self, ref: ModelRef) -> ModelManifest:
        base = await self._peers.base(ref)
        size = base.file_bytes
        return ModelManifest(
            model_uri=ref.uri,
            version=ref.version,
            sha256=base.sha256,
            bytes=size,
            chunk_bytes=limits.MODEL_CHUNK_BYTES,
            chunks=-(-size // limits.MODEL_CHUNK_BYTES),
        )

    async def _answer_all(self) -> None:
        while True:
            self._wished.clear()
            if not self._wishes:
                await self._wished.wait()
            wish, _ = self._wishes.popitem(last=False)
            try:
                await self._answer(wish)
            except PropellerError as error:
                logger().warning("wish for a model not answered", error=error.message)

    async def _answer(self, wish: ModelWish) -> None:
        ref = parse_model_ref(wish.model_uri, "model_uri")
        if wish.chunk is None and not wish.as_file:
            # Not retained: it may be older than what is kept, and the broker's room is bounded.
            await self._bus.publish(Message(self._topics.model(ref.uri), await self._payload(ref)))
            return
        size = (await self._peers.base(ref)).file_bytes
        if not size:
            raise BadInput(f"{ref.uri} is in a registry that keeps no files")
        if wish.chunk is None:
            manifest = codec.encode(await self._manifest(ref))
            await self._bus.publish(Message(self._topics.model_manifest(ref.uri), manifest))
            return
        begin = wish.chunk * limits.MODEL_CHUNK_BYTES
        if begin >= size:
            raise BadInput(f"{ref.uri} has no piece {wish.chunk}")
        piece = await self._peers.piece(ref, begin, min(size, begin + limits.MODEL_CHUNK_BYTES))
        await self._bus.publish(Message(self._topics.model_chunk(ref.uri, wish.chunk), piece))


def shown(tensors: Tensors, version: int) -> bytes:
    """The compact JSON of a model, as the older application's clients read it."""
    return codec.encode(to_json(tensors, {"version": version}))
