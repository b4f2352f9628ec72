"""What one frame costs, in every way that there is to run a model: answers first, then the time.

Decoding of pictures is left out; preprocessing, postprocessing and rules are in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from answers import difference
from measuring import Row, by_turns, paired
from subjects import BARE, OURS, PLAIN, Subject, Way

from edge.types import Array


def rows(subject: Subject, *, rounds: int) -> list[Row]:
    """Every way against the bare session, and ours against the plain loop."""
    verdicts = {name: verdict(subject, way) for name, way in subject.ways.items()}
    actions = {name: _cycle(way.run, subject.data) for name, way in subject.ways.items()}
    took = by_turns(actions, rounds=rounds)
    found = [
        paired(
            subject.name, "one frame", name, took[name], BARE, took[BARE], answers=verdicts[name]
        )
        for name in subject.ways
        if name != BARE
    ]
    if PLAIN in subject.ways:
        found.append(
            paired(
                subject.name, "one frame", OURS, took[OURS], PLAIN, took[PLAIN],
                answers=verdicts[OURS],
            )
        )  # fmt: skip
    return found


def expected(subject: Subject) -> list[list[object]] | None:
    """What is taken for right: what is known, else what the plain loop says."""
    if subject.expected is not None:
        return [list(found) for found in subject.expected]
    plain = subject.ways.get(PLAIN)
    if plain is None or plain.answer is None:
        return None
    return [list(plain.answer(data)) for data in subject.data]


def verdict(subject: Subject, way: Way) -> str | None:
    """ "same", or "wrong: …" of the first difference; None where nothing can be compared."""
    right = expected(subject)
    if way.answer is None or right is None:
        return None
    said = [way.answer(data) for data in subject.data]
    wrong = difference(said, right, threshold=subject.threshold)  # type: ignore[arg-type]
    return f"wrong: {wrong}" if wrong else "same"


def _cycle(run: Callable[[Array], object], data: object) -> Callable[[], object]:
    pictures: Iterator[Array] = itertools.cycle(data)  # type: ignore[call-overload]
    return lambda: run(next(pictures))
