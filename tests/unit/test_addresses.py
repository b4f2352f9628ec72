"""Addresses are shown without anything that could be a password."""

from __future__ import annotations

import pytest

from edge.sources.addresses import (
    is_device,
    is_gstreamer,
    is_network,
    scrubbed,
    without_credentials,
)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://10.0.0.9:554/stream1", "rtsp://10.0.0.9:554/stream1"),
        ("rtsp://viewer:s3cret@10.0.0.9/stream1", "rtsp://***@10.0.0.9/stream1"),
        ("rtsp://viewer:s3/cret@10.0.0.9/stream1", "rtsp://***@10.0.0.9/stream1"),
        ("rtsp://viewer:s3@cret@10.0.0.9/stream1", "rtsp://***@10.0.0.9/stream1"),
        ("rtsp://viewer:s3?cret@10.0.0.9/stream1", "rtsp://***"),
        ("rtsp://viewer:s3#cret@10.0.0.9/stream1", "rtsp://***"),
        ("rtsp://[fe80::1]:554/1", "rtsp://[fe80::1]:554/1"),
        ("rtsp://cam/live?auth=s3cret==", "rtsp://cam/live?auth=***"),
        ("http://cam/shot.cgi?user=me&pwd=s3cret&x", "http://cam/shot.cgi?user=***&pwd=***"),
        ("http://cam/shot.cgi?s3cret", "http://cam/shot.cgi?***"),
        ("http://me:s3cret@cam/s?pwd=s3@cret", "http://***"),
        ("http://cam/a#s3cret", "http://cam/a"),
        (
            "rtsp://cam:554/user=admin_password=s3cret_channel=1_stream=0.sdp",
            "rtsp://cam:554/user=***_password=***_channel=1_stream=0.sdp",
        ),
        (
            "rtsp://cam/user=admin&password=s3cret&channel=1",
            "rtsp://cam/user=***&password=***&channel=1",
        ),
        (0, "camera 0"),
        ("12", "camera 12"),
        ("/dev/v4l/by-id/usb-cam-index0", "/dev/v4l/by-id/usb-cam-index0"),
        (
            "rtspsrc location=rtsp://me:s3cret@cam user-pw=s3cret ! decodebin ! appsink drop=true",
            "rtspsrc ! decodebin ! appsink",
        ),
    ],
)
def test_nothing_secret_is_shown_and_the_rest_is(url: str | int, shown: str) -> None:
    assert without_credentials(url) == shown
    assert "s3" not in shown and "cret" not in shown


def test_addresses_in_a_librarys_own_words_are_scrubbed() -> None:
    said = "[Errno 111] refused: 'rtsp://me:s3cret@cam/1?token=s3cret'; see http://x/y"
    assert scrubbed(said) == "[Errno 111] refused: 'rtsp://***@cam/1?token=***'; see http://x/y"


def test_devices_pipelines_and_addresses_are_told_apart() -> None:
    assert is_device(0) and is_device("0") and is_device("/dev/v4l/by-path/pci-0")
    assert is_network("rtsp://cam/1") and not is_network("/videos/a.mp4") and not is_network(0)
    pipeline = "rtspsrc location=rtsp://cam ! appsink"
    assert is_gstreamer(pipeline) and not is_network(pipeline) and not is_device(pipeline)
