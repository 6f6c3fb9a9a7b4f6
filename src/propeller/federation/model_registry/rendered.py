"""Model versions as JSON, rendered once for all who ask. Must not know HTTP.

In a round every participant asks for the same version within moments; versions are immutable, so what was
rendered stays true and may be kept, up to a bound.
"""

import asyncio

from propeller import limits
from propeller.core.recent import Recent
from propeller.federation.model_registry.content import render
from propeller.federation.offload import Offload, by_size
from propeller.fl.versions import ModelVersion
from propeller.stores.models import ModelStore


class Rendered:
    """The JSON of versions, the last used of them in memory up to `bytes_max`."""

    def __init__(
        self, store: ModelStore, offload: Offload, *, bytes_max: int = limits.MODEL_CACHE_BYTES
    ) -> None:
        self._store = store
        self._offload = offload
        self._kept: Recent[bytes] = Recent(bytes_max)
        self._making: dict[str, asyncio.Task[bytes]] = {}

    async def json(self, version: ModelVersion) -> bytes:
        """The bare model object of a stored `version`. Raises `StorageBroken`."""
        key = version.sha256
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = asyncio.ensure_future(self._make(version))
            making.add_done_callback(lambda _: self._making.pop(key, None))
        # Shielded: one reader who hangs up must not fail the others who wait for the same version.
        return await asyncio.shield(making)

    async def _make(self, version: ModelVersion) -> bytes:
        content = await self._store.content(version.name, version.version)
        rendered = await by_size(self._offload, len(content), render, content)
        self._kept.put(version.sha256, rendered, len(rendered))
        return rendered
