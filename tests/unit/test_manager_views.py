"""What a task says of itself while it prepares."""

from propeller.core.run import Attempt, AttemptState, Run, RunState
from propeller.core.task import Task
from propeller.manager.api.views import task_view
from propeller.stores.manager import TaskRecord


def shown(state, attempt_state, reason=""):
    """The view of a task with one attempt."""
    attempt = Attempt(number=1, proplet_id="p1", lane="directed", state=attempt_state)
    run = Run(
        task_id="t", number=1, state=state, reason=reason, attempts=(attempt,), created_at_s=1.0,
        give_up_mono_s=9.0, deadline_mono_s=9.0,
    )  # fmt: skip
    return task_view(TaskRecord(task=Task(id="t", name="t", created_at_s=1.0, updated_at_s=1.0), run=run))


def test_a_run_that_prepares_says_so():
    """An image that takes a minute to fetch looks like nothing otherwise."""
    assert shown(RunState.ASSIGNED, AttemptState.ACCEPTED).reason.startswith("p1 has accepted it")


def test_other_states_keep_their_own_reason():
    """A running one needs none; a stopping one says why it stops."""
    assert shown(RunState.RUNNING, AttemptState.RUNNING).reason == ""
    assert shown(RunState.STOPPING, AttemptState.ACCEPTED, "by request").reason == "by request"
