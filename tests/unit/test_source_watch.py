from __future__ import annotations

from typing import Any

from edge.source_watch import Moment, SourceWatch
from edge.wire import SourceState

HD, SMALL = (1920, 1080), (640, 360)


class Seen:
    """A watch under a clock of seconds; what it told, as (second, facts)."""

    def __init__(self, **options: float) -> None:
        self.watch = SourceWatch(**options)
        self.told: list[tuple[float, dict[str, Any]]] = []

    def look(
        self, second: float, state: str, *, losses: int = 0, size: tuple[int, int] | None = None
    ) -> list[str]:
        now = Moment(round(second * 1e9), round(second * 1e9) + 7)
        shown = SourceState(state=state, detail=f"is {state}", losses=losses)
        self.watch.look(shown, now, frame=size is not None, size=size)
        return self.take(second)

    def take(self, second: float) -> list[str]:
        told = self.watch.take(round(second * 1e9))
        for data, moment in told:
            assert moment.wall_ns == moment.mono_ns + 7
            facts = {name: getattr(data, name) for name in data.__struct_fields__}
            self.told.append((moment.mono_ns / 1e9, facts))
        return [data.state for data, _ in told]


def test_a_loss_and_its_end_are_one_event_each_at_their_own_time() -> None:
    seen = Seen()
    assert seen.look(0, "starting") == seen.look(1, "running", size=HD) == []
    assert seen.look(5, "lost") == ["lost"]
    assert seen.look(6, "lost") == seen.look(7, "lost") == []
    assert seen.look(9.5, "running", size=HD) == ["recovered"]
    assert seen.look(10, "running", size=HD) == []
    (lost_at, lost), (back_at, back) = seen.told
    assert (lost_at, back_at, back["lost_s"], back["losses"]) == (5, 9.5, 4.5, 1)
    assert (lost["detail"], back["detail"], back["size"]) == ("is lost", "is running", None)


def test_a_new_size_is_told_with_the_recovery() -> None:
    seen = Seen()
    seen.look(0, "running", size=HD)
    seen.look(1, "lost")
    assert seen.look(2, "running") == [], "the first frame is waited for"
    assert seen.look(3, "running", size=SMALL) == ["recovered"]
    assert (seen.told[1][0], seen.told[1][1]["lost_s"]) == (2, 1)
    assert (seen.told[1][1]["size"], seen.told[1][1]["size_before"]) == (SMALL, HD)


def test_a_recovery_is_told_though_no_frame_follows() -> None:
    seen = Seen()
    seen.look(0, "lost")
    assert seen.look(1, "running") == seen.take(2.9) == []
    assert seen.take(3) == ["recovered"]


def test_a_source_that_is_lost_from_the_beginning_counts() -> None:
    seen = Seen()
    assert seen.look(0, "lost") == ["lost"]
    assert seen.look(60, "running", size=HD) == ["recovered"]
    assert seen.told[1][1]["lost_s"] == 60


def test_a_source_that_starts_long_after_us_counts_as_lost_since_the_start() -> None:
    seen = Seen(starting_s=10)
    assert seen.look(0, "starting") == seen.look(9, "starting") == []
    assert seen.look(10, "starting") == ["lost"]
    assert seen.look(11, "lost", losses=1) == []
    assert seen.look(30, "running", losses=1, size=HD) == ["recovered"]
    assert [at for at, _ in seen.told] == [0, 30]
    assert (seen.told[1][1]["lost_s"], seen.told[1][1]["losses"]) == (30, 1)


def test_a_loss_between_two_looks_is_not_missed_where_the_source_counts() -> None:
    seen = Seen()
    seen.look(0, "running", size=HD)
    assert seen.look(1, "running", losses=1, size=HD) == ["lost", "recovered"]
    assert seen.look(20, "lost", losses=2) == ["lost"]
    seen.look(21, "lost", losses=3)
    assert seen.look(22, "running", losses=3, size=HD) == ["recovered"]
    assert seen.told[-1][1]["losses"] == 2, "it was back for a moment in between"


def test_a_source_that_flaps_gives_one_pair_now_and_then_with_every_loss_in_it() -> None:
    seen = Seen(quiet_s=10)
    second, losses = 0.0, 0
    while second < 60:
        losses += 1
        seen.look(second, "running", losses=losses - 1, size=HD)
        seen.look(second + 0.2, "lost", losses=losses)
        second += 0.5
    seen.look(60, "running", losses=losses, size=HD)
    for later in range(61, 80):
        seen.look(later, "running", losses=losses, size=HD)
    states = [facts["state"] for _, facts in seen.told]
    assert states == ["lost", "recovered"] * (len(states) // 2) and len(states) <= 2 * 7
    back = [facts for _, facts in seen.told if facts["state"] == "recovered"]
    assert sum(facts["losses"] for facts in back) == losses == 120
    assert 120 * 0.3 - 2 < sum(facts["lost_s"] for facts in back) <= 120 * 0.3 + 1


def test_a_source_that_ends_while_it_is_well_is_not_lost() -> None:
    seen = Seen()
    seen.look(0, "running", size=HD)
    assert seen.look(1, "ended") == seen.look(100, "ended") == []
