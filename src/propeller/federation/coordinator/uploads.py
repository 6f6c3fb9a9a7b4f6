"""Updates that come in pieces, from devices that only a broker reaches: which are there, which are wanted.

A device announces its update by a manifest that names every piece by its SHA-256. It is told which pieces to
send, a few at a time, until all are here; then the update is read from them like any other. Pieces are on
disk before more are asked for, so whoever is killed in the middle goes on where it was; they come in any
order and more than once. Nothing else is kept: a device that got no answer announces again. Knows no topics.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from propeller import limits
from propeller.core.ids import check_id
from propeller.errors import (
    BadInput,
    CallerError,
    DecodeError,
    EnvironmentError_,
    NotFound,
    PeerUnavailable,
    PropellerError,
    TooLarge,
)
from propeller.federation.coordinator.intake import Intake
from propeller.federation.coordinator.reading import Said, Sender, named, trainer_of
from propeller.fl.update_format import JSON, parse_format
from propeller.ports import BlobFiles, Clock
from propeller.telemetry.logs import logger
from propeller.wire import codec
from propeller.wire.rounds import UpdateManifest, Verdict

T = TypeVar("T")

_HEX = frozenset("0123456789abcdef")
_DIGEST_CHARS = 64
_Key = tuple[str, str]
"""Round and participant."""


@dataclass(slots=True)
class _Upload:
    """An announced update."""

    manifest: UpdateManifest
    said: Said
    missing: dict[str, None]
    """Digests of the pieces that are not here, in the manifest's order."""
    wanted: set[str]
    """Those that were asked for."""
    until_s: float = 0.0
    """When they count as lost (monotonic seconds)."""


class Uploads:
    """Announcements and pieces in, verdicts out. `pieces` is a store that holds nothing else."""

    def __init__(self, *, pieces: BlobFiles, intake: Intake, clock: Clock) -> None:
        self._pieces = pieces
        self._intake = intake
        self._clock = clock
        self._known: OrderedDict[_Key, _Upload] = OrderedDict()
        self._taken: OrderedDict[_Key, UpdateManifest] = OrderedDict()
        """Updates that counted of late: whoever missed the verdict announces again."""
        self._taking: set[_Key] = set()
        self._suspects: set[str] = set()

    async def announced(self, payload: bytes, sender: Sender) -> Verdict | None:
        """What is wanted of the update in this manifest, or what became of it; None while that is decided.

        Raises `CallerError` for one that will never count, `PropellerError` if it may later.
        """
        manifest = codec.decode(UpdateManifest, payload, what="the manifest of an update")
        _check(manifest)
        said = _said(manifest, sender)
        key = said.round_id, said.participant
        if key in self._taking:
            return None
        if self._taken.get(key) == manifest:
            return Verdict(round_id=said.round_id, status=200)
        most = await self._intake.welcome(said)
        if manifest.bytes > most:
            raise TooLarge(f"{named(said)} has {manifest.bytes} bytes; it may have {most}")
        missing = {digest: None for digest in manifest.sha256 if not await self._pieces.has(digest)}
        _remember(self._known, key, _Upload(manifest, said, missing, set()))
        return await self._go_on(key)

    async def arrived(self, piece: bytes, sender: Sender) -> Verdict | None:
        """Keep a piece that is missing; answers once all that was wanted is here. Raises as `announced`."""
        key = sender.round_id, sender.participant
        upload, digest = self._known.get(key), hashlib.sha256(piece).hexdigest()
        if upload is None or digest not in upload.missing:
            return None
        await self._pieces.put(piece)
        upload.missing.pop(digest, None)
        upload.wanted.discard(digest)
        if upload.wanted or self._known.get(key) is not upload or key in self._taking:
            return None
        return await self._go_on(key)

    async def sweep(self) -> None:
        """For ever: forget updates that nobody can send any more, and pieces that belong to none."""
        while True:
            try:
                await self._sweep()
            except PropellerError as error:
                logger().warning("pieces of updates not swept", error=error.message)
            await asyncio.sleep(limits.UPDATE_PIECES_SWEEP_S)

    # --- inside ----------------------------------------------------------------------------------------

    async def _go_on(self, key: _Key) -> Verdict:
        upload = self._known[key]
        if upload.missing:
            return self._ask(upload)
        self._taking.add(key)
        try:
            await self._take(upload)
        except CallerError:
            await self._drop(key)
            raise
        finally:
            self._taking.discard(key)
        _remember(self._taken, key, upload.manifest)
        await self._drop(key)
        return Verdict(round_id=key[0], status=200)

    def _ask(self, upload: _Upload) -> Verdict:
        now_s = self._clock.now().mono_s
        others = [one for one in self._known.values() if one is not upload and one.until_s > now_s]
        room = limits.UPDATE_PIECES_WANTED_MAX - sum(len(one.wanted) for one in others)
        if room <= 0:
            raise PeerUnavailable("pieces of other updates are on their way; announce again", code="busy")
        upload.wanted = set(list(upload.missing)[: min(room, limits.UPDATE_PIECES_WANTED)])
        upload.until_s = now_s + limits.UPDATE_PIECES_WAIT_S
        places = sorted(map(upload.manifest.sha256.index, upload.wanted))
        return Verdict(round_id=upload.said.round_id, status=202, wanted=places)

    async def _take(self, upload: _Upload) -> None:
        if upload.said.form.name != JSON:
            await self._intake.take_file(self._joined(upload), upload.said)
            return
        content = b"".join([piece async for piece in self._joined(upload)])
        await self._intake.take(content, "json", upload.said.sender)

    async def _joined(self, upload: _Upload) -> AsyncIterator[bytes]:
        """The update's bytes. A piece that is gone or has rotted is asked for again."""
        size = 0
        for digest in upload.manifest.sha256:
            try:
                piece = await self._pieces.get(digest)
            except (NotFound, EnvironmentError_) as error:
                upload.missing[digest] = None
                await self._pieces.delete(digest)
                raise PeerUnavailable(f"a piece is gone: {error.message}", code="piece_lost") from error
            size += len(piece)
            if size > upload.manifest.bytes:
                break
            yield piece
        if size != upload.manifest.bytes:
            raise BadInput(
                f"{named(upload.said)} should have {upload.manifest.bytes} bytes; its pieces do not",
                code="bad_manifest",
            )

    async def _drop(self, key: _Key) -> None:
        """Forget an update, and its pieces unless another has the same."""
        upload = self._known.pop(key, None)
        if upload is None:
            return
        kept = {digest for other in self._known.values() for digest in other.manifest.sha256}
        for digest in set(upload.manifest.sha256) - kept:
            with suppress(EnvironmentError_):  # the sweep will find it
                await self._pieces.delete(digest)

    async def _sweep(self) -> None:
        for key, upload in list(self._known.items()):
            if key not in self._taking:
                try:
                    await self._intake.welcome(upload.said)
                except CallerError:
                    await self._drop(key)
        named_ = {digest for upload in self._known.values() for digest in upload.manifest.sha256}
        orphans = set(await self._pieces.digests()) - named_
        # Twice: after a restart nothing is known, and the devices are about to announce their updates again.
        for digest in orphans & self._suspects:
            await self._pieces.delete(digest)
        self._suspects = orphans


def _remember(latest: OrderedDict[_Key, T], key: _Key, what: T) -> None:
    latest[key] = what
    latest.move_to_end(key)
    while len(latest) > limits.UPDATES_IN_PIECES_MAX:
        latest.popitem(last=False)


def _check(manifest: UpdateManifest) -> None:
    """Raise what no manifest may say."""
    size, pieces = manifest.piece_bytes, len(manifest.sha256)
    if not 0 < size <= limits.MQTT_MESSAGE_BYTES_MAX:
        raise BadInput(f"piece_bytes is {size}; it may be 1 to {limits.MQTT_MESSAGE_BYTES_MAX}")
    if not 0 < pieces <= limits.UPDATE_PIECES_MAX or pieces != -(-manifest.bytes // size):
        raise BadInput(
            f"{manifest.bytes} bytes in pieces of {size} are not {pieces} pieces, or more than "
            f"{limits.UPDATE_PIECES_MAX}: send larger ones",
            code="bad_manifest",
        )
    if any(len(digest) != _DIGEST_CHARS or not set(digest) <= _HEX for digest in manifest.sha256):
        raise DecodeError("sha256 of a manifest has what is no digest: 64 lower-case hex digits")


def _said(manifest: UpdateManifest, sender: Sender) -> Said:
    return Said(
        round_id=check_id(sender.round_id, "round_id"),
        participant=check_id(sender.participant, "proplet_id"),
        samples=manifest.num_samples,
        metrics=manifest.metrics,
        base_uri=manifest.base_model_uri,
        base_hash=manifest.base_hash,
        sender=sender,
        form=parse_format(manifest.format),
        trainer=trainer_of(manifest.trainer_hash),
    )
