"""Pushing and inspecting images, for the command line and the demo."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from propeller.errors import BadInput
from propeller.images.auth import Credential
from propeller.images.client import OciImages
from propeller.images.reference import Reference
from propeller.ports import Http
from propeller.roles.web import http_client

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach a registry: `insecure` ones by plain HTTP, and with which name and password, if any."""

    insecure: tuple[str, ...] = ()
    username: str = ""
    password: str = field(default="", repr=False)


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


def push_module(reference: str, wasm: bytes, *, title: str, access: Access) -> Pushed:
    """Store `wasm` as the image `reference`; `title` is the module's file name."""
    return asyncio.run(_alone(lambda http: push(http, reference, wasm, title=title, access=access)))


def inspect_image(reference: str, *, access: Access) -> Inspected:
    """What the registry has under `reference`."""
    return asyncio.run(_alone(lambda http: inspect(http, reference, access=access)))


async def push(
    http: Http, reference: str, wasm: bytes, *, title: str = "", access: Access | None = None
) -> Pushed:
    """`push_module` inside a loop."""
    images, image = _open(http, reference, access or Access())
    digest = await images.push(image, wasm, title=title)
    return Pushed(reference=str(image), digest=digest, bytes=len(wasm))


async def inspect(http: Http, reference: str, *, access: Access) -> Inspected:
    """`inspect_image` inside a loop."""
    images, image = _open(http, reference, access)
    found = await images.manifest(image)
    return Inspected(
        reference=str(image),
        digest=found.digest,
        media_type=found.media_type,
        manifest=msgspec.Raw(found.content),
    )


async def _alone(work: Callable[[Http], Awaitable[T]]) -> T:
    async with http_client() as http:
        return await work(http)


def _open(http: Http, text: str, access: Access) -> tuple[OciImages, Reference]:
    image = OciImages(http).parse(text)
    if not isinstance(image, Reference):
        raise BadInput(f"{text!r} is a URL, not an image; write HOST[:PORT]/NAME[:TAG]")
    known = {image.registry: Credential(username=access.username, password=access.password)}
    return OciImages(http, insecure=access.insecure, credentials=known if access.username else {}), image
