"""Deleting model versions, by hand and by the policy, so that nothing that is needed ever goes.

What experiments in progress need is the coordinator's word; while it cannot be asked, nothing is deleted. An
experiment that is about to begin is not in that word yet: the coordinator *holds* its base first, for
`limits.MODEL_HOLD_S`, and a version that is held stays, while one that is being deleted can no longer be
held. After a start everything counts as held, as nobody knows who held what before. The row goes first and
files after it (`ModelStore.delete`). It must not know HTTP routes.
"""

from collections.abc import Awaitable, Callable, Sequence

from propeller import limits
from propeller.core.retention import Keep
from propeller.errors import Conflict, PeerUnavailable
from propeller.fl.retention import Needed, surplus_versions, why_needed
from propeller.fl.versions import ModelVersion
from propeller.ports import Clock, Http
from propeller.stores.models import ModelStore
from propeller.telemetry.logs import logger
from propeller.wire import codec
from propeller.wire.retention import ModelsInUse

Key = tuple[str, int]
AskNeeded = Callable[[], Awaitable[Needed]]
_OK = 200


class Holds:
    """Versions that somebody is about to use, and those that are just being deleted."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until_s: dict[Key, float] = {}
        self._going: set[Key] = set()
        self._all_until_s = clock.now().mono_s + limits.MODEL_HOLD_S

    def hold(self, key: Key) -> None:
        """Keep a version for a while from now on. Raises `Conflict` if it is being deleted."""
        if key in self._going:
            raise Conflict(f"version {key[1]} of model {key[0]!r} is being deleted", code="version_deleted")
        now_s = self._clock.now().mono_s
        self._until_s = {one: until_s for one, until_s in self._until_s.items() if until_s > now_s}
        self._until_s[key] = now_s + limits.MODEL_HOLD_S

    def held_s(self, key: Key) -> float:
        """For how long it is still held; 0 if nobody holds it."""
        until_s = max(self._all_until_s, self._until_s.get(key, 0.0))
        return max(0.0, until_s - self._clock.now().mono_s)

    def begin(self, key: Key) -> bool:
        """Begin to delete a version, which nobody can hold from now on; False if somebody holds it."""
        if self.held_s(key) > 0:
            return False
        self._going.add(key)
        return True

    def end(self, key: Key) -> None:
        """It is deleted, or could not be."""
        self._going.discard(key)


class Keeping:
    """Deletes versions of one registry. `ask` says what others need, or raises."""

    def __init__(self, store: ModelStore, clock: Clock, holds: Holds, keep: Keep, ask: AskNeeded) -> None:
        self._store = store
        self._clock = clock
        self._holds = holds
        self._keep = keep
        self._ask = ask

    async def delete(self, version: ModelVersion) -> None:
        """Delete one version by hand. Raises `Conflict` `version_in_use` saying why it must stay."""
        needed = await self._ask()
        model = [one for one in await self._store.records() if one.name == version.name]
        key = version.name, version.version
        why = why_needed(version, model, needed)
        if not why and (held_s := self._holds.held_s(key)) > 0:
            why = f"somebody may be about to use it; ask again in {held_s:.0f} s"
        if why or not await self._deleted(version):
            raise Conflict(
                f"version {version.version} of model {version.name!r} is kept: "
                f"{why or 'somebody is about to use it'}",
                code="version_in_use",
            )

    async def sweep(self, dry: bool) -> dict[str, int]:  # noqa: FBT001 - as `Sweeper` calls it
        """Apply the policy; how many versions and stray files went, or, if `dry`, how many versions would."""
        needed = await self._ask()
        records = await self._store.records()
        surplus = surplus_versions(records, self._keep, needed, self._clock.now().wall_s)
        if dry:
            return {"models": len(surplus)}
        gone = sum([await self._deleted(one) for one in surplus])
        return {"models": gone, "files": await self._store.sweep()}

    async def _deleted(self, version: ModelVersion) -> bool:
        key = version.name, version.version
        if not self._holds.begin(key):
            return False
        try:
            gone = await self._store.delete(*key, at_s=self._clock.now().wall_s)
        finally:
            self._holds.end(key)
        logger().info("model version deleted", model=version.name, version=version.version)
        return gone


def asking(
    coordinator_url: str, http: Http, unpublished: Callable[[], Awaitable[Sequence[Key]]]
) -> AskNeeded:
    """Asks the coordinator what it needs; without one, nobody needs anything but this registry itself."""

    async def ask() -> Needed:
        waiting = frozenset(await unpublished())
        if not coordinator_url:
            return Needed(unpublished=waiting)
        answer = await http.request("GET", f"{coordinator_url}/models/in-use")
        if answer.status != _OK:
            raise PeerUnavailable(
                f"the coordinator at {coordinator_url} does not say which models are in use (it answered "
                f"{answer.status}), so none is deleted"
            )
        used = codec.decode(
            ModelsInUse, answer.body, what="the models in use", limit_bytes=limits.HTTP_BODY_BYTES_MAX
        )
        versions = frozenset((one.name, one.version) for one in used.versions)
        return Needed(versions=versions, rounds=frozenset(used.rounds), unpublished=waiting)

    return ask
