"""What the manager tells the coordinator of a round's participants by HTTP: who joins, is drawn, is lost."""

from typing import Any, Literal

from msgspec import Struct

from propeller.wire.messages import NonNegative


class JoinBody(Struct, frozen=True, kw_only=True):
    """`POST /rounds/{id}/join`: a task started by hand on this proplet wants to take part."""

    proplet_id: str | None = None
    model_uri: str | None = None
    image: str | None = None
    hyperparams: dict[str, Any] | None = None
    timeout_s: float | None = None


class JoinAnswer(Struct, frozen=True, kw_only=True):
    """Its answer; `manual` if tasks started by hand opened the round."""

    round_id: str
    manual: bool
    model_ref: str
    status: Literal["joined"] = "joined"


class DrawnBody(Struct, frozen=True, kw_only=True):
    """`POST /rounds/{id}/participants`: whom the manager drew, and how many updates close the set."""

    participants: list[str]
    k_of_n: NonNegative = 0


class LostBody(Struct, frozen=True, kw_only=True):
    """`POST /rounds/{id}/lost`: participants whose tasks ended without an update, and why."""

    participants: dict[str, str]
