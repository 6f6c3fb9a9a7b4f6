from hypothesis import given, settings
from hypothesis import strategies as st

from propeller.fl.model_ref import ModelRef
from propeller.fl.round import TERMINAL, Round, RoundState
from propeller.fl.round_events import (
    Accept,
    Accepted,
    Aggregate,
    Aggregated,
    AggregationFailed,
    Announce,
    Joined,
    Launched,
    Stopped,
    Submitted,
    Tick,
)
from propeller.fl.round_spec import RoundSpec

WHO = ("p1", "p2", "p3", "p4")
BASE = ModelRef(version=0)
submissions = st.builds(
    lambda who, content: Submitted(update=Accepted(participant=who, samples=1, content=content)),
    st.sampled_from([*WHO, "stranger"]),
    st.sampled_from("ab"),
)
outcomes = st.sampled_from(
    [
        Aggregated(version=1, model_hash="h"),
        AggregationFailed(reason="away", retryable=True),
        AggregationFailed(reason="no", retryable=False),
    ]
)
others = st.sampled_from(
    [
        Tick(),
        Launched(),
        Launched(refused="no"),
        Stopped(reason="stopped"),
        Joined(participant="p9", base=BASE),
        Joined(participant="p1", base=BASE),
    ]
)
steps = st.lists(
    st.tuples(submissions | submissions | outcomes | others, st.sampled_from([0.0, 0.5, 7.0, 61.0, 700.0])),
    max_size=40,
)


def make(k, least, *, launched, manual):
    """A round of four."""
    return Round(
        RoundSpec(
            round_id="r",
            experiment_id="e",
            series="r",
            number=1,
            participants=WHO,
            k=k,
            min_updates=least,
            timeout_s=60.0,
            base=BASE,
            base_hash="",
            manual=manual,
        ),
        launched=launched,
        now_mono_s=0.0,
    )


class Watch:
    """Feeds a round and holds it to its invariants."""

    def __init__(self, one):
        self.round, self.now_s = one, 0.0
        self.accepted, self.closed, self.announced, self.running = {}, None, 0, False

    def feed(self, event, after_s):
        """One event; aggregation outcomes only while an aggregation runs, as the shell has it."""
        self.now_s += after_s
        if isinstance(event, (Aggregated, AggregationFailed)):
            if not self.running:
                return
            self.running = False
        before = self.round.state
        for command in self.round.handle(event, self.now_s):
            self.check(command)
        if before in TERMINAL:
            assert self.round.state is before
        self.invariants()

    def check(self, command):
        """What each command promises."""
        match command:
            case Accept(update=update):
                assert update.participant not in self.accepted
                assert self.closed is None
                self.accepted[update.participant] = update.content
            case Aggregate(participants=participants):
                assert not self.running
                self.running = True
                assert list(participants) == sorted(self.accepted)
                assert self.closed in {None, participants}
                self.closed = participants
            case Announce():
                self.announced += 1

    def invariants(self):
        """What holds after every event."""
        one = self.round
        assert {name: update.content for name, update in one.accepted.items()} == self.accepted
        assert set(self.accepted) <= set(one.participants)
        assert len(self.accepted) <= one.spec.k
        assert self.announced == (one.state in TERMINAL)
        assert one.over or one.due_mono_s is not None or self.running, "a deadline, or work under way"
        if one.state is RoundState.COMPLETED:
            assert one.version == 1
            assert len(self.closed) >= one.spec.min_updates
        if one.state is RoundState.FAILED:
            assert one.reason


@settings(max_examples=400)
@given(steps, st.integers(1, 4), st.data(), st.booleans(), st.booleans())
def test_any_order_of_events_keeps_the_rounds_promises(events, k, data, launched, manual):
    """Each participant counts once, the closed set never changes, an end is for ever and said once."""
    least = data.draw(st.integers(1, k))
    watch = Watch(make(k, least, launched=launched, manual=manual))
    for event, after_s in events:
        watch.feed(event, after_s)
    for _ in range(100):
        if watch.running:
            watch.feed(AggregationFailed(reason="away", retryable=True), 1.0)
        watch.feed(Tick(), max(0.0, (watch.round.due_mono_s or 0.0) - watch.now_s))
    assert watch.round.over, "time alone ends every round"
