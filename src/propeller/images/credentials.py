"""Reads the file in which Docker, Podman, Skopeo and ORAS keep what registries want to know of a user.

The format is Docker's `config.json`: `{"auths": {"HOST[:PORT]": {"auth": base64("user:password")}}}`. Helpers
that keep passwords elsewhere (`credHelpers`, `credsStore`) are programs of the user's machine and not run.
"""

import base64
import binascii
from pathlib import Path

import msgspec

from propeller.errors import BadInput, DecodeError
from propeller.images.auth import Credential
from propeller.wire import codec

_FILE_BYTES_MAX = 1024 * 1024
_DOCKER_HUB = "index.docker.io"


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    auth: str = ""
    username: str = ""
    password: str = ""


class _File(msgspec.Struct, frozen=True, kw_only=True):
    auths: dict[str, _Entry] = {}


def read_credentials(path: Path | None) -> dict[str, Credential]:
    """The credentials in `path`, by registry as references write it; none without a path.

    An entry without a name and password (a helper has them) is passed over. Raises `BadInput` for a file
    that is not there or not of this format; what it holds is never shown.
    """
    if path is None:
        return {}
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_BYTES_MAX + 1)
        held = codec.decode(_File, content, what="the file", limit_bytes=_FILE_BYTES_MAX)
    except OSError as error:
        raise BadInput(f"registry credentials {path}: {error.strerror or error}", code="bad_auth") from error
    except DecodeError:
        raise BadInput(
            f'registry credentials {path}: no file of the form {{"auths": {{"HOST": {{"auth": …}}}}}}',
            code="bad_auth",
        ) from None
    found = {_host(name): _credential(path, name, entry) for name, entry in held.auths.items()}
    return {host: credential for host, credential in found.items() if credential is not None}


def _host(name: str) -> str:
    """`https://index.docker.io/v1/` and `registry.example:5000` → how a reference names that registry."""
    host = name.rpartition("://")[2].partition("/")[0].lower()
    return "docker.io" if host == _DOCKER_HUB else host


def _credential(path: Path, name: str, entry: _Entry) -> Credential | None:
    if not entry.auth:
        return Credential(username=entry.username, password=entry.password) if entry.username else None
    try:
        user, colon, password = base64.b64decode(entry.auth, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        colon = ""
    if not colon:
        raise BadInput(
            f"registry credentials {path}: the auth of {name[:120]!r} is not base64 of user:password",
            code="bad_auth",
        )
    return Credential(username=user, password=password)
