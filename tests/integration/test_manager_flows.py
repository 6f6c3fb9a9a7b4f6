"""Workflows and jobs over HTTP, in a calm world with the whole system behind them."""

import asyncio
from itertools import pairwise

import pytest
from manager_world import Api, echo, in_world, loop, trap


def test_a_workflow_runs_in_the_order_of_its_graph():
    """201 with all tasks; nothing starts before its root does, and a dependent starts after all it needs."""

    async def story(api: Api):
        tasks = [echo("a"), echo("b", depends_on=["a"]), echo("c", depends_on=["a"])]
        status, made = await api.ask(
            "POST", "/workflows", {"tasks": [*tasks, echo("d", depends_on=["b", "c"])]}
        )
        assert (status, made["state"]) == (201, 0)
        assert [task["id"] for task in made["tasks"]] == ["a", "b", "c", "d"]
        assert len({task["workflow_id"] for task in made["tasks"]}) == 1
        assert made["tasks"][3]["depends_on"] == ["b", "c"]
        await asyncio.sleep(30)
        assert (await api.good("GET", "/tasks/a"))["state"] == 0
        await api.good("POST", "/tasks/a/start")
        ended = {name: await api.ended(name) for name in "abcd"}
        assert {task["state"] for task in ended.values()} == {3}
        assert ended["a"]["finish_time"] <= min(ended["b"]["start_time"], ended["c"]["start_time"])
        assert max(ended["b"]["finish_time"], ended["c"]["finish_time"]) <= ended["d"]["start_time"]
        seen = await api.good("GET", f"/workflows/{made['workflow_id']}")
        assert (seen["state"], [task["id"] for task in seen["tasks"]]) == (3, ["a", "b", "c", "d"])
        assert (await api.ask("GET", "/workflows/none"))[0] == 404
        assert (await api.ask("GET", f"/jobs/{made['workflow_id']}"))[0] == 404

    in_world(story)


def test_a_failure_skips_its_branch_at_once_and_wakes_the_one_that_waits_for_it():
    """Skips cascade without waiting for another result (defect 4.28); the reason is visible."""

    async def story(api: Api):
        tasks = [
            trap("a"),
            echo("b", depends_on=["a"]),
            echo("c", depends_on=["b"]),
            echo("x", depends_on=["a"], run_if="failure"),
        ]
        await api.good("POST", "/workflows", {"tasks": tasks})
        await api.good("POST", "/tasks/a/start")
        assert (await api.ended("a"))["state"] == 4
        skipped = await api.ended("c")
        assert (skipped["state"], skipped["reason"]) == (5, "not all it depends on completed: b skipped")
        assert (await api.ended("b"))["state"] == 5
        assert (await api.ended("x"))["state"] == 3

    in_world(story)


def test_starting_a_root_again_runs_its_workflow_again():
    """Each pass adds a run to each task (defect 4.3: the original could not start a task twice)."""

    async def story(api: Api):
        await api.good("POST", "/workflows", {"tasks": [echo("a"), echo("b", depends_on=["a"])]})
        for run in (1, 2, 3):
            await api.good("POST", "/tasks/a/start")
            assert (await api.ended("b", run=run))["run"] == run

    in_world(story)


def test_a_dependent_cannot_be_started_before_its_dependencies_ended():
    """409 with the names; afterwards by hand as often as one likes."""

    async def story(api: Api):
        await api.good("POST", "/workflows", {"tasks": [echo("a"), echo("b", depends_on=["a"])]})
        status, error = await api.ask("POST", "/tasks/b/start")
        assert (status, error["code"]) == (409, "unmet_dependencies")
        assert "unmet dependencies: a" in error["error"]
        await api.good("POST", "/tasks/a/start")
        await api.ended("b")
        await api.good("POST", "/tasks/b/start")
        assert (await api.ended("b", run=2))["state"] == 3

    in_world(story)


def test_a_task_can_join_a_workflow_later():
    """By `workflow_id` on POST /tasks; it may depend on what is there, and nothing else."""

    async def story(api: Api):
        made = await api.good("POST", "/workflows", {"tasks": [echo("a")]})
        flow = made["tasks"][0]["workflow_id"]
        await api.good("POST", "/tasks", echo("b", workflow_id=flow, depends_on=["a"]))
        status, error = await api.ask("POST", "/tasks", echo("c", workflow_id=flow, depends_on=["z"]))
        assert (status, error["code"]) == (400, "unknown_dependency")
        status, error = await api.ask("POST", "/tasks", echo("c", depends_on=["a"]))
        assert (status, error["code"]) == (400, "missing_workflow_id")
        await api.good("POST", "/tasks/a/start")
        assert (await api.ended("b"))["state"] == 3
        status, error = await api.ask("DELETE", "/tasks/a")
        assert (status, error["code"]) == (409, "has_dependents")
        assert (await api.ask("DELETE", "/tasks/b"))[0] == 204
        assert (await api.ask("DELETE", "/tasks/a"))[0] == 204

    in_world(story)


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        ([], "at least one task is required"),
        (None, "at least one task is required"),
        ([{"id": "a"}], "missing identity name"),
        ([echo("a", depends_on=["a"])], "task a depends on itself"),
        ([echo("a", depends_on=["b"]), echo("b", depends_on=["a"])], "a → b → a"),
        ([echo("a", depends_on=["z"])], "depends on z"),
        ([echo("a"), echo("a")], "given twice"),
        ([echo("a", run_if="maybe")], "run_if is 'maybe'"),
        ([echo("a", job_id="j")], "cannot have a job_id"),
    ],
)
def test_a_workflow_that_cannot_be_run_is_refused_whole(tasks, says):
    """400 with the names, never 500; not one of its tasks is stored (A6)."""

    async def story(api: Api):
        status, error = await api.ask("POST", "/workflows", {"tasks": tasks})
        assert status == 400
        assert says in error["error"]
        assert (await api.good("GET", "/tasks"))["total"] == 0

    in_world(story)


def test_ten_thousand_tasks_in_one_workflow():
    """They are stored and shown; a cycle among them is refused (A6)."""

    async def story(api: Api):
        chain = [echo(f"t{n}", depends_on=[f"t{n - 1}"] if n else []) for n in range(10_000)]
        status, made = await api.ask("POST", "/workflows", {"tasks": chain})
        assert (status, len(made["tasks"])) == (201, 10_000)
        assert (await api.good("GET", "/tasks"))["total"] == 10_000
        ring = [echo(f"r{n}", depends_on=[f"r{(n + 1) % 10_000}"]) for n in range(10_000)]
        status, error = await api.ask("POST", "/workflows", {"tasks": ring})
        assert status == 400
        assert "a cycle of 10000 tasks" in error["error"]
        status, _ = await api.ask("POST", "/workflows", {"tasks": [*chain, echo("one-more")]})
        assert status == 413

    in_world(story)


def test_a_parallel_job_from_creation_to_its_end():
    """201 with a Location, 200 for the view (defect 4.1), states and times in the list, run by run."""

    async def story(api: Api):
        status, job = await api.ask(
            "POST",
            "/jobs",
            {"name": "both", "execution_mode": "parallel", "tasks": [echo("a"), echo("b")]},
        )
        assert status == 201
        job_id = job["job_id"]
        assert [task["job_id"] for task in job["tasks"]] == [job_id, job_id]
        assert await api.ask("POST", f"/jobs/{job_id}/start") == (
            200,
            {"job_id": job_id, "message": "job started"},
        )
        shown = await api.good("GET", f"/jobs/{job_id}")
        assert all(task["run"] == 1 for task in shown["tasks"]), "both runs are on disk when start answers"
        assert (await api.ask("POST", f"/jobs/{job_id}/start"))[0] == 409
        await api.ended("a")
        await api.ended("b")
        page = await api.good("GET", "/jobs?status=completed")
        assert (page["offset"], page["limit"], page["total"]) == (0, 100, 1)
        (summary,) = page["jobs"]
        assert (summary["job_id"], summary["name"], summary["state"]) == (job_id, "both", 3)
        assert "0001-01-01" not in summary["start_time"] + summary["finish_time"] + summary["created_at"]
        assert (await api.good("GET", "/jobs?status=failed"))["total"] == 0
        await api.good("POST", f"/jobs/{job_id}/start")
        assert (await api.ended("a", run=2))["state"] == 3

    in_world(story)


def test_a_sequential_job_waits_for_each_task():
    """One at a time, in the order given (defect 4.28)."""

    async def story(api: Api):
        body = {"execution_mode": "sequential", "tasks": [echo("a"), echo("b"), echo("c")]}
        job = await api.good("POST", "/jobs", body)
        await api.good("POST", f"/jobs/{job['job_id']}/start")
        shown = [await api.ended(name) for name in "abc"]
        for before, after in pairwise(shown):
            assert before["finish_time"] <= after["start_time"]

    in_world(story)


def test_a_failure_ends_a_job():
    """What runs is stopped, what waits is skipped, what waits for the failure runs (defect 4.28)."""

    async def story(api: Api):
        tasks = [
            trap("a"),
            loop("b"),
            echo("c", depends_on=["a"]),
            echo("x", depends_on=["a"], run_if="failure"),
        ]
        job = await api.good("POST", "/jobs", {"tasks": tasks, "execution_mode": "configurable"})
        await api.good("POST", f"/jobs/{job['job_id']}/start")
        assert {name: (await api.ended(name))["state"] for name in "abcx"} == {"a": 4, "b": 6, "c": 5, "x": 3}
        assert (await api.good("GET", "/jobs?status=failed"))["total"] == 1

    in_world(story)


def test_a_job_is_stopped_as_one():
    """Its runs are interrupted and nothing more of it starts."""

    async def story(api: Api):
        body = {"tasks": [loop("a"), echo("b", depends_on=["a"])]}
        job = await api.good("POST", "/jobs", body)
        await api.good("POST", f"/jobs/{job['job_id']}/start")
        await api.until("a", 2)
        stopped = await api.good("POST", f"/jobs/{job['job_id']}/stop")
        assert stopped == {"job_id": job["job_id"], "message": "job stopped"}
        assert (await api.ended("a"))["state"] == 6
        await asyncio.sleep(30)
        assert (await api.good("GET", "/tasks/b"))["state"] == 0

    in_world(story)


def test_what_is_wrong_with_a_job_is_said():
    """Unknown jobs are 404, wrong modes and states 400, a task without a module is found before the start."""

    async def story(api: Api):
        for method, path in (
            ("GET", "/jobs/none"),
            ("POST", "/jobs/none/start"),
            ("POST", "/jobs/none/stop"),
        ):
            assert (await api.ask(method, path))[0] == 404
        status, error = await api.ask("POST", "/jobs", {"tasks": [echo("a")], "execution_mode": "chaotic"})
        assert status == 400
        assert "parallel, sequential, configurable" in error["error"]
        assert (await api.ask("GET", "/jobs?status=odd"))[0] == 400
        job = await api.good("POST", "/jobs", {"tasks": [{"name": "empty"}]})
        status, error = await api.ask("POST", f"/jobs/{job['job_id']}/start")
        assert (status, error["code"]) == (400, "no_module")
        assert (await api.ask("POST", "/jobs", {"tasks": [echo("w", workflow_id="w")]}))[0] == 400
        assert (await api.ask("POST", "/tasks", echo("t", job_id="none")))[0] == 404

    in_world(story)


def test_a_flow_goes_on_after_the_manager_was_killed():
    """Its progress is read off the stored runs: killed between any two tasks, it comes to its end."""

    async def story(api: Api):
        chain = [echo(f"t{n}", depends_on=[f"t{n - 1}"] if n else []) for n in range(5)]
        await api.good("POST", "/workflows", {"tasks": chain})
        await api.good("POST", "/tasks/t0/start")
        for _ in range(6):
            await asyncio.sleep(1.7)
            api.world.crash("manager", down_s=1.0)
            await asyncio.sleep(1.5)
        for n in range(5):
            task = await api.ended(f"t{n}")
            assert (task["state"], task["run"]) == (3, 1)

    in_world(story)
