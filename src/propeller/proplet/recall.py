"""Texts that a device fetched of late, with their tags: what has not changed does not travel again.

A server that gives no tag is asked for everything each time. Knows nothing of what the texts say.
"""

from collections import OrderedDict
from dataclasses import dataclass

RECALL_BYTES = 4 * 1024 * 1024
"""Of all texts together, about; one that is larger is fetched anew each time."""


@dataclass(frozen=True, slots=True)
class Text:
    """What an address answered, and the tag by which its server knows that it still would."""

    tag: str
    content: str


class Recall:
    """The latest texts by their address."""

    def __init__(self) -> None:
        self._texts: OrderedDict[str, Text] = OrderedDict()
        self._size = 0

    def get(self, url: str) -> Text | None:
        """What that address answered last, if it is remembered."""
        found = self._texts.get(url)
        if found is not None:
            self._texts.move_to_end(url)
        return found

    def put(self, url: str, tag: str, content: str) -> None:
        """Remember an answer, at the expense of those unused longest."""
        before = self._texts.pop(url, None)
        self._size -= len(before.content) if before is not None else 0
        if not tag or len(content) > RECALL_BYTES:
            return
        self._texts[url] = Text(tag, content)
        self._size += len(content)
        while self._size > RECALL_BYTES:
            self._size -= len(self._texts.popitem(last=False)[1].content)
