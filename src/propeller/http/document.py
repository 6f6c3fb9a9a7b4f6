"""The OpenAPI document: what the framework finds in signatures, and what routes say that it cannot see there.

Routes read their bodies themselves (a large one must not be decoded on the loop) and hand other roles'
answers on as bytes. Such a route says with `said` what it takes and answers.
"""

from typing import Any, Final

import msgspec
from litestar.openapi.plugins import JsonRenderPlugin

from propeller.http import reuse
from propeller.http.answers import AnyRequest

_SAID: Final = "propeller_document"
_REF: Final = "#/components/schemas/{name}"
JSON: Final = "application/json"
BYTES: Final = {"type": "string", "format": "binary"}
"""The schema of a body that is no JSON."""
Kind = type | dict[str, Any]
"""A struct, or a schema written out."""


def said(
    *,
    takes: Kind | None = None,
    types: tuple[str, ...] = (JSON,),
    optional: bool = False,
    answers: Kind | None = None,
    as_type: str = JSON,
) -> dict[str, Any]:
    """The `opt` of a route: what its body is, in which media types, and what a good answer is."""
    return {
        _SAID: {"takes": takes, "types": types, "optional": optional, "answers": answers, "as_type": as_type}
    }


class WholeDocument(JsonRenderPlugin):
    """Serves the document with what routes say put in."""

    def render(self, request: AnyRequest, openapi_schema: dict[str, Any]) -> bytes:
        """See the base class."""
        paths = openapi_schema.get("paths") or {}
        kinds: list[type] = []
        for handler in reuse.http_handlers(request.app):
            told: dict[str, Any] = handler.opt.get(_SAID, {})
            for path in handler.paths if told else ():
                for method in handler.http_methods:
                    operation = paths.get(path.replace(":str}", "}"), {}).get(method.lower())
                    if operation is not None:
                        kinds += _describe(operation, told)
        _, components = msgspec.json.schema_components(kinds, ref_template=_REF)
        known = openapi_schema.setdefault("components", {}).setdefault("schemas", {})
        openapi_schema["components"]["schemas"] = {**components, **known}
        return super().render(request, openapi_schema)


def _describe(operation: dict[str, Any], told: dict[str, Any]) -> list[type]:
    """Put into an operation what its route says; the types whose schemas it names."""
    if told["takes"] is not None:
        operation["requestBody"] = {
            "required": not told["optional"],
            "content": {kind: {"schema": _schema(told["takes"])} for kind in told["types"]},
        }
    if told["answers"] is not None:
        good = next(status for status in operation["responses"] if status.startswith("2"))
        operation["responses"][good]["content"] = {told["as_type"]: {"schema": _schema(told["answers"])}}
    return [kind for kind in (told["takes"], told["answers"]) if isinstance(kind, type)]


def _schema(kind: Kind) -> dict[str, Any]:
    return kind if isinstance(kind, dict) else {"$ref": _REF.format(name=kind.__name__)}
