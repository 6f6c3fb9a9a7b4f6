import pytest

from propeller.errors import BadInput, Bug
from propeller.fl.experiment import (
    Evaluated,
    Experiment,
    ExperimentState,
    OpenRound,
    PauseAsked,
    Phase,
    ResumeAsked,
    RoundDone,
    RoundLost,
    StopAsked,
    StopRound,
)
from propeller.fl.model_ref import ModelRef, parse_model_ref
from propeller.fl.plan import Evaluation, Stopping, plan
from propeller.fl.token import make_token, verify_token


def spec(**more):
    """A lawful experiment, but for `more`."""
    fields = {
        "experiment_id": "e",
        "round_id": "",
        "participants": ["p1", "p2"],
        "model": ModelRef(version=0),
        "rounds": 3,
        "image": "i",
        "strategy": "fedavg",
    }
    return plan(**{**fields, **more})


def done(number):
    """Round `number` made version `number`."""
    return RoundDone(number=number, base=ModelRef(version=number), base_hash=f"h{number}")


def begun(**more):
    """An experiment whose first round trains."""
    return Experiment(spec=spec(**more), model=ModelRef(version=0), model_hash="h0")


def test_rounds_follow_each_other_from_model_to_model():
    """Each completed round opens the next from its model; the last one completes the experiment."""
    experiment = Experiment(spec=spec(), model=ModelRef(version=0))
    for number in (1, 2):
        experiment, [command] = experiment.handle(done(number))
        assert isinstance(command, OpenRound)
        assert (command.spec.round_id, command.spec.base.version) == (f"e-{number + 1}", number)
        assert command.spec.base_hash == f"h{number}"
        assert experiment.handle(done(number)) == (experiment, [])
    experiment, commands = experiment.handle(done(3))
    assert (experiment.state, experiment.model.version, commands) == (ExperimentState.COMPLETED, 3, [])
    assert experiment.handle(StopAsked()) == (experiment, [])
    with pytest.raises(Bug):
        experiment.to(ExperimentState.RUNNING)


def test_failed_round_fails_the_experiment_and_stop_stops_it():
    """With the round's reason, if it outlives no failure; a stop also ends the round under way."""
    running = Experiment(spec=spec(failures_max=0), model=ModelRef(version=0))
    failed, commands = running.handle(RoundLost(number=1, reason="too_few_updates"))
    assert (failed.state, failed.reason, commands) == (ExperimentState.FAILED, "too_few_updates", [])
    stopped, commands = running.handle(StopAsked())
    assert (stopped.state, commands) == (ExperimentState.STOPPED, [StopRound(round_id="e-1")])


def test_defaults_are_the_originals_for_one_round_and_strict_for_more():
    """One update is enough for a single round at its timeout; an experiment wants k."""
    assert (spec().k, spec().min_updates, spec().timeout_s, spec().series) == (2, 2, 60.0, "e-1")
    single = spec(rounds=1, round_id="mine", image="")
    assert (single.min_updates, single.round_id(1)) == (1, "mine")
    assert spec(round_id="mine").round_id(2) == "e-2"


@pytest.mark.parametrize(
    "more",
    [
        {"experiment_id": ""},
        {"experiment_id": "e" * 62},
        {"rounds": 1},
        {"round_id": "e-2"},
        {"round_id": "start"},
        {"min_updates": 0},
        {"timeout_s": float("nan")},
        {"seed": -1},
    ],
)
def test_unlawful_plans_are_refused(more):
    """Each names its field."""
    with pytest.raises(BadInput):
        spec(**more)


@pytest.mark.parametrize(
    ("text", "name", "version"),
    [
        ("", "global_model", 0),
        ("fl/models/global_model_v12", "global_model", 12),
        ("fl/models/hospital-a.2_v3", "hospital-a.2", 3),
        ("http://model-registry:8081/models/4", "global_model", 4),
        ("http://r/models/m/versions/5", "m", 5),
        ("7", "global_model", 7),
        ("v8", "global_model", 8),
        ("a_v1_v2", "a_v1", 2),
    ],
)
def test_model_references_are_read_as_they_are_written(text, name, version):
    """Every spelling in use; what we write is read back."""
    ref = parse_model_ref(text)
    assert (ref.name, ref.version) == (name, version)
    assert parse_model_ref(ref.uri) == ref


@pytest.mark.parametrize(
    "text",
    [
        "oci://localhost:5000/models/net/3",
        "x",
        "fl/models/",
        "m_v",
        "m_v-1",
        "m_v1 ",
        "_v1",
        "m_v9999999999999999",
        "m_v٣",
    ],
)
def test_other_references_are_refused(text):
    """Rather than guessed."""
    with pytest.raises(BadInput):
        parse_model_ref(text)


def test_tokens_prove_one_participant_of_one_round():
    """Any other secret, round or participant, and any other text, is wrong."""
    token = make_token(b"s", "r", "p")
    assert len(token) == 64
    assert verify_token(b"s", "r", "p", token)
    for secret, round_id, participant, said in (
        (b"t", "r", "p", token),
        (b"s", "r2", "p", token),
        (b"s", "r", "p2", token),
        (b"s", "r", "p", token[:-1]),
        (b"s", "r", "p", ""),
        (b"s", "r", "p", "é" * 64),
    ):
        assert not verify_token(secret, round_id, participant, said)


def test_a_paused_experiment_ends_its_round_and_goes_on_from_its_model_when_resumed():
    """Resuming in mid-round opens nothing; between rounds it opens the next one. Both twice are as once."""
    paused, commands = begun().handle(PauseAsked())
    assert (paused.state, commands) == (ExperimentState.PAUSED, [])
    assert paused.handle(PauseAsked()) == (paused, [])
    back, commands = paused.handle(ResumeAsked())
    assert (back.state, back.phase, commands) == (ExperimentState.RUNNING, Phase.TRAINING, [])
    waiting, commands = paused.handle(done(1))
    assert (waiting.state, waiting.phase, commands) == (ExperimentState.PAUSED, Phase.BETWEEN, [])
    again, [opened] = waiting.handle(ResumeAsked())
    assert (opened.spec.round_id, opened.spec.base.version, opened.spec.base_hash) == ("e-2", 1, "h1")
    assert again.handle(ResumeAsked()) == (again, [])
    stopped, commands = waiting.handle(StopAsked())
    assert (stopped.state, commands) == (ExperimentState.STOPPED, [])


def test_a_pause_holds_the_evaluation_too():
    """Of the model that the round under way makes: it comes after the pause, and then the next round."""
    paused, _ = begun(evaluation=Evaluation(every=1)).handle(PauseAsked())
    waiting, commands = paused.handle(done(1))
    assert (waiting.state, waiting.phase, commands) == (ExperimentState.PAUSED, Phase.UNJUDGED, [])
    assert waiting.handle(StopAsked())[1] == []
    judged, [opened] = waiting.handle(ResumeAsked())
    assert (judged.phase, opened.spec.round_id, opened.spec.base_hash) == (
        Phase.EVALUATING,
        "e-1-eval",
        "h1",
    )
    _, [opened] = judged.handle(Evaluated(number=1, metrics={"loss": 1.0}))
    assert opened.spec.round_id == "e-2"


def test_an_experiment_outlives_so_many_failed_rounds_in_a_row():
    """Each uses up its number, and the next starts from the same model; success begins a new count."""
    one, [opened] = begun(rounds=9, failures_max=2).handle(RoundLost(number=1, reason="too_few_updates"))
    assert (opened.spec.round_id, opened.spec.base.version) == ("e-2", 0)
    one, _ = one.handle(RoundLost(number=2, reason="too_few_updates"))
    one, _ = one.handle(done(3))
    assert one.failures == 0
    for number in (4, 5):
        one, [opened] = one.handle(RoundLost(number=number, reason="too_few_updates"))
        assert opened.spec.base.version == 3
    one, commands = one.handle(RoundLost(number=6, reason="aggregation_timeout"))
    assert (one.state, one.reason, commands) == (ExperimentState.FAILED, "aggregation_timeout", [])


def test_a_failure_that_would_repeat_and_one_without_any_model_fail_the_experiment():
    """What the manager refused it refuses again; an experiment that made nothing did not complete."""
    final, _ = begun().handle(RoundLost(number=1, reason="refused: no such image", final=True))
    assert final.state is ExperimentState.FAILED
    one = begun(rounds=2)
    for number in (1, 2):
        one, _ = one.handle(RoundLost(number=number, reason="too_few_updates"))
    assert (one.state, "no round completed" in one.reason) == (ExperimentState.FAILED, True)


def test_each_model_is_evaluated_before_the_next_round():
    """After every second round and after the last; a failed evaluation measures nothing and ends nothing."""
    one, [opened] = begun(evaluation=Evaluation(every=2)).handle(done(1))
    assert opened.spec.round_id == "e-2"
    one, [opened] = one.handle(done(2))
    assert (opened.spec.round_id, opened.spec.mode, opened.spec.base.version) == ("e-2-eval", "evaluate", 2)
    assert (opened.spec.k, opened.spec.min_updates) == (2, 1)
    assert one.handle(StopAsked())[1] == [StopRound(round_id="e-2-eval")]
    failed, [opened] = one.handle(Evaluated(number=2, failure="too_few_updates"))
    assert (opened.spec.round_id, failed.metrics) == ("e-3", {})
    one, _ = one.handle(Evaluated(number=2, metrics={"accuracy": 0.5}))
    one, [opened] = one.handle(done(3))
    one, commands = one.handle(Evaluated(number=3, metrics={"accuracy": 0.75}))
    assert (one.state, one.metrics, commands) == (ExperimentState.COMPLETED, {"accuracy": 0.75}, [])


@pytest.mark.parametrize(
    ("stopping", "seen", "ends_after", "why"),
    [
        (Stopping(metric="acc", target=0.9), [0.5, 0.9, 0.95], 2, "reached 0.9"),
        (Stopping(metric="loss", direction="min", target=0.1), [0.5, 0.1], 2, "reached 0.1"),
        (Stopping(metric="acc", patience=2), [0.5, 0.6, 0.6, 0.55, 0.9], 4, "not improved on 0.6"),
        (Stopping(metric="acc", patience=1, min_delta=0.1), [0.5, 0.55], 2, "not improved on 0.5"),
        (Stopping(wall_s=25), [0, 0, 0, 0], 3, "25 s are over"),
        (Stopping(metric="other", target=1), [0.1] * 6, 6, ""),
    ],
)
def test_stopping_conditions_end_an_experiment_early(stopping, seen, ends_after, why):
    """Target, patience, wall time; a metric that nobody measures ends nothing."""
    one = begun(rounds=6, stopping=stopping)
    for number, value in enumerate(seen, start=1):
        metrics = {"acc": value, "loss": value}
        one, _ = one.handle(
            RoundDone(
                number=number,
                base=ModelRef(version=number),
                base_hash="h",
                metrics=metrics,
                elapsed_s=10.0 * number,
            )
        )
        if number == ends_after:
            break
        assert one.state is ExperimentState.RUNNING, (number, one)
    assert one.state is ExperimentState.COMPLETED
    assert why in one.reason


def test_the_best_version_is_remembered():
    """By the metric that decides, with the version that it was measured of."""
    one = begun(stopping=Stopping(metric="acc", patience=5), rounds=9)
    for number, value in ((1, 0.5), (2, 0.8), (3, 0.7)):
        event = RoundDone(number=number, base=ModelRef(version=number), base_hash="h", metrics={"acc": value})
        one, _ = one.handle(event)
    assert (one.best, one.best_version, one.waiting) == (0.8, 2, 1)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"evaluation": Evaluation(every=0)}, "bad_evaluation_every"),
        ({"stopping": Stopping(target=1.0)}, "bad_stop"),
        ({"stopping": Stopping(metric="acc")}, "bad_stop"),
        ({"stopping": Stopping(metric="acc", target=1, min_delta=-1)}, "bad_stop"),
        ({"failures_max": -1}, "bad_round_failures_max"),
        ({"mode": "evaluate"}, "bad_mode"),
        ({"round_id": "e-2-eval", "evaluation": Evaluation()}, "bad_id"),
    ],
)
def test_unlawful_wishes_are_named(more, code):
    """Each with its own code, before anything begins."""
    with pytest.raises(BadInput) as caught:
        spec(**more)
    assert caught.value.reason == code
