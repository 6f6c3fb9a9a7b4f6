"""From a round that was asked for to the tasks of its participants, and back to a notice. Pure.

It must not know how rounds are launched, nor what an update is.
"""

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

import msgspec

from propeller import limits
from propeller.core.constraints import Constraint, holds
from propeller.core.ids import check_id
from propeller.core.proplet import Proplet
from propeller.core.task import Task, TaskLimits
from propeller.errors import BadInput, Conflict, NotFound, PeerUnavailable
from propeller.fl.launch import Launch
from propeller.fl.selection import Selection, draw
from propeller.wire import codec
from propeller.wire.experiments import ExperimentBody, LateBody, SelectorBody
from propeller.wire.rounds import RoundStart


def round_id_of(asked: ExperimentBody) -> str:
    """The round's id: given, or the experiment's first."""
    if asked.round_id:
        return check_id(asked.round_id, "round_id")
    if asked.experiment_id:
        return check_id(f"{asked.experiment_id}-1", "round_id")
    raise BadInput("round_id is missing: give the round or the experiment an id", code="missing_round_id")


def asked_by(start: RoundStart) -> ExperimentBody:
    """What `rounds/start` asks for."""
    return ExperimentBody(
        experiment_id=start.experiment_id or start.round_id,
        round_id=start.round_id,
        model_ref=start.model_uri,
        participants=start.participants,
        hyperparams=start.hyperparams,
        timeout_s=start.timeout_s or None,
        k_of_n=start.k_of_n or None,
        task_wasm_image=start.task_wasm_image,
        seed=start.seed,
        selector=start.selector,
        mode=None if start.mode == "train" else start.mode,
        data_part=start.data_part or None,
        update_format=start.update_format or None,
        files=start.files or None,
        late=start.late,
    )


def asked_of(launch: Launch) -> ExperimentBody:
    """What a stored launch asks for."""
    return codec.decode(ExperimentBody, launch.body, what="the launch", limit_bytes=len(launch.body))


def load_strategies() -> None:
    """Have the strategies at hand. They bring numpy, which takes a while and 20 MB: beside the loop, please.

    A manager that never launches a round never needs them.
    """
    import_module("propeller.fl.strategies.registry")


def notice_of(launch: Launch) -> RoundStart:
    """Tells whoever listens that a round began; our own echo is recognised by its round id."""
    asked = asked_of(launch)
    return RoundStart(
        round_id=launch.round_id,
        model_uri=asked.model_ref or "",
        task_wasm_image=asked.task_wasm_image or "",
        participants=asked.participants or [],
        hyperparams=_hyperparams(asked),
        k_of_n=asked.k_of_n or 0,
        timeout_s=asked.timeout_s or 0,
        experiment_id=asked.experiment_id or "",
        seed=launch.seed,
        mode=asked.mode or "train",
        data_part=_part(asked),
        update_format=asked.update_format or "",
        files=_files(asked),
        late=asked.late,
    )


def check_same(known: Launch, asked: ExperimentBody) -> None:
    """A request repeats a known round only if it asks for the same, however it spells it."""
    stored = asked_of(known)
    if known.artifact and asked.model_ref == known.artifact:
        # What the tag means now does not matter: the round began from what it meant then.
        asked = msgspec.structs.replace(asked, model_ref=stored.model_ref, model_source=stored.model_source)
    if stored.digest != asked.digest:
        raise Conflict(
            f"round {known.round_id} exists with another configuration; use a new round_id",
            code="round_exists",
        )


def check_asked(asked: ExperimentBody, known: Sequence[Proplet]) -> None:
    """Raise what is wrong with a round that names its participants; all must be `known`."""
    for name in ("model_ref", "task_wasm_image", "participants"):
        if not getattr(asked, name):
            raise BadInput(f"{name} is missing: an experiment needs it", code=f"missing_{name}")
    participants = asked.participants or []
    if len(set(participants)) != len(participants):
        raise BadInput("participants names a proplet twice", code="duplicate_participant")
    ids = {proplet.id for proplet in known}
    for participant in participants:
        check_id(participant, "participant")
        if participant not in ids:
            raise NotFound(
                f"participant {participant} is not a registered proplet", code="unknown_participant"
            )
    if asked.k_of_n is not None and not 0 <= asked.k_of_n <= len(participants):
        raise BadInput(f"k_of_n is {asked.k_of_n} of {len(participants)} participants", code="bad_k_of_n")
    timeout_s = asked.timeout_s or limits.ROUND_TIMEOUT_S
    if not 0 < timeout_s <= limits.ROUND_TIMEOUT_S_MAX:
        raise BadInput(f"timeout_s must be above 0 and at most {limits.ROUND_TIMEOUT_S_MAX:g}")


def drawn(asked: ExperimentBody, fleet: Iterable[tuple[Proplet, bool]]) -> ExperimentBody:
    """The same round with its participants drawn from the `fleet` (proplet, whether it can take work).

    One that names its participants is left as it is. Raises `PeerUnavailable` while too few are connected.
    """
    if asked.selector is None:
        return asked
    selector: SelectorBody = asked.selector
    named = set(asked.participants or ())
    pool = [
        (proplet.id, connected)
        for proplet, connected in fleet
        if (proplet.id in named if named else _labelled(proplet, selector))
    ]
    found = draw(
        Selection(**msgspec.structs.asdict(selector)),
        named or {name for name, _ in pool},
        [name for name, connected in pool if connected],
        seed=asked.seed or 0,
        round_id=asked.round_id or "",
    )
    if found is None:
        here = sum(connected for _, connected in pool)
        raise PeerUnavailable(
            f"round {asked.round_id} waits: {here} of its {len(named or pool)} candidates are connected, "
            "too few for its selector",
            code="too_few_connected",
        )
    return msgspec.structs.replace(
        asked, participants=list(found.participants), k_of_n=found.k, selector=None
    )


def _labelled(proplet: Proplet, selector: SelectorBody) -> bool:
    wanted = selector.labels.items()
    return all(holds(proplet, Constraint(attribute=f"labels.{name}", value=value)) for name, value in wanted)


def _hyperparams(asked: ExperimentBody) -> dict[str, Any] | None:
    """What the trainers are told: the experiment's own, and what its strategy adds. Raises `BadInput`."""
    from propeller.fl.strategies.registry import strategy, told  # noqa: PLC0415 - see `load_strategies`

    chosen = asked.chosen
    found = told(strategy(chosen.name), chosen.options or {}, asked.hyperparams)
    return None if found is None else dict(found)


def _files(asked: ExperimentBody) -> bool:
    """Whether trainers are given files, so that they can keep what their strategy needs."""
    from propeller.fl.strategies.registry import strategy  # noqa: PLC0415 - see `load_strategies`

    return bool(asked.files) or strategy(asked.chosen.name).clients_remember


def _part(asked: ExperimentBody) -> Any:
    """Which part of its data a participant uses; empty: all of it."""
    if asked.data_part:
        return asked.data_part
    return "test" if asked.mode == "infer" else "train" if asked.evaluation else ""


def task_of(task_id: str, participant: str, asked: ExperimentBody, now_s: float) -> Task:
    """The held task of one participant."""
    round_id = round_id_of(asked)
    timeout_s = (asked.timeout_s or limits.ROUND_TIMEOUT_S) * _rounds_allowed(asked)
    return Task(
        id=task_id,
        name=f"fl-round-{round_id}-{participant}",
        kind="federated",
        created_at_s=now_s,
        updated_at_s=now_s,
        image_url=asked.task_wasm_image or "",
        env=_env(round_id, asked),
        proplet_id=participant,
        mode=asked.mode or "train",
        # A little longer than the round, so that the round's end, not the wait's, is what ends the task.
        wait_s=timeout_s + limits.ROUND_TASK_GRACE_S,
        limits=TaskLimits(wall_s=min(timeout_s, limits.GUEST_WALL_S_MAX)),
    )


def _rounds_allowed(asked: ExperimentBody) -> int:
    """For how many rounds the task is of use: its update may count in a later one."""
    from propeller.fl.strategies.fedbuff import FedBuff  # noqa: PLC0415 - see `load_strategies`

    asynchronous = asked.chosen.name == FedBuff.name
    late = asked.late or (LateBody() if asynchronous else None)
    return 1 if late is None or late.policy == "drop" else 1 + late.staleness_max


def _env(round_id: str, asked: ExperimentBody) -> dict[str, str]:
    env = {"ROUND_ID": round_id, "MODEL_URI": asked.model_ref or ""}
    if (hyperparams := _hyperparams(asked)) is not None:
        env["HYPERPARAMS"] = msgspec.json.encode(hyperparams).decode()
    more = {
        "FL_MODE": "evaluate" if asked.mode == "infer" else "",
        "FL_DATA_PART": _part(asked),
        "FL_FORMAT": asked.update_format or "",
        # What a trainer remembers is kept by this name.
        "FL_JOB_ID": asked.experiment_id or "",
        "FL_ABI": "files" if _files(asked) else "",
    }
    return env | {name: value for name, value in more.items() if value}
