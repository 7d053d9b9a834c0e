"""Scene cuts: found where pictures change, and not where only light, place or parts of them do."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsync.corpus.extraction.scene_cuts import SceneCuts
from avsync.errors import ArgumentError, ShapeError

Image = npt.NDArray[np.uint8]


def scene(seed: int, height: int = 180, width: int = 320) -> Image:
    """A still of soft blobs, like a blurred photograph: warm colours for even seeds, cool ones for odd seeds."""
    rng = np.random.default_rng(seed)
    palette = rng.uniform(0, 155, (6, 3)) + np.array([100, 40, 0] if seed % 2 == 0 else [0, 40, 100])
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    weights = [
        np.exp(-(((y - cy) / sy) ** 2 + ((x - cx) / sx) ** 2))
        for cy, cx, sy, sx in rng.uniform([0, 0, 0.1, 0.1], [1, 1, 0.4, 0.4], (6, 4))
    ]
    total = np.stack(weights) + 0.01
    image = np.einsum("kyx,kc->yxc", total, palette) / total.sum(axis=0)[..., None]
    return np.clip(image, 0, 255).astype(np.uint8)


def cuts(images: Iterable[Image]) -> list[int]:
    detector = SceneCuts()
    return [k for k, image in enumerate(images) if detector.push(image)]


def noisy(image: Image, seed: int) -> Image:
    noise = np.random.default_rng(seed).normal(0, 6, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


@given(lengths=st.lists(st.integers(2, 8), min_size=1, max_size=6), seed=st.integers(0, 50))
def test_every_cut_is_found_and_nothing_else(lengths: list[int], seed: int) -> None:
    images = [noisy(scene(100 * seed + k, 90, 160), j) for k, length in enumerate(lengths) for j in range(length)]
    assert cuts(images) == np.cumsum(lengths)[:-1].tolist()


@pytest.mark.parametrize("size", [(90, 160), (720, 1280), (640, 360), (64, 64), (7, 5)])
def test_any_size(size: tuple[int, int]) -> None:
    a, b = scene(1, *size), scene(2, *size)
    assert cuts([a, a, a, b, b]) == [3]


def test_light_is_no_cut() -> None:
    image = scene(3).astype(float)
    for light in (image * 0.4, image * 0.7 + 70, np.minimum(image * 1.3, 255)):
        assert cuts([image.astype(np.uint8)] * 3 + [light.astype(np.uint8)] * 3) == []


def test_flashes_and_black_frames_are_passed_over() -> None:
    a, b = scene(4), scene(5)
    white, black = np.full_like(a, 255), np.zeros_like(a)
    assert cuts([a, a, white, a, black, black, a]) == []
    # A cut through black is at the first image of what follows.
    assert cuts([a, a, black, black, b, b]) == [4]
    assert cuts([black, black, a, a]) == []
    assert cuts([white] * 5) == []


def test_a_passing_object_and_a_pan_are_no_cuts() -> None:
    background, frames = scene(6), []
    for k in range(30):
        image = background.copy()
        image[60:140, 10 * k : 10 * k + 40] = (200, 30, 90)
        frames.append(image)
    assert cuts(frames) == []
    wide = scene(7, 180, 1600)
    assert cuts([wide[:, 24 * k : 24 * k + 320] for k in range(50)]) == []


def test_a_shaking_camera_is_no_cut_but_a_cut_from_it_is() -> None:
    rng = np.random.default_rng(0)
    large, other = scene(8, 220, 400), scene(11)
    shaking = [large[y : y + 180, x : x + 320] for y, x in rng.integers(0, 30, (40, 2))]
    assert cuts(shaking) == []
    assert cuts([*shaking, other, other]) == [40]


def test_the_size_of_the_images_changes_only_at_a_cut() -> None:
    assert cuts([scene(1, 90, 160)] * 2 + [scene(1, 180, 320)] * 2) == [2]
    assert cuts([np.zeros((90, 160, 3), np.uint8), np.zeros((180, 320, 3), np.uint8)]) == [1]


def test_reset_forgets_and_thresholds_count() -> None:
    a, b = scene(1), scene(2)
    detector = SceneCuts()
    assert not detector.push(a)
    detector.reset()
    assert not detector.push(b)
    blind = SceneCuts(structure=2.0)
    assert [blind.push(image) for image in (a, b)] == [False, False]
    colour_blind = SceneCuts(colours=1.0)
    assert [colour_blind.push(image) for image in (a, b)] == [False, False]


def test_the_image_is_not_kept() -> None:
    """Whoever reuses one buffer for all images gets the same answers."""
    buffer, detector, found = np.empty((180, 320, 3), np.uint8), SceneCuts(), []
    for k, image in enumerate([scene(1), scene(1), scene(2), scene(2)]):
        buffer[:] = image
        if detector.push(buffer):
            found.append(k)
    assert found == [2]


def test_bad_input() -> None:
    with pytest.raises(ShapeError, match=r"`image`: expected \(height, width, 3\) of uint8, got \(4, 4\) of uint8"):
        SceneCuts().push(np.zeros((4, 4), np.uint8))
    with pytest.raises(ShapeError, match="float32"):
        SceneCuts().push(np.zeros((4, 4, 3), np.float32))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="`ratio`"):
        SceneCuts(ratio=-1.0)
    with pytest.raises(ArgumentError, match="at most 2 and 1"):
        SceneCuts(colours=1.5)
