"""The worker process of `offload`: reads jobs on stdin, answers on stdout, ends when stdin closes.

Started by `propeller.federation.offload` only. It must not know what the jobs are.
"""

import os
import traceback
from collections.abc import Callable
from io import FileIO
from typing import Any

from propeller.errors import Bug, EnvironmentError_, PropellerError
from propeller.federation.offload import receive, send


def answer(work: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
    """The reply to one job: `tuple` and its items, `one` and the value, or `error` and the exception."""
    try:
        result = work(*args, **kwargs)
    except PropellerError as error:
        return ["error", error]
    except MemoryError:
        return ["error", EnvironmentError_("not enough memory for this request; send less at once")]
    except Exception:  # noqa: BLE001 - the boundary of a job: the asker gets the story and raises it
        return ["error", Bug(f"a job in the worker process failed:\n{traceback.format_exc()}")]
    return ["tuple", *result] if type(result) is tuple else ["one", result]


def main() -> None:
    """Serve until the other side goes."""
    with FileIO(0, "r") as jobs, FileIO(os.dup(1), "w") as answers:
        # Whatever a library prints must not land between two frames.
        os.dup2(2, 1)
        while True:
            try:
                work, kwargs, *args = receive(jobs)
                send(answers, answer(work, args, kwargs))
            except (EOFError, BrokenPipeError):
                return


if __name__ == "__main__":
    main()
