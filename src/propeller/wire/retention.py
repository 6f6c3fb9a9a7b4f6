"""HTTP bodies about what is kept: policies, what went, and which model versions are in use."""

from msgspec import Struct


class KeepView(Struct, frozen=True, kw_only=True):
    """A thing goes only if it is not among the newest of its group, and older than that."""

    keep_last: int
    max_age_s: float


class RetentionView(Struct, frozen=True, kw_only=True):
    """`GET /retention`: the policy by kind, how often it is applied, and what it would delete now."""

    policy: dict[str, KeepView]
    every_s: float
    surplus: dict[str, int]


class Swept(Struct, frozen=True, kw_only=True):
    """`POST /retention/sweep`: how many of each kind went."""

    deleted: dict[str, int]


class VersionName(Struct, frozen=True, kw_only=True):
    """A version of a model."""

    name: str
    version: int


class ModelsInUse(Struct, frozen=True, kw_only=True):
    """`GET /models/in-use` of the coordinator: what live experiments need, and rounds in progress."""

    versions: list[VersionName]
    rounds: list[str]
