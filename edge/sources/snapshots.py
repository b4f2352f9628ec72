"""A picture fetched from an address again and again: cameras that show one by HTTP.

Invariant: a server can cost no more than `timeout_s` and `_MAX_BYTES` a picture, however slowly or
how much it sends.
"""

from __future__ import annotations

import http.client
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import msgspec
import numpy as np

from edge.errors import FrameError
from edge.manifest import Preprocess
from edge.sources.addresses import without_credentials
from edge.sources.live import LivePictures
from edge.sources.readers import Picture
from edge.sources.stream import Lost, Stream

_MAX_BYTES = 32 << 20
_PIECE_BYTES = 1 << 16


class Snapshots(LivePictures):
    """The picture behind `url`, every `every_s`."""

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        """`url` is http:// or https://; a user name and password in it are answered to a server
        that asks for basic or digest authentication. A server that takes longer than `timeout_s`
        for one picture counts as lost."""

        url: str
        every_s: float = 1.0
        timeout_s: float = 5.0

        def __post_init__(self) -> None:
            try:
                parts = urllib.parse.urlsplit(self.url)
                known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            except ValueError:  # its text may hold a part of the password
                known = None
            if not known:
                raise ValueError("url is not an address such as http://host/picture.jpg")
            if self.every_s <= 0 or self.timeout_s <= 0:
                raise ValueError("every_s and timeout_s must be more than 0")

        def __repr__(self) -> str:
            return f"Snapshots.Config(url={without_credentials(self.url)!r})"

    def __init__(self, config: Config, *, name: str, preprocess: Preprocess | None = None) -> None:
        stream = Stream(
            lambda: _Snapshot(config),
            shown=without_credentials(config.url),
            stale_s=config.every_s + 2 * config.timeout_s,
        )
        super().__init__(stream, name=name)


class _Snapshot:
    """Asks for one picture at a time; the next is due `every_s` after the last was asked for."""

    def __init__(self, config: Snapshots.Config) -> None:
        parts = urllib.parse.urlsplit(config.url)
        _, _, host = parts.netloc.rpartition("@")
        self._url = urllib.parse.urlunsplit(parts._replace(netloc=host))
        self._timeout_s = config.timeout_s
        self._every_s = config.every_s
        self._due_s = 0.0
        self._opener = urllib.request.build_opener(*_authentication(self._url, parts))

    def read(self, timeout_s: float) -> Picture | None:
        """The picture; None when it is not due yet. Lost, FrameError for what is no picture."""
        wait_s = self._due_s - time.monotonic()
        if wait_s > 0:
            time.sleep(min(wait_s, timeout_s))
            if wait_s > timeout_s:
                return None
        self._due_s = time.monotonic() + self._every_s
        return _decoded(self._fetch())

    def close(self) -> None:
        self._opener.close()

    def _fetch(self) -> bytes:
        until_s = time.monotonic() + self._timeout_s
        pieces: list[bytes] = []
        size = 0
        try:
            with self._opener.open(self._url, timeout=self._timeout_s) as answer:
                while piece := answer.read1(_PIECE_BYTES):
                    pieces.append(piece)
                    size += len(piece)
                    if size > _MAX_BYTES:
                        raise Lost(f"the answer is larger than {_MAX_BYTES >> 20} MiB")
                    if time.monotonic() > until_s:
                        raise Lost(f"no whole picture within {self._timeout_s:g} s")
        except urllib.error.HTTPError as error:
            error.close()
            raise Lost(f"the server answers {error.code} {error.reason}") from None
        except urllib.error.URLError as error:
            raise Lost(_why(error.reason)) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Lost(_why(error)) from None
        return b"".join(pieces)


def _authentication(url: str, parts: urllib.parse.SplitResult) -> list[urllib.request.BaseHandler]:
    """Answers to basic and digest authentication, for this server alone."""
    if parts.username is None:
        return []
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    user = urllib.parse.unquote(parts.username)
    passwords.add_password(None, url, user, urllib.parse.unquote(parts.password or ""))
    return [
        urllib.request.HTTPDigestAuthHandler(passwords),
        urllib.request.HTTPBasicAuthHandler(passwords),
    ]


def _why(error: Any) -> str:
    if isinstance(error, socket.timeout):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def _decoded(data: bytes) -> Picture:
    import cv2

    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error:
        picture = None
    if picture is None:
        raise FrameError(f"the answer, {len(data)} bytes, is not a picture that can be read")
    return Picture(np.asarray(picture))
