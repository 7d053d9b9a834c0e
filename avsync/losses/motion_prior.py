"""Motion prior: an energy that is zero for motion as strong as real motion and grows for stronger motion.

Gradient descent on the score of a frozen syncer alone finds trembling motion that real faces do not make. The prior stores
statistics of real motion and penalises motion whose statistics are larger, so that optimised motion remains that of a real
face.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avsync._checks import check_fields, check_finite_values, check_floating, check_shape, checked, checked_config, reduce
from avsync.errors import ArgumentError, ClipTooShortError, ConfigError
from avsync.landmarks.geometry import displacement
from avsync.landmarks.principal_motions import principal_motions
from avsync.pretrained import PretrainedModel

_ROOT_FLOOR = 1e-8
"""Lower limit of the ratio of powers, because its square root has no finite gradient at zero."""


@dataclass(frozen=True)
class MotionPriorConfig:
    """Sizes of a motion prior (ours).

    Attributes:
        points: Number of points of a face.
        dims: Coordinates per point.
        components: Number of principal motions for which statistics are computed.
        lags: Time differences, in frames, over which changes are measured; lags that do not fit a clip are left out.

    Raises:
        ConfigError: A size is below 1, there is no lag, or there are more components than coordinates.
    """

    points: int = 68
    dims: int = 2
    components: int = 32
    lags: tuple[int, ...] = (1, 2, 4, 8, 16, 32)

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("points", "dims", "components"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}`: expected at least 1, got {getattr(self, name)}")
        if not self.lags or min(self.lags) < 1:
            raise ConfigError(f"`lags`: expected at least one number of frames, each at least 1, got {self.lags}")
        if self.components > self.points * self.dims:
            raise ConfigError(
                f"`components`: expected at most {self.points * self.dims}, one per coordinate, got {self.components}"
            )


class MotionPrior(PretrainedModel):
    r"""Energy of motion relative to real motion, zero for motion that is not stronger than that of real faces.

    Displacements :math:`d_t` from a reference face, in heights of that face, are decomposed into coefficients :math:`c_{t,k}`
    of ``components`` principal motions of real faces and a residual :math:`r_t` that these motions cannot express. The
    statistics of a clip are mean squares over time of the changes :math:`c_{t+\tau,k} - c_{t,k}` and :math:`r_{t+\tau} - r_t`
    at every lag :math:`\tau`, of the residual, and of the accelerations :math:`c_{t+1,k} - 2 c_{t,k} + c_{t-1,k}` and
    :math:`d_{t+1} - 2 d_t + d_{t-1}`. With :math:`\bar P_j` the mean of statistic :math:`P_j` over real clips, the energy is

    .. math:: E = \operatorname{mean}_j \max\left(0, \sqrt{P_j / \bar P_j} - 1\right)^2 .

    Args:
        config: Sizes; see :class:`MotionPriorConfig`. :meth:`fit` returns a fitted prior.

    Example:
        >>> clips = torch.rand(8, 1, 68, 2) + 0.01 * torch.randn(8, 40, 68, 2).cumsum(1)
        >>> prior = MotionPrior.fit(clips, config=MotionPriorConfig(components=4))
        >>> trembling = clips + 0.05 * torch.randn(8, 40, 68, 2)
        >>> bool(prior(trembling) > 10 * prior(clips))
        True

    Source: ours.
    """

    config_class = MotionPriorConfig
    directions: Tensor
    real_changes: Tensor
    real_residual_changes: Tensor
    real_accelerations: Tensor
    real_others: Tensor

    def __init__(self, config: MotionPriorConfig | None = None) -> None:
        super().__init__()
        self.config = config = checked_config(config, MotionPriorConfig)
        lags, components = len(config.lags), config.components
        self.register_buffer("directions", torch.eye(config.points * config.dims)[:, :components])
        for name, shape in (
            ("real_changes", (lags, components)),
            ("real_residual_changes", (lags,)),
            ("real_accelerations", (components,)),
            ("real_others", (2,)),
        ):
            self.register_buffer(name, torch.ones(shape))

    @classmethod
    @checked
    def fit(
        cls, landmarks: Tensor, *, config: MotionPriorConfig | None = None, reference: str | Tensor = "first"
    ) -> MotionPrior:
        """Fit a prior to clips of real faces.

        Args:
            landmarks: (batch, frames, points, dims), more frames than the largest lag, any unit; some hundreds of clips of many
                speakers.
            config: Sizes; ``points`` and ``dims`` must be those of ``landmarks``.
            reference: Face from which motion is measured, as in :meth:`forward`.

        Returns:
            The prior, on the device of ``landmarks``.

        Raises:
            ShapeError: The rank, points or dims are wrong.
            ClipTooShortError: The clips are not longer than the largest lag.
            ArgumentError: The clips contain no motion.
        """
        prior = cls(config)
        sizes = prior.config
        check_shape("landmarks", landmarks, "batch frames points dims", points=sizes.points, dims=sizes.dims)
        if landmarks.shape[1] <= max(sizes.lags):
            raise ClipTooShortError(
                f"`landmarks`: expected more than {max(sizes.lags)} frames, the largest lag, got {landmarks.shape[1]}"
            )
        check_floating("landmarks", landmarks)
        check_finite_values("landmarks", landmarks)
        prior.to(landmarks.device)
        motions = principal_motions(landmarks, sizes.components).motions.flatten(1)
        prior.directions.copy_(torch.linalg.qr(motions.mT.double()).Q)
        changes, residual_changes, accelerations, others = prior._statistics(landmarks, reference)
        if not bool((changes.mean(dim=0) > 0).all()):
            raise ArgumentError("`landmarks`: expected faces that move along every principal motion, got still ones")
        tiny = torch.finfo(torch.float32).tiny ** 0.5
        prior.real_changes.copy_(changes.mean(dim=0).clamp_min(tiny))
        prior.real_residual_changes.copy_(residual_changes.mean(dim=0).clamp_min(tiny))
        prior.real_accelerations.copy_(accelerations.mean(dim=0).clamp_min(tiny))
        prior.real_others.copy_(others.mean(dim=0).clamp_min(tiny))
        return prior.eval()

    @checked
    def forward(self, landmarks: Tensor, *, reference: str | Tensor = "first", reduction: str = "mean") -> Tensor:
        """Compute the energy of clips.

        Args:
            landmarks: (batch, frames, points, dims), at least 3 frames, in any unit, at the frame rate of the clips to which
                the prior was fitted.
            reference: "first" frame, "mean" face, or the observed face (batch, points, dims), which a generator cannot move.
            reduction: "none", "mean" or "sum" over clips.

        Returns:
            A scalar, or (batch,) for "none"; 0 if no statistic exceeds that of real motion.

        Raises:
            ShapeError: The rank, points or dims are wrong.
            ClipTooShortError: A clip has fewer than 3 frames.
            ArgumentError: The reduction or the reference is unknown.
        """
        sizes = self.config
        check_shape("landmarks", landmarks, "batch frames points dims", points=sizes.points, dims=sizes.dims)
        if landmarks.shape[1] < 3:
            raise ClipTooShortError(f"`landmarks`: expected at least 3 frames, got {landmarks.shape[1]}")
        with torch.autocast(device_type=landmarks.device.type, enabled=False):
            changes, residual_changes, accelerations, others = self._statistics(landmarks, reference)
            lags = changes.shape[1]
            ratios = torch.cat(
                [
                    (changes / self.real_changes[:lags]).flatten(1),
                    residual_changes / self.real_residual_changes[:lags],
                    accelerations / self.real_accelerations,
                    others / self.real_others,
                ],
                dim=1,
            )
            excess = torch.relu(ratios.clamp_min(_ROOT_FLOOR).sqrt() - 1.0)
            return reduce(excess.square().mean(dim=1), reduction)

    def _statistics(self, landmarks: Tensor, reference: str | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the statistics of each clip.

        Returns:
            Changes (batch, lags, components), changes of the residual (batch, lags), accelerations (batch, components), and the
            residual and the acceleration of the points (batch, 2). Lags that do not fit the clips are left out.
        """
        moved = displacement(landmarks, reference=reference, scale=1.0).flatten(2)
        directions = self.directions.to(moved.dtype)
        coefficients = moved @ directions
        residual = moved - coefficients @ directions.mT
        lags = [lag for lag in self.config.lags if lag < moved.shape[1]]
        changes = torch.stack([(coefficients[:, lag:] - coefficients[:, :-lag]).square().mean(dim=1) for lag in lags], dim=1)
        drift = torch.stack([(residual[:, lag:] - residual[:, :-lag]).square().sum(-1).mean(dim=1) for lag in lags], dim=1)
        accelerations = coefficients.diff(n=2, dim=1).square().mean(dim=1)
        jitter = moved.diff(n=2, dim=1).square().sum(-1).mean(dim=1)
        return changes, drift, accelerations, torch.stack([residual.square().sum(-1).mean(dim=1), jitter], dim=1)
