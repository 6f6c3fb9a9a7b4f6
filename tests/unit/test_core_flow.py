"""Workflows and jobs: what is due, decided from the latest runs alone (A6, defect 4.28)."""

import time

import pytest

from propeller.core.flow import START, Flow, Graph, Mode, Node, Seen, check_mode, due, shown_state, unmet
from propeller.core.task import TaskState
from propeller.errors import BadInput

DONE, FAILED, RUNNING = TaskState.COMPLETED, TaskState.FAILED, TaskState.RUNNING
SKIPPED, STOPPED = TaskState.SKIPPED, TaskState.INTERRUPTED


class Play:
    """A flow played through by hand: what is due becomes a run, and the test ends runs."""

    def __init__(self, nodes, *, job=False, mode="", started=True):
        """`nodes` maps each id to its dependencies, or to (dependencies, run_if)."""
        made = []
        for name, wants in nodes.items():
            parents, run_if = wants if isinstance(wants, tuple) else (wants, "")
            made.append(Node(id=name, depends_on=tuple(parents), run_if=run_if))
        self.graph = Graph(made)
        self.flow = Flow(
            id="f", job=job, mode=mode, starts=int(job and started), task_ids=tuple(nodes), created_at_s=1.0
        )
        self.seen = {name: Seen() for name in nodes}

    def begin(self, name):
        """A user starts a task."""
        answers = {parent: self.seen[parent].run for parent in self.graph.parents[name]}
        if self.flow.job:
            answers[START] = self.flow.starts
        self.seen[name] = Seen(run=self.seen[name].run + 1, state=RUNNING, answers=answers)

    def end(self, name, state=DONE):
        """A run ends."""
        old = self.seen[name]
        self.seen[name] = Seen(run=old.run, state=state, answers=old.answers)

    def step(self):
        """Do what is due; (started, skipped, stopped) as strings of names."""
        steps = due(self.flow, self.graph, self.seen)
        for one in steps.start:
            self.seen[one.task_id] = Seen(run=one.run, state=RUNNING, answers=one.answers)
        for one in steps.skip:
            self.seen[one.task_id] = Seen(run=one.run, state=SKIPPED, answers=one.answers)
        again = due(self.flow, self.graph, self.seen)
        assert not again.start, "asking twice starts twice"
        assert not again.skip, "asking twice skips twice"
        names = ("".join(one.task_id for one in part) for part in (steps.start, steps.skip))
        return (*names, "".join(steps.stop))

    def shown(self):
        """The states of all tasks, in order."""
        return [one.state for one in self.seen.values()]


def test_a_workflow_starts_nothing_by_itself_and_then_follows_its_graph():
    """Roots are the user's; a diamond joins once both sides are done."""
    play = Play({"a": "", "b": "a", "c": "a", "d": "bc"})
    assert play.step() == ("", "", "")
    play.begin("a")
    assert play.step() == ("", "", "")
    play.end("a")
    assert play.step() == ("bc", "", "")
    play.end("b")
    assert play.step() == ("", "", "")
    play.end("c")
    assert play.step() == ("d", "", "")
    play.end("d")
    assert due(play.flow, play.graph, play.seen).settled


def test_skips_cascade_at_once():
    """A failure skips the whole branch in one step, and wakes the branch that waits for it (defect 4.28)."""
    play = Play({"a": "", "b": "a", "c": "b", "d": "c", "x": ("a", "failure"), "y": "x"})
    play.begin("a")
    play.end("a", FAILED)
    assert play.step() == ("x", "bcd", "")
    play.end("x")
    assert play.step() == ("y", "", "")


def test_run_if_failure_is_skipped_when_nothing_failed():
    """Interruption is not failure."""
    for state in (DONE, STOPPED):
        play = Play({"a": "", "x": ("a", "failure")})
        play.begin("a")
        play.end("a", state)
        assert play.step() == ("", "x", "")


def test_run_if_failure_needs_one_failure_among_ended_dependencies():
    """It waits for all of its dependencies, then one failed is enough."""
    play = Play({"a": "", "b": "", "x": ("ab", "failure")})
    play.begin("a")
    play.begin("b")
    play.end("a", FAILED)
    assert play.step() == ("", "", "")
    play.end("b")
    assert play.step() == ("x", "", "")


def test_starting_a_root_again_runs_again_what_depends_on_it():
    """As make would: the longer side is waited for although the shorter side's old run has ended."""
    play = Play({"a": "", "b": "a", "c": "a", "e": "c", "d": "be"})
    for _ in range(2):
        play.begin("a")
        play.end("a")
        assert play.step() == ("bc", "", "")
        play.end("b")
        assert play.step() == ("", "", "")
        play.end("c")
        assert play.step() == ("e", "", "")
        play.end("e")
        assert play.step() == ("d", "", "")
        play.end("d")
        assert play.step() == ("", "", "")
    assert {one.run for one in play.seen.values()} == {2}


def test_a_parallel_job_starts_its_roots_together_and_stops_at_the_first_failure():
    """The others are stopped, the rest is skipped, and what waits for the failure runs."""
    nodes = {"a": "", "b": "", "c": "a", "x": ("a", "failure")}
    play = Play(nodes, job=True, mode=Mode.PARALLEL)
    assert play.step() == ("ab", "", "")
    play.end("a", FAILED)
    assert play.step() == ("x", "c", "b")
    play.end("b", STOPPED)
    assert play.step() == ("", "", "")
    play.end("x")
    assert play.step() == ("", "", "")
    assert shown_state(play.seen.values()) is FAILED


def test_a_sequential_job_really_waits():
    """One task at a time, dependencies first, else in the order given (defect 4.28)."""
    play = Play({"a": "", "b": "c", "c": "", "d": ""}, job=True, mode=Mode.SEQUENTIAL)
    order = ""
    while started := play.step()[0]:
        assert len(started) == 1
        order += started
        play.end(started)
    assert order == "acbd"
    assert shown_state(play.seen.values()) is DONE


@pytest.mark.parametrize("end", [FAILED, STOPPED])
def test_a_sequential_job_does_not_go_on_after_a_bad_end(end):
    """What is left is skipped, so that the job comes to an end."""
    play = Play({"a": "", "b": "", "c": ""}, job=True, mode=Mode.SEQUENTIAL)
    play.step()
    play.end("a", end)
    assert play.step() == ("", "bc", "")
    assert due(play.flow, play.graph, play.seen).settled


def test_a_job_that_was_not_started_or_was_stopped_starts_nothing():
    """Stopping stops what runs; a later start is a new pass over all tasks."""
    play = Play({"a": "", "b": "a"}, job=True, mode=Mode.CONFIGURABLE, started=False)
    assert play.step() == ("", "", "")
    play = Play({"a": "", "b": "a"}, job=True, mode=Mode.CONFIGURABLE)
    assert play.step() == ("a", "", "")
    play.flow = Flow(
        id="f", job=True, mode=Mode.CONFIGURABLE, starts=1, active=False, task_ids=(), created_at_s=1
    )
    assert play.step() == ("", "", "a")
    play.end("a", STOPPED)
    assert play.step() == ("", "", "")
    play.flow = Flow(id="f", job=True, mode=Mode.CONFIGURABLE, starts=2, task_ids=(), created_at_s=1)
    assert play.step() == ("a", "", "")
    play.end("a")
    assert play.step() == ("b", "", "")


def test_the_job_shows_the_worst_of_its_tasks():
    """Failed or interrupted before running before done; begun but not done is running."""

    def shown(*states):
        return shown_state([Seen(run=1 if state else 0, state=state) for state in states])

    assert shown(DONE, FAILED, RUNNING) is FAILED
    assert shown(DONE, STOPPED) is FAILED
    assert shown(DONE, RUNNING) is RUNNING
    assert shown(DONE, SKIPPED) is DONE
    assert shown(DONE, TaskState.PENDING) is RUNNING
    assert shown(TaskState.PENDING, TaskState.PENDING) is TaskState.PENDING
    assert shown() is TaskState.PENDING


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ({"a": "a"}, "task a depends on itself"),
        ({"a": "z"}, "task a depends on z, which"),
        ({"a": "b", "b": "a"}, "a cycle of 2 tasks, each depending on the next: a → b → a"),
        ({"r": "", "t": "b", "a": "rb", "b": "c", "c": "a"}, "b → c → a → b"),
    ],
)
def test_a_graph_that_cannot_be_run_is_refused_by_name(nodes, says):
    """Unknown, own and circular dependencies (A6)."""
    with pytest.raises(BadInput) as caught:
        Graph(Node(id=name, depends_on=tuple(parents)) for name, parents in nodes.items())
    assert says in caught.value.message


def test_an_id_given_twice_is_refused():
    """Dependencies would mean either."""
    with pytest.raises(BadInput, match="given twice"):
        Graph([Node(id="a"), Node(id="a")])


def test_a_long_cycle_is_shown_short():
    """The message names how long it is and some of it."""
    with pytest.raises(BadInput) as caught:
        Graph(Node(id=f"t{n}", depends_on=(f"t{(n + 1) % 5000}",)) for n in range(5000))
    assert "a cycle of 5000 tasks" in caught.value.message
    assert len(caught.value.message) < 300


def test_ten_thousand_tasks_are_checked_and_judged_in_a_moment():
    """A chain, a fan and a layered graph of 10,000 nodes (A6); recursion would not survive the chain."""
    count = 10_000
    chain = [Node(id=f"t{n}", depends_on=(f"t{n - 1}",) if n else ()) for n in range(count)]
    fan = [Node(id="root"), *(Node(id=f"t{n}", depends_on=("root",)) for n in range(count))]
    layers = [
        Node(id=f"t{n}", depends_on=tuple(f"t{m}" for m in range(max(0, n - 10), n - n % 10)))
        for n in range(count)
    ]
    for nodes in (chain, fan, layers):
        began = time.perf_counter()
        graph = Graph(nodes)
        flow = Flow(id="f", job=True, mode="parallel", starts=1, task_ids=(), created_at_s=1)
        assert due(flow, graph, {node.id: Seen() for node in nodes}).start
        assert time.perf_counter() - began < 2.0


def test_unmet_dependencies_are_named():
    """For the message of a start that comes too early."""
    play = Play({"a": "", "b": "", "c": "ab"})
    play.begin("a")
    play.end("a", FAILED)
    assert unmet(play.graph, play.seen, "c") == ("b",)


def test_an_unknown_mode_is_refused():
    """The message lists what there is."""
    assert check_mode("parallel") == "parallel"
    with pytest.raises(BadInput, match="parallel, sequential, configurable"):
        check_mode("chaotic")
