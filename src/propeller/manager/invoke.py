"""Calls of latent tasks: one message out, one answer back, in one request. Stores nothing, repeats nothing.

A call is at most once. The answer belongs to it by an id that nobody can guess, and on the directed lane it
counts only from the proplet that was asked.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from random import Random

from msgspec import UNSET

from propeller import limits
from propeller.core.engine import Engine
from propeller.core.ids import new_id
from propeller.core.ledger import Now
from propeller.core.run import Attempt, AttemptState, Run, RunState
from propeller.core.service import ServiceState
from propeller.errors import BadInput, Conflict, PeerError, PeerRefused, PeerUnavailable, TooLarge
from propeller.ports import Bus, Clock, Message
from propeller.stores.manager import ManagerStore
from propeller.wire import codec
from propeller.wire.messages import Invoke, InvokeResult
from propeller.wire.tasks import InvokeBody
from propeller.wire.topics import ControlTopic, FromManager, Topics

WAIT_S = 28.0
"""An answer is waited for as long as this: a little less than most clients wait for theirs."""
CALLS_MAX = 4096
"""Calls that wait at once; further ones are refused, as every one holds a connection."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One call on its way, and who may answer it: on the legacy lane nobody is proven (`proplet_id` None)."""

    answer: "asyncio.Future[InvokeResult]"
    proplet_id: str | None
    task_id: str


class Invocations:
    """Calls latent tasks through `bus`; `engine` says where each runs now."""

    def __init__(
        self,
        *,
        topics: Topics,
        bus: Bus,
        store: ManagerStore,
        clock: Clock,
        random: Random,
        engine: Callable[[], Engine],
    ) -> None:
        self._topics = topics
        self._bus = bus
        self._store = store
        self._clock = clock
        self._random = random
        self._engine = engine
        self._waiting: dict[str, _Call] = {}
        self.pending: Counter[str] = Counter()
        """Calls in progress of each task, or replica of a service."""
        self.pending_s: defaultdict[str, float] = defaultdict(float)
        """The same, added up over time, until the last call that began or ended (calls times seconds)."""
        self._counted_s: dict[str, float] = {}

    async def invoke(self, task_id: str, body: InvokeBody) -> str:
        """Call the task and return what it answered.

        Raises `NotFound`; `Conflict` while the task does not run; `BadInput` if it is not latent;
        `PeerUnavailable` (`busy`, `timeout`, `proplet_offline`) when trying again may help; `PeerRefused`
        with the guest's own failure as its code otherwise.
        """
        attempt, run = await self._serving(task_id)
        env = body.env or {}
        if sum(len(name) + len(value) for name, value in env.items()) > limits.TASK_ENV_BYTES_MAX:
            raise TooLarge(f"env is over the limit of {limits.TASK_ENV_BYTES_MAX} characters")
        if len(self._waiting) >= CALLS_MAX:
            raise PeerUnavailable(f"{CALLS_MAX} calls wait already; try again", code="busy")
        call_id = new_id(self._random)
        directed = attempt.lane == "directed"
        message = Invoke(
            id=run.task_id,
            invocation_id=call_id,
            proplet_id=attempt.proplet_id,
            inputs=list(body.inputs_text()) or None,
            env=env or UNSET,
            run=run.number if directed else UNSET,
            attempt=attempt.number if directed else UNSET,
            timeout_s=WAIT_S if directed else UNSET,
        )
        to = attempt.proplet_id if directed else None
        topic = self._topics.from_manager(FromManager.INVOKE, to)
        call = _Call(asyncio.get_running_loop().create_future(), to, run.task_id)
        return await self._ask(call_id, call, Message(topic, codec.encode(message)), attempt.proplet_id)

    def take_pending_s(self, task_id: str) -> float:
        """Calls of a task times seconds since this was asked last."""
        self._count(task_id, 0)
        return self.pending_s.pop(task_id, 0.0)

    def forget(self, task_ids: Collection[str]) -> None:
        """Count nothing of others than these, unless they are called."""
        for task_id in [one for one in self._counted_s if one not in task_ids and not self.pending[one]]:
            del self._counted_s[task_id]
            self.pending_s.pop(task_id, None)
            self.pending.pop(task_id, None)

    def _count(self, task_id: str, change: int) -> None:
        now_s = self._clock.now().mono_s
        since_s = now_s - self._counted_s.get(task_id, now_s)
        self.pending_s[task_id] += self.pending[task_id] * since_s
        self.pending[task_id] += change
        self._counted_s[task_id] = now_s

    def heard(self, topic: ControlTopic, payload: bytes) -> None:
        """Take an answer; one that nobody waits for, or from another, is dropped. Raises `DecodeError`."""
        result = codec.decode(InvokeResult, payload, what="the result of a call")
        call = self._waiting.get(result.invocation_id)
        if call is None or call.answer.done() or topic.sender != call.proplet_id:
            return
        call.answer.set_result(result)

    async def _ask(self, call_id: str, call: _Call, message: Message, shown: str) -> str:
        self._waiting[call_id] = call
        self._count(call.task_id, 1)
        try:
            async with asyncio.timeout(WAIT_S):
                if not await self._bus.publish(message):
                    raise PeerUnavailable("there is no connection to the broker now", code="no_broker")
                return _told(await call.answer)
        except TimeoutError:
            raise PeerUnavailable(f"{shown} did not answer within {WAIT_S:g} s", code="timeout") from None
        finally:
            del self._waiting[call_id]
            self._count(call.task_id, -1)

    async def _serving(self, task_id: str) -> tuple[Attempt, Run]:
        """Where the task can be called now; raises why it cannot. Of a service, the least busy replica."""
        now = self._clock.now()
        state = self._engine().service(task_id, Now(mono_s=now.mono_s, wall_s=now.wall_s))
        if state is not None:
            task_id = self._least_busy(task_id, state)
        ledger = self._engine().ledger
        run = ledger.runs.get(task_id)
        task = ledger.tasks[task_id] if run else (await self._store.task(task_id)).task
        if not task.latent:
            raise BadInput(f"task {task_id} is not latent; only latent tasks are called", code="not_latent")
        attempt = run.live_attempt if run else None
        if run is None:
            raise Conflict(f"task {task_id} is not started; start it first", code="not_running")
        if attempt is None or run.state is not RunState.RUNNING or attempt.state is not AttemptState.RUNNING:
            why = run.reason or "its module is being loaded"
            raise Conflict(f"task {task_id} cannot be called yet ({run.state}): {why}", code="not_ready")
        proplet = ledger.proplets.get(attempt.proplet_id)
        if proplet is None or not proplet.alive(now.mono_s):
            raise PeerUnavailable(f"proplet {attempt.proplet_id} is offline", code="proplet_offline")
        return attempt, run

    def _least_busy(self, task_id: str, state: ServiceState) -> str:
        ready = [one.task_id for one in state.replicas if one.ready]
        if not ready:
            raise Conflict(
                f"no replica of service {task_id} can be called yet ({state.service.wanted} are wanted)",
                code="not_ready",
            )
        return min(ready, key=lambda name: self.pending[name])


_LATER = frozenset({"busy", "timeout", "stopped", "not_ready"})
"""Failures of a call after which another may go better."""


def _told(result: InvokeResult) -> str:
    """The result's text; raises the failure that it is."""
    if not (result.error or result.failure):
        return result.results or ""
    why, code = result.error or result.failure, result.failure or "failed"
    kind: type[PeerError] = PeerUnavailable if code in _LATER else PeerRefused
    raise BadInput(why, code=code) if code == "bad_input" else kind(why, code=code)
