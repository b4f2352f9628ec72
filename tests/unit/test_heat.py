from __future__ import annotations

from edge.heat import STEPS, Heat
from edge.pace import Pace


def run(heat: Heat, temperatures: list[float | None], *, start_s: float = 0.0) -> list[float]:
    """The share after each second."""
    shares = []
    for second, temperature in enumerate(temperatures):
        heat.look(temperature, start_s + second)
        shares.append(heat.share)
    return shares


def test_heat_lowers_the_rate_step_by_step_down_to_the_least() -> None:
    shares = run(Heat(max_c=80, step_s=10), [70.0] * 5 + [81.0] * 60)
    assert [shares[second] for second in (4, 5, 14, 15, 25)] == [1.0, 0.75, 0.75, 0.55, 0.4]
    assert shares[-1] == STEPS[-1] and len(set(shares)) == len(STEPS)


def test_between_the_limit_and_five_degrees_below_nothing_changes() -> None:
    heat = Heat(max_c=80, step_s=10)
    run(heat, [85.0] * 12)
    assert set(run(heat, [80.0, 78.0, 75.1] * 100, start_s=12)) == {0.55}


def test_a_board_that_has_cooled_down_gets_its_rate_back_step_by_step() -> None:
    heat = Heat(max_c=80, step_s=10)
    run(heat, [85.0] * 12)
    shares = run(heat, [70.0] * 100, start_s=12)
    assert (shares[29], shares[30], shares[60], shares[61]) == (0.55, 0.75, 0.75, 1.0)


def test_a_short_dip_is_no_recovery() -> None:
    heat = Heat(max_c=80, step_s=10)
    run(heat, [85.0] * 2)
    assert set(run(heat, ([70.0] * 20 + [79.0]) * 5, start_s=2)) == {0.75}


def test_a_rate_that_proved_too_high_is_tried_again_ever_later() -> None:
    """A board that is too hot at full rate and cool at the next step: no endless to and fro."""
    heat = Heat(max_c=80, step_s=10)
    steps = []
    for second in range(3600):
        step = heat.look(85.0 if heat.share > 0.55 else 70.0, second)
        if step:
            steps.append(second)
    assert len(steps) < 3600 / (10 * 3) / 2
    late = [after - before for before, after in zip(steps[-5:], steps[-4:], strict=False)]
    assert max(late) >= 32 * 10


def test_a_thermometer_that_cannot_be_read_changes_nothing() -> None:
    heat = Heat(max_c=80, step_s=1)
    run(heat, [85.0, 85.0])
    assert set(run(heat, [None] * 100, start_s=2)) == {heat.share} and heat.share < 1
    assert run(Heat(max_c=80, step_s=1), [None] * 10) == [1.0] * 10


def taken(pace: Pace, *, camera_fps: float, seconds: float, start_s: float = 0.0) -> float:
    """Frames a second that a pipeline takes, which is given `camera_fps` and loses what comes
    while it waits."""
    now_s, count = start_s, 0
    while now_s < start_s + seconds:
        count += 1
        pace.taken(now_s)
        now_s += max(1 / camera_fps, pace.wait_s(now_s))
    return count / seconds


def test_a_share_of_the_usual_rate_is_taken_and_the_usual_rate_comes_back() -> None:
    pace = Pace(0.0)
    assert round(taken(pace, camera_fps=20, seconds=10)) == 20
    pace.share = 0.5
    assert round(taken(pace, camera_fps=20, seconds=10, start_s=10)) == 10
    pace.share = 0.25
    assert round(taken(pace, camera_fps=20, seconds=10, start_s=20)) == 5, "of the usual, not of 10"
    pace.share = 1.0
    assert round(taken(pace, camera_fps=20, seconds=10, start_s=30)) == 20


def test_the_time_in_which_a_camera_was_away_does_not_make_it_a_slow_one() -> None:
    pace = Pace(0.0)
    taken(pace, camera_fps=20, seconds=10)
    taken(pace, camera_fps=20, seconds=1, start_s=600)
    pace.share = 0.5
    assert round(taken(pace, camera_fps=20, seconds=10, start_s=601)) == 10


def test_max_fps_holds_however_cool_it_is_and_heat_takes_its_share_of_that() -> None:
    pace = Pace(8.0)
    assert round(taken(pace, camera_fps=20, seconds=10)) == 8
    pace.share = 0.5
    assert round(taken(pace, camera_fps=20, seconds=10, start_s=10)) == 4


def test_a_pipeline_that_starts_in_the_heat_first_shows_its_usual_rate() -> None:
    pace = Pace(0.0)
    pace.share = 0.5
    assert round(taken(pace, camera_fps=20, seconds=10)) in (10, 11)
