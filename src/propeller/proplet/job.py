"""From a start message to a guest's job: module, environment, limits; for a federated task, model and data.

What cannot be had fails the attempt with its reason; nothing is made up. This runs no guest.
"""

import asyncio
import base64
import binascii
import hashlib
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from propeller import limits
from propeller.core.ids import check_id
from propeller.core.recent import Recent
from propeller.errors import BadInput, EnvironmentError_, NotFound, PeerUnavailable, PropellerError
from propeller.fl.split import Part
from propeller.fl.update_format import JSON, parse_format
from propeller.ports import Blobs, Folder, GuestJob, GuestLimits, HttpStreams, Images, Response
from propeller.proplet.by_broker import ByBroker
from propeller.proplet.data import OwnData
from propeller.proplet.failure import AttemptFailed, Kind
from propeller.proplet.model import bring_state, fetch_model, model_url, write_inputs
from propeller.proplet.offload import Offload, sha256_of
from propeller.proplet.packing import Packer, at_once
from propeller.proplet.services import (
    COORDINATOR,
    DATA_STORE,
    Patience,
    Services,
    get,
    reason,
)
from propeller.proplet.workspace import Workspace
from propeller.wire.messages import ModuleRef, Start, TaskLimits

T = TypeVar("T")
U = TypeVar("U")

TEXTS_RECENT_BYTES = 4 * 1024 * 1024
"""Data sets kept in the agent's memory; one that is larger is fetched anew each time."""
ABI = "FL_ABI"
FILES = "files"
"""A task that says so is given `/fl`, whatever the size of its model."""
FORMAT = "FL_FORMAT"
"""The round's update format, in the task's environment."""
_OK, _UNCHANGED = 200, 304
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Text:
    """What an address answered, and the tag by which its server knows that it still would."""

    tag: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """Where jobs get what they need. `data` None: data sets come from a data store."""

    proplet_id: str
    http: HttpStreams
    images: Images
    services: Services
    data: OwnData | None
    limits: GuestLimits
    offload: Offload
    folders: tuple[Folder, ...] = ()
    """The device's directories that every guest may see."""
    recent: Recent[bytes] = field(default_factory=lambda: Recent(limits.MODULES_RECENT_BYTES))
    """Inline modules that were fetched of late, by their verified SHA-256."""
    by_broker: bool = False
    """Whether `images` has inline modules too, by the URL that their start message gives."""
    texts: Recent[Text] = field(default_factory=lambda: Recent(TEXTS_RECENT_BYTES))
    """Data sets that were fetched of late, by their address: what has not changed does not travel again."""
    modules: Blobs | None = None
    """Where inline modules are kept beyond that, so that their work can begin again without a network."""
    workspace: Workspace | None = None
    """Where attempts have files; without it, models come as text and updates go as JSON."""
    pack: Packer = at_once
    only_broker: ByBroker | None = None
    """Where models come from if nothing but the broker is within reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A module's bytes, their SHA-256, and how many of them came over the network."""

    content: bytes
    digest: str
    bytes_fetched: int = 0


def env_of(start: Start) -> dict[str, str]:
    """The task's environment, possibly empty."""
    return dict(start.env) if isinstance(start.env, dict) else {}


def is_federated(start: Start) -> bool:
    """Whether the task is a training round on this device."""
    return bool(env_of(start).get("ROUND_ID"))


def limits_of(start: Start, own: GuestLimits) -> GuestLimits:
    """The task's limits where it has any, else the proplet's; never over the system's."""
    asked = start.limits if isinstance(start.limits, TaskLimits) else TaskLimits()
    return replace(
        own,
        wall_s=min(asked.wall_s or own.wall_s, limits.GUEST_WALL_S_MAX),
        cpu_s=min(asked.cpu_s or own.cpu_s, limits.GUEST_WALL_S_MAX),
        memory_bytes=min(asked.memory_bytes or own.memory_bytes, limits.GUEST_MEMORY_BYTES_MAX),
        stdout_bytes=min(asked.stdout_bytes or own.stdout_bytes, limits.UPDATE_BYTES_MAX),
    )


async def prepare(
    start: Start, supply: Supply, patience: Patience, folder: Callable[[], Path] | None = None
) -> tuple[GuestJob, Fetched]:
    """The job that `start` asks for; `folder` makes the one for its files. Raises `AttemptFailed`."""
    _check(start)
    env = env_of(start)
    env.setdefault("PROPLET_ID", supply.proplet_id)
    if isinstance(start.seed, int):
        env.setdefault("SEED", str(start.seed))
    files = await _round_inputs(env, supply, patience, folder) if is_federated(start) else None
    module = await fetch_module(start, supply, patience)
    job = GuestJob(
        module=module.content,
        digest=module.digest,
        name=start.name,
        args=tuple(start.cli_args or ()),
        inputs=tuple(map(str, start.inputs)) if isinstance(start.inputs, list) else (),
        env=env,
        host_strings={
            "proplet_id": env["PROPLET_ID"],
            "model_data": env.get("MODEL_DATA", ""),
            "dataset_data": env.get("DATASET_DATA", ""),
        },
        files=files,
        folders=supply.folders,
        limits=limits_of(start, supply.limits),
        endless=start.daemon,
    )
    if files is not None and supply.workspace is not None:
        await supply.offload(partial(bring_state, job, env, supply.workspace))
    return job, module


async def _round_inputs(
    env: dict[str, str], supply: Supply, patience: Patience, folder: Callable[[], Path] | None
) -> Path | None:
    """Put model and data into `env`, or into the folder that is answered."""
    _check_federated(env, supply)
    model, data = await _together(
        _model(env, supply, patience, folder, as_file=env.get(ABI) == FILES),
        _data_set(env, supply, patience),
    )
    if isinstance(model, str):
        env |= {"MODEL_DATA": model, "DATASET_DATA": data}
        if parse_format(env.get(FORMAT, "")).name != JSON:
            # Text carries no types: what is packed must start from the model as the coordinator has it.
            await _model(env, supply, patience, folder, as_file=True)
        return None
    files = model.parent
    await supply.offload(lambda: write_inputs(files, env.get("HYPERPARAMS", ""), data))
    return files


async def _together(first: Coroutine[None, None, T], second: Coroutine[None, None, U]) -> tuple[T, U]:
    """Both results; the first error ends the other, and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            one, other = group.create_task(first), group.create_task(second)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return one.result(), other.result()


async def _model(
    env: Mapping[str, str],
    supply: Supply,
    patience: Patience,
    folder: Callable[[], Path] | None,
    *,
    as_file: bool,
) -> str | Path:
    if supply.only_broker is not None:
        return await supply.only_broker.model(env["MODEL_URI"], patience, folder, as_file=as_file)
    url = model_url(env["MODEL_URI"], env, supply.services)
    return await fetch_model(url, supply.http, patience, folder, as_file=as_file)


def _check(start: Start) -> None:
    if start.encrypted:
        raise AttemptFailed("configuration", "encrypted tasks need a TEE, which this proplet does not have")
    if start.latent and (start.daemon or is_federated(start)):
        raise AttemptFailed("configuration", "a latent task is neither a daemon nor part of a round")


def _check_federated(env: Mapping[str, str], supply: Supply) -> None:
    """Everything that can be known before the training, so that none is done in vain."""
    try:
        check_id(env["ROUND_ID"], "ROUND_ID")
    except BadInput as error:
        raise AttemptFailed("configuration", error.message) from error
    if not env.get("MODEL_URI"):
        raise AttemptFailed(
            "configuration", f"round {env['ROUND_ID']} needs MODEL_URI in the task's env; there is none"
        )
    if env["PROPLET_ID"] != supply.proplet_id:
        raise AttemptFailed(
            "configuration",
            f"the task's env says PROPLET_ID {env['PROPLET_ID']!r}, but it runs on {supply.proplet_id}: "
            "leave PROPLET_ID out",
        )
    try:
        form = parse_format(env.get(FORMAT, ""))
    except BadInput as error:
        raise AttemptFailed("configuration", error.message) from error
    if supply.workspace is None and (form.name != JSON or env.get(ABI) == FILES):
        raise AttemptFailed("configuration", "this proplet has no directory for the files of attempts")
    if supply.only_broker is None:
        supply.services.find(env, COORDINATOR)
    elif supply.data is None:
        raise AttemptFailed(
            "configuration",
            "this proplet reaches nothing but the broker, and no data set passes through that: "
            "give it its own with --data",
        )


# --- module ----------------------------------------------------------------------------------------------


async def fetch_module(start: Start, supply: Supply, patience: Patience) -> Fetched:
    """The task's module: by reference at the manager, else inline, else from a registry."""
    if isinstance(start.module, ModuleRef):
        return await _by_reference(start.module, supply, patience)
    if isinstance(start.file, str) and start.file:
        return _inline(start.file)
    if isinstance(start.image_url, str) and start.image_url:
        return await _from_registry(start.image_url, supply, patience)
    raise AttemptFailed("image", "the start message has no module: neither `file` nor `image_url`")


async def _by_reference(ref: ModuleRef, supply: Supply, patience: Patience) -> Fetched:
    wanted = ref.sha256.lower()
    known = supply.recent.get(wanted) or await _kept(wanted, supply)
    if known is not None:
        supply.recent.put(wanted, known, len(known))
        return Fetched(content=known, digest=wanted)
    content = await _referred(ref, supply, patience)
    digest = await sha256_of(content, supply.offload)
    if digest != wanted:
        raise AttemptFailed("image", f"the module at {ref.url} has sha256 {digest}, not {ref.sha256}")
    supply.recent.put(digest, content, len(content))
    if supply.modules is not None:
        with suppress(EnvironmentError_):  # a cache without room costs the next fetch, not this task
            await supply.modules.put(content)
    return Fetched(content=content, digest=digest, bytes_fetched=len(content))


async def _referred(ref: ModuleRef, supply: Supply, patience: Patience) -> bytes:
    if supply.by_broker:
        return (await _from_registry(ref.url, supply, patience)).content
    url = supply.services.check(ref.url, "the task's module")
    response = await _get(url, "image", supply, patience)
    if response.status != _OK:
        raise AttemptFailed("image", f"GET {url} answered {response.status}: {reason(response)}")
    return response.body


async def _kept(digest: str, supply: Supply) -> bytes | None:
    """The module if this device's disk has it, whole."""
    if supply.modules is None or not _DIGEST.fullmatch(digest):
        return None
    try:
        return await supply.modules.get(digest)
    except NotFound:
        return None
    except EnvironmentError_:
        await supply.modules.delete(digest)  # damaged: the manager still has it
        return None


def _inline(file: str) -> Fetched:
    try:
        content = base64.b64decode(file, validate=True)
    except (binascii.Error, ValueError) as error:
        raise AttemptFailed("image", f"`file` of the task is not base64: {error}") from error
    return Fetched(content=content, digest=hashlib.sha256(content).hexdigest())


async def _from_registry(reference: str, supply: Supply, patience: Patience) -> Fetched:
    module = await _patiently(reference, supply.images.fetch, patience)
    return Fetched(content=module.content, digest=module.digest, bytes_fetched=len(module.content))


async def _patiently(name: str, fetch: Callable[[str], Awaitable[T]], patience: Patience) -> T:
    """What `fetch` brings, asked again while nobody answers. Raises `AttemptFailed`."""
    tries = 0
    while True:
        tries += 1
        try:
            return await fetch(name)
        except PeerUnavailable as error:
            if patience.left_s <= 0:
                raise AttemptFailed("image", f"{name}: {error.message} ({tries} tries)") from error
        except PropellerError as error:
            raise AttemptFailed("image", f"{name}: {error.message}") from error
        await asyncio.sleep(patience.pause_s(tries))


# --- data ------------------------------------------------------------------------------------------------


async def _data_set(env: Mapping[str, str], supply: Supply, patience: Patience) -> str:
    """The data set's JSON: the device's own, else what the data store holds for this proplet."""
    part = _part(env)
    if supply.data is not None:
        return await _own_data(supply.data, part, supply)
    store = supply.services.find(env, DATA_STORE)
    what = f"the data set of {supply.proplet_id}"
    query = f"?part={part}" if part else ""
    return await _text(f"{store}/datasets/{supply.proplet_id}{query}", "data", what, supply, patience)


def _part(env: Mapping[str, str]) -> Part | None:
    """Which part of the data the round is about; None for all of it."""
    match env.get("FL_DATA_PART", ""):
        case "":
            return None
        case "train" | "test" as part:
            return part
        case other:
            raise AttemptFailed("configuration", f"FL_DATA_PART is {other[:40]!r}; it can be train or test")


async def _own_data(data: OwnData, part: Part | None, supply: Supply) -> str:
    try:
        return (await supply.offload(lambda: data.document(supply.proplet_id, part))).decode()
    except (BadInput, NotFound) as error:
        raise AttemptFailed("data", error.message) from error


async def _text(url: str, kind: Kind, what: str, supply: Supply, patience: Patience) -> str:
    known = supply.texts.get(url)
    response = await _get(url, kind, supply, patience, tag=known.tag if known is not None else "")
    if known is not None and response.status == _UNCHANGED:
        return known.content
    if response.status != _OK:
        raise AttemptFailed(
            kind, f"{what} is not to be had: GET {url} answered {response.status}: {reason(response)}"
        )
    try:
        text = response.body.decode()
    except UnicodeDecodeError as error:
        raise AttemptFailed(kind, f"{what}: GET {url} answered no UTF-8 text: {error}") from error
    if tag := response.headers.get("etag", ""):
        supply.texts.put(url, Text(tag, text), len(text))
    else:
        # A server that gives no tag is asked for everything each time.
        supply.texts.drop(url)
    return text


async def _get(url: str, kind: Kind, supply: Supply, patience: Patience, *, tag: str = "") -> Response:
    try:
        return await get(supply.http, url, patience, tag=tag)
    except PropellerError as error:
        raise AttemptFailed(kind, error.message) from error
