"""Hostile Wasm: whatever a guest does, the answer is a typed failure in time, and the next guest runs."""

import asyncio
import statistics
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import hostile_guests as h
import pytest
import pytest_asyncio

from propeller.limits import GUEST_MODULE_BYTES_MAX
from propeller.ports import GuestDone, GuestFailed, GuestJob, GuestLimits
from propeller.runtime.pool import WorkerPool

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("hostile_wasm")]

ON_TIME_S = 0.25
"""What a typed failure may come late, by the promise; recorded for each case."""
CI_SLACK_S = 1.5
"""What a busy machine may add before a test fails: the promise is for a machine with a processor to spare."""

SMALL = GuestLimits(wall_s=0.3, memory_bytes=100 * 1024 * 1024)
UNHURRIED = GuestLimits(wall_s=20, memory_bytes=SMALL.memory_bytes)
"""For guests that end by themselves: what they meet must be their memory limit, also on a busy machine."""
MEGABYTES_60 = b"\0asm\1\0\0\0" + b"\0" * (60 * 1024 * 1024)


async def warm_pool(directory: Path) -> AsyncIterator[WorkerPool]:
    """A pool of two with a warm worker, so that the times of a test are those of its guest."""
    made = WorkerPool(directory / "compiled", 2, compile_s=40)
    assert isinstance(await made.run(h.guest(h.HEALTHY)), GuestDone)
    yield made
    await made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(tmp_path_factory) -> AsyncIterator[WorkerPool]:
    """One pool for every hostile guest of the module: it must survive them all."""
    async for made in warm_pool(tmp_path_factory.mktemp("shared")):
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def own_pool(tmp_path: Path) -> AsyncIterator[WorkerPool]:
    """A pool of the test's own, for tests that look at its processes."""
    async for made in warm_pool(tmp_path):
        yield made


@pytest.fixture
def measured(record_testsuite_property, request) -> Callable[[str, object], None]:
    """Records a measurement of the test in the report that `--junitxml` writes."""
    return lambda name, value: record_testsuite_property(f"{request.node.name} {name}", value)


async def timed(pool: WorkerPool, job: GuestJob) -> tuple[GuestDone | GuestFailed, float]:
    """The outcome and how long it took, in seconds."""
    loop = asyncio.get_running_loop()
    begin_s = loop.time()
    outcome = await pool.run(job)
    return outcome, loop.time() - begin_s


async def fails(
    pool: WorkerPool, job: GuestJob, kind: str, record: Any, within_s: float | None = None
) -> str:
    """The guest fails so, in time, and a healthy one runs after it; the failure's message."""
    outcome, took_s = await timed(pool, job)
    limit_s = job.limits.wall_s if within_s is None else within_s
    record("late_ms", round((took_s - limit_s) * 1000))
    assert isinstance(outcome, GuestFailed), outcome
    assert outcome.kind == kind, outcome
    assert took_s <= limit_s + ON_TIME_S + CI_SLACK_S
    assert isinstance(await pool.run(h.guest(h.HEALTHY)), GuestDone)
    return outcome.message


def flipped() -> bytes:
    """A real module with one bit wrong in its code section's length."""
    content = bytearray(h.guest(h.LOOP).module)
    content[-8] ^= 0x40
    return bytes(content)


NO_MODULES = {
    "W1 empty": b"",
    "W1 truncated": h.guest(h.LOOP).module[:-3],
    "W1 bit-flipped": flipped(),
    "W1 random": bytes(range(7, 247)),
    "W1 ELF": b"\x7fELF\2\1\1" + b"\0" * 100,
    "W1 magic only": b"\0asm",
    "W1 a future version": b"\0asm\2\0\0\0",
    "W1 60 MB of nothing": MEGABYTES_60,
    "W1 text": h.HEALTHY.encode(),
}


@pytest.mark.parametrize("content", NO_MODULES.values(), ids=NO_MODULES.keys())
async def test_what_is_no_module_is_an_invalid_module(pool, content, measured):
    """Bytes that are no valid module are refused as such, before anything runs."""
    await fails(pool, h.guest(content), "invalid_module", measured, within_s=2)


async def test_a_module_over_the_size_limit_is_refused_unread(pool):
    """W1: a module over the limit does not even travel to a worker."""
    outcome = await pool.run(GuestJob(module=bytes(GUEST_MODULE_BYTES_MAX + 1), digest="0" * 64))
    assert isinstance(outcome, GuestFailed)
    assert outcome.kind == "invalid_module"


async def test_a_module_that_is_not_what_its_digest_says_is_refused(pool):
    """W1: the compile cache can never be filled under somebody else's name."""
    outcome = await pool.run(GuestJob(module=h.guest(h.LOOP).module, digest="0" * 64))
    assert isinstance(outcome, GuestFailed)
    assert outcome.kind == "invalid_module"
    assert "SHA-256" in outcome.message


CASES = {
    "W2 endless loop": (h.LOOP, "timeout"),
    "W2 endless loop in the start function": (h.LOOP_IN_START, "timeout"),
    "W3 grow to the limit, then trap": (h.GROW_THEN_TRAP, "memory"),
    "W3 grow to the limit, then exit 1": (h.GROW_THEN_EXIT, "memory"),
    "W3 4 GiB at once": (h.HUGE_MINIMUM, "memory"),
    "W3 two memories that are too much together": (h.TWO_MEMORIES, "memory"),
    "W4 recursion": (h.RECURSION, "stack"),
    "W5 stdout without end": (h.FLOOD_STDOUT, "output"),
    "W6 a sleep of an hour": (h.SLEEP, "timeout"),
    "W7 a table of 10^8": (h.TABLE_MINIMUM, "memory"),
    "W7 sixty tables": (h.TABLES, "memory"),
    "W7 fifty instances": (h.INSTANCES, "memory"),
    "W9 unreachable": ('(module (func (export "_start") unreachable))', "trap"),
    "W9 division by zero": (
        '(module (func (export "_start") (drop (i32.div_u (i32.const 1) (i32.const 0)))))',
        "trap",
    ),
    "W9 out of bounds": (
        '(module (memory 1) (func (export "_start") (drop (i32.load (i32.const 65535)))))',
        "trap",
    ),
    "W9 a trap in the start function": (
        '(module (func $f unreachable) (start $f) (func (export "_start")))',
        "trap",
    ),
    "W9 exit 3": (h.exit_with(3), "exit"),
    "W9 exit 200": (h.exit_with(200), "exit"),
    "W9 exit -1": (h.exit_with(-1), "exit"),
    "W10 an import that nobody offers": (
        '(module (import "env" "system" (func (param i32))) (func (export "_start")))',
        "denied",
    ),
    "W10 an import of a wrong type": (
        f'(module (import "{h.WASI}" "fd_write" (func)) (func (export "_start")))',
        "invalid_module",
    ),
    "W11 no entry": ('(module (func (export "helper")))', "invalid_module"),
    "W11 an entry that is no function": ('(module (memory (export "_start") 1))', "invalid_module"),
    "W11 no exports": ("(module)", "invalid_module"),
    "W11 an entry with parameters": ('(module (func (export "main") (param i32)))', "invalid_module"),
    "W11 a component without a command": ("(component)", "invalid_module"),
    "W9 a command with a result": ('(module (func (export "_start") (param i32)))', "invalid_module"),
}


@pytest.mark.parametrize(("module", "kind"), CASES.values(), ids=CASES.keys())
async def test_a_hostile_guest_fails_with_its_type(pool, module, kind, measured):
    """Every kind of harm ends with its own kind of failure, on time; the pool serves the next guest.

    Defect 4.25 of the original.
    """
    await fails(pool, h.guest(module, limits=SMALL), kind, measured)


async def test_processor_time_is_limited_apart_from_wall_time(pool, measured):
    """W2: a guest that burns its processor seconds is stopped long before its wall limit."""
    limits = GuestLimits(wall_s=30, cpu_s=0.3)
    await fails(pool, h.guest(h.LOOP, limits=limits), "cpu", measured, within_s=0.3)


async def test_refused_memory_is_no_failure_by_itself(pool):
    """W3: a guest that copes with a refused allocation ends well, and its peak stays within the limit."""
    outcome = await pool.run(h.guest(h.GROW_AND_LIVE, limits=UNHURRIED))
    assert isinstance(outcome, GuestDone)
    assert 90 * 1024 * 1024 < outcome.memory_bytes <= SMALL.memory_bytes


async def test_a_refused_table_growth_is_the_guests_to_handle(pool):
    """W7: `table.grow` over the limit answers -1."""
    assert isinstance(await pool.run(h.guest(h.TABLE_GROW)), GuestDone)


async def test_memory_comes_back_after_guests_that_filled_it(own_pool):
    """W3: after guests that touched 96 MiB each, the worker holds at most 10 MB more, or was replaced."""
    (before,) = own_pool.workers()
    before_bytes = h.resident_anonymous_bytes(before)
    for _ in range(5):
        outcome = await own_pool.run(h.guest(h.FILL_MEMORY, limits=UNHURRIED))
        assert isinstance(outcome, GuestFailed)
        assert outcome.kind == "trap"
    for pid in own_pool.workers():
        if pid == before:
            assert h.resident_anonymous_bytes(pid) <= before_bytes + 10_000_000


async def test_stdout_up_to_the_limit_is_kept_when_it_overflows(pool):
    """W5: an overflow fails even a guest that then exits with 0, and what fitted is there to read.

    Defect 4.16 of the original.
    """
    outcome = await pool.run(h.guest(h.OVERFLOW_AND_EXIT_0, limits=GuestLimits(stdout_bytes=1000)))
    assert isinstance(outcome, GuestFailed)
    assert outcome.kind == "output"
    assert len(outcome.stdout) == 1000


async def test_stderr_over_the_limit_is_cut_and_harmless(pool):
    """W5: standard error is for people: too much of it is dropped, and the guest goes on."""
    outcome = await pool.run(h.guest(h.FLOOD_STDERR, limits=GuestLimits(stderr_bytes=100_000)))
    assert isinstance(outcome, GuestDone)
    assert len(outcome.stderr) == 100_000


async def test_a_deep_stack_is_given_when_the_limit_allows_it(pool):
    """W4: the stack limit is the job's own: what overflows by default runs with 16 MiB."""
    deep = """(module (func $f (param i32) (result i32)
        (if (result i32) (local.get 0)
          (then (i32.add (i32.const 1) (call $f (i32.sub (local.get 0) (i32.const 1)))))
          (else (i32.const 0))))
      (func (export "_start") (drop (call $f (i32.const 100000)))))"""
    shallow = await pool.run(h.guest(deep))
    assert isinstance(shallow, GuestFailed)
    assert shallow.kind == "stack"
    assert isinstance(
        await pool.run(h.guest(deep, limits=GuestLimits(stack_bytes=16 * 1024 * 1024))), GuestDone
    )


async def test_a_compile_bomb_is_stopped_with_its_worker(tmp_path, measured):
    """W8: 100,000 functions do not hold a worker longer than the compile limit."""
    pool = WorkerPool(tmp_path / "compiled", 1, compile_s=1.5)
    bomb = h.guest(h.many_functions(100_000, 40))
    try:
        message = await fails(pool, bomb, "timeout", measured, within_s=2.5)
        assert "compil" in message
    finally:
        await pool.close()


async def test_a_huge_branch_table_ends_one_way_or_another(pool):
    """W8: a `br_table` of a million targets compiles and runs, or fails with a type; nothing hangs."""
    outcome, took_s = await timed(pool, h.guest(h.huge_branch_table(1_000_000), limits=SMALL))
    assert isinstance(outcome, GuestDone) or outcome.kind in ("timeout", "invalid_module", "memory")
    assert took_s <= 10 + ON_TIME_S + CI_SLACK_S
    assert isinstance(await pool.run(h.guest(h.HEALTHY)), GuestDone)


OPEN = (
    f'(import "{h.WASI}" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))'
)


def opening(path: str, flags: int = 1) -> str:
    """A module whose `main` answers the errno of opening `path` for reading below the first preopen."""
    return f"""(module {OPEN} (memory (export "memory") 1) (data (i32.const 100) "{path}")
      (func (export "main") (result i32)
        (call $open (i32.const 3) (i32.const {flags}) (i32.const 100) (i32.const {len(path)})
          (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 0))))"""


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "sub/../../secret", "link", "linked/secret"])
async def test_nothing_outside_the_given_directory_can_be_opened(pool, tmp_path, path):
    """W10: neither `..`, nor absolute paths, nor links lead out of `/fl`; what is inside opens."""
    files = tmp_path / "files"
    (files / "sub").mkdir(parents=True)
    (files / "own").write_text("mine")
    (tmp_path / "secret").write_text("yours")
    (files / "link").symlink_to(tmp_path / "secret")
    (files / "linked").symlink_to(tmp_path)
    refused = await pool.run(h.guest(opening(path), files=files))
    assert isinstance(refused, GuestDone)
    assert refused.value != "0"
    allowed = await pool.run(h.guest(opening("own"), files=files))
    assert isinstance(allowed, GuestDone)
    assert allowed.value == "0"


async def test_without_files_there_is_no_directory_at_all(pool):
    """W10: a guest without files has no preopen to start from (errno 8: bad descriptor)."""
    outcome = await pool.run(h.guest(opening("own")))
    assert isinstance(outcome, GuestDone)
    assert outcome.value == "8"


async def test_a_guest_sees_its_own_environment_and_no_other(pool, monkeypatch):
    """W10: neither the agent's nor the worker's variables reach a guest."""
    monkeypatch.setenv("AGENT_SECRET", "hidden")
    sizes = f"""(module (import "{h.WASI}" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
      (memory (export "memory") 1) (func (export "main") (result i32)
        (drop (call $sizes (i32.const 0) (i32.const 4))) (i32.load (i32.const 0))))"""
    for env in ({}, {"A": "1", "B": "2"}):
        outcome = await pool.run(h.guest(sizes, env=env))
        assert isinstance(outcome, GuestDone)
        assert outcome.value == str(len(env))


async def test_a_worker_has_none_of_the_agents_secrets(pool, monkeypatch, tmp_path):
    """W10: even a guest that broke out would find no credential in its process's environment."""
    monkeypatch.setenv("AGENT_SECRET", "hidden")
    fresh = WorkerPool(tmp_path / "fresh", 1)
    try:
        await fresh.run(h.guest(h.HEALTHY))
        (pid,) = fresh.workers()
        assert b"AGENT_SECRET" not in h.environment_of(pid)
    finally:
        await fresh.close()


MODEL = '(import "env" "get_model_data" (func $f (param i32 i32) (result i32)))'
ENV = '(import "env" "get_env" (func $f (param i32 i32 i32 i32) (result i32)))'
PUT = '(import "env" "put_result" (func $f (param i32 i32) (result i32)))'
BUMP = '(func (export "malloc") (param i32) (result i32) (i32.const 1024))'
GOOD = "(call $f (i32.const 8) (i32.const 12))"

WRONG_CALLS = {
    "an offset pointer out of bounds": h.calling(
        MODEL, "(call $f (i32.const 65533) (i32.const 8))", malloc=BUMP
    ),
    "a length pointer out of bounds": h.calling(MODEL, "(call $f (i32.const 8) (i32.const -1))", malloc=BUMP),
    "no malloc": h.calling(MODEL, GOOD),
    "a malloc that answers 0": h.calling(
        MODEL, GOOD, malloc='(func (export "malloc") (param i32) (result i32) (i32.const 0))'
    ),
    "a malloc that answers nonsense": h.calling(
        MODEL, GOOD, malloc='(func (export "malloc") (param i32) (result i32) (i32.const -16))'
    ),
    "a malloc at the very end": h.calling(
        MODEL, GOOD, malloc='(func (export "malloc") (param i32) (result i32) (i32.const 65535))'
    ),
    "a malloc of a wrong type": h.calling(
        MODEL, GOOD, malloc='(func (export "malloc") (result i64) (i64.const 1))'
    ),
    "a malloc that is a memory": h.calling(MODEL, GOOD, malloc='(export "malloc" (memory 0))'),
    "a malloc that calls back": h.calling(
        MODEL, GOOD, malloc=f'(func (export "malloc") (param i32) (result i32) {GOOD})'
    ),
    "a name out of bounds": h.calling(
        ENV, "(call $f (i32.const 65530) (i32.const 100) (i32.const 8) (i32.const 12))", malloc=BUMP
    ),
    "a name of 4 GiB": h.calling(
        ENV, "(call $f (i32.const 0) (i32.const -1) (i32.const 8) (i32.const 12))", malloc=BUMP
    ),
    "a name that is no text": h.calling(
        ENV,
        "(call $f (i32.const 100) (i32.const 3) (i32.const 8) (i32.const 12))",
        malloc=BUMP + '(data (i32.const 100) "\\ff\\00\\fe")',
    ),
    "a result out of bounds": h.calling(PUT, "(call $f (i32.const 65000) (i32.const 1000))"),
    "a result of 4 GiB": h.calling(PUT, "(call $f (i32.const 0) (i32.const -1))"),
}


@pytest.mark.parametrize("module", WRONG_CALLS.values(), ids=WRONG_CALLS.keys())
async def test_a_wrong_pointer_to_a_host_function_gets_the_answer_0(pool, module):
    """W12: the host checks what a guest points at; nothing is written, nothing breaks."""
    outcome = await pool.run(h.guest(module, host_strings={"model_data": "{}"}))
    assert isinstance(outcome, GuestDone), outcome
    assert outcome.result is None


async def test_a_trap_in_malloc_is_the_guests_trap(pool, measured):
    """W12: what happens inside the guest's own allocator happens to the guest."""
    trapping = '(func (export "malloc") (param i32) (result i32) unreachable)'
    job = h.guest(h.calling(MODEL, GOOD, malloc=trapping), host_strings={"model_data": "{}"})
    await fails(pool, job, "trap", measured, within_s=2)


async def test_an_endless_malloc_is_stopped_like_any_loop(pool, measured):
    """W12: the time limits reach a guest that the host called back."""
    endless = '(func (export "malloc") (param i32) (result i32) (loop (br 0)) (i32.const 0))'
    job = h.guest(h.calling(MODEL, GOOD, malloc=endless), host_strings={"model_data": "{}"}, limits=SMALL)
    await fails(pool, job, "timeout", measured)


@pytest.mark.parametrize("module", [h.LOOP, h.SLEEP], ids=["W2", "W6"])
async def test_stop_ends_a_guest_at_once(own_pool, module, measured):
    """W14: cancelling ends an endless loop and a sleep within half a second, worker and all."""
    running = asyncio.create_task(own_pool.run(h.guest(module)))
    await asyncio.sleep(0.3)
    (pid,) = own_pool.workers()
    loop = asyncio.get_running_loop()
    begin_s = loop.time()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    while h.lives(pid) and loop.time() - begin_s < 5:  # noqa: ASYNC110 - another process ends, no event does
        await asyncio.sleep(0.001)
    took_s = loop.time() - begin_s
    measured("cancel_ms", round(took_s * 1000, 1))
    assert took_s <= 0.5
    assert isinstance(await own_pool.run(h.guest(h.HEALTHY)), GuestDone)


async def test_a_sibling_is_served_while_a_hostile_guest_runs(own_pool, measured):
    """A healthy guest beside an endless loop keeps its results, and its times stay of the same order."""

    async def times(count: int) -> list[float]:
        taken = []
        for _ in range(count):
            outcome, took_s = await timed(own_pool, h.guest(h.HEALTHY))
            assert isinstance(outcome, GuestDone)
            taken.append(took_s)
        return taken

    alone = await times(50)
    hostile = asyncio.create_task(own_pool.run(h.guest(h.LOOP, limits=GuestLimits(wall_s=20))))
    await times(3)  # the second worker starts
    beside = await times(50)
    hostile.cancel()
    await asyncio.gather(hostile, return_exceptions=True)
    p99 = [statistics.quantiles(taken, n=100)[98] for taken in (alone, beside)]
    measured("p99_ratio", round(p99[1] / p99[0], 2))
    # The median is asserted: of fifty runs, the 99th percentile is whatever else the machine did meanwhile.
    assert statistics.median(beside) < 2 * statistics.median(alone) + 0.05
