"""HTTP bodies between the coordinator, the aggregator and the model registry."""

from typing import Any, Final, Literal

from msgspec import Struct

SAFETENSORS: Final = "application/vnd.safetensors"
"""A model, an update or a state as a safetensors file."""
MODEL_FILES: Final = "application/vnd.propeller.model"
"""`POST /models`: one line of JSON (`StoreFiles`), then the model's safetensors file, then the state's."""
BY_REFERENCE: Final = "application/vnd.propeller.aggregate+json"
"""`POST /aggregate`: `AggregateFiles`. The answer is the model's safetensors file, then the state's."""


class StrategyUsed(Struct, frozen=True, kw_only=True):
    """Which algorithm made a model, so that it can be made again."""

    name: str
    version: int
    options: dict[str, Any]


class ObjectiveBody(Struct, frozen=True, kw_only=True):
    """Which metric makes one version better than another, and which way."""

    metric: str
    direction: Literal["max", "min"] = "max"


class EvaluatedModel(Struct, frozen=True, kw_only=True):
    """`PUT /models/{name}/versions/{version}/evaluation`: what the round `round_id` measured of a version."""

    round_id: str
    metrics: dict[str, float]
    samples: int


class EvaluationView(EvaluatedModel, frozen=True, kw_only=True):
    """The same as a version's info shows it; `at` is RFC 3339."""

    at: str


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
    objective: ObjectiveBody | None = None
    state: dict[str, Any] = {}
    """The strategy's own tensors for the next round; empty if it keeps none."""


class StoreFiles(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The line before the files of `POST /models`, or the query beside a lone safetensors file."""

    name: str = "global_model"
    model_bytes: int = 0
    state_bytes: int = 0
    version: int | None = None
    parent: int | None = None
    round_id: str | None = None
    strategy: StrategyUsed | None = None
    participants: list[str] = []
    metrics: dict[str, float] = {}
    objective: ObjectiveBody | None = None


class Source(Struct, frozen=True, kw_only=True):
    """Where a safetensors file lies: `url` is http(s), or file: on a disk that both sides see."""

    url: str
    bytes: int
    sha256: str = ""
    """SHA-256 of the file; one that is fetched must have it, if it is given."""
    format: Literal["safetensors"] = "safetensors"


class UpdateSource(Source, frozen=True, kw_only=True):
    """One update by reference."""

    participant: str
    samples: int
    staleness: int = 0


class AggregateFiles(Struct, frozen=True, kw_only=True):
    """`POST /aggregate` by reference. `base` and `state` only where the strategy reads them."""

    updates: list[UpdateSource]
    strategy: str = ""
    options: dict[str, Any] = {}
    base: Source | None = None
    state: Source | None = None


class ModelStored(Struct, frozen=True, kw_only=True):
    """Its answer. `sha256` is the content hash of the tensors; an older registry does not say it."""

    version: int
    sha256: str = ""


class ArtifactView(Struct, frozen=True, kw_only=True):
    """Where a version is in an OCI registry: `kind` is pushed or pulled."""

    kind: Literal["pushed", "pulled"]
    reference: str
    digest: str


class ModelInfo(Struct, frozen=True, kw_only=True):
    """What the coordinator wants of `GET /models/{name}/versions/{version}/info`."""

    strategy: StrategyUsed | None = None
    sha256: str = ""
    bytes: int = 0
    artifacts: list[ArtifactView] = []


class ModelLineage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The config of a model's artefact: where the version came from, in the registry that pushed it."""

    name: str = ""
    version: int | None = None
    sha256: str = ""
    parent: int | None = None
    round_id: str | None = None
    strategy: StrategyUsed | None = None
    participants: list[str] = []
    metrics: dict[str, float] = {}
    objective: ObjectiveBody | None = None
    created_at: str = ""


class PushModel(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`POST /models/{name}/versions/{version}/push`."""

    reference: str = ""
    """`HOST[:PORT]/NAME[:TAG]`; empty: where this registry pushes every version."""


class ModelPushed(Struct, frozen=True, kw_only=True):
    """Its answer; `reference` has the digest."""

    name: str
    version: int
    reference: str
    digest: str


class PullModel(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`POST /models/import`: an artefact becomes a version of `name`, once."""

    reference: str
    name: str = ""
    """Empty: as its pusher named it, or as its repository is called."""


class ModelPulled(Struct, frozen=True, kw_only=True):
    """Its answer: `model_ref` is what experiments and tasks call the version."""

    name: str
    version: int
    model_ref: str
    reference: str
    digest: str
    new: bool


class UpdateToFold(Struct, frozen=True, kw_only=True):
    """One update of `POST /aggregate`."""

    round_id: str
    proplet_id: str
    num_samples: int
    update: dict[str, Any]
    staleness: int = 0


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
