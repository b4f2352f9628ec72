"""Addresses as they may be shown: nothing that could be a password is in them.

Where a text does not say for sure where a secret ends, more is hidden rather than less.
"""

from __future__ import annotations

import re

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>|]*")
_SECRET_IN_PATH = re.compile(
    r"(?i)((?:user|usr|login|pass|pwd|token|auth|key|secret)\w*?)=.*?(?=[&/;]|_[a-z]+=|$)"
)


def is_device(url: str | int) -> bool:
    """Whether this is a camera at this machine: an index, or a device file."""
    return isinstance(url, int) or url.isdigit() or url.startswith("/dev/")


def is_gstreamer(url: str | int) -> bool:
    """Whether this is a GStreamer pipeline: elements with ! between them."""
    return isinstance(url, str) and " ! " in url


def is_network(url: str | int) -> bool:
    """Whether this is an address such as rtsp://host/stream."""
    return isinstance(url, str) and not is_gstreamer(url) and _SCHEME.match(url) is not None


def without_credentials(url: str | int) -> str:
    """The address as it may be shown: user name, password, and the values of the query and of
    fields such as user= and password= in the path are replaced. Of a GStreamer pipeline the names
    of its elements are left.
    """
    if isinstance(url, int) or url.isdigit():
        return f"camera {url}"
    if is_gstreamer(url):
        return " ! ".join((part.split() or [""])[0] for part in url.split(" ! "))
    scheme = _SCHEME.match(url)
    if scheme is None:
        return url
    head, at, rest = url[scheme.end() :].rpartition("@")
    if at and ("?" in head or "#" in head):  # which of them ends the password cannot be told
        return f"{scheme[0]}***"
    path, asked, query = rest.partition("#")[0].partition("?")
    path = _SECRET_IN_PATH.sub(r"\1=***", path)
    names = "&".join(f"{field.partition('=')[0]}=***" for field in query.split("&") if "=" in field)
    hidden = names or ("***" if query else "")
    return f"{scheme[0]}{'***@' if at else ''}{path}{asked}{hidden}"


def scrubbed(text: str) -> str:
    """A library's own words, with every address in them as it may be shown."""
    return _ADDRESS.sub(lambda found: without_credentials(found[0]), text)
