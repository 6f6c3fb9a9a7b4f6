"""A workflow or job as the store has it: its graph and the latest run of each task. It changes nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from propeller import limits
from propeller.core.flow import Flow, Graph, Node, Seen, answers, due, unmet
from propeller.core.run import SHOWN
from propeller.core.task import Task
from propeller.errors import Conflict, NotFound, TooLarge
from propeller.stores.manager import (
    DropFlow,
    FlowRecord,
    ManagerChange,
    ManagerStore,
    SaveFlow,
    TaskRecord,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowState:
    """What is known of a flow at one moment; `touched` names the moment."""

    flow: Flow
    touched: int
    records: Mapping[str, TaskRecord]
    """Its tasks, in the order in which they were given."""
    graph: Graph
    seen: Mapping[str, Seen]

    def present(self) -> list[Seen]:
        """Each task as the present pass has it: one that waits to run again shows as pending."""
        fresh = due(self.flow, self.graph, self.seen).fresh
        return [one if name in fresh or one.live else Seen() for name, one in self.seen.items()]


async def load(store: ManagerStore, flow_id: str, *, results: bool = False) -> FlowState | None:
    """The flow of that id, or None."""
    record = await store.flow(flow_id)
    return None if record is None else await load_record(store, record, results=results)


async def load_record(store: ManagerStore, record: FlowRecord, *, results: bool = False) -> FlowState:
    """The flow of that record with its tasks."""
    found = {one.task.id: one for one in await store.members(record.flow.id, results=results)}
    records = {name: found[name] for name in record.flow.task_ids if name in found}
    return FlowState(
        flow=record.flow,
        touched=record.touched,
        records=records,
        graph=graph_of(one.task for one in records.values()),
        seen={name: seen_of(one) for name, one in records.items()},
    )


def graph_of(tasks: Iterable[Task]) -> Graph:
    """The graph of some tasks; raises `BadInput` or `TooLarge` naming what is wrong with it."""
    nodes = [Node(id=task.id, depends_on=task.depends_on, run_if=task.run_if) for task in tasks]
    check_size(len(nodes), sum(len(node.depends_on) for node in nodes))
    return Graph(nodes)


def check_size(tasks: int, dependencies: int) -> None:
    """Raise `TooLarge` for a flow over the limits."""
    if tasks > limits.FLOW_TASKS_MAX or dependencies > limits.FLOW_EDGES_MAX:
        raise TooLarge(
            f"{tasks} tasks with {dependencies} dependencies are too many; "
            f"the limits are {limits.FLOW_TASKS_MAX} and {limits.FLOW_EDGES_MAX}"
        )


def seen_of(record: TaskRecord) -> Seen:
    """A task's latest run as its flow sees it; numbers of deleted runs are not given again."""
    run = record.run
    if run is None:
        return Seen(last=record.latest_run)
    return Seen(run=run.number, state=SHOWN[run.state], answers=run.answers, last=record.latest_run)


async def answers_of(store: ManagerStore, task: Task) -> dict[str, int]:
    """Which runs a run of the task that is started by hand answers to.

    Raises `Conflict` when a dependency has not ended.
    """
    state = await load(store, task.flow_id) if task.flow_id else None
    if state is None or task.id not in state.seen:
        return {}
    missing = unmet(state.graph, state.seen, task.id)
    if missing:
        raise Conflict(
            f"task {task.id} has unmet dependencies: {', '.join(missing[:8])}; it starts by itself once "
            "they have ended",
            code="unmet_dependencies",
        )
    return answers(state.flow, state.graph, state.seen, task.id)


async def joining(store: ManagerStore, task: Task) -> list[ManagerChange]:
    """What joining its flow changes; raises `NotFound` for a job, `BadInput` for a dependency."""
    if not task.flow_id:
        return []
    state = await load(store, task.flow_id)
    if state is None or state.flow.job != bool(task.job_id):
        if task.job_id:
            raise NotFound(f"job {task.job_id} does not exist", code="unknown_job")
        graph_of([task])
        flow = Flow(id=task.flow_id, job=False, task_ids=(task.id,), created_at_s=task.created_at_s)
        return [SaveFlow(flow=flow, new=True)]
    graph_of([*(record.task for record in state.records.values()), task])
    return [SaveFlow(flow=replace(state.flow, task_ids=(*state.flow.task_ids, task.id)))]


async def leaving(store: ManagerStore, task: Task) -> list[ManagerChange]:
    """What leaving its flow changes; raises `Conflict` while another task depends on it."""
    state = await load(store, task.flow_id) if task.flow_id else None
    if state is None:
        return []
    children = state.graph.children(task.id)
    if children:
        raise Conflict(
            f"task {task.id} cannot be deleted: {children[0]} depends on it", code="has_dependents"
        )
    left = tuple(name for name in state.flow.task_ids if name != task.id)
    return [SaveFlow(flow=replace(state.flow, task_ids=left)) if left else DropFlow(flow_id=state.flow.id)]
