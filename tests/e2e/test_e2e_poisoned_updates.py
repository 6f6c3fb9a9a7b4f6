"""Poisoned updates against the whole system: real processes, sockets and files; participants are played here.

The rules themselves are tested nearer to where they stand; here a hostile device meets them.
"""

import threading
from collections.abc import Iterator

import cbor2
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from walk_system import System, request, started

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
CLIENTS, COLLUDERS, FEATURES = 10, 2, 30
FACTORS = {"flipped": -10.0, "scaled": 100.0}
OPTIONS = {"trimmed_mean": {"trim": 0.2}, "krum": {"faulty": 2}}
SPLITS, ROUNDS, STEPS, HELD_OUT = 3, 10, 3, 129


@pytest.fixture(scope="module")
def system(tmp_path_factory) -> Iterator[System]:
    """`propeller up` without a proplet: the participants are ours."""
    with started(tmp_path_factory.mktemp("poison") / "data", proplets=0) as running:
        yield running


def opened(system: System, round_id: str, base: str, participants: list[str], **more) -> None:
    """Register a round at the coordinator, as an application of one's own does."""
    body = {
        "experiment_id": round_id,
        "round_id": round_id,
        "model_ref": base,
        "participants": participants,
        "timeout_s": 60,
        **more,
    }
    status, said = system.post("coordinator", "/experiments", body)
    assert status == 201, said


def update(round_id: str, participant: str, model: dict, *, base: str, samples: int = 40) -> dict:
    """An update's body."""
    return {
        "round_id": round_id,
        "proplet_id": participant,
        "base_model_uri": base,
        "num_samples": samples,
        "update": model,
    }


def stored(system: System, name: str, model: dict) -> str:
    """The first version of a model; its reference."""
    status, said = system.post("model-registry", "/models", {"name": name, "model": model})
    assert status == 201, said
    return f"fl/models/{name}_v{said['version']}"


# --- F5: colluders ---------------------------------------------------------------------------------------


def split(seed: int) -> tuple[list[tuple[np.ndarray, np.ndarray]], tuple[np.ndarray, np.ndarray]]:
    """569 patients, standardised: the rows of each client, and those that nobody trains on."""
    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    order = np.random.default_rng(seed).permutation(len(x))
    parts = np.array_split(order[HELD_OUT:], CLIENTS)
    return [(x[part], y[part]) for part in parts], (x[order[:HELD_OUT]], y[order[:HELD_OUT]])


def trained(model: dict, x: np.ndarray, y: np.ndarray) -> dict:
    """Some steps of gradient descent on the log loss."""
    w, b = np.array(model["w"]), float(model["b"])
    for _ in range(STEPS):
        wrong = 1 / (1 + np.exp(-(x @ w + b))) - y
        w, b = w - x.T @ wrong / len(x), b - float(wrong.mean())
    return {"w": w.tolist(), "b": b}


def lie(model: dict, honest: dict, factor: float) -> dict:
    """The honest update's difference, so many times as long."""
    return {
        key: (np.array(model[key]) + factor * (np.array(honest[key]) - np.array(model[key]))).tolist()
        for key in model
    }


def accuracy_under(system: System, strategy: str, attack: str) -> float:
    """What models read after some rounds in which the last clients lie: the mean over a few splits."""
    return float(np.mean([accuracy_on(seed, system, strategy, attack) for seed in range(SPLITS)]))


def accuracy_on(seed: int, system: System, strategy: str, attack: str) -> float:
    """The same on one split."""
    clients, (x, y) = split(seed)
    name = f"{strategy}-{attack}-{seed}"
    model = {"w": [0.0] * FEATURES, "b": 0.0}
    base = stored(system, name, model)
    for number in range(ROUNDS):
        round_id = f"{name}-{number}"
        chosen = {"name": strategy, "options": OPTIONS.get(strategy, {})}
        opened(system, round_id, base, [f"c{one}" for one in range(CLIENTS)], strategy=chosen)
        for one, (rows, labels) in enumerate(clients):
            found = trained(model, rows, labels)
            if attack in FACTORS and one >= CLIENTS - COLLUDERS:
                found = lie(model, found, FACTORS[attack])
            sent = update(round_id, f"c{one}", found, base=base, samples=len(rows))
            assert system.post("coordinator", "/update", sent).status == 200
        done = system.completed(round_id)
        assert (done["state"], done["num_updates"]) == ("completed", CLIENTS), done
        base = f"fl/models/{name}_v{done['model_version']}"
        model = system.get("model-registry", f"/models/{name}/versions/{done['model_version']}").body
    return float(((x @ np.array(model["w"]) + model["b"] > 0) == y).mean())


@pytest.fixture(scope="module")
def clean(system) -> float:
    """What averaging reaches among honest clients."""
    found = accuracy_under(system, "fedavg", "nobody")
    assert found >= 0.95
    return found


def test_colluders_ruin_an_average(system, clean):
    """The honest control (F5): the attack is real, so that withstanding it means something."""
    assert accuracy_under(system, "fedavg", "flipped") < 0.5


@pytest.mark.parametrize(
    ("strategy", "attack"), [("median", "flipped"), ("trimmed_mean", "scaled"), ("krum", "flipped")]
)
def test_robust_strategies_withstand_colluders(system, clean, strategy, attack):
    """Within two points of the clean accuracy, whatever two of ten send (F5)."""
    assert accuracy_under(system, strategy, attack) >= clean - 0.02


# --- F1 to F4, F6 to F9, F12: one device ------------------------------------------------------------------

GOOD = {"w": [1.0, 2.0, 3.0], "b": 0.5}
POISON = [
    ({"update": {"w": [1.0, float("nan"), 3.0], "b": 0.0}}, "not_finite"),
    ({"update": {"w": [1.0, float("inf"), 3.0], "b": 0.0}}, "not_finite"),
    ({"update": {"w": [1e30, 2.0, 3.0], "b": 0.0}}, "too_large"),
    ({"update": {"w": [1.0, 2.0], "b": 0.0}}, "wrong_shape"),
    ({"update": {**GOOD, "more": [1.0]}}, "wrong_shape"),
    ({"num_samples": 0}, "bad_samples"),
    ({"num_samples": True}, "bad_samples"),
    ({"num_samples": 10**12}, "bad_samples"),
    ({"base_model_uri": "fl/models/poisoned_v7"}, "wrong_base"),
    ({"base_hash": "0" * 64}, "wrong_base"),
    ({"proplet_id": "stranger"}, "not_a_participant"),
]


def sent_as_cbor(system: System, body: dict) -> tuple[int, str]:
    """Status and code of the answer; CBOR can say what JSON cannot."""
    headers = {"Content-Type": "application/cbor"}
    answer = request(system.url("coordinator", "/update_cbor"), cbor2.dumps(body), headers=headers)
    return answer.status, answer.body.get("code", answer.body.get("status"))


def poisoned(system: System, round_id: str, base: str) -> None:
    """Send all that is bad, many at a time, and see each refused with its reason."""
    bodies = [
        ({**update(round_id, "c0", GOOD, base=base), **more}, code) for more, code in POISON for _ in range(3)
    ]
    answers: list[tuple[int, str, str]] = []

    def send(body: dict, code: str) -> None:
        answers.append((*sent_as_cbor(system, body), code))

    threads = [threading.Thread(target=send, args=one) for one in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == len(bodies)
    assert all(status in {400, 403} and code == wanted for status, code, wanted in answers), answers


def refused(system: System, round_id: str) -> dict[str, int]:
    """How often what was refused, as the round's record has it."""
    return system.get("coordinator", f"/rounds/{round_id}").body["refused"]


def all_refused() -> dict[str, int]:
    """What `poisoned` leaves in a record."""
    codes = [code for _, code in POISON]
    return {code: 3 * codes.count(code) for code in set(codes)}


def test_a_round_proceeds_beside_poison_and_its_model_is_the_honest_updates(system):
    """Each refusal is told and counted in the record (F1 to F4, F7, F12); the honest update alone counts."""
    base = stored(system, "beside", {"w": [0.0] * 3, "b": 0.0})
    opened(system, "beside-1", base, ["c0"])
    poisoned(system, "beside-1", base)
    assert sent_as_cbor(system, update("beside-1", "c0", GOOD, base=base)) == (200, "accepted")
    assert system.completed("beside-1")["num_updates"] == 1
    assert system.get("model-registry", "/models/beside/versions/1").body == GOOD
    assert refused(system, "beside-1") == all_refused()


def test_a_round_of_poison_alone_or_of_nothing_fails_and_makes_no_model(system):
    """At its timeout, `too_few_updates`, with the reasons on record (F8, F9); then it takes nothing more."""
    base = stored(system, "alone", {"w": [0.0] * 3, "b": 0.0})
    for round_id in ("alone-1", "alone-2"):
        opened(system, round_id, base, ["c0", "c1"], timeout_s=2)
    poisoned(system, "alone-1", base)
    for round_id, told in (("alone-1", all_refused()), ("alone-2", {})):
        done = system.completed(round_id)
        assert (done["completed"], done["state"], done["reason"]) == (False, "failed", "too_few_updates")
        assert (done["num_updates"], refused(system, round_id)) == (0, told)
        experiment = system.get("coordinator", f"/experiments/{round_id}").body
        assert (experiment["state"], experiment["model_version"]) == ("failed", 0)
        assert sent_as_cbor(system, update(round_id, "c0", GOOD, base=base)) == (409, "round_closed")
    assert system.get("model-registry", "/models/alone/versions").body["versions"] == [0]


def test_a_replayed_update_counts_nowhere_even_after_everything_was_killed(system):
    """As it was it is a repetition, changed a conflict, under the next round's id of another base (F6)."""
    base = stored(system, "replay", {"w": [0.0] * 3, "b": 0.0})
    opened(system, "replay-1", base, ["c0"])
    old = update("replay-1", "c0", GOOD, base=base)
    assert system.post("coordinator", "/update", old).status == 200
    assert system.completed("replay-1")["model_version"] == 1
    opened(system, "replay-2", "fl/models/replay_v1", ["c0"])
    for killed in (False, True):
        if killed:
            system.kill()
            system.again()
        assert system.post("coordinator", "/update", old).body == {"status": "accepted", "duplicate": True}
        other = {**old, "update": {"w": [9.0] * 3, "b": 9.0}}
        assert system.post("coordinator", "/update", other).body["code"] == "already_submitted"
        moved = system.post("coordinator", "/update", {**old, "round_id": "replay-2"})
        assert (moved.status, moved.body["code"]) == (400, "wrong_base")
        shown = system.get("coordinator", "/rounds/replay-2").body
        assert (shown["num_updates"], shown["state"]) == (0, "collecting")
        assert system.get("model-registry", "/models/replay/versions/1").body == GOOD
    honest = update("replay-2", "c0", {"w": [4.0, 5.0, 6.0], "b": 1.0}, base="fl/models/replay_v1")
    assert system.post("coordinator", "/update", honest).status == 200
    assert system.completed("replay-2")["model_version"] == 2
