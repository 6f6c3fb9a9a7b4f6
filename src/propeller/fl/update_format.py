"""The update formats by name, for those who only choose one; `fl.formats` says what they are."""

import math
from dataclasses import dataclass
from typing import Final

from propeller.errors import BadInput

JSON: Final = "json-f64"
WHOLE: Final = "safetensors"
TOP_K: Final = "topk-delta"
DELTAS: Final = ("f32-delta", "f16-delta", "int8-delta", TOP_K)
FORMATS: Final = (JSON, WHOLE, *DELTAS)
TOP_K_SHARE: Final = 0.05


@dataclass(frozen=True, slots=True)
class Format:
    """An update format. `share` is the part of the elements that `topk-delta` keeps."""

    name: str
    share: float = TOP_K_SHARE

    @property
    def delta(self) -> bool:
        """Whether it says differences from the base, in a packed file."""
        return self.name in DELTAS


def parse_format(text: str) -> Format:
    """The format named `text`, empty for `json-f64`; `topk-delta:0.01` keeps one element in a hundred.

    Raises `BadInput` `bad_update_format`.
    """
    name, _, share = (text or JSON).partition(":")
    if name not in FORMATS or (share and name != TOP_K):
        raise BadInput(
            f"update_format {text[:60]!r} is none of {', '.join(FORMATS)}", code="bad_update_format"
        )
    try:
        kept = float(share) if share else TOP_K_SHARE
    except ValueError:
        kept = math.nan
    if not 0 < kept <= 1:
        raise BadInput(
            f"update_format {text[:60]!r}: the share of {TOP_K} is a number over 0, at most 1",
            code="bad_update_format",
        )
    return Format(name, kept)
