"""Lines and payloads by anybody: a sample or an error, and never anything else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import FrameError, SourceError
from edge.sources.records import MAX_LINE_BYTES, Csv, Json, LineBuffer, Records, Sample


def lines_of(buffer: LineBuffer, *, ended: bool = False) -> list[str]:
    """The lines there are; "!" for one that cannot be used."""
    lines = []
    while True:
        try:
            line = buffer.take(ended=ended)
        except FrameError:
            line = "!"
        if line is None:
            return lines
        lines.append(line)


@given(st.lists(st.binary(max_size=9)), st.sampled_from(["\n", "\r\n", ";"]))
def test_lines_do_not_depend_on_the_pieces_in_which_they_come(
    pieces: list[bytes], newline: str
) -> None:
    buffer, found = LineBuffer(newline), []
    for piece in pieces:
        buffer.put(piece)
        found += lines_of(buffer)
    found += lines_of(buffer, ended=True)
    whole = LineBuffer(newline)
    whole.put(b"".join(pieces))
    assert found == lines_of(whole, ended=True)
    assert len(found) in range(b"".join(pieces).count(newline.encode()) + 2)


def test_a_line_that_never_ends_is_one_error_and_is_not_kept() -> None:
    buffer, found = LineBuffer(), []
    for _ in range(40):
        buffer.put(b"7" * 10_000)
        found += lines_of(buffer)
    assert len(buffer._rest) <= MAX_LINE_BYTES + 10_000
    buffer.put(b"8\n1,2\n")
    assert found + lines_of(buffer) == ["!", "1,2"], "its end is not taken for a line"


def test_what_began_before_we_listened_is_dropped() -> None:
    buffer = LineBuffer(mid_line=True)
    buffer.put(b"4,15\n1,2\n")
    assert lines_of(buffer) == ["1,2"]


def test_columns_may_be_named_by_us() -> None:
    parser = Csv(["b", "a"], time="ms", unit_s=1e-3, columns=["ms", "a", "b"])
    sample = parser.sample("1500, 1, 2")
    assert sample is not None
    assert (sample.values.tolist(), sample.time_s) == ([2.0, 1.0], 1.5)
    with pytest.raises(SourceError, match="no column c"):
        Csv(["c"], columns=["a"])


@pytest.mark.parametrize(
    ("field", "document"),
    [
        ("x", {"x": 3}),
        ("acc.x", {"acc": {"x": 3}}),
        ("acc.x", {"acc.x": 3, "acc": {"x": 4}}),
        ("data.values.1", {"data": {"values": [1, 3]}}),
        ("x", 3),
    ],
)
def test_fields_are_found_by_key_and_by_path(field: str, document: object) -> None:
    sample = Json([field]).sample(json.dumps(document))
    assert sample is not None and sample.values.tolist() == [3.0]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=8,
)


@given(st.text() | _JSON.map(json.dumps) | st.just('{"a": 1' + "0" * 9000 + "}"))
def test_any_text_is_a_sample_or_an_error(text: str) -> None:
    parsers: list[Records] = [Json(["a"]), Json(["a.b", "c.0"], time="b"), Csv(["a"], columns="a")]
    for parser in parsers:
        try:
            sample = parser.sample(text)
        except FrameError:
            continue
        assert sample is None or isinstance(sample, Sample)
