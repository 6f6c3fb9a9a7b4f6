"""SQL from files: each query has a name and a comment, and code calls it by that name.

It must not know what the queries mean.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Self

from propeller.errors import Bug

_NAME = re.compile(r"^-- name:[ \t]*([a-z][a-z0-9_]*)[ \t]*$", re.MULTILINE)
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


def sql_folder(kind: str, role: str) -> Traversable:
    """The packaged folder of a role's SQL: `kind` is `sql` or `migrations`."""
    return files("propeller.storage") / kind / role
