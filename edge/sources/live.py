"""What all live sources of pictures share: a stream behind them, and how frames are numbered."""

from __future__ import annotations

from edge.sources.readers import Picture
from edge.sources.stream import Stream
from edge.types import Frame
from edge.wire import SourceState


class LivePictures:
    """Frames of what a stream of pictures gives, stamped when they arrived."""

    live = True

    def __init__(self, stream: Stream[Picture], *, name: str) -> None:
        self._stream = stream
        self._name = name
        self._number = 0

    @property
    def state(self) -> SourceState:
        """Lost while nothing comes; it goes on trying."""
        return self._stream.state

    @property
    def counts(self) -> dict[str, int]:
        """Pictures that came, damaged ones among them; those of them that were not taken in time;
        how often the camera was lost."""
        stream = self._stream
        return {"pictures": stream.received, "dropped": stream.dropped, "lost": stream.losses}

    def read(self, timeout_s: float) -> Frame | None:
        """The next picture as uint8 [H, W, 3] BGR; None while nothing comes."""
        taken = self._stream.take(timeout_s)
        if taken is None:
            return None
        self._number += self._number > 0 and not taken.follows
        self._number += 1
        return Frame(
            data=taken.item.data,
            source=self._name,
            number=self._number - 1,
            mono_ns=taken.mono_ns,
            wall_ns=taken.wall_ns,
        )

    def close(self) -> None:
        """Let go of it, for good."""
        self._stream.close()
