"""The route that shows what a task's guests printed."""

from collections.abc import AsyncIterator
from typing import Literal

from litestar import MediaType, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery
from litestar.response import Stream

from propeller.errors import PeerUnavailable
from propeller.http.document import said
from propeller.manager.logs import Line, Logs
from propeller.manager.tasks import Tasks

_TEXT = MediaType.TEXT


def log_routes(logs: Logs, tasks: Tasks) -> list[HTTPRouteHandler]:
    """`GET /tasks/{id}/logs`."""

    @get(
        "/tasks/{task_id:str}/logs",
        summary="What a task's guests printed",
        opt=said(answers={"type": "string"}, as_type="text/plain"),
    )
    async def task_logs(
        task_id: FromPath[str],
        follow: FromQuery[bool | None] = None,
        run: FromQuery[int | None] = None,
        stream: FromQuery[Literal["stdout", "stderr"] | None] = None,
    ) -> Response[str] | Stream:
        """Of the latest run, or of `run`, or with 0 of all; `follow` goes on until the run has ended."""
        record = await tasks.view(task_id)
        number = run if run is not None else (record.run.number if record.run else 0)
        if not follow:
            kept = await logs.lines(task_id, number)
            return Response("".join(_shown(line) for line in kept if _wanted(line, stream)), media_type=_TEXT)
        if logs.full:
            raise PeerUnavailable("too many readers follow logs already; try again", code="busy")
        return Stream(_follow(logs, task_id, number, stream), media_type=_TEXT)

    return [task_logs]


async def _follow(logs: Logs, task_id: str, run: int, stream: str | None) -> AsyncIterator[str]:
    async for line in logs.follow(task_id, run):
        if _wanted(line, stream):
            yield _shown(line)


def _wanted(line: Line, stream: str | None) -> bool:
    return stream is None or line.stream == stream


def _shown(line: Line) -> str:
    """The text as it was printed, with a mark where something is missing."""
    return f"\n[… {line.missing_bytes} bytes are missing …]\n{line.text}" if line.missing_bytes else line.text
