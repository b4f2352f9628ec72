"""edge.toml -> frozen structs. All mistakes are collected and reported together, with file and key.

Decoded in two steps: the tables here, and for sources, sinks and rules the adapter's own `Config`,
found by `type`. `${NAME}` in a string is replaced from the environment.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from edge import accelerators, seams
from edge.accelerators import AUTO, CPU, EngineRequest, Options
from edge.bundle import BUILTIN
from edge.errors import ConfigError
from edge.motion import MotionConfig
from edge.presence import Point
from edge.toml_reader import TomlReader, at, read_toml
from edge.wire import AGE, MAX_BATCH_EVENTS

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0)]
_Count = Annotated[int, msgspec.Meta(ge=1)]
_Index = Annotated[int, msgspec.Meta(ge=0)]


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


class EnginesConfig(msgspec.Struct, frozen=True, kw_only=True):
    """[engines]: anything but a plain CPU is first tried in a process of its own for `trial_s`; a
    run that lasts longer than `hang_s` ends the agent, which starts again without that engine."""

    trial_s: _Positive = 60.0
    hang_s: _Positive = 30.0


class AdapterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter by its table name, with its own decoded options."""

    type: str
    options: Any


class SinkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """[[sink]]: every sink gets every event, and has its own cursor in the outbox."""

    name: str
    type: str
    options: Any


class SensorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """[[pipeline.sensor]]: a live source of samples beside the pipeline's own. Its latest sample
    accompanies every event of the pipeline, under its `name`."""

    name: str
    type: str
    options: Any


class StageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """[[pipeline.stage]]: a second bundle looks at the boxes of the first one.

    Boxes of the named `classes` (empty: all) are cut out, `margin` of their size wider on each
    side, the surest `max_crops` of a frame. The answer becomes the attribute `name` (by default the
    name of the bundle's model) of the detection: a class, or the labels found, from left to right.
    """

    bundle: str
    name: str = ""
    classes: tuple[str, ...] = ()
    margin: _NotNegative = 0.1
    max_crops: _Count = 8
    min_score: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    variant: str = "auto"
    accelerator: str = "cpu"
    threads: _Index = 0


class PipelineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """[[pipeline]]: a source, a bundle, and rules.

    `variant` is a name from the bundle or "auto". `engine`, `accelerator` with its
    `accelerator_options`, and `policy` say where it runs: see edge/engines/README.md. One inference
    may take `max_latency_ms` (0: any time). `roi` is x, y, width, height in source pixels,
    cut out before `rotate` turns the picture clockwise by so many degrees. Events of a higher
    `priority` outlive others in a full outbox. When events cannot be written, `when_full` says
    whether the pipeline waits or drops them and declares the loss; "auto" drops for live sources.
    `zones` are polygons by name, to which rules refer. A recurrent model starts anew where frames
    are missing, and after a pause of more than `gap_s` seconds (0: however long it was).
    """

    name: str
    bundle: str
    source: AdapterConfig
    rules: tuple[AdapterConfig, ...] | None = None
    stages: tuple[StageConfig, ...] = ()
    sensors: tuple[SensorConfig, ...] = ()
    motion: MotionConfig | None = None
    zones: dict[str, tuple[Point, ...]] = {}
    gap_s: _NotNegative = 0.0
    variant: str = "auto"
    engine: str = "auto"
    accelerator: str = "cpu"
    accelerator_options: Any = None
    policy: accelerators.Policy = "prefer"
    max_latency_ms: _NotNegative = 0.0
    threads: _Index = 0
    max_fps: _NotNegative = 0.0
    min_score: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    roi: tuple[_Index, _Index, _Count, _Count] | None = None
    rotate: Literal[0, 90, 180, 270] = 0
    priority: Literal["low", "normal", "high"] = "normal"
    when_full: Literal["auto", "block", "drop"] = "auto"

    @property
    def request(self) -> EngineRequest:
        """Which engine is asked for."""
        return EngineRequest(
            engine=self.engine,
            accelerator=self.accelerator,
            options=self.accelerator_options,
            policy=self.policy,
            threads=self.threads,
            max_latency_ms=self.max_latency_ms,
        )


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A whole edge.toml. Paths in it are absolute."""

    device: DeviceConfig
    outbox: OutboxConfig
    engines: EnginesConfig = EnginesConfig()
    pipelines: tuple[PipelineConfig, ...]
    sinks: tuple[SinkConfig, ...]
    path: Path


def load(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Config:
    """Read and check an edge.toml. ConfigError with every mistake in it."""
    file = Path(path)
    document = read_toml(file, missing="`edge init` writes one to start from")
    return parse(document, file=file, environ=environ)


def parse(document: dict[str, Any], *, file: Path, environ: Mapping[str, str]) -> Config:
    """Check a decoded edge.toml; `file` is named in errors and anchors relative paths."""
    reader = _Reader(file, environ)
    config = reader.config(document)
    if reader.problems or config is None:
        raise ConfigError(reader.problems)
    return config


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


class _Reader(TomlReader):
    def __init__(self, file: Path, environ: Mapping[str, str]) -> None:
        super().__init__(file)
        self._environ = environ

    def config(self, document: dict[str, Any]) -> Config | None:
        document = self._expand(document, "")
        self.refuse_unknown(document, ["device", "outbox", "engines", "pipeline", "sink"], "")
        device = self.struct(DeviceConfig, self.table(document, "device"), "device")
        if device is not None:
            name = device.id or self._environ.get("EDGE_DEVICE_ID") or socket.gethostname()
            device = msgspec.structs.replace(
                device, id=name, state_dir=str(self.absolute(device.state_dir))
            )
            self.check_name(name, "device.id")
        outbox = self.struct(OutboxConfig, self.table(document, "outbox"), "outbox")
        engines = self.struct(EnginesConfig, self.table(document, "engines"), "engines")
        sinks = [self._sink(*item) for item in self.array(document, "sink", least=1)]
        pipelines = [self.pipeline(*item) for item in self.array(document, "pipeline", least=1)]
        self.refuse_twins("sink", [sink.name for sink in sinks if sink])
        self.refuse_twins("pipeline", [pipeline.name for pipeline in pipelines if pipeline])
        if self.problems or device is None:
            return None
        return Config(
            device=device,
            outbox=outbox,
            engines=engines,
            pipelines=tuple(pipeline for pipeline in pipelines if pipeline),
            sinks=tuple(sink for sink in sinks if sink),
            path=self.file.absolute(),
        )

    def adapter(self, seam: str, table: Mapping[str, Any], key: str) -> AdapterConfig | None:
        """Decode {type=…, …} by the Config of the adapter that `type` names."""
        table = dict(table)
        name = table.pop("type", None)
        if not isinstance(name, str):
            self.problem(at(key, "type"), f"missing; one of {', '.join(seams.names(seam))}")
            return None
        try:
            struct = seams.find(seam, name).Config
        except ConfigError as error:
            self.problem(at(key, "type"), str(error))
            return None
        options = self.struct(struct, table, key)
        return None if options is None else AdapterConfig(type=name, options=options)

    def _sink(self, table: dict[str, Any], key: str) -> SinkConfig | None:
        table = dict(table)
        name = table.pop("name", table.get("type"))
        self.check_name(name, at(key, "name"))
        adapter = self.adapter("sinks", table, key)
        if adapter is None or not isinstance(name, str):
            return None
        return SinkConfig(name=name, type=adapter.type, options=adapter.options)

    def pipeline(self, table: Mapping[str, Any], key: str) -> PipelineConfig | None:
        table = dict(table)
        self.check_name(table.get("name"), at(key, "name"))
        source = self.adapter("sources", self.table(table, "source", key), at(key, "source"))
        rules = None
        if "rule" in table:
            items = self.array(table, "rule", key)
            zones = self.table(table, "zones", key)
            rules = [self.adapter("rules", _with_zone(rule, zones), place) for rule, place in items]
        stages = [self._stage(*item) for item in self.array(table, "stage", key)]
        sensors = [self._sensor(*item) for item in self.array(table, "sensor", key)]
        self.refuse_twins(at(key, "sensor"), [sensor.name for sensor in sensors if sensor])
        motion = None
        if "motion" in table:
            where = at(key, "motion")
            motion = self.struct(MotionConfig, self.table(table, "motion", key), where)
        options = self._accelerator_options(table, key)
        for name in ("source", "rule", "stage", "sensor", "motion"):
            table.pop(name, None)
        given = {
            "source": source or AdapterConfig(type="", options=None),
            "rules": None,
            "stages": tuple(stage for stage in stages if stage),
            "sensors": tuple(sensor for sensor in sensors if sensor),
            "motion": motion,
            "accelerator_options": options,
        }
        plain = self.struct(PipelineConfig, table, key, given=given)
        if plain is None or source is None:
            return None
        pipeline: PipelineConfig = msgspec.structs.replace(
            plain,
            bundle=self._bundle(plain.bundle),
            rules=None if rules is None else tuple(rule for rule in rules if rule),
        )
        return pipeline

    def _accelerator_options(self, table: dict[str, Any], key: str) -> Any:
        """Decoded by the options of the accelerator that is named; None where it isn't known."""
        given = self.table(table, "accelerator_options", key)
        table.pop("accelerator_options", None)
        name = table.get("accelerator", CPU)
        engine = table.get("engine", AUTO)
        if engine not in (AUTO, *seams.names("engines")):
            known = ", ".join([AUTO, *seams.names("engines")])
            self.problem(at(key, "engine"), f"no engine is called {engine!r}; there are {known}")
        row = accelerators.TABLE.get(name) if isinstance(name, str) else None
        if row is None and name == AUTO and not given:
            return None
        if row is None and engine not in seams.ENGINES and engine != AUTO:
            # An engine that somebody installed may know accelerators that we don't.
            return self.struct(Options, given, at(key, "accelerator_options"))
        if row is None:
            known = ", ".join(accelerators.names())
            self.problem(
                at(key, "accelerator"),
                f"no accelerator {name!r} with options; name one of {known}"
                if name == AUTO
                else f"no accelerator is called {name!r}; there are {known}",
            )
            return None
        return self.struct(row.options, given, at(key, "accelerator_options"))

    def _sensor(self, table: dict[str, Any], key: str) -> SensorConfig | None:
        table = dict(table)
        name = table.pop("name", table.get("type"))
        self.check_name(name, at(key, "name"))
        adapter = self.adapter("sources", table, key)
        if adapter is None or not isinstance(name, str):
            return None
        channels = getattr(adapter.options, "channels", None)
        if channels is None:
            self.problem(at(key, "type"), f"{adapter.type} gives no samples of a sensor")
        elif not channels or AGE in channels:
            self.problem(at(key, "channels"), f"must name what the sensor gives, and not {AGE}")
        for part in ("length", "hop", "window_s", "hop_s"):
            if part in table:
                self.problem(at(key, part), "it is the latest sample that is taken, not a window")
        return SensorConfig(name=name, type=adapter.type, options=adapter.options)

    def _stage(self, table: Mapping[str, Any], key: str) -> StageConfig | None:
        stage: StageConfig | None = self.struct(StageConfig, table, key)
        if stage is None:
            return None
        if stage.name:
            self.check_name(stage.name, at(key, "name"))
        return msgspec.structs.replace(stage, bundle=self._bundle(stage.bundle))

    def _expand(self, value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {name: self._expand(item, at(key, name)) for name, item in value.items()}
        if isinstance(value, list):
            return [self._expand(item, f"{key}[{index}]") for index, item in enumerate(value)]
        if isinstance(value, str):
            for name in _VARIABLE.findall(value):
                if name not in self._environ:
                    self.problem(key, f"environment variable {name} is not set")
            return _VARIABLE.sub(lambda match: self._environ.get(match[1], ""), value)
        return value

    def _bundle(self, path: str) -> str:
        return path if path.startswith(BUILTIN) else str(self.absolute(path))


def _with_zone(rule: dict[str, Any], zones: Mapping[str, Any]) -> dict[str, Any]:
    """A rule that names one of the pipeline's zones, with that zone's polygon."""
    zone = rule.get("zone")
    if "polygon" in rule or not isinstance(zone, str) or zone not in zones:
        return rule
    return {**rule, "polygon": zones[zone]}
