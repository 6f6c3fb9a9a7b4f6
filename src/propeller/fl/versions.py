"""Model versions: what one is, and where a proposed one goes. Knows neither databases nor HTTP.

A version belongs to a named model, is immutable, and is linked: parent, round, strategy, participants. A
store gathers the four facts that `place` asks for and obeys its answer, all in one transaction; so the
database and its in-memory twin cannot disagree about what is a repetition and what is a clash. What becomes
known of a version later, such as how it did when it was evaluated, is written beside it. `best_of` says which
version of a model is its best.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter, itemgetter
from typing import Final, Literal

from propeller import limits
from propeller.core.ids import check_id
from propeller.errors import BadInput, Conflict

GLOBAL_MODEL: Final = "global_model"
"""The model meant by `/models/{n}` and by `fl/models/global_model_v{N}`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a model is made for: the metric that is to be as high, or as low, as can be."""

    metric: str
    direction: Literal["max", "min"] = "max"

    def __post_init__(self) -> None:
        if not 0 < len(self.metric) <= limits.TENSOR_NAME_CHARS_MAX:
            raise BadInput(
                f"the metric of an objective has a name of 1 to {limits.TENSOR_NAME_CHARS_MAX} characters",
                code="bad_objective",
            )


DEFAULT_OBJECTIVES: Final = (
    Objective(metric="accuracy"),
    Objective(metric="loss", direction="min"),
)
"""What counts, in this order, where no experiment said so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What an evaluation found out about a version, on rows that devices held out."""

    round_id: str
    """The evaluation's own id."""
    metrics: Mapping[str, float]
    """Means over the participants, weighted by samples."""
    samples: int
    at_s: float
    """Unix time."""

    def __post_init__(self) -> None:
        check_id(self.round_id, "round_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A model version that somebody wants stored. `version` None: the registry gives it the next number."""

    name: str
    sha256: str
    """`fl.tensors.content_hash` of the tensors."""
    version: int | None = None
    parent: int | None = None
    round_id: str | None = None
    strategy_json: str | None = None
    """The strategy's name, version and options as the coordinator wrote them: a JSON object, as text."""
    participants: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Those that came with the updates."""
    objective: Objective | None = None
    """What its experiment stops by, if it names a metric."""

    def __post_init__(self) -> None:
        check_id(self.name, "model name")
        for value, what in ((self.version, "version"), (self.parent, "parent")):
            if value is not None:
                check_version(value, what)
        if self.round_id is not None:
            check_id(self.round_id, "round_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A stored model version, without its content."""

    name: str
    version: int
    sha256: str
    parent: int | None
    round_id: str | None
    strategy_json: str | None
    participants: tuple[str, ...]
    metrics: Mapping[str, float]
    created_at_s: float
    """Unix time."""
    content_bytes: int
    """Size of the safetensors file."""
    deleted_at_s: float | None = None
    """When its content was deleted, Unix time; its number and lineage stay."""
    objective: Objective | None = None
    evaluation: Measured | None = None
    """The last one, if it was evaluated."""

    def evaluated(self, measured: Measured) -> "ModelVersion":
        """The version with an evaluation written beside it; itself if that very one is there already."""
        known = self.evaluation
        repeated = known is not None and replace(measured, at_s=known.at_s) == known
        return self if repeated else replace(self, evaluation=measured)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A version in an OCI registry: `pushed` there from here, or `pulled` from there to be this version."""

    kind: Literal["pushed", "pulled"]
    reference: str
    """With scheme and digest: `oci://HOST/REPOSITORY:TAG@sha256:…`."""
    digest: str
    target: str = ""
    """Where every version is pushed to, if that is why it was."""
    at_s: float
    """Unix time."""


def best_of(versions: Sequence[ModelVersion]) -> ModelVersion | None:
    """The best of a model's versions, of equals the last; None if there is nothing to compare.

    It goes by what evaluations measured or, where none did, by the metrics that came with the updates: those
    are of other rows, so the two are never compared. The metric is the one that the newest version's
    experiment stops by or, without one or where no version has it, the first of `DEFAULT_OBJECTIVES`.
    """
    named = [one.objective for one in sorted(versions, key=attrgetter("version")) if one.objective]
    measurements: tuple[Callable[[ModelVersion], Mapping[str, float]], ...] = (
        lambda one: one.evaluation.metrics if one.evaluation else {},
        lambda one: one.metrics,
    )
    for metrics_of in measurements:
        for objective in (*named[-1:], *DEFAULT_OBJECTIVES):
            sign = 1.0 if objective.direction == "max" else -1.0
            judged = [
                (sign * metrics_of(one)[objective.metric], one.version, one)
                for one in versions
                if objective.metric in metrics_of(one)
            ]
            if judged:
                return max(judged, key=itemgetter(0, 1))[2]
    return None


def check_version(number: int, what: str) -> int:
    """Return `number` if it may number a model version, else raise `BadInput` `bad_version`."""
    if 0 <= number <= limits.MODEL_VERSION_MAX:
        return number
    raise BadInput(
        f"{what} is {number}; versions are whole numbers from 0 to {limits.MODEL_VERSION_MAX}",
        code="bad_version",
    )


def place(
    proposal: Proposal,
    *,
    of_round: ModelVersion | None,
    at_version: ModelVersion | None,
    latest: int | None,
    parent_known: bool,
) -> ModelVersion | int:
    """The number to store `proposal` under, or the stored version that it repeats.

    `of_round` is this model's version of the proposal's round, `at_version` the one with its number, `latest`
    the highest number (None: no version yet); `parent_known` says whether the parent is stored.
    The same round again, or the same number again, is a repetition if the content is the same (and, for a
    round, the parent), else `Conflict`. Raises `BadInput` `unknown_parent`.
    """
    for known in (of_round, at_version):
        if known is not None and known.deleted_at_s is not None:
            raise Conflict(
                f"version {known.version} of model {known.name!r} was deleted; leave out version and "
                "round_id to get the next number",
                code="version_deleted",
            )
    if of_round is not None:
        return _repeats_round(proposal, of_round)
    if at_version is not None:
        return _repeats_version(proposal, at_version)
    if proposal.parent is not None and not parent_known:
        raise BadInput(
            f"parent {proposal.parent} of model {proposal.name!r} is not in this registry; store it first",
            code="unknown_parent",
        )
    return _next(proposal, latest) if proposal.version is None else proposal.version


def _repeats_round(proposal: Proposal, stored: ModelVersion) -> ModelVersion:
    wrong = (
        "other content"
        if proposal.sha256 != stored.sha256
        else "another parent"
        if proposal.parent != stored.parent
        else "another number"
        if proposal.version not in {None, stored.version}
        else None
    )
    if wrong is None:
        return stored
    raise Conflict(
        f"round {proposal.round_id!r} already gave version {stored.version} of model {stored.name!r}, "
        f"with {wrong}; a round gives one version",
        code="version_conflict",
    )


def _repeats_version(proposal: Proposal, stored: ModelVersion) -> ModelVersion:
    if proposal.sha256 == stored.sha256:
        return stored
    raise Conflict(
        f"version {stored.version} of model {stored.name!r} is stored with other content "
        f"(sha256 {stored.sha256}); versions are immutable: leave out the version to get the next",
        code="version_conflict",
    )


def _next(proposal: Proposal, latest: int | None) -> int:
    number = 0 if latest is None else latest + 1
    if number > limits.MODEL_VERSION_MAX:
        raise Conflict(f"model {proposal.name!r} has used its last version number", code="version_conflict")
    return number
