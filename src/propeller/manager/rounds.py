"""Launches training rounds: tasks for every participant, once, whatever crashes in between.

The steps of a launch are stored intent with held tasks → registered at the coordinator → tasks started →
stored as launched. Each can be repeated, so a restart walks them again for every launch that is not done.
It must not know what an update or a model is.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from random import Random

import msgspec

from propeller import limits
from propeller.core.events import SaveTask
from propeller.core.ids import check_id, new_id
from propeller.core.task import define
from propeller.errors import (
    CallerError,
    Conflict,
    DecodeError,
    NotFound,
    PeerRefused,
    PropellerError,
    Unsupported,
)
from propeller.fl.launch import Launch, LaunchState
from propeller.fl.model_ref import is_artifact
from propeller.http.server import Offload
from propeller.manager.config import ManagerConfig
from propeller.manager.coordinator import CoordinatorClient
from propeller.manager.round_work import (
    asked_by,
    asked_of,
    check_asked,
    check_same,
    drawn,
    load_strategies,
    notice_of,
    round_id_of,
    task_of,
)
from propeller.manager.tasks import Tasks
from propeller.manager.turns import Turns, each
from propeller.ports import Bus, Clock, Message
from propeller.stores.manager import DropLaunch, ManagerChange, ManagerStore, SaveLaunch
from propeller.telemetry.logs import about, logger
from propeller.wire import codec
from propeller.wire.experiments import ExperimentBody
from propeller.wire.rounds import RoundClosed, RoundComplete, RoundLaunched, RoundStart
from propeller.wire.topics import RoundTopic

_RETRY_S = 2.0
"""Pause before a launch that was found unfinished is tried again."""
_FINAL = (CallerError, PeerRefused)
"""Errors that the same request would meet again."""


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
        offload: Offload,
    ) -> None:
        self._offload = offload
        self._config = config
        self._store = store
        self._tasks = tasks
        self._bus = bus
        self._clock = clock
        self._random = random
        self._coordinator = coordinator
        self._loaded = False
        """Whether the strategies are at hand."""
        self._unsettled = asyncio.Event()
        """Set when an intent is left behind."""
        self._turns = Turns()

    # --- requests --------------------------------------------------------------------------------------

    async def configure(self, body: bytes) -> dict[str, str]:
        """`POST /fl/experiments`: register the experiment and launch its first round.

        The same body again is answered alike; another body for the same round id raises `Conflict`. When the
        coordinator refuses or cannot be reached, nothing stays behind and its error is raised.
        """
        most = limits.HTTP_BODY_BYTES_MAX
        asked = codec.decode(ExperimentBody, body, what="the experiment", limit_bytes=most, strict=True)
        round_id = round_id_of(asked)
        experiment_id = asked.experiment_id or round_id
        asked = msgspec.structs.replace(asked, round_id=round_id, experiment_id=experiment_id)
        with about(round_id=round_id):
            if asked.selector is None:
                await self._launch(asked, announced=False)
            else:
                # The coordinator keeps asking for its first round until enough participants are connected.
                await self._its_coordinator().register(codec.encode(asked))
        return {"experiment_id": experiment_id, "round_id": round_id, "status": "configured"}

    async def announced(self, start: RoundStart) -> None:
        """`rounds/start` arrived: our own echo, the coordinator's next round, or an external trigger's.

        Raises `BadInput` for what is no round id. A failure of ours or of the coordinator's is no refusal:
        the coordinator repeats its message, and what another one asked for stays until `resume` succeeds.
        """
        check_id(start.round_id, "round_id")
        with about(round_id=start.round_id):
            try:
                await self._launch(asked_by(start), announced=True)
            except _FINAL as error:
                logger().warning("round refused", error=error.message, code=error.reason)
                await self._refuse(start.round_id, start.participants, error)
            except PropellerError as error:
                logger().warning("round not launched yet", error=error.message)

    async def completed(self, end: RoundComplete) -> None:
        """`complete` arrived: stop what is left of the round, then tell the coordinator that it is closed."""
        with about(round_id=end.round_id):
            async with self._turns.of(end.round_id):
                await self._tasks.contributed(end.round_id, end.contributors)
                launch = await self._store.launch(end.round_id)
                if launch is not None and launch.state is not LaunchState.CLOSED:
                    await self._close(launch, end)
            await each(end.stragglers.items(), lambda one: self._stop_straggler(*one))
            closed = codec.encode(RoundClosed(round_id=end.round_id))
            await self._bus.publish(Message(self._config.topics.round_closed(end.round_id), closed))

    async def resume(self) -> None:
        """Finish every launch that a crash or a failed step left as an intent, until cancelled."""
        while True:
            self._unsettled.clear()
            if await self._all_resumed():
                await self._unsettled.wait()
            else:
                await asyncio.sleep(_RETRY_S)

    # --- launching -------------------------------------------------------------------------------------

    async def _intent(self, asked: ExperimentBody, round_id: str, *, announced: bool) -> Launch:
        check_asked(asked, [proplet for proplet, _, _ in self._tasks.proplets()])
        artifact = asked.model_ref if is_artifact(asked.model_ref or "") else ""
        if artifact:
            # Nothing is stored before: while the registry cannot be reached, the caller is told so.
            pulled = await self._its_coordinator().pull(artifact)
            asked = msgspec.structs.replace(asked, model_ref=pulled.model_ref, model_source=pulled.reference)
        tasks = {participant: new_id(self._random) for participant in asked.participants or ()}
        return Launch(
            round_id=round_id,
            body=codec.encode(asked),
            tasks=tasks,
            seed=asked.seed or 0,
            announced=announced,
            artifact=artifact or "",
        )

    def _drawn(self, asked: ExperimentBody) -> ExperimentBody:
        fleet = [(proplet, alive and proplet.open) for proplet, alive, _ in self._tasks.proplets()]
        return drawn(asked, fleet)

    async def _launch(self, asked: ExperimentBody, *, announced: bool) -> None:
        """Launch the round unless that was done; a known one is not checked against today's fleet."""
        round_id = round_id_of(asked)
        if not self._loaded:
            await self._offload(load_strategies)
            self._loaded = True
        async with self._turns.of(round_id):
            launch = await self._store.launch(round_id)
            fresh = launch is None
            if launch is None:
                asked = self._drawn(asked)
                launch = await self._intent(asked, round_id, announced=announced)
                self._its_coordinator()
                await self._store.commit(self._held(launch))
            elif not announced:
                check_same(launch, asked)
            if launch.state is LaunchState.INTENT:
                await self._carry_out(launch, fresh=fresh)
        await self._say_launched(RoundLaunched(round_id=round_id, tasks=len(launch.tasks)))

    def _its_coordinator(self) -> CoordinatorClient:
        if self._coordinator is None:
            raise Unsupported(
                "this manager has no coordinator: start it with a coordinator URL", code="no_coordinator"
            )
        return self._coordinator

    def _held(self, launch: Launch) -> list[ManagerChange]:
        now_s, asked = self._clock.now().wall_s, asked_of(launch)
        tasks = [task_of(task_id, participant, asked, now_s) for participant, task_id in launch.tasks.items()]
        return [
            SaveLaunch(launch=launch, new=True),
            *(SaveTask(task=define(task), new=True) for task in tasks),
        ]

    async def _carry_out(self, launch: Launch, *, fresh: bool) -> None:
        """From a stored intent to started tasks.

        On refusal or silence of the coordinator a fresh intent is withdrawn, but not for silence if a message
        asked for it: its sender does not hear of that. Others may have begun, and are left to `resume`.
        """
        try:
            await self._register_or_withdraw(launch, fresh=fresh)
            await self._start_all(launch)
        except BaseException:
            self._unsettled.set()
            raise
        await self._publish_notice(launch)

    async def _register_or_withdraw(self, launch: Launch, *, fresh: bool) -> None:
        try:
            await self._registered(launch, self._its_coordinator())
        except PropellerError as error:
            if fresh and (isinstance(error, _FINAL) or not launch.announced):
                await self._withdraw(launch)
            raise

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
        if not known.participants:
            await coordinator.drawn(launch.round_id, launch.tasks, asked_of(launch).k_of_n or 0)
        elif sorted(known.participants) != sorted(launch.tasks):
            raise Conflict(
                f"round {launch.round_id} is registered with other participants", code="round_exists"
            )

    async def _start_all(self, launch: Launch) -> None:
        await each(launch.tasks.values(), lambda task_id: self._start_held(task_id, launch))
        await self._store.commit([SaveLaunch(launch=launch.to(LaunchState.LAUNCHED))])
        logger().info("round launched", tasks=len(launch.tasks))

    async def _start_held(self, task_id: str, launch: Launch) -> None:
        """Start a held task once. One that was deleted, or whose proplet was, is left out of the round."""
        try:
            record = await self._store.task(task_id)
            if not record.latest_run:
                await self._tasks.start(task_id, cause=f"round {launch.round_id}")
        except (NotFound, Conflict) as error:
            logger().warning("task not started for the round", task_id=task_id, error=error.message)

    async def _withdraw(self, launch: Launch) -> None:
        await self._tasks.withdraw(launch.tasks.values(), DropLaunch(round_id=launch.round_id))

    async def _all_resumed(self) -> bool:
        try:
            found = await self._store.open_launches()
            intents = [launch.round_id for launch in found if launch.state is LaunchState.INTENT]
            return all([await self._resumed(round_id) for round_id in intents])
        except PropellerError as error:
            logger().warning("launches not resumed yet", error=error.message, code=error.reason)
            return False

    async def _resumed(self, round_id: str) -> bool:
        """Whether an interrupted launch is settled: carried out, or refused for good."""
        with about(round_id=round_id):
            async with self._turns.of(round_id):
                # A request may have carried it out or withdrawn it since it was listed.
                launch = await self._store.launch(round_id)
                if self._coordinator is None or launch is None or launch.state is not LaunchState.INTENT:
                    return True
                try:
                    await self._registered(launch, self._coordinator)
                except _FINAL as error:
                    logger().warning("launch withdrawn", error=error.message, code=error.reason)
                    await self._withdraw(launch)
                    if launch.announced:
                        await self._refuse(round_id, launch.tasks, error)
                else:
                    await self._start_all(launch)
                    await self._say_launched(RoundLaunched(round_id=round_id, tasks=len(launch.tasks)))
        return True

    async def _close(self, launch: Launch, end: RoundComplete) -> None:
        """Stop the tasks of those who did not contribute; the others are about to end by themselves."""
        why = f"round {launch.round_id} is {end.state}"
        others = [task for name, task in launch.tasks.items() if name not in end.contributors]
        await each(others, lambda task_id: self._stop(task_id, why))
        await self._store.commit([SaveLaunch(launch=launch.to(LaunchState.CLOSED))])
        logger().info("round closed", state=end.state, model_version=end.model_version)

    async def _stop_straggler(self, participant: str, round_id: str) -> None:
        """Stop a task of an earlier round that was left alone because its update might have counted."""
        launch = await self._store.launch(round_id)
        if launch is not None and participant in launch.tasks:
            await self._stop(launch.tasks[participant], "the experiment is over")

    async def _stop(self, task_id: str, why: str) -> None:
        with suppress(NotFound):  # its user deleted it
            await self._tasks.stop(task_id, reason=why, cause="round")

    # --- messages --------------------------------------------------------------------------------------

    async def _publish_notice(self, launch: Launch) -> None:
        topic = self._config.topics.rounds_start()
        await self._bus.publish(Message(topic, codec.encode(notice_of(launch))))

    async def forward(self, topic: RoundTopic, payload: bytes) -> None:
        """Pass an update of the older application on as its manager did: whose it is, the topic says.

        The coordinator hears the first as well, and counts both once.
        """
        try:
            update = codec.decode(dict[str, msgspec.Raw], payload, what="the update")
        except DecodeError as error:
            logger().warning("update not forwarded", round_id=topic.round_id, error=error.message)
            return
        at = datetime.fromtimestamp(self._clock.now().wall_s, UTC).isoformat(timespec="seconds")
        own = {"round_id": topic.round_id, "proplet_id": topic.participant, "forwarded_at": at}
        whole = {**update, **{name: msgspec.Raw(codec.encode(value)) for name, value in own.items()}}
        await self._bus.publish(Message(self._config.topics.forwarded_updates(), codec.encode(whole)))

    async def _refuse(self, round_id: str, participants: Iterable[str], error: PropellerError) -> None:
        """Say why the round can never be launched, unless the coordinator has another round of that id.

        Anybody who may ask for rounds could otherwise end the next round of an experiment by asking for it
        with other participants.
        """
        if self._coordinator is not None:
            known = await self._coordinator.round(round_id)
            if known is not None and sorted(known.participants) not in ([], sorted(participants)):
                return
        await self._say_launched(RoundLaunched(round_id=round_id, refused=error.message))

    async def _say_launched(self, said: RoundLaunched) -> None:
        await self._bus.publish(
            Message(self._config.topics.round_launched(said.round_id), codec.encode(said))
        )
