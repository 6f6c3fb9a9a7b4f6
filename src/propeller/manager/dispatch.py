"""Writes start and stop messages: aliases applied, service URLs added, inline modules by reference.

The stored task keeps the user's own text; what is rewritten here goes only on the wire. It decides nothing
about who gets a message.
"""

import base64
import re
from collections.abc import Mapping

import msgspec
from msgspec import UNSET

from propeller import limits
from propeller.core.events import SendStart, SendStop
from propeller.core.proplet import Proplet
from propeller.core.run import Attempt, Run
from propeller.core.task import Task
from propeller.errors import Bug
from propeller.fl.launch import trainer_seed
from propeller.fl.token import make_token
from propeller.manager.config import ManagerConfig
from propeller.ports import Blobs, Message
from propeller.wire import codec
from propeller.wire.messages import ModuleRef, Start, Stop, TaskLimits
from propeller.wire.topics import FromManager

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_HTTP_URL = re.compile(r"(https?://(?:[^/?#]*@)?)([^/?#@]*)(.*)", re.DOTALL)
"""Scheme with user information, host:port, and the rest. Total: what users write need not be a URL."""


async def start_message(
    command: SendStart,
    proplet: Proplet | None,
    seed: int,
    config: ManagerConfig,
    blobs: Blobs,
    parent_results: Mapping[str, bytes] | None = None,
) -> Message:
    """The start of the run's latest attempt, on the lane of that attempt. `seed` is the experiment's.

    `parent_results` are what the dependencies that completed came to, as JSON; None without dependencies.
    """
    attempt = command.run.attempt
    if attempt is None:
        raise Bug(f"a start without an attempt: {command.run!r}")
    start = _original(command.task, attempt, config)
    if parent_results is not None:
        shown = {name: msgspec.Raw(results) for name, results in parent_results.items()}
        start = msgspec.structs.replace(start, parent_results=shown)
    if attempt.lane == "directed":
        start = _directed(start, command.task, command.run, seed, config)
        return Message(config.topics.from_manager(FromManager.START, attempt.proplet_id), codec.encode(start))
    if proplet is not None and proplet.embedded:
        start = msgspec.structs.replace(start, inputs=_numbers(command.task.inputs) or UNSET)
    start = await _legacy_module(start, command.task, proplet, config, blobs)
    return Message(config.topics.from_manager(FromManager.START), codec.encode(start))


def stop_message(command: SendStop, config: ManagerConfig) -> Message:
    """The stop of one attempt, on its lane."""
    directed = command.lane == "directed"
    stop = Stop(
        id=command.task_id,
        name=command.name,
        proplet_id=command.proplet_id,
        run=command.run if directed else UNSET,
        attempt=command.attempt if directed else UNSET,
        reason=command.reason,
    )
    topic = config.topics.from_manager(FromManager.STOP, command.proplet_id if directed else None)
    return Message(topic, codec.encode(stop))


def _original(task: Task, attempt: Attempt, config: ManagerConfig) -> Start:
    """The part of a start that the original speaks too."""
    return Start(
        id=task.id,
        name=task.name,
        image_url=image_of(task, None, config) or UNSET,
        inputs=list(task.inputs) or UNSET,
        cli_args=list(task.cli_args) if task.cli_args is not None else None,
        daemon=task.daemon,
        latent=task.latent,
        env=dispatch_env(task, config) or UNSET,
        proplet_id=attempt.proplet_id,
    )


def _directed(start: Start, task: Task, run: Run, seed: int, config: ManagerConfig) -> Start:
    """The additions of protocol 2: which attempt this is, the module by hash, limits, token and seed."""
    attempt = run.attempts[-1]
    start = msgspec.structs.replace(
        start, run=run.number, attempt=attempt.number, limits=_limits(task), module=_module(task, config)
    )
    if run.image_digest:
        start = msgspec.structs.replace(start, image_url=image_of(task, run, config))
    if task.replica and task.daemon:
        start = msgspec.structs.replace(start, metrics_s=limits.REPLICA_METRICS_S)
    if not task.federated:
        return start
    token = make_token(config.fl_secret, task.round_id, attempt.proplet_id) if config.fl_secret else UNSET
    own_seed = trainer_seed(seed, task.round_id, attempt.proplet_id)
    return msgspec.structs.replace(start, update_token=token, seed=own_seed)


def _limits(task: Task) -> TaskLimits:
    own = task.limits
    return TaskLimits(
        wall_s=own.wall_s, cpu_s=own.cpu_s, memory_bytes=own.memory_bytes, stdout_bytes=own.stdout_bytes
    )


def _module(task: Task, config: ManagerConfig) -> ModuleRef | msgspec.UnsetType:
    if not task.file_sha256:
        return UNSET
    return ModuleRef(sha256=task.file_sha256, url=module_url(config, task.file_sha256), bytes=task.file_bytes)


def image_of(task: Task, run: Run | None, config: ManagerConfig) -> str:
    """The task's image as proplets reach it; as it was when the run began, if that is known."""
    image = aliased_image(task.image_url, config.aliases)
    return f"{image}@{run.image_digest}" if run and run.image_digest else image


def module_url(config: ManagerConfig, digest: str) -> str:
    """Where proplets fetch an inline module."""
    return f"{config.public_url}/blobs/{digest}"


async def _legacy_module(
    start: Start, task: Task, proplet: Proplet | None, config: ManagerConfig, blobs: Blobs
) -> Start:
    """Inline modules for the original's proplets: embedded ones take the bytes, the others a URL."""
    if not task.file_sha256:
        return start
    if proplet is not None and proplet.embedded:
        content = await blobs.get(task.file_sha256)
        return msgspec.structs.replace(start, file=base64.b64encode(content).decode())
    return msgspec.structs.replace(start, image_url=module_url(config, task.file_sha256))


def _numbers(inputs: tuple[str, ...]) -> list[str | int | float]:
    """Inputs as the original's microcontrollers read them: numbers; what is no number stays text."""
    found: list[str | int | float] = []
    for text in inputs:
        try:
            found.append(int(text) if _INTEGER.fullmatch(text) else msgspec.json.decode(text, type=float))
        except msgspec.DecodeError:
            found.append(text)
    return found


def dispatch_env(task: Task, config: ManagerConfig) -> dict[str, str]:
    """The task's environment as its proplet gets it.

    Values that are URLs have their alias resolved; a federated task also gets the services' addresses that
    it does not name itself, the coordinator's under both of its names.
    """
    env = {name: aliased_url(value, config.aliases) for name, value in task.env.items()}
    if not task.federated:
        return env
    coordinator = env.get("COORDINATOR_URL") or env.get("MANAGER_COORDINATOR_URL") or config.coordinator_url
    services = {
        "COORDINATOR_URL": coordinator,
        "MANAGER_COORDINATOR_URL": coordinator,
        "MODEL_REGISTRY_URL": config.model_registry_url,
        "DATA_STORE_URL": config.data_store_url,
    }
    return {name: url for name, url in services.items() if url} | env


def aliased_url(value: str, aliases: Mapping[str, str]) -> str:
    """`value` with its host:port replaced if it is an HTTP URL of an alias; any other text unchanged."""
    parts = _HTTP_URL.fullmatch(value)
    if parts is None or parts[2] not in aliases:
        return value
    return f"{parts[1]}{aliases[parts[2]]}{parts[3]}"


def aliased_image(reference: str, aliases: Mapping[str, str]) -> str:
    """An image reference or URL with its registry's alias resolved."""
    if reference.startswith(("http://", "https://")):
        return aliased_url(reference, aliases)
    scheme, bare = ("oci://", reference[6:]) if reference.startswith("oci://") else ("", reference)
    host, slash, rest = bare.partition("/")
    return f"{scheme}{aliases.get(host, host)}{slash}{rest}"
