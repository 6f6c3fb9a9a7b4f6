"""One suite for both of the manager's stores: what `stores.ManagerStore` promises."""

from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from postgres_server import opened
from propeller import limits
from propeller.core.events import DropProplet, SaveProplet, SaveRun, SaveService, SaveTask
from propeller.core.flow import Flow
from propeller.core.proplet import Proplet
from propeller.core.retention import Keep
from propeller.core.run import Attempt, Run, RunState
from propeller.core.service import Revision, Service, template
from propeller.core.task import Task
from propeller.errors import Conflict, NotFound
from propeller.fl.launch import Launch, LaunchState
from propeller.ports import Instant
from propeller.storage.manager_memory import MemoryManagerStore
from propeller.storage.manager_store import ROLE, SqlManagerStore
from propeller.storage.sqlite import Database
from propeller.stores.manager import (
    DropFlow,
    DropLaunch,
    DropTask,
    SaveFlow,
    SaveLaunch,
    SaveMetric,
    SettleFlow,
)


class HandClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.instant = Instant(mono_s=100.0, wall_s=1_000_000.0)

    def now(self) -> Instant:
        """The present moment."""
        return self.instant


@asynccontextmanager
async def sqlite(tmp_path, clock):
    """A store on a real file."""
    database = await Database.open(tmp_path / "manager.db", role=ROLE, base="m/d/c/c")
    try:
        yield SqlManagerStore(database, clock)
    finally:
        await database.close()


@asynccontextmanager
async def postgres(tmp_path, clock):
    """A store on a real server."""
    database = await opened("postgres", tmp_path, role=ROLE, base="m/d/c/c")
    try:
        yield SqlManagerStore(database, clock)
    finally:
        await database.close()


@asynccontextmanager
async def memory(_tmp_path, clock):
    """The twin."""
    yield MemoryManagerStore(clock)


@pytest.fixture
def clock():
    """A clock at rest."""
    return HandClock()


@pytest.fixture(params=[sqlite, postgres, memory], ids=["sqlite", "postgres", "memory"])
async def store(request, tmp_path, clock):
    """Each store in turn."""
    async with request.param(tmp_path, clock) as made:
        yield made


def task(task_id="t", created_at_s=1.0, **fields) -> Task:
    """A task of that id."""
    return Task(id=task_id, name="main", created_at_s=created_at_s, updated_at_s=1.0, **fields)


def run(number=1, state=RunState.WAITING, **fields) -> Run:
    """A run of task `t`."""
    times = {"created_at_s": 1.0, "give_up_mono_s": 160.0, "deadline_mono_s": 130.0}
    return Run(**{"task_id": "t", "number": number, "state": state, **times, **fields})


async def test_a_task_is_found_as_it_was_stored(store):
    """Every field survives, the mapping ones included."""
    stored = task(env={"A": "ü"}, inputs=("1", "2"), metadata={"k": [1, {"x": None}]}, cli_args=("-v",))
    await store.commit([SaveTask(task=stored, new=True)])
    record = await store.task("t")
    assert record.task == stored
    assert record.run is None


async def test_a_taken_id_is_refused_and_nothing_of_the_commit_stays(store):
    """A commit is whole or not at all."""
    await store.commit([SaveTask(task=task(), new=True)])
    with pytest.raises(Conflict, match="taken"):
        await store.commit([SaveTask(task=task("u"), new=True), SaveTask(task=task(), new=True)])
    with pytest.raises(NotFound):
        await store.task("u")


async def test_the_latest_run_and_its_results_are_shown(store):
    """Results belong to a run; a later record of the run keeps them, a later run begins without."""
    await store.commit([SaveTask(task=task(), new=True), SaveRun(run=run(), cause="x")])
    done = run(state=RunState.COMPLETED, attempts=(Attempt(number=1, proplet_id="p", lane="directed"),))
    await store.commit([SaveRun(run=done, results=b'"hi"', cause="x")])
    record = await store.task("t", results=True)
    assert (record.run, record.results) == (done, b'"hi"')
    await store.commit([SaveRun(run=done, cause="x")])
    assert (await store.task("t", results=True)).results == b'"hi"'
    await store.commit([SaveRun(run=run(2), cause="x")])
    record = await store.task("t", results=True)
    assert (record.run.number, record.results) == (2, None)


async def test_a_page_is_newest_first_and_filtered(store):
    """The filter is exact, by value and type, for every key."""
    await store.commit(
        [
            SaveTask(task=task(f"t{n}", float(n), metadata={"n": n, "even": n % 2 == 0}), new=True)
            for n in range(5)
        ]
    )
    total, page = await store.tasks(offset=1, limit=2)
    assert (total, [record.task.id for record in page]) == (5, ["t3", "t2"])
    total, page = await store.tasks(offset=0, limit=10, metadata={"even": True, "n": 2})
    assert (total, [record.task.id for record in page]) == (1, ["t2"])
    assert (await store.tasks(offset=0, limit=10, metadata={"even": 1}))[0] == 0
    assert (await store.tasks(offset=0, limit=10, metadata={"x' OR 1": 1}))[0] == 0


async def test_live_runs_come_back_with_what_was_left_of_their_deadlines(store, clock):
    """Time on disk is what was left and when; a clock set back never gives more than that."""
    await store.commit([SaveTask(task=task(), new=True), SaveRun(run=run(), cause="x")])
    later = Instant(mono_s=5.0, wall_s=clock.instant.wall_s + 10)
    ((_, found),) = await store.live(later)
    assert (found.deadline_mono_s, found.give_up_mono_s) == (25.0, 55.0)
    assert found.resend_mono_s == float("inf")
    ((_, found),) = await store.live(Instant(mono_s=5.0, wall_s=0.0))
    assert found.deadline_mono_s == 35.0
    await store.commit([SaveRun(run=run(state=RunState.FAILED), cause="x")])
    assert await store.live(later) == []


async def test_deleting_a_task_deletes_its_runs(store):
    """Nothing of it is left."""
    await store.commit([SaveTask(task=task(), new=True), SaveRun(run=run(), cause="x")])
    await store.commit([DropTask(task_id="t")])
    assert await store.live(Instant(0, 0)) == []
    with pytest.raises(NotFound):
        await store.task("t")


async def test_run_numbers_of_an_id_are_never_given_twice(store):
    """A proplet remembers (task, run, attempt): a new task of an old id must not repeat them."""
    await store.commit([SaveTask(task=task(), new=True), SaveRun(run=run(3), cause="x")])
    await store.commit([DropTask(task_id="t")])
    await store.commit([SaveTask(task=task(), new=True)])
    record = await store.task("t")
    assert (record.latest_run, record.run) == (3, None)


async def test_proplets_keep_their_order(store):
    """Round robin goes by registration, also after a restart."""
    for name, at in (("b", 1.0), ("a", 2.0)):
        await store.commit([SaveProplet(proplet=Proplet(id=name, name=name, registered_at_s=at))])
    await store.commit([SaveProplet(proplet=Proplet(id="b", name="again", registered_at_s=1.0))])
    assert [(one.id, one.name) for one in await store.proplets()] == [("b", "again"), ("a", "a")]
    await store.commit([DropProplet(proplet_id="b")])
    assert [one.id for one in await store.proplets()] == ["a"]


async def test_launches_are_open_until_closed(store):
    """A restart finds every launch that is not done."""
    launch = Launch(round_id="r", body=b"{}", tasks={"p": "t"}, seed=7)
    await store.commit([SaveLaunch(launch=launch, new=True)])
    assert await store.launch("r") == launch
    with pytest.raises(Conflict):
        await store.commit([SaveLaunch(launch=launch, new=True)])
    launched = launch.to(LaunchState.LAUNCHED)
    await store.commit([SaveLaunch(launch=launched)])
    assert await store.open_launches() == [launched]
    await store.commit([SaveLaunch(launch=launched.to(LaunchState.CLOSED))])
    assert await store.open_launches() == []
    await store.commit([SaveLaunch(launch=replace(launch, round_id="q"), new=True), DropLaunch(round_id="q")])
    assert await store.launch("q") is None


def flow(flow_id="f", **fields) -> Flow:
    """A job of that id."""
    fields = {"job": True, "task_ids": ("t",), "created_at_s": 1.0, "mode": "parallel"} | fields
    return Flow(id=flow_id, **fields)


async def test_a_flow_is_open_until_it_was_looked_at(store):
    """Creation, a change and every saved run of its tasks open it; an older look closes nothing."""
    await store.commit([SaveFlow(flow=flow(), new=True), SaveTask(task=task(job_id="f"), new=True)])
    record = await store.flow("f")
    assert record.flow == flow()
    assert await store.open_flows() == ["f"]
    await store.commit([SettleFlow(flow_id="f", touched=record.touched)])
    assert await store.open_flows() == []
    await store.commit([SaveRun(run=run(), flow_id="f", cause="x")])
    assert await store.open_flows() == ["f"]
    await store.commit([SettleFlow(flow_id="f", touched=record.touched)])
    assert await store.open_flows() == ["f"]
    touched = (await store.flow("f")).touched
    await store.commit([SettleFlow(flow_id="f", touched=touched), SaveFlow(flow=flow(starts=1))])
    assert await store.open_flows() == ["f"]
    assert (await store.flow("f")).flow.starts == 1
    await store.commit([DropFlow(flow_id="f")])
    assert await store.flow("f") is None


async def test_many_runs_of_one_commit_are_kept_in_their_order(store):
    """Over a hundred saved runs, some tasks twice: each task shows its last, and its story has every line."""
    tasks = [task(f"t{n}") for n in range(130)]
    await store.commit([SaveTask(task=one, new=True) for one in tasks])
    begun = [SaveRun(run=run(task_id=one.id), cause="begun") for one in tasks]
    ended = [
        SaveRun(run=run(task_id=one.id, state=RunState.COMPLETED), results=one.id.encode(), cause="ended")
        for one in tasks[::2]
    ]
    await store.commit([*begun, *ended])
    for one in (tasks[0], tasks[1], tasks[128], tasks[129]):
        record = await store.task(one.id, results=True)
        _, story = await store.events(one.id, offset=0, limit=9)
        even = int(one.id[1:]) % 2 == 0
        assert record.latest_run == 1
        assert record.results == (one.id.encode() if even else None)
        assert [event.cause for event in story] == ["user", "begun", *(["ended"] if even else [])]


async def test_flow_ids_are_given_once_and_jobs_are_listed_newest_first(store):
    """Workflows and jobs share their names; only jobs are listed."""
    await store.commit([SaveFlow(flow=flow(f"j{n}", created_at_s=float(n)), new=True) for n in range(3)])
    await store.commit([SaveFlow(flow=flow("w", job=False), new=True)])
    with pytest.raises(Conflict, match="exists"):
        await store.commit([SaveFlow(flow=flow("w"), new=True)])
    total, page = await store.jobs(offset=1, limit=1)
    assert (total, [record.flow.id for record in page]) == (3, ["j1"])


async def test_the_members_of_a_flow_come_with_their_latest_runs(store):
    """And with results where asked for."""
    await store.commit(
        [
            SaveTask(task=task(workflow_id="w"), new=True),
            SaveTask(task=task("u", workflow_id="w", depends_on=("t",)), new=True),
            SaveTask(task=task("v"), new=True),
            SaveRun(run=run(answers={"a": 3}), results=b"1", cause="x"),
        ]
    )
    found = {record.task.id: record for record in await store.members("w")}
    assert set(found) == {"t", "u"}
    assert found["t"].run.answers == {"a": 3}
    assert found["t"].results is None
    found = {one.task.id: one.results for one in await store.members("w", results=True)}
    assert found == {"t": b"1", "u": None}
    assert await store.members("") == []


async def test_scheduled_tasks_are_found_soonest_first(store):
    """Until their schedule is taken away."""
    for name, at_s in (("a", 9.0), ("b", 3.0), ("c", 0.0)):
        await store.commit([SaveTask(task=task(name, next_run_s=at_s), new=True)])
    assert [one.id for one in await store.scheduled()] == ["b", "a"]
    await store.commit([SaveTask(task=task("b"))])
    assert [one.id for one in await store.scheduled()] == ["a"]


async def test_results_of_a_broadcast_are_kept_by_proplet(store):
    """Each part is stored as it comes, and shown as one object."""
    await store.commit([SaveTask(task=task(broadcast=True), new=True), SaveRun(run=run(), cause="x")])
    assert (await store.task("t", results=True)).results is None
    for name, said in (("p2", b'"b"'), ("p1", b'{"a":1}')):
        await store.commit([SaveRun(run=run(), results=said, part=name, cause="x")])
    assert (await store.task("t", results=True)).results == b'{"p1":{"a":1},"p2":"b"}'
    assert await store.results_of("t", 1) == b'{"p1":{"a":1},"p2":"b"}'
    assert await store.run_state("t", 1) is RunState.WAITING
    assert await store.run_state("t", 9) is None
    assert (await store.task("t")).results is None
    await store.commit([SaveRun(run=run(2), cause="x")])
    assert (await store.task("t", results=True)).results is None
    await store.commit([DropTask(task_id="t")])
    assert await store.results_of("t", 1) is None


async def test_a_tasks_history_is_kept_in_order_and_bounded(store, clock):
    """Its creation, then each saved run; the oldest lines go, and all of it with the task."""
    await store.commit([SaveTask(task=task(), new=True)])
    await store.commit([SaveRun(run=run(reason="no proplet"), cause="user")])
    total, events = await store.events("t", offset=0, limit=10)
    assert total == 2
    assert [event.kind for event in events] == ["created", "run"]
    assert (events[1].state, events[1].reason, events[1].cause) == ("waiting", "no proplet", "user")
    assert events[1].at_s == clock.instant.wall_s
    await store.commit([SaveRun(run=run(reason=str(n)), cause="x") for n in range(limits.TASK_EVENTS_KEPT)])
    total, events = await store.events("t", offset=0, limit=1)
    assert (total, events[0].reason) == (limits.TASK_EVENTS_KEPT, "0")
    await store.commit([DropTask(task_id="t")])
    assert await store.events("t", offset=0, limit=10) == (0, [])


async def test_measurements_are_kept_newest_first_and_bounded(store):
    """Each proplet and task has its own; they go with it."""
    await store.commit([SaveTask(task=task(), new=True)])
    for kind, subject in (("proplet", "t"), ("task", "t")):
        samples = [b'{"n":%d}' % n for n in range(limits.METRICS_KEPT + 5)]
        await store.commit([SaveMetric(kind=kind, subject=subject, body=body) for body in samples])
    total, found = await store.metrics("task", "t", offset=1, limit=2)
    assert (total, found) == (limits.METRICS_KEPT, [b'{"n":1003}', b'{"n":1002}'])
    await store.commit([DropTask(task_id="t")])
    assert await store.metrics("task", "t", offset=0, limit=2) == (0, [])
    await store.commit([DropProplet(proplet_id="t")])
    assert await store.metrics("proplet", "t", offset=0, limit=2) == (0, [])


async def test_a_live_run_keeps_the_definition_it_was_started_with(store):
    """However often its task changes; the next run takes the task as it is then."""
    first, now = task(image_url="a"), Instant(mono_s=0.0, wall_s=0.0)
    await store.commit([SaveTask(task=first, new=True), SaveRun(run=run(), cause="x")])
    for image in ("b", "c"):
        await store.commit([SaveTask(task=task(image_url=image))])
    await store.commit([SaveRun(run=run(reason="still"), cause="x")])
    assert [kept for kept, _ in await store.live(now)] == [first]
    assert (await store.task("t")).task.image_url == "c"
    await store.commit([SaveRun(run=run(state=RunState.FAILED), cause="x")])
    await store.commit([SaveTask(task=task(image_url="d")), SaveRun(run=run(2), cause="x")])
    assert [kept.image_url for kept, _ in await store.live(now)] == ["d"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"a": {"y": [1], "x": 2}}, 1),
        ({"a": {"x": 2}}, 0),
        ({"i": 1.0}, 1),
        ({"f": 1}, 1),
        ({"b": 1}, 0),
        ({"i": True}, 0),
        ({"n": None}, 1),
        ({"missing": None}, 0),
        ({"s": "1"}, 1),
        ({"i": "1"}, 0),
    ],
)
async def test_the_filter_compares_as_json_does(store, wanted, found):
    """Numbers by value, documents whatever the order of their keys; true is not 1, null is not absent."""
    metadata = {"a": {"x": 2, "y": [1]}, "i": 1, "f": 1.0, "b": True, "n": None, "s": "1"}
    await store.commit([SaveTask(task=task(metadata=metadata), new=True)])
    assert (await store.tasks(offset=0, limit=9, metadata=wanted))[0] == found


async def test_a_wall_clock_that_was_set_moves_no_deadline(store, clock):
    """E4: while the machine runs, the monotonic clock says how long ago a row was written."""
    await store.commit([SaveTask(task=task(), new=True), SaveRun(run=run(), cause="x")])
    for jump_s in (3600.0, -3600.0):
        later = Instant(mono_s=clock.instant.mono_s + 10, wall_s=clock.instant.wall_s + jump_s)
        ((_, found),) = await store.live(later)
        assert (found.deadline_mono_s, found.give_up_mono_s) == (130.0, 160.0)


async def test_members_of_a_broadcast_are_no_tasks_of_the_list(store):
    """They are found by their broadcast and by their ids, are stored again and again, and go with it."""
    await store.commit([SaveTask(task=task(broadcast=True), new=True), SaveTask(task=task("u"), new=True)])
    member = task("t.p", part_of="t", proplet_id="p")
    await store.commit([SaveTask(task=member)])
    changed = task("t.p", part_of="t", proplet_id="p", inputs=("1",))
    await store.commit([SaveTask(task=changed), SaveRun(run=run(task_id="t.p"), cause="x")])
    total, listed = await store.tasks(offset=0, limit=10)
    assert (total, {one.task.id for one in listed}) == (2, {"t", "u"})
    (part,) = await store.parts("t")
    assert (part.task, part.run.number) == (changed, 1)
    assert [(found.id, live.number) for found, live in await store.live(Instant(0.0, 0.0))] == [("t.p", 1)]
    await store.commit([DropTask(task_id="t")])
    assert await store.parts("t") == []
    with pytest.raises(NotFound):
        await store.task("t.p")


async def test_a_member_never_takes_another_tasks_id(store):
    """A user's task keeps its id, and a member its own."""
    await store.commit([SaveTask(task=task("t.p"), new=True)])
    with pytest.raises(Conflict, match=r"t\.p is taken"):
        await store.commit([SaveTask(task=task("t.p", part_of="t"))])
    assert (await store.task("t.p")).task.part_of == ""
    await store.commit([SaveTask(task=task("t.q", part_of="t"))])
    with pytest.raises(Conflict, match=r"t\.q is taken"):
        await store.commit([SaveTask(task=task("t.q"), new=True)])


async def test_a_service_is_remembered_with_its_definition_and_its_replicas_numbers(store):
    """It changes in place, outlives its runs, and goes with its task, replicas and all."""
    whole = task("web", replicas=2, daemon=True)
    revision = Revision(number=1, task=template(whole), digest="sha256:1")
    service = Service(task_id="web", wanted=2, target=revision, stable=revision, revisions=1)
    await store.commit([SaveTask(task=whole, new=True), SaveService(service=service)])
    await store.commit([SaveRun(run=run(1, task_id="web"), cause="x")])
    replica = replace(revision.task, id="web.1", part_of="web", revision=1)
    await store.commit([SaveTask(task=replica), SaveRun(run=run(4, task_id="web.1"), cause="x")])
    changed = replace(service, wanted=3, previous=revision, outcome="proven")
    await store.commit([SaveTask(task=replace(whole, replicas=3)), SaveService(service=changed)])
    (record,) = await store.services()
    assert record == await store.service("web")
    assert (record.service, record.task.replicas, record.numbers) == (changed, 3, {"web.1": 4})
    assert [one.task for one in await store.parts("web")] == [replica]
    await store.commit([DropTask(task_id="web")])
    assert await store.services() == []
    assert await store.service("web") is None
    with pytest.raises(NotFound):
        await store.task("web.1")
    await store.commit([SaveTask(task=whole, new=True)])
    assert (await store.task("web")).latest_run == 4, "its replicas go on above the deleted ones"


async def test_old_runs_events_and_measurements_expire_and_what_lives_stays(store, clock):
    """Beyond the newest and older than the age; never a task's latest run, nor one that has not ended."""
    keep = Keep(last=2, max_age_s=100.0)

    def run(task_id, number, state=RunState.COMPLETED):
        return SaveRun(run=Run(task_id=task_id, number=number, created_at_s=0.0, give_up_mono_s=1.0,
                               deadline_mono_s=1.0, state=state), results=b"1", cause="test")  # fmt: skip

    tasks = [Task(id=name, name=name, created_at_s=1.0, updated_at_s=1.0) for name in ("old", "lives")]
    await store.commit([SaveTask(task=task, new=True) for task in tasks])
    await store.commit([run("old", number) for number in (1, 2, 3, 4)])
    await store.commit([run("lives", 1, RunState.RUNNING), run("lives", 2), run("lives", 3), run("lives", 4)])
    await store.commit([SaveMetric(kind="task", subject="old", body=b"%d" % one) for one in range(4)])
    await store.commit([SaveMetric(kind="task", subject="gone", body=b"0")])

    async def expire(dry):
        now_s = clock.now().wall_s
        return [await store.expire(kind, keep, now_s, dry=dry) for kind in ("runs", "events", "metrics")]

    assert await expire(dry=True) == [0, 0, 1], "all young, but of a task that is gone"
    clock.instant = Instant(mono_s=300.0, wall_s=1_000_300.0)
    expected = [3, 6, 3]
    assert await expire(dry=True) == expected
    assert await expire(dry=False) == expected
    assert await expire(dry=False) == [0, 0, 0]
    states = [await store.run_state("old", number) for number in (1, 2, 3, 4)]
    assert states == [None, None, RunState.COMPLETED, RunState.COMPLETED]
    assert await store.results_of("old", 4) == b"1"
    assert [await store.run_state("lives", number) for number in (1, 2)] == [RunState.RUNNING, None]
    assert [task.id for task, _ in await store.live(clock.now())] == ["lives"]
    assert (await store.events("old", offset=0, limit=9))[0] == 2
    assert await store.metrics("task", "old", offset=0, limit=9) == (2, [b"3", b"2"])
    everything = Keep(last=0, max_age_s=0.0)
    assert await store.expire("runs", everything, clock.now().wall_s) == 2
    assert await store.run_state("old", 4) is RunState.COMPLETED, "a task's latest run is never dropped"


async def test_modules_that_a_definition_names_are_known(store):
    """Of tasks, and of a live run that began with another one than its task has now."""
    task = Task(id="t", name="t", created_at_s=1.0, updated_at_s=1.0, file_sha256="a" * 64)
    live = Run(task_id="t", number=1, created_at_s=0.0, give_up_mono_s=1.0, deadline_mono_s=1.0,
               state=RunState.RUNNING)  # fmt: skip
    await store.commit([SaveTask(task=task, new=True), SaveRun(run=live, cause="test")])
    await store.commit([SaveTask(task=replace(task, file_sha256="b" * 64))])
    assert await store.files() == {"a" * 64, "b" * 64}
    await store.commit([SaveRun(run=replace(live, state=RunState.COMPLETED), cause="test")])
    assert await store.files() == {"b" * 64}
    older = Revision(number=1, task=replace(task, file_sha256="c" * 64))
    newer = Revision(number=2, task=replace(task, file_sha256="b" * 64))
    service = Service(task_id="t", wanted=1, target=newer, stable=newer, previous=older, revisions=2)
    await store.commit([SaveService(service=service)])
    assert await store.files() == {"b" * 64, "c" * 64}, "a revision may be wanted back"
    part = replace(task, id="t.replica-1", part_of="t")
    await store.commit([SaveTask(task=part)])
    assert await store.task_ids() == {"t", "t.replica-1"}
    await store.commit([DropTask(task_id="t")])
    assert (await store.files(), await store.task_ids()) == (frozenset(), frozenset())
