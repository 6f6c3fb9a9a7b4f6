"""Tasks that wait for tasks: workflows and jobs. Pure: what is seen goes in, what is due comes out.

A *workflow* is a graph of tasks; its user starts the roots. A *job* is a set of tasks, with or without a
graph, that is started and stopped as one. Nothing here remembers progress. Each run records which runs of its
parents it answers to (and which start of its job), so that what is due follows from the latest runs alone:

    a task is settled    when its latest run has ended and answers to its parents' latest runs, all settled
    a task is due        when it is not, does not run, and all its parents are settled
    then it starts       if all parents completed        (`run_if` success, the default)
                         if any parent failed            (`run_if` failure)
    else it is skipped   and what waits for it is judged at once, with the same rule

So asking twice does nothing twice, a restart of the manager changes nothing, and starting a root again runs
again what depends on it, as `make` would. In a job the first failure stops the others and skips the rest,
except tasks that wait for that failure; a sequential job runs one task at a time, dependencies first.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from heapq import heapify, heappop, heappush

from propeller.core.task import TERMINAL, TaskState
from propeller.errors import BadInput

START = ""
"""The key under which a run records the start of its job, beside the runs of its parents."""
_SHOWN_IDS = 8


class Mode(StrEnum):
    """How a job runs its tasks; with `depends_on`, the graph comes first in every mode."""

    PARALLEL = "parallel"
    SEQUENTIAL = "sequential"
    CONFIGURABLE = "configurable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One task of a flow."""

    id: str
    depends_on: tuple[str, ...] = ()
    run_if: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A workflow (`job` false) or a job, as stored; `task_ids` are in the order they were given."""

    id: str
    job: bool
    task_ids: tuple[str, ...]
    created_at_s: float
    name: str = ""
    mode: str = ""
    starts: int = 0
    """How often the job was started."""
    active: bool = True
    """False once the job was stopped: nothing of it is started until it is started again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A task's latest run: its number (0: never started), what it shows, and which runs it answers to."""

    run: int = 0
    state: TaskState = TaskState.PENDING
    answers: Mapping[str, int] = field(default_factory=dict)
    last: int = 0
    """The highest run number ever given, if runs were deleted since."""

    @property
    def ended(self) -> bool:
        """Whether there is a run and it is over."""
        return self.run > 0 and self.state in TERMINAL

    @property
    def live(self) -> bool:
        """Whether there is a run and it is not over."""
        return self.run > 0 and self.state not in TERMINAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One task to start or to skip, as the run of that number."""

    task_id: str
    run: int
    answers: Mapping[str, int]
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What is due now; skips come first. `settled`: nothing more is due before somebody starts something."""

    start: tuple[Step, ...] = ()
    skip: tuple[Step, ...] = ()
    stop: tuple[str, ...] = ()
    settled: bool = True
    fresh: frozenset[str] = frozenset()
    """Tasks whose latest run belongs to the present pass."""

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.start or self.skip or self.stop)


class Graph:
    """A checked graph: no unknown, own or circular dependency. Raises `BadInput` naming what is wrong."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes: dict[str, Node] = {}
        for node in nodes:
            if node.id in self.nodes:
                raise BadInput(f"task id {node.id} is given twice", code="duplicate_task")
            self.nodes[node.id] = node
        _check_edges(self.nodes)
        self.order = _topological(self.nodes)

    @cached_property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """The distinct dependencies of each task."""
        return {node.id: tuple(dict.fromkeys(node.depends_on)) for node in self.nodes.values()}

    def children(self, task_id: str) -> tuple[str, ...]:
        """The tasks that depend directly on one."""
        return tuple(child for child, parents in self.parents.items() if task_id in parents)


def check_mode(mode: str) -> str:
    """Return a lawful job mode; raises `BadInput`."""
    if mode not in set(Mode):
        raise BadInput(f"execution_mode is {mode[:64]!r}; it can be {', '.join(Mode)}", code="bad_mode")
    return mode


def answers(flow: Flow, graph: Graph, seen: Mapping[str, Seen], task_id: str) -> dict[str, int]:
    """Which runs a run of the task that starts now answers to."""
    said = {parent: seen[parent].run for parent in graph.parents[task_id]}
    return said | {START: flow.starts} if flow.job else said


def unmet(graph: Graph, seen: Mapping[str, Seen], task_id: str) -> tuple[str, ...]:
    """The dependencies that have no ended run."""
    return tuple(parent for parent in graph.parents[task_id] if not seen[parent].ended)


def due(flow: Flow, graph: Graph, seen: Mapping[str, Seen]) -> Steps:
    """What is to be started, skipped and stopped now; `seen` has every task of the graph."""
    return _Pass(flow, graph, dict(seen)).steps()


class _Pass:
    """One walk over the graph in order; skips are counted in as they are decided."""

    def __init__(self, flow: Flow, graph: Graph, seen: dict[str, Seen]) -> None:
        self._flow = flow
        self._graph = graph
        self._seen = seen
        self._settled: set[str] = set()
        self._fresh: set[str] = set()
        self._start: list[Step] = []
        self._skip: list[Step] = []
        self._one_at_a_time = flow.job and flow.mode == Mode.SEQUENTIAL
        self._broken = flow.job and self._any_failed()

    def steps(self) -> Steps:
        """Judge every task once."""
        for task_id in self._graph.order:
            self._judge(task_id)
        return Steps(
            start=tuple(self._start),
            skip=tuple(self._skip),
            stop=self._to_stop(),
            settled=not self._start and not any(seen.live for seen in self._seen.values()),
            fresh=frozenset(self._fresh),
        )

    def _any_failed(self) -> bool:
        ended_badly = {TaskState.FAILED} | ({TaskState.INTERRUPTED} if self._one_at_a_time else set())
        return any(
            one.state in ended_badly and one.answers.get(START) == self._flow.starts
            for one in self._seen.values()
        )

    def _judge(self, task_id: str) -> None:
        parents = self._graph.parents[task_id]
        mine = self._seen[task_id]
        said = answers(self._flow, self._graph, self._seen, task_id)
        current = mine.run > 0 and dict(mine.answers) == said
        if current:
            self._fresh.add(task_id)
        if mine.live or not all(parent in self._settled for parent in parents):
            return
        if current:
            self._settled.add(task_id)
        elif self._may_go(parents):
            self._go(task_id, Step(task_id=task_id, run=max(mine.run, mine.last) + 1, answers=said))

    def _may_go(self, parents: Sequence[str]) -> bool:
        """Whether a task that is not settled is ours to start: a root of a workflow is its user's."""
        if not self._flow.job:
            return bool(parents)
        return self._flow.active and self._flow.starts > 0

    def _go(self, task_id: str, step: Step) -> None:
        why = self._why_not(task_id)
        if why:
            self._skip.append(replace(step, reason=why))
            self._seen[task_id] = Seen(run=step.run, state=TaskState.SKIPPED, answers=step.answers)
            self._settled.add(task_id)
            self._fresh.add(task_id)
        elif not (self._one_at_a_time and self._occupied()):
            self._start.append(step)

    def _occupied(self) -> bool:
        return bool(self._start) or any(one.live for one in self._seen.values())

    def _why_not(self, task_id: str) -> str:
        """Why the task is skipped; empty if it runs."""
        parents = self._graph.parents[task_id]
        states = {parent: self._seen[parent].state for parent in parents}
        if parents and self._graph.nodes[task_id].run_if == "failure":
            failed = TaskState.FAILED in states.values()
            return "" if failed else f"none of {_listed(parents)} failed"
        bad = [parent for parent, state in states.items() if state is not TaskState.COMPLETED]
        if bad:
            shown = ", ".join(f"{parent} {states[parent].name.lower()}" for parent in bad[:_SHOWN_IDS])
            return f"not all it depends on completed: {shown}"
        return "another task of the job failed" if self._broken else ""

    def _to_stop(self) -> tuple[str, ...]:
        if not self._flow.job:
            return ()
        failed = any(
            one.state is TaskState.FAILED and one.answers.get(START) == self._flow.starts
            for one in self._seen.values()
        )
        if self._flow.active and not failed:
            return ()
        return tuple(
            task_id
            for task_id, one in self._seen.items()
            if one.live and not (self._flow.active and self._graph.nodes[task_id].run_if == "failure")
        )


def shown_state(seen: Iterable[Seen]) -> TaskState:
    """What a job shows: failed before running before completed; pending until something has happened."""
    states = [one.state for one in seen]
    if any(state in {TaskState.FAILED, TaskState.INTERRUPTED} for state in states):
        return TaskState.FAILED
    if any(state in {TaskState.RUNNING, TaskState.SCHEDULED} for state in states):
        return TaskState.RUNNING
    if states and all(state in {TaskState.COMPLETED, TaskState.SKIPPED} for state in states):
        return TaskState.COMPLETED
    begun = any(one.run for one in seen) if states else False
    return TaskState.RUNNING if begun else TaskState.PENDING


def _check_edges(nodes: Mapping[str, Node]) -> None:
    for node in nodes.values():
        if node.id in node.depends_on:
            raise BadInput(f"DAG validation failed: task {node.id} depends on itself", code="cycle")
        unknown = [parent for parent in node.depends_on if parent not in nodes]
        if unknown:
            raise BadInput(
                f"dependency validation failed: task {node.id} depends on {_listed(unknown)}, "
                "which the flow does not have",
                code="unknown_dependency",
            )


def _topological(nodes: Mapping[str, Node]) -> tuple[str, ...]:
    """Dependencies first, else in the order given; raises `BadInput` with a cycle spelled out."""
    place = {task_id: at for at, task_id in enumerate(nodes)}
    names = list(nodes)
    waits = {task_id: len(set(node.depends_on)) for task_id, node in nodes.items()}
    children: dict[str, list[str]] = {task_id: [] for task_id in nodes}
    for node in nodes.values():
        for parent in set(node.depends_on):
            children[parent].append(node.id)
    ready = [place[task_id] for task_id, count in waits.items() if not count]
    heapify(ready)
    order: list[str] = []
    while ready:
        task_id = names[heappop(ready)]
        order.append(task_id)
        for child in children[task_id]:
            waits[child] -= 1
            if not waits[child]:
                heappush(ready, place[child])
    if len(order) < len(nodes):
        raise BadInput(f"DAG validation failed: {_cycle(nodes, set(order))}", code="cycle")
    return tuple(order)


def _cycle(nodes: Mapping[str, Node], sound: set[str]) -> str:
    """One cycle among the tasks that never got ready: from any of them, dependencies lead into one."""
    walk: dict[str, int] = {}
    at = next(task_id for task_id in nodes if task_id not in sound)
    while at not in walk:
        walk[at] = len(walk)
        at = next(parent for parent in nodes[at].depends_on if parent not in sound)
    found = [*list(walk)[walk[at] :], at]
    shown = found if len(found) <= _SHOWN_IDS else [*found[: _SHOWN_IDS - 1], "…", at]
    return f"a cycle of {len(found) - 1} tasks, each depending on the next: {' → '.join(shown)}"


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
    return ", ".join(ids[:_SHOWN_IDS]) + more
