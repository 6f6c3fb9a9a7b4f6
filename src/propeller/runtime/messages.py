"""What the agent and its worker processes say to each other over a socket of their own.

Each message is a length of four bytes, big-endian, and that many bytes of MessagePack; a module's bytes
follow their announcement raw. The module knows neither asyncio nor wasmtime: both sides share it.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, TypeVar

import msgspec

from propeller import limits
from propeller.errors import BadInput, DecodeError, TooLarge
from propeller.ports import GuestDone, GuestFailed, GuestJob, GuestLimits, OutputStream

HEADER: Final = struct.Struct(">I")
"""The length before every message, in bytes."""


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """A directory of the host that the guest sees as `guest`."""

    host: str
    guest: str
    writable: bool


class Job(msgspec.Struct, frozen=True, kw_only=True, tag="job"):
    """Agent to worker: run this guest. The module's bytes travel only when the worker asks for them."""

    digest: str
    name: str
    args: tuple[str, ...]
    inputs: tuple[str, ...]
    env: Mapping[str, str]
    host_strings: Mapping[str, str]
    host_env: Mapping[str, str] = {}
    """Host strings that are a variable of `env`, by its name: a model or a data set travels once."""
    files: str | None
    folders: tuple[Mount, ...] = ()
    limits: GuestLimits
    endless: bool = False
    load_only: bool = False
    stream: bool = False
    """Whether somebody reads along: then all that the guest prints is told, to its end."""

    def strings(self) -> dict[str, str]:
        """All host strings. Raises `KeyError` for a variable that is not there: no job of ours."""
        return {**self.host_strings, **{name: self.env[of] for name, of in self.host_env.items()}}


class ModuleFollows(msgspec.Struct, frozen=True, kw_only=True, tag="module"):
    """Agent to worker: the `size_bytes` raw bytes after this message are the module that was asked for."""

    size_bytes: int


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """Worker to agent: the engine stands; jobs are welcome."""


class NeedModule(msgspec.Struct, frozen=True, kw_only=True, tag="need"):
    """Worker to agent: no compiled copy of the job's module is at hand."""


class Loading(msgspec.Struct, frozen=True, kw_only=True, tag="loading"):
    """Worker to agent: the module is not in memory, and the guest waits for it.

    Unless this comes first, the guest's own time began when the job arrived.
    """


class Started(msgspec.Struct, frozen=True, kw_only=True, tag="started"):
    """Worker to agent: the module is loaded and the guest's own time begins. Said only after `Loading`."""


class Printed(msgspec.Struct, frozen=True, kw_only=True, tag="printed"):
    """Worker to agent: what the guest wrote since the last such message; `skipped_bytes` are left out."""

    stream: OutputStream
    data: bytes
    skipped_bytes: int = 0


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag="finished"):
    """Worker to agent: the guest ended, in exactly one of two ways.

    `retire` says that the worker holds on to too much memory and wants no further job.
    """

    done: GuestDone | None = None
    failed: GuestFailed | None = None
    retire: bool = False


_T = TypeVar("_T")

ToWorker = Job | ModuleFollows
FromWorker = Ready | Loading | NeedModule | Started | Printed | Finished

_encoder: Final = msgspec.msgpack.Encoder()
_to_worker: Final[msgspec.msgpack.Decoder[ToWorker]] = msgspec.msgpack.Decoder(ToWorker)
_from_worker: Final[msgspec.msgpack.Decoder[FromWorker]] = msgspec.msgpack.Decoder(FromWorker)


def job_message(job: GuestJob) -> Job:
    """The message for a job; everything but the module's bytes."""
    variables = {id(text): name for name, text in job.env.items()}
    twice = {name: variables[id(text)] for name, text in job.host_strings.items() if id(text) in variables}
    return Job(
        digest=job.digest,
        name=job.name,
        args=tuple(job.args),
        inputs=tuple(job.inputs),
        env=dict(job.env),
        host_strings={name: text for name, text in job.host_strings.items() if name not in twice},
        host_env=twice,
        files=None if job.files is None else str(job.files),
        folders=tuple(
            Mount(host=str(folder.host), guest=folder.guest, writable=folder.writable)
            for folder in job.folders
        ),
        limits=replace(job.limits, wall_s=math.inf, cpu_s=math.inf) if job.endless else job.limits,
        endless=job.endless,
        load_only=job.load_only,
        stream=job.on_output is not None,
    )


def encode(message: ToWorker | FromWorker) -> bytes:
    """The message with its length before it."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body


def encode_job(job: GuestJob) -> bytes:
    """A job's message with its length before it.

    Raises `BadInput` for text that is not Unicode (a lone surrogate) and `TooLarge` over the bound.
    """
    try:
        framed = encode(job_message(job))
    except UnicodeEncodeError as error:
        raise BadInput(f"a guest cannot be given text that is not Unicode: {error}") from error
    if len(framed) > limits.WORKER_FRAME_BYTES_MAX:
        raise TooLarge(
            f"the guest's strings and environment make {len(framed)} bytes, "
            f"over the limit of {limits.WORKER_FRAME_BYTES_MAX}: give large data as files"
        )
    return framed


def length(header: bytes) -> int:
    """The length that a header announces; raises `DecodeError` over `limits.WORKER_FRAME_BYTES_MAX`."""
    (size,) = HEADER.unpack(header)
    if size > limits.WORKER_FRAME_BYTES_MAX:
        raise DecodeError(f"a worker's message announces {size} bytes; that is no message of ours")
    return int(size)


def decode_to_worker(body: bytes) -> ToWorker:
    """What the agent said; raises `DecodeError`."""
    return _decode(_to_worker, body)


def decode_from_worker(body: bytes) -> FromWorker:
    """What a worker said; raises `DecodeError`: a guest that broke out may say anything."""
    return _decode(_from_worker, body)


def _decode(decoder: msgspec.msgpack.Decoder[_T], body: bytes) -> _T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"undecodable message between agent and worker: {error}") from error
