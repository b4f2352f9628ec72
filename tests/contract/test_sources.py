"""Sources of pictures: the source contract, and what is theirs alone."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from broker import wait_until

from edge.errors import SourceError
from edge.seams import Source
from edge.types import Array, Frame

from .source_contract import (
    BadFramesContract,
    SourceContract,
    make,
    next_frame,
    to_the_end,
)


def pictures(count: int) -> list[Array]:
    return [np.full((48, 64, 3), 20 + 40 * index, np.uint8) for index in range(count)]


def write_video(file: Path, count: int = 4) -> Path:
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for picture in pictures(count):
        writer.write(picture)
    writer.release()
    return file


class TestVideo(SourceContract):
    def build(self, folder: Path) -> Source:
        return make("video", path=write_video(folder / "v.avi"))

    def build_missing(self, folder: Path) -> Source | None:
        return make("video", path=folder / "missing.avi")

    def test_it_gives_every_picture_in_order(self, source: Source) -> None:
        means = [float(frame.data.mean()) for frame in to_the_end(source)]
        assert means == pytest.approx([20, 60, 100, 140], abs=4)

    def test_it_can_be_played_again_and_again(self, tmp_path: Path) -> None:
        source = make("video", path=write_video(tmp_path / "v.avi"), loop=True)
        assert [next_frame(source).number for _ in range(10)] == list(range(10))
        source.close()

    def test_a_file_that_is_no_video_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "text.mp4").write_text("this is no video")
        with pytest.raises(SourceError, match=r"text.mp4: not a video"):
            make("video", path=tmp_path / "text.mp4").read(0.2)


class TestImages(BadFramesContract):
    bad_frames = 3

    def build(self, folder: Path) -> Source:
        for index, picture in enumerate(pictures(4)):
            cv2.imwrite(str(folder / f"{index}.png"), picture)
        (folder / "notes.txt").write_text("not a picture, and not taken for one")
        return make("images", path=folder)

    def build_missing(self, folder: Path) -> Source | None:
        return make("images", path=folder / "missing")

    def build_with_bad_ones(self, folder: Path) -> Source:
        (folder / "0a.png").write_bytes(b"")
        (folder / "1a.jpg").write_text("this is no picture")
        self.build(folder)
        (folder / "2a.png").write_bytes((folder / "3.png").read_bytes()[:40])
        return make("images", path=folder)

    def test_one_file_a_glob_and_a_loop(self, tmp_path: Path) -> None:
        self.build(tmp_path)
        assert len(to_the_end(make("images", path=tmp_path / "2.png"))) == 1
        assert len(to_the_end(make("images", path=tmp_path / "[12].png"))) == 2
        loop = make("images", path=tmp_path, loop=True)
        assert [float(next_frame(loop).data.mean()) for _ in range(5)] == [20, 60, 100, 140, 20]


class TestDemoMeter(SourceContract):
    live = True
    shape = (360, 640, 3)
    count = 4

    def build(self, folder: Path) -> Source:
        return make("demo-meter", fps=1000, frames=4)

    def build_missing(self, folder: Path) -> Source | None:
        return None

    def test_it_keeps_to_its_rate(self) -> None:
        source = make("demo-meter", fps=1)
        assert source.read(0.5) is not None
        assert source.read(0.01) is None, "the next one is due in a second"


# ---- cameras


class LostCameraContract(SourceContract):
    """A camera that is not there is a state, and never the death of the pipeline."""

    live = True
    count = None

    def test_what_is_not_there_is_said(self, tmp_path: Path) -> None:
        source = self.build_missing(tmp_path)
        assert source is not None
        for _ in range(3):
            began = time.monotonic()
            assert source.read(0.05) is None
            assert time.monotonic() - began < 5
        assert source.state.state == "lost"
        assert "cannot be opened" in source.state.detail and "missing" in source.state.detail
        assert "s3cret" not in source.state.detail
        source.close()

    def test_a_closed_camera_stays_closed(self, source: Source) -> None:
        next_frame(source)
        source.close()
        assert source.read(0.05) is None

    def test_closing_ends_a_wait_for_the_next_try(self, tmp_path: Path) -> None:
        source = self.build_missing(tmp_path)
        assert source is not None
        assert source.read(0.05) is None
        results: list[Frame | None] = []
        waiting = threading.Thread(target=lambda: results.append(source.read(60.0)), daemon=True)
        waiting.start()
        source.close()
        waiting.join(20)
        assert results == [None]


class TestCameraFromAFile(LostCameraContract):
    """A file stands in for a device: when it ends, the camera is lost, and comes back."""

    def build(self, folder: Path) -> Source:
        return make("camera", url=str(write_video(folder / "v.avi")))

    def build_missing(self, folder: Path) -> Source | None:
        return make("camera", url=str(folder / "missing.avi"))

    def test_a_camera_that_was_lost_comes_back(self, source: Source) -> None:
        for _ in range(4):
            next_frame(source)
        assert source.read(0.05) is None
        assert source.state.state == "lost" and source.state.detail.endswith("no frame came")
        assert next_frame(source).number > 4, "it does not follow on the last one"
        assert source.state.state == "running"


class _Mjpeg(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if "missing" in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            while not self.server.done.wait(0.01):  # type: ignore[attr-defined]
                jpeg = cv2.imencode(".jpg", pictures(1)[0])[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n")
        except OSError:
            pass  # the camera has hung up

    def log_message(self, *_: object) -> None:
        pass


class TestCameraFromAStream(LostCameraContract):
    @pytest.fixture(autouse=True)
    def stream(self) -> Iterator[Callable[[], None]]:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Mjpeg)
        server.daemon_threads = True
        server.done = threading.Event()  # type: ignore[attr-defined]
        self.url = f"http://viewer:s3cret@127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

        def hang_up() -> None:
            server.done.set()  # type: ignore[attr-defined]
            server.shutdown()
            server.server_close()

        yield hang_up
        hang_up()

    def build(self, folder: Path) -> Source:
        return make("camera", url=f"{self.url}/stream")

    def build_missing(self, folder: Path) -> Source | None:
        return make("camera", url=f"{self.url}/missing")

    def test_a_stream_that_breaks_off_is_a_state(
        self, source: Source, stream: Callable[[], None]
    ) -> None:
        next_frame(source)
        stream()
        wait_until(lambda: source.read(0.05) is None, 20)
        wait_until(lambda: source.read(0.05) is None and source.state.state == "lost", 20)
        assert "s3cret" not in source.state.detail

    def test_an_address_is_shown_without_its_password(self) -> None:
        source = make("camera", url=f"{self.url}/stream")
        assert source.state.detail == self.url.replace("viewer:s3cret", "***") + "/stream"


def test_a_camera_by_number_that_is_not_there_is_lost() -> None:
    source = make("camera", url=99)
    assert source.read(0.05) is None
    assert (source.state.state, source.state.detail) == ("lost", "camera 99: cannot be opened")
    source.close()
