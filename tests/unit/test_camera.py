"""What a camera's table may say, which library reads it, and the times of a file."""

from __future__ import annotations

import importlib.util
import itertools
import time
from typing import Any

import pytest

from edge import config as configuration
from edge.errors import ConfigError
from edge.sources.readers import Opening, choose
from edge.sources.video import FileTimes


def decoded(type_name: str, **options: Any) -> Any:
    return configuration.decode_adapter("sources", {"type": type_name, **options}, where="x")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"type": "camera", "url": ""}, "url is empty"),
        ({"type": "camera", "url": -1}, "negative"),
        ({"type": "camera", "url": "rtsp://[s3cret"}, "well-formed"),
        ({"type": "camera", "url": 0, "library": "pyav"}, 'library = "opencv"'),
        ({"type": "camera", "url": "v4l2src ! fakesink"}, "ends with appsink"),
        ({"type": "camera", "url": 0, "hardware": "vaapi"}, "hardware is for streams"),
        ({"type": "camera", "url": "rtsp://cam", "stale_s": 0}, "stale_s"),
        ({"type": "camera", "url": "rtsp://cam", "transport": "sctp"}, "transport"),
        ({"type": "snapshots", "url": "ftp://me:s3cret@cam/1.jpg"}, "http://host/picture.jpg"),
        ({"type": "snapshots", "url": "http://[s3cret"}, "http://host/picture.jpg"),
        ({"type": "snapshots", "url": "http://cam/1.jpg", "every_s": 0}, "every_s"),
        ({"type": "picamera", "width": 0}, "width and height"),
        ({"type": "images", "path": "x", "watch": True, "loop": True}, "loop and watch"),
    ],
)
def test_what_cannot_be_is_said_and_shows_no_secret(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decoded(options["type"], **{key: options[key] for key in options if key != "type"})
    assert says in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("type_name", ["camera", "snapshots"])
def test_a_configuration_does_not_show_its_password(type_name: str) -> None:
    config = decoded(type_name, url="http://me:s3cret@cam/1?token=s3cret")
    assert "s3cret" not in repr(config) and "http://***@cam/1?token=***" in repr(config)
    assert "s3cret" not in repr(Opening(url="http://me:s3cret@cam", live=True))


def test_devices_and_pipelines_are_opencvs_and_streams_pyavs_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def chosen(url: str | int) -> str:
        return choose(Opening(url=url, live=True))

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert chosen("rtsp://cam") == "pyav"
    assert chosen(0) == chosen("/dev/video0") == chosen("videotestsrc ! appsink") == "opencv"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert chosen("rtsp://cam") == "opencv"


def test_times_of_a_file_never_go_back_nor_leap() -> None:
    times = FileTimes(0.5)
    begun_ns = time.monotonic_ns()
    given = [100.0, 100.25, None, 100.25, 40.0, 41.0, 90_000.0, 90_001.0]
    moments = [times.of(at_s)[0] for at_s in given]
    assert abs(moments[0] - begun_ns) < 1e9, "the first is now"
    steps = [(b - a) / 1e9 for a, b in itertools.pairwise(moments)]
    assert steps == pytest.approx([0.25, 0.5, 0.5, 0.5, 1.0, 0.5, 1.0])
