"""HTTP bodies between the coordinator, the aggregator and the model registry."""

from typing import Any, Literal

from msgspec import Struct


class StrategyUsed(Struct, frozen=True, kw_only=True):
    """Which algorithm made a model, so that it can be made again."""

    name: str
    version: int
    options: dict[str, Any]


class StoreModel(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`POST /models`: without `version` the registry gives the next one, once for each `round_id`."""

    model: dict[str, Any]
    name: str
    version: int | None = None
    parent: int | None = None
    round_id: str | None = None
    strategy: StrategyUsed | None = None
    participants: list[str] = []
    metrics: dict[str, float] = {}
    state: dict[str, Any] = {}
    """The strategy's own tensors for the next round; empty if it keeps none."""


class ModelStored(Struct, frozen=True, kw_only=True):
    """Its answer. `sha256` is the content hash of the tensors; an older registry does not say it."""

    version: int
    sha256: str = ""


class ModelInfo(Struct, frozen=True, kw_only=True):
    """What the coordinator wants of `GET /models/{name}/versions/{version}/info`."""

    strategy: StrategyUsed | None = None


class UpdateToFold(Struct, frozen=True, kw_only=True):
    """One update of `POST /aggregate`."""

    round_id: str
    proplet_id: str
    num_samples: int
    update: dict[str, Any]


class AggregateBody(Struct, frozen=True, kw_only=True):
    """`POST /aggregate`: updates in participant order; `reply` "full" answers `Folded`, else the model."""

    updates: list[UpdateToFold]
    strategy: str
    options: dict[str, Any]
    base: dict[str, Any]
    state: dict[str, Any] = {}
    reply: Literal["model", "full"] = "full"


class Folded(Struct, frozen=True, kw_only=True):
    """The whole answer of `POST /aggregate`."""

    model: dict[str, Any]
    state: dict[str, Any] = {}
