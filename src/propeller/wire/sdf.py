"""The SDF document of a proplet (Semantic Definition Format, draft-ietf-asdf-sdf): what one is, for machines.

It describes the class; live values are not in it. Names and members are the original's.
"""

from typing import Any

_REF = "#/sdfThing/Proplet/sdfData/"
_TEXT = {"type": "string"}
_METADATA = {
    "description": _TEXT,
    "tags": {"type": "array", "items": _TEXT},
    "location": _TEXT,
    "ip": _TEXT,
    "environment": _TEXT,
    "os": _TEXT,
    "hostname": _TEXT,
    "cpu_arch": _TEXT,
    "total_memory_bytes": {"type": "integer", "minimum": 0},
    "proplet_version": _TEXT,
    "wasm_runtime": _TEXT,
}
_DISPATCH = {
    "id": _TEXT,
    "name": _TEXT,
    "image_url": _TEXT,
    "file": {"type": "string", "description": "base64 of a Wasm module"},
    "inputs": {"type": "array", "items": _TEXT},
    "cli_args": {"type": "array", "items": _TEXT},
    "env": {"type": "object"},
    "daemon": {"type": "boolean"},
    "broadcast": {"type": "boolean"},
    "proplet_id": _TEXT,
}
_HEARTBEAT = {"proplet_id": _TEXT, "status": _TEXT, "namespace": _TEXT}
_RESULT = {
    "task_id": _TEXT,
    "proplet_id": _TEXT,
    "state": {"type": "string", "enum": ["Completed", "Failed", "Skipped", "Interrupted"]},
    "results": {},
    "error": _TEXT,
}


def proplet_document(proplet_id: str, name: str) -> dict[str, Any]:
    """The document of one proplet."""
    return {
        "info": {
            "title": f"Propeller Proplet: {name} ({proplet_id})",
            "version": "1.0",
            "license": "Apache-2.0",
        },
        "sdfThing": {
            "Proplet": {
                "sdfProperty": {
                    "id": {"type": "string", "readOnly": True},
                    "name": _TEXT,
                    "alive": {"type": "boolean", "readOnly": True, "observable": True},
                    "task_count": {"type": "integer", "readOnly": True, "minimum": 0, "observable": True},
                    "metadata": _ref("PropletMetadata"),
                },
                "sdfAction": {
                    "start_task": {"sdfInputData": _ref("TaskDispatch")},
                    "stop_task": {"sdfInputData": _ref("TaskStop")},
                },
                "sdfEvent": {
                    "heartbeat": {"sdfOutputData": _ref("HeartbeatPayload")},
                    "task_result": {"sdfOutputData": _ref("TaskResult")},
                },
                "sdfData": {
                    "PropletMetadata": _object(_METADATA),
                    "TaskDispatch": _object(_DISPATCH, "id", "name"),
                    "TaskStop": _object({"id": _TEXT, "proplet_id": _TEXT}, "id"),
                    "HeartbeatPayload": _object(_HEARTBEAT),
                    "TaskResult": _object(_RESULT),
                },
            }
        },
    }


def _ref(name: str) -> dict[str, Any]:
    return {"sdfRef": _REF + name}


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "object", "properties": properties}
    return made | {"required": list(required)} if required else made
