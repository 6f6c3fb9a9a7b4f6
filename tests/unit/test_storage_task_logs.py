"""Logs in files: bounded per task and over all, torn by nothing, and never an error to the caller."""

import pytest

from propeller.storage.task_logs import FileTaskLogs, MemoryTaskLogs


@pytest.fixture(params=["files", "memory"])
def logs(request, tmp_path):
    """Both kinds, of a kilobyte per task."""
    if request.param == "files":
        return FileTaskLogs(tmp_path / "logs", task_bytes=1024)
    return MemoryTaskLogs(task_bytes=1024)


async def test_lines_come_back_in_order_and_by_task(logs):
    """What was added is read back, each task its own."""
    await logs.append({"a": [b"1", b"2"], "b": [b"x"]})
    await logs.append({"a": [b"3"]})
    assert await logs.read("a") == [b"1", b"2", b"3"]
    assert await logs.read("b") == [b"x"]
    assert await logs.read("c") == []


async def test_a_long_log_keeps_its_end(logs):
    """Over the bound the oldest lines go; the newest is always there."""
    for number in range(500):
        await logs.append({"a": [f"line {number:04}".encode()]})
    kept = await logs.read("a")
    assert kept[-1] == b"line 0499"
    assert 20 <= len(kept) <= 150
    assert kept == [f"line {number:04}".encode() for number in range(500 - len(kept), 500)]


async def test_all_logs_together_are_bounded(tmp_path):
    """The longest untouched logs go when all together are too much."""
    logs = FileTaskLogs(tmp_path, task_bytes=1000, all_bytes=5000)
    for number in range(40):
        await logs.append({f"t-{number:02}": [b"x" * 600]})
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 5000
    assert await logs.read("t-39") == [b"x" * 600]
    assert await logs.read("t-00") == []


async def test_the_logs_of_some_tasks_can_be_forgotten(logs):
    """Both files of each, and nobody else's, whatever ids look like; a log may be begun again."""
    ids = ["a", "a.log", "a.log.1", "b"]
    for _ in range(3):
        await logs.append({task_id: [b"x" * 400] for task_id in ids})
    assert await logs.task_ids() == ids
    await logs.forget(["a", "a.log.1", "unknown"])
    assert await logs.task_ids() == ["a.log", "b"]
    assert [bool(await logs.read(task_id)) for task_id in ids] == [False, True, False, True]
    await logs.append({"a": [b"new"]})
    assert await logs.read("a") == [b"new"]


async def test_a_disk_that_refuses_costs_lines_only(tmp_path):
    """A directory that cannot be made is no error: logs are best effort."""
    (tmp_path / "taken").write_text("a file")
    logs = FileTaskLogs(tmp_path / "taken")
    await logs.append({"a": [b"lost"]})
    assert await logs.read("a") == []
    assert await logs.task_ids() == []


async def test_logs_outlive_their_owner(tmp_path):
    """A restarted manager has what was written."""
    await FileTaskLogs(tmp_path).append({"a": [b"kept"]})
    assert await FileTaskLogs(tmp_path).read("a") == [b"kept"]
