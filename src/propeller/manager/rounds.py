"""Launches training rounds: tasks for every participant, once, whatever crashes in between.

The steps of a launch are stored intent with held tasks → registered at the coordinator → tasks started →
stored as launched. Each can be repeated, so a restart walks them again for every launch that is not done.
It must not know what an update or a model is.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from propeller import limits
from propeller.core.ids import check_id, new_id
from propeller.core.task import Task, TaskLimits, define
from propeller.errors import BadInput, Conflict, NotFound, PeerUnavailable, PropellerError, Unsupported
from propeller.fl.launch import Launch, LaunchState
from propeller.fl.strategies.registry import strategy, told
from propeller.manager.config import ManagerConfig
from propeller.manager.coordinator import CoordinatorClient
from propeller.manager.tasks import Tasks
from propeller.ports import Bus, Clock, Message
from propeller.stores import DropLaunch, DropTask, ManagerChange, ManagerStore, SaveLaunch, SaveTask
from propeller.telemetry.logs import about, logger
from propeller.wire import codec
from propeller.wire.experiments import ExperimentBody
from propeller.wire.messages import RoundClosed, RoundComplete, RoundLaunched, RoundStart

_RETRY_S = 2.0
"""Pause before a launch found unfinished at the start is tried again."""


class Rounds:
    """Launches and closes rounds for one manager."""

    def __init__(
        self,
        *,
        config: ManagerConfig,
        store: ManagerStore,
        tasks: Tasks,
        bus: Bus,
        clock: Clock,
        random: Random,
        coordinator: CoordinatorClient | None,
    ) -> None:
        self._config = config
        self._store = store
        self._tasks = tasks
        self._bus = bus
        self._clock = clock
        self._random = random
        self._coordinator = coordinator
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # --- requests --------------------------------------------------------------------------------------

    async def configure(self, body: bytes) -> dict[str, str]:
        """`POST /fl/experiments`: register the experiment and launch its first round.

        The same body again is answered alike; another body for the same round id raises `Conflict`. When the
        coordinator refuses or cannot be reached, nothing stays behind and its error is raised.
        """
        asked = codec.decode(
            ExperimentBody, body, what="the experiment", limit_bytes=limits.HTTP_BODY_BYTES_MAX
        )
        round_id = _round_id(asked)
        experiment_id = asked.experiment_id or round_id
        asked = msgspec.structs.replace(asked, round_id=round_id, experiment_id=experiment_id)
        launch = self._intent(asked, round_id)
        with about(round_id=round_id):
            await self._launch(launch, asked)
        return {"experiment_id": experiment_id, "round_id": round_id, "status": "configured"}

    async def announced(self, start: RoundStart) -> None:
        """`rounds/start` arrived: our own echo, the coordinator's next round, or an external trigger's."""
        with about(round_id=start.round_id):
            try:
                asked = _asked(start)
                launch = replace(self._intent(asked, _round_id(asked)), announced=True)
                await self._launch(launch, asked)
            except PeerUnavailable as error:
                logger().warning("round not launched yet", error=error.message)
            except PropellerError as error:
                logger().warning("round refused", error=error.message, code=error.reason)
                await self._say_launched(RoundLaunched(round_id=start.round_id, refused=error.message))

    async def completed(self, end: RoundComplete) -> None:
        """`complete` arrived: stop what is left of the round, then tell the coordinator that it is closed."""
        with about(round_id=end.round_id):
            async with self._turn(end.round_id):
                launch = await self._store.launch(end.round_id)
                if launch is not None and launch.state is not LaunchState.CLOSED:
                    await self._close(launch, end)
            closed = codec.encode(RoundClosed(round_id=end.round_id))
            await self._bus.publish(Message(self._config.topics.round_closed(end.round_id), closed))

    async def resume(self) -> None:
        """Finish every launch that a crash left as an intent; returns when none is left."""
        pending = [
            launch for launch in await self._store.open_launches() if launch.state is LaunchState.INTENT
        ]
        while pending:
            pending = [launch for launch in pending if not await self._resumed(launch)]
            if pending:
                await asyncio.sleep(_RETRY_S)

    # --- launching -------------------------------------------------------------------------------------

    def _intent(self, asked: ExperimentBody, round_id: str) -> Launch:
        self._check(asked)
        tasks = {participant: new_id(self._random) for participant in asked.participants or ()}
        return Launch(round_id=round_id, body=codec.encode(asked), tasks=tasks, seed=asked.seed or 0)

    def _check(self, asked: ExperimentBody) -> None:
        for name in ("model_ref", "task_wasm_image", "participants"):
            if not getattr(asked, name):
                raise BadInput(f"{name} is missing: an experiment needs it", code=f"missing_{name}")
        participants = asked.participants or []
        if len(set(participants)) != len(participants):
            raise BadInput("participants names a proplet twice", code="duplicate_participant")
        known = {proplet.id for proplet, _, _ in self._tasks.proplets()}
        for participant in participants:
            check_id(participant, "participant")
            if participant not in known:
                raise NotFound(
                    f"participant {participant} is not a registered proplet", code="unknown_participant"
                )
        if asked.k_of_n is not None and not 0 <= asked.k_of_n <= len(participants):
            raise BadInput(f"k_of_n is {asked.k_of_n} of {len(participants)} participants", code="bad_k_of_n")
        timeout_s = asked.timeout_s or limits.ROUND_TIMEOUT_S
        if not 0 < timeout_s <= limits.ROUND_TIMEOUT_S_MAX:
            raise BadInput(f"timeout_s must be above 0 and at most {limits.ROUND_TIMEOUT_S_MAX:g}")

    async def _launch(self, launch: Launch, asked: ExperimentBody) -> None:
        if self._coordinator is None:
            raise Unsupported(
                "this manager has no coordinator: start it with a coordinator URL", code="no_coordinator"
            )
        async with self._turn(launch.round_id):
            known = await self._store.launch(launch.round_id)
            if known is not None:
                _check_same(known, launch)
                launch = known
            else:
                await self._store.commit(self._held(launch, asked))
            if launch.state is LaunchState.INTENT:
                await self._carry_out(launch, fresh=known is None)
        await self._say_launched(RoundLaunched(round_id=launch.round_id, tasks=len(launch.tasks)))

    def _held(self, launch: Launch, asked: ExperimentBody) -> list[ManagerChange]:
        now_s = self._clock.now().wall_s
        tasks = [
            _task(task_id, participant, launch.round_id, asked, now_s)
            for participant, task_id in launch.tasks.items()
        ]
        return [
            SaveLaunch(launch=launch, new=True),
            *(SaveTask(task=define(task), new=True) for task in tasks),
        ]

    async def _carry_out(self, launch: Launch, *, fresh: bool) -> None:
        """From a stored intent to started tasks.

        On refusal or silence a fresh intent is withdrawn. One that a crash left behind may have begun, and
        stays for `resume`.
        """
        if self._coordinator is None:
            raise Unsupported("this manager has no coordinator", code="no_coordinator")
        try:
            await self._registered(launch, self._coordinator)
        except PropellerError:
            if fresh:
                await self._withdraw(launch)
            raise
        await self._start_all(launch)
        await self._publish_notice(launch)

    async def _registered(self, launch: Launch, coordinator: CoordinatorClient) -> None:
        """Make sure that the coordinator has this round; raises why it cannot.

        A round that a message announced is either the coordinator's own next one, which must then agree, or
        an external trigger's, which is registered now.
        """
        known = await coordinator.round(launch.round_id) if launch.announced else None
        if known is None:
            await coordinator.register(launch.body)
            return
        if known.over:
            raise Conflict(f"round {launch.round_id} is {known.state}", code="round_closed")
        if sorted(known.participants) != sorted(launch.tasks):
            raise Conflict(
                f"round {launch.round_id} is registered with other participants", code="round_exists"
            )

    async def _start_all(self, launch: Launch) -> None:
        for task_id in launch.tasks.values():
            record = await self._store.task(task_id)
            if record.run is None:
                await self._tasks.start(task_id, cause=f"round {launch.round_id}")
        await self._store.commit([SaveLaunch(launch=launch.to(LaunchState.LAUNCHED))])
        logger().info("round launched", tasks=len(launch.tasks))

    async def _withdraw(self, launch: Launch) -> None:
        drops = [DropTask(task_id=task_id) for task_id in launch.tasks.values()]
        await self._store.commit([DropLaunch(round_id=launch.round_id), *drops])

    async def _resumed(self, launch: Launch) -> bool:
        """Whether an interrupted launch is settled: carried out, or refused for good."""
        with about(round_id=launch.round_id):
            async with self._turn(launch.round_id):
                # A request may have carried it out or withdrawn it since it was listed.
                current = await self._store.launch(launch.round_id)
                if self._coordinator is None or current is None or current.state is not LaunchState.INTENT:
                    return True
                try:
                    await self._registered(launch, self._coordinator)
                except PeerUnavailable as error:
                    logger().warning("launch not resumed yet", error=error.message)
                    return False
                except PropellerError as error:
                    logger().warning("launch withdrawn", error=error.message, code=error.reason)
                    await self._withdraw(launch)
                    return True
                await self._start_all(launch)
        return True

    async def _close(self, launch: Launch, end: RoundComplete) -> None:
        """Stop the tasks of those who did not contribute; the others are about to end by themselves."""
        for participant, task_id in launch.tasks.items():
            if participant not in end.contributors:
                why = f"round {launch.round_id} is {end.state}"
                await self._tasks.stop(task_id, reason=why, cause="round")
        await self._store.commit([SaveLaunch(launch=launch.to(LaunchState.CLOSED))])
        logger().info("round closed", state=end.state, model_version=end.model_version)

    # --- messages --------------------------------------------------------------------------------------

    async def _publish_notice(self, launch: Launch) -> None:
        """Tell whoever listens that a round began; our own echo is recognised by its round id."""
        asked = codec.decode(ExperimentBody, launch.body, what="the launch", limit_bytes=len(launch.body))
        notice = RoundStart(
            round_id=launch.round_id,
            model_uri=asked.model_ref or "",
            task_wasm_image=asked.task_wasm_image or "",
            participants=asked.participants or [],
            hyperparams=_hyperparams(asked),
            k_of_n=asked.k_of_n or 0,
            timeout_s=asked.timeout_s or 0,
            experiment_id=asked.experiment_id or "",
            seed=launch.seed,
        )
        await self._bus.publish(Message(self._config.topics.rounds_start(), codec.encode(notice)))

    async def _say_launched(self, said: RoundLaunched) -> None:
        await self._bus.publish(
            Message(self._config.topics.round_launched(said.round_id), codec.encode(said))
        )

    @asynccontextmanager
    async def _turn(self, round_id: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(round_id, asyncio.Lock())
        async with lock:
            yield


def _round_id(asked: ExperimentBody) -> str:
    """The round's id: given, or the experiment's first."""
    if asked.round_id:
        return check_id(asked.round_id, "round_id")
    if asked.experiment_id:
        return check_id(f"{asked.experiment_id}-1", "round_id")
    raise BadInput("round_id is missing: give the round or the experiment an id", code="missing_round_id")


def _asked(start: RoundStart) -> ExperimentBody:
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
    )


def _check_same(known: Launch, asked: Launch) -> None:
    """A request repeats a known round only with the same body; a message for one is an echo."""
    if not asked.announced and known.digest != asked.digest:
        raise Conflict(
            f"round {asked.round_id} exists with another configuration; use a new round_id",
            code="round_exists",
        )


def _hyperparams(asked: ExperimentBody) -> dict[str, Any] | None:
    """What the trainers are told: the experiment's own, and what its strategy adds. Raises `BadInput`."""
    chosen = asked.chosen
    found = told(strategy(chosen.name), chosen.options or {}, asked.hyperparams)
    return None if found is None else dict(found)


def _task(task_id: str, participant: str, round_id: str, asked: ExperimentBody, now_s: float) -> Task:
    env = {"ROUND_ID": round_id, "MODEL_URI": asked.model_ref or ""}
    if (hyperparams := _hyperparams(asked)) is not None:
        env["HYPERPARAMS"] = msgspec.json.encode(hyperparams).decode()
    timeout_s = asked.timeout_s or limits.ROUND_TIMEOUT_S
    return Task(
        id=task_id,
        name=f"fl-round-{round_id}-{participant}",
        kind="federated",
        created_at_s=now_s,
        updated_at_s=now_s,
        image_url=asked.task_wasm_image or "",
        env=env,
        proplet_id=participant,
        mode="train",
        # A little longer than the round, so that the round's end, not the wait's, is what ends the task.
        wait_s=timeout_s + limits.ROUND_TASK_GRACE_S,
        limits=TaskLimits(wall_s=min(timeout_s, limits.GUEST_WALL_S_MAX)),
    )
