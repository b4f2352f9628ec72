"""The demo: two pipelines on two engines, reporting to a broker that a subscriber listens to."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any

from edge import config as configuration
from edge.agent import Agent
from edge.config import Config
from edge.errors import ConfigError, SinkError
from edge.mqtt import BrokerConfig, Connection
from edge.pipeline import Pipeline
from edge.types import Array, Detections, Reading
from edge.wire import Event, decode_event

PREFIX = "edge/demo"
_SETTLE_S = 3.0

log = logging.getLogger(__name__)


class Broker:
    """amqtt on a free loopback port, in a thread with an event loop of its own. For demos only."""

    def __init__(self) -> None:
        try:
            from amqtt.broker import Broker as AmqttBroker
        except ImportError as error:
            raise ConfigError("the demo needs amqtt; pip install 'edgewright[demo]'") from error
        self._class = AmqttBroker
        self._loop = asyncio.new_event_loop()
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="broker", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen. SinkError when that fails."""
        self._thread.start()
        if not self._ready.wait(10.0) or self._failure is not None:
            raise SinkError(f"the demo's broker did not start: {self._failure or 'no answer'}")

    def close(self) -> None:
        """Stop listening."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop)
            self._thread.join(3.0)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            broker = self._class(
                {
                    "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{self.port}"}},
                    "plugins": {
                        "amqtt.plugins.authentication.AnonymousAuthPlugin": {
                            "allow_anonymous": True
                        }
                    },
                },
                loop=self._loop,
            )
            self._broker = broker
            self._loop.run_until_complete(broker.start())
        except Exception as error:  # whatever the library raises, the demo cannot go on
            self._failure = error
            self._ready.set()
            return
        self._ready.set()
        self._loop.run_forever()

    async def _stop(self) -> None:
        try:
            await asyncio.wait_for(self._broker.shutdown(), 2.0)
        finally:
            self._loop.stop()


class Subscriber:
    """A connection of its own that counts the events that arrive."""

    def __init__(self, config: BrokerConfig, device: str) -> None:
        self.received = 0
        self.duplicates = 0
        self.latest: dict[str, Event] = {}
        self._seen: set[tuple[str, str, int]] = set()
        self._topic = f"{config.prefix}/{device}/event/#"
        self._connection = Connection(config)

    def start(self) -> None:
        """Connect and subscribe. SinkError when that fails."""
        try:
            self._connection.open(
                f"edgewright-subscriber-{secrets.token_hex(4)}",
                on_lost=lambda reason: log.warning("subscriber: %s", reason),
                on_message=self._on_message,
            )
            self._connection.subscribe(self._topic)
        except SinkError:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()

    def _on_message(self, topic: str, payload: bytes, _: bool) -> None:
        try:
            event = decode_event(payload)
        except (ValueError, RecursionError):
            log.warning("%s: not an event", topic)
            return
        key = (event.device, event.epoch, event.seq)
        if key in self._seen:
            self.duplicates += 1
            return
        self._seen.add(key)
        self.received += 1
        self.latest[event.pipeline] = event


@dataclasses.dataclass(slots=True)
class Demo:
    """A demo that is running; `summary` counts at any time."""

    agent: Agent
    subscriber: Subscriber
    device: str

    def run(self, stop: threading.Event, seconds: float) -> None:
        """Run for so many seconds, or until `stop`, and deliver everything."""
        timer = threading.Timer(seconds, stop.set)
        timer.daemon = True
        timer.start()
        try:
            self.agent.run(stop)
        finally:
            timer.cancel()
        deadline = time.monotonic() + _SETTLE_S
        while self.subscriber.received < self.agent.outbox.last_seq:
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)

    def last_event(self, pipeline: str) -> str:
        """The last event of a pipeline that the subscriber received, in a few words."""
        event = self.subscriber.latest.get(pipeline)
        return describe(event) if event else "-"

    def summary(self) -> dict[str, Any]:
        """The figures of the demo; sent are the events committed to the outbox."""
        sent = self.agent.outbox.last_seq
        return {
            "events_sent": sent,
            "events_received": self.subscriber.received,
            "events_missing": sent - self.subscriber.received,
            "events_duplicated": self.subscriber.duplicates,
            "pipelines": [_figures(pipeline) for pipeline in self.agent.pipelines],
        }


def start(state_dir: Path, *, sink: dict[str, Any]) -> Demo:
    """A demo whose subscriber listens at the broker of `sink`; it runs with `run`.

    SinkError when the broker cannot be reached or refuses.
    """
    config = configure(state_dir, sink=sink)
    subscriber = Subscriber(config.sinks[0].options, config.device.id)
    subscriber.start()
    try:
        return Demo(Agent(config), subscriber, config.device.id)
    except BaseException:
        subscriber.close()
        raise


def configure(state_dir: Path, *, sink: dict[str, Any]) -> Config:
    """The configuration of the demo, in the words of edge.toml."""
    document = {
        "device": {"id": f"demo-{secrets.token_hex(3)}", "state_dir": str(state_dir)},
        "pipeline": [
            {
                "name": "meter",
                "bundle": "builtin:meter_reader",
                "variant": "onnx-int8",
                "roi": [90, 100, 460, 160],
                "source": {"type": "demo-meter"},
                "rule": [
                    {"type": "reading", "digits": 6},
                    {"type": "debounce", "frames": 2},
                    {"type": "on_change", "repeat_s": 5.0},
                ],
            },
            {
                "name": "wrist",
                "bundle": "builtin:wrist_activity",
                "variant": "tflite-int8",
                "source": {"type": "demo-wrist"},
            },
        ],
        "sink": [{"type": "mqtt", "version": "3.1.1", "prefix": PREFIX, **sink}],
    }
    return configuration.parse(document, file=Path("demo"), environ=os.environ)


def annotate(pipeline: Pipeline) -> Array | None:
    """The last picture of a pipeline with its boxes: uint8 [H, W, 3] BGR; None without one."""
    import cv2

    step = pipeline.last
    if step is None or not isinstance(step.prediction, Detections):
        return None
    picture = step.frame.data.copy()
    found = step.prediction
    for box, label, score in zip(found.boxes, found.names, found.scores, strict=True):
        x1, y1, x2, y2 = (round(float(value)) for value in box)
        cv2.rectangle(picture, (x1, y1), (x2, y2), (60, 200, 60), 2)
        text = f"{label} {score:.2f}"
        cv2.putText(
            picture,
            text,
            (x1, y1 - 8),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.42,
            (60, 220, 60),
            1,
            cv2.LINE_AA,
        )
    if isinstance(step.outcome, Reading):
        cv2.putText(
            picture, step.outcome.value, (20, 40), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (40, 110, 40), 2
        )
    return picture


def save_picture(demo: Demo, path: Path) -> str:
    """Write the annotated last frame of the first pipeline that has one; its absolute path."""
    import cv2

    for pipeline in demo.agent.pipelines:
        picture = annotate(pipeline)
        if picture is not None:
            try:
                if cv2.imwrite(str(path), picture):
                    return str(path.absolute())
            except cv2.error as error:
                raise ConfigError(f"{path}: cannot be written: {error}") from error
            raise ConfigError(f"{path}: cannot be written")
    return ""


def describe(event: Event) -> str:
    """An event in a few words."""
    data = json.loads(bytes(event.data))
    if event.kind == "reading":
        doubt = "" if data["plausible"] else f" ({data['reason']})"
        return f"{data['value']}{doubt}"
    if event.kind == "classification":
        return f"{data['label']} {data['score']:.2f}"
    return ", ".join(data["labels"])


def _figures(pipeline: Pipeline) -> dict[str, Any]:
    telemetry = pipeline.telemetry
    return {
        "name": pipeline.name,
        "model": pipeline.model.manifest.name,
        "engine": pipeline.model.engine,
        "variant": pipeline.model.variant.name,
        "frames": telemetry.frames,
        "drops": telemetry.drops,
        "fps": telemetry.fps,
    }
