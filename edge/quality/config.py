"""[pipeline.quality] as a struct."""

from __future__ import annotations

from typing import Annotated

import msgspec

from edge.conditions import PictureProblem, SampleProblem

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class QualityConfig(msgspec.Struct, frozen=True, kw_only=True):
    """[pipeline.quality]: say when what the source gives is no good, by an event as it begins and
    one as it ends.

    A frame is looked at every `every_s` seconds. A problem is believed, and believed to be over,
    when it has lasted `settle_s` seconds. What is normal for this source is learned over its first
    `learn_s` seconds, and follows slowly. A live picture without any change for `frozen_s` seconds
    is frozen; a sensor that repeats one value for so long is stuck, unless that is its way.
    Problems named in `ignore` are not looked for. With `evidence` the event holds a small picture,
    or the last samples.
    """

    every_s: _Positive = 1.0
    settle_s: _NotNegative = 5.0
    learn_s: _Positive = 60.0
    frozen_s: _Positive = 30.0
    ignore: tuple[PictureProblem | SampleProblem, ...] = ()
    evidence: bool = False
