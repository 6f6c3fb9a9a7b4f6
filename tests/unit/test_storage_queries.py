from importlib.resources import files

import pytest

from propeller.errors import Bug
from propeller.storage.queries import Queries


@pytest.fixture
def file(tmp_path):
    """A file of two queries."""
    path = tmp_path / "things.sql"
    path.write_text(
        "-- About things.\n\n-- name: add_thing\n-- Adds one.\nINSERT INTO things\nVALUES (:name); -- it\n\n"
        "-- name: list_things\nSELECT * FROM things;\n"
    )
    return path


def test_queries_are_found_by_name(file):
    """A query is the text below its name, without whole-line comments."""
    queries = Queries.parse(file, "things.sql")
    assert queries.add_thing == "INSERT INTO things\nVALUES (:name); -- it"
    assert queries["list_things"] == "SELECT * FROM things;"
    assert queries.names() == ["add_thing", "list_things"]


def test_an_unknown_name_says_where_it_was_sought(file):
    """A misspelt query names the file."""
    with pytest.raises(AttributeError, match=r"no query named ad_thing in things\.sql"):
        _ = Queries.parse(file, "things.sql").ad_thing


@pytest.mark.parametrize("text", ["-- name: a\nSELECT 1;\n-- name: a\nSELECT 2;", "-- name: a\n-- nothing\n"])
def test_a_name_twice_or_without_sql_is_a_bug(file, text):
    """Mistakes in a file are found when it is loaded."""
    file.write_text(text)
    with pytest.raises(Bug, match="query a in"):
        Queries.parse(file, "things.sql")


def test_a_missing_file_is_a_bug():
    """A role without that file learns so when it is loaded."""
    with pytest.raises(Bug, match=r"no queries at sql/database/absent\.sql"):
        Queries.load("database", "absent.sql")


def _sql_files():
    folder = files("propeller.storage") / "sql"
    return [(role.name, item.name) for role in folder.iterdir() for item in role.iterdir()]


@pytest.mark.parametrize(("role", "name"), _sql_files())
def test_every_packaged_query_file_loads(role, name):
    """Each file in the package parses into at least one named query."""
    assert Queries.load(role, name).names()
