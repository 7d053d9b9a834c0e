"""FID, FVD and t-FID on drawn landmarks, and networks from files: right values, right paths, clear refusals.

The weights that people download are not here: files of the same names and shapes stand in for them, and the values were computed by
torch-fidelity itself with the same weights.
"""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from avsync.errors import ArgumentError, CheckpointError, ClipTooShortError, ShapeError
from avsync.landmarks.raster import rasterise, temporal_image
from avsync.metrics.feature_nets import (
    I3D,
    FrameFeatures,
    SequenceFeatures,
    TrailFeatures,
    frechet_inception_distance,
    frechet_video_distance,
    load_i3d,
    temporal_frechet_inception_distance,
)
from avsync.metrics.frechet import frechet_distance
from avsync.metrics.inception import InceptionV3, enlarge, load_inception
from avsync.metrics.weight_files import read_state_dict
from tests.reference import inception as reference


@functools.cache
def weights() -> dict[str, Tensor]:
    return reference.made_weights(InceptionV3().state_dict())


def faces(clips: int, frames: int, seed: int = 0) -> Tensor:
    return torch.rand(clips, frames, 68, 2, generator=torch.Generator().manual_seed(seed))


def test_inception_from_a_file_gives_torch_fidelitys_features(tmp_path: Path) -> None:
    # The published file is old: it lacks the counters of batch normalisation.
    torch.save(
        {name: value for name, value in weights().items() if not name.endswith("num_batches_tracked")}, tmp_path / "a.pth"
    )
    network = load_inception(tmp_path / "a.pth")
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())
    features = network(reference.made_picture())
    torch.testing.assert_close(features[:, ::256], torch.tensor(reference.POOL3), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.norm(dim=1), torch.tensor(reference.POOL3_NORMS), rtol=1e-5, atol=0)
    save_file(weights(), tmp_path / "a.safetensors")
    network = load_inception(tmp_path / "a.safetensors", features="logits")
    logits = network(reference.made_picture()[:1].float() / 255)
    assert (network.num_features, logits.shape) == (1008, (1, 1008))
    torch.testing.assert_close(logits[:, ::126], torch.tensor(reference.LOGITS[:1]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits.norm(dim=1), torch.tensor(reference.LOGITS_NORMS[:1]), rtol=1e-5, atol=0)


def test_enlarging_is_tensorflows() -> None:
    """By the rule itself: pixel i lies at i * old / new, the last is repeated; not torch's, which goes by pixel centres."""
    picture = torch.rand(1, 2, 5, 7, generator=torch.Generator().manual_seed(0))
    got = enlarge(picture, 11)
    for i in range(11):
        for j in range(11):
            y, x = i * 5 / 11, j * 7 / 11
            top, left = int(y), int(x)
            bottom, right = min(top + 1, 4), min(left + 1, 6)
            upper = picture[0, :, top, left] * (1 - (x - left)) + picture[0, :, top, right] * (x - left)
            lower = picture[0, :, bottom, left] * (1 - (x - left)) + picture[0, :, bottom, right] * (x - left)
            torch.testing.assert_close(got[0, :, i, j], upper * (1 - (y - top)) + lower * (y - top))
    assert (got - nn.functional.interpolate(picture, (11, 11), mode="bilinear")).abs().max() > 0.1
    assert torch.equal(enlarge(picture[..., :5], 5), picture[..., :5])


def test_files_that_are_not_inception_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="got none at"):
        load_inception(tmp_path / "absent.pth")
    (tmp_path / "noise.pth").write_bytes(b"not weights at all")
    (tmp_path / "noise.safetensors").write_bytes(b"not weights at all")
    (tmp_path / "empty.pth").write_bytes(b"")
    for name in ("noise.pth", "noise.safetensors", "empty.pth"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_inception(tmp_path / name)
    torch.save({"fc.weight": torch.zeros(1008, 2048), "head.bias": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"missing Conv2d_1a_3x3.bn.bias.*unknown head.bias \(1\)"):
        load_inception(tmp_path / "other.pth")
    wide = dict(weights())
    wide["fc.bias"] = torch.zeros(1000)
    torch.save(wide, tmp_path / "wide.pth")
    with pytest.raises(CheckpointError, match=r"expected fc.bias \(1008,\) but got \(1000,\)"):
        load_inception(tmp_path / "wide.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="tensors by name"):
        read_state_dict(tmp_path / "list.pth")
    torch.save(nn.Linear(1, 1), tmp_path / "pickled.pth")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_state_dict(tmp_path / "pickled.pth")
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "nested.pth")
    assert list(read_state_dict(tmp_path / "nested.pth")) == ["a"]
    with pytest.raises(ArgumentError, match="features"):
        InceptionV3(features="pool4")


class Program(nn.Module):
    """What i3d_torchscript.pt is from outside: its arguments, its sizes; it also says what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 400))

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        if rescale:
            x = 2 * x / 255 - 1
        if not resize or not return_features:
            x = x * 0
        return x.mean(dim=[1, 3, 4])[:, 0, None] * self.weight


@pytest.fixture
def i3d_file(tmp_path: Path) -> Path:
    path = tmp_path / "i3d_torchscript.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the published file is of this kind
        torch.jit.script(Program()).save(str(path))
    return path


def test_i3d_from_a_file(i3d_file: Path) -> None:
    network = load_i3d(i3d_file)
    pictures = torch.rand(3, 12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = (2 * pictures[:, 0] - 1).mean(dim=(1, 2, 3))[:, None] * torch.linspace(-1, 1, 400)
    torch.testing.assert_close(network(pictures), expected)
    with pytest.raises(ClipTooShortError, match="at least 10 frames"):
        network(pictures[:, :9])
    with pytest.raises(ShapeError, match="channels=3"):
        network(pictures[:, :, :2])
    with pytest.raises(ShapeError, match=r"expected the program to return \(3, 400\)"):
        I3D(lambda video, **options: video.flatten(1))(pictures)
    target = faces(30, 12)
    with pytest.warns(UserWarning, match="30 and 30 vectors of 400 features"):
        assert frechet_video_distance(target[:, :1].expand_as(target), target, network, size=16).item() >= 0


def test_files_that_are_not_i3d_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="got none at"):
        load_i3d(tmp_path / "absent.pt")
    (tmp_path / "noise.pt").write_bytes(b"noise")
    torch.save({"a": torch.ones(1)}, tmp_path / "weights.pt")
    for name in ("noise.pt", "weights.pt"):
        with pytest.raises(CheckpointError, match="cannot be read as TorchScript"):
            load_i3d(tmp_path / name)


class Sums(nn.Module):
    """A network with few features: sums over a grid of patches of each channel, whatever comes before."""

    def forward(self, pictures: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(pictures.flatten(0, -4), 2).reshape(pictures.shape[0], -1)


def test_each_distance_sees_what_it_says() -> None:
    preds, target = faces(70, 4), faces(75, 4, seed=1) * 1.2
    options = {"size": 12, "view": 2.0}
    drawn = [rasterise(x, **options) for x in (preds, target)]
    by_hand = frechet_distance(*(Sums()(x.flatten(0, 1)) for x in drawn))
    assert frechet_inception_distance(preds, target, Sums(), chunk=9, **options).item() == pytest.approx(by_hand.item())
    by_hand = frechet_distance(*(Sums()(temporal_image(x)) for x in drawn))
    assert temporal_frechet_inception_distance(preds, target, Sums(), chunk=9, **options).item() == pytest.approx(
        by_hand.item()
    )
    by_hand = frechet_distance(*(Sums()(x) for x in drawn))
    assert frechet_video_distance(preds, target, Sums(), chunk=9, **options).item() == pytest.approx(by_hand.item(), rel=1e-6)
    # Single frames in another order are the same to FID and not to the others.
    backwards = target.flip(1)
    same = {"frame_size": (1.2, 1.2), "size": 12}
    assert frechet_inception_distance(backwards, target, Sums(), **same).item() == pytest.approx(0, abs=1e-6)
    assert temporal_frechet_inception_distance(backwards, target, Sums(), **same).item() > 1e-6
    assert frechet_video_distance(backwards, target, Sums(), **same).item() > 1e-6


def test_clips_are_drawn_some_at_a_time() -> None:
    seen = []

    class Watching(Sums):
        def forward(self, pictures: Tensor) -> Tensor:
            seen.append(pictures.numel() * 4)
            return super().forward(pictures)

    for kind in (FrameFeatures, SequenceFeatures, TrailFeatures):
        kind(Watching())(faces(5, 40))
    assert max(seen) <= 64 * 2**20
    assert FrameFeatures(InceptionV3()).num_features == 2048


def test_errors() -> None:
    target = faces(5, 12)
    for metric in (frechet_video_distance, temporal_frechet_inception_distance):
        with pytest.raises(ShapeError, match=r"`preds`.*frames=12"):
            metric(target[:, :10], target, Sums())
        with pytest.raises(ArgumentError, match="`size`"):
            metric(target, target, Sums(), size=5e-324)
    with pytest.raises(ShapeError, match="`network`"):
        frechet_inception_distance(target, target, nn.Identity(), size=8)
    with pytest.raises(ShapeError, match="landmarks"):
        frechet_inception_distance(target[:, :, :20], target[:, :, :20], Sums())
    with pytest.raises(ArgumentError, match="size"):
        FrameFeatures(Sums(), size=0)
    with pytest.raises(ShapeError, match="channels=3"):
        InceptionV3()(torch.rand(1, 1, 8, 8))
