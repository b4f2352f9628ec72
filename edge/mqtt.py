"""One connection to an MQTT broker by paho: address, TLS, credentials, CONNECT and its answer.

paho's own reconnecting and queueing are not used: a connection that is lost is over, its user
decides what to send again.
"""

from __future__ import annotations

import queue
import ssl
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from edge.errors import ConfigError, SinkError
from edge.secret import Secret

REFUSED = 0x80
"""Reason codes from here on are refusals."""
_AUTHENTICATION = {134, 135}  # bad user name or password, not authorised
_TAKEN_OVER = 142
_DEFAULT_RECEIVE_MAXIMUM = 65535
_SCHEMES = {"mqtt": 1883, "mqtts": 8883}

OnMessage = Callable[[str, bytes, bool], None]
"""Topic, payload, and whether the broker had kept it."""
OnPublished = Callable[[int, int, str], None]
_Answers = queue.SimpleQueue[tuple[int, str, int | None]]


class BrokerAddress(msgspec.Struct, frozen=True, kw_only=True):
    """`url` is mqtt://host[:1883] or mqtts://host[:8883] (TLS, verified).

    `password` takes "${NAME}" from the environment, `password_file` the text of a file. `ca`,
    `client_cert` and `client_key` are PEM files; without `ca` the system's roots are used.
    """

    url: str
    version: Literal["5", "3.1.1"] = "5"
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
        address(self.url)
        if self.password is not None and self.password_file is not None:
            raise ValueError("give password or password_file, not both")


class BrokerConfig(BrokerAddress, frozen=True, kw_only=True):
    """A broker under whose topic `prefix` devices report."""

    prefix: str = "edge/v1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prefix or set("+#\0") & set(self.prefix):
            raise ValueError("prefix must be a topic without wildcards")


class Connection:
    """Opened once at a time; its callbacks run in paho's thread and only hand things on."""

    def __init__(self, config: BrokerAddress) -> None:
        """Read certificates and password; nothing is connected. ConfigError when they are bad."""
        self._config = config
        self._host, self._port, self._tls = address(config.url)
        self._password = _password(config)
        self._context = _tls_context(config) if self._tls else None
        self._paho = _import_paho()
        self._client: Any = None
        self._answers = _Answers()

    @property
    def where(self) -> str:
        """The broker's address, to be shown."""
        return f"mqtt{'s' if self._tls else ''}://{self._host}:{self._port}"

    @property
    def version5(self) -> bool:
        """Whether MQTT 5 is spoken."""
        return self._config.version == "5"

    def open(
        self,
        client_id: str,
        *,
        on_lost: Callable[[str], None],
        on_message: OnMessage | None = None,
        on_published: OnPublished | None = None,
        will: tuple[str, bytes] | None = None,
    ) -> int:
        """Connect; returns the broker's Receive Maximum. SinkError when that fails.

        `will` is the topic and payload of a retained last message. `on_published` gets the id,
        reason code and reason of each acknowledgement.
        """
        client = self._build(client_id)
        self._answers = answered = _Answers()

        def on_connect(_: Any, __: Any, ___: Any, reason: Any, properties: Any) -> None:
            answered.put((reason.value, str(reason), getattr(properties, "ReceiveMaximum", None)))

        def on_disconnect(_: Any, __: Any, ___: Any, reason: Any, ____: Any) -> None:
            answered.put((REFUSED, str(reason), None))
            taken = f"; another client uses the id {client_id!r}"
            on_lost(f"connection lost: {reason}{taken if reason.value == _TAKEN_OVER else ''}")

        def on_subscribe(_: Any, __: Any, ___: Any, reasons: Any, ____: Any) -> None:
            answered.put((reasons[0].value, str(reasons[0]), None))

        client.on_connect, client.on_disconnect = on_connect, on_disconnect
        client.on_subscribe = on_subscribe
        if on_message is not None:
            client.on_message = lambda _, __, message: on_message(
                message.topic, message.payload, message.retain
            )
        if on_published is not None:
            client.on_publish = lambda _, __, mid, reason, ___: on_published(
                mid, reason.value, str(reason)
            )
        if will is not None:
            client.will_set(will[0], will[1], qos=1, retain=True)
        try:
            client.connect(self._host, self._port, keepalive=self._config.keepalive_s)
            client.loop_start()
        except (OSError, ValueError) as error:
            raise SinkError(f"{self.where}: cannot connect: {_reason(error)}") from error
        self._client = client
        code, text, receive_maximum = self._answer("CONNECT")
        if code >= REFUSED:
            hint = "; check username and password" if code in _AUTHENTICATION else ""
            raise SinkError(f"{self.where}: refused: {text}{hint}")
        return receive_maximum or _DEFAULT_RECEIVE_MAXIMUM

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        properties: dict[str, str] | None = None,
    ) -> int:
        """Start publishing; the id under which it will be acknowledged. SinkError when lost.

        `properties` become user properties where MQTT 5 is spoken.
        """
        extra = {}
        if properties and self.version5:
            from paho.mqtt.packettypes import PacketTypes
            from paho.mqtt.properties import Properties

            extra["properties"] = Properties(PacketTypes.PUBLISH)
            extra["properties"].UserProperty = list(properties.items())
        info = self._client.publish(topic, payload, qos=qos, retain=retain, **extra)
        if info.rc != 0:
            raise SinkError(f"{self.where}: connection lost while sending")
        mid: int = info.mid
        return mid

    def subscribe(self, topic: str) -> None:
        """Ask for a topic at QoS 1, and wait for it. SinkError when refused or lost."""
        result, _ = self._client.subscribe(topic, qos=1)
        if result != 0:
            raise SinkError(f"{self.where}: connection lost while subscribing")
        code, text, _ = self._answer("SUBSCRIBE")
        if code >= REFUSED:
            raise SinkError(f"{self.where}: {topic} cannot be subscribed to: {text}")

    def close(self, farewell: tuple[str, bytes] | None = None) -> None:
        """Publish a retained last message, disconnect, and end paho's thread; idempotent."""
        client, self._client = self._client, None
        if client is None:
            return
        if farewell is not None and client.is_connected():
            goodbye = client.publish(farewell[0], farewell[1], qos=1, retain=True)
            try:
                goodbye.wait_for_publish(1.0)
            except (RuntimeError, ValueError):
                pass  # the connection went down in this moment; the will speaks for us
        client.on_disconnect = None  # what we end ourselves is not lost
        client.disconnect()
        client.loop_stop()

    def _answer(self, what: str) -> tuple[int, str, int | None]:
        """The broker's answer, as reason code, its text, and its Receive Maximum if it gave one."""
        try:
            return self._answers.get(timeout=self._config.connect_timeout_s)
        except queue.Empty:
            raise SinkError(f"{self.where}: no answer to {what}") from None

    def _build(self, client_id: str) -> Any:
        config, paho = self._config, self._paho
        client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=paho.MQTTv5 if self.version5 else paho.MQTTv311,
            reconnect_on_failure=False,
            **({} if self.version5 else {"clean_session": True}),
        )
        client.connect_timeout = config.connect_timeout_s
        client.max_inflight_messages_set(0)  # whoever publishes counts its own window
        if config.username:
            client.username_pw_set(config.username, self._password)
        if self._context is not None:
            client.tls_set_context(self._context)
        return client


def address(url: str) -> tuple[str, int, bool]:
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
        raise ConfigError("mqtt needs paho-mqtt; pip install 'edgewright[mqtt]'") from error
    return client


def _password(config: BrokerAddress) -> str | None:
    if config.password_file is not None:
        try:
            return config.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{config.password_file}: password_file: {error}") from error
    return config.password.reveal() if config.password is not None else None


def _tls_context(config: BrokerAddress) -> ssl.SSLContext:
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
