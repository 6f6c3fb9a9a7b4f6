"""The aggregator and the model registry as the coordinator sees them. Knows no rounds' life.

What is heavy is in `bodies`, and runs wherever `offload` runs it.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from propeller import limits
from propeller.errors import BadInput, CallerError, PeerRefused
from propeller.federation.coordinator.bodies import (
    REFUSED,
    Work,
    aggregate_body,
    base_of,
    base_of_file,
    model_body,
    used,
)
from propeller.federation.coordinator.pouring import Pipe, decoded, good, pour
from propeller.federation.offload import Offload, by_size
from propeller.fl.aggregation import state_like
from propeller.fl.model_ref import ModelRef
from propeller.fl.strategies.registry import strategy
from propeller.fl.tensor_files import header_bytes, layout_of, shapes, view
from propeller.fl.tensors import (
    EMPTY,
    Tensors,
)
from propeller.fl.versions import GLOBAL_MODEL
from propeller.ports import BlobFiles, HttpStreams, Response
from propeller.wire import codec
from propeller.wire.models import (
    SAFETENSORS,
    AggregateFiles,
    EvaluatedModel,
    ModelInfo,
    ModelPulled,
    ModelStored,
    PullModel,
    Source,
    StoreFiles,
)

BASES_MAX: Final = 8
"""Base models kept decoded: rounds of a few experiments at a time share them."""
COPIES_MAX: Final = 2
"""Large base models kept on disk, for updates that are differences from them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A stored model version."""

    version: int
    model_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A model version. Of a `large` one there are names, shapes and dtypes only; its values read as zeros."""

    tensors: Tensors
    sha256: str
    file_bytes: int
    """Size of its safetensors file."""
    large: bool = False


class Peers:
    """Both services, over one HTTP client. `copies` is a store that holds nothing else."""

    def __init__(
        self,
        *,
        http: HttpStreams,
        registry_url: str,
        aggregator_url: str,
        offload: Offload,
        copies: BlobFiles,
    ) -> None:
        self._http = http
        self._files = copies
        self._copies: OrderedDict[ModelRef, str] = OrderedDict()
        self._copying = asyncio.Lock()
        self._registry = registry_url.rstrip("/")
        self._aggregator = aggregator_url.rstrip("/")
        self._offload = offload
        self._bases: OrderedDict[ModelRef, Base] = OrderedDict()

    async def clear_copies(self) -> None:
        """At start: delete the copies of another life. What is wanted again is fetched anew."""
        for digest in await self._files.digests():
            await self._files.delete(digest)

    async def base(self, ref: ModelRef) -> Base:
        """A model version. Versions never change, so the last few are remembered.

        Raises `BadInput` `missing_model` if the registry does not have it, `PeerUnavailable`, `PeerRefused`.
        """
        if ref not in self._bases:
            self._bases[ref] = await self._fetch(ref)
            if len(self._bases) > BASES_MAX:
                self._bases.popitem(last=False)
        self._bases.move_to_end(ref)
        return self._bases[ref]

    async def hold(self, ref: ModelRef) -> None:
        """Keep a version from being deleted while it becomes an experiment's base.

        Raises `BadInput` `missing_model` if it is being deleted, `PeerUnavailable`. Whether the version
        is there, `base` asks anew.
        """
        url = f"{self._version(ref)}/hold"
        try:
            good(await self._http.request("POST", url), f"POST {url}", "registry")
        except PeerRefused as error:
            self._bases.pop(ref, None)
            if error.status == 409:  # noqa: PLR2004 - the HTTP status
                raise BadInput(f"{ref.uri} is just being deleted", code="missing_model") from error

    async def pulled(self, order: PullModel) -> ModelPulled:
        """Have the registry pull an artefact. Raises `BadInput`, `PeerUnavailable`, `PeerRefused`."""
        url = f"{self._registry}/models/import"
        answer = await self._http.request(
            "POST",
            url,
            headers={"content-type": "application/json"},
            body=codec.encode(order),
            timeout_s=limits.HTTP_STREAM_S,
        )
        try:
            good(answer, f"model {order.reference[:200]}", "registry")
        except PeerRefused as error:
            if error.status in {400, 404}:
                raise BadInput(error.message, code="missing_model") from error
            raise
        found: ModelPulled = decoded(ModelPulled, answer.body, "the registry's answer")
        return found

    async def came_from(self, ref: ModelRef, source: str) -> bool:
        """Whether the registry pulled that version from the artefact `source`."""
        try:
            told = await self._ask("GET", f"{self._version(ref)}/info", b"", "registry")
        except PeerRefused:
            return False
        known = decoded(ModelInfo, told.body, "the registry's answer").artifacts
        return any(one.digest == source.rpartition("@")[2] for one in known)

    async def values(self, ref: ModelRef) -> Tensors:
        """A version's tensors with their values; a large one is copied to this disk and read there.

        Raises what `base` raises.
        """
        base = await self.base(ref)
        if not base.large:
            return base.tensors
        async with self._copying:
            if ref not in self._copies:
                self._copies[ref] = await self._copied(ref, base.file_bytes)
                await self._evict()
            self._copies.move_to_end(ref)
            # It may be evicted as soon as the lock is free; what is mapped stays readable.
            return view(await self._files.mapped(self._copies[ref]), ref.uri)

    async def _evict(self) -> None:
        while len(self._copies) > COPIES_MAX:
            _, digest = self._copies.popitem(last=False)
            # Versions with the same bytes share one file.
            if digest not in self._copies.values():
                await self._files.delete(digest)

    async def _copied(self, ref: ModelRef, size: int) -> str:
        async with self._files.open_writer(size) as writer:
            answer = await self._http.stream(
                "GET", self._version(ref), headers={"accept": SAFETENSORS}, sink=writer.write
            )
            good(answer, f"GET {self._version(ref)}", "registry")
            return await writer.commit()

    async def make(self, work: Work) -> Made:
        """Aggregate and store. Doing it again is harmless: the registry gives a round one version.

        Raises `PeerUnavailable` (try again) or `PeerRefused` (never again).
        """
        base = await self.base(work.base)
        if base.large:
            return await self._made_of_files(work, base)
        state = await self._state(work)
        sizes = tuple(len(content) for content in work.contents)
        # One argument, however many clients: a worker process takes a bounded number of them.
        joined = b"".join(work.contents)
        lighter = replace(work, contents=())
        body = await by_size(
            self._offload, len(joined), aggregate_body, lighter, base.tensors, state, sizes, joined
        )
        answer = await self._ask("POST", f"{self._aggregator}/aggregate", body, "aggregator")
        try:
            posted, kind, model_hash = await by_size(
                self._offload, len(answer.body), model_body, answer.body, base.tensors, lighter, used(work)
            )
        except CallerError as error:
            raise PeerRefused(
                f"the aggregator's model is no good: {error}", code="aggregator_refused"
            ) from error
        stored = await self._ask("POST", f"{self._registry}/models", posted, "registry", kind)
        version = decoded(ModelStored, stored.body, "the registry's answer").version
        return Made(version=version, model_hash=model_hash)

    async def evaluated(self, ref: ModelRef, told: EvaluatedModel) -> None:
        """Have what was measured written beside a version; again is harmless.

        Raises `PeerUnavailable`, and `PeerRefused` for a version that is gone or a registry that keeps none.
        """
        await self._ask("PUT", f"{self._version(ref)}/evaluation", codec.encode(told), "registry")

    # --- small models --------------------------------------------------------------------------------------

    async def _state(self, work: Work) -> Tensors:
        """What the strategy kept with the base; nothing if another strategy made it, or none."""
        if not await self._continues(work):
            return EMPTY
        answer = await self._ask("GET", f"{self._version(work.base)}/state", b"", "registry")
        state, _ = await by_size(
            self._offload, len(answer.body), base_of, answer.body, f"state of {work.base.uri}"
        )
        return state

    async def _continues(self, work: Work) -> bool:
        """Whether the strategy keeps a state, and made the base too."""
        chosen = strategy(work.strategy)
        if not chosen.slots:
            return False
        told = await self._ask("GET", f"{self._version(work.base)}/info", b"", "registry")
        made_by = decoded(ModelInfo, told.body, "the registry's answer").strategy
        return made_by is not None and (made_by.name, made_by.version) == (chosen.name, chosen.version)

    def _version(self, ref: ModelRef) -> str:
        return f"{self._registry}/models/{ref.name}/versions/{ref.version}"

    async def _fetch(self, ref: ModelRef) -> Base:
        """The model's file, or if it is large only the beginning of it."""
        most = limits.MODEL_BY_REFERENCE_BYTES
        try:
            answer = await self._part(ref, most)
        except PeerRefused as error:
            if error.status != 404:  # noqa: PLR2004 - the HTTP status
                raise
            raise BadInput(
                f"the model registry has no {ref.uri}; store that version first", code="missing_model"
            ) from error
        head = answer.body
        if not answer.headers.get("content-type", "").startswith(SAFETENSORS):
            # A registry that knows JSON only.
            tensors, sha256 = await by_size(self._offload, len(head), base_of, head, ref.uri)
            return Base(tensors=tensors, sha256=sha256, file_bytes=0)
        whole = int(answer.headers.get("content-range", "").rpartition("/")[2] or 0)
        try:
            if not whole:
                tensors, sha256 = await by_size(self._offload, len(head), base_of_file, head, ref.uri)
                return Base(tensors=tensors, sha256=sha256, file_bytes=len(head))
            needed = header_bytes(head[:8], ref.uri)
            if needed > len(head):
                head = (await self._part(ref, needed)).body
            return Base(
                tensors=shapes(head, ref.uri),
                sha256=answer.headers.get("etag", "").strip('"').partition(".")[0],
                file_bytes=whole,
                large=True,
            )
        except CallerError as error:
            raise PeerRefused(f"the registry's {ref.uri} is no model: {error}", code=REFUSED) from error

    async def piece(self, ref: ModelRef, begin: int, end: int) -> bytes:
        """Bytes `begin` to `end` of a version's file. Raises `PeerUnavailable`, `PeerRefused`."""
        headers = {"accept": SAFETENSORS, "range": f"bytes={begin}-{end - 1}"}
        answer = await self._http.request("GET", self._version(ref), headers=headers)
        return good(answer, f"GET {self._version(ref)}", "registry").body

    async def _part(self, ref: ModelRef, size: int) -> Response:
        """The first `size` bytes of a version's file; or all of it as JSON, from a registry without files."""
        headers = {"accept": f"{SAFETENSORS}, application/json;q=0.5", "range": f"bytes=0-{size - 1}"}
        url = f"{self._registry}/models/{ref.version}" if ref.name == GLOBAL_MODEL else self._version(ref)
        return good(await self._http.request("GET", url, headers=headers), f"GET {url}", "registry")

    async def _ask(
        self, method: str, url: str, body: bytes, peer: str, kind: str = "application/json"
    ) -> Response:
        headers = {"content-type": kind} if body else None
        answer = await self._http.request(method, url, headers=headers, body=body)
        return good(answer, f"{method} {url}", peer)

    # --- large models --------------------------------------------------------------------------------------

    async def _made_of_files(self, work: Work, base: Base) -> Made:
        """Have files folded, and pour the answer into the registry: nothing of it is kept here."""
        chosen = strategy(work.strategy)
        like = chosen.expects(base.tensors)
        kept = state_like(chosen, like)
        model, state = layout_of(like), layout_of(kept)
        asked = AggregateFiles(
            updates=list(work.files),
            strategy=work.strategy,
            options=dict(work.options),
            base=Source(url=self._version(work.base), bytes=base.file_bytes) if chosen.needs_base else None,
            state=Source(url=f"{self._version(work.base)}/state", bytes=state.bytes)
            if await self._continues(work)
            else None,
        )
        head = codec.encode(
            StoreFiles(
                name=work.base.name,
                model_bytes=model.bytes,
                state_bytes=state.bytes if kept else 0,
                parent=work.base.version,
                round_id=work.round_id,
                strategy=used(work),
                participants=list(work.participants),
                metrics=dict(work.metrics),
                objective=work.objective,
            )
        )
        size = model.bytes + (state.bytes if kept else 0)
        stored = await pour(
            self._http,
            asked,
            aggregate_url=f"{self._aggregator}/aggregate",
            models_url=f"{self._registry}/models",
            pipe=Pipe(head + b"\n", model.header, size),
        )
        return Made(version=stored.version, model_hash=stored.sha256)
