"""Figures: what is drawn, what is labelled, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from avsync.corpus.synthetic.talker import synthetic_clip
from avsync.errors import ArgumentError, ShapeError
from avsync.figures import (
    confidence_by_level,
    draw_face,
    face_strip,
    landmark_video,
    mask_figure,
    offset_histogram,
    save_figure,
    training_curves,
)

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    return torch.from_numpy(synthetic_clip(seconds=1.0).landmarks)


def test_a_face_is_drawn_whole_and_in_the_middle(faces: torch.Tensor) -> None:
    image = draw_face(faces[0], 128)
    assert image.shape == (128, 128, 3) and image.dtype == np.uint8
    rows, columns = np.nonzero(image[..., 0] < 128)
    assert 0.55 * 128 < np.ptp(rows) < 0.68 * 128
    assert abs((rows.min() + rows.max()) / 2 - 64) < 3
    assert abs((columns.min() + columns.max()) / 2 - 64) < 3


def test_lines_are_smooth_and_coloured(faces: torch.Tensor) -> None:
    image = draw_face(faces[0], 128, color=(200, 0, 0), background=(255, 255, 0), line_width=3.0)
    assert len(np.unique(image[..., 1])) > 10
    assert image[..., 2].max() == 0
    assert (image == (200, 0, 0)).all(axis=-1).any() and (image == (255, 255, 0)).all(axis=-1).any()


def test_a_reference_keeps_the_camera_still(faces: torch.Tensor) -> None:
    height = faces[0, :, 1].max() - faces[0, :, 1].min()
    moved = faces[0] + torch.tensor([0.1 * height, 0.0])
    still, shifted = draw_face(faces[0], 100), draw_face(moved, 100, reference=faces[0])
    assert np.allclose(np.roll(still, 6, axis=1).astype(float), shifted, atol=2)
    assert np.allclose(still.astype(float), draw_face(moved, 100), atol=2)


@pytest.mark.parametrize("shape", [(10, 2), (68, 3), (1, 2)])
def test_any_points_and_dims_are_drawn(shape: tuple[int, int], rng: torch.Generator) -> None:
    assert draw_face(torch.rand(shape, generator=rng), 64).min() < 128


def test_faces_outside_the_picture_and_missing_points_do_no_harm(faces: torch.Tensor) -> None:
    assert draw_face(faces[0] + 1e6, 64, reference=faces[0]).min() == 255
    broken = faces[0].clone()
    broken[3] = float("nan")
    assert draw_face(broken, 64, reference=faces[0]).min() < 128


def test_wrong_shapes_are_named(faces: torch.Tensor) -> None:
    with pytest.raises(ShapeError, match="`landmarks`"):
        draw_face(faces)
    with pytest.raises(ArgumentError, match="`size`"):
        draw_face(faces[0], 0)
    with pytest.raises(ShapeError, match="one number of frames"):
        face_strip({"a": faces, "b": faces[:5]})
    with pytest.raises(ArgumentError, match="`sequences`"):
        face_strip({})
    with pytest.raises(ShapeError, match="`masks`"):
        mask_figure(torch.ones(4, 67))
    with pytest.raises(ArgumentError, match="`rows`"):
        confidence_by_level({"a": [(0, 0, 0)], "b": [(0, 0, 0)] * 2})
    with pytest.raises(ArgumentError, match="`bounds`"):
        confidence_by_level({"a": [(0, 0, 0)]}, bounds=["b"])
    with pytest.raises(ArgumentError, match="`search`"):
        offset_histogram([torch.zeros(3)], search=[15, 15])
    with pytest.raises(ArgumentError, match="`history`"):
        training_curves({})


def test_a_video_has_all_faces_and_the_sound(faces: torch.Tensor, tmp_path: Path) -> None:
    import av

    path = tmp_path / "faces.mp4"
    sound = 0.1 * torch.sin(torch.arange(20000) / 10)
    assert landmark_video(path, {"truth": faces, "a long name of a method": faces.numpy()}, waveform=sound, size=96) == 25
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.width, video.height) == (192, 128)
        assert float(video.duration * video.time_base) == pytest.approx(1.0)
        assert float(audio.duration * audio.time_base) == pytest.approx(1.0, abs=0.1)
        image = next(container.decode(video=0)).to_ndarray(format="rgb24")
    for panel in (image[:32, :96], image[:32, 96:], image[32:, :96], image[32:, 96:]):
        assert panel.min() < 150 and panel.max() > 240
    assert [file.name for file in tmp_path.iterdir()] == ["faces.mp4"]


def test_curves_show_chance(tmp_path: Path) -> None:
    figure = training_curves({"a": [(0, 3.0), (10, 2.0)]}, chance=3.89, ylabel="InfoNCE (nats)", log=True)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "training step" and axes.get_ylabel() == "InfoNCE (nats)" and axes.get_yscale() == "log"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "chance level (3.89)"]
    save_figure(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_histograms_count_in_frames_of_their_level() -> None:
    figure = offset_histogram([torch.tensor([0, 0, 1, -9]), np.array([3, 0, 0, 0]), torch.tensor([])], search=[15, 8, 5])
    assert [axes.get_title() for axes in figure.axes][:2] == ["level 0: 75 % within 1 frame", "level 1: 75 % within 1 frame"]
    assert figure.axes[1].get_xlabel() == "offset (frames of 80 ms)"
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == pytest.approx(100)
    assert len(figure.axes[1].patches) == 17


def test_confidences_carry_names_and_durations(tmp_path: Path) -> None:
    rows = {"ours": [(0.2, 0.1, 0.3)] * 4, "theirs": [(0.1, 0.0, 0.2)] * 4, "static": [(0.0, 0.0, 0.0)] * 4}
    figure = confidence_by_level(rows, bounds=["static"])
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(rows)
    assert axes.get_xticklabels()[3].get_text() == "level 3\n1600 ms"
    save_figure(figure, tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_strips_have_a_face_for_every_method_and_instant(faces: torch.Tensor) -> None:
    figure = face_strip({"truth": faces, "keypoints": faces[:, :10]}, columns=5)
    assert len(figure.axes) == 10
    assert [axes.get_title() for axes in figure.axes[:5]] == ["0.00 s", "0.24 s", "0.48 s", "0.72 s", "0.96 s"]
    assert [figure.axes[0].get_ylabel(), figure.axes[5].get_ylabel()] == ["truth", "keypoints"]


def test_masks_share_one_scale_of_colours(rng: torch.Generator) -> None:
    masks = torch.rand(4, 68, generator=rng).softmax(dim=0)
    figure = mask_figure(masks)
    dots = [axes.collections[0] for axes in figure.axes[:4]]
    assert {dot.get_clim() for dot in dots} == {(0.0, float(masks.max()))}
    assert np.allclose(dots[2].get_array(), masks[2])
    assert len(mask_figure(torch.ones(1, 10), landmarks=torch.rand(10, 3, generator=rng)).axes) == 2
