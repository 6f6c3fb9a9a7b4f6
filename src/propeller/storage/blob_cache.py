"""Blobs that may be forgotten: at most so many bytes, and what was not read for the longest time goes first.

Any number of processes of one user may share the folder; a file that another has just removed is a miss.
"""

import os
from contextlib import suppress
from pathlib import Path

from propeller.storage.blobs import FileBlobs


class FileBlobCache(FileBlobs):
    """`FileBlobs` of at most `limit_bytes`, except that the newest blob always stays."""

    def __init__(self, root: Path, limit_bytes: int) -> None:
        super().__init__(root)
        self._limit_bytes = limit_bytes

    def _get(self, digest: str) -> bytes:
        content = super()._get(digest)
        with suppress(OSError):
            os.utime(self.path(digest))
        return content

    def _put(self, content: bytes) -> str:
        digest = super()._put(content)
        with suppress(OSError):
            os.utime(self.path(digest))
        self._evict(keep=digest)
        return digest

    def _evict(self, *, keep: str) -> None:
        """Newest first until the limit; the rest goes."""
        found: list[tuple[float, int, Path]] = []
        for digest in self._digests():
            with suppress(OSError):
                status = self.path(digest).stat()
                found.append((status.st_mtime, status.st_size, self.path(digest)))
        kept_bytes = 0
        for _, size, path in sorted(found, key=lambda one: (one[2].name == keep, one[0]), reverse=True):
            kept_bytes += size
            if kept_bytes > self._limit_bytes and path.name != keep:
                with suppress(OSError):
                    path.unlink()
