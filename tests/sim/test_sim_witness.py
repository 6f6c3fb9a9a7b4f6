"""The witness of a world sees promises broken: what never fails proves nothing."""

from dataclasses import replace

import pytest

from propeller.core.events import SaveProplet, SaveRun, SaveService
from propeller.core.proplet import Proplet
from propeller.core.run import Attempt, AttemptState, Run, RunState
from propeller.core.service import Revision, Service, template
from propeller.core.task import Task
from propeller.simulation.world.witness import Witness

TASKS = {name: Task(id=name, name="main", created_at_s=1.0, updated_at_s=1.0) for name in ("a", "b")}


def proplet(**fields):
    """A proplet that is in use."""
    return SaveProplet(proplet=Proplet(id="p", name="p", registered_at_s=1.0, **fields))


def run(task="a", state=RunState.RUNNING, *attempts, **fields):
    """A run with attempts on p in these states."""
    made = [
        Attempt(number=at, proplet_id="p", lane="directed", state=one) for at, one in enumerate(attempts, 1)
    ]
    made_run = Run(
        task_id=task,
        number=1,
        state=state,
        attempts=tuple(made),
        created_at_s=1.0,
        give_up_mono_s=9.0,
        deadline_mono_s=9.0,
        **fields,
    )
    return SaveRun(run=made_run, cause="test")


RUNNING = AttemptState.RUNNING
DONE = run("a", RunState.COMPLETED, AttemptState.SUCCEEDED)
FAILED_TWICE = run("a", RunState.FAILED, AttemptState.FAILED, AttemptState.FAILED, failures=2, reason="trap")


@pytest.mark.parametrize(
    ("commits", "invariant"),
    [
        ([[proplet(), DONE], [run("a", RunState.RUNNING, RUNNING)]], "a run's end is for ever"),
        ([[proplet(cordoned=True), run("a", RunState.RUNNING, RUNNING)]], "a cordoned or drained proplet"),
        (
            [[proplet(), run("a", RunState.RUNNING, RUNNING), run("b", RunState.RUNNING, RUNNING)]],
            "a proplet gets no more than it has slots",
        ),
        ([[proplet(), FAILED_TWICE]], "restarts keep their bound"),
        ([[proplet(), run("b", RunState.WAITING, answers={"a": 1})]], "parents end before their child"),
        ([[proplet(), run("a", RunState.RUNNING, RUNNING, RUNNING)]], "one live attempt a run"),
        ([[run("a", RunState.FAILED)]], "what did not complete says why"),
    ],
)
def test_each_broken_promise_is_seen(commits, invariant):
    """A record that breaks a promise is named by that promise, and the first one stays named."""
    witness = Witness()
    for changes in commits:
        witness.saw(changes, TASKS)
    assert witness.broken is not None
    assert witness.broken.invariant.startswith(invariant)


def test_too_many_replicas_are_seen():
    """What is being stopped does not count; one more than wanted and the surge does."""
    web = replace(TASKS["a"], id="web", replicas=1, daemon=True)
    revision = Revision(number=1, task=template(web))
    kept = Service(task_id="web", wanted=1, target=revision, stable=revision, revisions=1)
    names = ("web.1", "web.2", "web.3")
    parts = {one: replace(revision.task, id=one, part_of="web", revision=1) for one in names}
    tasks = {"web": web} | parts
    witness = Witness()
    leaving = run("web.1", RunState.STOPPING, RUNNING)
    others = [run("web.2", RunState.WAITING), run("web.3", RunState.WAITING)]
    witness.saw([proplet(), SaveService(service=kept), leaving, *others], tasks)
    assert witness.broken is None
    witness.saw([run("web.1", RunState.WAITING)], tasks)
    assert witness.broken is not None
    assert witness.broken.invariant.startswith("a service has at most so many")


def test_what_keeps_the_promises_is_left_alone():
    """A run that waits, runs and completes, and a second task after it, break nothing."""
    witness = Witness()
    waiting = run("a", RunState.WAITING)
    witness.saw([proplet(), waiting], TASKS)
    witness.saw([run("a", RunState.RUNNING, RUNNING)], TASKS)
    witness.saw([DONE, SaveRun(run=replace(DONE.run, task_id="b"), cause="test")], TASKS)
    assert witness.broken is None
