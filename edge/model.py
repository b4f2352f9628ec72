"""A bundle made ready to run: preprocess, engine and postprocess of one stream."""

from __future__ import annotations

import copy
import os
import threading
from types import TracebackType
from typing import Self

import numpy as np

from edge import postprocess, preprocess
from edge.accelerators import AUTO, EngineRequest, Settings
from edge.bundle import Bundle, model_format
from edge.engines.choose import choose
from edge.engines.host import Hosts, Slot
from edge.engines.kept import arrays_for
from edge.hints import Hints
from edge.manifest import ImagePreprocess
from edge.state import State
from edge.types import Array, Geometry, Prediction
from edge.wire import ModelRef, Placement


class Model:
    """Raw pictures or windows in, predictions out. One per stream; hosts may be shared.

    The three steps are there one by one for the frame loop, and as `predict` for everybody else.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        hosts: Hosts | None = None,
        variant: str = AUTO,
        accelerator: str = "cpu",
        threads: int = 0,
        request: EngineRequest | None = None,
        min_score: float | None = None,
        roi: preprocess.Roi | None = None,
        rotate: int = 0,
    ) -> None:
        self._hosts = hosts or Hosts()
        self._shared = hosts is not None
        self.bundle = bundle
        self.manifest = bundle.manifest
        if self._shared and isinstance(self.manifest.preprocess, ImagePreprocess):
            # Of an agent: while the engine is proved, for which Python's lock is let go.
            threading.Thread(target=_import_opencv, name="import", daemon=True).start()
        self.variant, self._host, self.fallback = choose(
            bundle,
            self._hosts,
            variant=variant,
            request=request
            or EngineRequest(accelerator=accelerator, settings=Settings(threads=threads)),
        )
        self._roi, self._rotate, self._min_score = roi, rotate, min_score
        self._make_ready()
        self.ref = ModelRef(
            name=self.manifest.name,
            version=self.manifest.version,
            bundle=bundle.identity,
            variant=self.variant.name,
        )

    def _make_ready(self) -> None:
        """Everything that belongs to one thread: buffers, a turn at the engine, and the state."""
        self.state = State(self.variant)
        self._prepare = preprocess.build(
            self.manifest, self.state.frame_input, roi=self._roi, rotate=self._rotate
        )
        self._decode = postprocess.build(self.manifest, self.variant, min_score=self._min_score)
        self._outputs = [arrays_for(self._host.outputs) for _ in range(2)]
        self._turn = 0
        self.slot: Slot | None = None
        """The slot of the engine that is held beyond a single run."""

    def lane(self) -> Self:
        """The same model on the same engine, for another thread. It closes nothing."""
        lane = copy.copy(self)
        lane._shared = True
        lane._host.widen()
        lane._make_ready()
        return lane

    @property
    def most_lanes(self) -> int:
        """How many lanes keep the engine busy: one for each slot that there is room for, and one
        more where preparing a frame and running the model are done by different hardware."""
        return self._host.most_slots if self._host.on_cores else self._host.most_slots + 1

    @property
    def shared(self) -> bool:
        """Whether other streams run the engine too, and on the cores, so that a turn at it is worth
        having for a whole frame."""
        return self._host.on_cores and self._host.streams > 1

    @property
    def engine(self) -> str:
        """Where it runs, e.g. onnx:cpu."""
        return self._host.name

    @property
    def placement(self) -> Placement:
        """Where the nodes run, as the runtime tells."""
        return self._host.placement

    def take_turn(self, stop: threading.Event) -> bool:
        """Have a slot of the engine beyond a single run, until `give_turn`; False at `stop`."""
        self.slot = self._host.take(stop)
        return self.slot is not None

    def give_turn(self) -> None:
        """Let others run, if one has a turn."""
        slot, self.slot = self.slot, None
        if slot is not None:
            self._host.give(slot)

    def preprocess(self, data: Array) -> tuple[Array, Geometry | None]:
        """A frame's data -> input tensor and geometry. FrameError when it cannot be used."""
        return self._prepare(data)

    def infer(self, tensor: Array) -> dict[str, Array]:
        """Input tensor -> raw output tensors by name, valid until the call after next.

        A recurrent model's state goes on.
        """
        raw = self._host.infer(self.state.inputs(tensor), self._outputs[self._turn], self.slot)
        self.state.keep(raw)
        self._turn ^= 1  # only now: the state may lie in the other one
        return raw

    def postprocess(self, raw: dict[str, Array], geometry: Geometry | None) -> Prediction:
        """Raw output tensors -> prediction in source coordinates."""
        return self._decode(raw, geometry)

    def predict(self, data: Array) -> Prediction:
        """One picture (uint8 [H, W, 3] BGR) or window (float [T, C]) -> its prediction.

        A recurrent model takes them as one stream; `state.reset()` starts another.
        """
        tensor, geometry = self.preprocess(np.asarray(data))
        return self.postprocess(self.infer(tensor), geometry)

    def close(self) -> None:
        """Free the engine, unless it is shared."""
        if not self._shared:
            self._hosts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Model({self.manifest.name} {self.variant.name} on {self.engine})"


def _import_opencv() -> None:
    try:
        import cv2  # noqa: F401
    except ImportError:
        pass  # said by whoever needs it, and in its own words


def open_any(path: str | os.PathLike[str], hints: Hints | None = None) -> Bundle:
    """A bundle, or a model file recognised on the spot."""
    if model_format(path) is None:
        return Bundle.open(path)
    from edge.recognize.bundles import recognize_file  # half of our own code, for model files alone

    return recognize_file(path, hints)[1]


def load(
    path: str | os.PathLike[str],
    *,
    variant: str = AUTO,
    threads: int = 0,
    min_score: float | None = None,
    hints: Hints | None = None,
) -> Model:
    """Open and verify a bundle (directory or .tar) and make it ready to predict.

    Unless a `variant` is named it is the first in the manifest that runs here, which is ONNX fp32
    where `edge convert` made the bundle: nothing is measured and no tuning record is read, for
    there is no state directory (edge/engines/choose.py).

    An .onnx or .tflite file is recognised, with `hints` for what it does not say (as `edge run
    --model` does it). BundleError when a bundle is damaged or does not fit; EngineError when no
    variant runs here; ConfigError when a model cannot be recognised.
    """
    bundle = open_any(path, hints)
    return Model(bundle, variant=variant, threads=threads, min_score=min_score)
