import asyncio
from dataclasses import replace

from coordinator_world import SECRET, TOPICS, run, update

from propeller import limits
from propeller.fl.token import make_token
from propeller.ports import Message
from propeller.stores.coordinator import Notice

NOTICE = Notice(round_id="r9", kind="start", payload=b"", created_wall_s=2e9)
START, NEXT = "m/d/c/c/fl/rounds/start", "m/d/c/c/fl/rounds/next"


async def play(world, round_id, value, participants=("p1", "p2")):
    """Every participant submits `value`, and the round gets time to end."""
    for participant in participants:
        status, answer = await world.submit(participant, value, round_id, base_model_uri="")
        assert status == 200, answer
    return await world.settle(round_id, 0.5)


def test_experiment_drives_its_rounds_from_model_to_model():
    """Three rounds: each later one is announced until launched, and starts from the model before it.

    Defect 4.19 of the original.
    """

    async def scenario(world):
        status, answer = await world.register("", participants=["p1", "p2"], rounds=3, seed=5)
        assert (status, answer["round_id"]) == (201, "exp-1")
        assert not world.heard(START)
        assert (await play(world, "exp-1", 1.0))["model_version"] == 1
        started = world.heard(START)[0]
        assert started["round_id"] == "exp-2"
        assert started["model_uri"] == "fl/models/global_model_v1"
        assert (started["participants"], started["k_of_n"], started["seed"]) == (["p1", "p2"], 2, 5)
        assert started["hyperparams"] == {"epochs": 1, "lr": 0.01, "batch_size": 16}
        assert (await world.settle("exp-2", 30.0))["state"] == "registered"
        said = len(world.heard(START))
        assert 4 <= said <= 8, "sent again, with growing pauses"
        await world.say(TOPICS.round_launched("exp-2"), {"round_id": "exp-2", "tasks": 2})
        assert (await world.settle("exp-2", 30.0))["state"] == "collecting"
        assert len(world.heard(START)) == said, "quiet once it is launched"
        assert (await play(world, "exp-2", 2.0))["model_version"] == 2
        assert (await play(world, "exp-3", 3.0))["model_version"] == 3
        _, shown = await world.ask("GET", "/experiments/exp")
        assert (shown["state"], shown["round"], shown["model_version"]) == ("completed", 3, 3)
        assert [one["round_id"] for one in shown["history"]] == ["exp-3", "exp-2", "exp-1"]
        assert [one["round_id"] for one in world.heard(NEXT)] == ["exp-1", "exp-2", "exp-3"]
        assert [one["round_id"] for one in world.heard("fl/rounds/next")] == ["exp-1", "exp-2", "exp-3"]

    run(scenario)


def test_completion_is_repeated_until_closed():
    """`complete` comes again until the manager answers, its root spelling once, `next` once."""

    async def scenario(world):
        await world.register(participants=["p1"])
        await world.submit("p1")
        await world.settle(for_s=40)
        ends = world.heard(TOPICS.round_complete("r1"))
        assert 4 <= len(ends) <= 9
        assert ends[0] == ends[-1]
        assert (ends[0]["state"], ends[0]["model_version"], ends[0]["num_updates"]) == ("completed", 1, 1)
        assert (ends[0]["model_topic"], ends[0]["contributors"]) == ("fl/models/global_model_v1", ["p1"])
        assert len(world.heard("fl/rounds/r1/complete")) == 1
        await world.say(TOPICS.round_closed("r1"), {"round_id": "r1"})
        await world.settle(for_s=40)
        assert len(world.heard(TOPICS.round_complete("r1"))) == len(ends)
        [said] = world.heard(NEXT)
        assert said.pop("timestamp").endswith("Z")
        assert said == {
            "round_id": "r1",
            "new_model_version": 1,
            "model_uri": "fl/models/global_model_v1",
            "status": "complete",
            "next_round_available": True,
        }

    run(scenario)


def test_without_mirror_root_topics_are_silent_and_deaf():
    """Nothing is said on root topics, and nothing heard."""

    async def scenario(world):
        await world.register(participants=["p1"])
        await world.say("fl/rounds/r1/updates/p1", update("p1"))
        assert (await world.settle())["num_updates"] == 0
        await world.submit("p1")
        await world.settle()
        assert not [topic for topic, _ in world.said if topic.startswith("fl/") and "updates" not in topic]

    run(scenario, mirror=False)


def test_update_by_mqtt_gets_a_verdict():
    """The topic's last level is the sender; the answer mirrors HTTP's, for good and for bad."""

    async def scenario(world):
        await world.register()
        verdicts = TOPICS.round_verdict("r1", "p1")
        nameless = {**update("p1"), "round_id": "", "proplet_id": None}
        for body in (nameless, update("p1"), update("p1", 9.0), update("p2"), b"{", b"\xff" * 10):
            await world.say(TOPICS.round_update("r1", "p1"), body)
        await world.settle()
        assert [(one["status"], one.get("reason", "")) for one in world.heard(verdicts)] == [
            (200, ""),
            (200, ""),
            (409, "already_submitted"),
            (403, "wrong_sender"),
            (400, "undecodable"),
            (400, "undecodable"),
        ]
        assert (await world.settle())["num_updates"] == 1
        assert await world.submit("p1") == (200, {"status": "accepted", "duplicate": True})

    run(scenario)


def test_update_on_a_root_topic_counts_without_a_verdict():
    """The older application's proplets are understood; body and topic must agree (defect 4.13)."""

    async def scenario(world):
        await world.register()
        await world.say("fl/rounds/r1/updates/p1", update("p1"))
        await world.say("fl/rounds/r1/updates/p2", update("p3"))
        assert (await world.settle())["num_updates"] == 1
        assert not [topic for topic, _ in world.said if "verdicts" in topic]

    run(scenario)


def test_required_tokens_bind_root_topics_only():
    """The broker proves who publishes on our own topics; on root topics the token does."""

    async def scenario(world):
        await world.register()
        await world.say(TOPICS.round_update("r1", "p1"), update("p1"))
        await world.say("fl/rounds/r1/updates/p2", update("p2"))
        assert (await world.settle())["num_updates"] == 1
        token = make_token(SECRET, "r1", "p2")
        await world.say("fl/rounds/r1/updates/p2", update("p2", update_token=token))
        assert (await world.settle())["num_updates"] == 2

    run(scenario, require_update_token=True)


def test_poison_on_any_topic_harms_nothing():
    """Rubbish is dropped, and the round goes on."""

    async def scenario(world):
        await world.register(participants=["p1"])
        for topic in ("launched", "closed"):
            for payload in (b"", b"\x00\xff", b"[]", b'{"round_id":3}'):
                await world.bus.publish(Message(f"m/d/c/c/fl/rounds/r1/{topic}", payload))
        for topic in ("m/d/c/c/fl/rounds/x/y/z", "m/d/c/c/fl/rounds//updates/", "fl/rounds//updates/p1"):
            await world.bus.publish(Message(topic, b"{}"))
        await world.submit("p1")
        assert (await world.settle())["completed"]

    run(scenario)


def test_refused_launch_fails_round_and_experiment():
    """A round that the manager can never launch ends at once, with its reason."""

    async def scenario(world):
        await world.register("", participants=["p1"], rounds=2)
        await play(world, "exp-1", 1.0, ["p1"])
        await world.say(
            TOPICS.round_launched("exp-2"), {"round_id": "exp-2", "refused": "unknown proplet p1"}
        )
        done = await world.settle("exp-2")
        assert (done["state"], done["reason"]) == ("failed", "refused: unknown proplet p1")
        assert (await world.ask("GET", "/experiments/exp"))[1]["state"] == "failed"

    run(scenario)


def test_round_that_nobody_launches_fails_at_its_deadline():
    """Every state has a deadline: without a manager a later round fails as not launched."""

    async def scenario(world):
        await world.register("", participants=["p1"], rounds=2)
        await play(world, "exp-1", 1.0, ["p1"])
        done = await world.settle("exp-2", 601)
        assert (done["state"], done["reason"]) == ("failed", "not_launched")

    run(scenario)


def test_later_round_of_an_experiment_wants_k_updates():
    """At the timeout fewer than k fail an experiment's round, unless min_updates says otherwise."""

    async def scenario(world):
        await world.register("", participants=["p1", "p2"], rounds=2, timeout_s=10)
        await world.submit("p1", round_id="exp-1")
        assert (await world.settle("exp-1", 20))["reason"] == "too_few_updates"
        await world.register("", experiment_id="e", rounds=2, timeout_s=10, min_updates=1)
        await world.submit("p1", round_id="e-1")
        assert (await world.settle("e-1", 20))["completed"]

    run(scenario)


def test_stop_ends_experiment_and_round():
    """Stopping fails the live round, says so, starts nothing more, and is idempotent."""

    async def scenario(world):
        await world.register("", participants=["p1"], rounds=5)
        await play(world, "exp-1", 1.0, ["p1"])
        for _ in range(2):
            status, shown = await world.ask("POST", "/experiments/exp/stop")
            assert (status, shown["state"], shown["model_version"]) == (200, "stopped", 1)
        done = await world.settle("exp-2")
        assert (done["state"], done["reason"]) == ("failed", "stopped")
        assert (await world.submit("p1", round_id="exp-2", base_model_uri=""))[1]["code"] == "round_closed"
        assert (await world.ask("POST", "/experiments/nothing/stop"))[0] == 404
        assert (await world.ask("GET", "/rounds"))[1]["total"] == 2

    run(scenario)


def test_ids_promised_to_a_running_experiment_are_taken():
    """Nobody can register a round that an experiment will come to."""

    async def scenario(world):
        await world.register("", participants=["p1"], rounds=3)
        for more in (
            {"round_id": "exp-3", "experiment_id": "other"},
            {"round_id": "mine", "experiment_id": "exp"},
            {"round_id": "exp-1", "experiment_id": "other"},
        ):
            status, answer = await world.register(**more)
            assert (status, answer["code"]) == (409, "round_id_taken"), more
        assert (await world.register("exp-4", experiment_id="other"))[0] == 201

    run(scenario)


def test_tasks_started_by_hand_open_and_join_rounds():
    """The first opens a round with k = 1, others may come in; a closed round takes nobody."""

    async def scenario(world):
        body = {"proplet_id": "p7", "model_uri": "fl/models/global_model_v0", "image": "x"}
        joined = {
            "round_id": "hand",
            "manual": True,
            "model_ref": "fl/models/global_model_v0",
            "status": "joined",
        }
        for participant in ("p7", "p7", "p8"):
            asked = {**body, "proplet_id": participant}
            assert await world.ask("POST", "/rounds/hand/join", asked) == (200, joined)
        shown = (await world.ask("GET", "/rounds/hand"))[1]
        assert (shown["participants"], shown["k_of_n"], shown["state"]) == (["p7", "p8"], 1, "collecting")
        assert (await world.submit("p8", round_id="hand"))[0] == 200
        assert (await world.settle("hand"))["completed"]
        status, answer = await world.ask("POST", "/rounds/hand/join", body)
        assert (status, answer["code"]) == (409, "round_closed")
        assert (await world.submit("p7", round_id="hand"))[1]["code"] == "round_closed"

    run(scenario)


def test_joining_a_registered_round():
    """Its participants join it; strangers, other models and bad bodies are refused."""

    async def scenario(world):
        await world.register()
        body = {"proplet_id": "p1", "model_uri": "fl/models/global_model_v0"}
        status, answer = await world.ask("POST", "/rounds/r1/join", body)
        assert (status, answer["manual"]) == (200, False)
        for more, status, code in (
            ({"proplet_id": "p9"}, 403, "not_a_participant"),
            ({"model_uri": "fl/models/global_model_v1"}, 409, "wrong_base"),
            ({"model_uri": ""}, 400, "missing_model_uri"),
            ({"proplet_id": ""}, 400, "bad_id"),
        ):
            refused, answer = await world.ask("POST", "/rounds/r1/join", {**body, **more})
            assert (refused, answer["code"]) == (status, code), more
        missing = {**body, "model_uri": "fl/models/global_model_v5"}
        assert (await world.ask("POST", "/rounds/new/join", missing))[1]["code"] == "missing_model"

    run(scenario)


def test_notice_that_no_connection_carries_is_given_up():
    """A start message over the message limit is dropped with an error; the coordinator goes on."""

    async def scenario(world):
        await world.register("", participants=["p1"], rounds=2)
        outbox = world.coordinator.outbox
        outbox.update([replace(NOTICE, payload=b"x" * (limits.MQTT_MESSAGE_BYTES_MAX + 1))], [])
        await asyncio.sleep(1)
        assert len(outbox) == 0
        assert (await play(world, "exp-1", 1.0, ["p1"]))["completed"]

    run(scenario)


def test_ninety_participants_in_a_round():
    """More updates than a worker process takes arguments; the mean is theirs."""

    async def scenario(world):
        who = [f"p{number}" for number in range(90)]
        await world.register("", participants=who, rounds=2)
        assert (await play(world, "exp-1", 2.5, who))["num_updates"] == 90
        assert (await world.services.ask("GET", "http://registry/models/1"))[1]["b"] == 2.5

    run(scenario)
