"""Which model versions may be deleted: by hand, and by the policy. Pure: facts in, reasons out.

| kept | because |
|---|---|
| `latest`, `best` | tags are promises to whoever asks by them |
| what a live experiment or round names | its base, its newest and best models, bases of late updates |
| what waits to be pushed | it would be lost to the OCI registry |
| by the policy also: a head of lineage | nothing was made of it yet: it is somebody's result |

It must not know who deletes, nor where versions are.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from propeller.core.retention import Aged, Keep, surplus
from propeller.fl.versions import ModelVersion, best_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """What others need now: versions by name and number, and rounds that may yet repeat their version."""

    versions: Collection[tuple[str, int]] = ()
    rounds: Collection[str] = ()
    unpublished: Collection[tuple[str, int]] = ()


def why_needed(version: ModelVersion, model: Sequence[ModelVersion], needed: Needed) -> str:
    """Why a version must not be deleted, for people; empty if it may. `model`: all versions of its model."""
    return _why(version, _promised(model), needed)


def _promised(model: Sequence[ModelVersion]) -> dict[int, str]:
    """The versions of a model that tags name, and by which."""
    there = [one for one in model if one.deleted_at_s is None]
    best = best_of(there)
    promised = {best.version: "best"} if best else {}
    return promised | ({max(one.version for one in there): "latest"} if there else {})


def _why(version: ModelVersion, promised: Mapping[int, str], needed: Needed) -> str:
    key = version.name, version.version
    if version.version in promised:
        return f"it is the {promised[version.version]} version of its model"
    if key in needed.versions:
        return "an experiment or a round in progress needs it; wait for its end, or stop it"
    if version.round_id in needed.rounds:
        return f"round {version.round_id}, which made it, is in progress"
    if key in needed.unpublished:
        return "it waits to be pushed to an OCI registry"
    return ""


def surplus_versions(
    records: Sequence[ModelVersion], keep: Keep, needed: Needed, now_s: float
) -> list[ModelVersion]:
    """What the policy deletes of `records`, which are all versions of all models, deleted ones too."""
    parents = {(one.name, one.parent) for one in records}
    by_key = {(one.name, one.version): one for one in records}
    models: dict[str, list[ModelVersion]] = {}
    for one in records:
        models.setdefault(one.name, []).append(one)
    old = surplus(
        [Aged(one.name, one.version, one.created_at_s) for one in records if one.deleted_at_s is None],
        keep,
        now_s,
    )
    found = [by_key[one.group, one.order] for one in old]
    promised = {name: _promised(models[name]) for name in {one.name for one in found}}
    return [
        one
        for one in found
        if (one.name, one.version) in parents and not _why(one, promised[one.name], needed)
    ]
