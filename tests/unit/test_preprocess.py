from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge.errors import BundleError, FrameError
from edge.manifest import ImagePreprocess, WindowPreprocess
from edge.preprocess import ImagePreprocessor, WindowPreprocessor
from edge.types import Array, Quantization, TensorSpec

NCHW = TensorSpec(name="x", shape=(1, 3, 96, 160), layout="nchw")
NHWC = TensorSpec(name="x", shape=(1, 96, 160, 3), layout="nhwc")
WIDTH, HEIGHT = 400, 300


def prepare(
    picture: Array, spec: TensorSpec = NHWC, *, roi: Any = None, rotate: int = 0, **config: Any
) -> tuple[Array, Any]:
    return ImagePreprocessor(ImagePreprocess(**config), spec, roi=roi, rotate=rotate)(picture)


def plain(*bgr: int) -> Array:
    return np.full((HEIGHT, WIDTH, 3), bgr, np.uint8)


# ---- geometry


@pytest.mark.parametrize(
    ("size", "config", "matrix"),
    [
        # 400x300 into 160x96: 0.32 is the smaller scale, 128x96, 16 columns of padding at the left
        ((400, 300), {"resize": "letterbox"}, [[3.125, 0, -50], [0, 3.125, 0]]),
        ((400, 300), {"resize": "letterbox", "anchor": "topleft"}, [[3.125, 0, 0], [0, 3.125, 0]]),
        # 320x96 into 160x96: half the size, 160x48, 24 rows of padding at the top
        ((320, 96), {"resize": "letterbox"}, [[2, 0, 0], [0, 2, -48]]),
        ((320, 288), {"resize": "stretch"}, [[2, 0, 0], [0, 3, 0]]),
        # 400x300 into 160x96: 0.4 is the larger scale, 400x240 of it are seen, from row 30
        ((400, 300), {"resize": "crop"}, [[2.5, 0, 0], [0, 2.5, 30]]),
    ],
)
def test_the_geometry_is_what_pencil_and_paper_say(
    size: tuple[int, int], config: dict[str, Any], matrix: list[list[float]]
) -> None:
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    _, geometry = prepare(picture, **config)
    np.testing.assert_allclose(geometry.matrix, matrix, atol=1e-4)
    assert (geometry.width, geometry.height) == size


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
@pytest.mark.parametrize("roi", [None, (60, 40, 250, 210), (130, 0, 400, 300)])
@pytest.mark.parametrize("spec", [NCHW, NHWC], ids=["nchw", "nhwc"])
@pytest.mark.parametrize(
    "config",
    [
        {"resize": "letterbox"},
        {"resize": "letterbox", "anchor": "topleft"},
        {"resize": "stretch"},
        {"resize": "crop"},
    ],
    ids=lambda config: "-".join(config.values()),
)
def test_a_box_lies_where_the_thing_really_is(
    config: dict[str, Any], spec: TensorSpec, roi: Any, rotate: int
) -> None:
    truth = np.array([180, 110, 244, 150], np.float32)
    picture = plain(0, 0, 0)
    x1, y1, x2, y2 = truth.astype(int)
    picture[y1:y2, x1:x2] = 255
    tensor, geometry = prepare(picture, spec, roi=roi, rotate=rotate, pad=0, **config)
    seen = tensor[0] if spec.layout == "nhwc" else tensor[0].transpose(1, 2, 0)
    rows, columns = np.nonzero(seen[:, :, 0] > 0.5)
    in_input = np.array(
        [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32
    )
    (found,) = geometry.to_source(in_input)
    pixel = np.abs(geometry.matrix[:, :2]).sum(axis=1).max()  # of the input, in source pixels
    np.testing.assert_allclose(found, truth, atol=pixel)


def test_rotating_turns_clockwise() -> None:
    picture = plain(0, 0, 0)
    picture[:50, :50] = 255  # top left
    tensor, _ = prepare(picture, rotate=90, resize="stretch")
    bright = [bool(corner > 0.5) for corner in tensor[0, [0, 0, -1, -1], [0, -1, 0, -1], 0]]
    assert bright == [False, True, False, False]  # now top right


def test_boxes_are_clipped_to_the_source() -> None:
    _, geometry = prepare(plain(0, 0, 0))
    (box,) = geometry.to_source(np.array([[-50, -50, 500, 500]], np.float32))
    assert box.tolist() == [0, 0, WIDTH, HEIGHT]
    assert geometry.to_source(np.empty((0, 4), np.float32)).shape == (0, 4)


def test_a_region_outside_of_the_picture_is_a_bad_frame() -> None:
    with pytest.raises(FrameError, match=r"roi .* lies outside of the picture \(400x300\)"):
        prepare(plain(0, 0, 0), roi=(400, 0, 10, 10))


# ---- values


@pytest.mark.parametrize(
    ("color", "expected"), [("rgb", [30, 20, 10]), ("bgr", [10, 20, 30]), ("gray", [22])]
)
def test_colours_are_ordered_and_normalised(color: str, expected: list[int]) -> None:
    count = len(expected)
    config = {"color": color, "mean": (5.0, 6.0, 7.0)[:count], "std": (2.0, 4.0, 8.0)[:count]}
    wanted = (np.array(expected) - config["mean"]) / config["std"]
    for layout, shape in (("nhwc", (1, 8, 8, count)), ("nchw", (1, count, 8, 8))):
        spec = TensorSpec(name="x", shape=shape, layout=layout)
        tensor, _ = prepare(plain(10, 20, 30), spec, resize="stretch", **config)
        assert tensor.shape == shape and tensor.dtype == np.float32
        values = tensor[0, 4, 4] if layout == "nhwc" else tensor[0, :, 4, 4]
        np.testing.assert_allclose(values, wanted, rtol=1e-6)


def test_padding_has_its_colour_and_is_repainted_when_the_picture_changes_its_shape() -> None:
    prepare_one = ImagePreprocessor(
        ImagePreprocess(pad=114, mean=(0, 0, 0), std=(1, 1, 1)),
        TensorSpec(name="x", shape=(1, 100, 100, 3), layout="nhwc"),
    )
    for shape, middle, padding in (
        ((50, 100), np.s_[30:70, :], np.s_[:24, :]),
        ((100, 50), np.s_[:, 30:70], np.s_[:, :24]),
    ):
        tensor, _ = prepare_one(np.full((*shape, 3), 250, np.uint8))
        assert (tensor[0][middle] == 250).all()
        assert (tensor[0][padding] == 114).all()


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("color", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("kept", ["float32", "folded", "int8"])
def test_what_came_before_leaves_no_trace_in_a_tensor(layout: str, color: str, kept: str) -> None:
    channels = 1 if color == "gray" else 3
    config = ImagePreprocess(
        color=color,  # type: ignore[arg-type]
        mean=(5.0, 6.0, 7.0)[:channels],
        std=(2.0, 4.0, 8.0)[:channels],
        folded=kept == "folded",
    )
    spec = TensorSpec(
        name="x",
        shape=(1, channels, 96, 160) if layout == "nchw" else (1, 96, 160, channels),
        layout=layout,  # type: ignore[arg-type]
        dtype="uint8" if kept == "folded" else kept,
        quantization=Quantization(scale=0.3, zero_point=-90) if kept == "int8" else None,
    )
    prepare_one, rng = ImagePreprocessor(config, spec), np.random.default_rng(0)
    wide, high = (100, 300), (300, 100)
    for size in (wide, wide, wide, high, wide, high, high, high, wide, high, wide, wide):
        picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        alone, _ = ImagePreprocessor(config, spec)(picture)
        np.testing.assert_array_equal(prepare_one(picture)[0], alone)


def test_a_model_that_normalises_by_itself_gets_plain_bytes() -> None:
    spec = TensorSpec(name="x", shape=(1, 8, 8, 3), layout="nhwc", dtype="uint8")
    tensor, _ = prepare(plain(10, 20, 30), spec, folded=True)
    assert tensor.dtype == np.uint8
    assert tensor[0, 4, 4].tolist() == [30, 20, 10]


@pytest.mark.parametrize(
    ("dtype", "quantization", "mean", "std", "expected"),
    [
        # int8: stored = y / scale + zero_point; 200 is 0.5686 of -1..1, and 72.6 of 1/127.7
        ("int8", Quantization(scale=1 / 127.5, zero_point=-1), 127.5, 127.5, [71.5, -28.5, 9.5]),
        ("uint8", Quantization(scale=1 / 255, zero_point=0), 0.0, 255.0, [200, 100, 138]),
        ("int32", None, 0.0, 1.0, [200, 100, 138]),
        ("float16", None, 0.0, 255.0, [200 / 255, 100 / 255, 138 / 255]),
    ],
)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_inputs_of_other_types_get_what_they_stand_for(
    dtype: str,
    quantization: Quantization | None,
    mean: float,
    std: float,
    expected: list[float],
    layout: str,
) -> None:
    spec = TensorSpec(
        name="image",
        shape=(1, 3, 4, 4) if layout == "nchw" else (1, 4, 4, 3),
        dtype=dtype,
        layout=layout,  # type: ignore[arg-type]
        quantization=quantization,
    )
    config = ImagePreprocess(resize="stretch", mean=(mean,) * 3, std=(std,) * 3)
    tensor, _ = ImagePreprocessor(config, spec)(plain(138, 100, 200))
    assert tensor.dtype == dtype
    seen = tensor[0, :, 1, 1] if layout == "nchw" else tensor[0, 1, 1]
    assert np.abs(seen.astype(float) - expected).max() <= (0.5 if dtype == "int8" else 1e-3)


def test_two_buffers_take_turns_and_nothing_is_allocated_between_frames() -> None:
    window = WindowPreprocess(
        length=3, hop=1, rate_hz=1, channels=("a", "b"), mean=(0, 0), std=(1, 1)
    )
    for prepare_one, frames in (
        (ImagePreprocessor(ImagePreprocess(), NCHW), [plain(*[shade] * 3) for shade in range(4)]),
        (
            WindowPreprocessor(window, TensorSpec(name="x", shape=(1, 3, 2))),
            [np.full((3, 2), value, np.float32) for value in range(4)],
        ),
    ):
        tensors = [prepare_one(frame)[0] for frame in frames]
        assert tensors[0] is tensors[2] and tensors[1] is tensors[3]
        assert not np.shares_memory(tensors[0], tensors[1])
        assert tensors[0].mean() < tensors[1].mean(), "the last two frames are still there"


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.float32),
    ],
    ids=lambda picture: f"{picture.dtype}{picture.shape}",
)
def test_what_is_not_a_picture_is_a_bad_frame(picture: Array) -> None:
    with pytest.raises(FrameError, match="a picture is uint8"):
        prepare(picture)


@pytest.mark.parametrize(
    ("spec", "config", "words"),
    [
        (TensorSpec(name="x", shape=(1, 3, 8, 8)), {}, "nchw or nhwc"),
        (TensorSpec(name="x", shape=(2, 3, 8, 8), layout="nchw"), {}, "nchw or nhwc"),
        (TensorSpec(name="x", shape=(1, 1, 8, 8), layout="nchw"), {}, "1 channels, but colour"),
        (NCHW, {"mean": (0.0,)}, "mean 1 and std 3"),
        (NCHW, {"folded": True}, "preprocessing makes uint8"),
        (NCHW, {"std": (1.0, 0.0, 1.0)}, "std must be above 0"),
    ],
)
def test_a_manifest_that_does_not_fit_its_model_is_refused(
    spec: TensorSpec, config: dict[str, Any], words: str
) -> None:
    with pytest.raises(BundleError, match=words):
        ImagePreprocessor(ImagePreprocess(**config), spec)


# ---- windows


def window(**changes: Any) -> WindowPreprocessor:
    fields: dict[str, Any] = {
        "length": 2, "hop": 1, "rate_hz": 10, "channels": ("a", "b"),
        "mean": (1.0, -2.0), "std": (2.0, 4.0),
    }  # fmt: skip
    return WindowPreprocessor(
        WindowPreprocess(**{**fields, **changes}), TensorSpec(name="x", shape=(1, 2, 2))
    )


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_a_window_is_normalised_by_channel(dtype: str) -> None:
    tensor, geometry = window()(np.array([[1, -2], [5, 6]], dtype))
    assert tensor.tolist() == [[[0, 0], [2, 2]]]
    assert tensor.dtype == np.float32 and geometry is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.array([[1, np.nan], [0, 0]]), "not finite"),
        (np.array([[1, 2], [-np.inf, 0]]), "not finite"),
        (np.zeros((3, 2)), r"a window here is \[2, 2\], this is \[3, 2\]"),
        (np.zeros(4), r"this is \[4\]"),
        (np.array([["1", "2"], ["3", "4"]]), "a window holds numbers"),
    ],
)
def test_a_window_that_cannot_be_used_is_a_bad_frame(data: Array, words: str) -> None:
    with pytest.raises(FrameError, match=words):
        window()(data)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"length": 3}, r"the manifest's windows are float32 \[1, 3, 2\]"),
        ({"mean": (0.0,)}, "one value per channel"),
        ({"std": (1.0, 0.0)}, "std must be above 0"),
        ({"std": (1.0, float("nan"))}, "std must be above 0"),
    ],
)
def test_windows_that_do_not_fit_the_model_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BundleError, match=words):
        window(**changes)


def test_a_window_for_a_model_of_rows_lies_flat() -> None:
    config = WindowPreprocess(
        length=2, hop=2, rate_hz=1, channels=("x", "y"), mean=(1, 0), std=(2, 1)
    )
    prepare = WindowPreprocessor(config, TensorSpec(name="row", shape=(1, 4), layout="nc"))
    tensor, _ = prepare(np.array([[1, 2], [3, 4]], np.float32))
    assert tensor.tolist() == [[0, 2, 1, 4]]
