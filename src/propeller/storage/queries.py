"""SQL from files: each query has a name and a comment, and code calls it by that name.

It must not know what the queries mean.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Self

from propeller.errors import Bug

_NAME = re.compile(r"^-- name:[ \t]*([a-z][a-z0-9_]*)[ \t]*$", re.MULTILINE)
_EACH = re.compile(r"/\* each \*/(.*?)/\* row \*/", re.DOTALL)
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)")
_COMMENT_LINE = re.compile(r"^\s*--.*$\n?", re.MULTILINE)


class Queries:
    """The queries of one file: `queries.insert_task` or `queries["insert_task"]` is its SQL text."""

    def __init__(self, source: str, queries: Mapping[str, str]) -> None:
        self._source = source
        self._queries = dict(queries)

    @classmethod
    def load(cls, role: str, file: str) -> Self:
        """The file `storage/sql/{role}/{file}`. Raises `Bug` if it is absent or malformed."""
        return cls.parse(sql_folder("sql", role) / file, f"sql/{role}/{file}")

    @classmethod
    def parse(cls, file: Traversable, source: str) -> Self:
        """Split a file at its `-- name:` lines; whole-line comments are left out of the SQL."""
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise Bug(f"no queries at {source}: {error}") from error
        _, *parts = _NAME.split(text)
        queries: dict[str, str] = {}
        for name, body in zip(parts[::2], parts[1::2], strict=True):
            sql = _COMMENT_LINE.sub("", body).strip()
            if name in queries or not sql:
                raise Bug(f"query {name} in {source} is {'given twice' if name in queries else 'empty'}")
            queries[name] = sql
        return cls(source, queries)

    def __getattr__(self, name: str) -> str:
        return self[name]

    def __getitem__(self, name: str) -> str:
        queries: dict[str, str] = self.__dict__.get("_queries", {})
        if name not in queries:
            raise AttributeError(f"no query named {name} in {self.__dict__.get('_source')}")
        return queries[name]

    def names(self) -> list[str]:
        """Every query's name, in file order."""
        return list(self._queries)


def of_many(sql: str, rows: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """One statement for all of `rows`, and its parameters: what stands between `each` and `row` is repeated.

    A database takes a statement for many rows in a fraction of the time of one for each, and a thread that
    writes gives the interpreter away and gets it back once for each statement.
    """
    parameters = {f"{name}_{at}": value for at, row in enumerate(rows) for name, value in row.items()}
    return _repeated(sql, len(rows)), parameters


@lru_cache(maxsize=512)
def _repeated(sql: str, count: int) -> str:
    before, each, after = _EACH.split(sql)
    numbered = (_PARAMETER.sub(rf":\1_{at}", each) for at in range(count))
    return before + ",".join(numbered) + after


def sql_folder(kind: str, role: str) -> Traversable:
    """The packaged folder of a role's SQL: `kind` is `sql` or `migrations`."""
    return files("propeller.storage") / kind / role
