"""What other devices publish over MQTT: one sample a message, as JSON or as a bare number.

A message that the broker kept for later subscribers says nothing of when it was true: it is no
sample, and only counted.
"""

from __future__ import annotations

import queue
import secrets
from typing import Literal

import msgspec

from edge.errors import ConfigError, FrameError, SinkError
from edge.manifest import Preprocess
from edge.mqtt import BrokerAddress, Connection
from edge.sources.records import MAX_LINE_BYTES, Json, Sample, text
from edge.sources.sampling import SampleSource
from edge.sources.stream import Lost
from edge.sources.windows import UNITS, TimedConfig, plan

_MAX_WAITING = 4096


class Mqtt(SampleSource):
    """The messages of one topic filter."""

    class Config(BrokerAddress, frozen=True, kw_only=True):
        """The connection is described as for the sink `mqtt`, the window as for `csv`.

        `topic` may hold the wildcards + and #. `fields` says where in the document a channel
        stands, where it is not called as the channel: a key, or keys and places in lists between
        dots. A payload that is a bare number is a sample of one channel. Silence is no loss, except
        for longer than `stale_s`, where that is given.
        """

        topic: str
        fields: dict[str, str] = msgspec.field(default_factory=dict)
        stale_s: float = 0.0
        channels: tuple[str, ...] = ()
        length: int = 0
        hop: int = 0
        window_s: float = 0.0
        hop_s: float = 0.0
        rate_hz: float = 0.0
        max_gap_s: float = 0.0
        time: str = ""
        time_unit: Literal["s", "ms", "us", "ns"] = "s"

        def __post_init__(self) -> None:
            super().__post_init__()
            if not _is_filter(self.topic):
                raise ValueError("topic must be a topic filter: + for one level, # at the end")
            if self.stale_s < 0:
                raise ValueError("stale_s must not be below 0")
            unknown = self.fields.keys() - {*self.channels}
            if self.channels and unknown:
                raise ValueError(f"fields: there is no channel {', '.join(sorted(unknown))}")
            _ = self.window

        @property
        def window(self) -> TimedConfig:
            """The part that describes the window."""
            names = TimedConfig.__struct_fields__
            return TimedConfig(**{name: getattr(self, name) for name in names})

    def __init__(self, config: Config, *, name: str, preprocess: Preprocess | None = None) -> None:
        windows = plan(config.window, preprocess, name=name)
        where = Connection(config).where  # and whatever is wrong with certificates and password
        shown = f"{where} {config.topic}"
        super().__init__(windows, name=name, shown=shown, stale_s=config.stale_s)
        unknown = config.fields.keys() - {*windows.channels}
        if unknown:
            raise ConfigError(f"source {name}: fields: no channel {', '.join(sorted(unknown))}")
        self._config = config
        self._client_id = config.client_id or f"edgewright-{name}-{secrets.token_hex(4)}"
        self._overflowed = 0
        self._retained = 0

    @property
    def counts(self) -> dict[str, int]:
        """As of every source of samples; and the messages that were kept by the broker."""
        counts = super().counts
        counts["dropped"] += self._overflowed
        return {**counts, "retained": self._retained}

    def count_overflow(self) -> None:
        """A message found no room."""
        self._overflowed += 1

    def count_retained(self) -> None:
        """A message was an old one."""
        self._retained += 1

    def _open(self) -> _Subscription:
        config = self._config
        fields = [config.fields.get(channel, channel) for channel in self.channels]
        parser = Json(fields, time=config.time, unit_s=UNITS[config.time_unit])
        return _Subscription(self, Connection(config), self._client_id, config.topic, parser)


class _Subscription:
    """One connection. paho's thread only hands on; when messages come faster than they are read,
    those that find no room are dropped."""

    def __init__(
        self, source: Mqtt, connection: Connection, client_id: str, topic: str, parser: Json
    ) -> None:
        self._source = source
        self._parser = parser
        self._connection = connection
        self._arrived: queue.Queue[tuple[bytes, bool] | None] = queue.Queue(_MAX_WAITING)
        self._follows = True
        self._lost = ""
        try:
            connection.open(client_id, on_lost=self._over, on_message=self._came)
            connection.subscribe(topic)
        except SinkError as error:
            connection.close()
            raise Lost(str(error).removeprefix(f"{connection.where}: ")) from error

    def read(self, timeout_s: float) -> Sample | None:
        try:
            arrived = self._arrived.get(timeout=timeout_s)
        except queue.Empty:
            arrived = None
        if arrived is None:
            if self._lost:
                raise Lost(self._lost)
            return None
        payload, follows = arrived
        if len(payload) > MAX_LINE_BYTES:
            raise FrameError(f"a message of {len(payload)} bytes; {MAX_LINE_BYTES} are allowed")
        sample = self._parser.sample(text(payload))
        return None if sample is None else sample._replace(follows=follows)

    def close(self) -> None:
        self._connection.close()

    # ---- in paho's thread

    def _came(self, _: str, payload: bytes, retained: bool) -> None:
        if retained:
            self._source.count_retained()
            return
        try:
            self._arrived.put_nowait((payload, self._follows))
            self._follows = True
        except queue.Full:
            self._follows = False
            self._source.count_overflow()

    def _over(self, reason: str) -> None:
        self._lost = reason
        try:
            self._arrived.put_nowait(None)
        except queue.Full:
            pass  # it is seen when what came before has been read


def _is_filter(topic: str) -> bool:
    """Whether it is a topic filter (MQTT 5, section 4.7.1)."""
    levels = topic.split("/")
    return (
        0 < len(topic.encode("utf-8", "replace")) < 1 << 16
        and "\0" not in topic
        and all(level == "+" or "+" not in level for level in levels)
        and all("#" not in level for level in levels[:-1])
        and (levels[-1] == "#" or "#" not in levels[-1])
    )
