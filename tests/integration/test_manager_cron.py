"""Schedules over HTTP in a calm world, whose clock the tests also set wrong (A7, E4)."""

import asyncio
from datetime import datetime

import pytest
from manager_world import Api, echo, in_world, loop


def wall_s(text: str) -> float:
    """A shown time as Unix seconds."""
    return datetime.fromisoformat(text).timestamp()


async def runs(api: Api, task_id: str) -> int:
    """How many runs the task has had."""
    return (await api.good("GET", f"/tasks/{task_id}")).get("run", 0)


def test_a_recurring_task_adds_runs_and_shows_the_next():
    """Every five minutes is three runs in fifteen (defect 4.3); each begins at its time."""

    async def story(api: Api):
        body = echo("t", schedule="*/5 * * * *", is_recurring=True, timezone="Europe/Berlin")
        task = await api.good("POST", "/tasks", body)
        assert (task["schedule"], task["timezone"], task["is_recurring"]) == (
            "*/5 * * * *",
            "Europe/Berlin",
            True,
        )
        next_run = wall_s(task["next_run"])
        assert next_run % 300 == 0
        assert 0 < next_run - api.world.clock.now().wall_s <= 300
        await asyncio.sleep(15 * 60)
        assert await runs(api, "t") == 3
        task = await api.ended("t", run=3)
        assert wall_s(task["next_run"]) == next_run + 900
        assert 0 <= wall_s(task["start_time"]) - next_run - 600 < 5

    in_world(story)


def test_a_task_that_is_to_run_once_loses_its_schedule_then():
    """As in the original: schedule and next run are cleared by the start."""

    async def story(api: Api):
        await api.good("POST", "/tasks", echo("t", schedule="* * * * *"))
        await asyncio.sleep(5 * 60)
        task = await api.good("GET", "/tasks/t")
        assert (task["run"], task["state"]) == (1, 3)
        assert "schedule" not in task
        assert task["next_run"] == "0001-01-01T00:00:00Z"

    in_world(story)


def test_an_update_without_a_schedule_keeps_it_and_an_empty_one_takes_it_away():
    """Any PUT cleared it in the original (defect 4.4); a new one counts from now."""

    async def story(api: Api):
        task = await api.good("POST", "/tasks", echo("t", schedule="0 0 1 1 *", is_recurring=True))
        changed = await api.good("PUT", "/tasks/t", {"name": "other", "priority": 80})
        assert (changed["schedule"], changed["next_run"]) == ("0 0 1 1 *", task["next_run"])
        assert changed["is_recurring"] is True
        changed = await api.good("PUT", "/tasks/t", {"name": "other", "schedule": "* * * * *"})
        assert wall_s(changed["next_run"]) - api.world.clock.now().wall_s <= 60
        status, error = await api.ask("PUT", "/tasks/t", {"name": "other", "schedule": "never"})
        assert status == 400
        assert "invalid cron expression" in error["error"]
        changed = await api.good("PUT", "/tasks/t", {"name": "other", "schedule": ""})
        assert "schedule" not in changed
        await asyncio.sleep(300)
        assert await runs(api, "t") == 0

    in_world(story)


def test_what_was_missed_while_no_manager_ran_is_not_made_up_for():
    """It goes on with the next occurrence, and does not run twice."""

    async def story(api: Api):
        await api.good("POST", "/tasks", echo("t", schedule="*/5 * * * *", is_recurring=True))
        await asyncio.sleep(301)
        assert await runs(api, "t") == 1
        api.world.crash("manager", down_s=15 * 60)
        await asyncio.sleep(15 * 60 + 5)
        assert await runs(api, "t") == 1
        await asyncio.sleep(300)
        assert await runs(api, "t") == 2

    in_world(story)


def test_an_occurrence_while_the_last_run_goes_on_is_passed_over():
    """There is one run at a time."""

    async def story(api: Api):
        body = loop("t", schedule="* * * * *", is_recurring=True, limits={"wall_s": 150})
        await api.good("POST", "/tasks", body)
        await asyncio.sleep(130)
        assert await runs(api, "t") == 1
        await asyncio.sleep(120)
        assert await runs(api, "t") == 2

    in_world(story)


def test_the_most_urgent_goes_first():
    """Of tasks due together, by priority, then by age: one proplet takes them in that order."""

    async def story(api: Api):
        for name, priority in (("low", 10), ("old", 50), ("new", 50), ("high", 90)):
            await api.good("POST", "/tasks", echo(name, schedule="*/10 * * * *", priority=priority))
            await asyncio.sleep(1)
        shown = [await api.ended(name) for name in ("high", "old", "new", "low")]
        starts = [task["start_time"] for task in shown]
        assert starts == sorted(starts)

    in_world(story, proplets=1)


@pytest.mark.parametrize("jump_s", [3600, -3600, -90])
def test_a_clock_that_jumps_repeats_nothing(jump_s):
    """An hour forward starts what is due once; an hour back starts nothing a second time (A7, E4)."""

    async def story(api: Api):
        await api.good("POST", "/tasks", echo("t", schedule="*/20 * * * *", is_recurring=True))
        next_run = wall_s((await api.good("GET", "/tasks/t"))["next_run"])
        await asyncio.sleep(next_run - api.world.clock.now().wall_s + 1)
        assert await runs(api, "t") == 1
        api.world.clock.skew_s += jump_s
        await asyncio.sleep(60)
        assert await runs(api, "t") == (2 if jump_s > 0 else 1)
        await asyncio.sleep(max(0, -jump_s) + 20 * 60)
        assert await runs(api, "t") == (3 if jump_s > 0 else 2)

    in_world(story)


def test_a_clock_that_was_a_year_ahead_does_not_silence_a_schedule():
    """Set back by more than three hours, the new time counts (A7)."""

    async def story(api: Api):
        api.world.clock.skew_s = 365 * 86_400.0
        await api.good("POST", "/tasks", echo("t", schedule="*/20 * * * *", is_recurring=True))
        api.world.clock.skew_s = 0.0
        await asyncio.sleep(21 * 60)
        assert await runs(api, "t") == 1

    in_world(story)
