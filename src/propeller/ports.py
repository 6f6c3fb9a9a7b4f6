"""The seams of the system: what the rooms of decisions ask of the world, as small Protocols.

Every port has a real adapter and an in-memory twin that passes the same contract suite; shells take ports
as arguments, and only an `app.py` or `roles/` chooses adapters. Nothing here imports an adapter.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, Self

from propeller import limits

# --- time ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment on both clocks: `mono_s` for deadlines (monotonic seconds), `wall_s` for people (Unix)."""

    mono_s: float
    wall_s: float

    def elapsed_s(self, saved: "Instant") -> float:
        """How long ago `saved` was at least, which an earlier process may have written down (seconds).

        The monotonic clock counts from the start of the machine and is exact while that lasts, whatever is
        done to the wall clock meanwhile. Where it is behind, the machine was started anew, and the wall clock
        must do; it may have been set back.
        """
        if self.mono_s >= saved.mono_s:
            return self.mono_s - saved.mono_s
        return max(0.0, self.wall_s - saved.wall_s)


class Clock(Protocol):
    """Reads time. Sleeping is `asyncio.sleep`: a simulated world drives the loop's own clock."""

    def now(self) -> Instant:
        """The present moment; `mono_s` agrees with the running loop's `time()`."""
        ...


# --- messages --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """One MQTT message. `topic` is a concrete topic without wildcards."""

    topic: str
    payload: bytes
    retain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BusSession:
    """What a role wants of its connection: subscriptions made anew after every reconnect, and a last will."""

    subscriptions: tuple[str, ...]
    will: Message | None = None


class Bus(Protocol):
    """A publish-subscribe connection that heals itself. Delivery is at most once: acknowledge above it."""

    async def run(
        self,
        session: BusSession,
        on_message: Callable[[Message], Awaitable[None]],
        on_connect: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Stay connected until cancelled, calling `on_message` one message at a time, in arrival order.

        `on_connect` runs after each (re)connection once the subscriptions stand. Raises only `Denied`
        (bad credentials, at the first connect) and programming errors; outages are waited out with
        full-jitter backoff.
        """
        ...

    async def publish(self, message: Message) -> bool:
        """Hand a message to the connection. False if there is none now: the caller's own retry decides."""
        ...

    async def subscribe(self, *filters: str) -> None:
        """Subscribe to more than the session says, now and after every reconnect, until `unsubscribe`.

        What is retained there comes, also to who has subscribed before. A broker that does not answer, or
        refuses, is no error: nothing is heard then.
        """
        ...

    async def unsubscribe(self, *filters: str) -> None:
        """Hear no more of what `subscribe` asked for."""
        ...


# --- requests --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer, whole in memory. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Http(Protocol):
    """An HTTP client."""

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_s: float = limits.HTTP_TIMEOUT_S,
        limit_bytes: int = limits.HTTP_BODY_BYTES_MAX,
    ) -> Response:
        """One request, no redirects, no retries. Any status is an answer.

        Raises `PeerUnavailable` when there is no answer, `TooLarge` when it exceeds `limit_bytes`.
        """
        ...


class HttpStreams(Http, Protocol):
    """An HTTP client that also carries bodies which do not belong in memory."""

    async def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: AsyncIterator[bytes] | bytes = b"",
        sink: Callable[[bytes], Awaitable[object]],
        timeout_s: float = limits.HTTP_STREAM_S,
        limit_bytes: int = limits.MODEL_FILE_BYTES_MAX,
    ) -> Response:
        """As `request`, piece by piece: the body of a 2xx answer goes to `sink`, and is not in the answer.

        With an iterator as `body`, `headers` should say `content-length`. What `sink` or `body` raise ends
        the exchange and is raised.
        """
        ...


# --- content ---------------------------------------------------------------------------------------------


class BlobWriter(Protocol):
    """A blob in the making, for content that arrives in pieces; left without `commit`, it is gone."""

    @property
    def size(self) -> int:
        """Bytes written so far."""
        ...

    async def write(self, chunk: bytes) -> None:
        """Append. Raises `TooLarge` over the writer's limit, `StorageFull` without room."""
        ...

    async def commit(self, expected: str | None = None) -> str:
        """Store durably and return the digest; `Conflict` (`digest_mismatch`) unless it is `expected`."""
        ...

    async def abort(self) -> None:
        """Forget what was written; harmless after either end."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...


class Blobs(Protocol):
    """Content-addressed storage. A digest is 64 lower-case hex digits of SHA-256."""

    async def put(self, content: bytes) -> str:
        """Store durably (file and directory fsynced) and return the digest; storing twice is one copy."""
        ...

    async def get(self, digest: str) -> bytes:
        """The content, verified; raises `NotFound`, or `StorageBroken` if the disk lies."""
        ...

    async def has(self, digest: str) -> bool:
        """Whether `get` would find it."""
        ...

    async def delete(self, digest: str) -> None:
        """Forget it; absent is fine."""
        ...


class BlobFiles(Blobs, Protocol):
    """Content that may be too large for memory: written in pieces, read where it lies."""

    def open_writer(self, limit_bytes: int = limits.HTTP_BODY_BYTES_MAX) -> BlobWriter:
        """A writer for content that arrives in pieces, in memory one piece at a time."""
        ...

    async def size(self, digest: str) -> int:
        """Its length in bytes; raises `NotFound`."""
        ...

    async def mapped(self, digest: str) -> memoryview:
        """The content as it lies there: read where it is touched, and not verified. Raises `NotFound`."""
        ...

    async def digests(self) -> list[str]:
        """Everything stored, in order; for sweeping what nothing refers to."""
        ...

    def file_of(self, digest: str) -> Path | None:
        """The file that holds it, if files do: for other roles on the same disk."""
        ...

    async def forget(self, digest: str, *, idle_s: float = limits.BLOB_IDLE_S) -> bool:
        """Delete what nothing refers to, unless it was stored, perhaps again, within `idle_s`.

        Whoever stores content writes down later that it is there: until then only its age protects it.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageModule:
    """A Wasm module taken from an image: which bytes ran is `digest` (sha256 hex of `content`)."""

    reference: str
    manifest_digest: str
    digest: str
    content: bytes


class Images(Protocol):
    """Fetches Wasm modules from OCI registries and plain URLs."""

    async def fetch(self, reference: str) -> ImageModule:
        """Resolve and fetch.

        Raises `BadInput` (reference), `NotFound`, `Denied`, `PeerUnavailable` (retryable), `TooLarge`,
        `PeerRefused` (an image without a Wasm layer, a digest that does not match).
        """
        ...


class ImageTags(Protocol):
    """Says what tags mean."""

    async def pin(self, reference: str) -> str:
        """The digest of the manifest that a reference means now: `sha256:…`.

        Raises `BadInput` (reference), `NotFound`, `Denied`, `PeerUnavailable` (retryable), `PeerRefused`.
        """
        ...


class ImageSupply(Images, ImageTags, Protocol):
    """Both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArtifact:
    """A model in an OCI registry. `model` and `state` are digests of what writers committed, once pulled."""

    reference: str
    """As it was asked for, with `oci://` and the digest."""
    digest: str
    repository: str
    about: bytes
    """JSON: what its pusher says of it; empty for an artefact of somebody else's."""
    model: str = ""
    state: str | None = None


class ModelArtifacts(Protocol):
    """Model versions in OCI registries. All raise `BadInput`, `Denied`, `PeerUnavailable`, `PeerRefused`."""

    async def describe(self, reference: str) -> ModelArtifact:
        """What the reference means now, without its files; raises `NotFound`."""
        ...

    async def push(
        self,
        reference: str,
        model: memoryview,
        *,
        state: memoryview,
        about: bytes,
        annotations: Mapping[str, str],
    ) -> str:
        """Store safetensors files and what is said of them (JSON); return the pinned reference.

        Doing it again gives the same digest. No `state` is no bytes.
        """
        ...

    async def pull(self, reference: str, open_writer: Callable[[], BlobWriter]) -> ModelArtifact:
        """Fetch an artefact's files, verified, each into its own writer; raises `NotFound`, `TooLarge`."""
        ...


# --- guests ----------------------------------------------------------------------------------------------

OutputStream = Literal["stdout", "stderr"]

FailureKind = Literal[
    "invalid_module", "trap", "exit", "cpu", "timeout", "memory", "stack", "output", "denied", "stopped"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestLimits:
    """What one run of a guest may use; every field is enforced."""

    wall_s: float = limits.GUEST_WALL_S
    cpu_s: float = limits.GUEST_CPU_S
    memory_bytes: int = limits.GUEST_MEMORY_BYTES
    stack_bytes: int = limits.GUEST_STACK_BYTES
    table_elements: int = limits.GUEST_TABLE_ELEMENTS
    instances: int = limits.GUEST_INSTANCES
    stdout_bytes: int = limits.GUEST_STDOUT_BYTES
    stderr_bytes: int = limits.GUEST_STDERR_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A host directory that a guest sees as `guest`, an absolute path; read-only unless `writable`."""

    host: Path
    guest: str
    writable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestJob:
    """One run of a module. `name` picks an export only if the module has it; else `_start` runs.

    `host_strings` are what the host functions `get_proplet_id`, `get_model_data`, `get_dataset_data` answer,
    keyed `proplet_id`, `model_data`, `dataset_data`; `env` is the guest's environment and what `get_env`
    answers; `files` is a host directory preopened as `/fl`.
    """

    module: bytes
    digest: str
    name: str = ""
    args: Sequence[str] = ()
    inputs: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    host_strings: Mapping[str, str] = field(default_factory=dict)
    files: Path | None = None
    folders: Sequence[Folder] = ()
    """Further directories of the host, beside `/fl`."""
    limits: GuestLimits = field(default_factory=GuestLimits)
    endless: bool = False
    """A service: no wall or CPU limit, and of its output the end is kept rather than the beginning."""
    load_only: bool = False
    """Compile the module and keep it at hand; the guest is not entered."""
    on_output: Callable[[OutputStream, bytes, int], None] | None = None
    """Told what the guest prints while it runs: stream, bytes, and how many were skipped before them."""
    on_worker: Callable[[int], None] | None = None
    """Told the id of the process that the guest runs in, unless it is over in a moment; perhaps twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestDone:
    """The guest ended well. `value` is the export's first result as text, if an export with one ran."""

    stdout: str
    stderr: str
    value: str | None = None
    result: bytes | None = None
    """What the guest passed to `put_result`, if it called it."""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestFailed:
    """The guest did not end well; `kind` is one of the typed failures, `message` says what and where."""

    kind: FailureKind
    message: str
    stdout: str = ""
    stderr: str = ""
    wall_s: float = 0.0
    cpu_s: float = 0.0


class Runtime(Protocol):
    """Runs guests in sandboxes with limits. Failures of a guest are values, never exceptions."""

    async def run(self, job: GuestJob) -> GuestDone | GuestFailed:
        """Run to the end. Cancelling the call kills the guest within `limits.WORKER_SLACK_S`."""
        ...

    def keep_warm(self, workers: int) -> None:
        """Have up to so many idle workers at hand from now on, for calls that must not wait."""
        ...

    async def close(self) -> None:
        """End every worker process."""
        ...
