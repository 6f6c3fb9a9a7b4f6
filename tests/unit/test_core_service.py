"""Services in the engine: replicas are kept, spread, scaled, and rolled out or back."""

from dataclasses import replace

import pytest

from propeller.core import events as e
from propeller.core.replicas import Rollout, Scale
from propeller.core.run import RunState
from propeller.core.service import PHASES, Phase, Turn
from propeller.core.task import define
from propeller.errors import BadInput, Bug, Conflict
from service_fleet import BAD, BETTER, GOOD, Fleet, is_calm, service

BRISK = Rollout(healthy_s=3, deadline_s=60)


def running(replicas: int = 3, *, proplets: int = 5, slots: int = 1, pins: bool = False, **fields) -> Fleet:
    """A service that has run for a while."""
    fleet = Fleet(proplets, slots=slots, pins=pins)
    fleet.start(service(replicas, rollout=BRISK, **fields))
    fleet.pass_s(10)
    return fleet


def places(fleet: Fleet) -> list[str]:
    """Where the replicas are, sorted."""
    return sorted(one.run.attempts[-1].proplet_id for one in fleet.state.replicas)


def test_replicas_are_spread_before_any_proplet_has_two():
    """One each while that is possible, whatever else there is room for."""
    assert places(running(3, proplets=3, slots=4)) == ["p1", "p2", "p3"]
    crowded = places(running(5, proplets=3, slots=4))
    assert sorted(map(crowded.count, ("p1", "p2", "p3"))) == [1, 2, 2]


def test_a_lost_proplets_replica_is_begun_elsewhere_and_stopped_if_it_comes_back():
    """The number is kept by the policies of runs; who was only cut off does not serve twice for long."""
    fleet = running(3, proplets=4)
    gone = places(fleet)[0]
    fleet.cut.add(gone)
    fleet.pass_s(60)
    assert is_calm(fleet)
    assert gone not in places(fleet)
    assert fleet.serving == [GOOD] * 4
    fleet.back(gone)
    fleet.pass_s(1)
    assert fleet.serving == [GOOD] * 3


def test_disconnect_may_say_to_wait_for_the_vanished():
    """A replica whose policy forbids a replacement counts until its proplet is back."""
    task = service(2, rollout=BRISK)
    fleet = Fleet(3)
    fleet.start(replace(task, disconnect=replace(task.disconnect, replace=False)))
    fleet.pass_s(10)
    gone = places(fleet)[0]
    fleet.cut.add(gone)
    fleet.pass_s(300)
    assert gone in places(fleet)
    assert (len(fleet.state.replicas), fleet.state.ready) == (2, 1)
    fleet.back(gone)
    fleet.pass_s(1)
    assert is_calm(fleet)


def test_it_is_scaled_by_hand_up_and_down_to_nothing():
    """The definition says so too; those that do not run go first."""
    fleet = running(1, proplets=3)
    fleet.change(wanted=4)
    fleet.pass_s(5)
    assert (len(fleet.state.replicas), fleet.state.ready, fleet.task.replicas) == (4, 3, 4)
    fleet.change(wanted=3)
    fleet.pass_s(1)
    assert is_calm(fleet)
    fleet.change(wanted=0)
    fleet.pass_s(1)
    assert fleet.serving == []
    assert fleet.disk.runs["web"].state is RunState.RUNNING
    fleet.change(wanted=2)
    fleet.pass_s(1)
    assert is_calm(fleet)


def test_more_replicas_than_room_wait_for_ever_and_begin_when_there_is_some():
    """A replica never fails for want of a proplet."""
    fleet = running(3, proplets=2)
    fleet.pass_s(2000)
    assert (len(fleet.state.replicas), fleet.state.ready) == (3, 2)
    fleet.change(wanted=2)
    fleet.pass_s(1)
    assert is_calm(fleet)


def test_a_new_image_comes_in_by_steps_and_never_too_many():
    """An old replica goes only when a new one is healthy, and the new one is the one to go back to."""
    fleet = running(3, proplets=4)
    fleet.most = 0
    fleet.change(image_url=BETTER)
    seen = set()
    while not is_calm(fleet):
        fleet.pass_s(1)
        assert len(fleet.serving) >= 3
        seen.add(tuple(fleet.images))
    assert fleet.images == [BETTER] * 3
    assert seen >= {(BETTER, GOOD, GOOD, GOOD), (BETTER, BETTER, GOOD, GOOD), (BETTER, BETTER, BETTER, GOOD)}
    assert fleet.most == 4
    assert fleet.state.service.outcome == "proven"


def test_without_surge_an_old_replica_makes_room():
    """On a full fleet the service has never one more, and the next goes only when the last is healthy."""
    fleet = running(3, proplets=3)
    fleet.most, seen = 0, set()
    fleet.change(image_url=BETTER, rollout=replace(BRISK, surge=0))
    while not is_calm(fleet):
        fleet.pass_s(1)
        seen.add(tuple(fleet.images))
    assert (fleet.images, fleet.most) == ([BETTER] * 3, 3)
    assert seen >= {(BETTER, GOOD, GOOD), (BETTER, BETTER, GOOD)}


def test_a_bad_image_is_rolled_back_while_the_old_replicas_serve():
    """The definition is the old one again, and says why."""
    fleet = running(3, proplets=4)
    fleet.change(image_url=BAD)
    while not is_calm(fleet):
        fleet.pass_s(1)
        assert fleet.serving == [GOOD] * 3
    assert (fleet.images, fleet.task.image_url) == ([GOOD] * 3, GOOD)
    assert fleet.said == "revision 2 is rolled back to 1: web.replica-4 failed: trap"
    assert fleet.state.service.outcome == "rolled_back"


@pytest.mark.parametrize(("proplets", "surge"), [(4, 1), (3, 1), (3, 0)])
def test_a_rollout_that_comes_to_nothing_is_rolled_back_at_its_deadline(proplets, surge):
    """A new replica that finds no room, or whose proplet vanishes, is no reason to wait for ever."""
    fleet = running(3, proplets=proplets)
    for name in set(fleet.names) - set(places(fleet)):
        fleet.handle(e.Cordoned(proplet_id=name, cordoned=True, cause="user"))
    if surge == 0:  # what makes room is cordoned as well
        for name in places(fleet):
            fleet.handle(e.Cordoned(proplet_id=name, cordoned=True, cause="user"))
    fleet.change(image_url=BETTER, rollout=replace(BRISK, surge=surge))
    fleet.pass_s(70)
    for name in fleet.names:
        fleet.handle(e.Cordoned(proplet_id=name, cordoned=False, cause="user"))
    fleet.pass_s(70)
    assert is_calm(fleet)
    assert fleet.images == [GOOD] * 3
    assert "no further replica of revision 2 was healthy in time: web." in fleet.said


def test_another_definition_meanwhile_takes_the_place_of_the_first():
    """Rolling is left for rolling; what is proven in the end is the last."""
    fleet = running(3, proplets=4)
    fleet.change(image_url=BAD)
    fleet.pass_s(1)
    fleet.change(image_url=BETTER)
    fleet.pass_s(60)
    assert is_calm(fleet)
    assert (fleet.images, fleet.state.service.stable.number) == ([BETTER] * 3, 3)


def test_scaling_meanwhile_counts_at_once_with_what_is_known_to_work():
    """More are wanted while a bad image comes in: they are made of the old one."""
    fleet = running(2, proplets=6)
    fleet.change(image_url=BAD)
    fleet.change(wanted=4)
    fleet.pass_s(1)
    assert fleet.serving.count(GOOD) >= 3
    fleet.pass_s(60)
    assert is_calm(fleet)
    assert (fleet.images, fleet.task.replicas) == ([GOOD] * 4, 4)


def test_undo_goes_back_now_and_later_and_forth_again():
    """During a rollout it is refused; after it, the revision before comes in as a new one."""
    fleet = running(2, proplets=3)
    undo = e.RolloutRequested(task_id="web", how="undo", cause="user")
    with pytest.raises(Conflict, match="no revision to go back to"):
        fleet.handle(undo)
    fleet.change(image_url=BETTER)
    fleet.handle(undo)
    fleet.pass_s(5)
    assert fleet.images == [GOOD] * 2
    fleet.change(image_url=BETTER)
    fleet.pass_s(30)
    fleet.handle(undo)
    assert fleet.task.image_url == GOOD
    fleet.pass_s(30)
    assert is_calm(fleet)
    assert fleet.images == [GOOD] * 2
    fleet.handle(undo)
    fleet.pass_s(30)
    assert fleet.images == [BETTER] * 2


def test_all_replicas_of_a_revision_are_the_same_bytes_and_a_restart_asks_anew():
    """A tag is looked up once a revision; going back goes back to the bytes."""
    fleet = running(2, proplets=3, pins=True)
    fleet.digests[GOOD] = "sha256:moved"
    fleet.change(wanted=3)
    fleet.pass_s(3)
    assert {one.run.image_digest for one in fleet.state.replicas} == {"sha256:good"}
    fleet.change(wanted=2)
    fleet.handle(e.RolloutRequested(task_id="web", how="restart", cause="user"))
    fleet.pass_s(30)
    assert {one.run.image_digest for one in fleet.state.replicas} == {"sha256:moved"}
    fleet.handle(e.RolloutRequested(task_id="web", how="undo", cause="user"))
    fleet.pass_s(30)
    assert {one.run.image_digest for one in fleet.state.replicas} == {"sha256:good"}


def test_an_image_that_is_not_there_is_rolled_back_or_ends_a_service_that_has_no_other():
    """At once, and without a replica of it."""
    fleet = running(2, proplets=3, pins=True)
    fleet.change(image_url="nowhere:1")
    fleet.pass_s(2)
    assert is_calm(fleet)
    assert "image nowhere:1 is not there" in fleet.said
    fresh = Fleet(2, pins=True)
    fresh.start(service(2, image_url="nowhere:1"))
    assert (fresh.disk.runs["web"].state, fresh.disk.runs["web"].failure) == (RunState.FAILED, "image")


def test_a_stop_stops_all_and_the_next_start_begins_with_what_is_defined():
    """Also in the middle of a rollout; numbers of runs and revisions only grow."""
    fleet = running(3, proplets=4)
    fleet.change(image_url=BETTER)
    fleet.pass_s(4)
    fleet.stop()
    fleet.settle()
    assert fleet.serving == []
    assert fleet.disk.runs["web"].state is RunState.INTERRUPTED
    fleet.start(fleet.task)
    fleet.pass_s(5)
    assert is_calm(fleet)
    assert (fleet.images, fleet.disk.runs["web"].number) == ([BETTER] * 3, 2)


def test_a_service_of_a_deleted_ones_name_counts_on():
    """Run numbers of an id are never given twice: a proplet remembers them."""
    fleet = Fleet(1)
    fleet.disk.tasks["web"] = service(1)
    fleet.handle(e.ServiceRequested(task=service(1), number=7, cause="user"))
    assert fleet.disk.runs["web.replica-1"].number == 7


def test_a_drained_proplets_replica_goes_elsewhere():
    """It is no failure, and there is never one more."""
    fleet = running(3, proplets=4)
    fleet.most, gone = 0, places(fleet)[0]
    fleet.handle(e.Cordoned(proplet_id=gone, cordoned=True, draining=True, cause="user"))
    fleet.pass_s(2)
    assert is_calm(fleet)
    assert (gone in places(fleet), fleet.most) == (False, 3)


def test_replicas_that_end_by_themselves_are_replaced_with_growing_pauses():
    """A service whose restarts are used up is begun again, more and more slowly."""
    fleet = Fleet(2)
    latent = service(1, image_url=BAD, daemon=False, latent=True, rollout=BRISK)
    fleet.start(latent)
    runs = []
    for _ in range(40):
        fleet.pass_s(1)
        runs.append(fleet.disk.runs["web.replica-1"].number)
    assert 4 <= runs[-1] <= 8
    assert fleet.said == "web.replica-1 ended: trap"


def test_a_manager_that_comes_back_goes_on_with_the_rollout():
    """Mid-rollout, with a proplet gone meanwhile: good images come in, bad ones go."""
    for image, expected in ((BETTER, BETTER), (BAD, GOOD)):
        fleet = running(3, proplets=5)
        fleet.change(image_url=image)
        fleet.pass_s(2)
        fleet.kill(places(fleet)[0])
        fleet.restart()
        fleet.pass_s(120)
        assert is_calm(fleet)
        assert fleet.images == [expected] * 3


def test_a_rule_scales_up_at_once_and_down_after_its_window():
    """By the figure per replica, within the bounds; what one replica lacks counts neither way."""
    rule = Scale(min=1, max=5, on="queue", target=2, window_s=30)
    fleet = running(1, proplets=6, daemon=False, latent=True, scale=rule)
    fleet.handle(e.Measured(task_id="web", total=7, count=1))
    fleet.pass_s(3)
    assert (fleet.state.service.wanted, fleet.state.ready) == (4, 4)
    assert fleet.said == "scaled from 1 to 4: 7 calls per replica, for 2"
    fleet.handle(e.Measured(task_id="web", total=99, count=4))
    assert fleet.state.service.wanted == 5
    for total in (9.5, 3, 0):
        fleet.handle(e.Measured(task_id="web", total=total, count=5))
        assert fleet.state.service.wanted == 5
    fleet.pass_s(31)
    fleet.handle(e.Measured(task_id="web", total=3, count=5))
    fleet.pass_s(1)
    assert is_calm(fleet)
    assert (fleet.state.service.wanted, fleet.task.replicas) == (2, 1)


def test_every_turn_of_the_table_is_lawful_and_no_other():
    """What the table lacks is a bug."""
    kept = running(1).state.service
    for phase in Phase:
        for turn in Turn:
            there = replace(kept, phase=phase)
            if (phase, turn) in PHASES:
                assert there.turned(turn).phase is PHASES[phase, turn]
            else:
                with pytest.raises(Bug):
                    there.turned(turn)


@pytest.mark.parametrize(
    "fields",
    [
        {"daemon": False},
        {"id": "web.replica-1"},
        {"broadcast": True},
        {"proplet_id": "p"},
        {"schedule": "* * * * *"},
        {"workflow_id": "w"},
        {"replicas": -1},
        {"replicas": None, "rollout": Rollout(surge=2)},
        {"rollout": Rollout(healthy_s=10, deadline_s=10)},
        {"scale": Scale(max=5, on="queue", target=2)},
        {"scale": Scale(min=4, max=5, on="cpu", target=50)},
        {"scale": Scale(min=3, max=2, on="cpu", target=50)},
        {"scale": Scale(max=3, on="cpu", target=0)},
    ],
)
def test_what_cannot_be_is_refused_with_its_definition(fields):
    """A field that is accepted has its effect."""
    with pytest.raises(BadInput):
        define(replace(service(3), **fields))
