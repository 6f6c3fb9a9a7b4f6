"""Latent tasks on a device: modules that are loaded and wait to be called. Remembers nothing over a restart.

A call is at most once: it runs now, or is refused with a typed reason, and is never said again. So nothing
here goes through the agent, which only knows that the attempt runs.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace

from propeller import limits
from propeller.errors import PropellerError
from propeller.ports import GuestFailed, GuestJob, Runtime
from propeller.proplet.failure import AttemptFailed, result_of, text_head
from propeller.wire.messages import AttemptKey, Invoke, InvokeResult

FUNCTIONS_MAX = 64
FUNCTION_BYTES_MAX = 256 * 1024 * 1024
"""Latent tasks held at once, and their modules together: they stay in the agent's memory."""
CALLS_MAX = 64
"""Calls in progress at once, those that wait for a worker included; further ones are refused as `busy`."""
CALL_S = 30.0
"""A call has at most this long, whatever is asked for: nobody waits longer for its answer."""
REMEMBERED_MAX = 4096
"""Ids of calls that were taken, so that a message that comes twice runs nothing twice."""

Answer = Callable[[InvokeResult], None]
Spawn = Callable[[Coroutine[None, None, None]], "asyncio.Task[None]"]


@dataclass(slots=True)
class _Function:
    job: GuestJob
    calls: "set[asyncio.Task[None]]"


class Functions:
    """The functions of one proplet. `answer` sends a result; failures of a call are answers, never raised."""

    def __init__(self, proplet_id: str, runtime: Runtime, *, workers: int, answer: Answer) -> None:
        self._proplet_id = proplet_id
        self._runtime = runtime
        self._workers = workers
        self._answer = answer
        self._held: dict[AttemptKey, _Function] = {}
        self._taken: OrderedDict[str, None] = OrderedDict()

    @property
    def calls(self) -> int:
        """Calls in progress."""
        return sum(len(function.calls) for function in self._held.values())

    async def load(self, key: AttemptKey, job: GuestJob) -> GuestFailed | None:
        """Compile a module and hold it for calls; why not, if its bytes are no module.

        Raises `AttemptFailed` (`full`) if this proplet holds too much already.
        """
        held_bytes = sum(len(function.job.module) for function in self._held.values())
        if len(self._held) >= FUNCTIONS_MAX or held_bytes + len(job.module) > FUNCTION_BYTES_MAX:
            raise AttemptFailed(
                "full",
                f"this proplet holds {len(self._held)} latent tasks of {held_bytes} bytes; it has room for "
                f"{FUNCTIONS_MAX} of {FUNCTION_BYTES_MAX}: stop one",
            )
        self._runtime.keep_warm(self._workers)
        try:
            ended = await self._runtime.run(replace(job, load_only=True))
            if isinstance(ended, GuestFailed):
                return ended
            self._held[key] = _Function(job, set())
        finally:
            self._cool()
        return None

    def withdraw(self, key: AttemptKey) -> None:
        """Hold it no longer; its calls in progress are killed and answered as stopped."""
        function = self._held.pop(key, None)
        if function is not None:
            for call in function.calls:
                call.cancel()
            self._cool()

    def invoke(self, message: Invoke, spawn: Spawn) -> None:
        """Take one call, unless it was taken before; its answer comes from a task of its own."""
        if message.invocation_id in self._taken:
            return
        self._taken[message.invocation_id] = None
        if len(self._taken) > REMEMBERED_MAX:
            self._taken.popitem(last=False)
        try:
            key, job = self._prepared(message)
        except AttemptFailed as error:
            self._say(message, error=error.message, failure=error.kind)
            return
        call = spawn(self._call(message, job))
        calls = self._held[key].calls
        calls.add(call)
        # A callback, because a call that is killed before its first step runs none of its own code.
        call.add_done_callback(lambda task: self._over(message, calls, task))

    def _over(self, message: Invoke, calls: "set[asyncio.Task[None]]", call: "asyncio.Task[None]") -> None:
        calls.discard(call)
        if call.cancelled():
            self._say(message, error="the latent task was stopped during the call", failure="stopped")

    def _prepared(self, message: Invoke) -> tuple[AttemptKey, GuestJob]:
        key = self._find(message)
        if key is None:
            raise AttemptFailed(
                "not_ready", f"task {message.id} has not been precompiled; deploy it as a latent task first"
            )
        if self.calls >= CALLS_MAX:
            raise AttemptFailed("busy", f"{CALLS_MAX} calls are in progress here already; try again")
        _check(message)
        job = self._held[key].job
        env = message.env if isinstance(message.env, dict) else {}
        wall_s = message.timeout_s if isinstance(message.timeout_s, float | int) else CALL_S
        bounds = replace(job.limits, wall_s=max(0.001, min(wall_s, job.limits.wall_s, CALL_S)))
        inputs = tuple(message.inputs) if message.inputs else job.inputs
        return key, replace(job, inputs=inputs, env={**job.env, **env}, limits=bounds)

    def _find(self, message: Invoke) -> AttemptKey | None:
        """The function that is called: the attempt named, else the task's latest."""
        if isinstance(message.run, int) and isinstance(message.attempt, int):
            key = AttemptKey(task_id=message.id, run=message.run, attempt=message.attempt)
            return key if key in self._held else None
        found = [key for key in self._held if key.task_id == message.id]
        return max(found, key=lambda key: (key.run, key.attempt), default=None)

    async def _call(self, message: Invoke, job: GuestJob) -> None:
        """Run it. Its own limits count from its entry; the wait for a worker is bounded beside them."""
        try:
            async with asyncio.timeout(CALL_S):
                ended = await self._runtime.run(job)
            if isinstance(ended, GuestFailed):
                self._say(
                    message, error=ended.message or f"the guest failed: {ended.kind}", failure=ended.kind
                )
            else:
                self._say(message, results=_fitting(result_of(ended)))
        except TimeoutError:
            self._say(message, error=f"no answer within {CALL_S:g} s", failure="timeout")
        except PropellerError as error:
            failure = error.kind if isinstance(error, AttemptFailed) else "bad_input"
            self._say(message, error=error.message, failure=failure)

    def _say(
        self, message: Invoke, *, results: str | None = None, error: str = "", failure: str = ""
    ) -> None:
        self._answer(
            InvokeResult(
                task_id=message.id,
                invocation_id=message.invocation_id,
                proplet_id=self._proplet_id,
                results=results,
                error=text_head(error) or None,
                failure=failure,
            )
        )

    def _cool(self) -> None:
        if not self._held:
            self._runtime.keep_warm(0)


def _check(message: Invoke) -> None:
    """What a start message may not say, a call may not either."""
    env = message.env if isinstance(message.env, dict) else {}
    size = sum(len(name) + len(value) for name, value in env.items())
    if size > limits.TASK_ENV_BYTES_MAX:
        raise AttemptFailed("bad_input", f"env holds {size} characters; at most {limits.TASK_ENV_BYTES_MAX}")
    if len(message.inputs or ()) > limits.TASK_INPUTS_MAX:
        raise AttemptFailed("bad_input", f"a call has at most {limits.TASK_INPUTS_MAX} inputs")


def _fitting(text: str) -> str:
    if len(text.encode(errors="surrogatepass")) <= limits.TASK_RESULT_BYTES_MAX:
        return text
    raise AttemptFailed(
        "output",
        f"the result has {len(text)} characters; a call's may have {limits.TASK_RESULT_BYTES_MAX} bytes",
    )
