"""Content digests in the OCI spelling, `algorithm:hex`. Pure; it must not know what the content is.

Follows the OCI image specification v1.1, "Descriptors: digests". SHA-256 and SHA-512 are the algorithms that
the specification registers; a reader verifies both, our own content is always named by SHA-256.
"""

import hashlib
import re

from propeller.errors import BadInput

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
SHA256_PREFIX = "sha256:"


def is_digest(text: str) -> bool:
    """Whether `text` is a well-formed digest of an algorithm we can verify."""
    return _DIGEST.fullmatch(text) is not None


def check_digest(text: str, what: str) -> str:
    """Return `text` if it is a digest, else raise `BadInput` naming `what` it should have named."""
    if is_digest(text):
        return text
    raise BadInput(
        f"{what} {text[:160]!r} is not a digest: write sha256: and 64 lower-case hex digits",
        code="bad_digest",
    )


def digest_of(content: bytes | memoryview) -> str:
    """The SHA-256 digest of `content`, as `sha256:` and 64 lower-case hex digits."""
    return SHA256_PREFIX + hashlib.sha256(content).hexdigest()


def matches(digest: str, content: bytes) -> bool:
    """Whether `content` has the well-formed `digest`."""
    algorithm, _, expected = digest.partition(":")
    return hashlib.new(algorithm, content).hexdigest() == expected


def hex_of(digest: str) -> str | None:
    """The 64 hex digits of a SHA-256 digest, which name it in a blob store; None for another algorithm."""
    return digest.removeprefix(SHA256_PREFIX) if digest.startswith(SHA256_PREFIX) else None
