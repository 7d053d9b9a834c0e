"""Inception-v3 of the Frechet inception distance, for the weights published by torch-fidelity.

torch-fidelity itself is not used because it depends on torchvision, whose wheels fit only a few releases of torch, and because
its feature extractor downloads weights when it is constructed.

The network differs from torchvision's of the same name: 1008 outputs, average pooling that leaves the padding out, maximum
pooling in the last block, and images resized as in TensorFlow 1. The user downloads the weights
(``weights-inception-2015-12-05-6726825d.pth`` of torch-fidelity's releases, converted from the graph of Heusel et al.); the
modules here have the names of that file.
"""

from __future__ import annotations

import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avsync._checks import check_choice, check_shape
from avsync.metrics.weight_files import load_strictly, read_state_dict

FEATURES = {"pool3": 2048, "logits": 1008}
"""Feature sets and their sizes: the values after the last pooling (FID), or the logits."""

_PICTURE = 299
_Kernel = int | tuple[int, int]
_Layer = tuple[str, int, _Kernel, int]


class _Conv(nn.Module):
    """Convolution without bias, batch normalisation, ReLU; padded to keep the size where the stride is 1 and ``same``."""

    def __init__(self, inputs: int, outputs: int, kernel: _Kernel, *, stride: int = 1, same: bool = True) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if same and stride == 1 else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Block(nn.Module):
    """Parallel branches, each a chain of named convolutions; a name that ends in a and b is a concatenated pair on one input.

    Args:
        inputs: Channels in.
        branches: For every branch, (name, channels out, kernel, stride) of each convolution in turn.
        pool: "average" or "maximum" before the convolution ``branch_pool`` (3 x 3, stride 1), or "reduce": 3 x 3, stride 2,
            and no convolution.
        pool_channels: Channels out of ``branch_pool``.
    """

    def __init__(self, inputs: int, branches: list[list[_Layer]], *, pool: str, pool_channels: int = 0) -> None:
        super().__init__()
        self.pool = pool
        self.chains: list[list[tuple[str, ...]]] = []
        for branch in branches:
            channels = before = inputs
            chain: list[tuple[str, ...]] = []
            for name, outputs, kernel, stride in branch:
                if name[-1] == "b" and chain and chain[-1][-1] == f"{name[:-1]}a":
                    self.add_module(name, _Conv(before, outputs, kernel, stride=stride))
                    chain[-1] += (name,)
                    channels += outputs
                    continue
                self.add_module(name, _Conv(channels, outputs, kernel, stride=stride))
                before, channels = channels, outputs
                chain.append((name,))
            self.chains.append(chain)
        if pool_channels:
            self.branch_pool = _Conv(inputs, pool_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for chain in self.chains:
            hidden = x
            for names in chain:
                hidden = torch.cat([self.get_submodule(name)(hidden) for name in names], dim=1)
            outputs.append(hidden)
        if self.pool == "reduce":
            outputs.append(F.max_pool2d(x, 3, stride=2))
        elif self.pool == "maximum":
            outputs.append(self.branch_pool(F.max_pool2d(x, 3, stride=1, padding=1)))
        else:
            outputs.append(self.branch_pool(F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)))
        return torch.cat(outputs, dim=1)


def _block_a(inputs: int, pool_channels: int) -> _Block:
    fives: list[_Layer] = [("branch5x5_1", 48, 1, 1), ("branch5x5_2", 64, 5, 1)]
    threes: list[_Layer] = [("branch3x3dbl_1", 64, 1, 1), ("branch3x3dbl_2", 96, 3, 1), ("branch3x3dbl_3", 96, 3, 1)]
    return _Block(inputs, [[("branch1x1", 64, 1, 1)], fives, threes], pool="average", pool_channels=pool_channels)


def _block_b(inputs: int) -> _Block:
    threes: list[_Layer] = [("branch3x3dbl_1", 64, 1, 1), ("branch3x3dbl_2", 96, 3, 1), ("branch3x3dbl_3", 96, 3, 2)]
    return _Block(inputs, [[("branch3x3", 384, 3, 2)], threes], pool="reduce")


def _block_c(inputs: int, inner: int) -> _Block:
    wide: _Kernel = (1, 7)
    tall: _Kernel = (7, 1)
    single: list[_Layer] = [("branch7x7_1", inner, 1, 1), ("branch7x7_2", inner, wide, 1), ("branch7x7_3", 192, tall, 1)]
    double: list[_Layer] = [("branch7x7dbl_1", inner, 1, 1)]
    double += [(f"branch7x7dbl_{n}", 192 if n == 5 else inner, wide if n % 2 else tall, 1) for n in range(2, 6)]
    return _Block(inputs, [[("branch1x1", 192, 1, 1)], single, double], pool="average", pool_channels=192)


def _block_d(inputs: int) -> _Block:
    threes: list[_Layer] = [("branch3x3_1", 192, 1, 1), ("branch3x3_2", 320, 3, 2)]
    sevens: list[_Layer] = [("branch7x7x3_1", 192, 1, 1), ("branch7x7x3_2", 192, (1, 7), 1), ("branch7x7x3_3", 192, (7, 1), 1)]
    return _Block(inputs, [threes, [*sevens, ("branch7x7x3_4", 192, 3, 2)]], pool="reduce")


def _block_e(inputs: int, pool: str) -> _Block:
    threes: list[_Layer] = [("branch3x3_1", 384, 1, 1), ("branch3x3_2a", 384, (1, 3), 1), ("branch3x3_2b", 384, (3, 1), 1)]
    double: list[_Layer] = [("branch3x3dbl_1", 448, 1, 1), ("branch3x3dbl_2", 384, 3, 1)]
    double += [("branch3x3dbl_3a", 384, (1, 3), 1), ("branch3x3dbl_3b", 384, (3, 1), 1)]
    return _Block(inputs, [[("branch1x1", 320, 1, 1)], threes, double], pool=pool, pool_channels=192)


def enlarge(images: Tensor, size: int = _PICTURE) -> Tensor:
    """Resize bilinearly as TensorFlow 1: pixel ``i`` of the result lies at ``i * old / size``, not at the pixel's centre.

    Args:
        images: (batch, channels, height, width), floating point.
        size: Height and width of the result.

    Returns:
        (batch, channels, size, size).

    Raises:
        ShapeError: Wrong rank.

    Example:
        >>> enlarge(torch.tensor([[[[0.0, 2.0]]]]), 4)[0, 0, 0].tolist()
        [0.0, 1.0, 2.0, 2.0]

    Source: the resizing under published FID values, as torch-fidelity documents it.
    """
    check_shape("images", images, "batch channels height width")
    for axis in (2, 3):
        old = images.shape[axis]
        place = torch.arange(size, device=images.device, dtype=torch.float64) * (old / size)
        low = place.long().clamp_max(old - 1)
        share = (place - low).to(images.dtype)
        share = share[:, None] if axis == 2 else share
        below, above = images.index_select(axis, low), images.index_select(axis, (low + 1).clamp_max(old - 1))
        images = below + (above - below) * share
    return images


class InceptionV3(nn.Module):
    """The network of FID, with random weights until :func:`load_inception` or ``load_state_dict`` loads the published weights.

    Args:
        features: "pool3" for FID, or "logits".

    Attributes:
        num_features: 2048 or 1008.

    Raises:
        ArgumentError: Unknown features.

    Example:
        >>> InceptionV3(features="logits").num_features
        1008

    Source: Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision"; sizes and names as in
    torch-fidelity's file.
    """

    def __init__(self, *, features: str = "pool3") -> None:
        super().__init__()
        check_choice("features", features, tuple(FEATURES))
        self.features, self.num_features = features, FEATURES[features]
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3, same=False)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3, same=False)
        self.Mixed_5b = _block_a(192, 32)
        self.Mixed_5c = _block_a(256, 64)
        self.Mixed_5d = _block_a(288, 64)
        self.Mixed_6a = _block_b(288)
        self.Mixed_6b = _block_c(768, 128)
        self.Mixed_6c = _block_c(768, 160)
        self.Mixed_6d = _block_c(768, 160)
        self.Mixed_6e = _block_c(768, 192)
        self.Mixed_7a = _block_d(768)
        self.Mixed_7b = _block_e(1280, "average")
        self.Mixed_7c = _block_e(2048, "maximum")
        self.fc = nn.Linear(2048, 1008)

    def forward(self, images: Tensor) -> Tensor:
        """Compute features of images.

        Args:
            images: (batch, 3, height, width): uint8 from 0 to 255, or floating point from 0 to 1, of any size.

        Returns:
            (batch, num_features).

        Raises:
            ShapeError: Not three channels.
        """
        check_shape("images", images, "batch channels height width", channels=3)
        weight = self.fc.weight
        levels = images.to(weight.dtype) * (255.0 if torch.is_floating_point(images) else 1.0)
        x = (enlarge(levels) - 128) / 128
        x = F.max_pool2d(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))), 3, stride=2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, stride=2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        pooled = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean(dim=(2, 3))
        return pooled if self.features == "pool3" else self.fc(pooled)


def load_inception(path: str | os.PathLike[str], *, features: str = "pool3") -> InceptionV3:
    """Load Inception-v3 with weights from a local file.

    Args:
        path: torch-fidelity's ``weights-inception-2015-12-05-6726825d.pth`` (also named
            ``pt_inception-2015-12-05-6726825d.pth`` elsewhere), or the same weights as ``.safetensors``. Only tensors are
            read; no code is run.
        features: "pool3" for FID, or "logits".

    Returns:
        The network in eval mode, frozen, on the CPU.

    Raises:
        CheckpointError: The file is missing or damaged, or names or shapes are not those of Inception-v3.
        ArgumentError: Unknown features.

    Source: ours.
    """
    network = InceptionV3(features=features)
    load_strictly(network, read_state_dict(path), path, ignore=("num_batches_tracked",))
    return network.requires_grad_(False).eval()
