"""Frame -> input tensor and Geometry, as the manifest says. Pure, apart from its kept buffers.

The buffers are allocated once for a stream: the resized picture is written straight into its place
in the letterbox, and the tensor alternates between two buffers, so that the one being inferred is
not the one being filled. What stays from frame to frame (padding, geometry) is made anew when the
size of the pictures changes.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from edge.errors import BundleError, FrameError
from edge.manifest import ImagePreprocess, Manifest, WindowPreprocess
from edge.types import Array, Geometry, TensorSpec

Roi = tuple[int, int, int, int]


class Preprocessor(Protocol):
    """Prepares the frames of one stream."""

    def __call__(self, data: Array) -> tuple[Array, Geometry | None]:
        """A frame's data -> the input tensor (valid until the call after next) and its geometry.

        FrameError for data that cannot be used.
        """


def build(
    manifest: Manifest, spec: TensorSpec, *, roi: Roi | None = None, rotate: int = 0
) -> Preprocessor:
    """The preprocessor of a manifest for one variant's input."""
    if isinstance(manifest.preprocess, WindowPreprocess):
        return WindowPreprocessor(manifest.preprocess, spec)
    return ImagePreprocessor(manifest.preprocess, spec, roi=roi, rotate=rotate)


class ImagePreprocessor:
    """Cut, turn, resize, pad, reorder and normalise one picture (uint8 [H, W, 3] BGR)."""

    def __init__(
        self,
        config: ImagePreprocess,
        spec: TensorSpec,
        *,
        roi: Roi | None = None,
        rotate: int = 0,
    ) -> None:
        channels = 1 if config.color == "gray" else 3
        if spec.layout not in ("nchw", "nhwc") or len(spec.shape) != 4 or spec.shape[0] != 1:
            raise BundleError(f"input {spec}: an image model takes [1, …] in nchw or nhwc")
        height, width = spec.shape[2:] if spec.layout == "nchw" else spec.shape[1:3]
        found = spec.shape[1] if spec.layout == "nchw" else spec.shape[3]
        if found != channels or len(config.mean) != channels or len(config.std) != channels:
            raise BundleError(
                f"input {spec}: {found} channels, but colour {config.color!r} has {channels},"
                f" mean {len(config.mean)} and std {len(config.std)}"
            )
        made: tuple[str, ...] = ("float32", "float16", "int32")
        if config.folded:
            made = ("uint8",)
        elif spec.quantization is not None:
            made += ("int8", "uint8", "int16", "uint16")
        if spec.dtype not in made:
            raise BundleError(f"input {spec}: preprocessing makes {' or '.join(made)}")
        _check_std(config.std)
        self._config = config
        self._size = (int(width), int(height))
        self._roi = roi
        self._rotate = rotate
        self._fill = _Planes(config, spec) if spec.layout == "nchw" else _Pixels(config, spec)
        self._tensors = [np.empty(spec.shape, spec.dtype) for _ in range(2)]
        if self._fill.in_place:
            self._canvases = [tensor[0] for tensor in self._tensors]
        else:
            self._canvases = [np.empty((height, width, 3), np.uint8)] * 2
        self._painted: list[Roi | None] = [None, None]
        self._last: Roi | None = None
        self._turn = 0
        self._plan: _Plan | None = None

    def __call__(self, data: Array) -> tuple[Array, Geometry | None]:
        """A picture -> the input tensor and where its pixels lie in the source."""
        if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != 3 or not data.size:
            raise FrameError(f"a picture is uint8 [H, W, 3], this is {data.dtype} {data.shape}")
        import cv2

        plan = self._plan
        if plan is None or data.shape != plan.shape:
            plan = self._plan = self._plan_for(data.shape)
        picture = data[plan.cut]
        if self._rotate:
            picture = cv2.rotate(picture, self._rotate // 90 - 1)  # cv2 counts quarters from 0
        left, top, width, height = plan.place
        place = (slice(top, top + height), slice(left, left + width))
        turn = self._turn = self._turn ^ 1
        canvas, tensor = self._canvases[turn], self._tensors[turn]
        moved = not plan.place == self._last == self._painted[turn]
        if moved:
            canvas[:] = self._config.pad
            self._painted[turn] = self._last = plan.place
        cv2.resize(
            picture[plan.seen], (width, height), dst=canvas[place], interpolation=cv2.INTER_LINEAR
        )
        if not self._fill.in_place:
            self._fill(canvas, tensor[0], _EVERYWHERE if moved else place)
        return tensor, plan.geometry

    def _plan_for(self, shape: tuple[int, ...]) -> _Plan:
        x, y, width, height = self._roi or (0, 0, shape[1], shape[0])
        width, height = min(width, shape[1] - x), min(height, shape[0] - y)
        if width <= 0 or height <= 0:
            raise FrameError(f"roi {self._roi} lies outside of the picture ({shape[1]}x{shape[0]})")
        cut = (slice(y, y + height), slice(x, x + width))
        # The [2, 3] matrix leads back to source pixels.
        match self._rotate:
            case 90:
                back = [[0, 1, x], [-1, 0, y + height]]
            case 180:
                back = [[-1, 0, x + width], [0, -1, y + height]]
            case 270:
                back = [[0, -1, x + width], [1, 0, y]]
            case _:
                back = [[1, 0, x], [0, 1, y]]
        matrix = np.array(back, np.float32)
        if self._rotate in (90, 270):
            width, height = height, width
        in_width, in_height = self._size
        scale_x, scale_y = in_width / width, in_height / height
        seen, place = _EVERYWHERE, (0, 0, in_width, in_height)
        if self._config.resize == "letterbox":
            scale = min(scale_x, scale_y)
            new = (max(1, round(width * scale)), max(1, round(height * scale)))
            scale_x, scale_y = new[0] / width, new[1] / height
            place = (0, 0, *new)
            if self._config.anchor == "center":
                place = ((in_width - new[0]) // 2, (in_height - new[1]) // 2, *new)
        elif self._config.resize == "crop":
            scale_x = scale_y = max(scale_x, scale_y)
            cut_width = min(width, round(in_width / scale_x))
            cut_height = min(height, round(in_height / scale_y))
            skip_x, skip_y = (width - cut_width) // 2, (height - cut_height) // 2
            seen = (slice(skip_y, skip_y + cut_height), slice(skip_x, skip_x + cut_width))
            scale_x, scale_y = in_width / cut_width, in_height / cut_height
            matrix[:, 2] += matrix[:, :2] @ np.array([skip_x, skip_y], np.float32)
        matrix[:, 0] /= scale_x
        matrix[:, 1] /= scale_y
        matrix[:, 2] -= matrix[:, 0] * place[0] + matrix[:, 1] * place[1]
        return _Plan(shape, cut, seen, place, Geometry(matrix, shape[1], shape[0]))


_EVERYWHERE = (slice(None), slice(None))


class _Plan(NamedTuple):
    """What is done with pictures of one shape: `cut` out of the source and turned, the part that is
    `seen` goes to `place` (x, y, width, height) of the canvas."""

    shape: tuple[int, ...]
    cut: tuple[slice, slice]
    seen: tuple[slice, slice]
    place: Roi
    geometry: Geometry


class _Normalised:
    """What a byte of the canvas becomes in the tensor: `scale` and `offset` by channel, or a table
    where the tensor holds whole numbers; `as_is` where it takes the bytes as they are."""

    def __init__(self, config: ImagePreprocess, spec: TensorSpec) -> None:
        self.color = config.color
        self.scale = 1.0 / np.asarray(config.std, np.float32)
        self.offset = -np.asarray(config.mean, np.float32) * self.scale
        self.tables = None
        if not config.folded and np.dtype(spec.dtype).kind in "iu":
            self.tables = _stored_values(self.scale, self.offset, spec)
        self.as_is = config.folded or (
            self.tables is not None
            and self.tables.dtype == np.uint8
            and bool((self.tables == np.arange(256)).all())
        )


class _Planes(_Normalised):
    """The canvas (uint8 [H, W, 3] BGR) -> a tensor [C, H, W].

    Planes are taken apart as bytes, in the model's order: to convert what lies in a row takes a
    third of the time of picking it out of threes.
    """

    in_place = False

    def __init__(self, config: ImagePreprocess, spec: TensorSpec) -> None:
        super().__init__(config, spec)
        self._bytes = np.empty((0,) if self.as_is else spec.shape[1:], np.uint8)

    def __call__(self, canvas: Array, tensor: Array, place: tuple[slice, slice]) -> None:
        """Fill `place` of the tensor: its rows, whole, since numpy is slow to begin each anew."""
        import cv2

        rows = place[0]
        planes = [plane[place] for plane in (tensor if self.as_is else self._bytes)]
        if self.color == "gray":
            cv2.cvtColor(canvas[place], cv2.COLOR_BGR2GRAY, dst=planes[0])
        else:
            cv2.split(canvas[place], planes if self.color == "bgr" else planes[::-1])
        if self.as_is:
            return
        for channel in range(len(planes)):
            plane, target = self._bytes[channel][rows], tensor[channel][rows]
            if self.tables is not None:
                cv2.LUT(plane, self.tables[channel], dst=target)
                continue
            if self.scale[channel] == 1:
                np.copyto(target, plane, casting="unsafe")
            else:
                np.multiply(plane, self.scale[channel], out=target)
            if self.offset[channel]:
                target += self.offset[channel]


class _Pixels(_Normalised):
    """The canvas (uint8 [H, W, 3] BGR) -> a tensor [H, W, C].

    A tensor that takes the bytes as they are, in their order, is itself the canvas.
    """

    def __init__(self, config: ImagePreprocess, spec: TensorSpec) -> None:
        super().__init__(config, spec)
        _, height, width, channels = spec.shape
        self.in_place = self.as_is and config.color == "bgr"
        self._bytes = np.empty((0,) if self.as_is else (height, width, channels), np.uint8)
        # A whole row of pixels at a time; one factor for all channels where it is the same.
        self._scale, self._offset = (
            values[0] if len({*values.tolist()}) == 1 else np.tile(values, width)
            for values in (self.scale, self.offset)
        )
        if self.tables is not None:
            self._table = np.ascontiguousarray(self.tables.T).reshape(1, 256, channels)

    def __call__(self, canvas: Array, tensor: Array, place: tuple[slice, slice]) -> None:
        """Fill `place` of the tensor: its rows, whole."""
        import cv2

        rows, source = place[0], canvas
        if self.color != "bgr":
            code = cv2.COLOR_BGR2RGB if self.color == "rgb" else cv2.COLOR_BGR2GRAY
            source = tensor if self.as_is else self._bytes
            ordered = source[place] if self.color == "rgb" else source[place][:, :, 0]
            cv2.cvtColor(canvas[place], code, dst=ordered)
        if self.as_is:
            return
        source, target = source[rows], tensor[rows]
        if self.tables is not None:
            cv2.LUT(source, self._table, dst=target)
            return
        source, target = source.reshape(len(source), -1), target.reshape(len(target), -1)
        if isinstance(self._scale, np.ndarray):
            np.multiply(source, self._scale, out=target)
        elif self._scale == 1:
            np.copyto(target, source, casting="unsafe")
        else:
            np.multiply(source, self._scale, out=target)
        if isinstance(self._offset, np.ndarray) or self._offset:
            target += self._offset


class WindowPreprocessor:
    """Normalise one window of samples (float32 [T, C]); in layout nc it lies flat, [1, T*C]."""

    def __init__(self, config: WindowPreprocess, spec: TensorSpec) -> None:
        window = (config.length, len(config.channels))
        expected = (
            (1, config.length * len(config.channels)) if spec.layout == "nc" else (1, *window)
        )
        if spec.shape != expected or spec.dtype != "float32":
            raise BundleError(f"input {spec}: the manifest's windows are float32 {list(expected)}")
        if not len(config.mean) == len(config.std) == len(config.channels):
            raise BundleError("preprocess: mean and std need one value per channel")
        _check_std(config.std)
        self._shape = window
        # As large as the window: numpy takes five times as long to repeat a row of a few channels.
        self._mean = np.tile(np.asarray(config.mean, np.float32), (config.length, 1))
        self._scale = np.tile(1.0 / np.asarray(config.std, np.float32), (config.length, 1))
        self._finite = np.empty(window, bool)
        self._all_finite = b"\1" * self._finite.size
        self._tensors = [np.empty(expected, np.float32) for _ in range(2)]
        self._views = [tensor.reshape(window) for tensor in self._tensors]
        self._turn = 0

    def __call__(self, data: Array) -> tuple[Array, Geometry | None]:
        """A window -> the input tensor; windows have no geometry."""
        if data.shape != self._shape:
            raise FrameError(f"a window here is {list(self._shape)}, this is {list(data.shape)}")
        if data.dtype.kind not in "fiu":
            raise FrameError(f"a window holds numbers, this is {data.dtype}")
        if np.isfinite(data, self._finite).tobytes() != self._all_finite:
            raise FrameError("the window holds samples that are not finite")
        self._turn ^= 1
        view = self._views[self._turn]
        np.subtract(data, self._mean, view, casting="unsafe")
        np.multiply(view, self._scale, view)
        return self._tensors[self._turn], None


def _stored_values(scale: Array, offset: Array, spec: TensorSpec) -> Array:
    """What a whole-number input takes for each byte of each channel: [C, 256], quantised."""
    real = np.arange(256, dtype=np.float32) * scale[:, None] + offset[:, None]
    if spec.quantization is not None:
        real = real / spec.quantization.scale + spec.quantization.zero_point
    limits = np.iinfo(spec.dtype)
    return np.asarray(real.round().clip(limits.min, limits.max).astype(spec.dtype))


def _check_std(std: tuple[float, ...]) -> None:
    if not all(value > 0 for value in std):
        raise BundleError(f"preprocess: every std must be above 0, not {list(std)}")
