"""What every source must do; its subclasses are in the test files beside it, one an adapter."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge import config as configuration
from edge import seams
from edge.errors import FrameError, SourceError
from edge.seams import EndOfStream, Source
from edge.types import Frame


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
    stamped_on_arrival = True
    """Otherwise by the times of a file, which may lie ahead."""

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
        numbers = [frame.number for frame in frames]
        assert numbers[0] == 0 and numbers == sorted({*numbers})
        assert self.live or numbers == [0, 1, 2, 3], "only what is live leaves frames out"
        moments = [frame.mono_ns for frame in frames]
        assert moments == sorted(moments)
        assert not self.stamped_on_arrival or moments[-1] <= time.monotonic_ns()
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

    def test_what_was_closed_can_be_opened_by_another(self, tmp_path: Path) -> None:
        for _ in range(2):
            source = self.build(tmp_path)
            next_frame(source)
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
