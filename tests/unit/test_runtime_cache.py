"""The compile cache: what was stored comes back, and nothing else ever does."""

import os
import threading
from pathlib import Path

import pytest

from propeller.errors import StorageBroken
from propeller.runtime.cache import CompileCache

LIMIT_BYTES = 1_000_000


def content(cache: CompileCache, name: str) -> bytes | None:
    """What `name` holds, by the path that a mapping would use."""
    entry = cache.open(name)
    if entry is None:
        return None
    try:
        return Path(entry.path).read_bytes()
    finally:
        entry.close()


def test_what_was_stored_comes_back(tmp_path):
    """A second cache on the same directory, as another worker has, finds the same entry."""
    CompileCache(tmp_path / "cache", LIMIT_BYTES).store("a", b"code")
    assert content(CompileCache(tmp_path / "cache", LIMIT_BYTES), "a") == b"code"
    assert content(CompileCache(tmp_path / "cache", LIMIT_BYTES), "b") is None


def test_storing_again_replaces(tmp_path):
    """The latest code under a name is the one that is found."""
    cache = CompileCache(tmp_path / "cache", LIMIT_BYTES)
    cache.store("a", b"old")
    cache.store("a", b"new")
    assert content(cache, "a") == b"new"


@pytest.mark.parametrize("damage", ["flip", "truncate", "no tag", "foreign tag", "renamed", "other key"])
def test_a_damaged_or_foreign_entry_is_absent(tmp_path, damage):
    """Whatever was done to the files, code that is not what was stored under that name is never given out."""
    directory = tmp_path / "cache"
    cache = CompileCache(directory, LIMIT_BYTES)
    cache.store("a", b"code of a")
    cache.store("b", b"code of b")
    code, tag = directory / "a.cwasm", directory / "a.tag"
    match damage:
        case "flip":
            code.write_bytes(b"Code of a")
        case "truncate":
            code.write_bytes(b"code")
        case "no tag":
            tag.unlink()
        case "foreign tag":
            tag.write_bytes((directory / "b.tag").read_bytes())
        case "renamed":
            code.write_bytes(b"code of b")
            tag.write_bytes((directory / "b.tag").read_bytes())
        case "other key":
            (directory / "key").unlink()
            cache = CompileCache(directory, LIMIT_BYTES)
    assert content(cache, "a") is None
    cache.store("a", b"code of a")
    assert content(cache, "a") == b"code of a"


def test_an_entry_that_was_swapped_after_its_check_is_not_seen(tmp_path):
    """The path of an entry leads to the verified file even when its name leads elsewhere by now."""
    cache = CompileCache(tmp_path / "cache", LIMIT_BYTES)
    cache.store("a", b"verified")
    entry = cache.open("a")
    assert entry is not None
    (tmp_path / "cache" / "a.cwasm").unlink()
    (tmp_path / "cache" / "a.cwasm").write_bytes(b"swapped in")
    assert Path(entry.path).read_bytes() == b"verified"
    entry.close()


def test_a_link_is_no_entry(tmp_path):
    """A symbolic link in the place of code is refused, not followed."""
    cache = CompileCache(tmp_path / "cache", LIMIT_BYTES)
    cache.store("a", b"code")
    (tmp_path / "elsewhere").write_bytes(b"code")
    (tmp_path / "cache" / "a.cwasm").unlink()
    (tmp_path / "cache" / "a.cwasm").symlink_to(tmp_path / "elsewhere")
    assert cache.open("a") is None


def test_the_directory_and_the_key_are_for_this_user_only(tmp_path):
    """Made with no access for others; refused when others may write."""
    directory = tmp_path / "cache"
    CompileCache(directory, LIMIT_BYTES)
    assert directory.stat().st_mode & 0o077 == 0
    assert (directory / "key").stat().st_mode & 0o777 == 0o600
    directory.chmod(0o777)
    with pytest.raises(StorageBroken, match="another user"):
        CompileCache(directory, LIMIT_BYTES)


@pytest.mark.parametrize("key", [b"", b"short", b"x" * 33])
def test_a_wrong_key_file_is_refused(tmp_path, key):
    """A key that is not 32 bytes is not silently replaced: somebody else made it."""
    directory = tmp_path / "cache"
    CompileCache(directory, LIMIT_BYTES)
    (directory / "key").write_bytes(key)
    with pytest.raises(StorageBroken, match="not a key of ours"):
        CompileCache(directory, LIMIT_BYTES)


def test_a_readable_key_is_refused(tmp_path):
    """A key that others could read could have signed anything."""
    directory = tmp_path / "cache"
    CompileCache(directory, LIMIT_BYTES)
    (directory / "key").chmod(0o644)
    with pytest.raises(StorageBroken, match="not a key of ours"):
        CompileCache(directory, LIMIT_BYTES)


def test_the_longest_unused_entries_make_room(tmp_path):
    """Over the limit, the entry that nobody opened for longest goes first."""
    cache = CompileCache(tmp_path / "cache", 250)
    for age, name in enumerate(("c", "a", "b")):
        cache.store(name, b"x" * 100)
        os.utime(tmp_path / "cache" / f"{name}.cwasm", (age, age)) if name != "b" else None
    assert content(cache, "c") is None
    assert content(cache, "a") is not None
    assert content(cache, "b") is not None


def test_two_who_compile_the_same_do_it_one_after_the_other(tmp_path):
    """The second waits for the first, and then finds what it stored."""
    cache = CompileCache(tmp_path / "cache", LIMIT_BYTES)
    found: list[bytes | None] = []
    entered = threading.Event()

    def second() -> None:
        entered.set()
        with cache.compiling("a"):
            found.append(content(cache, "a"))

    with cache.compiling("a"):
        thread = threading.Thread(target=second)
        thread.start()
        entered.wait()
        cache.store("a", b"compiled once")
    thread.join()
    assert found == [b"compiled once"]
