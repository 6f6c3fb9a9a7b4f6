"""Model versions as OCI artefacts: an image manifest of type `MODEL_ARTIFACT`, pushed and pulled in streams.

| part | media type | what it holds |
|---|---|---|
| `config` | `MODEL_CONFIG` | JSON: where the version came from |
| a layer | `MODEL_LAYER` | the tensors, a safetensors file |
| perhaps a layer | `STATE_LAYER` | what the strategy keeps for the next round, a safetensors file |

An artefact of somebody else's serves too, if it has one safetensors file. It must not know model versions,
nor read a tensor.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from propeller import limits
from propeller.errors import BadInput, Conflict, PeerRefused, TooLarge
from propeller.images.auth import PULL, Calls, Credential
from propeller.images.client import OciImages
from propeller.images.digest import digest_of, hex_of
from propeller.images.manifest import (
    IMAGE_MANIFEST,
    SCHEMA_VERSION,
    TITLE,
    Descriptor,
    Manifest,
)
from propeller.images.reference import OCI_SCHEME, Reference
from propeller.images.source import Offload, parse_manifest
from propeller.images.upload import Streamed, Upload
from propeller.images.web import Web
from propeller.ports import BlobWriter, HttpStreams, ModelArtifact, Response
from propeller.wire import codec

MODEL_ARTIFACT = "application/vnd.propeller.model.v1"
MODEL_CONFIG = "application/vnd.propeller.model.config.v1+json"
MODEL_LAYER = "application/vnd.safetensors"
STATE_LAYER = "application/vnd.propeller.model.state.v1+safetensors"
_MODEL_FILE, _STATE_FILE, _ENDING = "model.safetensors", "state.safetensors", ".safetensors"


class OciModels:
    """`ports.ModelArtifacts` over the network; `aliases` map `host:port` to where that is from here."""

    def __init__(
        self,
        http: HttpStreams,
        *,
        insecure: Collection[str] = (),
        credentials: Mapping[str, Credential] | None = None,
        aliases: Mapping[str, str] | None = None,
        offload: Offload = asyncio.to_thread,
    ) -> None:
        self._http = http
        self._images = OciImages(http, insecure=insecure, credentials=credentials, offload=offload)
        self._web = Web(http, insecure)
        self._calls = Calls(self._web, credentials or {})
        self._upload = Upload(self._web, self._calls)
        self._aliases = aliases or {}
        self._offload = offload

    async def describe(self, reference: str) -> ModelArtifact:
        """See `ports.ModelArtifacts`."""
        return (await self._described(reference))[0]

    async def push(
        self,
        reference: str,
        model: memoryview,
        *,
        state: memoryview,
        about: bytes,
        annotations: Mapping[str, str],
    ) -> str:
        """See `ports.ModelArtifacts`."""
        asked = Reference.parse(reference)
        to = self._reached(asked)
        layers = [await self._layer(model, MODEL_LAYER, _MODEL_FILE)]
        if state:
            layers.append(await self._layer(state, STATE_LAYER, _STATE_FILE))
        manifest = _manifest(layers, about, annotations)
        digest = digest_of(manifest)
        if asked.digest not in {None, digest}:
            raise BadInput(f"{reference} is pinned to another artefact than the one to push, {digest}")
        for layer, content in zip(layers, (model, state), strict=False):
            await self._upload.blob(to, layer.digest, Streamed(content=content, http=self._http))
        await self._upload.blob(to, digest_of(about), about)
        await self._upload.manifest(to, digest, manifest)
        return _named(asked, digest)

    async def pull(self, reference: str, open_writer: Callable[[], BlobWriter]) -> ModelArtifact:
        """See `ports.ModelArtifacts`."""
        found, at, layers = await self._described(reference)
        model = _model_layer(layers, found.reference)
        states = [one for one in layers if one.media_type == STATE_LAYER]
        return replace(
            found,
            model=await self._fetch(at, model, open_writer),
            state=await self._fetch(at, states[0], open_writer) if states else None,
        )

    async def _described(self, reference: str) -> tuple[ModelArtifact, Reference, list[Descriptor]]:
        """What it is, where it is from here, and its layers, of which one must be a model."""
        asked = Reference.parse(reference)
        at = self._reached(asked)
        stored = await self._images.manifest(at)
        what = _named(asked, stored.digest)
        manifest = parse_manifest(stored, what)
        layers = manifest.layers or []
        _model_layer(layers, what)
        about = b""
        if manifest.config is not None and manifest.config.media_type == MODEL_CONFIG:
            if manifest.config.size > limits.MODEL_LINE_BYTES_MAX:
                raise TooLarge(f"the config of {what} is {manifest.config.size} bytes")
            about = await self._images.blob(at, manifest.config)
        found = ModelArtifact(reference=what, digest=stored.digest, repository=asked.repository, about=about)
        return found, at.with_digest(stored.digest), layers

    def _reached(self, asked: Reference) -> Reference:
        """The same where it is from here."""
        to = self._aliases.get(asked.registry)
        return asked if to is None else asked.with_registry(to)

    async def _layer(self, content: memoryview, media_type: str, title: str) -> Descriptor:
        digest = await self._offload(digest_of, content)
        return Descriptor(media_type=media_type, digest=digest, size=len(content), annotations={TITLE: title})

    async def _fetch(
        self, reference: Reference, layer: Descriptor, open_writer: Callable[[], BlobWriter]
    ) -> str:
        """Stream a layer into a writer, and return its digest in hex, which is what the writer found."""
        what = f"layer {layer.digest} of artefact {reference}"
        expected = hex_of(layer.digest)
        if expected is None:
            raise PeerRefused(f"{what} is not named by its SHA-256", code="bad_manifest")
        if layer.size > limits.MODEL_FILE_BYTES_MAX:
            raise TooLarge(f"{what} is {layer.size} bytes; the limit is {limits.MODEL_FILE_BYTES_MAX}")
        url = f"{self._web.base(reference.registry)}/v2/{reference.repository}/blobs/{layer.digest}"
        async with open_writer() as writer:

            async def each(to: str, sent: Mapping[str, str]) -> Response:
                return await self._http.stream(
                    "GET", to, headers=sent, sink=writer.write, limit_bytes=max(layer.size, 1)
                )

            answer = await self._calls.authorized(
                reference, PULL, url, {}, lambda sent: self._web.followed("GET", url, sent, each)
            )
            self._web.expect(answer, {200}, what)
            try:
                return await writer.commit(expected)
            except Conflict as error:
                raise PeerRefused(
                    f"{what} does not have its digest: it was changed on the way or in the registry",
                    code="digest_mismatch",
                ) from error


def _manifest(layers: list[Descriptor], about: bytes, annotations: Mapping[str, str]) -> bytes:
    """Equal versions are equal bytes: annotations are sorted, and `about` says no time but the version's."""
    return codec.encode(
        Manifest(
            schema_version=SCHEMA_VERSION,
            media_type=IMAGE_MANIFEST,
            artifact_type=MODEL_ARTIFACT,
            config=Descriptor(media_type=MODEL_CONFIG, digest=digest_of(about), size=len(about)),
            layers=layers,
            annotations=dict(sorted(annotations.items())),
        )
    )


def _model_layer(layers: list[Descriptor], what: str) -> Descriptor:
    """The one layer with a model. Raises `PeerRefused` naming what there is instead."""
    found = [one for one in layers if one.media_type == MODEL_LAYER]
    if not found:
        others = [one for one in layers if one.media_type != STATE_LAYER]
        found = [one for one in others if one.title.endswith(_ENDING)]
    if len(found) == 1:
        return found[0]
    types = ", ".join(sorted({one.media_type[:120] for one in layers})[:8]) or "none"
    raise PeerRefused(
        f"{what} has {len(found)} safetensors files where a model has one; its layers are: {types}",
        code="no_model_layer",
    )


def _named(asked: Reference, digest: str) -> str:
    """The reference as it was asked for, pinned, with the scheme that says what it is."""
    return f"{OCI_SCHEME}{asked.with_digest(digest)}"
