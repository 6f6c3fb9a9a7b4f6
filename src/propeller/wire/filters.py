"""MQTT topic filters: which topics one matches, and when one covers another. Knows no rights.

Follows MQTT 3.1.1 section 4.7: `+` stands for one level, `#` for the parent and everything below it, and a
filter that begins with a wildcard matches no topic that begins with `$`.
"""

TOPIC_BYTES_MAX = 65_535
"""What the protocol's two-byte length can carry."""


def is_topic(topic: str) -> bool:
    """Whether `topic` may be published on: not empty, no wildcard, no NUL, encodable, not too long."""
    return _carries(topic) and "+" not in topic and "#" not in topic


def is_filter(text: str) -> bool:
    """Whether `text` may be subscribed to: wildcards fill a whole level, and `#` is the last."""
    if not _carries(text):
        return False
    *upper, last = text.split("/")
    return all("#" not in level and level in {"+", level.replace("+", "")} for level in upper) and (
        last in {"#", "+"} or ("#" not in last and "+" not in last)
    )


def matches(text: str, topic: str) -> bool:
    """Whether the lawful filter `text` matches the lawful topic `topic`."""
    if topic[0] == "$" and text[0] in "+#":
        return False
    wanted, levels = text.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return index <= len(levels)
        if index == len(levels) or (level not in ("+", levels[index])):
            return False
    return len(wanted) == len(levels)


def covers(pattern: str, text: str) -> bool:
    """Whether every topic that the filter `text` matches is matched by the filter `pattern`, exactly then."""
    wide, narrow = _levels(pattern), _levels(text)
    if wide[0] == "+" and narrow[0].startswith("$"):
        return False
    for index, level in enumerate(wide):
        if level == "#":
            return True
        if index == len(narrow) or narrow[index] == "#":
            return False
        if level not in ("+", narrow[index]):
            return False
    return len(wide) == len(narrow)


def _levels(text: str) -> list[str]:
    """The levels, with a lone `#` written `+/#`: the same topics, for every topic has a first level."""
    return ["+", "#"] if text == "#" else text.split("/")


def _carries(text: str) -> bool:
    if not text or "\0" in text:
        return False
    try:
        return len(text.encode()) <= TOPIC_BYTES_MAX
    except UnicodeEncodeError:
        return False
