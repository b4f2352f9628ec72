from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from needs import need_assets, need_module

from edge.conditions import QualityData
from edge.quality import Quality, QualityConfig
from edge.quality.problem import Problem
from edge.sources.synthetic import DemoMeter
from edge.types import Array, Frame

need_module("cv2")
import cv2  # noqa: E402 - said above, if it is missing

RNG = np.random.default_rng(3)
HEIGHT, WIDTH = 360, 640
QUICK: dict[str, Any] = {"settle_s": 2, "learn_s": 10, "frozen_s": 5}
Change = Callable[[Array], Array]


def yard() -> Array:
    """A yard: a wall of bricks, two doors, a car; drawn sharply."""
    picture = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    for y in range(0, HEIGHT, 24):
        cv2.line(picture, (0, y), (WIDTH, y), (80, 90, 100), 2)
        for x in range(y // 24 % 2 * 25, WIDTH, 50):
            cv2.line(picture, (x, y), (x, y + 24), (80, 90, 100), 2)
    cv2.rectangle(picture, (60, 100), (170, 340), (60, 40, 30), -1)
    cv2.rectangle(picture, (470, 80), (600, 330), (200, 210, 220), -1)
    cv2.ellipse(picture, (320, 280), (110, 50), 0, 0, 360, (30, 30, 160), -1)
    cv2.circle(picture, (260, 320), 22, (15, 15, 15), -1)
    cv2.circle(picture, (380, 320), 22, (15, 15, 15), -1)
    return picture


GRAIN = [RNG.normal(0, 16, (HEIGHT, WIDTH, 3)).astype(np.int16) for _ in range(8)]


def noisy(picture: Array, sigma: float = 2.0) -> Array:
    """A picture of 360 x 640 with the noise of a sensor, another one each time."""
    grain = np.roll(GRAIN[RNG.integers(8)], int(RNG.integers(HEIGHT)), 0)
    return cv2.add(picture, cv2.multiply(grain, sigma / 16), dtype=cv2.CV_8U)


def light(gain: float, offset: float = 0.0, noise: float = 2.0) -> Change:
    return lambda picture: noisy(cv2.convertScaleAbs(picture, alpha=gain, beta=offset), noise)


def blurred(sigma: float) -> Change:
    return lambda picture: noisy(cv2.GaussianBlur(picture, (0, 0), sigma))


def moved(x: int, y: int = 0) -> Change:
    return lambda picture: noisy(np.roll(picture, (y, x), (0, 1)))


def jpeg(quality: int) -> Change:
    def change(picture: Array) -> Array:
        encoded = cv2.imencode(".jpg", noisy(picture), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))

    return change


def fog(thickness: float) -> Change:
    return light(1 - thickness, 210 * thickness)


def thing(share: float) -> Change:
    """Something checked stands before the camera."""

    def change(picture: Array) -> Array:
        height, width = (round(side * share**0.5) for side in picture.shape[:2])
        here = picture.copy()
        checked = np.indices((height, width)).sum(0) // 16 % 2 * 120 + 60
        here[-height:, 20 : 20 + width] = checked[..., None]
        return noisy(here)

    return change


HARMLESS: dict[str, Change] = {
    "noise": light(1, noise=8),
    "brighter": light(1.4),
    "dimmer": light(0.5),
    "night": light(0.3, noise=10),
    "fog": fog(0.5),
    "thick fog": fog(0.7),
    "JPEG at 15": jpeg(15),
    "sway": moved(2, 1),
    "something small": thing(0.15),
    "something large": thing(0.35),
}
HARMFUL: dict[str, tuple[str, Change]] = {
    "blacked out": ("dark", light(0.04)),
    "floodlit": ("overexposed", light(4, 200)),
    "a hand": ("covered", lambda picture: noisy(np.full_like(picture, 70), 4)),
    "paper": ("covered", lambda picture: noisy(np.full_like(picture, 190))),
    "sprayed": ("covered", lambda p: light(0.2, 100)(cv2.GaussianBlur(p, (0, 0), 15))),
    "out of focus": ("blurred", blurred(3)),
    "far out of focus": ("blurred", blurred(6)),
    "pushed": ("moved", moved(60)),
    "turned": ("moved", moved(300, 90)),
}


class Camera:
    """One stream of pictures, one a second; its events as (second, problem, state)."""

    def __init__(self, *, live: bool = True, **options: Any) -> None:
        self.quality = Quality(QualityConfig(**{**QUICK, **options}), live=live)
        self.second = 0
        self.told: list[tuple[int, QualityData]] = []

    def shows(self, picture: Array, seconds: int, change: Change = noisy) -> list[tuple[str, str]]:
        before = len(self.told)
        for _ in range(seconds):
            self.look(change(picture))
        return [(data.problem, data.state) for _, data in self.told[before:]]

    def look(self, data: Array) -> None:
        number, self.second = self.second, self.second + 1
        frame = Frame(data=data, source="s", number=number, mono_ns=(number + 1) * 10**9, wall_ns=0)
        self.told += [(number, told) for told in self.quality.look(frame)]


# ---- pictures


def test_what_light_weather_and_compression_do_to_a_picture_is_no_problem() -> None:
    camera, picture = Camera(), yard()
    assert camera.shows(picture, 20) == []
    for name, change in HARMLESS.items():
        assert camera.shows(picture, 6, change) == [], name
        assert camera.shows(picture, 6) == [], f"after {name}"


@pytest.mark.parametrize("name", HARMFUL)
def test_a_bad_picture_is_one_event_when_it_begins_and_one_when_it_ends(name: str) -> None:
    problem, change = HARMFUL[name]
    camera, picture = Camera(), yard()
    assert camera.shows(picture, 20) == []
    assert camera.shows(picture, 8, change) == [(problem, "began")]
    assert camera.shows(picture, 8) == [(problem, "ended")]
    (began_at, began), (_, ended) = camera.told
    assert began_at == 22, "it is believed after two seconds"
    assert (began.seconds, ended.seconds) == (2.0, 10.0)
    assert began.measures.keys() == began.limits.keys() == {problem}
    assert not ended.accepted and not began.jpeg


def test_what_passes_quickly_is_not_believed() -> None:
    camera, picture = Camera(settle_s=5), yard()
    camera.shows(picture, 20)
    for _ in range(5):
        assert camera.shows(picture, 4, HARMFUL["a hand"][1]) == []
        assert camera.shows(picture, 2) == []


def test_a_measure_that_trembles_on_its_limit_is_no_flood() -> None:
    camera, picture = Camera(), yard()
    camera.shows(picture, 20)
    for second in range(100):
        camera.shows(picture, 1, blurred(2.5 if second % 2 else 1.2))
    assert len(camera.told) <= 2


def test_what_ends_lies_well_beyond_where_it_began() -> None:
    camera = Camera()
    dark, dusk, day = (np.full((HEIGHT, WIDTH, 3), level, np.uint8) for level in (18, 26, 40))
    assert camera.shows(dusk, 8) == []
    assert camera.shows(dark, 8) == [("dark", "began")]
    for _ in range(3):
        assert camera.shows(dusk, 8) == camera.shows(dark, 8) == []
    assert camera.shows(day, 8) == [("dark", "ended")]


def test_a_scene_with_little_in_it_is_no_problem() -> None:
    wall = np.full((HEIGHT, WIDTH, 3), 150, np.uint8)
    wall[:, 300:] = 158
    camera = Camera()
    assert camera.shows(wall, 30) == []
    assert camera.shows(wall, 10, light(0.7)) == camera.shows(wall, 10, fog(0.5)) == []


def test_a_lens_that_never_was_sharp_is_normal_and_a_slow_fog_covers_nothing() -> None:
    camera = Camera()
    soft = cv2.GaussianBlur(yard(), (0, 0), 4)
    assert camera.shows(soft, 30) == []
    for step in range(60):
        assert camera.shows(soft, 1, fog(step / 64)) == []


def test_a_new_view_that_stays_becomes_the_normal_one() -> None:
    camera, picture = Camera(), yard()
    elsewhere = np.roll(picture, (90, 300), (0, 1))
    camera.shows(picture, 20)
    assert camera.shows(elsewhere, 30) == [("moved", "began"), ("moved", "ended")]
    assert camera.told[-1][1].accepted
    assert camera.shows(elsewhere, 20) == []
    assert camera.shows(picture, 8) == [("moved", "began")]


def test_a_camera_that_never_rests_has_no_view_to_be_moved_from() -> None:
    camera, picture = Camera(), yard()
    for step in range(60):
        assert camera.shows(np.roll(picture, (step * 31, step * 97), (0, 1)), 1) == []


def test_a_live_picture_without_any_change_is_frozen() -> None:
    camera, picture = Camera(), yard()
    camera.shows(picture, 12)
    still = noisy(picture)
    assert camera.shows(still, 20, lambda same: same) == [("frozen", "began")]
    began = camera.told[0][1]
    assert 5 <= began.seconds <= 8 and began.limits == {"frozen": 5}
    assert camera.shows(picture, 5) == [("frozen", "ended")]
    assert 19 <= camera.told[1][1].seconds <= 23


def test_a_file_and_a_black_picture_may_stand_still() -> None:
    still = noisy(yard())
    assert Camera(live=False).shows(still, 20, lambda same: same) == []
    black = Camera().shows(np.zeros_like(still), 20, lambda same: same)
    assert black == [("dark", "began")], "it is dark, and that is all"


def test_what_is_to_be_ignored_is() -> None:
    camera, picture = Camera(ignore=("dark", "moved")), yard()
    camera.shows(picture, 20)
    assert camera.shows(picture, 8, HARMFUL["turned"][1]) == []
    camera = Camera(ignore=("dark",))
    camera.shows(picture, 20)
    assert camera.shows(picture, 8, light(0.02)) == [], "and is not taken for something else"
    assert camera.shows(picture, 8) == []


def test_another_size_of_the_same_view_is_no_problem() -> None:
    camera, picture = Camera(), yard()
    camera.shows(picture, 20)
    large = cv2.resize(noisy(picture), (1280, 720))
    assert camera.shows(large, 4, lambda same: same) == []


def test_evidence_is_a_small_picture_of_bounded_size() -> None:
    camera = Camera(evidence=True, ignore=("frozen",))
    picture = cv2.resize(noisy(yard()), (1280, 720))
    camera.shows(picture, 20, lambda same: same)
    camera.shows(picture, 5, lambda p: cv2.GaussianBlur(p, (0, 0), 8))
    camera.shows(picture, 5, lambda same: same)
    (_, began), (_, ended) = camera.told
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(began.jpeg), np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (180, 320, 3) and len(began.jpeg) < 40_000 and not ended.jpeg
    noise = Camera(evidence=True, settle_s=0)
    noise.shows(RNG.integers(0, 20, (1080, 1920, 3), np.uint8), 3, lambda same: same)
    assert 0 < len(noise.told[0][1].jpeg) < 40_000


def test_looks_are_as_far_apart_as_asked_and_slow_cameras_are_believed_too() -> None:
    quality = Quality(QualityConfig(every_s=10, settle_s=0), live=True)
    black, told = np.zeros((40, 60, 3), np.uint8), []
    for tenth in range(0, 400):
        frame = Frame(data=black, source="s", number=0, mono_ns=tenth * 10**8, wall_ns=0)
        told += [(tenth, data.problem) for data in quality.look(frame)]
    assert told == [(200, "dark")], "three looks at least"


@pytest.mark.parametrize("shape", [(10, 10), (0, 10, 3), (10, 0, 3), (5,), (10, 10, 4)])
def test_what_is_no_picture_is_left_for_others(shape: tuple[int, ...]) -> None:
    Camera().shows(np.zeros(shape, np.uint8), 5, lambda same: same)


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 3000, 3), (3000, 2, 3), (17, 23, 3)])
def test_pictures_of_any_size_are_looked_at(shape: tuple[int, ...]) -> None:
    Camera().shows(np.full(shape, 99, np.uint8), 15, lambda same: same)


def photographs() -> Iterator[tuple[str, Array]]:
    folder = need_assets() / "images"
    for name in ("cat_1080p.jpg", "bus.jpg", "dog.jpg", "fd_3.jpg"):
        picture = np.asarray(cv2.imread(str(folder / name)))
        yield name, cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    yield "meter", DemoMeter(DemoMeter.Config(), name="meter").picture(5)


def test_photographs_raise_no_false_alarm_and_hide_no_true_one() -> None:
    harmful = ("blacked out", "a hand", "far out of focus", "turned")
    for name, picture in photographs():
        camera = Camera()
        assert camera.shows(picture, 12) == [], name
        for harmless, change in HARMLESS.items():
            assert camera.shows(picture, 4, change) == [], (name, harmless)
            assert camera.shows(picture, 4) == [], (name, f"after {harmless}")
        for bad in harmful:
            problem, change = HARMFUL[bad]
            assert camera.shows(picture, 5, change) == [(problem, "began")], (name, bad)
            assert camera.shows(picture, 5) == [(problem, "ended")], (name, bad)


# ---- sensors

CHANNELS = ("ax", "ay", "az")


class Sensor(Camera):
    """Windows of 100 samples of three channels, one a second."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        config = QualityConfig(**{**QUICK, "learn_s": 15, **options})
        self.quality = Quality(config, live=True, channels=CHANNELS)

    def gives(self, seconds: int, change: Change = lambda window: window) -> list[QualityData]:
        before = len(self.told)
        for _ in range(seconds):
            time = self.second + np.arange(100)[:, None] / 100
            wave = np.sin(time * (6.0, 9.0, 14.0)) * (1.0, 3.0, 0.5)
            self.look(change(wave + RNG.normal(0, 0.02, wave.shape)).astype(np.float32))
        return [data for _, data in self.told[before:]]


def on(channels: Sequence[int], change: Change) -> Change:
    def changed(window: Array) -> Array:
        window = window.copy()
        window[:, channels] = change(window[:, channels])
        return window

    return changed


def test_a_sensor_that_is_well_says_nothing() -> None:
    sensor = Sensor()
    assert sensor.gives(60) == []
    assert sensor.gives(20, lambda window: window * 0.4) == [], "a calmer time"
    assert sensor.gives(20, lambda window: window * 5) == []


def test_a_channel_that_repeats_one_value_is_stuck_and_no_more() -> None:
    sensor = Sensor()
    sensor.gives(30)
    (began,) = sensor.gives(12, on([1], lambda _: 2.5))
    assert (began.problem, began.state, began.channels) == ("stuck", "began", ("ay",))
    assert began.limits["ay"] == 5 and 5 <= began.seconds <= 8
    (ended,) = sensor.gives(10)
    assert (ended.problem, ended.state, ended.channels) == ("stuck", "ended", ("ay",))


def test_a_channel_that_only_has_its_noise_left_is_flat() -> None:
    sensor = Sensor()
    sensor.gives(30)
    (began,) = sensor.gives(8, on([0, 2], lambda window: window * 0.001))
    assert (began.problem, began.state, began.channels) == ("flat", "began", ("ax", "az"))
    assert began.measures["ax"] < began.limits["ax"]
    assert [data.state for data in sensor.gives(8)] == ["ended"]


def test_a_signal_that_is_cut_off_is_clipped() -> None:
    sensor = Sensor()
    sensor.gives(30)
    (began,) = sensor.gives(8, on([1], lambda window: (window * 3).clip(-3, 3)))
    assert (began.problem, began.channels) == ("clipped", ("ay",))
    assert began.measures["ay"] > began.limits["ay"]


def test_a_thermometer_that_moves_once_a_minute_is_not_stuck_nor_a_switch_clipped() -> None:
    sensor = Sensor(frozen_s=30)

    def slow(window: Array) -> Array:
        minute = sensor.second // 25
        window = np.full_like(window, 21.0)
        window[:, 0] += 0.1 * (minute % 3)
        window[:, 1] = sensor.second // 4 % 2
        window[:, 2] = (np.arange(len(window)) // 10 + sensor.second) % 2
        return window

    assert sensor.gives(300, on([0, 1, 2], slow)) == []


def test_evidence_of_a_sensor_is_its_last_samples() -> None:
    sensor = Sensor(evidence=True)
    sensor.gives(30)
    (began,) = sensor.gives(9, on([2], lambda _: -1.25))
    assert began.samples == (-1.25,) * 100 and not began.jpeg


def test_windows_of_other_channels_are_left_for_others() -> None:
    sensor = Sensor()
    for shape in ((100, 2), (1, 3), (0, 3), (100,)):
        sensor.look(np.zeros(shape, np.float32))
    assert sensor.told == []


# ---- hysteresis


def test_looks_that_cannot_tell_change_nothing() -> None:
    problem = Problem(2.0)
    looks = [True, None, True, None, True, None, None, False, None, False, False]
    turns = [problem.update(bad, second * 10**9) for second, bad in enumerate(looks)]
    assert [(second, turn) for second, turn in enumerate(turns) if turn] == [
        (4, "began"),
        (10, "ended"),
    ]
    assert problem.seconds(10 * 10**9) == 10.0
