"""The discriminators of section 3.3: of single frames, of windows of a sequence, and of pairs of sequences.

They give logits and know nothing of losses (:mod:`avsync.losses.adversarial` has those). Coordinates are centred on the first observed face
and measured in its height, the same for all frames of a clip, so that a face that grows or wanders away is seen to do so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from avsync._checks import check_floating, check_shape, checked_config, describe_shape
from avsync.errors import ClipTooShortError, ConfigError, ShapeError
from avsync.landmarks.geometry import normalise
from avsync.models.convnext import ConvNeXtBlock1d
from avsync.models.generator.stacked import deferred, lstm_update
from avsync.pretrained import PretrainedModel


def _check_sizes(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value < 1:
            raise ConfigError(f"`{name}`: expected a number above 0, got {value!r}")


@dataclass(frozen=True)
class FrameDiscriminatorConfig:
    """Sizes of :class:`FrameDiscriminator`; the defaults are those of the paper's code.

    Attributes:
        points: Landmarks.
        dims: Coordinates of a landmark.
        embed: Width of the frame embedding and of the blocks.
        depth: Pointwise ConvNeXt blocks after the embedding.
        expansion: Hidden channels of embedding and blocks over ``embed``.

    Raises:
        ConfigError: An impossible value.
    """

    points: int = 68
    dims: int = 2
    embed: int = 512
    depth: int = 4
    expansion: int = 4

    def __post_init__(self) -> None:
        _check_sizes(self, "points", "dims", "embed", "expansion")
        if self.depth < 0:
            raise ConfigError(f"`depth`: expected a number at least 0, got {self.depth!r}")


@dataclass(frozen=True)
class WindowDiscriminatorConfig:
    """Sizes of :class:`WindowDiscriminator` and :class:`PairDiscriminator`; the defaults are those of the paper's code.

    Attributes:
        points: Landmarks.
        dims: Coordinates of a landmark.
        embed: Width of the frame embedding.
        expansion: Hidden channels of the embedding over ``embed``.
        hidden: State of the LSTM.
        windows: Lengths of the windows in frames; the stride is half a window.
        displacement_scale: Factor on the displacement from the first observed face, in face heights, that the embedding sees beside
            the coordinates (ours).
        velocity_scale: Factor on the velocity, in face heights a frame, that the embedding sees beside both (ours): motion too slow or
            too smooth shows there at once, and in positions hardly.

    Raises:
        ConfigError: An impossible value.
    """

    points: int = 68
    dims: int = 2
    embed: int = 512
    expansion: int = 4
    hidden: int = 1024
    windows: tuple[int, ...] = (5, 10, 20, 40)
    displacement_scale: float = 8.0
    velocity_scale: float = 40.0

    def __post_init__(self) -> None:
        _check_sizes(self, "points", "dims", "embed", "expansion", "hidden")
        if not self.windows or min(self.windows) < 2:
            raise ConfigError(f"`windows`: expected lengths of at least 2 frames, got {self.windows!r}")


class FrameEmbedding(nn.Module):
    """One vector a frame: linear, LayerNorm, linear x4, GELU, linear.

    Args:
        in_features: Numbers of a frame.
        embed: Width of the embedding.
        expansion: Hidden channels over ``embed``.

    Example:
        >>> FrameEmbedding(in_features=6, embed=4)(torch.zeros(2, 5, 6)).shape
        torch.Size([2, 5, 4])

    Source: the paper's code.
    """

    def __init__(self, *, in_features: int, embed: int, expansion: int = 4) -> None:
        super().__init__()
        self.enter = nn.Linear(in_features, embed)
        self.norm = nn.LayerNorm(embed)
        self.expand = nn.Linear(embed, expansion * embed)
        self.project = nn.Linear(expansion * embed, embed)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., embed)."""
        return self.project(F.gelu(self.expand(self.norm(self.enter(x)))))


class FrameDiscriminator(PretrainedModel):
    """Realism of single faces, D_f in equation (9).

    Args:
        config: Sizes; the paper's if None.

    Example:
        >>> discriminator = FrameDiscriminator(FrameDiscriminatorConfig(embed=8))
        >>> discriminator(torch.rand(2, 7, 68, 2)).shape
        torch.Size([2, 7])

    Source: paper, section 3.3; embedding and blocks from the paper's code.
    """

    config_class = FrameDiscriminatorConfig

    def __init__(self, config: FrameDiscriminatorConfig | None = None) -> None:
        super().__init__()
        self.config = config = checked_config(config, FrameDiscriminatorConfig)
        self.embedding = FrameEmbedding(in_features=config.points * config.dims, embed=config.embed, expansion=config.expansion)
        self.blocks = nn.Sequential(
            *(ConvNeXtBlock1d(channels=config.embed, kernel_size=1, expansion=config.expansion) for _ in range(config.depth))
        )
        self.score = nn.Linear(config.embed, 1)

    def forward(self, landmarks: Tensor, *, reference: Tensor | None = None) -> Tensor:
        """Score every frame.

        Args:
            landmarks: (batch, frames, points, dims), any unit.
            reference: (batch, points, dims), the first observed face, by which the frames are centred and scaled; the clip's own
                first frame if None. It should be given: a clip of one frame would else hide its own size.

        Returns:
            Logits (batch, frames), high for real.

        Raises:
            ShapeError: Wrong rank, points or dims.
        """
        _check_clip("landmarks", landmarks, self.config.points, self.config.dims)
        if reference is not None:
            batch, _, points, dims = landmarks.shape
            check_shape("reference", reference, "batch points dims", batch=batch, points=points, dims=dims)
        x = normalise(landmarks, reference="first" if reference is None else reference).landmarks
        x = self.embedding(x.flatten(2).to(self.embedding.enter.weight.dtype))
        return self.score(self.blocks(x)).squeeze(-1)


def window_starts(observed: int, frames: int, window: int) -> range:
    """Where the windows of one length start, counted from the first frame after the observed ones.

    Windows overlap by half; the first ones reach back into the observed frames by up to half a window. At the end of a clip fewer
    frames than a stride may be left over, outside all windows of this length; 40 and 80 frames after 3 observed ones leave none to
    the shortest windows.

    Args:
        observed: Observed frames.
        frames: Frames to judge, after the observed ones.
        window: Length of a window.

    Returns:
        The starts, negative inside the observed frames; empty if no window fits.

    Example:
        >>> list(window_starts(3, 20, 10))
        [-3, 2, 7]

    Source: the paper's code.
    """
    stride = window // 2
    return range(max(-observed, stride - window), frames - window + 1, stride)


def lstm_states(terms: Tensor, weight: Tensor) -> Tensor:
    """Last hidden state of an LSTM that starts from zeros, given its inputs' part of the gates.

    Args:
        terms: (steps, rows, 4 * hidden), input times weight plus bias; gates in the order of :func:`~avsync.models.generator.stacked.lstm_update`.
        weight: (4 * hidden, hidden), the recurrent weight.

    Returns:
        (rows, hidden).

    Example:
        >>> lstm_states(torch.zeros(2, 3, 4), torch.zeros(4, 1)).shape
        torch.Size([3, 1])

    Source: ours.
    """
    check_shape("terms", terms, "steps rows gates", gates=weight.shape[0])
    hidden, cell = lstm_update(terms[0], terms.new_zeros(terms.shape[1], weight.shape[1], dtype=weight.dtype))
    if terms.shape[0] > 1:
        recurrence = deferred(weight, terms[1:])
        for step in range(terms.shape[0] - 1):
            hidden, cell = lstm_update(recurrence(hidden, step), cell)
    return hidden


class ProjectionScore(nn.Module):
    """The projection score of a window's state against the state of the observed frames.

    ``A(d^(-1/beta) <y, V phi> + psi(phi))`` with ``phi = relu(P h)`` and ``psi = relu(Q phi)``; all four matrices carry spectral norm.

    Args:
        hidden: Size of the states.

    Example:
        >>> score = ProjectionScore(hidden=4)
        >>> score(torch.zeros(3, 2, 4), torch.zeros(2, 4), torch.tensor([1.0, 2.0, 7.0])).shape
        torch.Size([3, 2])

    Source: paper, section 3.3; the form from the paper's code.
    """

    def __init__(self, *, hidden: int) -> None:
        super().__init__()
        self.phi = spectral_norm(nn.Linear(hidden, 2 * hidden))
        self.psi = spectral_norm(nn.Linear(2 * hidden, 2 * hidden))
        self.value = spectral_norm(nn.Linear(2 * hidden, hidden))
        self.score = spectral_norm(nn.Linear(2 * hidden, 1))
        self.beta = nn.Parameter(torch.tensor(5.0))

    def forward(self, states: Tensor, condition: Tensor, distance: Tensor) -> Tensor:
        """Score windows.

        Args:
            states: (windows, rows, hidden), h of each window.
            condition: (rows, hidden), y.
            distance: (windows,), d >= 1, frames from the observed ones.

        Returns:
            (windows, rows).
        """
        # Spectral norm estimates a singular value: in half precision it would drift, so the score stays in the parameters' own.
        with torch.autocast(device_type=states.device.type, enabled=False):
            dtype = self.beta.dtype
            phi = F.relu(self.phi(states.to(dtype)))
            projection = (condition.to(dtype) * self.value(phi)).sum(dim=-1)
            weight = torch.exp(-distance.to(dtype).log() / self.beta)
            return self.score((weight[:, None] * projection)[..., None] + F.relu(self.psi(phi))).squeeze(-1)


def _check_clip(name: str, landmarks: Tensor, points: int, dims: int, batch: int | None = None) -> None:
    sizes = {"points": points, "dims": dims} | ({} if batch is None else {"batch": batch})
    check_shape(name, landmarks, "batch frames points dims", **sizes)
    check_floating(name, landmarks)
    if landmarks.shape[1] == 0:
        raise ClipTooShortError(f"`{name}`: expected at least 1 frame, got {describe_shape(landmarks)}")


class _WindowNetwork(PretrainedModel):
    """What the window and the pair discriminator share: embedding, LSTM over all windows, projection score."""

    config_class = WindowDiscriminatorConfig

    def __init__(self, config: WindowDiscriminatorConfig | None = None) -> None:
        super().__init__()
        self.config = config = checked_config(config, WindowDiscriminatorConfig)
        self.embedding = FrameEmbedding(
            in_features=3 * config.points * config.dims, embed=config.embed, expansion=config.expansion
        )
        self.gates = nn.Linear(config.embed, 4 * config.hidden)
        self.recurrent = nn.Parameter(torch.empty(4 * config.hidden, config.hidden))
        self.head = ProjectionScore(hidden=config.hidden)
        for parameter in (self.gates.weight, self.gates.bias, self.recurrent):
            nn.init.uniform_(parameter, -1 / math.sqrt(config.hidden), 1 / math.sqrt(config.hidden))

    def shortest(self, observed: int) -> int:
        """Fewest frames that can be judged after ``observed`` observed ones."""
        return min(window - min(observed, window - window // 2) for window in self.config.windows)

    def _states(self, observed: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor, list[range]]:
        """State of the observed frames (batch, hidden), states of all windows (windows, batch, hidden), starts by length."""
        config = self.config
        _check_clip("observed", observed, config.points, config.dims)
        _check_clip("landmarks", landmarks, config.points, config.dims, observed.shape[0])
        seen, frames = observed.shape[1], landmarks.shape[1]
        starts = {window: window_starts(seen, frames, window) for window in config.windows}
        starts = {window: places for window, places in starts.items() if len(places)}
        if not starts:
            raise ClipTooShortError(
                f"`landmarks`: expected at least {self.shortest(seen)} frames after {seen} observed ones "
                f"for windows of {config.windows}, got {describe_shape(landmarks)}"
            )
        x = normalise(torch.cat([observed, landmarks], dim=1)).landmarks.flatten(2)
        velocity = F.pad(x[:, 1:] - x[:, :-1], (0, 0, 1, 0))
        x = torch.cat([x, config.displacement_scale * (x - x[:, :1]), config.velocity_scale * velocity], dim=2)
        # Each frame is embedded, and multiplied by the LSTM's input weight, once for all the windows that it lies in.
        gates = self.gates(self.embedding(x.transpose(0, 1).to(self.gates.weight.dtype)))
        states = []
        for window, places in starts.items():
            windows = gates[seen + places[0] :].unfold(0, window, places.step)
            terms = windows[: len(places)].permute(3, 0, 1, 2).flatten(1, 2)
            states.append(lstm_states(terms, self.recurrent).unflatten(0, (len(places), -1)))
        return lstm_states(gates[:seen], self.recurrent), torch.cat(states), list(starts.values())

    def _score(self, condition: Tensor, states: Tensor, starts: Sequence[range]) -> Tensor:
        distances = [max(start, 1) for places in starts for start in places]
        # The mean over the positions of a length, then over the lengths, as weights.
        weights = [1 / (len(places) * len(starts)) for places in starts for _ in places]
        scores = self.head(states, condition, states.new_tensor(distances))
        return scores.new_tensor(weights) @ scores


class WindowDiscriminator(_WindowNetwork):
    """Realism of sequences, seen through windows of several lengths: D_s in equation (10).

    An LSTM reads each window; its last state is scored against the LSTM's last state on the observed frames. Windows longer than the
    clip are skipped. The score is the mean over the positions of a window, then over the window lengths.

    Args:
        config: Sizes; the paper's if None.

    Example:
        >>> discriminator = WindowDiscriminator(WindowDiscriminatorConfig(embed=8, hidden=8))
        >>> discriminator(torch.rand(2, 3, 68, 2), torch.rand(2, 40, 68, 2)).shape
        torch.Size([2])

    Source: paper, section 3.3; windows and score from the paper's code.
    """

    def forward(self, observed: Tensor, landmarks: Tensor) -> Tensor:
        """Score sequences.

        Args:
            observed: (batch, n, points, dims), any unit; the first one is the reference face.
            landmarks: (batch, frames, points, dims), the frames that follow, real or generated.

        Returns:
            Logits (batch,), high for real.

        Raises:
            ShapeError: Wrong rank, points or dims, or batches that differ.
            ClipTooShortError: No window fits; the message names the shortest length.
        """
        return self._score(*self._states(observed, landmarks))


class PairDiscriminator(_WindowNetwork):
    """Realism and variety of pairs of sequences: D_j in equation (11), against mode collapse.

    As :class:`WindowDiscriminator`, with its own weights, on the element-wise maximum of the LSTM states of two samples: sample i of the
    first half of the batch is paired with sample i of the second half.

    Args:
        config: Sizes; the paper's if None.

    Example:
        >>> discriminator = PairDiscriminator(WindowDiscriminatorConfig(embed=8, hidden=8))
        >>> discriminator(torch.rand(4, 3, 68, 2), torch.rand(4, 40, 68, 2)).shape
        torch.Size([2])

    Source: paper, section 3.3; the merging from the paper's code.
    """

    def forward(self, observed: Tensor, landmarks: Tensor) -> Tensor:
        """Score pairs of sequences.

        Args:
            observed: (batch, n, points, dims), any unit, an even batch.
            landmarks: (batch, frames, points, dims).

        Returns:
            Logits (batch / 2,), high for real.

        Raises:
            ShapeError: An odd batch; else as :meth:`WindowDiscriminator.forward`.
            ClipTooShortError: No window fits; the message names the shortest length.
        """
        if isinstance(observed, Tensor) and observed.ndim == 4 and observed.shape[0] % 2:
            raise ShapeError(f"`observed`: expected an even batch, got {describe_shape(observed)}")
        condition, states, starts = self._states(observed, landmarks)
        return self._score(torch.maximum(*condition.chunk(2)), torch.maximum(*states.chunk(2, dim=1)), starts)
