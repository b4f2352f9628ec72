"""The rule `track`: the same object has the same number in every frame.

The association is ByteTrack (Zhang et al. 2022), by the library edgefirst-tracker, which is
imported when the rule is built. It is blind to classes, so that a label that flickers does not end
a track.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import msgspec
import numpy as np

from edge.errors import ConfigError, FrameError
from edge.types import Array, Detections, Outcome

_KEPT_NUMBERS = 1000


class Track:
    """Gives detections their ids, which count from 1 and are never given twice."""

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        """A track starts with a detection of at least `min_score`; less sure ones only carry it on.

        `iou` is the smallest overlap with where the object was expected. A track that was not seen
        for `lost_s` seconds has ended.
        """

        min_score: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
        iou: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.25
        lost_s: Annotated[float, msgspec.Meta(gt=0)] = 2.0

    def __init__(self, config: Config, *, labels: tuple[str, ...]) -> None:
        try:
            from edgefirst.tracker import ByteTrack
        except ImportError as error:
            raise ConfigError(
                "track: edgefirst-tracker is not installed; pip install 'edgewright[track]'"
            ) from error
        self._tracker = ByteTrack(
            high_conf=config.min_score, iou=config.iou, lifespan_ns=round(config.lost_s * 1e9)
        )
        self._numbers: dict[str, int] = {}
        self._given = 0

    def __call__(self, outcome: Outcome, mono_ns: int) -> Outcome | None:
        """The same detections with `ids`."""
        if not isinstance(outcome, Detections):
            raise ConfigError("track: only detections can be tracked")
        return dataclasses.replace(outcome, ids=self._ids(outcome, mono_ns))

    def _ids(self, found: Detections, mono_ns: int) -> Array:
        if not np.isfinite(found.boxes).all():  # one would stay in the filter for good
            raise FrameError("the prediction holds numbers that are not finite")
        tracks = self._tracker.update(
            np.ascontiguousarray(found.boxes, np.float32),
            np.ascontiguousarray(found.scores, np.float32),
            found.classes.astype(np.uintp),
            mono_ns,
        )
        ids = [0 if track is None else self._number(track.uuid) for track in tracks]
        if len(self._numbers) > _KEPT_NUMBERS:
            active = {track.info.uuid for track in self._tracker.get_active_tracks()}
            self._numbers = {key: n for key, n in self._numbers.items() if key in active}
        return np.array(ids, np.int64)

    def _number(self, uuid: str) -> int:
        if uuid not in self._numbers:
            self._given += 1
            self._numbers[uuid] = self._given
        return self._numbers[uuid]
