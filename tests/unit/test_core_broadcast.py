"""Broadcasts in the engine: members, what they come to, and what a restart keeps."""

from dataclasses import replace

import pytest
from test_core_engine import at, heard, task

from propeller.core import broadcast
from propeller.core import events as e
from propeller.core.engine import Engine
from propeller.core.ids import check_id
from propeller.core.run import RunState
from propeller.errors import Conflict

WHOLE = task("t", broadcast=True)


@pytest.fixture
def engine():
    """An engine that knows two live proplets, and one that said farewell long ago."""
    made = Engine()
    for name in ("p", "q", "gone"):
        made.handle(heard(name), at(0))
    made.handle(e.Gone(proplet_id="gone", lane="directed", cause="test"), at(1))
    for name in ("p", "q"):
        made.handle(heard(name), at(100))
    yield made
    made.validate()


def begin(engine: Engine, s: float = 100) -> list[e.Command]:
    """Start the broadcast on whoever is there."""
    members = broadcast.members(engine.ledger, WHOLE, at(s))
    order = e.BroadcastRequested(task=WHOLE, members=members, number=1, cause="test")
    return engine.handle(order, at(s))


def finished(engine: Engine, proplet_id: str, s: float, **fields) -> list[e.Command]:
    """That member's word that it ended."""
    report = e.AttemptReport(
        kind="finished",
        sender=proplet_id,
        task_id=broadcast.member_id("t", proplet_id),
        run=1,
        attempt=1,
        cause="test",
        **fields,
    )
    return engine.handle(report, at(s))


def wholes(commands: list[e.Command]) -> list[e.SaveRun]:
    """What is stored of the broadcast's own run."""
    return [one for one in commands if isinstance(one, e.SaveRun) and one.run.task_id == "t"]


def test_it_reaches_who_is_there(engine):
    """The live ones and those that may be on their way back; not those that left or are out of use."""
    reached = [one.proplet_id for one in broadcast.members(engine.ledger, WHOLE, at(100))]
    assert reached == ["p", "q"]
    silent = [one.proplet_id for one in broadcast.members(engine.ledger, WHOLE, at(135))]
    assert silent == ["p", "q"]
    assert broadcast.members(engine.ledger, WHOLE, at(1000)) == ()
    engine.handle(e.Cordoned(proplet_id="p", cordoned=True, cause="test"), at(101))
    assert [one.proplet_id for one in broadcast.members(engine.ledger, WHOLE, at(101))] == ["q"]


def test_each_member_is_taken_in_once_and_the_last_ends_it(engine):
    """Results are stored under the proplet's name in the transaction that ends the member."""
    begin(engine)
    first = wholes(finished(engine, "p", 101, results=b'"hi"'))
    assert [(one.part, one.results, one.run.state) for one in first] == [("p", b'"hi"', RunState.RUNNING)]
    assert wholes(finished(engine, "p", 102, results=b'"again"')) == []
    last = wholes(finished(engine, "q", 103, error="boom", failure="trap"))
    assert (last[0].part, last[0].results) == ("q", b'{"error": "boom", "failure": "trap"}')
    assert (last[-1].run.state, last[-1].run.reason) == (RunState.FAILED, "q: trap")


def test_a_restart_counts_what_is_left(engine):
    """The restored engine ends the broadcast with the last member, and at once one that has none left."""
    begin(engine)
    stored = [(whole.task, whole.run) for whole in engine.ledger.wholes.values()]
    stored += [(engine.ledger.tasks[name], run) for name, run in engine.ledger.runs.items()]
    again = Engine.restore(stored, engine.ledger.proplets.values(), at(110))
    finished(again, "p", 111)
    assert wholes(finished(again, "q", 112))[-1].run.state is RunState.COMPLETED
    hollow = Engine.restore(stored[:1], [], at(110))
    assert wholes(hollow.handle(e.Tick(), at(111)))[-1].run.state is RunState.COMPLETED


def test_it_cannot_be_started_twice_or_on_nobody(engine):
    """One live run a task holds for broadcasts too."""
    begin(engine)
    with pytest.raises(Conflict, match="task t is already started"):
        begin(engine, 101)
    with pytest.raises(Conflict, match="no proplet"):
        engine.handle(e.BroadcastRequested(task=task("u"), members=(), number=1, cause="test"), at(102))


@pytest.mark.parametrize(("task_id", "proplet_id"), [("t", "p"), ("t" * 63, "p"), ("t", "p" * 63)])
def test_a_members_id_is_lawful_and_its_own(task_id, proplet_id):
    """However long the ids are that it is made of."""
    made = broadcast.member_id(task_id, proplet_id)
    assert check_id(made, "member") == made
    assert made != broadcast.member_id(task_id, "other")
    assert broadcast.member(replace(WHOLE, id=task_id), proplet_id).part_of == task_id
