"""MQTT by paho: QoS 1 events, retained state with birth and will, telemetry.

An event counts as confirmed when the broker has acknowledged it (PUBACK with a reason code below
0x80). paho's own queue is never used: at most `window` events are under way, and a lost connection
means that the sender leases them again.
"""

from __future__ import annotations

import queue
import ssl
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from edge.errors import ConfigError, SinkError
from edge.seams import Message
from edge.secret import Secret
from edge.wire import State, StoredEvent, encode

_MAX_WINDOW = 20  # more in flight is slower (measured), and brokers commonly allow 20
_REFUSED = 0x80
_AUTHENTICATION = {134, 135}  # bad user name or password, not authorised
_SCHEMES = {"mqtt": 1883, "mqtts": 8883}

_Answer = tuple[int | None, int, str]
"""What paho's thread reports: the message's id (None: the connection is gone), code, text."""


class Mqtt:
    """One connection to one broker."""

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        """`url` is mqtt://host[:1883] or mqtts://host[:8883] (TLS, verified).

        `password` takes "${NAME}" from the environment, `password_file` the text of a file. `ca`,
        `client_cert` and `client_key` are PEM files; without `ca` the system's roots are used.
        """

        url: str
        version: Literal["5", "3.1.1"] = "5"
        prefix: str = "edge/v1"
        username: str = ""
        password: Secret | None = None
        password_file: Path | None = None
        ca: Path | None = None
        client_cert: Path | None = None
        client_key: Path | None = None
        client_id: str = ""
        keepalive_s: int = 30
        connect_timeout_s: float = 10.0

        def __post_init__(self) -> None:
            _address(self.url)
            if self.password is not None and self.password_file is not None:
                raise ValueError("give password or password_file, not both")
            if not self.prefix or set("+#\0") & set(self.prefix):
                raise ValueError("prefix must be a topic without wildcards")

    def __init__(self, config: Config, *, device: str) -> None:
        self._config = config
        self._device = device
        self._base = f"{config.prefix.strip('/')}/{device}"
        self._host, self._port, self._tls = _address(config.url)
        self._password = _password(config)
        self._client: Any = None
        self._offline = b""
        self._context = _tls_context(config) if self._tls else None
        self._paho = _import_paho()
        self._seqs: dict[int, int] = {}
        self._answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        self.window = _MAX_WINDOW

    def open(self, state: State | None) -> None:
        """Connect, with the will set, and publish the birth. SinkError when that fails.

        Without a state, under a client id of its own, so that a running agent is not disturbed.
        """
        client = self._build(state)
        answered: queue.SimpleQueue[tuple[int, str, int | None]] = queue.SimpleQueue()
        answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        self._answers, self._seqs = answers, {}

        def on_connect(_: Any, __: Any, ___: Any, reason: Any, properties: Any) -> None:
            answered.put((reason.value, str(reason), getattr(properties, "ReceiveMaximum", None)))

        def on_disconnect(_: Any, __: Any, ___: Any, reason: Any, ____: Any) -> None:
            answered.put((_REFUSED, str(reason), None))
            answers.put((None, 0, str(reason)))

        def on_publish(_: Any, __: Any, mid: int, reason: Any, ___: Any) -> None:
            answers.put((mid, reason.value, str(reason)))

        client.on_connect, client.on_disconnect = on_connect, on_disconnect
        client.on_publish = on_publish
        try:
            client.connect(self._host, self._port, keepalive=self._config.keepalive_s)
        except (OSError, ValueError) as error:
            raise SinkError(f"{self._where}: cannot connect: {_reason(error)}") from error
        self._client = client
        client.loop_start()
        try:
            code, text, receive_maximum = answered.get(timeout=self._config.connect_timeout_s)
        except queue.Empty:
            raise SinkError(f"{self._where}: no answer to CONNECT") from None
        if code >= _REFUSED:
            hint = "; check username and password" if code in _AUTHENTICATION else ""
            raise SinkError(f"{self._where}: refused: {text}{hint}")
        self.window = min(_MAX_WINDOW, receive_maximum or _MAX_WINDOW)
        if state is not None:
            self._publish("state", encode(state), retain=True)

    def send(self, messages: Sequence[Message]) -> None:
        """Publish events (QoS 1), telemetry (QoS 0) or a state (QoS 1, retained)."""
        for message in messages:
            if isinstance(message, StoredEvent):
                mid = self._publish(f"event/{message.pipeline}", message.payload)
                self._seqs[mid] = message.seq
            elif isinstance(message, State):
                self._publish("state", encode(message), retain=True)
            else:
                self._publish("telemetry", encode(message), qos=0)

    def poll(self, timeout_s: float) -> list[int]:
        """The seqs that the broker has acknowledged. SinkError when the connection is gone."""
        seqs: list[int] = []
        while True:
            try:
                answer = self._answers.get(block=not seqs and timeout_s > 0, timeout=timeout_s)
            except queue.Empty:
                return seqs
            mid, code, text = answer
            if mid is None or code >= _REFUSED:
                if seqs:  # first what was confirmed; the bad news at the next call
                    self._answers.put(answer)
                    return seqs
                what = "connection lost" if mid is None else "refused an event"
                raise SinkError(f"{self._where}: {what}: {text}")
            if mid in self._seqs:
                seqs.append(self._seqs.pop(mid))

    def close(self) -> None:
        """Publish a state that says offline, disconnect, and end paho's thread."""
        client, self._client = self._client, None
        if client is None:
            return
        if client.is_connected() and self._offline:
            goodbye = client.publish(f"{self._base}/state", self._offline, qos=1, retain=True)
            deadline = time.monotonic() + 1.0
            while not goodbye.is_published() and time.monotonic() < deadline:
                time.sleep(0.01)
        client.disconnect()
        client.loop_stop()

    @property
    def _where(self) -> str:
        return f"mqtt{'s' if self._tls else ''}://{self._host}:{self._port}"

    def _build(self, state: State | None) -> Any:
        config, paho = self._config, self._paho
        name = config.client_id or f"edgewright-{self._device}"
        protocol = paho.MQTTv5 if config.version == "5" else paho.MQTTv311
        client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id=name if state is not None else f"{name}-check",
            protocol=protocol,
            reconnect_on_failure=False,
            **({} if config.version == "5" else {"clean_session": True}),
        )
        client.connect_timeout = config.connect_timeout_s
        client.max_inflight_messages_set(0)  # the window is counted by the sender
        if config.username:
            client.username_pw_set(config.username, self._password)
        if self._context is not None:
            client.tls_set_context(self._context)
        self._offline = b""
        if state is not None:
            self._offline = encode(
                State(device=self._device, online=False, connection=state.connection)
            )
            client.will_set(f"{self._base}/state", self._offline, qos=1, retain=True)
        return client

    def _publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> int:
        info = self._client.publish(f"{self._base}/{topic}", payload, qos=qos, retain=retain)
        if info.rc != 0:
            raise SinkError(f"{self._where}: connection lost while sending")
        mid: int = info.mid
        return mid


def _address(url: str) -> tuple[str, int, bool]:
    """Host, port, and whether TLS is used. ValueError when the URL is not one of ours."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:  # its text may hold a part of the password
        raise ValueError("url is not a well-formed address") from None
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError("url must be mqtt://host[:port] or mqtts://host[:port]")
    if parts.username or parts.password:
        raise ValueError("url must not hold a user name or password; use their own keys")
    try:
        port = parts.port or _SCHEMES[parts.scheme]
    except ValueError:
        raise ValueError("url: the port must be a number from 1 to 65535") from None
    return parts.hostname, port, parts.scheme == "mqtts"


def _import_paho() -> Any:
    try:
        from paho.mqtt import client
    except ImportError as error:
        raise ConfigError("sink mqtt needs paho-mqtt; pip install 'edgewright[mqtt]'") from error
    return client


def _password(config: Mqtt.Config) -> str | None:
    if config.password_file is not None:
        try:
            return config.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{config.password_file}: password_file: {error}") from error
    return config.password.reveal() if config.password is not None else None


def _tls_context(config: Mqtt.Config) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.ca and str(config.ca))
        if config.client_cert is not None:
            context.load_cert_chain(config.client_cert, config.client_key)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(f) for f in (config.ca, config.client_cert, config.client_key) if f)
        raise ConfigError(f"{files}: not a usable certificate or key: {_reason(error)}") from error
    return context


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the broker's certificate is not valid: {error.verify_message}"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
