"""What is reported of the condition of a source, as it travels and rests. Plain structs.

They speak of the source, not of what a model saw: it is away, or what it gives is no good.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class SourceData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A source was lost, or came back after `lost_s` seconds without frames.

    `losses` of a source that flaps stand in one pair of events; `lost_s` is then their sum. `size`
    and `size_before` are width and height of its pictures, where they are not the same as before.
    """

    state: Literal["lost", "recovered"]
    detail: str
    lost_s: float = 0.0
    losses: int = 1
    size: tuple[int, int] | None = None
    size_before: tuple[int, int] | None = None


PictureProblem = Literal["covered", "dark", "overexposed", "blurred", "frozen", "moved"]
SampleProblem = Literal["flat", "clipped", "stuck"]


class QualityData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a source gives is no good any more, or is good again.

    `seconds` is how long it has lasted, or had lasted when it ended. `measures` are what was looked
    at, `limits` what was held against them, by the same names; of a sensor by its `channels`. A
    view that stayed where it had moved to becomes the normal one: `accepted`. As evidence, where
    that is wanted: a small picture (`jpeg`, base64), or the last `samples` of the first channel.
    """

    problem: PictureProblem | SampleProblem
    state: Literal["began", "ended"]
    seconds: float
    measures: dict[str, float]
    limits: dict[str, float]
    channels: tuple[str, ...] = ()
    accepted: bool = False
    jpeg: str = ""
    samples: tuple[float, ...] = ()
