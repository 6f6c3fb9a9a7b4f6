"""References to model versions as tasks and messages carry them: `fl/models/{name}_v{N}`. Fetches nothing."""

import re
from dataclasses import dataclass
from typing import Final

from propeller import limits
from propeller.core.ids import check_id
from propeller.errors import BadInput
from propeller.fl.versions import GLOBAL_MODEL

PREFIX: Final = "fl/models/"
OCI: Final = "oci://"

_NAMED = re.compile(r"(?P<name>.+)_v(?P<version>\d{1,16})", re.ASCII)
_BARE = re.compile(r"v?(?P<version>\d{1,16})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """One version of one named model."""

    name: str = GLOBAL_MODEL
    version: int

    @property
    def uri(self) -> str:
        """The spelling that tasks and messages carry."""
        return f"{PREFIX}{self.name}_v{self.version}"


def is_artifact(text: str) -> bool:
    """Whether `text` names an artefact of an OCI registry, which becomes a version once it is pulled."""
    return text.startswith(OCI)


def parse_model_ref(text: str, what: str = "model_ref") -> ModelRef:
    """The version that `text` names: only what follows its last `/` counts, so that URLs work too.

    `…/{name}_v{N}` is version N of that model; `…/{N}`, `…/v{N}` and empty text (N = 0) mean
    `global_model`; `…/{name}/versions/{N}`, the registry's path, means the named one.
    Raises `BadInput` `bad_model_ref`.
    """
    if not text:
        return ModelRef(version=0)
    if text.startswith("oci:"):
        raise BadInput(
            f"{what} {text[:100]!r} is an OCI reference, which an experiment may begin from; here, name the "
            "version that `propeller models pull` makes of it",
            code="bad_model_ref",
        )
    *before, last = text.split("/")
    if found := _NAMED.fullmatch(last):
        return _made(found["name"], found["version"], text, what)
    if found := _BARE.fullmatch(last):
        name = before[-2] if before[-1:] == ["versions"] and len(before) > 1 else GLOBAL_MODEL
        return _made(name, found["version"], text, what)
    raise _refused(text, what)


def _made(name: str, version: str, text: str, what: str) -> ModelRef:
    if int(version) > limits.MODEL_VERSION_MAX:
        raise _refused(text, what)
    return ModelRef(name=check_id(name, f"the model of {what}"), version=int(version))


def _refused(text: str, what: str) -> BadInput:
    return BadInput(
        f"{what} {text[:100]!r} names no model version; write {PREFIX}{GLOBAL_MODEL}_v0, say",
        code="bad_model_ref",
    )
