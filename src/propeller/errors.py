"""The one tree of errors. It knows nothing of transports; they read `http_status` and `code` off it.

    PropellerError
    ├── CallerError            the request is wrong; the same request will fail again
    │   ├── BadInput           400  malformed or out of bounds: says what, where, and what to do
    │   │   ├── DecodeError    400  bytes that are no message of ours (the only error `wire` raises)
    │   │   └── Unsupported    400  well-formed, known, and not offered
    │   ├── Denied             403  the caller is not who may do this
    │   ├── NotFound           404
    │   ├── Conflict           409  clashes with what is already recorded
    │   └── TooLarge           413
    ├── PeerError              another process misbehaves
    │   ├── PeerUnavailable    503  no answer, or an answer that says "later" (retryable)
    │   └── PeerRefused        502  answered, and will answer so again
    ├── EnvironmentError_  503  this machine: disk, ports, descriptors (retryable: it may pass)
    │   ├── StorageFull        507  (retryable once there is room)
    │   ├── StorageBroken      503  corrupt or foreign data; refuses to start rather than guess
    │   └── PortInUse          503
    └── Bug                    500  an impossible state; carries the entity's story

Every error has a stable `code` for programs, a message for people, and says whether a retry can help.
"""

from typing import ClassVar


class PropellerError(Exception):
    """Root of the tree; never raised itself."""

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = code or self.code
        """The most specific stable code: the class's own unless the raiser knew a narrower one."""


class CallerError(PropellerError):
    """The caller asked for something that cannot be."""

    code = "bad_request"
    http_status = 400


class BadInput(CallerError):
    """Malformed or out-of-bounds input."""

    code = "bad_input"


class DecodeError(BadInput):
    """Bytes that are not a message of ours."""

    code = "undecodable"


class Unsupported(BadInput):
    """Known and well-formed, but not offered by this release."""

    code = "unsupported"


class Denied(CallerError):
    """The caller may not do this."""

    code = "denied"
    http_status = 403


class NotFound(CallerError):
    """The named thing does not exist."""

    code = "not_found"
    http_status = 404


class Conflict(CallerError):
    """Clashes with what is already recorded."""

    code = "conflict"
    http_status = 409


class TooLarge(CallerError):
    """Over a limit of `propeller.limits`."""

    code = "too_large"
    http_status = 413


class PeerError(PropellerError):
    """Another process did not do its part."""

    code = "peer"
    http_status = 502


class PeerUnavailable(PeerError):
    """No answer, or one that says to come back later."""

    code = "peer_unavailable"
    http_status = 503
    retryable = True


class PeerRefused(PeerError):
    """The peer answered, and would answer the same again. `status` is its HTTP status, 0 if it has none."""

    code = "peer_refused"

    def __init__(self, message: str, *, status: int = 0, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.status = status


class EnvironmentError_(PropellerError):  # noqa: N801 - the underscore keeps the builtin's name free
    """This machine cannot serve the request now."""

    code = "environment"
    http_status = 503
    retryable = True


class StorageFull(EnvironmentError_):
    """No room left; nothing that was accepted is lost."""

    code = "storage_full"
    http_status = 507


class StorageBroken(EnvironmentError_):
    """The stored data are corrupt, foreign, or from a newer release."""

    code = "storage_broken"
    retryable = False


class PortInUse(EnvironmentError_):
    """A listening port is taken."""

    code = "port_in_use"
    retryable = False


class Bug(PropellerError):
    """A state that our own code made impossible."""

    code = "bug"
