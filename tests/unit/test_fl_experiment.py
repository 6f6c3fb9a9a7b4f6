import pytest

from propeller.errors import BadInput, Bug
from propeller.fl.experiment import (
    Experiment,
    ExperimentState,
    OpenRound,
    RoundDone,
    RoundLost,
    StopAsked,
    StopRound,
    plan,
)
from propeller.fl.model_ref import ModelRef, parse_model_ref
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
    """With the round's reason; a stop also ends the round under way."""
    running = Experiment(spec=spec(), model=ModelRef(version=0))
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
    "text", ["x", "fl/models/", "m_v", "m_v-1", "m_v1 ", "_v1", "m_v9999999999999999", "m_v٣"]
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
