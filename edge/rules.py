"""Rules: from predictions to what is worth an event. Pure; time is passed in.

A pipeline's rules are called one after another; a rule that returns None ends the chain for this
frame. State lives in the rule, one instance a pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from edge import seams
from edge.config import AdapterConfig
from edge.errors import ConfigError
from edge.types import Anomaly, Classification, Detections, Outcome, Reading, Segmentation


class Chain:
    """All rules of one pipeline, in order."""

    def __init__(self, configs: Sequence[AdapterConfig], labels: tuple[str, ...]) -> None:
        self._rules = [
            seams.find("rules", config.type)(config.options, labels=labels) for config in configs
        ]

    def __call__(self, outcome: Outcome, mono_ns: int) -> Outcome | None:
        """The outcome to report for this frame, or None."""
        current: Outcome | None = outcome
        for rule in self._rules:
            if current is None:
                return None
            current = rule(current, mono_ns)
        return current


class Filter:
    """Drop what is not sure enough or not asked for."""

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        """Keep scores of at least `min_score`, of the named `classes` only (empty: all).

        With `report_empty` a frame without any detection is reported too.
        """

        min_score: float = 0.0
        classes: tuple[str, ...] = ()
        report_empty: bool = False

    def __init__(self, config: Config, *, labels: tuple[str, ...]) -> None:
        unknown = [name for name in config.classes if name not in labels]
        if unknown:
            raise ConfigError(
                f"filter: the model has no class {', '.join(unknown)}; it has {', '.join(labels)}"
            )
        self._config = config
        self._wanted = np.array([not config.classes or name in config.classes for name in labels])

    def __call__(self, outcome: Outcome, mono_ns: int) -> Outcome | None:
        """Detections are thinned out; what has one score or label passes or does not, and so does
        a segmentation that shows a wanted class; what has neither passes."""
        config = self._config
        if isinstance(outcome, Detections):
            kept = outcome[self._wanted[outcome.classes] & (outcome.scores >= config.min_score)]
            return kept if len(kept) or config.report_empty else None
        if isinstance(outcome, Classification):
            passes = self._wanted[outcome.index] and outcome.score >= config.min_score
            return outcome if passes else None
        if isinstance(outcome, Segmentation):
            seen = np.unique(outcome.classes)
            return outcome if self._wanted[seen[seen >= 0]].any() else None
        if isinstance(outcome, Anomaly):
            return outcome if outcome.score >= config.min_score else None
        if isinstance(outcome, Reading):
            return outcome if outcome.confidence >= config.min_score else None
        return outcome


class Debounce:
    """Believe an outcome only when it was the same for several frames in a row."""

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        """`frames` in a row, the current one included."""

        frames: int = 3

        def __post_init__(self) -> None:
            if self.frames < 1:
                raise ValueError("frames must be 1 or more")

    def __init__(self, config: Config, *, labels: tuple[str, ...]) -> None:
        self._config = config
        self._key: object = None
        self._count = 0

    def __call__(self, outcome: Outcome, mono_ns: int) -> Outcome | None:
        """The outcome, once it has been stable long enough."""
        key = key_of(outcome)
        self._count = self._count + 1 if key == self._key else 1
        self._key = key
        return outcome if self._count >= self._config.frames else None


class OnChange:
    """Report only what differs from the last report."""

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        """The same outcome is repeated every `repeat_s` seconds (0: never); different ones are
        reported at most every `min_interval_s`."""

        repeat_s: float = 0.0
        min_interval_s: float = 0.0

    def __init__(self, config: Config, *, labels: tuple[str, ...]) -> None:
        self._config = config
        self._key: object = None
        self._reported_ns: int | None = None

    def __call__(self, outcome: Outcome, mono_ns: int) -> Outcome | None:
        """The outcome, when it is new or due again."""
        key = key_of(outcome)
        if self._reported_ns is not None:
            waited_s = (mono_ns - self._reported_ns) / 1e9
            if key == self._key and not 0 < self._config.repeat_s <= waited_s:
                return None
            if waited_s < self._config.min_interval_s:
                return None
        self._key, self._reported_ns = key, mono_ns
        return outcome


def key_of(outcome: Outcome) -> object:
    """What makes two outcomes the same: the labels seen, the winning label, or the value.

    What only measures (depth, regression, embedding) is never the same twice.
    """
    if isinstance(outcome, Detections):
        return tuple(sorted(outcome.names))
    if isinstance(outcome, Classification):
        return outcome.label
    if isinstance(outcome, Segmentation):
        return tuple(sorted(outcome.shares))
    if isinstance(outcome, Anomaly):
        return outcome.anomalous
    return outcome.value if isinstance(outcome, Reading) else object()
