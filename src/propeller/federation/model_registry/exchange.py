"""Model versions to and from OCI registries, over a port. It decides no retries: `Publisher` does.

A version is pushed as the same artefact whoever pushes it, and an artefact is pulled into a model once: its
digest is written down with the version. It must not know how artefacts are made.
"""

import asyncio
import hashlib
import re

import msgspec

from propeller import limits
from propeller.core.ids import check_id
from propeller.errors import CallerError, DecodeError, PeerRefused, Unsupported
from propeller.federation.model_registry.content import info, propose_files
from propeller.federation.offload import Offload
from propeller.fl.versions import Artifact, ModelVersion
from propeller.ports import Clock, ModelArtifact, ModelArtifacts
from propeller.stores.models import ModelStore
from propeller.telemetry.logs import logger
from propeller.wire import codec
from propeller.wire.models import ModelLineage, StoreFiles

_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_MARK = "dev.propeller.model."


class Exchange:
    """Pushes and pulls for one registry of models."""

    def __init__(
        self, store: ModelStore, artifacts: ModelArtifacts | None, clock: Clock, offload: Offload
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._clock = clock
        self._offload = offload
        # Looking for an artefact's digest and storing its version must not interleave.
        self._pulling = asyncio.Lock()

    async def push(self, version: ModelVersion, reference: str, *, target: str = "") -> Artifact:
        """Push a stored version to `reference`, and write down that it is there.

        Raises what `ports.ModelArtifacts` raises, and `StorageBroken`.
        """
        pinned = await self._port().push(
            reference,
            await self._store.mapped(version.name, version.version),
            state=await self._store.state_mapped(version.name, version.version),
            about=codec.encode(_lineage(version)),
            annotations=annotations_of(version),
        )
        pushed = Artifact(
            kind="pushed",
            reference=pinned,
            digest=pinned.rpartition("@")[2],
            target=target,
            at_s=self._clock.now().wall_s,
        )
        await self._store.note(version.name, version.version, pushed)
        logger().info("model version pushed", model=version.name, version=version.version, to=pinned)
        return pushed

    async def pull(self, reference: str, name: str = "") -> tuple[ModelVersion, str, bool]:
        """The version that an artefact is, its pinned reference, and whether it is new here.

        `name` empty: the name that its pusher gave it, or else its repository's last part. Raises what
        `ports.ModelArtifacts` raises, `BadInput`, and `PeerRefused` for content that is no model.
        """
        port = self._port()
        if name:
            check_id(name, "model name")
        found = await port.describe(reference)
        about = _about(found)
        named = check_id(name or about.name or found.repository.rpartition("/")[2], "model name")
        async with self._pulling:
            if known := await self._store.of_artifact(named, found.digest):
                return known, found.reference, False
            # By its digest: the tag may mean another by now.
            pulled = await port.pull(found.reference, self._store.open_writer)
            stored = await self._stored(named, pulled, about)
        logger().info("model version pulled", model=named, version=stored.version, source=pulled.reference)
        return stored, pulled.reference, True

    async def _stored(self, name: str, pulled: ModelArtifact, about: ModelLineage) -> ModelVersion:
        head = StoreFiles(
            name=name,
            strategy=about.strategy,
            participants=about.participants,
            metrics=about.metrics,
            objective=about.objective,
        )
        model = await self._store.file(pulled.model)
        state = await self._store.file(pulled.state) if pulled.state else memoryview(b"")
        try:
            proposal = await self._offload(propose_files, head, model, state)
        except CallerError as error:
            raise PeerRefused(f"{pulled.reference} is no model: {error}", code="bad_model") from error
        if about.sha256 not in {"", proposal.sha256}:
            raise PeerRefused(
                f"{pulled.reference} says that its tensors have SHA-256 {about.sha256[:80]}, and they have "
                f"{proposal.sha256}",
                code="digest_mismatch",
            )
        now_s = self._clock.now().wall_s
        note = Artifact(kind="pulled", reference=pulled.reference, digest=pulled.digest, at_s=now_s)
        stored, _ = await self._store.adopt(
            proposal, pulled.model, state=pulled.state, created_at_s=now_s, pulled=note
        )
        return stored

    def _port(self) -> ModelArtifacts:
        if self._artifacts is None:
            raise Unsupported("this model registry reaches no OCI registry", code="no_artifacts")
        return self._artifacts


def reference_in(target: str, version: ModelVersion) -> str:
    """Where below `target` a version is pushed: `target/NAME:vN`.

    A name that no repository may have is written in lower case, with a mark that keeps names apart.
    """
    name = version.name
    if not _PART.fullmatch(name):
        short = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        name = f"{short}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")
    return f"{target.rstrip('/')}/{name}:v{version.version}"


def annotations_of(version: ModelVersion) -> dict[str, str]:
    """What a registry's user sees of a version without fetching anything."""
    lineage = _lineage(version)
    said = {
        "org.opencontainers.image.title": f"{version.name}_v{version.version}",
        "org.opencontainers.image.version": str(version.version),
        "org.opencontainers.image.created": lineage.created_at,
        f"{_MARK}name": version.name,
        f"{_MARK}version": str(version.version),
        f"{_MARK}sha256": version.sha256,
        f"{_MARK}parent": "" if version.parent is None else str(version.parent),
        f"{_MARK}round": version.round_id or "",
        f"{_MARK}strategy": lineage.strategy.name if lineage.strategy else "",
    }
    return {name: value for name, value in said.items() if value}


def _lineage(version: ModelVersion) -> ModelLineage:
    return msgspec.convert(
        {name: value for name, value in info(version).items() if name != "strategy"}
        | ({"strategy": msgspec.json.decode(version.strategy_json)} if version.strategy_json else {}),
        ModelLineage,
    )


def _about(pulled: ModelArtifact) -> ModelLineage:
    if not pulled.about:
        return ModelLineage()
    try:
        what, most = f"the config of {pulled.reference}", limits.MODEL_LINE_BYTES_MAX
        return codec.decode(ModelLineage, pulled.about, what=what, limit_bytes=most)
    except DecodeError as error:
        raise PeerRefused(error.message, code="bad_model") from error
