"""Sensors on a serial port, by pyserial: one sample a line, as CSV or JSON.

What comes before the first newline is dropped: it may be the end of a line that began earlier.
"""

from __future__ import annotations

from typing import Any, Literal

from edge.manifest import Preprocess
from edge.sources import records
from edge.sources.records import LineBuffer, Records, Sample
from edge.sources.sampling import SampleSource, needs
from edge.sources.stream import Lost
from edge.sources.windows import UNITS, TimedConfig, plan

_READ_S = 0.2
_MAX_READ_BYTES = 1 << 16


class Serial(SampleSource):
    """Lines of a port. When it is unplugged the source is lost, until the same path is back."""

    class Config(TimedConfig, frozen=True, kw_only=True):
        """`port` is a device; its path under /dev/serial/by-id stays the same when others come and
        go. `columns` names the values of a CSV line in their order: by default the channels, behind
        `time` where there is one. A port that is silent for `stale_s` (0: for ever) is opened
        again."""

        port: str
        baud: int = 115200
        format: Literal["csv", "json"] = "csv"
        columns: tuple[str, ...] = ()
        newline: str = "\n"
        stale_s: float = 5.0

        def __post_init__(self) -> None:
            super().__post_init__()
            if not self.port or "\0" in self.port:
                raise ValueError("port must be the path of a device")
            if self.baud <= 0 or not self.newline or self.stale_s < 0:
                raise ValueError("baud must be above 0, newline not empty, stale_s not below 0")

    def __init__(self, config: Config, *, name: str, preprocess: Preprocess | None = None) -> None:
        try:
            import serial
        except ImportError as error:
            raise needs("serial", "pyserial", "serial", error) from error
        windows = plan(config, preprocess, name=name)
        super().__init__(windows, name=name, shown=config.port, stale_s=config.stale_s)
        self._config = config
        self._serial = serial
        self._parser()  # says what is wrong with the columns before anything is opened

    def _open(self) -> _Port:
        config = self._config
        try:
            port = self._serial.Serial(config.port, config.baud, timeout=_READ_S, exclusive=True)
        except (OSError, ValueError, self._serial.SerialException) as error:
            raise Lost(f"cannot be opened: {_reason(error)}") from error
        return _Port(port, config.newline, self._parser())

    def _parser(self) -> Records:
        config = self._config
        unit_s = UNITS[config.time_unit]
        if config.format == "json":
            return records.Json(self.channels, time=config.time, unit_s=unit_s)
        columns = config.columns or (*([config.time] if config.time else []), *self.channels)
        return records.Csv(self.channels, time=config.time, unit_s=unit_s, columns=columns)


class _Port:
    def __init__(self, port: Any, newline: str, parser: Records) -> None:
        self._port = port
        self._lines = LineBuffer(newline, mid_line=True)
        self._parser = parser

    def read(self, timeout_s: float) -> Sample | None:
        while (line := self._lines.take()) is None:
            try:
                waiting = self._port.in_waiting
                data = self._port.read(min(max(1, waiting), _MAX_READ_BYTES))
            except (OSError, TypeError) as error:  # TypeError: closed within pyserial
                raise Lost(_reason(error)) from error
            if not data:
                return None
            self._lines.put(data)
        return self._parser.sample(line)

    def close(self) -> None:
        self._port.close()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
