"""The plot of a fleet's runs: what was learned, how long it took, what it cost. It only draws."""

from collections.abc import Sequence
from pathlib import Path

from propeller.errors import EnvironmentError_
from propeller.roles.emulate import Outcome

_MIB = 1024 * 1024
_CURVES = {
    "accuracy": "accuracy",
    "loss": "log loss",
    "seconds": "round, s",
    "update_s": "median update after, s",
}


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """A PNG at `path`: accuracy, loss and time by round, and bars of what each run cost.

    Raises `EnvironmentError_` without matplotlib.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - belongs to the `demo` extra
    except ImportError as error:
        raise EnvironmentError_("plots need matplotlib: pip install 'propeller[demo]'") from error
    figure = Figure(figsize=(15, 8), layout="constrained")
    axes = figure.subplots(2, 4).flat
    labels = _labels(outcomes)
    for axis, (name, title) in zip(axes, _CURVES.items(), strict=False):
        for label, one in zip(labels, outcomes, strict=True):
            numbers = [seen.number for seen in one.history]
            axis.plot(numbers, [getattr(seen, name) for seen in one.history], label=label)
        axis.set_title(title)
        axis.set_xlabel("round")
    figure.axes[0].legend(fontsize="small")
    bars: dict[str, list[float]] = {
        "MB of the host per device": [one.device_mb for one in outcomes],
        "processor seconds per device": [one.device_cpu_s for one in outcomes],
        "MB sent and received": [(one.sent_bytes + one.received_bytes) / _MIB for one in outcomes],
        "TCP segments dropped and resent": [one.tcp_dropped + one.tcp_resent for one in outcomes],
    }
    for axis, (title, values) in zip(figure.axes[4:], bars.items(), strict=True):
        axis.bar(range(len(values)), values, tick_label=labels)
        axis.tick_params(axis="x", labelrotation=30)
        axis.set_title(title)
    figure.savefig(path, dpi=110)


def _labels(outcomes: Sequence[Outcome]) -> list[str]:
    """What distinguishes each run, as `name=value`; its number if nothing does."""
    first = outcomes[0].settings
    varied = [name for name in first if len({str(one.settings[name]) for one in outcomes}) > 1]
    return [
        " ".join(f"{name}={one.settings[name]}" for name in varied) or f"run {number}"
        for number, one in enumerate(outcomes, start=1)
    ]
