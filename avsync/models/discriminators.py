"""Discriminators of section 3.3, for single frames, windows of a sequence, and pairs of sequences.

The discriminators return logits for the losses of :mod:`avsync.losses.adversarial`. Coordinates are centred on the first
observed face and divided by its height. All frames of a clip have this one centre and height, so that the discriminators can
detect faces that grow or drift away. Landmarks of any floating-point dtype are accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsync._checks import (
    at_least_float32,
    check_count,
    check_fields,
    check_floating,
    check_same_device,
    check_shape,
    check_some_clips,
    checked,
    checked_config,
    constant,
    describe_shape,
)
from avsync.errors import ArgumentError, ClipTooShortError, ConfigError, ShapeError
from avsync.landmarks.geometry import normalise
from avsync.models.syncer.pyramid import PointwiseBlock
from avsync.models.window_lstm import WindowLSTM, window_plan
from avsync.pretrained import PretrainedModel, added_later


def _check_sizes(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value < 1:
            raise ConfigError(f"`{name}`: expected a number above 0, got {value!r}")


@dataclass(frozen=True)
class FrameDiscriminatorConfig:
    """Sizes of :class:`FrameDiscriminator`; the defaults are those of the paper's code.

    Attributes:
        points: Number of points of a face.
        dims: Coordinates per point.
        embed: Width of the frame embedding and of the blocks.
        depth: Pointwise ConvNeXt blocks after the embedding.
        expansion: Hidden channels of embedding and blocks, as a multiple of ``embed``.
        velocity_scale: Factor on the velocity, in face heights per frame, which the embedding then sees next to the
            coordinates, as in SUHMo; 0 leaves the velocity out.
        acceleration_scale: The same for the acceleration, in face heights per frame squared.

    Raises:
        ConfigError: A value is impossible.
    """

    points: int = 68
    dims: int = 2
    embed: int = 512
    depth: int = 4
    expansion: int = 4
    velocity_scale: float = added_later(0.0)
    acceleration_scale: float = added_later(0.0)

    def __post_init__(self) -> None:
        check_fields(self)
        _check_sizes(self, "points", "dims", "embed", "expansion")
        if self.depth < 0:
            raise ConfigError(f"`depth`: expected a number at least 0, got {self.depth!r}")


@dataclass(frozen=True)
class WindowDiscriminatorConfig:
    """Sizes of :class:`WindowDiscriminator` and :class:`PairDiscriminator`; the defaults are those of the paper's code.

    Attributes:
        points: Number of points of a face.
        dims: Coordinates per point.
        embed: Width of the frame embedding.
        expansion: Hidden channels of the embedding, as a multiple of ``embed``.
        hidden: Size of the LSTM's state.
        windows: Lengths of the windows in frames; the stride is half a window.
        displacement_scale: Factor on the displacement from the first observed face, in face heights. The embedding sees the
            displacement in addition to the coordinates (ours).
        velocity_scale: Factor on the velocity, in face heights per frame. The embedding also sees the velocity, as in SUHMo,
            because motion that is too slow or too smooth is visible in velocities but hardly in positions.
        acceleration_scale: Factor on the acceleration, in face heights per frame squared, which the embedding then also sees,
            as in SUHMo; 0 leaves the acceleration out.

    Raises:
        ConfigError: A value is impossible.
    """

    points: int = 68
    dims: int = 2
    embed: int = 512
    expansion: int = 4
    hidden: int = 1024
    windows: tuple[int, ...] = (5, 10, 20, 40)
    displacement_scale: float = 8.0
    velocity_scale: float = 40.0
    acceleration_scale: float = added_later(0.0)

    def __post_init__(self) -> None:
        check_fields(self)
        _check_sizes(self, "points", "dims", "embed", "expansion", "hidden")
        if not self.windows or min(self.windows) < 2:
            raise ConfigError(f"`windows`: expected lengths of at least 2 frames, got {self.windows!r}")


class FrameEmbedding(nn.Module):
    """Embedding of single frames: linear, LayerNorm, linear x4, GELU, linear.

    Args:
        in_features: Number of values per frame.
        embed: Width of the embedding.
        expansion: Hidden channels, as a multiple of ``embed``.

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
        """Embed frames, (..., in_features) -> (..., embed), in the dtype of the weights."""
        x = x.to(self.enter.weight.dtype)
        return self.project(F.gelu(self.expand(self.norm(self.enter(x)))))


class FrameDiscriminator(PretrainedModel):
    """Discriminator of single faces, D_f in equation (9).

    Args:
        config: Sizes; the defaults if None.
        embedding: Frame embedding shared with the other discriminators, as in the paper's code; its frames are then passed as
            ``embedded``. A new embedding if None.

    Raises:
        ArgumentError: ``config`` is of another class, or the width of ``embedding`` differs from it.

    Example:
        >>> discriminator = FrameDiscriminator(FrameDiscriminatorConfig(embed=8))
        >>> discriminator(torch.rand(2, 7, 68, 2)).shape
        torch.Size([2, 7])

    Source: paper, section 3.3; embedding and blocks from the paper's code.
    """

    config_class = FrameDiscriminatorConfig

    @checked
    def __init__(self, config: FrameDiscriminatorConfig | None = None, *, embedding: FrameEmbedding | None = None) -> None:
        super().__init__()
        self.config = config = checked_config(config, FrameDiscriminatorConfig)
        kinds = 1 + bool(config.velocity_scale) + bool(config.acceleration_scale)
        if embedding is None:
            features = kinds * config.points * config.dims
            embedding = FrameEmbedding(in_features=features, embed=config.embed, expansion=config.expansion)
        elif not isinstance(embedding, FrameEmbedding):
            raise ArgumentError(f"`embedding`: expected FrameEmbedding or None, got {type(embedding).__name__}")
        elif embedding.project.out_features != config.embed:
            raise ArgumentError(
                f"`embedding`: expected one to {config.embed} features, got one to {embedding.project.out_features}"
            )
        self.embedding = embedding
        self.blocks = nn.Sequential(
            *(PointwiseBlock(channels=config.embed, expansion=config.expansion) for _ in range(config.depth))
        )
        self.score = nn.Linear(config.embed, 1)

    @checked
    def forward(self, landmarks: Tensor, *, reference: Tensor | None = None, embedded: Tensor | None = None) -> Tensor:
        """Score every frame.

        Args:
            landmarks: (batch, frames, points, dims), any unit.
            reference: (batch, points, dims), the first observed face, which centres and scales the frames; the clip's own first
                frame if None. It should be passed, because a clip scaled by its own first frame does not reveal its size.
            embedded: (batch, frames, embed), the frames by a shared embedding; computed here if None.

        Returns:
            Logits (batch, frames), high for real.

        Raises:
            ShapeError: The rank, points or dims are wrong, or the batch is empty.
            ArgumentError: The landmarks and the model are not on one device.
        """
        _check_clip("landmarks", landmarks, self.config.points, self.config.dims)
        check_same_device("landmarks", landmarks, self.score.weight.device, "the model")
        batch, frames, points, dims = landmarks.shape
        if reference is not None:
            check_shape("reference", reference, "batch points dims", batch=batch, points=points, dims=dims)
        if embedded is None:
            config = self.config
            x = normalise(at_least_float32(landmarks), reference="first" if reference is None else reference).landmarks.flatten(
                2
            )
            embedded = self.embedding(torch.cat([x, *_derivatives(x, config.velocity_scale, config.acceleration_scale)], dim=2))
        else:
            check_shape("embedded", embedded, "batch frames embed", batch=batch, frames=frames, embed=self.config.embed)
            check_floating("embedded", embedded)
        return self.score(self.blocks(embedded)).squeeze(-1)


def _derivatives(x: Tensor, velocity_scale: float, acceleration_scale: float) -> list[Tensor]:
    """Return scaled velocity and acceleration of (batch, frames, features), zero at the start; none for a scale of 0."""
    velocity = F.pad(x[:, 1:] - x[:, :-1], (0, 0, 1, 0))
    found = [velocity_scale * velocity] if velocity_scale else []
    if acceleration_scale:
        # The first frame has no velocity, so the third frame is the first with an acceleration.
        found.append(acceleration_scale * F.pad(velocity[:, 2:] - velocity[:, 1:-1], (0, 0, min(2, x.shape[1]), 0)))
    return found


class SpectralLinear(nn.Linear):
    r"""Linear layer with spectral normalisation: the weight is divided by its largest singular value :math:`\sigma`.

    One power iteration per forward pass in training mode estimates :math:`\sigma`, as in
    :func:`torch.nn.utils.parametrizations.spectral_norm`, whose modules cannot be pickled.

    Args:
        in_features: Features of the input.
        out_features: Features of the output.

    Example:
        >>> layer = SpectralLinear(3, 5).eval()
        >>> gain = layer(torch.eye(3)) - layer(torch.zeros(1, 3))  # the normalised weight
        >>> round(torch.linalg.matrix_norm(gain, 2).item(), 2)
        1.0

    Source: Miyato et al. 2018, "Spectral normalization for generative adversarial networks".
    """

    left: Tensor
    right: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("left", F.normalize(torch.randn(out_features), dim=0))
        self.register_buffer("right", F.normalize(torch.randn(in_features), dim=0))
        for _ in range(15):
            self._iterate()

    @torch.no_grad()
    def _iterate(self) -> None:
        weight = at_least_float32(self.weight)
        left = F.normalize(weight.mv(self.right.to(weight.dtype)), dim=0, eps=1e-12)
        self.left.copy_(left)
        self.right.copy_(F.normalize(weight.t().mv(left), dim=0, eps=1e-12))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: (..., in_features) -> (..., out_features)."""
        if self.training:
            self._iterate()
        weight = at_least_float32(self.weight)
        # Copies, because the next forward pass changes the buffers, and the graph of this one may still be needed.
        left, right = self.left.to(weight.dtype, copy=True), self.right.to(weight.dtype, copy=True)
        return F.linear(x, (weight / left.dot(weight.mv(right))).to(self.weight.dtype), self.bias)


class ProjectionScore(nn.Module):
    r"""Projection score of a window's state, given the state of the observed frames.

    .. math:: A \, (d^{-1/\beta} \langle y, V \varphi \rangle + \psi(\varphi)), \quad \varphi = \mathrm{relu}(P h), \quad
        \psi(\varphi) = \mathrm{relu}(Q \varphi)

    with the state :math:`h` of the window, the state :math:`y` of the observed frames, the distance :math:`d` of the window
    from the observed frames, and a learnable :math:`\beta`. The matrices A, V, P and Q carry spectral normalisation.

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
        self.phi = SpectralLinear(hidden, 2 * hidden)
        self.psi = SpectralLinear(2 * hidden, 2 * hidden)
        self.value = SpectralLinear(2 * hidden, hidden)
        self.score = SpectralLinear(2 * hidden, 1)
        self.beta = nn.Parameter(torch.tensor(5.0))

    def forward(self, states: Tensor, condition: Tensor, distance: Tensor) -> Tensor:
        """Score windows.

        Args:
            states: (windows, rows, hidden), h of each window.
            condition: (rows, hidden), y.
            distance: (windows,), d >= 1, frames from the observed frames.

        Returns:
            (windows, rows).
        """
        # The power iteration would drift in half precision, so the score is computed in the dtype of the parameters.
        with torch.autocast(device_type=states.device.type, enabled=False):
            dtype = self.beta.dtype
            phi = F.relu(self.phi(states.to(dtype)))
            projection = (condition.to(dtype) * self.value(phi)).sum(dim=-1)
            weight = torch.exp(-at_least_float32(distance).log() / self.beta).to(dtype)
            return self.score((weight[:, None] * projection)[..., None] + F.relu(self.psi(phi))).squeeze(-1)


def _check_clip(name: str, landmarks: Tensor, points: int, dims: int, batch: int | None = None) -> None:
    sizes = {"points": points, "dims": dims}
    if batch is not None:
        sizes["batch"] = batch
    check_shape(name, landmarks, "batch frames points dims", **sizes)
    check_floating(name, landmarks)
    check_some_clips(name, landmarks)
    if landmarks.shape[1] == 0:
        raise ClipTooShortError(f"`{name}`: expected at least 1 frame, got {describe_shape(landmarks)}")


class _WindowNetwork(PretrainedModel):
    """Common part of the window and the pair discriminator: embedding, LSTM over all windows, projection score."""

    config_class = WindowDiscriminatorConfig

    @checked
    def __init__(self, config: WindowDiscriminatorConfig | None = None, *, embedding: FrameEmbedding | None = None) -> None:
        super().__init__()
        self.config = config = checked_config(config, WindowDiscriminatorConfig)
        kinds = 2 + bool(config.velocity_scale) + bool(config.acceleration_scale)
        features = kinds * config.points * config.dims
        if embedding is None:
            embedding = FrameEmbedding(in_features=features, embed=config.embed, expansion=config.expansion)
        elif not isinstance(embedding, FrameEmbedding):
            raise ArgumentError(f"`embedding`: expected a discriminator's embedding, got {type(embedding).__name__}")
        elif (embedding.enter.in_features, embedding.project.out_features) != (features, config.embed):
            raise ArgumentError(
                f"`embedding`: expected {features} inputs and {config.embed} outputs, got {embedding.enter.in_features} and "
                f"{embedding.project.out_features}"
            )
        self.embedding = embedding
        self.lstm = WindowLSTM(in_features=config.embed, hidden=config.hidden)
        self.head = ProjectionScore(hidden=config.hidden)
        self.lstm.reset_parameters()
        self.register_load_state_dict_pre_hook(_rename_weights)

    @checked
    def shortest(self, observed: int) -> int:
        """Return the fewest frames that can be scored after ``observed`` observed frames."""
        return min(window - min(observed, window - window // 2) for window in self.config.windows)

    def embed(self, observed: Tensor, landmarks: Tensor) -> Tensor:
        """Embed all frames, the observed frames first.

        Args:
            observed: (batch, n, points, dims), any unit; the first frame is the reference face.
            landmarks: (batch, frames, points, dims), the frames that follow.

        Returns:
            (n + frames, batch, embed).

        Raises:
            ShapeError: The rank, points or dims are wrong, or the batches differ or are empty.
            ArgumentError: The landmarks and the model are not on one device.
        """
        config = self.config
        _check_clip("observed", observed, config.points, config.dims)
        _check_clip("landmarks", landmarks, config.points, config.dims, observed.shape[0])
        check_same_device("observed", observed, self.head.beta.device, "the model")
        check_same_device("landmarks", landmarks, self.head.beta.device, "the model")
        # Converted to one dtype, at least float32, before concatenation and differences.
        clip = torch.cat([at_least_float32(observed), at_least_float32(landmarks)], dim=1)
        x = normalise(clip).landmarks.flatten(2)
        derivatives = _derivatives(x, config.velocity_scale, config.acceleration_scale)
        x = torch.cat([x, config.displacement_scale * (x - x[:, :1]), *derivatives], dim=2)
        return self.embedding(x.transpose(0, 1))

    def _merged(self, states: Tensor) -> Tensor:
        """Return the states (windows, rows, hidden) to score, from those of a batch (windows, batch, hidden)."""
        return states

    def _scores(self, observed: Tensor, landmarks: Tensor, embedded: Tensor | None, fused: bool | None, parts: int) -> Tensor:
        """Compute the logits of a batch: one pass of the LSTM, and one pass of the head per part."""
        check_count("parts", parts)
        if embedded is None:
            embedded = self.embed(observed, landmarks)
        batch, seen, frames = len(observed), observed.shape[1], landmarks.shape[1]
        if parts > 1 and batch % parts:
            raise ShapeError(f"`observed`: expected a batch of {parts} equal parts, got {describe_shape(observed)}")
        check_shape("embedded", embedded, "frames batch embed", frames=seen + frames, batch=batch, embed=self.config.embed)
        check_floating("embedded", embedded)
        embedded = embedded.to(self.lstm.gates.weight.dtype)
        if frames < self.shortest(seen):
            raise ClipTooShortError(
                f"`landmarks`: expected at least {self.shortest(seen)} frames after {seen} observed ones "
                f"for windows of {self.config.windows}, got {describe_shape(landmarks)}"
            )
        plan = window_plan(seen, frames, self.config.windows)
        read = self.lstm(embedded, plan.segments, fused=fused)
        logits = []
        # Parts are separated before the states are joined, so that the states of a part are contiguous without a copy.
        for part in zip(*(states.chunk(parts, dim=1) for states in read), strict=True):
            states = self._merged(torch.cat(part))
            scores = self.head(states, states[plan.condition], constant(plan.distances, states.device))
            logits.append(constant(plan.weights, scores.device).to(scores.dtype) @ scores)
        return logits[0] if parts == 1 else torch.cat(logits)


def _rename_weights(network: nn.Module, weights: dict[str, Any], prefix: str, *_: object) -> None:
    """Convert weights of the old form, whose LSTM was part of the network, before a network loads them."""
    del network
    if f"{prefix}recurrent" not in weights:
        return
    for name in ("gates.weight", "gates.bias", "recurrent"):
        weights[f"{prefix}lstm.{name}"] = weights.pop(f"{prefix}{name}")
    for layer in ("phi", "psi", "value", "score"):
        name = f"{prefix}head.{layer}."
        for old, new in (("original", "weight"), ("0._u", "left"), ("0._v", "right")):
            weights[f"{name}{new}"] = weights.pop(f"{name}parametrizations.weight.{old}")


class WindowDiscriminator(_WindowNetwork):
    """Discriminator of sequences in windows of several lengths, D_s in equation (10).

    An LSTM reads each window; its last state is scored against the LSTM's last state on the observed frames. Windows longer
    than the clip are skipped. The score is the mean over the positions of a window, then over the window lengths.

    Args:
        config: Sizes; the paper's if None.
        embedding: Frame embedding shared with another discriminator; a new embedding if None.

    Raises:
        ArgumentError: ``config`` is of another class, or ``embedding`` does not match it.

    Example:
        >>> discriminator = WindowDiscriminator(WindowDiscriminatorConfig(embed=8, hidden=8))
        >>> discriminator(torch.rand(2, 3, 68, 2), torch.rand(2, 40, 68, 2)).shape
        torch.Size([2])

    Source: paper, section 3.3; windows and score from the paper's code.
    """

    @checked
    def forward(
        self,
        observed: Tensor,
        landmarks: Tensor,
        *,
        embedded: Tensor | None = None,
        fused: bool | None = None,
        parts: int = 1,
    ) -> Tensor:
        """Score sequences.

        Args:
            observed: (batch, n, points, dims), any unit; the first frame is the reference face.
            landmarks: (batch, frames, points, dims), the frames that follow, real or generated.
            embedded: Result of :meth:`~avsync.models.discriminators.WindowDiscriminator.embed` for the same frames, if another
                discriminator with the same embedding has it; computed here if None.
            fused: Use torch's fused LSTM instead of a loop over the frames; None uses it on a GPU, where it is faster. On a GPU
                it has no second derivative: pass False for gradient penalties such as R1.
            parts: Number of equal parts of the batch, such as 2 for real clips followed by generated ones. Logits, and in
                training mode the power iterations of the spectral norms, are those of one call per part, but the LSTM reads all
                parts in one pass.

        Returns:
            Logits (batch,), high for real.

        Raises:
            ShapeError: The rank, points or dims are wrong, the batches differ or are empty, or the batch has no equal parts.
            ClipTooShortError: No window fits; the message names the shortest length.
            ArgumentError: The landmarks and the model are not on one device, or ``parts`` is below 1.
        """
        return self._scores(observed, landmarks, embedded, fused, parts)


class PairDiscriminator(_WindowNetwork):
    """Discriminator of pairs of sequences, against mode collapse, D_j in equation (11).

    The discriminator has its own LSTM and head and works like :class:`WindowDiscriminator`, but scores the element-wise maximum
    of the LSTM states of two samples. Sample i of the first half of the batch is paired with sample i of the second half.

    Args:
        config: Sizes; the paper's if None.
        embedding: Frame embedding shared with another discriminator, as in the paper's code; a new embedding if None.

    Raises:
        ArgumentError: ``config`` is of another class, or ``embedding`` does not match it.

    Example:
        >>> discriminator = PairDiscriminator(WindowDiscriminatorConfig(embed=8, hidden=8))
        >>> discriminator(torch.rand(4, 3, 68, 2), torch.rand(4, 40, 68, 2)).shape
        torch.Size([2])

    Source: paper, section 3.3; the merging from the paper's code.
    """

    @checked
    def forward(
        self,
        observed: Tensor,
        landmarks: Tensor,
        *,
        embedded: Tensor | None = None,
        fused: bool | None = None,
        parts: int = 1,
    ) -> Tensor:
        """Score pairs of sequences.

        Args:
            observed: (batch, n, points, dims), any unit, an even batch.
            landmarks: (batch, frames, points, dims).
            embedded: As in :meth:`WindowDiscriminator.forward`.
            fused: As in :meth:`WindowDiscriminator.forward`.
            parts: As in :meth:`WindowDiscriminator.forward`; pairs are made within each part.

        Returns:
            Logits (batch / 2,), high for real.

        Raises:
            ShapeError: The batch or its parts are odd, or as in :meth:`WindowDiscriminator.forward`.
            ClipTooShortError: No window fits; the message names the shortest length.
            ArgumentError: As in :meth:`WindowDiscriminator.forward`.
        """
        check_count("parts", parts)
        if isinstance(observed, Tensor) and observed.ndim == 4 and observed.shape[0] % (2 * parts):
            each = f" in each of {parts} parts" if parts > 1 else ""
            raise ShapeError(f"`observed`: expected an even batch{each}, got {describe_shape(observed)}")
        return self._scores(observed, landmarks, embedded, fused, parts)

    def _merged(self, states: Tensor) -> Tensor:
        return torch.maximum(*states.chunk(2, dim=1))
