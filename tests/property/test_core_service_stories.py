"""Services through any story: scaled, rolled out and back, on proplets and a manager that come and go."""

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from propeller.core import events as e
from propeller.core.reconcile import Circumstances, Seen, decide
from propeller.core.replicas import Rollout, Scale
from propeller.core.scaling import advised, steadied
from propeller.core.service import Phase, Revision, Service
from propeller.errors import CallerError
from service_fleet import BAD, BETTER, GOOD, Fleet, is_calm, service

_PROPLETS = 5
_names = st.sampled_from([f"p{number}" for number in range(1, _PROPLETS + 1)])
_steps = st.one_of(
    st.tuples(st.just("image"), st.sampled_from([GOOD, BETTER, BAD])),
    st.tuples(st.just("wanted"), st.integers(1, 4)),
    st.tuples(st.sampled_from(["kill", "cut", "back", "drain", "uncordon"]), _names),
    st.tuples(st.just("rollout"), st.sampled_from(["undo", "restart"])),
    st.tuples(st.just("stop one"), st.integers(1, 5)),
    st.tuples(st.just("manager dies"), st.none()),
    st.tuples(st.just("pass"), st.integers(1, 40)),
)


def closed(fleet: Fleet, name: str, *, yes: bool) -> None:
    """Drain a proplet, or take it back."""
    fleet.handle(e.Cordoned(proplet_id=name, cordoned=yes, draining=yes, cause="user"))


STEPS = {
    "image": lambda fleet, told: fleet.change(image_url=told),
    "wanted": lambda fleet, told: fleet.change(wanted=told),
    "kill": Fleet.kill,
    "cut": lambda fleet, told: fleet.cut.add(told),
    "back": Fleet.back,
    "drain": lambda fleet, told: closed(fleet, told, yes=True),
    "uncordon": lambda fleet, told: closed(fleet, told, yes=False),
    "rollout": lambda fleet, told: fleet.handle(e.RolloutRequested(task_id="web", how=told, cause="user")),
    "stop one": lambda fleet, told: fleet.handle(
        e.StopRequested(task_id=f"web.replica-{told}", reason="stopped by user", cause="user")
    ),
    "manager dies": lambda fleet, _: fleet.restart(),
    "pass": Fleet.pass_s,
}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_steps, st.integers(0, 3)), max_size=25), st.integers(0, 2))
def test_after_any_story_there_are_as_many_as_wanted_and_they_work(script, surge):
    """At every event there are at most `wanted + surge` (`Engine.validate`); in the end exactly `wanted`.

    All are of the definition's image, which is never the one that fails: whoever asked for that got the old
    one back. No guest runs that the manager does not count.
    """
    fleet = Fleet(_PROPLETS, pins=True)
    fleet.start(service(2, rollout=Rollout(surge=surge, healthy_s=3, deadline_s=40)))
    fleet.pass_s(10)
    for (step, told), pause_s in script:
        with suppress(CallerError):
            STEPS[step](fleet, told)
        fleet.pass_s(pause_s)
    for name in fleet.names:
        fleet.back(name)
        closed(fleet, name, yes=False)
    fleet.pass_s(400)
    assert is_calm(fleet), fleet.state
    assert fleet.images == [fleet.task.image_url] * fleet.task.replicas
    assert fleet.serving == fleet.images
    assert fleet.task.image_url != BAD


_seen = st.builds(
    lambda revision, at, healthy, stopping: (revision, f"p{at}", healthy and not stopping, stopping),
    st.integers(1, 3), st.integers(1, 4), st.booleans(), st.booleans(),
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(
    st.lists(_seen, max_size=9), st.sampled_from(Phase), st.integers(0, 5), st.integers(0, 3),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_no_plan_goes_beyond_its_bounds_or_takes_what_works(seen, phase, wanted, surge, pinned, may_start):
    """Whatever is seen: starts fit the bound, what stays fits it, and no rollout costs a healthy replica.

    But for the one that makes room where there is no surge.
    """
    there = [
        Seen(id=f"r{at}", revision=revision, proplet_id=where, healthy=healthy, stopping=stopping)
        for at, (revision, where, healthy, stopping) in enumerate(seen)
    ]
    old, new = (Revision(number=number, task=service()) for number in (1, 2))
    target = old if phase is Phase.STEADY else new
    kept = Service(task_id="web", wanted=wanted, phase=phase, target=target, stable=old, revisions=3)
    plan = decide(kept, Rollout(surge=surge), there, Circumstances(pinned=pinned, may_start=may_start))
    if plan.turn is not None:
        assert (plan.stop, plan.start) == ((), ())
        return
    staying = [one for one in there if not one.stopping and one.id not in plan.stop]
    assert len(set(plan.stop)) == len(plan.stop)
    assert set(plan.stop) <= {one.id for one in there if not one.stopping}
    assert not plan.start or len(there) + len(plan.start) <= wanted + surge
    assert len(staying) <= wanted + surge
    assert set(plan.start) <= {1, 2}
    if phase is not Phase.STEADY:
        before = sum(one.healthy for one in there)
        least = wanted if surge else max(0, wanted - 1)
        assert sum(one.healthy for one in staying) >= min(before, least)


@given(st.integers(1, 50), st.floats(0, 1000), st.integers(0, 50), st.floats(0.1, 100), st.integers(0, 20))
def test_a_rule_stays_in_its_bounds_and_at_rest_on_its_target(wanted, total, count, target, spread):
    """What it asks for is between min and max, enough for the figure, and no more than that needs."""
    rule = Scale(min=1, max=1 + spread, on="queue", target=target)
    asked = advised(rule, wanted, total, min(count, wanted))
    assert rule.min <= asked <= rule.max
    if count and wanted < asked:
        assert asked == rule.min or (asked - 1) * target < total + 1e-6
    assert advised(rule, asked, asked * target, asked) == asked
    assert steadied(wanted, [asked]) == asked
    assert steadied(wanted, [wanted, asked]) == max(wanted, asked)
