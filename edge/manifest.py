"""The manifest: a bundle's contract, as it is written in manifest.json. See BUNDLE.md.

Unknown optional fields are ignored; what a reader must understand stands in `requires`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from edge.types import TensorSpec

FORMAT = "edgewright-bundle/v1-draft"
Precision = Literal["fp32", "fp16", "int8-dynamic", "int8"]
"""int8-dynamic: weights alone are int8; int8: weights and activations, calibrated."""
Task = Literal[
    "detect", "classify", "segment", "instance", "keypoints", "oriented", "anomaly", "depth",
    "regress", "embed",
]  # fmt: skip
"""What a model is for; each has its prediction in edge/types.py and its kind on the wire."""
CAPABILITIES = frozenset({"log_mel", "state"})
"""What this reader understands beyond the base format, for `requires`."""


class ImagePreprocess(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="image", tag_field="kind"
):
    """Image -> input tensor: y = (x - mean) / std per channel, x in 0..255.

    `resize`: letterbox keeps the aspect ratio and pads with `pad`, stretch does not keep it, crop
    fills the input and cuts what stands over. `anchor` says where a letterboxed image lies.
    `folded`: the graph normalises by itself and takes uint8.
    """

    resize: Literal["letterbox", "stretch", "crop"] = "letterbox"
    anchor: Literal["center", "topleft"] = "center"
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    pad: int = 114
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (255.0, 255.0, 255.0)
    folded: bool = False


class LogMel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sound -> the logarithm of the energy in bands of the mel scale: see edge/log_mel.py.

    Frames of `window` samples (0: `n_fft`) every `hop`; `center`: as if the sound were reflected at
    its ends, so that frames lie around multiples of `hop`. `n_mels` triangles from `fmin` to `fmax`
    Hz (0: half of the rate), straight over Hz or over mel, and with `norm` of equal area. `power`
    of the magnitude. `floor` is the least value before the logarithm, or is added to it. `order`:
    whether time or mel comes first in the tensor.
    """

    n_fft: int
    hop: int
    n_mels: int
    window: int = 0
    center: bool = False
    fmin: float = 0.0
    fmax: float = 0.0
    scale: Literal["htk", "slaney"] = "htk"
    triangles: Literal["hz", "mel"] = "hz"
    norm: Literal["none", "slaney"] = "none"
    power: Literal[1, 2] = 2
    log: Literal["ln", "log10", "db"] = "ln"
    floor: float = 1e-10
    floored: Literal["least", "added"] = "least"
    order: Literal["time", "mel"] = "time"

    def __post_init__(self) -> None:
        if not 2 <= self.n_fft <= 1 << 16 or self.hop < 1 or not 1 <= self.n_mels <= 1024:
            raise ValueError("log_mel: n_fft is 2 to 65536, hop 1 or more, n_mels 1 to 1024")
        if not 0 <= self.window <= self.n_fft:
            raise ValueError("log_mel: window must not be longer than n_fft")
        if not 0 < self.floor < float("inf") or not 0 <= self.fmin < float("inf"):
            raise ValueError("log_mel: floor must be above 0, fmin not below 0")


class WindowPreprocess(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="window", tag_field="kind"
):
    """Samples -> input tensor: windows of `length` samples every `hop`, y = (x - mean) / std.

    `channels` names the columns in order, `rate_hz` is the sampling rate that the model expects.
    With `log_mel` (a bundle that has it says so in `requires`) x are the features of the one
    channel, and `mean` and `std` hold one value, or one a band.
    """

    length: int
    hop: int
    rate_hz: float
    channels: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    log_mel: LogMel | None = None


Preprocess = ImagePreprocess | WindowPreprocess


class Decoder(msgspec.Struct, frozen=True, kw_only=True):
    """Raw tensors -> prediction: a name from the decoder table, and its parameters."""

    name: str
    params: dict[str, Any] = {}


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """The score below which a detection is dropped."""

    score: float = 0.5


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """One output of a variant against the original on real samples.

    Errors are relative to the range (max - min) of the original's output.
    """

    max_error: float
    p99_error: float
    cosine: float


class StatePair(msgspec.Struct, frozen=True, kw_only=True):
    """The output `output` of one call is the input `input` of the next; zeros at first."""

    input: str
    output: str


class Variant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model file: a format at a precision, its tensors, and what was measured of it.

    Of its inputs one is for the frame; the others are state (a bundle that has it says `state` in
    `requires`), or constants, by name: a number, or a list of the input's shape.
    """

    name: str
    format: Literal["onnx", "tflite"]
    precision: Precision
    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: tuple[StatePair, ...] = ()
    constants: dict[str, Any] = {}
    parity: dict[str, Parity] = {}
    agreement: dict[str, float] = {}
    accuracy: dict[str, float] = {}


class GoldenCase(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A known input with the answer that is expected for it.

    kind `reference`: input tensor and the original's outputs; `variant`: input tensor and the
    outputs of that variant on the build machine; `raw`: a raw image (PNG) or window (npy) and the
    final prediction. `tolerance` is the largest error relative to the output's range (tensors), or
    the smallest IoU of matched boxes and largest score difference (`raw`).
    """

    name: str
    kind: Literal["reference", "variant", "raw"]
    input: str
    outputs: dict[str, str] = {}
    expected: dict[str, Any] = {}
    variant: str = ""
    tolerance: dict[str, float]


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Size in bytes and SHA-256 (hex) of one file."""

    size: int
    sha256: str


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Where it came from: digests of recipe and data, tool versions, licences."""

    recipe: dict[str, str] = {}
    data: list[dict[str, Any]] = []
    tools: dict[str, str] = {}
    licences: dict[str, str] = {}
    preprocessing: Literal["verified", "unverified"] = "unverified"
    reference: dict[str, float] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that a device must know to run the model and to report it truthfully."""

    format: str
    requires: tuple[str, ...] = ()
    name: str
    version: str
    summary: str = ""
    task: Task
    labels: tuple[str, ...]
    preprocess: Preprocess
    decoder: Decoder
    thresholds: Thresholds = Thresholds()
    rules: tuple[dict[str, Any], ...] = ()
    variants: tuple[Variant, ...]
    golden: tuple[GoldenCase, ...] = ()
    provenance: Provenance = Provenance()
    files: dict[str, FileEntry]

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        if not names:
            raise ValueError("a bundle needs at least one variant")
        if len(set(names)) != len(names):
            raise ValueError(f"variant names must differ: {', '.join(names)}")
        for variant in self.variants:
            self._listed(variant.file, f"variant {variant.name}")
            if (variant.state or variant.constants) and "state" not in self.requires:
                raise ValueError(
                    f"variant {variant.name} has state or constants: `requires` must name state"
                )
        if (
            isinstance(self.preprocess, WindowPreprocess)
            and self.preprocess.log_mel is not None
            and "log_mel" not in self.requires
        ):
            raise ValueError("preprocess has log_mel: `requires` must name log_mel")
        for case in self.golden:
            for path in (case.input, *case.outputs.values()):
                self._listed(path, f"golden case {case.name}")

    def _listed(self, path: str, user: str) -> None:
        if path not in self.files:
            raise ValueError(f"{user} names {path}, which `files` does not list")

    def variant(self, name: str) -> Variant:
        """The variant of that name; KeyError with the names there are."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise KeyError(f"no variant {name!r}; there are {', '.join(v.name for v in self.variants)}")
