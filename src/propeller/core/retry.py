"""What a task asks for when an attempt ends badly: how often, where and how soon another follows. Data only.

restart      the guest failed: the same proplet tries again
reschedule   the attempt was lost, or restarts are used up: another proplet tries
disconnect   when a vanished proplet's attempt counts as lost, and whether it is replaced at all
"""

from dataclasses import dataclass

from propeller import limits
from propeller.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Up to `attempts` further ones, after `delay_s`, then twice the last pause each, up to `delay_s_max`.

    `jitter` is the part of a pause that is drawn: 0 waits exactly, 1 anything from nothing to all of it.
    """

    attempts: int = 0
    delay_s: float = 1.0
    delay_s_max: float = limits.DAEMON_DELAY_S_MAX
    jitter: float = 0.5

    def pause_s(self, earlier: int, luck: float) -> float:
        """The pause after `earlier` pauses; `luck`, from 0 to 1, decides the drawn part."""
        full = min(self.delay_s * 2.0 ** min(earlier, 64), self.delay_s_max)
        return full * (1.0 - self.jitter * luck)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect:
    """An attempt is lost `lost_after_s` after its proplet went silent; then `replace` it, or wait for it."""

    lost_after_s: float = limits.ATTEMPT_LOST_S
    replace: bool = True


LOST = Retry(attempts=limits.RESCHEDULE_ATTEMPTS, delay_s=0.0, delay_s_max=0.0)
"""How lost attempts are replaced unless the task says otherwise: at once."""
DAEMON = Retry(attempts=1 << 62, delay_s=limits.DAEMON_DELAY_S, delay_s_max=limits.DAEMON_DELAY_S_MAX)
"""How what runs until it is stopped begins again unless the task says otherwise: for ever."""


def check_retry(name: str, retry: Retry | None) -> None:
    """Raise `BadInput` for a policy out of bounds."""
    if retry is None:
        return
    for part, value, most in (
        ("attempts", retry.attempts, limits.POLICY_ATTEMPTS_MAX),
        ("delay_s", retry.delay_s, limits.POLICY_DELAY_S_MAX),
        ("delay_s_max", retry.delay_s_max, limits.POLICY_DELAY_S_MAX),
        ("jitter", retry.jitter, 1),
    ):
        if not 0 <= value <= most:
            raise BadInput(f"{name}.{part} must be 0 to {most:g}, got {value:g}", code="bad_policy")


def check_disconnect(disconnect: Disconnect) -> None:
    """Raise `BadInput` for a policy out of bounds."""
    if not 0 < disconnect.lost_after_s <= limits.POLICY_DELAY_S_MAX:
        raise BadInput(
            f"disconnect.lost_after_s must be above 0 and at most {limits.POLICY_DELAY_S_MAX:g}, "
            f"got {disconnect.lost_after_s:g}",
            code="bad_policy",
        )
