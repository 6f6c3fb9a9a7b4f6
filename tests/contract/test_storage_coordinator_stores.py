"""What every `stores.CoordinatorStore` promises."""

from dataclasses import replace

import pytest

from postgres_server import opened
from propeller.errors import Conflict
from propeller.fl.experiment import Experiment, ExperimentState
from propeller.fl.model_ref import ModelRef
from propeller.fl.plan import plan
from propeller.fl.round import RoundState
from propeller.fl.round_events import Accepted
from propeller.storage.coordinator_memory import MemoryCoordinatorStore
from propeller.storage.coordinator_store import ROLE, SqlCoordinatorStore
from propeller.storage.sqlite import Database
from propeller.stores.coordinator import (
    Changes,
    Content,
    ExperimentRecord,
    Notice,
    RoundRecord,
    StoredUpdate,
    UpdateRecord,
)

BASE = "m/d/c/c"


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request, tmp_path):
    """One store of each kind."""
    if request.param == "memory":
        yield MemoryCoordinatorStore()
        return
    database = await opened(request.param, tmp_path, role=ROLE, base=BASE)
    yield SqlCoordinatorStore(database)
    await database.close()


def experiment(series="r1", experiment_id="exp", **more):
    """A running experiment, every field of its spec other than its default."""
    spec = plan(
        experiment_id=experiment_id,
        round_id=series,
        participants=["p2", "p1"],
        model=ModelRef(name="m", version=4),
        k_of_n=1,
        timeout_s=12.5,
        rounds=3,
        image="i",
        hyperparams={"lr": 0.1, "nested": {"deep": [1, None, "x"]}},
        strategy="fedavg",
        options={"mu": 1},
        seed=2**63 - 1,
    )
    running = Experiment(spec=spec, model=spec.model, number=2)
    return ExperimentRecord(experiment=running, digest="d", created_wall_s=1.5, **more)


def a_round(record, number=1, **more):
    """A collecting round of it."""
    spec = record.experiment.spec.round_spec(number, ModelRef(name="m", version=4), "h" * 64)
    fields = {
        "spec": spec,
        "state": RoundState.COLLECTING,
        "participants": spec.participants,
        "remaining_s": 3.25,
        "stamped_wall_s": 10.0,
        "started_wall_s": float(number),
        "metrics": {"loss": 0.1},
        "refused": {"bad": 2},
    }
    return RoundRecord(**{**fields, **more})


def an_update(round_id="r1", participant="p1", content=None):
    """An update that counts."""
    accepted = Accepted(participant=participant, samples=7, content="c" * 64, metrics={"loss": 0.25})
    record = UpdateRecord(round_id=round_id, accepted=accepted, bytes=99, received_wall_s=11.0, seconds=1.25)
    return StoredUpdate(record=record, content=content or Content(inline=b"\0tensors"))


async def test_empty_store_has_nothing(store):
    """Absence is None or empty, never an error."""
    assert await store.experiment("r1") is None
    assert await store.latest_experiment("exp") is None
    assert await store.round("r1") is None
    assert await store.last_completed() is None
    assert await store.taken(["r1"]) is None
    assert await store.taken([]) is None
    assert await store.updates("r1") == []
    assert await store.experiments(offset=0, limit=10) == (0, [])
    assert await store.rounds(offset=0, limit=10) == (0, [])
    live = await store.live()
    assert (list(live.experiments), list(live.rounds), list(live.notices)) == ([], [], [])


async def test_everything_comes_back_as_it_was(store):
    """Every field of every record survives, and live holds it all."""
    record = experiment()
    notice = Notice(round_id="r1", kind="start", payload=b"\xffbytes", created_wall_s=2.5)
    blob = an_update(participant="p0", content=Content(blob="b" * 64))
    await store.commit(
        Changes(experiments=[record], rounds=[a_round(record)], updates=[an_update(), blob], notices=[notice])
    )
    assert await store.experiment("r1") == record
    assert await store.round("r1") == a_round(record)
    assert await store.contents("r1") == [blob, an_update()]
    assert await store.updates("r1") == [blob.record, an_update().record]
    live = await store.live()
    assert list(live.experiments) == [record]
    assert [(one, list(accepted)) for one, accepted in live.rounds] == [
        (a_round(record), [blob.record.accepted, an_update().record.accepted])
    ]
    assert list(live.notices) == [notice]


async def test_second_update_of_a_participant_undoes_its_whole_commit(store):
    """The store itself counts a participant once; what came with the second is not written either."""
    record = experiment()
    await store.commit(Changes(rounds=[a_round(record)], updates=[an_update()]))
    changed = a_round(record, state=RoundState.AGGREGATING)
    with pytest.raises(Conflict, match="stored already") as caught:
        await store.commit(Changes(rounds=[changed], updates=[an_update()]))
    assert caught.value.reason == "already_submitted"
    assert (await store.round("r1")).state is RoundState.COLLECTING
    with pytest.raises(Conflict):
        await store.commit(
            Changes(rounds=[changed], updates=[an_update(participant="p5"), an_update(participant="p5")])
        )
    assert len(await store.updates("r1")) == 1


async def test_ended_records_leave_the_live_set(store):
    """Terminal rounds and experiments are found by asking, and no longer loaded."""
    record = experiment()
    await store.commit(Changes(experiments=[record], rounds=[a_round(record)]))
    over = replace(record, experiment=record.experiment.to(ExperimentState.STOPPED, "stopped"))
    failed = a_round(record, state=RoundState.FAILED, reason="stopped", ended_wall_s=20.0)
    await store.commit(Changes(experiments=[over], rounds=[failed]))
    live = await store.live()
    assert (list(live.experiments), list(live.rounds)) == ([], [])
    assert await store.experiment("r1") == over
    assert await store.round("r1") == failed
    assert (await store.rounds(offset=0, limit=10))[0] == 1


async def test_notices_are_replaced_and_done(store):
    """One notice for each round and kind; done ones are gone, absent ones no matter."""
    first = Notice(round_id="r1", kind="complete", payload=b"1", created_wall_s=1.0)
    second = replace(first, payload=b"2")
    other = replace(first, kind="next")
    await store.commit(Changes(notices=[first]))
    await store.commit(Changes(notices=[second, other], done=[("r9", "start")]))
    assert {one.key: one.payload for one in (await store.live()).notices} == {
        ("r1", "complete"): b"2",
        ("r1", "next"): b"1",
    }
    await store.commit(Changes(done=[first.key]))
    assert [one.key for one in (await store.live()).notices] == [other.key]


async def test_pages_are_newest_first_and_counted(store):
    """Order of creation, whatever changed later; an experiment id may be used again."""
    records = [experiment(f"s{number}", experiment_id="ab"[number % 2]) for number in range(5)]
    for record in records:
        await store.commit(Changes(experiments=[record], rounds=[a_round(record)]))
    await store.commit(Changes(experiments=[records[0]], rounds=[a_round(records[0], reason="changed")]))
    total, page = await store.rounds(offset=1, limit=2)
    assert (total, [one.spec.round_id for one in page]) == (5, ["s3", "s2"])
    total, page = await store.rounds(offset=0, limit=9, experiment_id="b")
    assert (total, [one.spec.round_id for one in page]) == (2, ["s3", "s1"])
    total, page = await store.experiments(offset=3, limit=9)
    assert (total, [one.experiment.spec.series for one in page]) == (5, ["s1", "s0"])
    assert (await store.latest_experiment("a")).experiment.spec.series == "s4"
    assert [one.experiment.spec.series for one in (await store.live()).experiments] == [
        f"s{number}" for number in range(5)
    ]


async def test_last_completed_is_the_one_that_started_last(store):
    """Not the one that ended last, nor one that failed, nor an evaluation, which makes no model."""
    record = experiment()
    completed = RoundState.COMPLETED
    rounds = [
        a_round(record, number, state=state, version=version)
        for number, state, version in (
            (3, completed, 5),
            (2, completed, 4),
            (1, RoundState.FAILED, None),
            (4, completed, None),
        )
    ]
    for one in rounds:
        await store.commit(Changes(rounds=[one]))
    assert (await store.last_completed()).spec.round_id == "exp-3"


async def test_taken_names_the_first_known_id(store):
    """In the order asked, among thousands."""
    record = experiment()
    await store.commit(Changes(rounds=[a_round(record, 1), a_round(record, 2)]))
    assert await store.taken([f"n{number}" for number in range(5000)]) is None
    assert await store.taken(["x", "exp-2", "r1"]) == "exp-2"


async def test_sqlite_survives_closing(tmp_path):
    """What was committed is there for the next process."""
    record = experiment()
    for expected in ([], [record]):
        database = await Database.open(tmp_path / "coordinator.db", role=ROLE, base=BASE)
        store = SqlCoordinatorStore(database)
        assert list((await store.live()).experiments) == expected
        await store.commit(Changes(experiments=[record]))
        await database.close()


async def test_tensors_of_ended_rounds_go_and_their_records_stay(store):
    """A round that is under way is left alone; a blob goes only once no update names it."""
    record = experiment()
    rounds = [
        a_round(record, 1, state=RoundState.COMPLETED),
        a_round(record, 2, state=RoundState.FAILED),
        a_round(record, 3),
    ]
    accepted = Accepted(participant="p1", content="c", samples=3, metrics={})
    updates = [
        StoredUpdate(
            record=UpdateRecord(
                round_id=one.spec.round_id, accepted=accepted, bytes=9, received_wall_s=1.0, seconds=1.0
            ),
            content=content,
        )
        for one, content in zip(
            rounds, (Content(inline=b"x"), Content(blob="b" * 64), Content(blob="b" * 64)), strict=True
        )
    ]
    await store.commit(Changes(experiments=[record], rounds=rounds, updates=updates))
    ended = await store.with_contents()
    assert [one.at_s for one in ended] == [1.0, 2.0]
    orders = [one.order for one in ended]
    assert await store.drop_contents([*orders, orders[-1] + 1]) == (2, [])
    assert await store.with_contents() == []
    assert await store.drop_contents(orders) == (0, [])
    assert await store.updates(rounds[0].spec.round_id) == [updates[0].record]
    assert (await store.contents(rounds[2].spec.round_id))[0] == updates[2]
    await store.commit(Changes(rounds=[replace(rounds[2], state=RoundState.COMPLETED)]))
    (last,) = await store.with_contents()
    assert await store.drop_contents([last.order]) == (1, ["b" * 64])
