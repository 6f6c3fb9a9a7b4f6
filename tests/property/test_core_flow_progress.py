"""Random flows with random ends always come to rest, with every task judged exactly once a pass."""

from hypothesis import given, settings
from hypothesis import strategies as st

from propeller.core.flow import START, Flow, Graph, Mode, Node, Seen, due
from propeller.core.task import TERMINAL, TaskState

ENDS = (TaskState.COMPLETED, TaskState.FAILED, TaskState.INTERRUPTED)


@st.composite
def graphs(draw):
    """Up to eight tasks, each depending on some of those before it."""
    count = draw(st.integers(1, 8))
    return [
        Node(
            id=str(n),
            depends_on=tuple(str(m) for m in range(n) if draw(st.booleans())),
            run_if=draw(st.sampled_from(["", "success", "failure"])),
        )
        for n in range(count)
    ]


@settings(max_examples=100, deadline=None)
@given(graphs(), st.sampled_from(list(Mode)), st.randoms(use_true_random=False))
def test_a_job_ends_with_every_task_judged_once(nodes, mode, random):
    """Whatever ends how and in which order, a pass ends with one lawful run per task."""
    graph = Graph(nodes)
    seen = {node.id: Seen() for node in nodes}
    for starts in (1, 2):
        flow = Flow(id="f", job=True, mode=mode, starts=starts, task_ids=(), created_at_s=1)
        for _ in range(100):
            steps = due(flow, graph, seen)
            for one in steps.skip:
                seen[one.task_id] = Seen(run=one.run, state=TaskState.SKIPPED, answers=one.answers)
            for one in steps.start:
                parents = [seen[parent].state for parent in graph.parents[one.task_id]]
                assert all(state in TERMINAL for state in parents)
                if parents and graph.nodes[one.task_id].run_if == "failure":
                    assert TaskState.FAILED in parents
                else:
                    assert set(parents) <= {TaskState.COMPLETED}
                seen[one.task_id] = Seen(run=one.run, state=TaskState.RUNNING, answers=one.answers)
            live = [name for name in seen if seen[name].live]
            assert mode is not Mode.SEQUENTIAL or len(live) <= 1
            if not live:
                break
            name = random.choice(live)
            seen[name] = Seen(run=seen[name].run, state=random.choice(ENDS), answers=seen[name].answers)
        assert due(flow, graph, seen).settled
        assert {one.run for one in seen.values()} == {starts}
        assert {one.answers[START] for one in seen.values()} == {starts}
