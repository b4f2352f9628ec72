"""One thing that may be wrong with a source: believed once it has lasted. Pure.

Invariant: it begins and ends by turns; a measure that trembles on its limit reports nothing.
"""

from __future__ import annotations

from typing import Literal

Turn = Literal["began", "ended"]
_LEAST_LOOKS = 3
"""However slowly frames come, one or two bad ones are not believed."""


class Problem:
    """Begins, or ends, when every look for `settle_s` seconds, and at least three, agree on it."""

    def __init__(self, settle_s: float) -> None:
        self.active = False
        self._settle_ns = round(settle_s * 1e9)
        self._since_ns = 0
        self._turned_ns: int | None = None
        self._looks = 0

    def update(self, bad: bool | None, mono_ns: int, *, since_ns: int | None = None) -> Turn | None:
        """What one look says, and since when if that is not since this look; None when it can't
        tell, which changes nothing."""
        if bad is None:
            return None
        if bad == self.active:
            self._turned_ns = None
            return None
        if self._turned_ns is None:
            self._turned_ns, self._looks = mono_ns, 0
        self._looks += 1
        if self._looks < _LEAST_LOOKS or mono_ns - self._turned_ns < self._settle_ns:
            return None
        if bad:
            self._since_ns = self._turned_ns if since_ns is None else since_ns
        self.active, self._turned_ns = bad, None
        return "began" if bad else "ended"

    def end(self) -> None:
        """It is over, whatever the last looks said."""
        self.active, self._turned_ns = False, None

    def seconds(self, mono_ns: int) -> float:
        """How long it has lasted, or had lasted when it ended."""
        return round((mono_ns - self._since_ns) / 1e9, 1)
