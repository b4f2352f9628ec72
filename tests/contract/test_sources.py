"""Sources of pictures: the source contract, and what is theirs alone."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
from broker import wait_until
from cameras import HttpCamera, RtspServer, grey, jpeg
from needs import need_module

from edge.errors import FrameError, SourceError
from edge.seams import Source
from edge.sources import images
from edge.types import Array, Frame

from .source_contract import (
    BadFramesContract,
    SourceContract,
    make,
    next_frame,
    to_the_end,
)


def pictures(count: int) -> list[Array]:
    return [grey(20 + 40 * index % 240) for index in range(count)]


def write_video(file: Path, count: int = 4) -> Path:
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for picture in pictures(count):
        writer.write(picture)
    writer.release()
    return file


def write_timed_video(file: Path, moments_ms: list[int]) -> Path:
    """A video whose pictures have times of their own."""
    import av

    with av.open(str(file), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 64, 48
        stream.codec_context.time_base = Fraction(1, 1000)
        for picture, moment_ms in zip(pictures(len(moments_ms)), moments_ms, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts, frame.time_base = moment_ms, Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file


# ---- files


class VideoContract(SourceContract):
    library: str
    stamped_on_arrival = False

    @pytest.fixture(autouse=True)
    def there(self) -> None:
        need_module("av" if self.library == "pyav" else "cv2")

    def build(self, folder: Path) -> Source:
        return make("video", path=write_video(folder / "v.avi"), library=self.library)

    def build_missing(self, folder: Path) -> Source | None:
        return make("video", path=folder / "missing.avi", library=self.library)

    def test_it_gives_every_picture_in_order(self, source: Source) -> None:
        means = [float(frame.data.mean()) for frame in to_the_end(source)]
        assert means == pytest.approx([20, 60, 100, 140], abs=4)

    def test_it_can_be_played_again_and_again(self, tmp_path: Path) -> None:
        file = write_video(tmp_path / "v.avi")
        source = make("video", path=file, loop=True, library=self.library)
        frames = [next_frame(source) for _ in range(10)]
        assert [frame.number for frame in frames] == list(range(10))
        steps = np.diff([frame.mono_ns for frame in frames]) / 1e6
        assert steps == pytest.approx([40.0] * 9, abs=1), "time goes on where it begins anew"
        source.close()

    def test_a_file_that_is_no_video_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "text.mp4").write_text("this is no video")
        with pytest.raises(SourceError, match=r"text.mp4: not a video"):
            make("video", path=tmp_path / "text.mp4", library=self.library).read(0.2)

    def test_frames_have_the_times_of_the_file(self, tmp_path: Path) -> None:
        need_module("av")
        file = write_timed_video(tmp_path / "v.mp4", [0, 40, 1500, 1540])
        frames = to_the_end(make("video", path=file, library=self.library))
        for clock in ("mono_ns", "wall_ns"):
            moments = np.array([getattr(frame, clock) for frame in frames])
            assert (moments - moments[0]) / 1e6 == pytest.approx([0, 40, 1500, 1540], abs=2)

    def test_it_says_what_it_reads_and_that_the_processor_decodes_it(self, source: Source) -> None:
        next_frame(source)
        assert source.state.detail == f"mjp? 64x48, {self.library}, decoding: software".replace(
            "mjp?", "mjpeg" if self.library == "pyav" else "mjpg"
        )


class TestVideoByPyav(VideoContract):
    library = "pyav"


class TestVideoByOpenCv(VideoContract):
    library = "opencv"


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


# ---- what is live


class LiveContract(SourceContract):
    """What is not there is a state, and never the death of the pipeline."""

    live = True
    count = None
    says_missing = "cannot be opened"

    def test_what_is_not_there_is_said(self, tmp_path: Path) -> None:
        source = self.build_missing(tmp_path)
        assert source is not None
        wait_until(lambda: source.read(0.05) is None and source.state.state == "lost", 20)
        for _ in range(3):
            began = time.monotonic()
            assert source.read(0.05) is None
            assert time.monotonic() - began < 5
        assert self.says_missing in source.state.detail and "missing" in source.state.detail
        assert "s3cret" not in source.state.detail + repr(source.state)
        source.close()

    def test_what_was_closed_stays_closed(self, source: Source) -> None:
        next_frame(source)
        source.close()
        assert source.read(0.05) is None

    def test_closing_ends_a_wait_for_the_next_try(self, tmp_path: Path) -> None:
        source = self.build_missing(tmp_path)
        assert source is not None
        assert_closing_ends_a_read(source)


def assert_closing_ends_a_read(source: Source) -> None:
    results: list[Frame | None] = []
    waiting = threading.Thread(target=lambda: results.append(source.read(60.0)), daemon=True)
    waiting.start()
    time.sleep(0.2)
    source.close()
    waiting.join(20)
    assert results == [None]


class HangContract(LiveContract):
    """What hangs is lost, is closed all the same, and comes back."""

    def hang(self) -> None:
        raise NotImplementedError

    def mend(self) -> None:
        raise NotImplementedError

    def test_what_hangs_is_lost_and_comes_back(self, source: Source) -> None:
        before = next_frame(source)
        self.hang()
        wait_until(lambda: source.read(0.05) is None and source.state.state == "lost", 20)
        self.mend()
        last = next_frame(source)
        assert last.number > before.number + 1, "it does not follow on the last one"
        assert source.state.state == "running"

    def test_closing_ends_a_read_that_hangs(self, source: Source) -> None:
        next_frame(source)
        self.hang()
        wait_until(lambda: source.read(0.05) is None, 20)
        assert_closing_ends_a_read(source)


class CameraFromAFile(LiveContract):
    """A file stands in for a device: when it ends, the camera is lost, and comes back."""

    library: str

    def build(self, folder: Path) -> Source:
        return self.of(folder, 4000)  # so that its end is not reached while it is looked at

    def of(self, folder: Path, count: int) -> Source:
        return make("camera", url=str(write_video(folder / "v.avi", count)), library=self.library)

    def build_missing(self, folder: Path) -> Source | None:
        return make("camera", url=str(folder / "missing.avi"), library=self.library)

    def test_a_camera_that_was_lost_comes_back(self, tmp_path: Path) -> None:
        source = self.of(tmp_path, 6)
        first = next_frame(source)
        wait_until(lambda: source.read(0.05) is None and source.state.state == "lost", 10)
        assert next_frame(source).number > first.number + 1
        source.close()


class TestCameraFromAFileByPyav(CameraFromAFile):
    library = "pyav"


class TestCameraFromAFileByOpenCv(CameraFromAFile):
    library = "opencv"


class MjpegContract(HangContract):
    library: str

    @pytest.fixture(autouse=True)
    def camera(self) -> Iterator[HttpCamera]:
        need_module("av" if self.library == "pyav" else "cv2")
        with HttpCamera() as self.server:
            yield self.server

    def build(self, folder: Path) -> Source:
        return self.at("/stream")

    def at(self, path: str) -> Source:
        url = self.server.address + path
        return make("camera", url=url, library=self.library, stale_s=1.0)

    def build_missing(self, folder: Path) -> Source | None:
        return self.at("/missing")

    def hang(self) -> None:
        self.server.mode = "hang"

    def mend(self) -> None:
        self.server.mode = "good"

    def test_a_server_that_dies_is_a_state(self, source: Source) -> None:
        next_frame(source)
        self.server.kill()
        wait_until(lambda: source.read(0.05) is None and source.state.state == "lost", 20)
        assert "s3cret" not in source.state.detail
        self.server.start()
        next_frame(source)

    def test_an_address_is_shown_without_its_password(self) -> None:
        shown = self.server.address.replace("viewer:s3cret", "***") + "/stream"
        assert self.at("/stream").state.detail == shown

    def test_another_size_is_another_frame_and_is_said(self, source: Source) -> None:
        assert next_frame(source).data.shape == (48, 64, 3)
        self.server.size = (128, 96)
        wait_until(lambda: next_frame(source).data.shape == (96, 128, 3), 20)
        assert "128x96" in source.state.detail


class TestMjpegByPyav(MjpegContract):
    library = "pyav"


class TestMjpegByOpenCv(MjpegContract):
    library = "opencv"

    def test_another_size_is_another_frame_and_is_said(self, source: Source) -> None:
        """OpenCV scales what comes to the size that came first."""
        next_frame(source)
        self.server.size = (128, 96)
        for _ in range(20):
            assert next_frame(source).data.shape == (48, 64, 3)


@pytest.fixture(scope="module")
def rtsp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RtspServer]:
    folder = tmp_path_factory.mktemp("rtsp")
    with RtspServer(folder, fps="50", user="viewer", password="s3cret") as server:
        yield server


class RtspContract(HangContract):
    library: str
    shape = (240, 320, 3)

    @pytest.fixture(autouse=True)
    def here(self, rtsp: RtspServer) -> None:
        need_module("av" if self.library == "pyav" else "cv2")
        self.server = rtsp

    def build(self, folder: Path) -> Source:
        return make("camera", url=self.server.url, library=self.library, stale_s=1.5)

    def build_missing(self, folder: Path) -> Source | None:
        return make("camera", url=self.server.url + "/missing", library=self.library)

    def hang(self) -> None:
        self.server.stop()

    def mend(self) -> None:
        self.server.go_on()

    def test_closing_ends_a_read_that_hangs(self, source: Source) -> None:
        super().test_closing_ends_a_read_that_hangs(source)
        self.mend()


class TestRtspByPyav(RtspContract):
    library = "pyav"


class TestRtspByOpenCv(RtspContract):
    library = "opencv"


class TestSnapshots(HangContract):
    says_missing = "the server answers 404"

    @pytest.fixture(autouse=True)
    def camera(self) -> Iterator[HttpCamera]:
        with HttpCamera() as self.server:
            yield self.server

    def build(self, folder: Path) -> Source:
        return self.at("/shot.jpg")

    def at(self, path: str) -> Source:
        return make("snapshots", url=self.server.address + path, every_s=0.05, timeout_s=0.5)

    def build_missing(self, folder: Path) -> Source | None:
        return self.at("/missing.jpg")

    def hang(self) -> None:
        self.server.mode = "hang"

    def mend(self) -> None:
        self.server.mode = "good"

    @pytest.mark.parametrize("authentication", ["basic", "digest"])
    def test_a_password_is_answered_when_it_is_asked_for(self, authentication: str) -> None:
        self.server.authentication = authentication
        source = self.at("/shot.jpg")
        assert [next_frame(source).data.shape for _ in range(3)] == [self.shape] * 3
        source.close()

    def test_a_wrong_password_is_said(self) -> None:
        self.server.authentication = "digest"
        url = self.server.address.replace("s3cret", "s3cret-wrong") + "/shot.jpg"
        source = make("snapshots", url=url, every_s=0.05)
        wait_until(lambda: source.read(0.05) is None and source.state.state == "lost", 20)
        assert "the server answers 401" in source.state.detail
        assert "s3cret" not in source.state.detail
        source.close()

    @pytest.mark.parametrize(
        ("mode", "says"), [("drip", "no whole picture within"), ("endless", "larger than 32 MiB")]
    )
    def test_what_never_ends_is_ended(self, source: Source, mode: str, says: str) -> None:
        next_frame(source)
        self.server.mode = mode
        wait_until(lambda: source.read(0.05) is None and source.state.state == "lost", 20)
        assert says in source.state.detail
        self.server.mode = "good"
        next_frame(source)

    def test_what_is_no_picture_is_a_bad_frame(self, source: Source) -> None:
        next_frame(source)
        self.server.mode = "noise"
        with pytest.raises(FrameError, match="700 bytes, is not a picture"):
            wait_until(lambda: source.read(0.05) and False, 20)

    def test_pictures_are_asked_for_at_their_pace(self) -> None:
        source = make("snapshots", url=self.server.address + "/shot.jpg", every_s=3600.0)
        next_frame(source)
        assert source.read(0.3) is None and self.server.connections == 1
        source.close()


class TestArrivingImages(LiveContract):
    """A folder that is filled while it is watched."""

    says_missing = "there is no"

    @pytest.fixture(autouse=True)
    def filled(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        monkeypatch.setattr(images, "_WHOLE_S", 0.3)
        monkeypatch.setattr(images, "_LOOK_S", 0.05)
        self.folder = tmp_path / "shots"
        self.folder.mkdir()
        cv2.imwrite(str(self.folder / "old.png"), grey(0))
        done = threading.Event()

        def fill() -> None:
            number = 0
            while not done.wait(0.05):
                cv2.imwrite(str(self.folder / f"{number:04}.png"), grey(100))
                number += 1

        self.filling = threading.Thread(target=fill, daemon=True)
        self.done = done
        yield self.folder
        done.set()

    def build(self, folder: Path) -> Source:
        source = make("images", path=self.folder, watch=True)
        source.read(0.1)
        if not self.filling.is_alive():
            self.filling.start()
        return source

    def build_missing(self, folder: Path) -> Source | None:
        return make("images", path=folder / "missing", watch=True)

    def test_what_was_there_is_not_new_and_what_is_written_anew_is(self, tmp_path: Path) -> None:
        source = make("images", path=self.folder / "*.png", watch=True)
        wait_until(lambda: source.read(0.05) is None and source.state.state == "running")
        cv2.imwrite(str(self.folder / "b.png"), grey(50))
        assert next_frame(source).data.mean() == 50
        cv2.imwrite(str(self.folder / "old.png"), grey(200))
        assert next_frame(source).data.mean() == 200
        source.close()

    def test_a_file_is_taken_when_it_is_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(images, "_WHOLE_S", 1.0)
        source = make("images", path=self.folder, watch=True)
        wait_until(lambda: source.read(0.05) is None and source.state.state == "running")
        data = jpeg(grey(77))
        with open(self.folder / "slow.jpg", "wb") as file:
            for start in range(0, len(data), 100):
                file.write(data[start : start + 100])
                file.flush()
                assert source.read(0.1) is None, "it is still being written"
        (self.folder / "renamed.part").write_bytes(jpeg(grey(130)))
        assert next_frame(source).data.mean() == pytest.approx(77, abs=2)
        os.rename(self.folder / "renamed.part", self.folder / "renamed.jpg")
        assert next_frame(source).data.mean() == pytest.approx(130, abs=2)
        source.close()

    def test_a_folder_that_goes_is_lost_and_comes_back(self) -> None:
        source = make("images", path=self.folder, watch=True)
        wait_until(lambda: source.read(0.05) is None and source.state.state == "running")
        aside = self.folder.rename(self.folder.with_name("aside"))
        wait_until(lambda: source.read(0.05) is None and source.state.state == "lost")
        aside.rename(self.folder)
        wait_until(lambda: source.read(0.05) is None and source.state.state == "running")
        cv2.imwrite(str(self.folder / "b.png"), grey(50))
        assert next_frame(source).data.mean() == 50, "what was known stays known"
        source.close()


class TestPiCamera(LiveContract):
    """picamera2 exists on a Raspberry Pi alone: here a stand-in with the calls that are made."""

    shape = (720, 1280, 3)
    says_missing = "cannot be opened"

    class Stand:
        there: ClassVar[bool] = True

        def __init__(self, camera_num: int) -> None:
            if not self.there:
                raise IndexError("camera is missing")

        def create_video_configuration(self, **options: object) -> dict[str, object]:
            return options

        def configure(self, options: dict[str, dict[str, object]]) -> None:
            assert options["main"]["format"] == "RGB888"
            self._size = options["main"]["size"]

        def start(self) -> None:
            pass

        def capture_array(self, name: str) -> Array:
            time.sleep(0.01)
            width, height = self._size  # type: ignore[misc]
            return grey(7, width=width, height=height)

        def stop(self) -> None:
            pass

        def close(self) -> None:
            pass

    @pytest.fixture(autouse=True)
    def picamera2(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import sys
        import types

        module = types.ModuleType("picamera2")
        module.Picamera2 = self.Stand  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "picamera2", module)
        monkeypatch.setattr(self.Stand, "there", True)
        self.patch = monkeypatch

    def build(self, folder: Path) -> Source:
        return make("picamera")

    def build_missing(self, folder: Path) -> Source | None:
        self.patch.setattr(self.Stand, "there", False)
        return make("picamera")


def test_a_board_without_picamera2_is_told_how_to_get_it() -> None:
    with pytest.raises(SourceError, match="apt install python3-picamera2"):
        make("picamera").read(5.0)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        (99, "/dev/video99"),
        ("99", "/dev/video99"),
        ("/dev/v4l/by-id/usb-x", "/dev/v4l/by-id/usb-x"),
    ],
)
def test_a_device_that_is_not_there_is_lost(url: str | int, path: str) -> None:
    source = make("camera", url=url)
    wait_until(lambda: source.read(0.05) is None and source.state.state == "lost", 10)
    assert source.state.detail.endswith(f"cannot be opened: there is no {path}")
    source.close()


def test_a_gstreamer_pipeline_needs_an_opencv_that_has_it() -> None:
    if cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        source = make("camera", url="videotestsrc ! videoconvert ! appsink")
        assert next_frame(source).data.shape[2] == 3
        source.close()
        return
    with pytest.raises(SourceError, match="built without GStreamer"):
        make("camera", url="videotestsrc ! videoconvert ! appsink").read(5.0)


def test_hardware_that_is_not_there_is_not_claimed(tmp_path: Path) -> None:
    need_module("av")
    file = write_video(tmp_path / "v.avi")
    for hardware in ("auto", "cuda", "vaapi", "v4l2m2m"):
        source = make("video", path=file, library="pyav", hardware=hardware)
        assert len(to_the_end(source)) == 4, hardware
    for hardware in ("auto", "vaapi"):
        source = make("video", path=file, library="opencv", hardware=hardware)
        next_frame(source)
        assert source.state.detail.endswith("decoding: software")
        source.close()
    with pytest.raises(SourceError, match="OpenCV does not decode by cuda"):
        make("video", path=file, library="opencv", hardware="cuda").read(1.0)
