"""The face-alignment library itself, run on weights that this file writes in the library's cache format.

The published weights are a download, so nothing here says how exact they are on faces. The networks have their full size and names; the
face finder's weights are chosen so that it finds white squares, and the others are random. What is proved is everything between images
and points: loading, devices, batches, lost faces, several faces, sizes, coordinates.

face-alignment is not installed beside the other tests. Where it must be (``AVSYNC_REQUIRE_FACE_ALIGNMENT=1``) its absence is a failure.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from avsync.corpus.detectors import as_detector
from avsync.corpus.detectors.fan import FaceAlignmentDetector
from avsync.errors import ArgumentError, CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore")

Image = npt.NDArray[np.uint8]
# The finder's stride where these weights see; it takes a square of four strides for the face around one bright cell.
CELL = 16
SIDE = 4 * CELL


@pytest.fixture(scope="module")
def library() -> ModuleType:
    try:
        return importlib.import_module("face_alignment")
    except ImportError as error:
        reason = f"face-alignment cannot be imported here: {error}"
        if os.environ.get("AVSYNC_REQUIRE_FACE_ALIGNMENT") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


def finder_of_white(net: nn.Module) -> dict[str, torch.Tensor]:
    """S3FD's weights such that a cell of 16 x 16 pixels with white in it is a face, and nothing else is."""
    state = {name: torch.zeros_like(value) for name, value in net.state_dict().items()}
    # White is 151 + 138 + 132 above the mean colour; grey of 230 is 350.
    state["conv1_1.weight"][0, :, 1, 1] = 1
    state["conv1_1.bias"][0] = -400
    for name in ("1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2", "4_3", "5_1", "5_2", "5_3"):
        state[f"conv{name}.weight"][0, 0, 1, 1] = 1
    # The norm makes of any positive value this one, and of none zero.
    state["conv5_3_norm.weight"][:] = 5
    for name, value in state.items():
        if name.endswith("mbox_conf.bias"):
            value[-1] = -10
    state["conv5_3_norm_mbox_conf.weight"][1, 0, 1, 1] = 4
    return state


@pytest.fixture(scope="module")
def weights(library: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A torch hub folder with the four files of the library, under the names that it looks for."""
    api, sfd = library.api, importlib.import_module("face_alignment.detection.sfd.sfd_detector")
    hub = tmp_path_factory.mktemp("hub")
    folder = hub / "checkpoints"
    folder.mkdir()
    torch.manual_seed(0)
    torch.save(finder_of_white(sfd.s3fd()), folder / Path(sfd.models_urls["s3fd"]).name)
    for name in ("2DFAN-4", "3DFAN-4"):
        torch.save(api.FAN(4).state_dict(), folder / Path(api.models_urls[name]).name)
    depth = {f"module.{name}": value for name, value in api.ResNetDepth().state_dict().items()}
    torch.save({"state_dict": depth}, folder / Path(api.models_urls["depth"]).name)
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(hub))
    yield folder
    torch.hub.set_dir(before)


def picture(*cells: tuple[int, int], height: int = 160, width: int = 256) -> Image:
    """Noise too dark for the finder, with white in the middle of cells (column, row)."""
    image = np.random.default_rng(0).integers(0, 60, (height, width, 3)).astype(np.uint8)
    for column, row in cells:
        image[row * CELL + 4 : row * CELL + 12, column * CELL + 4 : column * CELL + 12] = 255
    return image


@pytest.fixture(scope="module")
def flat(weights: Path) -> FaceAlignmentDetector:
    return FaceAlignmentDetector(landmarks="2D", device="cpu", batch_size=4)


def test_faces_lost_faces_and_several_faces_in_one_batch(flat: FaceAlignmentDetector) -> None:
    detector = as_detector(flat)
    assert detector.batch_size == 4
    one, two = picture((5, 5)), picture((4, 5), (13, 6))
    found = detector([one, picture(), two])
    assert [len(faces) for faces in found] == [1, 0, 2]
    assert detector.points_and_dims == (68, 2)
    # The crop of a face reaches 200 / 195 of the finder's side on either side of its middle, 0.12 sides above it.
    centres = [(5, 5), (4, 5), (13, 6)]
    boxes = np.concatenate([found[0], found[2]])
    boxes = boxes[np.argsort([(face[:, 0].mean() > 150) for face in boxes], kind="stable")]
    for face, (column, row) in zip(boxes, centres, strict=True):
        middle = np.array([(column + 0.5) * CELL, (row + 0.5) * CELL - 0.12 * SIDE])
        assert np.abs(face - middle).max() <= SIDE * 200 / 195 + 2
        assert np.ptp(face, axis=0).min() > 10


def test_a_batch_equals_the_library_image_by_image(flat: FaceAlignmentDetector, library: ModuleType) -> None:
    reference = library.FaceAlignment(library.LandmarksType.TWO_D, device="cpu", face_detector="sfd", compile=False)
    images = [picture((5, 5)), picture((11, 4))]
    for image, faces in zip(images, flat(images), strict=True):
        (expected,) = reference.get_landmarks_from_image(image)
        np.testing.assert_allclose(faces[0], expected, atol=1e-3)
    assert [len(faces) for faces in flat([picture()] * 2)] == [0, 0]


def test_points_move_with_the_face(flat: FaceAlignmentDetector) -> None:
    """A picture moved by two cells has its landmarks moved by 32 pixels, up to the pixel that the library rounds to."""
    image = picture((6, 5))
    first, second = flat([image, np.roll(image, 2 * CELL, axis=1)])
    np.testing.assert_allclose(second[0] - first[0], np.tile([2.0 * CELL, 0.0], (68, 1)), atol=1.01)


def test_search_on_a_reduced_image_keeps_coordinates(weights: Path) -> None:
    """Twice as large a picture, looked through at half its size: the same face, twice as large as the finder's own square."""
    detector = FaceAlignmentDetector(device="cpu", search_side=256)
    large = picture((5, 5)).repeat(2, axis=0).repeat(2, axis=1)
    (faces,) = detector([large])
    assert faces.shape == (1, 68, 2)
    middle = np.array([5.5 * CELL, 5.5 * CELL - 0.12 * SIDE]) * 2
    assert np.abs(faces[0] - middle).max() <= 2 * SIDE * 200 / 195 + 4
    assert np.ptp(faces[0], axis=0).max() > SIDE * 200 / 195 + 2


def test_largest_face_first_and_no_more_than_asked_for(weights: Path) -> None:
    detector = FaceAlignmentDetector(device="cpu", max_faces=1)
    assert [len(faces) for faces in detector([picture((4, 5), (13, 6))])] == [1]


@pytest.mark.parametrize(("landmarks", "dims"), [("2.5D", 2), ("3D", 3)])
def test_other_kinds_of_landmarks(weights: Path, flat: FaceAlignmentDetector, landmarks: str, dims: int) -> None:
    detector = as_detector("face-alignment", landmarks=landmarks, device="auto")
    image = picture((5, 5))
    found = detector([image, picture()])
    assert [faces.shape for faces in found] == [(1, 68, dims), (0, 68, dims)]
    # Another network than for 2D, so other points; depth is in pixels and of the size that random weights give, but there.
    assert np.abs(found[0][..., :2] - flat([image])[0]).max() > 1
    if dims == 3:
        assert np.ptp(found[0][..., 2]) > 0


def test_missing_and_damaged_weights(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(url: str, *args: object, **kwargs: object) -> None:
        raise URLError("no network")

    with monkeypatch.context() as patch:
        patch.setattr(torch.hub, "download_url_to_file", no_network)
        patch.setattr("face_alignment.utils.download_url_to_file", no_network)
        patch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        patch.setattr("face_alignment.utils.get_dir", lambda: str(tmp_path))
        with pytest.raises(CheckpointError, match=r"expected its weights in .*checkpoints.*no network"):
            FaceAlignmentDetector(device="cpu")
        # Half of a file, as an interrupted download leaves it.
        (source,) = weights.glob("s3fd-*")
        (tmp_path / "checkpoints" / source.name).write_bytes(source.read_bytes()[:100_000])
        with pytest.raises(CheckpointError, match="expected its weights"):
            FaceAlignmentDetector(device="cpu")


def test_bad_devices(library: ModuleType) -> None:
    with pytest.raises(ArgumentError, match="`device`"):
        FaceAlignmentDetector(device="abacus")
