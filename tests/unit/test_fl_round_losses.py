"""Rounds whose participants are drawn or lost, and rounds that evaluate."""

from test_fl_round import a_round, refusal, submit

from propeller.fl.round import Round, RoundState
from propeller.fl.round_events import (
    Accept,
    Accepted,
    Aggregate,
    Aggregated,
    Announce,
    Launched,
    ParticipantsDrawn,
    ParticipantsLost,
    Refusal,
    Submitted,
    Tick,
)


def lost(*participants):
    """Their tasks ended for good."""
    return ParticipantsLost(reasons=dict.fromkeys(participants, "trap"))


def test_a_round_ends_early_when_nobody_else_can_send():
    """With what it has, if that is enough at its timeout; the updates of the others are still awaited."""
    one = a_round(3)
    assert one.handle(lost("p1"), 1) == []
    assert one.handle(lost("p1"), 1) == []
    one.handle(submit("p2"), 2)
    [_, aggregate] = one.handle(submit("p3"), 3)
    assert aggregate == Aggregate(participants=("p2", "p3"))
    assert (one.state, one.lost) == (RoundState.AGGREGATING, {"p1": "trap"})


def test_a_round_fails_at_once_when_too_few_are_left():
    """As soon as `min_updates` are out of reach, not at the timeout (F8, F9)."""
    one = a_round(3, min_updates=2)
    one.handle(lost("p1"), 1)
    assert one.handle(lost("p2"), 2) == [Announce()]
    assert (one.state, one.reason) == (RoundState.FAILED, "too_few_updates")


def test_a_lost_participant_that_sends_after_all_counts():
    """A task may be started again by hand; strangers and those who sent are not lost."""
    one = a_round(3)
    one.handle(lost("p1", "stranger"), 1)
    assert one.lost == {"p1": "trap"}
    assert isinstance(one.handle(submit("p1"), 2)[0], Accept)
    one.handle(lost("p1"), 3)
    assert one.lost == {}
    assert one.handle(lost("p2", "p3"), 4) == [Aggregate(participants=("p1",))]


def test_drawn_participants_become_known_before_the_launch():
    """Once; the same again is harmless, others are refused, and nobody may send before."""
    one = a_round(0, launched=False, participants=(), drawn=True, min_updates=0)
    assert refusal(one.handle(submit("p1"), 1)) == "not_a_participant"
    drawn = ParticipantsDrawn(participants=("p1", "p2", "p3"), k=2)
    assert one.handle(drawn, 1) == one.handle(drawn, 1) == []
    assert (one.spec.k, one.spec.min_updates, list(one.participants)) == (2, 2, ["p1", "p2", "p3"])
    assert refusal(one.handle(ParticipantsDrawn(participants=("p4",), k=1), 2)) == "round_exists"
    one.handle(Launched(), 2)
    one.handle(submit("p3"), 3)
    assert one.handle(submit("p1"), 3)[1] == Aggregate(participants=("p1", "p3"))


def test_too_few_drawn_for_the_strategy_fail_the_round():
    """A robust strategy's least number of updates is not quietly given up."""
    one = a_round(0, launched=False, participants=(), drawn=True, min_updates=5)
    assert one.handle(ParticipantsDrawn(participants=("p1", "p2"), k=2), 1) == [Announce()]
    assert one.reason == "too_few_participants"


def measured(participant, samples, accuracy):
    """The event of an evaluation."""
    update = Accepted(
        participant=participant, samples=samples, content=participant, metrics={"accuracy": accuracy}
    )
    return Submitted(update=update)


def test_an_evaluation_completes_with_metrics_and_makes_no_model():
    """At the timeout with what came; it is over once what was measured is kept."""
    one = a_round(3, mode="evaluate")
    one.handle(measured("p1", 30, 0.5), 1)
    one.handle(measured("p2", 10, 0.9), 2)
    assert one.handle(Tick(), 60) == [Aggregate(participants=("p1", "p2"))]
    assert one.handle(Aggregated(metrics={"accuracy": 0.6}), 61) == [Announce()]
    assert (one.state, one.version, one.metrics) == (RoundState.COMPLETED, None, {"accuracy": 0.6})


def test_refusals_are_kept_with_their_reason_and_bounded():
    """The first hundred of them; all are counted."""
    one = a_round(3)
    for number in range(150):
        one.refuse(Refusal(participant="p1", code="not_finite", message=f"update {number}"))
    assert (one.refused["not_finite"], len(one.refusals)) == (150, 100)
    one.handle(submit("stranger"), 1)
    assert one.refused["not_a_participant"] == 1


def test_a_restored_round_remembers_who_is_lost():
    """And ends early of it as the one before would have."""
    one = a_round(3)
    again = Round.restored(
        one.spec,
        state=RoundState.COLLECTING,
        participants=one.participants,
        accepted=[Accepted(participant="p1", samples=1, content="c")],
        refused={},
        lost={"p2": "trap"},
        remaining_s=10,
        now_mono_s=5,
    )
    assert again.handle(lost("p3"), 6) == [Aggregate(participants=("p1",))]
