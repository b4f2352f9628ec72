"""Frame -> input tensor and Geometry, as the manifest says. Pure, apart from its kept buffers.

The buffers are allocated once for a stream: the resized picture is written straight into its place
in the letterbox, and the tensor alternates between two buffers, so that the one being inferred is
not the one being filled.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edge.errors import BundleError, FrameError
from edge.log_mel import LogMelFeatures
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
        made = ("uint8",) if config.folded else ("float32", "float16", "int32")
        if spec.dtype not in made and (config.folded or spec.quantization is None):
            raise BundleError(f"input {spec}: preprocessing makes {' or '.join(made)}")
        _check_std(config.std)
        self._config = config
        self._size = (int(width), int(height))
        self._roi = roi
        self._rotate = rotate
        self._canvas = np.full((height, width, 3), config.pad, np.uint8)
        self._placed: tuple[int, int, int, int] | None = None
        self._tensors = [np.empty(spec.shape, spec.dtype) for _ in range(2)]
        self._views = [
            tensor[0] if spec.layout == "nhwc" else tensor[0].transpose(1, 2, 0)
            for tensor in self._tensors
        ]
        self._turn = 0
        self._scale = 1.0 / np.asarray(config.std, np.float32)
        self._offset = -np.asarray(config.mean, np.float32) * self._scale
        self._uniform = len(set(config.std)) == 1 and not self._offset.any()
        self._stored = None
        if not config.folded and np.dtype(spec.dtype).kind in "iu":
            self._stored = _stored_values(self._scale, self._offset, spec)
        self._ordered = np.empty((height, width, 3)[: 2 if channels == 1 else 3], np.uint8)

    def __call__(self, data: Array) -> tuple[Array, Geometry | None]:
        """A picture -> the input tensor and where its pixels lie in the source."""
        if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != 3 or not data.size:
            raise FrameError(f"a picture is uint8 [H, W, 3], this is {data.dtype} {data.shape}")
        picture, to_source = self._cut(data)
        geometry = self._resize(picture, to_source, data.shape[1], data.shape[0])
        self._turn ^= 1
        self._fill(self._views[self._turn])
        return self._tensors[self._turn], geometry

    def _cut(self, data: Array) -> tuple[Array, Array]:
        """Region of interest and rotation; the [2, 3] matrix leads back to source pixels."""
        import cv2

        x, y, width, height = self._roi or (0, 0, data.shape[1], data.shape[0])
        picture = data[y : y + height, x : x + width]
        if not picture.size:
            raise FrameError(
                f"roi {self._roi} lies outside of the picture ({data.shape[1]}x{data.shape[0]})"
            )
        height, width = picture.shape[:2]
        match self._rotate:
            case 90:
                picture = cv2.rotate(picture, cv2.ROTATE_90_CLOCKWISE)
                back = [[0, 1, x], [-1, 0, y + height]]
            case 180:
                picture = cv2.rotate(picture, cv2.ROTATE_180)
                back = [[-1, 0, x + width], [0, -1, y + height]]
            case 270:
                picture = cv2.rotate(picture, cv2.ROTATE_90_COUNTERCLOCKWISE)
                back = [[0, -1, x + width], [1, 0, y]]
            case _:
                back = [[1, 0, x], [0, 1, y]]
        return picture, np.array(back, np.float32)

    def _resize(self, picture: Array, to_source: Array, width: int, height: int) -> Geometry:
        import cv2

        config = self._config
        in_width, in_height = self._size
        pic_height, pic_width = picture.shape[:2]
        scale_x, scale_y = in_width / pic_width, in_height / pic_height
        left = top = 0
        if config.resize == "letterbox":
            scale = min(scale_x, scale_y)
            new = (max(1, round(pic_width * scale)), max(1, round(pic_height * scale)))
            scale_x, scale_y = new[0] / pic_width, new[1] / pic_height
            if config.anchor == "center":
                left, top = (in_width - new[0]) // 2, (in_height - new[1]) // 2
            self._place((left, top, *new))
            view = self._canvas[top : top + new[1], left : left + new[0]]
            cv2.resize(picture, new, dst=view, interpolation=cv2.INTER_LINEAR)
        elif config.resize == "crop":
            scale_x = scale_y = max(scale_x, scale_y)
            cut_width = min(pic_width, round(in_width / scale_x))
            cut_height = min(pic_height, round(in_height / scale_y))
            skip_x, skip_y = (pic_width - cut_width) // 2, (pic_height - cut_height) // 2
            picture = picture[skip_y : skip_y + cut_height, skip_x : skip_x + cut_width]
            scale_x, scale_y = in_width / cut_width, in_height / cut_height
            to_source = to_source.copy()
            to_source[:, 2] += to_source[:, :2] @ np.array([skip_x, skip_y], np.float32)
            cv2.resize(picture, self._size, dst=self._canvas, interpolation=cv2.INTER_LINEAR)
        else:
            cv2.resize(picture, self._size, dst=self._canvas, interpolation=cv2.INTER_LINEAR)
        matrix = to_source.copy()
        matrix[:, 0] /= scale_x
        matrix[:, 1] /= scale_y
        matrix[:, 2] -= matrix[:, 0] * left + matrix[:, 1] * top
        return Geometry(matrix, width, height)

    def _place(self, place: tuple[int, int, int, int]) -> None:
        """Repaint the padding when the picture's place in the letterbox has changed."""
        if place != self._placed:
            self._canvas[:] = self._config.pad
            self._placed = place

    def _fill(self, view: Array) -> None:
        """Write the canvas (uint8 BGR) into the tensor, seen as [H, W, C]."""
        ordered = self._reorder()
        if self._config.folded:
            view[:] = ordered
        elif self._stored is not None:
            for channel, table in enumerate(self._stored):
                view[:, :, channel] = table[ordered[:, :, channel]]
        elif self._uniform and view.flags.c_contiguous:
            np.multiply(ordered, self._scale[0], out=view)
        else:
            for channel in range(view.shape[2]):
                plane = view[:, :, channel]
                np.multiply(ordered[:, :, channel], self._scale[channel], out=plane)
                if self._offset[channel]:
                    plane += self._offset[channel]

    def _reorder(self) -> Array:
        """The canvas in the model's order of colours, [H, W, C]."""
        import cv2

        color = self._config.color
        if color == "bgr":
            return self._canvas
        code = cv2.COLOR_BGR2RGB if color == "rgb" else cv2.COLOR_BGR2GRAY
        cv2.cvtColor(self._canvas, code, dst=self._ordered)
        return self._ordered if color == "rgb" else self._ordered[:, :, None]


class WindowPreprocessor:
    """Normalise one window of samples (float32 [T, C]), or the log-mel features of its one channel.

    Axes of size 1 may stand anywhere in the tensor; in layout nc the window lies flat, [1, T*C].
    """

    def __init__(self, config: WindowPreprocess, spec: TensorSpec) -> None:
        self._shape = (config.length, len(config.channels))
        self._features = None
        made = self._shape
        if config.log_mel is not None:
            if len(config.channels) != 1:
                raise BundleError("preprocess: log_mel takes one channel")
            self._features = LogMelFeatures(
                config.log_mel, rate_hz=config.rate_hz, length=config.length
            )
            made = self._features.shape
        columns = made[1]
        turned = config.log_mel is not None and config.log_mel.order == "mel"
        laid = made[::-1] if turned else made
        expected = (1, laid[0] * laid[1]) if spec.layout == "nc" else (1, *laid)
        fits = spec.shape == expected or (
            self._features is not None
            and [size for size in spec.shape if size != 1] == [size for size in laid if size != 1]
        )
        if not fits or spec.dtype != "float32":
            raise BundleError(f"input {spec}: the manifest's windows are float32 {list(expected)}")
        counts = {columns} if self._features is None else {1, columns}
        if len(config.mean) != len(config.std) or len(config.mean) not in counts:
            what = "one value per channel" if self._features is None else "one value, or one a band"
            raise BundleError(f"preprocess: mean and std need {what}")
        _check_std(config.std)
        self._mean = np.asarray(config.mean, np.float32)
        self._scale = 1.0 / np.asarray(config.std, np.float32)
        self._tensors = [np.empty(spec.shape, np.float32) for _ in range(2)]
        views = [tensor.reshape(laid) for tensor in self._tensors]
        self._views = [view.T for view in views] if turned else views
        self._turn = 0

    def __call__(self, data: Array) -> tuple[Array, Geometry | None]:
        """A window -> the input tensor; windows have no geometry."""
        if data.shape != self._shape:
            raise FrameError(f"a window here is {list(self._shape)}, this is {list(data.shape)}")
        if data.dtype.kind not in "fiu":
            raise FrameError(f"a window holds numbers, this is {data.dtype}")
        if not np.isfinite(data).all():
            raise FrameError("the window holds samples that are not finite")
        self._turn ^= 1
        view = self._views[self._turn]
        if self._features is not None:
            data = self._features(data[:, 0])
        np.subtract(data, self._mean, out=view, casting="unsafe")
        view *= self._scale
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
