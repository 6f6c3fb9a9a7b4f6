"""Runs that wait, the most urgent and oldest first. Pure bookkeeping: it does not know what they wait for."""

from collections import OrderedDict


class Line:
    """Task ids in a row. Every operation takes constant time, as there are at most 101 priorities."""

    def __init__(self) -> None:
        self._rows: dict[int, OrderedDict[str, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._rows)

    def join(self, task_id: str, priority: int, *, in_front: bool) -> None:
        """Queue behind all of the same priority, or before them: who had a turn does not wait twice."""
        row = self._rows.setdefault(priority, OrderedDict())
        row[task_id] = None
        if in_front:
            row.move_to_end(task_id, last=False)

    def leave(self, task_id: str, priority: int) -> None:
        """Go, from wherever it stands."""
        row = self._rows[priority]
        del row[task_id]
        if not row:
            del self._rows[priority]

    def first(self) -> str | None:
        """Whose turn it is; None if nobody waits."""
        return next(iter(self._rows[max(self._rows)])) if self._rows else None

    def has(self, task_id: str) -> bool:
        """Whether that task stands in the line."""
        return any(task_id in row for row in self._rows.values())
