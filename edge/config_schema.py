"""JSON Schema of edge.toml, made from the same structs that read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from edge import accelerators, seams
from edge.config import DeviceConfig, EnginesConfig, OutboxConfig, PipelineConfig, StageConfig
from edge.motion import MotionConfig
from edge.toml_reader import NAME_PATTERN


def json_schema() -> dict[str, Any]:
    """A schema for editors, and for whoever writes an edge.toml by program."""

    shared: dict[str, Any] = {}

    def adapters(
        seam: str, *, extra: Mapping[str, Any], having: str = "", without: Sequence[str] = ()
    ) -> dict[str, Any]:
        choices = []
        for name in seams.names(seam):
            if having and having not in seams.find(seam, name).Config.__struct_fields__:
                continue
            schema = msgspec.json.schema(
                seams.find(seam, name).Config, schema_hook=lambda _: {"type": "string"}
            )
            defined = schema.get("$defs", {})
            body = defined.pop(schema.get("$ref", "").rpartition("/")[2], schema)
            shared.update(defined)  # tables inside of the adapter's own
            own = {key: of for key, of in body.get("properties", {}).items() if key not in without}
            choices.append(
                {
                    "type": "object",
                    "title": name,
                    "description": body.get("description", ""),
                    "properties": {"type": {"const": name}, **extra, **own},
                    "required": ["type", *body.get("required", [])],
                    "additionalProperties": False,
                }
            )
        return {"oneOf": choices}

    def table(struct: type[msgspec.Struct], **replaced: Any) -> dict[str, Any]:
        schema = msgspec.json.schema(struct, schema_hook=lambda _: {})
        body = schema["$defs"][struct.__name__]
        for key in ("source", "rules", "stages", "sensors", "options"):
            body["properties"].pop(key, None)
        body["properties"].update(replaced)
        body["required"] = [*(k for k in body.get("required", []) if k in body["properties"])]
        return {**body, "additionalProperties": False}

    name = {"type": "string", "pattern": f"^{NAME_PATTERN}$"}
    pipeline = table(
        PipelineConfig,
        name=name,
        source=adapters("sources", extra={}),
        rule={"type": "array", "items": adapters("rules", extra={})},
        accelerator_options={"anyOf": _accelerator_schemas()},
        stage={"type": "array", "items": table(StageConfig)},
        sensor={
            "type": "array",
            "items": adapters(
                "sources",
                extra={"name": name},
                having="channels",
                without=("length", "hop", "window_s", "hop_s"),
            ),
        },
        motion=table(MotionConfig),
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "edge.toml",
        "type": "object",
        "properties": {
            "device": table(DeviceConfig),
            "outbox": table(OutboxConfig),
            "engines": table(EnginesConfig),
            "pipeline": {"type": "array", "minItems": 1, "items": pipeline},
            "sink": {
                "type": "array",
                "minItems": 1,
                "items": adapters("sinks", extra={"name": name}),
            },
        },
        "required": ["pipeline", "sink"],
        "additionalProperties": False,
        "$defs": shared,
    }


def _accelerator_schemas() -> list[dict[str, Any]]:
    """The options of every accelerator, alike ones once."""
    kinds = dict.fromkeys(row.options for row in accelerators.TABLE.values())
    schemas = []
    for kind in kinds:
        body = msgspec.json.schema(kind)["$defs"][kind.__name__]
        users = [name for name, row in accelerators.TABLE.items() if row.options is kind]
        schemas.append({**body, "title": ", ".join(users), "additionalProperties": False})
    return schemas
