"""What somebody knows of a model that its file does not say. Empty fields are left to us."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from edge.errors import ConfigError
from edge.manifest import Task

NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "0..255": ((0.0,), (1.0,)),
    "0..1": ((0.0,), (255.0,)),
    "-1..1": ((127.5,), (127.5,)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}
"""Usual ranges of a picture's values: mean and std over 0..255, as ImagePreprocess has them."""


class Hints(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`size` is width, height for a model that is open in size. `mean` and `std` are over 0..255,
    one number or one a channel. `channels`, `rate_hz`, `length` and `hop` are of windows of
    samples. `constants` are the values of inputs that never change, such as a sampling rate.
    `points` name key points. `params` go into the decoder's parameters as they are.
    """

    task: Task | None = None
    decoder: str = ""
    labels: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    score: float | None = None
    size: tuple[int, int] | None = None
    color: Literal["", "rgb", "bgr", "gray"] = ""
    resize: Literal["", "letterbox", "stretch", "crop"] = ""
    anchor: Literal["", "center", "topleft"] = ""
    pad: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channels: tuple[str, ...] = ()
    rate_hz: float = 0.0
    length: int = 0
    hop: int = 0
    constants: dict[str, float] = {}
    params: dict[str, Any] = {}

    def __post_init__(self) -> None:
        problems = []
        if bool(self.mean) != bool(self.std):
            problems.append("--mean and --std belong together: give both, or neither")
        if not all(value > 0 for value in self.std):
            problems.append(f"--std: every value must be above 0, not {list(self.std)}")
        if self.score is not None and not 0 <= self.score <= 1:
            problems.append(f"--min-score must lie in 0..1, not {self.score}")
        if self.size is not None and min(self.size) < 1:
            problems.append(f"--size must be 1 or more, not {self.size[0]}x{self.size[1]}")
        if self.pad is not None and not 0 <= self.pad <= 255:
            problems.append(f"--pad must lie in 0..255, not {self.pad}")
        if self.length < 0 or self.hop < 0 or self.rate_hz < 0:
            problems.append("--length, --hop and --rate must be above 0")
        if problems:
            raise ConfigError(problems)
