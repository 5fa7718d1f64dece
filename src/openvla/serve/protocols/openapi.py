"""The HTTP part of the server as an OpenAPI 3.1 document."""

from __future__ import annotations

from typing import Any

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string", "description": "What is wrong, the rule, and the way out."},
        "reason": {"type": "string"},
        "retry_after_s": {"type": "number"},
    },
}
ARRAY = {
    "type": "object",
    "required": ["__numpy__", "dtype", "shape"],
    "description": "An array as json_numpy writes it.",
    "properties": {
        "__numpy__": {"type": "string", "description": "The elements in C order, in base64."},
        "dtype": {"type": "string", "examples": ["|u1", "<f8"]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
    },
}
IMAGE = {
    "description": "uint8 (height, width, 3), RGB; or a JPEG or PNG file in base64.",
    "oneOf": [{"$ref": "#/components/schemas/Array"}, {"type": "string"}],
}
REQUEST = {
    "type": "object",
    "required": ["image", "instruction"],
    "properties": {
        "image": IMAGE,
        "instruction": {"type": "string"},
        "unnorm_key": {"type": "string", "description": "Which statistics scale the action; see /metadata."},
        "extra_images": {"type": "object", "additionalProperties": IMAGE},
        "proprio": {"description": "The robot's own state: an array, or a list of numbers."},
        "robot": {"type": "string", "maxLength": 64, "description": "Who asks: its turn and its safety history."},
        "captured_at": {"type": "number", "description": "When the image was taken, seconds since 1970."},
        "deadline_ms": {"type": "number", "exclusiveMinimum": 0, "description": "Longest wait that is of use."},
        "newest": {"type": "boolean", "description": "Refuse what this robot still has waiting."},
    },
}
ENCODED = {
    "type": "object",
    "required": ["encoded"],
    "additionalProperties": False,
    "properties": {"encoded": {"type": "string", "description": "The request as JSON within a string."}},
}
DETAILS = {
    "type": "object",
    "properties": {
        "values": {"type": "array", "description": "(chunk, dim), robot units."},
        "tokens": {"type": ["array", "null"]},
        "confidence": {"type": ["array", "null"], "description": "(chunk, dim), probability of each bin."},
        "timing_ms": {"type": "object", "additionalProperties": {"type": "number"}},
        "flags": {
            "type": "object",
            "properties": {
                "clipped": {"type": "array", "items": {"type": "string"}},
                "slowed": {"type": "array", "items": {"type": "string"}},
                "held": {"type": ["string", "null"]},
            },
        },
        "request_id": {"type": "string"},
    },
}
REFUSED = {
    "400": "The request breaks a rule.",
    "401": "A valid key is needed.",
    "403": "A page of another site asked.",
    "408": "The body did not arrive in time.",
    "409": "A newer observation of the same robot came in.",
    "413": "Too large.",
    "415": "Not JSON, or compressed.",
    "422": "The observation is too old.",
    "429": "More requests than the rate limit allows.",
    "500": "The policy failed.",
    "503": "Overloaded, warming up or shutting down; see Retry-After.",
}


ANSWER = {
    "description": "float64 (dim,) or (chunk, dim), robot units; as JSON within a string where the request was.",
    "headers": {
        "Openvla-Flags": {"schema": {"type": "string"}, "description": "What was clipped, slowed or held."},
        "Server-Timing": {"schema": {"type": "string"}},
        "X-Request-Id": {"schema": {"type": "string"}},
    },
    "content": {
        "application/json": {"schema": {"oneOf": [{"$ref": "#/components/schemas/Array"}, {"type": "string"}]}},
        "application/vnd.openvla+json": {"schema": {"$ref": "#/components/schemas/Details"}},
    },
}
OPEN_TO_ALL = ("/healthz", "/openapi.json", "/")
"""What needs no key."""


def document(version: str, guarded: bool) -> dict[str, Any]:
    """The document; `guarded`: whether a key is needed."""
    schemas = {"Request": REQUEST, "Encoded": ENCODED, "Array": ARRAY, "Details": DETAILS, "Error": ERROR}
    components: dict[str, Any] = {"schemas": schemas}
    paths = _paths()
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "openvla policy server", "version": version},
        "paths": paths,
        "components": components,
    }
    if guarded:
        components["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer", "description": "Or 'Authorization: Api-Key KEY'."}
        }
        found["security"] = [{"key": []}]
        for path in OPEN_TO_ALL:
            paths[path]["get"]["security"] = []
    return found


def _paths() -> dict[str, Any]:
    body = {"oneOf": [{"$ref": "#/components/schemas/Request"}, {"$ref": "#/components/schemas/Encoded"}]}
    return {
        "/act": {
            "post": {
                "summary": "One action for one observation.",
                "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
                "responses": {"200": ANSWER, **{status: _error(text) for status, text in REFUSED.items()}},
            }
        },
        "/metadata": {"get": _plain("What the actions mean, and what this server does.", "application/json")},
        "/healthz": {"get": _plain("Whether actions are given.", "application/json", {"503": _error("Not ready.")})},
        "/metrics": {"get": _plain("Counters for Prometheus.", "text/plain")},
        "/openapi.json": {"get": _plain("This document.", "application/json")},
        "/": {"get": _plain("The page; as a WebSocket, as /ws.", "text/html")},
        "/ws": {"get": {"summary": "WebSocket: openpi's protocol, and vla-eval's.", "responses": {"101": _text()}}},
        "/vla-eval": {"get": {"summary": "WebSocket: vla-eval's protocol alone.", "responses": {"101": _text()}}},
    }


def _plain(summary: str, media_type: str, more: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {**_text(), "content": {media_type: {}}}, **(more or {})}}


def _error(text: str) -> dict[str, Any]:
    return {
        "description": text,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }


def _text() -> dict[str, Any]:
    return {"description": "As asked."}
