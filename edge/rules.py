"""Rules: from predictions to what is worth an event. Pure; time is passed in.

A pipeline's rules are called one after another; a rule that returns None ends the chain for this
frame. Watchers (zones, lines, counts) look on: each sees every frame's detections and reports
events of its own; what they see goes on to the rules behind them, and behind the last one nothing
is left to report. State lives in the rule, one instance a pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from edge import seams
from edge.config import AdapterConfig
from edge.errors import ConfigError
from edge.happenings import Happening
from edge.types import Anomaly, Classification, Detections, Outcome, Reading, Segmentation


class Chain:
    """All rules of one pipeline, in order; `happened`: what watchers noticed in the last one."""

    def __init__(self, configs: Sequence[AdapterConfig], labels: tuple[str, ...]) -> None:
        self.happened: list[Happening] = []
        self._labels = labels
        self._steps: list[tuple[str, seams.Rule | None, seams.Watcher | None]] = []
        for config in configs:
            rule = seams.find("rules", config.type)(config.options, labels=labels)
            watches = isinstance(rule, seams.Watcher)
            self._steps.append((config.type, None, rule) if watches else (config.type, rule, None))
        _check_order([name for name, _, _ in self._steps], [step[2] for step in self._steps])
        self._watched = bool(self._steps) and self._steps[-1][2] is not None

    def __call__(
        self, outcome: Outcome, mono_ns: int, size: tuple[int, int] = (1, 1)
    ) -> Outcome | None:
        """The outcome to report for this frame, or None.

        `size` is the width and height of the source's picture.
        """
        current: Outcome | None = outcome
        self.happened = []
        for name, rule, watcher in self._steps:
            if current is None and watcher is None and name != "track":
                continue
            seen = Detections.empty(self._labels) if current is None else current
            if watcher is not None:
                if not isinstance(seen, Detections):
                    raise ConfigError(f"{name}: needs a model that detects")
                self.happened += watcher.watch(seen, mono_ns, size)
            elif rule is not None:
                passed = rule(seen, mono_ns)
                current = None if current is None else passed
        return None if self._watched else current


def _check_order(names: Sequence[str], watchers: Sequence[seams.Watcher | None]) -> None:
    """Who looks on must see every frame. Of all rules, `filter` and `track` let every frame pass:
    their None is a frame in which nothing is."""
    for index, (name, watcher) in enumerate(zip(names, watchers, strict=True)):
        before = [*zip(names[:index], watchers[:index], strict=True)]
        holding = [n for n, w in before if w is None and n not in ("filter", "track")]
        if (watcher is not None or name == "track") and holding:
            raise ConfigError(f"{name}: must see every frame; put it before {', '.join(holding)}")
        if watcher is not None and watcher.needs_ids and "track" not in names[:index]:
            raise ConfigError(f"{name}: needs the ids of the rule track; put that before it")


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
            kept = outcome
            if config.classes or config.min_score > 0:
                wanted = self._wanted[outcome.classes]
                kept = outcome[wanted & (outcome.scores >= config.min_score)]
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
    """What makes two outcomes the same: the labels seen with what second models say of them, the
    winning label, or the value.

    What only measures (depth, regression, embedding) is never the same twice.
    """
    if isinstance(outcome, Detections):
        said = [attribute.labels for attribute in outcome.attributes]
        return tuple(sorted(zip(outcome.names, *said, strict=True)))
    if isinstance(outcome, Classification):
        return outcome.label
    if isinstance(outcome, Segmentation):
        return tuple(sorted(outcome.shares))
    if isinstance(outcome, Anomaly):
        return outcome.anomalous
    return outcome.value if isinstance(outcome, Reading) else object()
