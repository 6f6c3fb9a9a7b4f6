"""The guest ABIs against the real engine: host functions, files, environment, entries, components."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
import runtime_guests as g

from propeller.ports import GuestDone, GuestFailed, GuestJob, GuestLimits
from propeller.runtime.pool import WorkerPool

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("runtime_abi")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(tmp_path_factory) -> AsyncIterator[WorkerPool]:
    """One worker for the whole module."""
    made = WorkerPool(tmp_path_factory.mktemp("runtime") / "compiled", 1)
    yield made
    await made.close()


@pytest.fixture
def measured(record_testsuite_property, request) -> Callable[[str, object], None]:
    """Records a measurement of the test in the report that `--junitxml` writes."""
    return lambda name, value: record_testsuite_property(f"{request.node.name} {name}", value)


async def done(pool: WorkerPool, job: GuestJob) -> GuestDone:
    """The outcome, which must be good."""
    outcome = await pool.run(job)
    assert isinstance(outcome, GuestDone), outcome
    return outcome


async def failed(pool: WorkerPool, job: GuestJob, kind: str) -> str:
    """The message of the failure, which must be of that kind."""
    outcome = await pool.run(job)
    assert isinstance(outcome, GuestFailed), outcome
    assert outcome.kind == kind, outcome
    return outcome.message


async def test_host_functions_place_strings_and_take_a_result(pool):
    """Every string arrives, NUL-terminated, in memory from the guest's malloc; `put_result` takes bytes."""
    strings = {"proplet_id": "p1,", "model_data": '{"w":[1]},', "dataset_data": ""}
    outcome = await done(pool, g.guest(g.ECHO, env={"NAME": "größe"}, host_strings=strings))
    assert outcome.stdout == 'p1,{"w":[1]},größe'
    assert outcome.result == "größe".encode()


async def test_a_string_that_the_host_does_not_have_is_answered_with_0(pool):
    """Absent is not empty: the guest can tell."""
    outcome = await done(pool, g.guest(g.ECHO, env={"NAME": "n"}, host_strings={"model_data": "m"}))
    assert outcome.stdout == "-m-n"


async def test_strings_of_one_job_are_gone_in_the_next(pool):
    """Nothing of a guest's inputs or results outlives it."""
    await done(pool, g.guest(g.ECHO, env={"NAME": "n"}, host_strings={"proplet_id": "p"}))
    again = await done(pool, g.guest(g.ECHO))
    assert again.stdout == "----"
    assert (await done(pool, g.guest(g.HEALTHY))).result is None


async def test_a_result_is_kept_when_the_guest_leaves_by_exit_0(pool):
    """`put_result`, then `proc_exit(0)`: a good end with a result."""
    module = f"""(module (import "env" "put_result" (func $put (param i32 i32) (result i32)))
      (import "{g.WASI}" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1) (data (i32.const 8) "kept") (func (export "_start")
      (drop (call $put (i32.const 8) (i32.const 4))) (call $exit (i32.const 0))))"""
    assert (await done(pool, g.guest(module))).result == b"kept"


async def test_a_guest_writes_its_update_under_fl(pool, tmp_path):
    """Files: what the guest writes to `/fl` is in the job's directory afterwards."""
    assert (await done(pool, g.guest(g.WRITE_FILE, files=tmp_path))).value == "0"
    assert (tmp_path / "update.json").read_text() == "written"


async def test_arguments_are_the_jobs_and_no_others(pool):
    """`argv[0]` is `guest`; the rest are the job's, as they are."""
    outcome = await done(pool, g.guest(g.ARGUMENTS, args=["--x", "a b"]))
    assert outcome.stdout == "guest\0--x\0a b\0"


async def test_inputs_reach_the_entry_and_its_result_comes_back(pool):
    """`main` of two numbers, as the benchmarks of small devices have it."""
    assert (await done(pool, g.guest(g.ADD, inputs=["2", "-5"]))).value == "-3"
    assert "takes 2 inputs" in await failed(pool, g.guest(g.ADD, inputs=["2"]), "invalid_module")


async def test_a_reactor_is_initialised_before_its_export(pool):
    """`_initialize` runs first, then the export that the task's name picks."""
    assert (await done(pool, g.guest(g.REACTOR, name="answer"))).value == "42"


async def test_arithmetic_is_the_same_on_every_machine(pool):
    """NaN has one bit pattern, whatever the processor would make of 0/-0."""
    assert (await done(pool, g.guest(g.NAN_BITS))).value == str(0x7FF8 << 48)


async def test_usage_is_measured(pool):
    """A run tells its wall and processor seconds and the most memory that it held."""
    outcome = await pool.run(g.guest(g.LOOP, limits=GuestLimits(wall_s=0.2)))
    assert isinstance(outcome, GuestFailed)
    assert 0.2 <= outcome.wall_s < 5
    assert 0 < outcome.cpu_s < 5
    module = '(module (memory 3) (func (export "_start") (drop (memory.grow (i32.const 4)))))'
    assert (await done(pool, g.guest(module))).memory_bytes == 7 * 65536


async def test_a_component_command_prints(pool):
    """A component runs by `wasi:cli/run`; its standard output is captured like a module's."""
    assert (await done(pool, g.guest(g.HELLO_COMPONENT, name="fl-round-1"))).stdout == "hello component"


COMMANDS: dict[str, tuple[str, str | None]] = {
    "well": ("(i32.const 0)", None),
    "an error": ("(i32.const 1)", "exit"),
    "a trap": ("unreachable", "trap"),
    "a loop": ("(loop (br 0)) (i32.const 0)", "timeout"),
}


@pytest.mark.parametrize(("body", "kind"), COMMANDS.values(), ids=COMMANDS.keys())
async def test_a_component_command_ends_like_a_modules(pool, body, kind):
    """The same limits and the same types of failure hold for components."""
    job = g.guest(g.command(body), limits=GuestLimits(wall_s=0.3))
    if kind is None:
        assert (await done(pool, job)).value is None
    else:
        await failed(pool, job, kind)


async def test_a_components_export_runs_by_name(pool):
    """Functions of simple types take their inputs as text, checked against the interface's types."""
    assert (await done(pool, g.guest(g.NAMED_COMPONENT, name="mix", inputs=["255", "-1"]))).value == "254"
    wrong: dict[str, Any] = {"name": "mix", "inputs": ["256", "0"]}
    assert "U8" in await failed(pool, g.guest(g.NAMED_COMPONENT, **wrong), "invalid_module")


async def test_a_component_that_wants_the_network_is_denied(pool):
    """Interfaces beyond WASI's command world are not there, and the failure says which."""
    assert "wasi:http" in await failed(pool, g.guest(g.HTTP_COMPONENT), "denied")


async def test_a_warm_job_is_quick(pool, measured):
    """The time of a job on a warm worker is recorded; a tenth of a second would mean a missed cache."""
    job = g.guest(g.ADD, inputs=["1", "1"])
    await done(pool, job)
    loop = asyncio.get_running_loop()
    begin_s = loop.time()
    for _ in range(50):
        await done(pool, job)
    each_s = (loop.time() - begin_s) / 50
    measured("warm_job_ms", round(each_s * 1000, 2))
    assert each_s < 0.1
