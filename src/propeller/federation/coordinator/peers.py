"""The aggregator and the model registry as the coordinator sees them. Knows no rounds' life.

The heavy halves (`base_of`, `aggregate_body`, `model_body`) are functions of bytes and tensors, so that they
can run wherever `offload` runs them.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from propeller import limits
from propeller.errors import BadInput, CallerError, DecodeError, PeerRefused, PeerUnavailable
from propeller.federation.offload import Offload
from propeller.fl.model_ref import ModelRef
from propeller.fl.strategies.registry import strategy
from propeller.fl.tensors import (
    EMPTY,
    Tensors,
    cast_like,
    check_finite,
    check_like,
    content_hash,
    from_json,
    from_safetensors,
    to_json,
)
from propeller.fl.versions import GLOBAL_MODEL
from propeller.ports import Http, Response
from propeller.wire import codec
from propeller.wire.models import (
    AggregateBody,
    Folded,
    ModelInfo,
    ModelStored,
    StoreModel,
    StrategyUsed,
    UpdateToFold,
)

BASES_MAX: Final = 8
"""Base models kept decoded: rounds of a few experiments at a time share them."""
_JSON: Final = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One aggregation: what to fold, how, and where the result belongs. `contents` are safetensors files."""

    round_id: str
    base: ModelRef
    participants: Sequence[str]
    samples: Sequence[int]
    contents: Sequence[bytes]
    strategy: str
    strategy_version: int
    options: Mapping[str, Any]
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A stored model version."""

    version: int
    model_hash: str


class Peers:
    """Both services, over one HTTP client."""

    def __init__(self, *, http: Http, registry_url: str, aggregator_url: str, offload: Offload) -> None:
        self._http = http
        self._registry = registry_url.rstrip("/")
        self._aggregator = aggregator_url.rstrip("/")
        self._offload = offload
        self._bases: OrderedDict[ModelRef, tuple[Tensors, str]] = OrderedDict()

    async def base(self, ref: ModelRef) -> tuple[Tensors, str]:
        """A model version and its content hash. Versions never change, so the last few are remembered.

        Raises `BadInput` `missing_model` if the registry does not have it, `PeerUnavailable`, `PeerRefused`.
        """
        if ref not in self._bases:
            self._bases[ref] = await self._fetch(ref)
            if len(self._bases) > BASES_MAX:
                self._bases.popitem(last=False)
        self._bases.move_to_end(ref)
        return self._bases[ref]

    async def make(self, work: Work) -> Made:
        """Aggregate and store. Doing it again is harmless: the registry gives a round one version.

        Raises `PeerUnavailable` (try again) or `PeerRefused` (never again).
        """
        base, _ = await self.base(work.base)
        state = await self._state(work)
        sizes = tuple(len(content) for content in work.contents)
        # One argument, however many clients: a worker process takes a bounded number of them.
        joined = b"".join(work.contents)
        body = await self._offload(aggregate_body, _without_contents(work), base, state, sizes, joined)
        answer = await self._ask("POST", f"{self._aggregator}/aggregate", body, "aggregator")
        try:
            posted, model_hash = await self._offload(
                model_body, answer.body, base, _without_contents(work), used(work)
            )
        except CallerError as error:
            raise PeerRefused(
                f"the aggregator's model is no good: {error}", code="aggregator_refused"
            ) from error
        stored = await self._ask("POST", f"{self._registry}/models", posted, "registry")
        version = _decoded(ModelStored, stored.body, "the registry's answer").version
        return Made(version=version, model_hash=model_hash)

    async def _state(self, work: Work) -> Tensors:
        """What the strategy kept with the base; nothing if another strategy made it, or none."""
        chosen, path = strategy(work.strategy), f"{self._registry}/models/{work.base.name}/versions"
        if not chosen.slots:
            return EMPTY
        path = f"{path}/{work.base.version}"
        told = await self._ask("GET", f"{path}/info", b"", "registry")
        made_by = _decoded(ModelInfo, told.body, "the registry's answer").strategy
        if made_by is None or (made_by.name, made_by.version) != (chosen.name, chosen.version):
            return EMPTY
        answer = await self._ask("GET", f"{path}/state", b"", "registry")
        state, _ = await self._offload(base_of, answer.body, f"state of {work.base.uri}")
        return state

    async def _fetch(self, ref: ModelRef) -> tuple[Tensors, str]:
        path = (
            f"/models/{ref.version}"
            if ref.name == GLOBAL_MODEL
            else f"/models/{ref.name}/versions/{ref.version}"
        )
        try:
            answer = await self._ask("GET", self._registry + path, b"", "registry")
        except PeerRefused as error:
            if error.status != 404:  # noqa: PLR2004 - the HTTP status
                raise
            raise BadInput(
                f"the model registry has no {ref.uri}; store that version first", code="missing_model"
            ) from error
        if len(answer.body) <= limits.HTTP_JSON_OFFLOAD_BYTES:
            return base_of(answer.body, ref.uri)
        return await self._offload(base_of, answer.body, ref.uri)

    async def _ask(self, method: str, url: str, body: bytes, peer: str) -> Response:
        answer = await self._http.request(method, url, headers=_JSON if body else None, body=body)
        if 200 <= answer.status < 300:  # noqa: PLR2004 - HTTP's own classes
            return answer
        said = f"{method} {url} answered {answer.status}: {_said(answer.body)}"
        if answer.status >= 500 or answer.status == 429:  # noqa: PLR2004
            raise PeerUnavailable(said, code=f"{peer}_unavailable")
        raise PeerRefused(said, status=answer.status, code=f"{peer}_refused")


def used(work: Work) -> StrategyUsed:
    """How the model is made, as its version will say."""
    return StrategyUsed(name=work.strategy, version=work.strategy_version, options=dict(work.options))


def base_of(body: bytes, what: str) -> tuple[Tensors, str]:
    """The tensors of a bare model object and their hash. Raises `PeerRefused` if it is none."""
    try:
        tensors, _ = from_json(_decoded(dict[str, Any], body, what), what)
        check_finite(tensors, what)
    except CallerError as error:
        raise PeerRefused(f"the registry's {what} is no model: {error}", code="registry_refused") from error
    return tensors, content_hash(tensors)


def aggregate_body(work: Work, base: Tensors, state: Tensors, sizes: Sequence[int], joined: bytes) -> bytes:
    """The body of `POST /aggregate`; `joined` are contents of `sizes` bytes, one per participant."""
    ends = list(accumulate(sizes))
    contents = [joined[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    updates = [
        UpdateToFold(
            round_id=work.round_id,
            proplet_id=participant,
            num_samples=samples,
            update=to_json(from_safetensors(content, f"the stored update of {participant!r}")),
        )
        for participant, samples, content in zip(work.participants, work.samples, contents, strict=True)
    ]
    return codec.encode(
        AggregateBody(
            updates=updates,
            strategy=work.strategy,
            options=dict(work.options),
            base=to_json(base),
            state=to_json(state),
        )
    )


def model_body(answer: bytes, base: Tensors, work: Work, made_by: StrategyUsed) -> tuple[bytes, str]:
    """The aggregator's answer checked against `base`: the body of `POST /models`, and the content hash."""
    what = "the aggregator's answer"
    folded = _decoded(Folded, answer, what)
    like = strategy(work.strategy).expects(base)
    model = cast_like(from_json(folded.model, what)[0], like, what)
    check_like(model, like, what)
    check_finite(model, what)
    state, _ = from_json(folded.state, f"the state in {what}")
    body = StoreModel(
        model=to_json(model),
        name=work.base.name,
        parent=work.base.version,
        round_id=work.round_id,
        strategy=made_by,
        participants=list(work.participants),
        metrics=dict(work.metrics),
        state=to_json(state),
    )
    return codec.encode(body), content_hash(model)


def _without_contents(work: Work) -> Work:
    """What travels to a worker beside the contents, which go as plain bytes."""
    return Work(
        round_id=work.round_id,
        base=work.base,
        participants=tuple(work.participants),
        samples=tuple(work.samples),
        contents=(),
        strategy=work.strategy,
        strategy_version=work.strategy_version,
        options=dict(work.options),
        metrics=dict(work.metrics),
    )


def _decoded(kind: Any, body: bytes, what: str) -> Any:
    return codec.decode(kind, body, what=what, limit_bytes=limits.HTTP_BODY_BYTES_MAX)


def _said(body: bytes) -> str:
    try:
        said = codec.decode(dict[str, Any], body, what="an error")
    except DecodeError:
        return body[:200].decode("utf-8", "replace").strip()
    return str(said.get("error", ""))[:200]
