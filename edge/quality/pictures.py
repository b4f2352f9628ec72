"""Is the picture any good? Covered, dark, overexposed, blurred, frozen or moved.

Of the problems that hide each other one at a time is named: too dark, too bright, covered, moved,
blurred, in this order. What is normal is learned from this camera, so that a scene with little in
it is no problem; only those of light have fixed limits. The limits were chosen on photographs that
were changed as weather, night and compression change them: none of them crosses one.
"""

from __future__ import annotations

import base64
import collections

import numpy as np

from edge.conditions import PictureProblem, QualityData
from edge.quality.config import QualityConfig
from edge.quality.measures import Measures, measure
from edge.quality.problem import Problem, Turn
from edge.quality.view import View
from edge.types import Array

_HIDING: tuple[PictureProblem, ...] = ("dark", "overexposed", "covered", "moved", "blurred")
_LIMITS: dict[str, tuple[float, float]] = {
    "dark": (24.0, 30.0),
    "overexposed": (0.5, 0.35),
    "covered": (0.15, 0.3),
    "moved": (0.3, 0.45),
    "blurred": (0.6, 0.7),
}
"""Where each begins and where it ends. dark: the brightest twentieth, in grey levels; overexposed:
the share of white; covered: contrast against that of the last seconds; moved: the share of the view
that is where it was; blurred: sharpness against what is normal."""
_SUDDEN_S = 30.0
_JPEG_SIDE, _JPEG_BYTES = 320, 24_000


class PictureQuality:
    """Looks at the pictures of one camera."""

    def __init__(self, config: QualityConfig, *, live: bool) -> None:
        """Of a source that is not `live` a picture may well stand still: it is never frozen."""
        self._config = config
        self._problems = {name: Problem(config.settle_s) for name in _HIDING}
        self._frozen = Problem(0.0) if live else None
        self._view = View(config.learn_s)
        self._new_view = View(config.learn_s)
        self._contrasts: collections.deque[tuple[int, float]] = collections.deque()
        self._grey: Array | None = None
        self._changed_ns = 0

    def look(self, picture: Array, mono_ns: int) -> list[QualityData]:
        """What began or ended with this picture, uint8 [H, W, 3] BGR."""
        seen = measure(picture)
        values = self._held_against_normal(seen)
        found = []
        hidden = False
        for name, problem in self._problems.items():
            value, bad = values[name], None
            if not hidden and value is not None:
                bad = _beyond(name, value, _LIMITS[name][problem.active])
            hidden = hidden or problem.active or bool(bad)
            if turn := problem.update(bad, mono_ns):
                limit = _LIMITS[name][turn == "ended"]
                seconds = problem.seconds(mono_ns)
                found.append(self._data(name, turn, seconds, picture, value or 0.0, limit))
        found += self._look_frozen(seen, mono_ns, picture)
        if not hidden:
            self._remember(seen, mono_ns)
        found += self._accept(seen, mono_ns)
        # What is ignored still hides others: a lamp that is switched off moves no camera.
        return [data for data in found if data.problem not in self._config.ignore]

    def _held_against_normal(self, seen: Measures) -> dict[PictureProblem, float | None]:
        """What stands against the limits; None where it cannot be told."""
        view = self._view
        learned = view.learned
        recent = max((contrast for _, contrast in self._contrasts), default=0.0)
        sharpness = None
        if learned and view.sharpness and seen.sharpness is not None:
            sharpness = seen.sharpness / view.sharpness
        return {
            "dark": seen.brightness,
            "overexposed": seen.clipped,
            "covered": seen.contrast / recent if learned and recent else None,
            "moved": view.alike(seen.structure) if learned else None,
            "blurred": sharpness,
        }

    def _remember(self, seen: Measures, mono_ns: int) -> None:
        """Nothing is suspected of this picture: it is normal. What fades slowly, in fog or at dusk,
        is not covered: only the contrast of the last seconds is kept."""
        self._contrasts.append((mono_ns, seen.contrast))
        while mono_ns - self._contrasts[0][0] > _SUDDEN_S * 1e9:
            self._contrasts.popleft()
        if not self._view.learned and _elsewhere(self._view, seen):
            self._view = View(self._config.learn_s)  # the camera has not come to rest yet
        self._view.learn(seen.structure, seen.sharpness, mono_ns)

    def _accept(self, seen: Measures, mono_ns: int) -> list[QualityData]:
        """A view that stays where the camera was moved to becomes the normal one."""
        moved = self._problems["moved"]
        if not moved.active:
            self._new_view = View(self._config.learn_s)
            return []
        if _elsewhere(self._new_view, seen):
            self._new_view = View(self._config.learn_s)
        self._new_view.learn(seen.structure, seen.sharpness, mono_ns)
        if not self._new_view.learned:
            return []
        moved.end()
        self._view, self._new_view = self._new_view, View(self._config.learn_s)
        self._contrasts.clear()
        return [
            QualityData(
                problem="moved", state="ended", seconds=moved.seconds(mono_ns), accepted=True,
                measures={"moved": 1.0}, limits={"moved": _LIMITS["moved"][1]},
            )
        ]  # fmt: skip

    def _look_frozen(self, seen: Measures, mono_ns: int, picture: Array) -> list[QualityData]:
        """The same pixels again and again, though what is neither black nor white has noise."""
        problem = self._frozen
        if problem is None:
            return []
        featureless = seen.brightness < _LIMITS["dark"][0] or seen.clipped > 0.5
        if self._grey is None or featureless or not np.array_equal(self._grey, seen.grey):
            self._grey, self._changed_ns = seen.grey, mono_ns
        still_s = (mono_ns - self._changed_ns) / 1e9
        limit = self._config.frozen_s
        bad = still_s > 0 if problem.active else still_s >= limit
        turn = problem.update(bad, mono_ns, since_ns=self._changed_ns)
        if turn is None:
            return []
        seconds = problem.seconds(mono_ns)
        return [self._data("frozen", turn, seconds, picture, still_s, limit)]

    def _data(
        self, name: PictureProblem, turn: Turn, seconds: float, picture: Array, value: float,
        limit: float,
    ) -> QualityData:  # fmt: skip
        shown = self._config.evidence and turn == "began"
        return QualityData(
            problem=name,
            state=turn,
            seconds=seconds,
            measures={name: round(value, 3)},
            limits={name: limit},
            jpeg=_jpeg(picture) if shown else "",
        )


def _beyond(name: str, value: float, limit: float) -> bool:
    return value > limit if name == "overexposed" else value < limit


def _elsewhere(view: View, seen: Measures) -> bool:
    alike = view.alike(seen.structure)
    return alike is not None and alike < _LIMITS["moved"][1]


def _jpeg(picture: Array) -> str:
    """At most 320 pixels a side and 24 kB, as base64."""
    import cv2

    height, width = picture.shape[:2]
    scale = min(1.0, _JPEG_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    for quality in (75, 40, 10):
        encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        if encoded.size <= _JPEG_BYTES:
            return base64.b64encode(encoded.tobytes()).decode("ascii")
    return ""
