"""Images for the command line and the demo: push, pull, look, delete."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from propeller.errors import BadInput
from propeller.images.auth import Credential
from propeller.images.client import OciImages
from propeller.images.credentials import read_credentials
from propeller.images.reference import OCI_SCHEME, Reference, parse_image
from propeller.ports import Http
from propeller.roles.web import http_client

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach a registry: `insecure` ones by plain HTTP, and with which name and password, if any.

    A name given here comes before what `auth` has, the file that Docker and Podman keep.
    """

    insecure: tuple[str, ...] = ()
    username: str = ""
    password: str = field(default="", repr=False)
    auth: Path | None = None


class Pushed(msgspec.Struct, frozen=True, kw_only=True):
    """An image that a registry has now; `bytes` is the module's size."""

    reference: str
    digest: str
    bytes: int


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """An image's manifest as stored."""

    reference: str
    digest: str
    media_type: str
    manifest: msgspec.Raw


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """A module that was written to `file`; `digest` is the image's, `sha256` the module's."""

    reference: str
    digest: str
    sha256: str
    bytes: int
    file: str


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """An image that is gone, with all tags that named it."""

    reference: str
    digest: str


def push_module(reference: str, wasm: bytes, *, title: str, access: Access) -> Pushed:
    """Store `wasm` as the image `reference`; `title` is the module's file name."""
    return asyncio.run(_alone(lambda http: push(http, reference, wasm, title=title, access=access)))


def inspect_image(reference: str, *, access: Access) -> Inspected:
    """What the registry has under `reference`."""
    return asyncio.run(_alone(lambda http: _inspect(http, reference, access)))


def pull_module(reference: str, file: Path | None, *, access: Access) -> Pulled:
    """Write the image's module to `file`, by default named after the repository. Raises `BadInput`."""
    return asyncio.run(_alone(lambda http: _pull(http, reference, file, access)))


def list_images(name: str, *, access: Access) -> list[str]:
    """The repositories of `HOST[:PORT]`, or the images of `HOST[:PORT]/NAME`; each by its whole name."""
    return asyncio.run(_alone(lambda http: _listed(http, name, access)))


def remove_image(reference: str, *, access: Access) -> Removed:
    """Delete what `reference` names."""
    return asyncio.run(_alone(lambda http: _remove(http, reference, access)))


async def push(
    http: Http, reference: str, wasm: bytes, *, title: str = "", access: Access | None = None
) -> Pushed:
    """`push_module` inside a loop."""
    images, image = _open(http, reference, access or Access())
    digest = await images.push(image, wasm, title=title)
    return Pushed(reference=str(image), digest=digest, bytes=len(wasm))


async def _inspect(http: Http, reference: str, access: Access) -> Inspected:
    images, image = _open(http, reference, access)
    found = await images.manifest(image)
    return Inspected(
        reference=str(image),
        digest=found.digest,
        media_type=found.media_type,
        manifest=msgspec.Raw(found.content),
    )


async def _pull(http: Http, reference: str, file: Path | None, access: Access) -> Pulled:
    images, image = _open(http, reference, access)
    module = await images.fetch(reference)
    target = file or Path(f"{image.repository.rpartition('/')[2]}.wasm")
    try:
        target.write_bytes(module.content)
    except OSError as error:
        raise BadInput(f"cannot write {target}: {error.strerror or error}") from error
    return Pulled(
        reference=str(image),
        digest=module.manifest_digest,
        sha256=module.digest,
        bytes=len(module.content),
        file=str(target),
    )


async def _listed(http: Http, name: str, access: Access) -> list[str]:
    registry, slash, _ = name.removeprefix(OCI_SCHEME).strip("/").partition("/")
    if not slash:
        found = await _client(http, registry, access).repositories(registry)
        return [f"{registry}/{one}" for one in found]
    images, image = _open(http, name, access)
    return [f"{image.registry}/{image.repository}:{tag}" for tag in await images.tags(image)]


async def _remove(http: Http, reference: str, access: Access) -> Removed:
    images, image = _open(http, reference, access)
    return Removed(reference=str(image), digest=await images.delete(image))


async def _alone(work: Callable[[Http], Awaitable[T]]) -> T:
    async with http_client() as http:
        return await work(http)


def _open(http: Http, text: str, access: Access) -> tuple[OciImages, Reference]:
    image = parse_image(text)
    if not isinstance(image, Reference):
        raise BadInput(f"{text!r} is a URL, not an image; write HOST[:PORT]/NAME[:TAG]")
    return _client(http, image.registry, access), image


def _client(http: Http, registry: str, access: Access) -> OciImages:
    known = read_credentials(access.auth)
    if access.username:
        known[registry] = Credential(username=access.username, password=access.password)
    return OciImages(http, insecure=access.insecure, credentials=known)
