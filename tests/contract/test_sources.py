"""What every source must do; one subclass an adapter."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
from broker import wait_until

from edge import config as configuration
from edge import seams
from edge.errors import FrameError, SourceError
from edge.seams import EndOfStream, Source
from edge.types import Array, Frame

CHANNELS = ("ax", "ay")


def make(type_name: str, **options: Any) -> Source:
    """The source that a [pipeline.source] table of an edge.toml gives."""
    table = {
        key: str(value) if isinstance(value, Path) else value for key, value in options.items()
    }
    config = configuration.decode_adapter("sources", {"type": type_name, **table}, where="test")
    source: Source = seams.find("sources", type_name)(config.options, name="cam0", preprocess=None)
    return source


def next_frame(source: Source) -> Frame:
    deadline = time.monotonic() + 20
    while (frame := source.read(0.2)) is None:
        assert time.monotonic() < deadline, f"no frame came; {source.state}"
    return frame


def to_the_end(source: Source) -> list[Frame]:
    frames = []
    with pytest.raises(EndOfStream):
        while True:
            frames.append(next_frame(source))
    return frames


class SourceContract:
    """Four frames at least; `count` where it ends, None where it goes on for ever."""

    live = False
    dtype = "uint8"
    shape: tuple[int, ...] = (48, 64, 3)
    count: int | None = 4
    refuses_what_is_missing = True

    def build(self, folder: Path) -> Source:
        raise NotImplementedError

    def build_missing(self, folder: Path) -> Source | None:
        """One whose file or device is not there; None where there is none to miss."""
        raise NotImplementedError

    @pytest.fixture
    def source(self, tmp_path: Path) -> Iterator[Source]:
        source = self.build(tmp_path)
        yield source
        source.close()

    def test_frames_have_the_promised_form(self, source: Source) -> None:
        assert source.live is self.live
        for _ in range(4):
            frame = next_frame(source)
            assert (frame.data.shape, str(frame.data.dtype)) == (self.shape, self.dtype)
            assert frame.source == "cam0"

    def test_frames_are_counted_and_timed(self, source: Source) -> None:
        frames = [next_frame(source) for _ in range(4)]
        assert [frame.number for frame in frames] == [0, 1, 2, 3]
        moments = [frame.mono_ns for frame in frames]
        assert moments == sorted(moments) and moments[-1] <= time.monotonic_ns()
        assert all(abs(frame.wall_ns - time.time_ns()) < 60 * 10**9 for frame in frames)

    def test_a_frame_is_not_written_over_by_the_next_one(self, source: Source) -> None:
        first = next_frame(source)
        before = first.data.copy()
        for _ in range(3):
            assert not np.shares_memory(next_frame(source).data, first.data)
        np.testing.assert_array_equal(first.data, before)

    def test_the_state_follows_what_happens(self, source: Source) -> None:
        assert source.state.state in ("starting", "running")
        next_frame(source)
        assert source.state.state == "running"

    def test_after_the_last_frame_it_is_the_end_for_good(self, source: Source) -> None:
        if self.count is None:
            assert len([next_frame(source) for _ in range(6)]) == 6
            return
        assert len(to_the_end(source)) == self.count
        assert source.state.state == "ended"
        for _ in range(3):
            with pytest.raises(EndOfStream):
                source.read(0.2)

    def test_closing_is_harmless_twice_before_and_after_reading(self, tmp_path: Path) -> None:
        unread = self.build(tmp_path)
        unread.close()
        unread.close()
        source = self.build(tmp_path)
        next_frame(source)
        source.close()
        source.close()

    def test_what_is_not_there_is_said(self, tmp_path: Path) -> None:
        source = self.build_missing(tmp_path)
        if source is None:
            return
        with pytest.raises(SourceError, match="missing"):
            source.read(0.2)
        source.close()


class BadFramesContract(SourceContract):
    """Sources that can meet a frame that cannot be used go on behind it."""

    bad_frames: int

    def build_with_bad_ones(self, folder: Path) -> Source:
        raise NotImplementedError

    def test_behind_a_bad_frame_it_goes_on(self, tmp_path: Path) -> None:
        source = self.build_with_bad_ones(tmp_path)
        good: list[Frame] = []
        bad: list[str] = []
        with pytest.raises(EndOfStream):
            while True:
                try:
                    good.append(next_frame(source))
                except FrameError as error:
                    bad.append(str(error))
        source.close()
        assert len(good) == self.count
        assert all(np.isfinite(frame.data).all() for frame in good)
        assert len(bad) == self.bad_frames, bad
        assert all(str(tmp_path) in message for message in bad), "each says where it is"


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


class SamplesContract(BadFramesContract):
    """Windows of four samples every two of them: ten samples make four windows."""

    type_name: str
    dtype = "float32"
    shape = (4, 2)
    good: ClassVar[list[str]]
    broken: ClassVar[list[str]]
    header: ClassVar[list[str]] = []

    def of(self, folder: Path, lines: list[str], **options: Any) -> Source:
        file = folder / "samples"
        file.write_bytes(b"".join(line.encode("utf-8", "surrogateescape") for line in lines))
        window = {"channels": list(CHANNELS), "length": 4, "hop": 2, **options}
        return make(self.type_name, path=file, **window)

    def build(self, folder: Path) -> Source:
        return self.of(folder, [*self.header, *self.good])

    def build_missing(self, folder: Path) -> Source | None:
        return make(
            self.type_name, path=folder / "missing", channels=list(CHANNELS), length=4, hop=2
        )

    @property
    def bad_frames(self) -> int:  # type: ignore[override]
        return len(self.broken)

    def build_with_bad_ones(self, folder: Path) -> Source:
        return self.of(folder, [*self.header, *self.good[:3], *self.broken, *self.good])

    def test_windows_overlap_by_the_hop(self, source: Source) -> None:
        windows = [frame.data[:, 0].tolist() for frame in to_the_end(source)]
        assert windows == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [6, 7, 8, 9]]

    @pytest.mark.parametrize(
        ("length", "hop", "expected"),
        [
            (3, 3, [[0, 1, 2], [3, 4, 5], [6, 7, 8]]),
            (2, 4, [[0, 1], [4, 5], [8, 9]]),
            (9, 1, [[*range(9)], [*range(1, 10)]]),
        ],
    )
    def test_windows_may_touch_or_lie_apart(
        self, tmp_path: Path, length: int, hop: int, expected: list[list[int]]
    ) -> None:
        source = self.of(tmp_path, [*self.header, *self.good], length=length, hop=hop)
        assert [frame.data[:, 0].tolist() for frame in to_the_end(source)] == expected

    def test_a_window_never_spans_a_gap(self, tmp_path: Path) -> None:
        lines = [*self.header, *self.good[:5], self.broken[0], *self.good[5:]]
        source = self.of(tmp_path, lines)
        assert next_frame(source).data[:, 0].tolist() == [0, 1, 2, 3]
        with pytest.raises(FrameError, match=f"samples, line {6 + len(self.header)}"):
            next_frame(source)
        assert next_frame(source).data[:, 0].tolist() == [5, 6, 7, 8]
        source.close()

    def test_the_last_line_may_lack_its_end(self, tmp_path: Path) -> None:
        lines = [*self.header, *self.good[:-1], self.good[-1].rstrip("\n")]
        assert len(to_the_end(self.of(tmp_path, lines))) == 4


class TestCsv(SamplesContract):
    type_name = "csv"
    header: ClassVar = ["time, ay ,ax\r\n"]
    good: ClassVar = [f"12:00,0.5,{index}\n" for index in range(10)]
    broken: ClassVar = [
        "12:00,0.5\n",
        "12:00,0.5,fast\n",
        "12:00,nan,1\n",
        "12:00,1e999,1\n",
        "12:00,1e300,1\n",
        "12:00,0.5\r1,2,3\n",
        f"12:00,{'9' * 140_000},1\n",
        "12:00,0.5,\udcff\n",
    ]

    def test_a_header_without_the_channels_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="no column ax, ay; it has x, y"):
            self.of(tmp_path, ["x,y\n", "1,2\n"]).read(0.2)


class TestJsonLines(SamplesContract):
    type_name = "jsonl"
    good: ClassVar = [f'{{"ax": {index}, "ay": 0.5, "note": "x"}}\n\n' for index in range(10)]
    broken: ClassVar = [
        '{"ax": 1}\n',
        '{"ax": 1, "ay": "fast"}\n',
        '{"ax": 1, "ay": NaN}\n',
        '{"ax": 1, "ay": null}\n',
        "[1, 2]\n",
        "not json\n",
        f"{'[' * 60_000}\n",
        "\udcff\n",
    ]

    def test_a_window_never_spans_a_gap(self, tmp_path: Path) -> None:
        lines = [*self.good[:5], self.broken[0], *self.good[5:]]
        source = self.of(tmp_path, lines)
        assert next_frame(source).data[:, 0].tolist() == [0, 1, 2, 3]
        with pytest.raises(FrameError, match="samples, line 11: field missing"):
            next_frame(source)
        assert next_frame(source).data[:, 0].tolist() == [5, 6, 7, 8]
        source.close()


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


class TestDemoWrist(SourceContract):
    dtype = "float32"
    shape = (100, 6)
    count = 4

    def build(self, folder: Path) -> Source:
        return make("demo-wrist", speed=1e6, windows=4)

    def build_missing(self, folder: Path) -> Source | None:
        return None


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
