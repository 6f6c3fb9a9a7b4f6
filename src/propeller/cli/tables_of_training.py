"""How experiments, rounds, models and data sets look as tables, and metrics as bars."""

from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Group
from rich.table import Table

from propeller.cli.listing import Listing
from propeller.cli.tables import cell, columns, facts, metrics, table
from propeller.client.data import DatasetList, ModelList
from propeller.wire.experiments import (
    ExperimentDetail,
    ExperimentPage,
    MetricRow,
    ParticipantRows,
    RoundPage,
    RoundStatus,
    RoundView,
)

BAR_CHARS = 50


@table.register
def _(status: RoundStatus) -> Table:
    return facts(
        {
            "round": status.round_id,
            "state": status.state,
            "updates": f"{status.num_updates} of {status.k_of_n}",
            "reason": status.reason,
            "model version": status.model_version,
        }
    )


@table.register
def _(found: ExperimentDetail) -> Group:
    about = facts(
        {
            "experiment": found.experiment_id,
            "state": found.state,
            "reason": found.reason,
            "round": f"{found.round} of {found.rounds}",
            "model": found.model_ref,
            "participants": ", ".join(found.participants),
            "selector": found.selector,
            "strategy": found.strategy.name,
            "metrics": metrics(found.metrics),
            "best version": found.best_version,
        }
    )
    return Group(about, "", _rounds(found.history))


@table.register
def _(page: RoundPage) -> Listing:
    return _rounds(page.rounds)


def _rounds(rounds: Sequence[RoundView]) -> Listing:
    rows = [
        (
            one.round_id,
            one.state,
            f"{one.num_updates}/{one.k_of_n}",
            metrics(one.metrics),
            f"{one.seconds:.2f}",
            one.reason,
        )
        for one in rounds
    ]
    return columns(("ROUND", "STATE", "UPDATES", "METRICS", "SECONDS", "SAYS"), rows)


@table.register
def _(page: ExperimentPage) -> Listing:
    rows = [
        (
            one.experiment_id,
            one.state,
            f"{one.round}/{one.rounds}",
            one.model_ref,
            metrics(one.metrics),
            one.reason,
        )
        for one in page.experiments
    ]
    return columns(("EXPERIMENT", "STATE", "ROUND", "MODEL", "METRICS", "SAYS"), rows)


@table.register
def _(row: MetricRow) -> str:
    made = "" if row.model_version is None else f" → version {row.model_version}"
    said = (
        f"{row.num_updates} updates, {row.samples} samples, {row.bytes} bytes, {row.seconds:.2f} s",
        metrics(row.metrics),
    )
    return f"{row.round_id} {row.state}{made}: " + ", ".join(filter(None, said))


@table.register
def _(found: ParticipantRows) -> Listing:
    rows = [
        (
            one.participant,
            f"{one.sent}/{one.asked}",
            str(one.lost),
            str(one.refused),
            str(one.samples),
            str(one.bytes),
            f"{one.seconds_mean:.2f}",
            metrics(one.metrics),
        )
        for one in found.participants
    ]
    names = ("PARTICIPANT", "SENT", "LOST", "REFUSED", "SAMPLES", "BYTES", "SECONDS", "LATEST METRICS")
    return columns(names, rows)


class Bars(msgspec.Struct, frozen=True, kw_only=True):
    """A metric by round, drawn from zero (or the least value below it) to the greatest."""

    metric: str
    points: list[tuple[int, float]]


@table.register
def _(bars: Bars) -> str:
    values = [value for _, value in bars.points]
    low = min(0.0, *values)
    unit = (max(values) - low) / BAR_CHARS or 1.0
    lines = [
        f"{number:>6}  {value:<10.4g}  {'█' * round((value - low) / unit)}" for number, value in bars.points
    ]
    return "\n".join((f" round  {bars.metric}", *lines))


class Records(msgspec.Struct, frozen=True, kw_only=True):
    """Records with the same fields, by name."""

    rows: list[dict[str, Any]]


@table.register
def _(records: Records) -> Listing | str:
    if not records.rows:
        return "none"
    names = [name.upper() for name in records.rows[0]]
    shown = [[cell(value) for value in row.values()] for row in records.rows]
    return columns(names, shown)


@table.register
def _(models: ModelList) -> Table:
    return facts({"models": ", ".join(models.models), "global_model": ", ".join(map(str, models.versions))})


@table.register
def _(found: DatasetList) -> Listing:
    return columns(("PROPLET",), [(one,) for one in found.clients])
