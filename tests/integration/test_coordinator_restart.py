import asyncio

from coordinator_world import TOPICS, run

from propeller import limits
from propeller.errors import StorageFull
from propeller.http.memory import Fault


async def reborn(world, away_s=1.0):
    """Kill the coordinator, wait, and start another one on the same store."""
    await world.kill()
    await asyncio.sleep(away_s)
    await world.start()


def model_hash(restarts):
    """The hash of a round's model when the coordinator is killed after each of `restarts` updates."""

    async def scenario(world):
        await world.register()
        for number, participant in enumerate(("p3", "p1", "p2")):
            assert (await world.submit(participant, 0.1 * (number + 1), samples=7))[0] == 200
            if number in restarts:
                await reborn(world)
                if number < 2:
                    again = await world.submit(participant, 0.1 * (number + 1), samples=7)
                    assert again == (200, {"status": "accepted", "duplicate": True})
        done = await world.settle()
        assert (done["completed"], done["num_updates"], done["model_version"]) == (True, 3, 1)
        return (await world.ask("GET", "/rounds/r1"))[1]["model_hash"]

    return run(scenario)


def test_killed_coordinator_loses_and_repeats_nothing():
    """Whenever it is killed, every accepted update counts once and the model has the same bits.

    Defect 4.19 of the original.
    """
    assert len({model_hash(restarts) for restarts in ((), (0,), (1,), (2,), (0, 1, 2))}) == 1


def test_kill_between_the_registrys_answer_and_the_coordinators_commit():
    """Storing the model again gives the same version: the round id is the key."""

    async def scenario(world):
        losing = True

        def faults(method, url):
            lost = losing and method == "POST" and url == "http://registry/models"
            return Fault(lose="response") if lost else Fault()

        world.http._faults = faults
        await world.register(participants=["p1"])
        await world.submit("p1")
        await asyncio.sleep(3)
        assert (await world.services.models.versions("global_model")) == (0, 1)
        await reborn(world)
        losing = False
        done = await world.settle(for_s=60)
        assert (done["completed"], done["model_version"]) == (True, 1)
        assert (await world.services.models.versions("global_model")) == (0, 1)

    run(scenario)


def test_aggregation_is_retried_until_the_peer_is_back():
    """While the aggregator is away the round waits; when it is back the round completes."""

    async def scenario(world):
        app = world.http._apps["http://aggregator:80"]
        world.http.unregister("http://aggregator")
        await world.register(participants=["p1"])
        await world.submit("p1")
        waiting = await world.settle(for_s=100)
        assert (waiting["completed"], waiting["state"], waiting["num_updates"]) == (False, "aggregating", 1)
        world.http.register("http://aggregator", app)
        assert (await world.settle(for_s=limits.ROUND_AGGREGATION_RETRY_S_MAX + 1))["completed"]

    run(scenario)


def test_aggregation_gives_up_at_its_deadline():
    """A peer that stays away fails the round with the reason, and the experiment with it."""

    async def scenario(world):
        world.http.unregister("http://aggregator")
        await world.register(participants=["p1"])
        await world.submit("p1")
        done = await world.settle(for_s=limits.ROUND_AGGREGATION_S + 60)
        assert done["state"] == "failed"
        assert done["reason"].startswith("peer_unavailable")

    run(scenario)


def test_refusing_aggregator_fails_the_round_at_once():
    """What will never work is not tried again."""

    async def scenario(world):
        async def refuse(_scope, _receive, send):
            await send({"type": "http.response.start", "status": 400, "headers": []})
            await send({"type": "http.response.body", "body": b'{"error":"no"}'})

        world.http.register("http://aggregator", refuse)
        await world.register(participants=["p1"])
        await world.submit("p1")
        done = await world.settle(for_s=1)
        assert (done["state"], "aggregator_refused" in done["reason"]) == ("failed", True)
        assert (await world.ask("GET", "/health"))[0] == 200

    run(scenario)


def test_model_that_does_not_fit_is_refused():
    """An aggregator that answers another shape, or nonsense, makes no model version."""

    async def scenario(world):
        answers = iter([b'{"w":[1,2],"b":0}', b"null", b'{"w":["a"]}', b"{"])

        async def lie(_scope, _receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": next(answers)})

        world.http.register("http://aggregator", lie)
        for number in range(4):
            await world.register(f"r{number}", participants=["p1"])
            await world.submit("p1", round_id=f"r{number}")
            assert (await world.settle(f"r{number}", 1))["state"] == "failed"
        assert (await world.services.models.versions("global_model")) == (0,)

    run(scenario)


def test_timeout_goes_on_after_a_restart_with_a_grace():
    """A round's time runs on while nobody is there, but peers get a moment to deliver what they hold."""

    async def scenario(world):
        await world.register("short", timeout_s=100)
        await world.register("long", timeout_s=1000)
        await world.submit("p1", round_id="short")
        await reborn(world, away_s=500)
        assert (await world.settle("short", 1))["state"] == "collecting"
        assert (await world.submit("p2", round_id="short"))[0] == 200
        done = await world.settle("short", limits.ROUND_RESTART_GRACE_S)
        assert (done["completed"], done["num_updates"]) == (True, 2)
        assert (await world.settle("long", 400))["state"] == "collecting"
        assert (await world.settle("long", 200))["state"] == "failed"

    run(scenario)


def test_wall_clock_jumps_do_not_move_deadlines():
    """An hour forwards or backwards changes nothing, neither while running nor over a restart (E4)."""

    async def scenario(world):
        await world.register(timeout_s=200)
        world.clock.skew_s = 3600.0
        assert (await world.settle(for_s=50))["state"] == "collecting"
        world.clock.skew_s = -3600.0
        await reborn(world)
        assert (await world.settle(for_s=50))["state"] == "collecting"
        world.clock.skew_s = 3600.0
        await reborn(world)
        assert (await world.settle(for_s=70))["state"] == "collecting"
        assert (await world.settle(for_s=40))["state"] == "failed"

    run(scenario)


def test_experiment_and_notices_go_on_after_a_restart():
    """A later round that waits for its launch is announced again by the next process."""

    async def scenario(world):
        await world.register("", participants=["p1"], rounds=2)
        await world.submit("p1", round_id="exp-1")
        await world.settle("exp-1")
        await reborn(world)
        before = len(world.heard(TOPICS.rounds_start()))
        await world.settle("exp-2", 20)
        assert len(world.heard(TOPICS.rounds_start())) > before
        await world.say(TOPICS.round_launched("exp-2"), {"round_id": "exp-2"})
        await reborn(world)
        assert (await world.submit("p1", round_id="exp-2", base_model_uri=""))[0] == 200
        assert (await world.settle("exp-2"))["model_version"] == 2
        assert (await world.ask("GET", "/experiments/exp"))[1]["state"] == "completed"

    run(scenario)


def test_full_disk_refuses_and_forgets_nothing():
    """An update that could not be stored does not count, is answered 507, and counts when sent again."""

    async def scenario(world):
        await world.register(participants=["p1", "p2"])
        commit = world.store.commit

        async def full(_changes):
            raise StorageFull("no room")

        world.store.commit = full
        status, answer = await world.submit("p1")
        assert (status, answer["code"]) == (507, "storage_full")
        world.store.commit = commit
        assert (await world.settle())["num_updates"] == 0
        for participant in ("p1", "p2"):
            assert await world.submit(participant) == (200, {"status": "accepted"})
        assert (await world.settle())["completed"]

    run(scenario)


def test_large_update_lies_in_the_blob_store():
    """Content over the inline limit is a blob; the model is the same as ever."""

    async def scenario(world):
        wide = {"w": [0.0] * 20_000}
        await world.services.ask(
            "POST", "http://registry/models", {"name": "wide", "version": 0, "model": wide}
        )
        await world.register(participants=["p1"], model_ref="fl/models/wide_v0")
        status, _ = await world.submit("p1", base_model_uri="", update={"w": [0.5] * 20_000})
        assert status == 200
        assert (await world.settle())["model_version"] == 1
        assert len(await world.blobs.digests()) == 1
        [stored] = await world.store.contents("r1")
        assert stored.content.inline is None

    run(scenario)
