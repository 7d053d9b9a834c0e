"""The two croppings: what each keeps, and that landmarks and images are cut alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from avsync.corpus.extraction.cropping import crop_centred, crop_fixed, crop_image
from avsync.errors import ArgumentError, ShapeError
from avsync.landmarks.geometry import displacement

Array = npt.NDArray[np.float64]


def walk(frames: int = 40, dims: int = 2) -> Array:
    """A face that moves through the picture and comes closer, with a mouth of its own."""
    rng = np.random.default_rng(0)
    face = rng.uniform(-40, 40, (68, dims))
    time = np.arange(frames)[:, None, None]
    points = face * (1 + 0.01 * time) + rng.normal(0, 0.5, (frames, 68, dims))
    points[..., :2] += np.array([300.0, 200.0]) + np.concatenate([3.0 * time, 20 * np.sin(time / 5)], axis=-1)
    return points


def test_fixed_crop_is_one_similarity_for_the_clip() -> None:
    points = walk(dims=3)
    crop = crop_fixed(points, size=128, margin=0.1)
    assert crop.points.dtype == np.float32 and (crop.boxes == crop.boxes[0]).all()
    scale = 128 / (crop.boxes[0, 2] - crop.boxes[0, 0])
    np.testing.assert_allclose(np.diff(crop.points, axis=0), scale * np.diff(points, axis=0), atol=1e-3)
    extent = np.ptp(crop.points[..., :2].reshape(-1, 2), axis=0)
    # The longer side with a tenth of it to spare on both sides fills the crop, and all lies in the middle.
    assert extent.max() == pytest.approx(128 / 1.2, rel=1e-5)
    middle = (crop.points[..., :2].max((0, 1)) + crop.points[..., :2].min((0, 1))) / 2
    np.testing.assert_allclose(middle, 64, atol=1e-3)


def test_fixed_crop_is_invisible_to_the_syncers() -> None:
    points = walk()
    before = displacement(torch.from_numpy(points)[None])
    after = displacement(torch.from_numpy(crop_fixed(points).points).double()[None])
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


def test_centred_crop_takes_translation_away_and_nothing_else() -> None:
    points = walk()
    crop = crop_centred(points, size=200, margin=0.25)
    low, high = crop.points.min(axis=1), crop.points.max(axis=1)
    np.testing.assert_allclose((low + high) / 2, 100, atol=1e-3)
    scale = 200 / (crop.boxes[:, 2] - crop.boxes[:, 0])
    assert np.ptp(scale) < 1e-12
    shape = points - points.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(crop.points - crop.points.mean(axis=1, keepdims=True), shape * scale[0], atol=1e-3)
    # The largest face fills what the margin leaves; the one that has not come closer yet is smaller.
    assert (high - low).max() == pytest.approx(200 / 1.5, rel=1e-5)
    assert (high - low)[0].max() < 0.8 * (high - low)[-1].max()
    np.testing.assert_allclose(
        crop_centred(points + np.array([50.0, -9.0]), size=200, margin=0.25).points, crop.points, atol=1e-3
    )


@pytest.mark.parametrize("kind", [crop_fixed, crop_centred])
def test_images_are_cut_like_landmarks(kind: type[crop_fixed]) -> None:
    """A white spot on a landmark is found at that landmark in the crop."""
    points = walk(5)
    crop = kind(points, size=64, margin=0.3)
    for k in (0, 4):
        for p in (0, 30):
            image = np.zeros((420, 560, 3), np.uint8)
            x, y = points[k, p]
            image[int(y) - 4 : int(y) + 5, int(x) - 4 : int(x) + 5] = 255
            cut = crop_image(image, crop.boxes[k], size=64)[..., 1].astype(float)
            centre = [(np.arange(64) + 0.5) @ cut.sum(axis) / cut.sum() for axis in (0, 1)]
            # The spot sits on whole pixels, so up to half a pixel of the source beside the landmark.
            scale = 64 / (crop.boxes[k, 2] - crop.boxes[k, 0])
            expected = (np.array([int(x), int(y)]) + 0.5 - crop.boxes[k, :2]) * scale
            np.testing.assert_allclose(centre, expected, atol=0.1)
            np.testing.assert_allclose(centre, crop.points[k, p], atol=0.1 + 0.5 * scale)


def test_crop_of_the_whole_image_is_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3)).astype(np.uint8)
    np.testing.assert_array_equal(crop_image(image, (0, 0, 48, 48), size=48), image)
    np.testing.assert_array_equal(crop_image(image, (8, 16, 24, 32), size=16), image[16:32, 8:24])


def test_reduction_averages_and_the_edge_casts_no_shadow() -> None:
    fine = np.indices((256, 256)).sum(axis=0)[..., None] % 2 * 255
    reduced = crop_image(fine.astype(np.uint8), (0, 0, 256, 256), size=32)
    assert np.abs(reduced.astype(int) - 127.5).max() < 8
    flat = np.full((100, 100, 1), 200, np.uint8)
    assert (crop_image(flat, (0, 0, 100, 100), size=32) == 200).all()
    assert (crop_image(flat, (0, 0, 10, 10), size=64) == 200).all()


def test_outside_is_black() -> None:
    flat = np.full((100, 100, 1), 200, np.uint8)
    cut = crop_image(flat, (-100, 0, 100, 200), size=20)[..., 0]
    assert (cut[:10, 10:] == 200).all() and (cut[:, :9] == 0).all() and (cut[11:] == 0).all()
    assert (crop_image(flat, (500, 500, 600, 600), size=8) == 0).all()


def test_bad_input() -> None:
    points = walk(3)
    with pytest.raises(ShapeError, match="`points`"):
        crop_fixed(points[0])
    with pytest.raises(ShapeError, match="`points`"):
        crop_centred(points[:0])
    with pytest.raises(ArgumentError, match="finite"):
        crop_fixed(np.full_like(points, np.nan))
    with pytest.raises(ArgumentError, match="an extent"):
        crop_fixed(np.ones((3, 68, 2)))
    with pytest.raises(ArgumentError, match="`size`"):
        crop_fixed(points, size=0)
    with pytest.raises(ArgumentError, match="`margin`"):
        crop_centred(points, margin=-0.1)
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ShapeError, match="`image`"):
        crop_image(image.astype(np.float32), (0, 0, 1, 1))  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="`box`"):
        crop_image(image, (0, 0, 1))
    with pytest.raises(ArgumentError, match="`box`"):
        crop_image(image, (1, 0, 1, 1))
    with pytest.raises(ArgumentError, match="`box`"):
        crop_image(image, (0, 0, float("nan"), 1))
