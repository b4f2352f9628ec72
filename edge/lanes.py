"""Lanes: how many of a stream's frames are worked on at once, and what one does with a frame.

Invariant: a lane is used by one thread, with buffers of its own. What depends on the frame before
is not done here, but for a recurrent model, which has one lane.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from edge import seams
from edge.bundle import Bundle
from edge.config import PipelineConfig
from edge.cores import cores
from edge.errors import ConfigError, FrameError
from edge.manifest import ImagePreprocess
from edge.model import Model
from edge.stages import Stage
from edge.types import Detections, Frame, Prediction


class Worked(NamedTuple):
    """What a lane made of a frame: a prediction with the moments at which its steps ended, or why
    there is none."""

    frame: Frame
    prediction: Prediction | None
    moments_ns: tuple[int, ...]
    bad: FrameError | None


class Lane:
    """A model, and the second models that look at what it finds."""

    def __init__(self, model: Model, stages: list[Stage]) -> None:
        self.model = model
        self._stages = stages

    def work(self, frame: Frame) -> Worked:
        """Hops three to five for one frame. If the lane has a turn at the engine, it ends.

        It ends before the second models, which have engines and turns of their own: who has one
        never waits for another.
        """
        model, began_ns = self.model, time.monotonic_ns()
        try:
            tensor, geometry = model.preprocess(frame.data)
            prepared_ns = time.monotonic_ns()
            raw = model.infer(tensor)
            inferred_ns = time.monotonic_ns()
            prediction = model.postprocess(raw, geometry)
            moments: tuple[int, ...] = (began_ns, prepared_ns, inferred_ns, time.monotonic_ns())
            if self._stages and isinstance(prediction, Detections):
                model.give_turn()
                for stage in self._stages:
                    prediction = stage(frame.data, prediction)
                moments = (*moments, time.monotonic_ns())
        except FrameError as error:
            return Worked(frame, None, (), error)
        finally:
            if model.slot is not None:
                model.give_turn()
        return Worked(frame, prediction, moments, None)


def build(config: PipelineConfig, model: Model, stages: list[Stage]) -> list[Lane]:
    """The lanes of a pipeline. ConfigError for some that it cannot have."""
    if config.lanes > 1 and model.state:
        raise ConfigError(
            f"lanes: {model.manifest.name} is recurrent, so that its frames are worked on one after"
            " another; leave `lanes` out"
        )
    count = config.lanes or min(workers(config, model.bundle), model.most_lanes)
    lanes = [Lane(model, stages)]
    while len(lanes) < count:
        lanes.append(Lane(model.lane(), [stage.lane() for stage in stages]))
    return lanes


def workers(config: PipelineConfig, bundle: Bundle) -> int:
    """How many threads of a pipeline may run its model at once.

    Of a live source the latency of a frame counts: one, with all the threads of the engine. From a
    file it is the throughput of pictures: one for each core (a window takes less than handing it to
    another thread does). A recurrent model needs the state that the frame before left.
    """
    if any(variant.state for variant in bundle.manifest.variants):
        return 1
    if config.lanes:
        return config.lanes
    live = getattr(seams.find("sources", config.source.type), "live", True)
    if live or not isinstance(bundle.manifest.preprocess, ImagePreprocess):
        return 1
    return max(cores(), 1 if config.request.on_cores else 2)
