"""Is what a source gives any good? One look every so often, whatever the source gives.

Pure apart from the frames; the time comes from them.
"""

from __future__ import annotations

import numpy as np

from edge.conditions import QualityData
from edge.quality.config import QualityConfig
from edge.quality.pictures import PictureQuality
from edge.quality.samples import SampleQuality
from edge.types import Frame

__all__ = ["Quality", "QualityConfig"]


class Quality:
    """Looks at the frames of one source, pictures or windows of samples."""

    def __init__(
        self, config: QualityConfig, *, live: bool, channels: tuple[str, ...] = ()
    ) -> None:
        self._every_ns = round(config.every_s * 1e9)
        self._due_ns: int | None = None
        self._pictures = PictureQuality(config, live=live)
        self._channels = len(channels)
        self._samples = SampleQuality(config, channels)

    def look(self, frame: Frame) -> list[QualityData]:
        """What began or ended with this frame. What is no picture (uint8 [H, W, 3]) and no window
        of the known channels is left for others to refuse."""
        if self._due_ns is not None and frame.mono_ns < self._due_ns:
            return []
        self._due_ns = frame.mono_ns + self._every_ns
        data = frame.data
        if data.dtype == np.uint8 and data.ndim == 3 and data.shape[2] == 3 and data.size:
            return self._pictures.look(data, frame.mono_ns)
        if self._channels and data.ndim == 2 and data.shape[1] == self._channels and len(data) > 1:
            return self._samples.look(data, frame.mono_ns)
        return []
