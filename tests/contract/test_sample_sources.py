"""Sources of samples: the source contract, and what is theirs alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from needs import need_assets, need_module

from edge.errors import ConfigError, FrameError, SourceError
from edge.seams import Source

from .source_contract import (
    BadFramesContract,
    SourceContract,
    make,
    next_frame,
    to_the_end,
)

CHANNELS = ("ax", "ay")


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


class TestDemoWrist(SourceContract):
    dtype = "float32"
    shape = (100, 6)
    count = 4

    def build(self, folder: Path) -> Source:
        return make("demo-wrist", speed=1e6, windows=4)

    def build_missing(self, folder: Path) -> Source | None:
        return None


# ---- samples that say when they were taken

RAGGED = [0.0, 0.02, 0.035, 0.05, 0.05, 0.01, 0.07, 0.09, 0.1, 0.11, 5.0, 5.02, 5.04, 5.06, 5.08]
"""Seconds: one twice, one too late, a hole, and never in step with 50 a second for long."""


def ragged(folder: Path, type_name: str) -> Source:
    file = folder / "ragged"
    if type_name == "csv":
        rows = ["ms,ax,ay", *(f"{1000 * at:g},{at},1" for at in RAGGED)]
    else:
        rows = [f'{{"ms": {1000 * at:g}, "ax": {at}, "ay": 1}}' for at in RAGGED]
    file.write_text("\n".join(rows))
    return make(
        type_name, path=file, channels=list(CHANNELS), length=4, hop=2, rate_hz=50.0, time="ms",
        time_unit="ms",
    )  # fmt: skip


@pytest.mark.parametrize("type_name", ["csv", "jsonl"])
def test_samples_are_put_on_a_regular_grid(tmp_path: Path, type_name: str) -> None:
    source = ragged(tmp_path, type_name)
    frames = to_the_end(source)
    assert [frame.number for frame in frames] == [0, 1, 3], "the hole shows in the numbers"
    for frame, starts in zip(frames, [0.0, 0.04, 5.0], strict=True):
        wanted = starts + np.arange(4) / 50
        np.testing.assert_allclose(frame.data[:, 0], wanted, atol=1e-6)
    assert source.counts == {  # type: ignore[attr-defined]
        "samples": 15, "used": 13, "late": 1, "duplicate": 1, "bad": 0, "gaps": 1,
    }  # fmt: skip


def test_a_file_on_a_grid_must_say_when(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rate_hz needs `time`"):
        make("csv", path=tmp_path / "x", channels=["a"], length=4, hop=2, rate_hz=50.0)


# ---- sound files


class TestWav(SourceContract):
    dtype = "float32"
    shape = (400, 1)
    count = 4

    def build(self, folder: Path) -> Source:
        need_module("soundfile")
        import soundfile

        wave = np.stack([np.arange(1000), np.arange(1000) * 3], axis=1) / 4000
        soundfile.write(folder / "saw.wav", wave, 8000, "FLOAT")
        return self.of(folder / "saw.wav")

    def of(self, file: Path, **options: Any) -> Source:
        window = {"channels": ["sound"], "length": 400, "hop": 200, "rate_hz": 8000.0, **options}
        return make("wav", path=file, **window)

    def build_missing(self, folder: Path) -> Source | None:
        return self.of(folder / "missing.wav")

    def test_two_channels_are_mixed_into_one(self, source: Source) -> None:
        for start, frame in enumerate(to_the_end(source)):
            wanted = (np.arange(400) + 200 * start) / 2000
            np.testing.assert_allclose(frame.data[:, 0], wanted, atol=1e-6)

    def test_two_channels_may_stay_two(self, tmp_path: Path) -> None:
        self.build(tmp_path).close()
        source = self.of(tmp_path / "saw.wav", channels=["left", "right"])
        assert next_frame(source).data[1].tolist() == pytest.approx([1 / 4000, 3 / 4000])
        source.close()

    def test_another_rate_is_said(self, tmp_path: Path) -> None:
        self.build(tmp_path).close()
        with pytest.raises(SourceError, match=r"2 channels at 8000 Hz; the model takes 1 at 16000"):
            self.of(tmp_path / "saw.wav", rate_hz=16_000.0).read(0.1)

    @pytest.mark.parametrize("data", [b"", b"RIFF", b"no sound" * 100])
    def test_a_file_that_holds_no_sound_is_said(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "x.wav").write_bytes(data)
        with pytest.raises(SourceError, match=r"x.wav: not a sound file"):
            self.of(tmp_path / "x.wav").read(0.1)

    def test_values_that_are_not_finite_are_bad(self, tmp_path: Path) -> None:
        self.build(tmp_path).close()
        import soundfile

        wave = np.zeros(40_000, np.float32)
        wave[5] = np.nan
        soundfile.write(tmp_path / "nan.wav", wave, 8000, "FLOAT")
        source = self.of(tmp_path / "nan.wav")
        with pytest.raises(FrameError, match="not finite"):
            next_frame(source)
        assert len(to_the_end(source)) > 100
        source.close()

    @pytest.mark.parametrize("name", ["yes", "no", "noise", "silence"])
    def test_recordings_by_others(self, name: str) -> None:
        file = need_assets() / "audio" / f"{name}.wav"
        frames = to_the_end(self.of(file, length=16_000, hop=16_000, rate_hz=16_000.0))
        assert [frame.data.shape for frame in frames] == [(16_000, 1)]
        assert 0 <= np.abs(frames[0].data).max() <= 1
