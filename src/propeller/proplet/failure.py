"""Why an attempt failed on this device, as an error with the typed kind that the manager shows.

The kinds here are the proplet's own; those of a guest that ran are `ports.FailureKind`.
"""

from typing import Literal

import msgspec

from propeller import limits
from propeller.errors import PropellerError
from propeller.ports import GuestDone, GuestFailed
from propeller.proplet.records import Outcome
from propeller.wire.messages import Usage

Kind = Literal[
    "configuration",  # the task or this proplet lacks a setting, or may not go where the task points
    "image",  # the module could not be had
    "model",  # the base model could not be had
    "data",  # the data set could not be had, or is none
    "invalid_update",  # the guest of a federated task made something that is no update of its round
    "update_refused",  # the coordinator refused the update
    "update_undelivered",  # nobody answered for it before the attempt's time was up
    "output",  # the result is larger than what a result message carries
    "internal",  # a defect of the proplet
    "full",  # there is no room for another latent task
    "not_ready",  # a call of a task that is not held here
    "busy",  # a call over the bound of those in progress
    "bad_input",  # a call that no guest could be given
]

ERROR_CHARS_MAX = 4096
STDERR_CHARS_MAX = 16_384
"""What a result message carries of an error and of the end of stderr; it must stay under the bus's limit."""


class AttemptFailed(PropellerError):
    """The attempt cannot go on. `kind` is for programs; the message says what, where, and what to do."""

    code = "attempt_failed"

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message, code=kind)
        self.kind = kind


def of_failure(failed: AttemptFailed, *, stderr: str = "", usage: Usage | None = None) -> Outcome:
    """The outcome of an attempt that could not go on."""
    return Outcome(
        error=text_head(failed.message), failure=failed.kind, stderr=_tail(stderr), usage=usage or Usage()
    )


def of_guest(ended: GuestDone | GuestFailed) -> Outcome:
    """The outcome of a plain task: what `put_result` was given, else the export's value, else stdout.

    Raises `AttemptFailed` (`output`) if that is more than a result message carries.
    """
    if isinstance(ended, GuestFailed):
        return Outcome(
            results=_text_result(ended.stdout, fits=False),
            error=text_head(ended.message) or f"the guest failed: {ended.kind}",
            failure=ended.kind,
            stderr=_tail(ended.stderr),
            usage=usage_of(ended),
        )
    return Outcome(results=_text_result(result_of(ended)), stderr=_tail(ended.stderr), usage=usage_of(ended))


def usage_of(ended: GuestDone | GuestFailed) -> Usage:
    """What the guest used, as the wire says it."""
    memory = ended.memory_bytes if isinstance(ended, GuestDone) else 0
    return Usage(wall_s=ended.wall_s, cpu_s=ended.cpu_s, memory_bytes=memory)


def result_of(ended: GuestDone) -> str:
    """What a guest that ended well made: what it put, else its export's value, else its stdout."""
    if ended.result is not None:
        return ended.result.decode(errors="backslashreplace")
    return ended.stdout if ended.value is None else ended.value


def _text_result(text: str, *, fits: bool = True) -> bytes:
    """`text` as a JSON string. Too long: an error if it must fit, else its end."""
    encoded = msgspec.json.encode(text)
    if len(encoded) <= limits.TASK_RESULT_BYTES_MAX:
        return encoded
    if fits:
        raise AttemptFailed(
            "output",
            f"the result is {len(encoded)} bytes of JSON; a task's result may have "
            f"{limits.TASK_RESULT_BYTES_MAX}: print less, or store the result elsewhere",
        )
    return msgspec.json.encode(_tail(text))


def text_head(text: str) -> str:
    """The beginning of `text`, as much as a message carries of an error."""
    return text if len(text) <= ERROR_CHARS_MAX else text[: ERROR_CHARS_MAX - 1] + "…"


def _tail(text: str) -> str:
    return text if len(text) <= STDERR_CHARS_MAX else "…" + text[1 - STDERR_CHARS_MAX :]
