import pytest

from propeller import limits
from propeller.errors import BadInput, Bug
from propeller.fl.model_ref import ModelRef
from propeller.fl.round import MOVES, Round, RoundState
from propeller.fl.round_events import (
    Accept,
    Accepted,
    Aggregate,
    Aggregated,
    AggregationFailed,
    Announce,
    Joined,
    Launched,
    Refuse,
    Repeat,
    Stopped,
    Submitted,
    Tick,
    Welcome,
)
from propeller.fl.round_spec import RoundSpec, quorum

BASE = ModelRef(version=0)


def a_round(k=2, *, launched=True, **more):
    """A round of three participants that began at 0 s and lasts 60 s."""
    fields = {
        "round_id": "r1",
        "experiment_id": "e",
        "series": "r1",
        "number": 1,
        "participants": ("p1", "p2", "p3"),
        "k": k,
        "min_updates": 1,
        "timeout_s": 60.0,
        "base": BASE,
        "base_hash": "",
    }
    return Round(RoundSpec(**{**fields, **more}), launched=launched, now_mono_s=0.0)


def submit(participant, content="c"):
    """The event of an update."""
    return Submitted(update=Accepted(participant=participant, samples=1, content=content))


def refusal(commands):
    """The code of the one refusal."""
    [command] = commands
    assert isinstance(command, Refuse)
    return command.error.reason


DONE = Aggregated(version=1, model_hash="h")


def test_kth_update_closes_the_set_in_participant_order():
    """Later ones are refused; the aggregation gets the closed set sorted."""
    one = a_round()
    assert [type(command) for command in one.handle(submit("p3"), 1)] == [Accept]
    accept, aggregate = one.handle(submit("p1"), 2)
    assert isinstance(accept, Accept)
    assert aggregate == Aggregate(participants=("p1", "p3"))
    assert refusal(one.handle(submit("p2"), 3)) == "round_closed"
    assert one.handle(DONE, 4) == [Announce()]
    assert (one.state, one.version, one.over, one.due_mono_s) == (RoundState.COMPLETED, 1, True, None)


def test_repetition_conflict_and_stranger():
    """The same content is a repetition in every state; other content and strangers are refused."""
    one = a_round(k=3)
    one.handle(submit("p1"), 1)
    for _ in range(2):
        assert one.handle(submit("p1"), 2) == [Repeat(participant="p1")]
        assert refusal(one.handle(submit("p1", "other"), 2)) == "already_submitted"
        assert refusal(one.handle(submit("p9"), 2)) == "not_a_participant"
        one.handle(Stopped(reason="stopped"), 3)
    assert one.refused == {"already_submitted": 2, "not_a_participant": 2}
    assert refusal(one.handle(submit("p2"), 4)) == "round_closed"


@pytest.mark.parametrize(("least", "state"), [(1, RoundState.AGGREGATING), (2, RoundState.FAILED)])
def test_timeout_with_one_update(least, state):
    """Enough is enough, fewer is a failure with its reason; a tick before the time does nothing."""
    one = a_round(k=3, min_updates=least)
    one.handle(submit("p2"), 1)
    assert one.handle(Tick(), 59.9) == []
    assert one.due_mono_s == 60
    commands = one.handle(Tick(), 60)
    assert one.state is state
    if state is RoundState.FAILED:
        assert (commands, one.reason) == ([Announce()], "too_few_updates")
    else:
        assert commands == [Aggregate(participants=("p2",))]


def test_later_round_waits_for_its_launch():
    """Registered until launched or until its first update; the time to collect begins then."""
    one = a_round(launched=False)
    assert one.due_mono_s == limits.ROUND_LAUNCH_S
    one.handle(Launched(), 100)
    assert (one.state, one.due_mono_s) == (RoundState.COLLECTING, 160)
    assert one.handle(Launched(), 120) == []
    assert one.due_mono_s == 160
    early = a_round(launched=False)
    early.handle(submit("p1"), 50)
    assert (early.state, early.due_mono_s) == (RoundState.COLLECTING, 110)
    refused = a_round(launched=False)
    assert refused.handle(Launched(refused="no such proplet"), 1) == [Announce()]
    assert refused.reason == "refused: no such proplet"
    forgotten = a_round(launched=False)
    forgotten.handle(Tick(), limits.ROUND_LAUNCH_S)
    assert (forgotten.state, forgotten.reason) == (RoundState.FAILED, "not_launched")


def test_aggregation_is_retried_with_growing_pauses_until_its_deadline():
    """1, 2, 4, 8, 15, 15 … seconds; what cannot be retried ends the round at once."""
    one = a_round(k=1)
    one.handle(submit("p1"), 0)
    now, pauses = 0.0, []
    while not one.over:
        one.handle(AggregationFailed(reason="away", retryable=True), now)
        if one.over:
            break
        pauses.append(one.due_mono_s - now)
        now = one.due_mono_s
        if now < limits.ROUND_AGGREGATION_S:
            assert one.handle(Tick(), now) == [Aggregate(participants=("p1",))]
        else:
            one.handle(Tick(), now)
    assert pauses[:6] == [1, 2, 4, 8, 15, 15]
    assert (one.state, one.reason) == (RoundState.FAILED, "away")
    final = a_round(k=1)
    final.handle(submit("p1"), 0)
    assert final.handle(AggregationFailed(reason="no", retryable=False), 1) == [Announce()]
    assert final.reason == "no"
    assert final.handle(DONE, 2) == []
    assert final.version is None


def test_manual_rounds_take_joiners_and_others_do_not():
    """While they are open and start from the same model."""
    manual = a_round(k=1, manual=True, participants=("p1",))
    assert manual.handle(Joined(participant="p9", base=BASE), 1) == [Welcome(participant="p9")]
    assert list(manual.participants) == ["p1", "p9"]
    assert refusal(manual.handle(Joined(participant="p8", base=ModelRef(version=5)), 1)) == "wrong_base"
    manual.handle(submit("p9"), 2)
    assert refusal(manual.handle(Joined(participant="p1", base=BASE), 3)) == "round_closed"
    plain = a_round()
    assert plain.handle(Joined(participant="p1", base=BASE), 1) == [Welcome(participant="p1")]
    assert refusal(plain.handle(Joined(participant="p9", base=BASE), 1)) == "not_a_participant"


def test_restored_round_has_at_most_its_full_time():
    """What is left counts, never more than the state's own; an aggregation begins anew at once."""
    for left, expected in ((5.0, 1005.0), (1e9, 1060.0), (-3.0, 1000.0)):
        back = Round.restored(
            a_round().spec,
            state=RoundState.COLLECTING,
            participants=("p1", "p2", "p3"),
            accepted=[Accepted(participant="p1", samples=1, content="c")],
            refused={"x": 1},
            remaining_s=left,
            now_mono_s=1000.0,
        )
        assert back.due_mono_s == expected
    assert back.handle(submit("p1"), 1000) == [Repeat(participant="p1")]
    again = Round.restored(
        a_round().spec,
        state=RoundState.AGGREGATING,
        participants=("p1",),
        accepted=[Accepted(participant="p1", samples=1, content="c")],
        refused={},
        remaining_s=5.0,
        now_mono_s=1000.0,
    )
    assert again.handle(Tick(), 1000) == [Aggregate(participants=("p1",))]
    with pytest.raises(Bug):
        Round.restored(
            a_round().spec,
            state=RoundState.FAILED,
            participants=(),
            accepted=(),
            refused={},
            remaining_s=0,
            now_mono_s=0,
        )


def test_illegal_moves_tell_the_rounds_story():
    """What cannot be raises with the history of the round."""
    one = a_round()
    with pytest.raises(Bug, match=r"from collecting to completed.*collecting at 0\.000"):
        one.handle(DONE, 1)


def test_quorum_is_all_for_zero_and_at_most_n():
    """More than there are participants could never be reached."""
    assert [quorum(0, 3), quorum(1, 3), quorum(3, 3)] == [3, 1, 3]
    for wrong in (4, -1):
        with pytest.raises(BadInput) as caught:
            quorum(wrong, 3)
        assert caught.value.reason == "bad_k_of_n"


def test_the_table_reaches_an_end_from_everywhere():
    """No state without a way out, and no way out of an end."""
    for state, after in MOVES.items():
        assert (not after) == (state in {RoundState.COMPLETED, RoundState.FAILED})
        assert not after or RoundState.FAILED in after
