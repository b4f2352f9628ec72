"""Windows of samples: by count, on a regular grid, and never across a gap."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import ConfigError, FrameError
from edge.manifest import WindowPreprocess
from edge.sources.mqtt import Mqtt
from edge.sources.windows import Plan, TimedConfig, Window, WindowConfig, Windows, plan
from edge.types import Array

WRIST = WindowPreprocess(
    length=100, hop=50, rate_hz=50.0, channels=("a", "b"), mean=(0.0, 0.0), std=(1.0, 1.0)
)


def grid(rate_hz: float = 10.0, length: int = 4, hop: int = 2, max_gap_s: float = 0.5) -> Windows:
    return Windows(
        Plan(
            channels=("t",), length=length, hop=hop, rate_hz=rate_hz, on_grid=True,
            max_gap_s=max_gap_s,
        )
    )  # fmt: skip


def feed(windows: Windows, times: list[float]) -> list[tuple[int, list[float]]]:
    """Samples whose value is their time; the windows, each with its number."""
    made = []
    for time_s in times:
        windows.add(np.array([time_s], np.float32), time_s)
        while (window := windows.take()) is not None:
            made.append((window[0], window[1][:, 0].tolist()))
    return made


# ---- by count


@given(
    st.integers(1, 9),
    st.integers(1, 12),
    st.lists(st.integers(0, 7), max_size=30),
)
def test_windows_do_not_depend_on_the_pieces_in_which_samples_come(
    length: int, hop: int, pieces: list[int]
) -> None:
    samples = np.arange(sum(pieces), dtype=np.float32)[:, None]
    window = Window(length, hop, 1)
    made = []
    done = 0
    for piece in pieces:
        window.put(samples[done : done + piece])
        done += piece
        while (whole := window.take()) is not None:
            made.append(whole[:, 0].tolist())
    starts = range(0, len(samples) - length + 1, hop)
    assert made == [samples[start : start + length, 0].tolist() for start in starts]


# ---- on a grid


def test_samples_in_between_are_put_on_the_grid() -> None:
    made = feed(grid(), [0.0, 0.15, 0.25, 0.4])
    assert made == [(0, pytest.approx([0.0, 0.1, 0.2, 0.3]))]


def test_samples_that_lie_on_the_grid_stay_what_they_are() -> None:
    times = [1_700_000_000 + index / 50 for index in range(101)]
    windows = grid(rate_hz=50.0, length=100, hop=100, max_gap_s=1.0)
    made: list[Array] = []
    for index, time_s in enumerate(times):
        windows.add(np.array([index % 7], np.float32), time_s)
        if (window := windows.take()) is not None:
            made.append(window[1])
    assert len(made) == 1
    np.testing.assert_allclose(made[0][:, 0], np.arange(100) % 7, atol=1e-3)


def test_a_slow_sensor_fills_a_fast_grid() -> None:
    windows = grid(rate_hz=100.0, length=30, hop=10, max_gap_s=2.0)
    made = feed(windows, [0.0, 1.0])
    assert [number for number, _ in made] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert made[7][1] == pytest.approx([0.7 + index / 100 for index in range(30)], abs=1e-6)


def test_a_longer_hole_starts_the_window_anew_and_its_number_skips() -> None:
    windows = grid()
    made = feed(windows, [0.0, 0.1, 0.2, 0.3, 0.4, 5.0, 5.1, 5.2, 5.3])
    assert [(number, round(window[0], 3)) for number, window in made] == [(0, 0.0), (2, 5.0)]
    assert windows.counts["gaps"] == 1


def test_late_and_duplicate_samples_are_dropped_and_counted() -> None:
    windows = grid()
    assert feed(windows, [0.0, 0.1, 0.1, 0.05, 0.2, 0.2, 0.0, 0.3]) == [
        (0, pytest.approx([0.0, 0.1, 0.2, 0.3]))
    ]
    counts = {"samples": 8, "used": 4, "late": 2, "duplicate": 2, "bad": 0, "gaps": 0}
    assert windows.counts == counts


def test_a_clock_that_was_set_back_is_a_new_start() -> None:
    windows = grid()
    made = feed(windows, [100.0, 100.1, 100.2, 100.3, 0.0, 0.1, 0.2, 0.3])
    assert [(number, round(window[0], 3)) for number, window in made] == [(0, 100.0), (2, 0.0)]
    assert windows.counts["late"] == 0 and windows.counts["gaps"] == 1


def test_one_time_from_the_far_future_does_not_stop_the_stream_for_good() -> None:
    windows = grid()
    made = feed(windows, [0.0, 1e12, 0.1, 0.2, 0.3, 0.4])
    assert [number for number, _ in made] == [0]
    assert made[0][1] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_behind_a_bad_sample_a_late_one_is_still_late() -> None:
    windows = grid()
    feed(windows, [0.0, 0.1, 0.2])
    windows.bad()
    assert feed(windows, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == [
        (0, pytest.approx([0.3, 0.4, 0.5, 0.6]))
    ]
    assert (windows.counts["late"], windows.counts["duplicate"]) == (1, 1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_bad(bad: float) -> None:
    windows = grid()
    with pytest.raises(FrameError):
        windows.add(np.array([bad], np.float32), 0.0)
    with pytest.raises(FrameError):
        windows.add(np.array([1.0], np.float32), bad)
    with pytest.raises(FrameError):
        windows.extend(np.array([[1.0], [bad]], np.float32))
    assert windows.counts["bad"] == windows.counts["samples"] == 4


_steps = st.one_of(
    st.floats(-0.05, 0.3),
    st.sampled_from([0.0, 0.05, 0.1, 0.1, 0.1, 0.25, 0.7, 3.0]),
    st.floats(-5.0, 5.0),
    st.sampled_from([1e9, -1e9, float("nan"), float("inf")]),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(_steps, max_size=60),
    st.sampled_from([3.0, 10.0, 50.0]),
    st.integers(1, 6),
    st.integers(1, 8),
    st.sampled_from([0.2, 0.5, 2.0]),
)
def test_whatever_the_order_of_arrival(
    steps: list[float], rate_hz: float, length: int, hop: int, max_gap_s: float
) -> None:
    """Two channels: the time, which tells where a point of the grid lies, and noise."""
    windows = Windows(
        Plan(
            channels=("t", "v"), length=length, hop=hop, rate_hz=rate_hz, on_grid=True,
            max_gap_s=max_gap_s,
        )
    )  # fmt: skip
    noise = np.random.default_rng(len(steps))
    used: list[tuple[float, float]] = []
    numbers: list[int] = []
    now = 0.0
    for step in steps:
        now = now + step if np.isfinite(step) else now
        time_s = now if np.isfinite(step) else step
        value = float(np.float32(noise.normal()))
        before = windows.counts["used"]
        try:
            windows.add(np.array([time_s, value], np.float32), time_s)
        except FrameError:
            pass
        if windows.counts["used"] > before:
            used.append((time_s, value))
        while (window := windows.take()) is not None:
            numbers.append(window[0])
            if abs(now) < 1000:  # else float32 cannot hold the time
                _check(window[1], used, rate_hz, max_gap_s)
    assert numbers == sorted(set(numbers))
    counts = windows.counts
    assert counts["samples"] == len(steps)
    assert counts["samples"] == sum(counts[key] for key in ("used", "late", "duplicate", "bad"))


def _check(
    window: Array, used: list[tuple[float, float]], rate_hz: float, max_gap_s: float
) -> None:
    """The grid is regular, no gap lies in it, and each point lies within its neighbours."""
    moments = window[:, 0].astype(float)
    np.testing.assert_allclose(np.diff(moments), 1 / rate_hz, atol=2e-3)
    first = max(i for i, (time_s, _) in enumerate(used) if time_s <= moments[0] + 2e-3)
    times = np.array([time_s for time_s, _ in used[first:]])
    inside = times[: int((times < moments[-1] - 2e-3).sum()) + 1]  # with the one behind its end
    assert (np.diff(inside) <= max_gap_s + 1e-9).all() and (np.diff(inside) > 0).all()
    for moment, value in zip(moments, window[:, 1], strict=True):
        near = [v for t, v in used if abs(t - moment) < max_gap_s + 4e-3]
        assert near and min(near) - 1e-6 <= value <= max(near) + 1e-6


# ---- what is configured


def test_what_is_left_out_comes_from_the_bundle() -> None:
    assert plan(WindowConfig(), WRIST, name="s") == Plan(channels=("a", "b"), length=100, hop=50)
    polled = plan(WindowConfig(), WRIST, name="s", rated=True)
    assert (polled.rate_hz, polled.on_grid, polled.max_gap_s) == (50.0, True, 2.0)
    single = plan(WindowConfig(length=1, hop=1), WRIST, name="s", rated=True)
    assert (single.rate_hz, single.on_grid) == (50.0, False), "asked in step already"
    by_time = plan(WindowConfig(window_s=0.5, hop_s=0.1, rate_hz=100.0), WRIST, name="s")
    assert (by_time.length, by_time.hop, by_time.max_gap_s) == (50, 10, 0.5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"window_s": 1.0}, "need rate_hz"),
        ({}, "channels, length and hop are needed"),
        ({"rate_hz": 1e9, "length": 4, "hop": 1, "max_gap_s": 60.0, "channels": ("a",)}, "shorter"),
    ],
)
def test_what_cannot_be_is_said(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        plan(WindowConfig(**options), None, name="s")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rate_hz": -1.0}, "rate_hz"),
        ({"max_gap_s": float("nan")}, "max_gap_s"),
        ({"length": 4, "window_s": 1.0}, "not both"),
        ({"channels": ("a", "a")}, "one name"),
    ],
)
def test_values_that_make_no_sense_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TimedConfig(**options)


def test_a_source_at_a_broker_describes_its_window_as_all_others_do() -> None:
    """Its configuration is that of a connection, which cannot be that of a window, too."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(Mqtt.Config)}
    for field in msgspec.structs.fields(TimedConfig):
        assert defaults[field.name] == field.default, field.name
