"""edge.toml -> frozen structs. All mistakes are collected and reported together, with file and key.

Decoded in two steps: the tables here, and for sources, sinks and rules the adapter's own `Config`,
found by `type`. `${NAME}` in a string is replaced from the environment.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from edge import seams
from edge.bundle import BUILTIN
from edge.errors import ConfigError
from edge.wire import MAX_BATCH_EVENTS

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME = r"[A-Za-z0-9_.-]{1,64}"
_STANDARD_STREAM = "-"

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0)]
_Count = Annotated[int, msgspec.Meta(ge=1)]
_Index = Annotated[int, msgspec.Meta(ge=0)]


class Secret:
    """A text that does not show itself in logs, repr or errors; `reveal` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the one place that needs it."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret(***)"


class DeviceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """[device]: `id` names the device on the wire (else $EDGE_DEVICE_ID, else the host name).

    `state_dir` holds the outbox and the status socket, relative to the file. `telemetry_s` is how
    often telemetry is sent, `drain_s` how long a stop waits for the sinks; a running pipeline
    without a frame for `stall_s` is reported as unhealthy.
    """

    id: str = ""
    state_dir: str = "edge-state"
    telemetry_s: _Positive = 30.0
    drain_s: _NotNegative = 10.0
    stall_s: _Positive = 30.0


class OutboxConfig(msgspec.Struct, frozen=True, kw_only=True):
    """[outbox]: `commit_ms` is how long events wait to be committed together, and
    `max_pending_events` how many may wait.

    It holds `max_mb` megabytes of events, none older than `max_age_h` hours of the agent's running
    time (0: any age). What has to go to keep these bounds is declared lost by a gap event, lowest
    priority and oldest first. Backlog is sent at `backlog_per_s` events a second, in batches of
    `batch_events`, of which `max_unconfirmed` events may wait for their confirmation; when nothing
    was confirmed for `resend_s`, everything is sent again.
    """

    commit_ms: _NotNegative = 20.0
    max_pending_events: _Count = 1000
    max_mb: _Positive = 256.0
    max_age_h: _NotNegative = 0.0
    backlog_per_s: _Positive = 2000.0
    batch_events: Annotated[int, msgspec.Meta(ge=1, le=MAX_BATCH_EVENTS)] = 64
    max_unconfirmed: _Count = 2000
    resend_s: _Positive = 15.0


class AdapterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter by its table name, with its own decoded options."""

    type: str
    options: Any


class SinkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """[[sink]]: every sink gets every event, and has its own cursor in the outbox."""

    name: str
    type: str
    options: Any


class PipelineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """[[pipeline]]: a source, a bundle, and rules.

    `variant` is a name from the bundle or "auto". `roi` is x, y, width, height in source pixels,
    cut out before `rotate` turns the picture clockwise by so many degrees. Events of a higher
    `priority` outlive others in a full outbox. When events cannot be written, `when_full` says
    whether the pipeline waits or drops them and declares the loss; "auto" drops for live sources.
    """

    name: str
    bundle: str
    source: AdapterConfig
    rules: tuple[AdapterConfig, ...] | None = None
    variant: str = "auto"
    accelerator: str = "cpu"
    threads: _Index = 0
    max_fps: _NotNegative = 0.0
    min_score: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    roi: tuple[_Index, _Index, _Count, _Count] | None = None
    rotate: Literal[0, 90, 180, 270] = 0
    priority: Literal["low", "normal", "high"] = "normal"
    when_full: Literal["auto", "block", "drop"] = "auto"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A whole edge.toml. Paths in it are absolute."""

    device: DeviceConfig
    outbox: OutboxConfig
    pipelines: tuple[PipelineConfig, ...]
    sinks: tuple[SinkConfig, ...]
    path: Path


def load(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Config:
    """Read and check an edge.toml. ConfigError with every mistake in it."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; `edge init` writes one to start from") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from error
    return parse(document, file=file, environ=environ)


def parse(document: dict[str, Any], *, file: Path, environ: Mapping[str, str]) -> Config:
    """Check a decoded edge.toml; `file` is named in errors and anchors relative paths."""
    reader = _Reader(file, environ)
    config = reader.config(document)
    if reader.problems or config is None:
        raise ConfigError(reader.problems)
    return config


def json_schema() -> dict[str, Any]:
    """JSON Schema of edge.toml, made from the same structs that read it."""

    def adapters(seam: str, *, extra: Mapping[str, Any]) -> dict[str, Any]:
        choices = []
        for name in seams.names(seam):
            schema = msgspec.json.schema(
                seams.find(seam, name).Config, schema_hook=lambda _: {"type": "string"}
            )
            body = schema.get("$defs", {}).get(schema.get("$ref", "").rpartition("/")[2], schema)
            choices.append(
                {
                    "type": "object",
                    "title": name,
                    "description": body.get("description", ""),
                    "properties": {"type": {"const": name}, **extra, **body.get("properties", {})},
                    "required": ["type", *body.get("required", [])],
                    "additionalProperties": False,
                }
            )
        return {"oneOf": choices}

    def table(struct: type[msgspec.Struct], **replaced: Any) -> dict[str, Any]:
        schema = msgspec.json.schema(struct, schema_hook=lambda _: {})
        body = schema["$defs"][struct.__name__]
        for key in ("source", "rules", "options"):
            body["properties"].pop(key, None)
        body["properties"].update(replaced)
        body["required"] = [*(k for k in body.get("required", []) if k in body["properties"])]
        return {**body, "additionalProperties": False}

    name = {"type": "string", "pattern": f"^{_NAME}$"}
    pipeline = table(
        PipelineConfig,
        name=name,
        source=adapters("sources", extra={}),
        rule={"type": "array", "items": adapters("rules", extra={})},
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "edge.toml",
        "type": "object",
        "properties": {
            "device": table(DeviceConfig),
            "outbox": table(OutboxConfig),
            "pipeline": {"type": "array", "minItems": 1, "items": pipeline},
            "sink": {
                "type": "array",
                "minItems": 1,
                "items": adapters("sinks", extra={"name": name}),
            },
        },
        "required": ["pipeline", "sink"],
        "additionalProperties": False,
    }


def decode_adapter(seam: str, table: Mapping[str, Any], *, where: str) -> AdapterConfig:
    """An adapter's table that does not stand in a file of ours; `where` is named in errors."""
    reader = _Reader(Path(where), {})
    decoded = reader.adapter(seam, table, seam)
    if decoded is None:
        raise ConfigError(reader.problems)
    return decoded


def decode_pipeline(table: Mapping[str, Any]) -> PipelineConfig:
    """One [[pipeline]] table given by code; relative paths start at the working directory."""
    reader = _Reader(Path("pipeline"), {})
    decoded = reader.pipeline(table, "")
    if decoded is None or reader.problems:
        raise ConfigError(reader.problems)
    return decoded


class _Reader:
    """One pass over a document, collecting what is wrong with it."""

    def __init__(self, file: Path, environ: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._file = file
        self._environ = environ

    def config(self, document: dict[str, Any]) -> Config | None:
        document = self._expand(document, "")
        self._refuse_unknown(document, ["device", "outbox", "pipeline", "sink"], "")
        device = self._struct(DeviceConfig, self._table(document, "device"), "device")
        if device is not None:
            name = device.id or self._environ.get("EDGE_DEVICE_ID") or socket.gethostname()
            device = msgspec.structs.replace(
                device, id=name, state_dir=self._absolute(device.state_dir)
            )
            self._check_name(name, "device.id")
        outbox = self._struct(OutboxConfig, self._table(document, "outbox"), "outbox")
        sinks = [self._sink(*item) for item in self._array(document, "sink")]
        pipelines = [self.pipeline(*item) for item in self._array(document, "pipeline")]
        self._refuse_twins("sink", [sink.name for sink in sinks if sink])
        self._refuse_twins("pipeline", [pipeline.name for pipeline in pipelines if pipeline])
        if self.problems or device is None:
            return None
        return Config(
            device=device,
            outbox=outbox,
            pipelines=tuple(pipeline for pipeline in pipelines if pipeline),
            sinks=tuple(sink for sink in sinks if sink),
            path=self._file.absolute(),
        )

    def adapter(self, seam: str, table: Mapping[str, Any], key: str) -> AdapterConfig | None:
        """Decode {type=…, …} by the Config of the adapter that `type` names."""
        table = dict(table)
        name = table.pop("type", None)
        if not isinstance(name, str):
            self._problem(_at(key, "type"), f"missing; one of {', '.join(seams.names(seam))}")
            return None
        try:
            struct = seams.find(seam, name).Config
        except ConfigError as error:
            self._problem(_at(key, "type"), str(error))
            return None
        options = self._struct(struct, table, key)
        return None if options is None else AdapterConfig(type=name, options=options)

    def _sink(self, table: dict[str, Any], key: str) -> SinkConfig | None:
        table = dict(table)
        name = table.pop("name", table.get("type"))
        self._check_name(name, _at(key, "name"))
        adapter = self.adapter("sinks", table, key)
        if adapter is None or not isinstance(name, str):
            return None
        return SinkConfig(name=name, type=adapter.type, options=adapter.options)

    def pipeline(self, table: Mapping[str, Any], key: str) -> PipelineConfig | None:
        table = dict(table)
        self._check_name(table.get("name"), _at(key, "name"))
        source = self.adapter("sources", self._table(table, "source", key), _at(key, "source"))
        rules = None
        if "rule" in table:
            items = self._array(table, "rule", key)
            rules = [self.adapter("rules", rule, where) for rule, where in items]
        table.pop("source", None)
        table.pop("rule", None)
        placeholder = AdapterConfig(type="", options=None)
        plain = self._struct(
            PipelineConfig, table, key, given={"source": source or placeholder, "rules": None}
        )
        if plain is None or source is None:
            return None
        pipeline: PipelineConfig = msgspec.structs.replace(
            plain,
            bundle=self._bundle(plain.bundle),
            rules=None if rules is None else tuple(rule for rule in rules if rule),
        )
        return pipeline

    def _struct(
        self,
        struct: type[Any],
        table: Mapping[str, Any],
        key: str,
        given: Mapping[str, Any] | None = None,
    ) -> Any:
        """A struct from a table, field by field, so that each mistake is found."""
        given = given or {}
        before = len(self.problems)
        fields = [field for field in msgspec.structs.fields(struct) if field.name not in given]
        self._refuse_unknown(table, [field.encode_name for field in fields], key)
        values: dict[str, Any] = dict(given)
        for field in fields:
            where = _at(key, field.encode_name)
            if field.encode_name in table:
                value = table[field.encode_name]
                try:
                    values[field.name] = msgspec.convert(value, field.type, dec_hook=_decode_hook)
                except msgspec.ValidationError as error:
                    self._problem(where, str(error))
                    continue
                if isinstance(value, str) and _is_path(field) and value != _STANDARD_STREAM:
                    values[field.name] = Path(self._absolute(value))
            elif field.required:
                self._problem(where, "missing")
        if len(self.problems) > before:
            return None
        try:
            return struct(**values)
        except ValueError as error:
            self._problem(key, str(error))
            return None

    def _table(self, table: Mapping[str, Any], name: str, key: str = "") -> dict[str, Any]:
        found = table.get(name, {})
        if isinstance(found, dict):
            return found
        self._problem(_at(key, name), "must be a table")
        return {}

    def _array(
        self, table: Mapping[str, Any], name: str, key: str = ""
    ) -> list[tuple[dict[str, Any], str]]:
        where = _at(key, name)
        found = table.get(name, [])
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            self._problem(where, f"must be an array of tables, written [[{where}]]")
            return []
        if not found and not key:
            self._problem(where, f"at least one [[{where}]] is needed")
        return [(item, f"{where}[{index}]") for index, item in enumerate(found)]

    def _expand(self, value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {name: self._expand(item, _at(key, name)) for name, item in value.items()}
        if isinstance(value, list):
            return [self._expand(item, f"{key}[{index}]") for index, item in enumerate(value)]
        if isinstance(value, str):
            for name in _VARIABLE.findall(value):
                if name not in self._environ:
                    self._problem(key, f"environment variable {name} is not set")
            return _VARIABLE.sub(lambda match: self._environ.get(match[1], ""), value)
        return value

    def _refuse_unknown(self, table: Mapping[str, Any], known: Sequence[str], key: str) -> None:
        for name in table:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
                self._problem(_at(key, name), f"unknown key; {hint}")

    def _refuse_twins(self, kind: str, found: list[str]) -> None:
        for name in {name for name in found if found.count(name) > 1}:
            self._problem(kind, f"two are called {name!r}; names must differ")

    def _check_name(self, name: Any, key: str) -> None:
        if not isinstance(name, str) or not re.fullmatch(_NAME, name):
            self._problem(key, "must be 1 to 64 letters, digits, '_', '.' or '-'")

    def _bundle(self, path: str) -> str:
        return path if path.startswith(BUILTIN) else self._absolute(path)

    def _absolute(self, path: str) -> str:
        return str(self._file.absolute().parent / Path(path).expanduser())

    def _problem(self, key: str, text: str) -> None:
        self.problems.append(f"{self._file}: {key}: {text}" if key else f"{self._file}: {text}")


def _at(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _is_path(field: msgspec.structs.FieldInfo) -> bool:
    """Fields of type Path in an adapter's Config are relative to the file, like our own."""
    return field.type is Path or (
        get_origin(field.type) is not None and Path in get_args(field.type)
    )


def _decode_hook(kind: type[Any], value: Any) -> Any:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise msgspec.ValidationError(f"Expected `str`, got `{type(value).__name__}`")
