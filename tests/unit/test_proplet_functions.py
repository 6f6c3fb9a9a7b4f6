"""Latent tasks on a proplet: loaded once, called many times, bounded, stopped."""

import asyncio

import pytest
from proplet_fakes import FakeRuntime, in_virtual_time

from propeller.ports import GuestDone, GuestFailed, GuestJob, GuestLimits
from propeller.proplet.failure import AttemptFailed
from propeller.proplet.functions import CALL_S, CALLS_MAX, FUNCTIONS_MAX, Functions
from propeller.wire.messages import AttemptKey, Invoke

KEY = AttemptKey(task_id="t", run=1, attempt=1)
JOB = GuestJob(module=b"\0asm", digest="0" * 64, inputs=("1",), env={"A": "task", "B": "task"})


class Bench:
    """Functions whose answers are kept."""

    def __init__(self, ends=None, takes_s=1.0):
        self.answers = []
        self.runtime = FakeRuntime(ends, takes_s)
        self.functions = Functions("p-1", self.runtime, workers=2, answer=self.answers.append)

    def invoke(self, number, **fields):
        """A call."""
        message = Invoke(id="t", invocation_id=f"i-{number}", **fields)
        self.functions.invoke(message, asyncio.ensure_future)


def on_bench(scenario, **fields):
    """Run a scenario in virtual time with one function loaded."""

    async def main(_clock):
        bench = Bench(**fields)
        assert await bench.functions.load(KEY, JOB) is None
        await scenario(bench)

    in_virtual_time(main)


def test_a_call_runs_with_its_own_inputs_over_the_tasks():
    """Inputs replace the task's, env goes over it, and the answer is the export's value as text."""

    async def scenario(bench):
        bench.invoke(1, inputs=["7"], env={"B": "call"})
        bench.invoke(2)
        await asyncio.sleep(2)
        assert [(a.invocation_id, a.results, a.error) for a in bench.answers] == [
            ("i-1", "42", None),
            ("i-2", "42", None),
        ]
        load, first, second = bench.runtime.jobs
        assert load.load_only
        assert (first.inputs, dict(first.env)) == (("7",), {"A": "task", "B": "call"})
        assert (second.inputs, dict(second.env)) == (("1",), {"A": "task", "B": "task"})
        assert not first.load_only

    on_bench(scenario, ends=GuestDone(stdout="printed", stderr="", value="42"))


def test_a_call_that_comes_twice_runs_once():
    """A repeated message is the same call: one guest, one answer."""

    async def scenario(bench):
        bench.invoke(1)
        bench.invoke(1)
        await asyncio.sleep(2)
        bench.invoke(1)
        await asyncio.sleep(2)
        assert len(bench.runtime.jobs) == 2
        assert len(bench.answers) == 1

    on_bench(scenario)


def test_an_unknown_task_is_not_ready():
    """Nothing loaded under that name: the original's words, so that its clients understand."""

    async def scenario(bench):
        bench.functions.invoke(Invoke(id="other", invocation_id="i"), asyncio.ensure_future)
        bench.functions.invoke(Invoke(id="t", invocation_id="j", run=2, attempt=1), asyncio.ensure_future)
        assert [a.failure for a in bench.answers] == ["not_ready", "not_ready"]
        assert "has not been precompiled" in bench.answers[0].error

    on_bench(scenario)


def test_calls_are_bounded():
    """Over the bound a call is refused at once as busy, and taken again when there is room."""

    async def scenario(bench):
        for number in range(CALLS_MAX + 3):
            bench.invoke(number)
        assert [a.failure for a in bench.answers] == ["busy"] * 3
        assert bench.functions.calls == CALLS_MAX
        await asyncio.sleep(2)
        bench.invoke("later")
        await asyncio.sleep(2)
        assert sum(1 for a in bench.answers if a.results == "hello") == CALLS_MAX + 1

    on_bench(scenario)


def test_a_stop_answers_every_call_in_progress():
    """Withdrawn functions kill their calls, also one that had not begun; later calls are not ready."""

    async def scenario(bench):
        bench.invoke(1)
        await asyncio.sleep(0.1)
        bench.invoke(2)
        bench.functions.withdraw(KEY)
        await asyncio.sleep(0.1)
        bench.invoke(3)
        assert sorted((a.invocation_id, a.failure) for a in bench.answers) == [
            ("i-1", "stopped"),
            ("i-2", "stopped"),
            ("i-3", "not_ready"),
        ]
        assert bench.runtime.killed == 1
        assert bench.runtime.warm == 0

    on_bench(scenario)


@pytest.mark.parametrize(
    ("asked", "wall_s"), [({}, CALL_S), ({"timeout_s": 2.0}, 2.0), ({"timeout_s": 1e9}, CALL_S)]
)
def test_a_calls_time_is_the_shortest_of_all_bounds(asked, wall_s):
    """What the caller waits, what the task allows, and what anybody may: the guest gets the least."""

    async def scenario(bench):
        bench.invoke(1, **asked)
        await asyncio.sleep(2)
        assert bench.runtime.jobs[-1].limits.wall_s == wall_s

    on_bench(scenario)


def test_a_call_that_never_gets_a_worker_times_out():
    """The wait itself is bounded: an answer comes, even if no guest ever began."""

    async def scenario(bench):
        bench.invoke(1)
        await asyncio.sleep(CALL_S + 1)
        assert [a.failure for a in bench.answers] == ["timeout"]

    async def main(_clock):
        bench = Bench(takes_s=0.0)
        await bench.functions.load(KEY, JOB)
        bench.runtime.takes_s = 1e6
        await scenario(bench)

    in_virtual_time(main)


@pytest.mark.parametrize(
    ("fields", "ends", "failure"),
    [
        ({"env": {"X": "y" * (1 << 20)}}, None, "bad_input"),
        ({"inputs": ["1"] * 2000}, None, "bad_input"),
        ({}, GuestFailed(kind="trap", message="unreachable"), "trap"),
        ({}, GuestDone(stdout="x" * (1 << 20), stderr=""), "output"),
    ],
    ids=["huge env", "many inputs", "trap", "huge result"],
)
def test_failures_of_a_call_are_typed_answers(fields, ends, failure):
    """Whatever goes wrong with a call is told to its caller, and harms nobody else."""

    async def main(_clock):
        bench = Bench(takes_s=0.1)
        await bench.functions.load(KEY, JOB)
        bench.runtime.ends = ends or bench.runtime.ends
        bench.invoke(1, **fields)
        await asyncio.sleep(1)
        (answer,) = bench.answers
        assert answer.failure == failure
        assert answer.error
        assert answer.results is None

    in_virtual_time(main)


def test_a_module_that_does_not_compile_is_not_held():
    """The attempt gets its failure, and no worker is kept warm for nothing."""

    async def main(_clock):
        bench = Bench(GuestFailed(kind="invalid_module", message="no"))
        failed = await bench.functions.load(KEY, JOB)
        assert failed.kind == "invalid_module"
        assert bench.runtime.warm == 0

    in_virtual_time(main)


def test_functions_are_bounded():
    """A proplet takes so many latent tasks and no more; the next attempt fails as full."""

    async def main(_clock):
        bench = Bench(takes_s=0.0)
        for number in range(FUNCTIONS_MAX):
            await bench.functions.load(AttemptKey(task_id=f"t-{number}", run=1, attempt=1), JOB)
        with pytest.raises(AttemptFailed) as caught:
            await bench.functions.load(KEY, JOB)
        assert caught.value.kind == "full"

    in_virtual_time(main)


def test_limits_of_the_task_hold_for_its_calls():
    """A call never gets more time than its task has."""

    async def main(_clock):
        bench = Bench(takes_s=0.1)
        await bench.functions.load(KEY, GuestJob(module=b"", digest="", limits=GuestLimits(wall_s=3.0)))
        bench.invoke(1, timeout_s=20.0)
        await asyncio.sleep(1)
        assert bench.runtime.jobs[-1].limits.wall_s == 3.0

    in_virtual_time(main)
