"""Sources of samples: the source contract, and what is theirs alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from edge.errors import FrameError, SourceError
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
