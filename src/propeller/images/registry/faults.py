"""What the registry answers when it refuses: the error codes of the specification with their statuses.

The body is the one that the specification fixes, `{"errors":[{"code","message","detail"}]}`; errors of our
own tree that escape a handler (no room on disk, a bug) take the same shape. It must not know the routes.
"""

from collections.abc import Mapping
from enum import StrEnum

from propeller.errors import CallerError, PropellerError, StorageFull, TooLarge
from propeller.wire import codec


class FaultCode(StrEnum):
    """The error codes of the distribution specification v1.1, "Error Codes"."""

    BLOB_UNKNOWN = "BLOB_UNKNOWN"
    BLOB_UPLOAD_INVALID = "BLOB_UPLOAD_INVALID"
    BLOB_UPLOAD_UNKNOWN = "BLOB_UPLOAD_UNKNOWN"
    DIGEST_INVALID = "DIGEST_INVALID"
    MANIFEST_BLOB_UNKNOWN = "MANIFEST_BLOB_UNKNOWN"
    MANIFEST_INVALID = "MANIFEST_INVALID"
    MANIFEST_UNKNOWN = "MANIFEST_UNKNOWN"
    NAME_INVALID = "NAME_INVALID"
    NAME_UNKNOWN = "NAME_UNKNOWN"
    SIZE_INVALID = "SIZE_INVALID"
    DENIED = "DENIED"
    UNSUPPORTED = "UNSUPPORTED"
    TOOMANYREQUESTS = "TOOMANYREQUESTS"


_STATUS = {
    FaultCode.BLOB_UNKNOWN: 404,
    FaultCode.BLOB_UPLOAD_INVALID: 400,
    FaultCode.BLOB_UPLOAD_UNKNOWN: 404,
    FaultCode.DIGEST_INVALID: 400,
    # The reference registry answers 400 here; a 404 would read as a missing repository.
    FaultCode.MANIFEST_BLOB_UNKNOWN: 400,
    FaultCode.MANIFEST_INVALID: 400,
    FaultCode.MANIFEST_UNKNOWN: 404,
    FaultCode.NAME_INVALID: 400,
    FaultCode.NAME_UNKNOWN: 404,
    FaultCode.SIZE_INVALID: 400,
    FaultCode.DENIED: 403,
    FaultCode.UNSUPPORTED: 405,
    FaultCode.TOOMANYREQUESTS: 429,
}


class RegistryFault(CallerError):
    """A refusal of the registry. `status` overrides the code's own (416 for a range, 413 for a size)."""

    code = "registry"

    def __init__(
        self,
        fault: FaultCode,
        message: str,
        *,
        detail: object = None,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, code=fault.value)
        self.status = status or _STATUS[fault]
        self.detail = detail
        self.headers = dict(headers or {})


class ClientGone(CallerError):
    """The client hung up or stalled inside a body; there is nobody to answer."""

    code = "client_gone"


def status_of(error: PropellerError) -> int:
    """The HTTP status of any error of ours, here."""
    return error.status if isinstance(error, RegistryFault) else error.http_status


def body_of(error: PropellerError) -> bytes:
    """The JSON body of any error of ours, here."""
    detail = error.detail if isinstance(error, RegistryFault) else None
    return codec.encode({"errors": [{"code": _code_of(error), "message": error.message, "detail": detail}]})


def _code_of(error: PropellerError) -> str:
    match error:
        case RegistryFault():
            return error.reason
        case TooLarge() | StorageFull():
            return FaultCode.SIZE_INVALID.value
        case _:
            # A 4xx must carry a code of the list; for a 5xx the specification leaves the code to us.
            return FaultCode.UNSUPPORTED.value if isinstance(error, CallerError) else "UNKNOWN"
