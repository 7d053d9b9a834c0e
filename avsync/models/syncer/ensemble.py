"""Ensembles of syncer pyramids, with the interface of a single pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from avsync._checks import check_fields, checked
from avsync.errors import ArgumentError, ConfigError
from avsync.models.syncer.interface import MultiScaleSyncer, SyncerInterface, unit_norm
from avsync.models.syncer.pyramid import SyncerPyramid, SyncerPyramidConfig


@dataclass(frozen=True)
class SyncerEnsembleConfig:
    """Members of a :class:`SyncerEnsemble` and their weights.

    Attributes:
        members: Sizes of the pyramids. Their motion features, regions and widths may differ; their levels, windows, audio
            features and landmarks must be equal.
        weights: Weight of each member, above 0; only the ratios matter.

    Raises:
        ConfigError: There are no members, the members do not match, or there is not one positive weight per member.
    """

    members: tuple[SyncerPyramidConfig, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.members:
            raise ConfigError("`members`: expected at least one pyramid, got none")
        if len(self.weights) != len(self.members) or not all(0 < weight < math.inf for weight in self.weights):
            raise ConfigError(
                f"`weights`: expected {len(self.members)} finite numbers above 0, one per member, got {self.weights}"
            )
        # All members see the same landmarks and the same audio, and embed the same windows.
        for name in SyncerInterface._fields:
            found = [getattr(member.interface, name) for member in self.members]
            if len(set(found)) > 1:
                raise ConfigError(f"`members`: expected pyramids with the same {name}, got {found}")


class SyncerEnsemble(MultiScaleSyncer):
    """Ensemble of syncer pyramids; the cosine of its embeddings is the weighted mean of the members' cosines.

    The unit embeddings of the members, each multiplied by the square root of its share of the weight, are concatenated. Every
    loss and every metric that accepts the embeddings of one pyramid therefore accepts those of an ensemble. The cost is the sum
    of the costs of the members. Pyramids with different motion features fail on different clips, so that an ensemble helps most
    for short clips.

    Args:
        config: Sizes and weights of the members.
        pyramids: The members, as ``config`` describes them; None for untrained members. :meth:`of` builds the config from
            trained members.

    Raises:
        ArgumentError: ``config`` is not a :class:`SyncerEnsembleConfig`.
        ConfigError: ``pyramids`` do not match ``config``.

    Example:
        >>> names = ("landmarks68-25fps", "landmarks68-25fps-mouth")
        >>> both = SyncerEnsemble.of([SyncerPyramid.from_pretrained(name) for name in names], weights=[1.0, 0.5])
        >>> [level.motion.shape[1] for level in both(torch.rand(1, 80, 68, 2), torch.zeros(1, 320, 26))]
        [76, 36, 16, 6]

    Source: ours.
    """

    config_class = SyncerEnsembleConfig

    @checked
    def __init__(self, config: SyncerEnsembleConfig, *, pyramids: Sequence[SyncerPyramid] | None = None) -> None:
        if not isinstance(config, SyncerEnsembleConfig):
            raise ArgumentError(f"`config`: expected SyncerEnsembleConfig, got {type(config).__name__}")
        super().__init__(interface=config.members[0].interface)
        self.config = config
        if pyramids is None:
            pyramids = [SyncerPyramid(config=member) for member in config.members]
        elif tuple(pyramid.config for pyramid in pyramids) != config.members:
            raise ConfigError("`pyramids`: expected the pyramids that `config.members` describes, in this order, got others")
        self.pyramids = nn.ModuleList(pyramids)
        self._roots = [math.sqrt(weight / sum(config.weights)) for weight in config.weights]

    @classmethod
    @checked
    def of(cls, pyramids: Sequence[SyncerPyramid], *, weights: Sequence[float] | None = None) -> SyncerEnsemble:
        """Build an ensemble from trained pyramids.

        Args:
            pyramids: The members; they are kept, not copied.
            weights: Weight of each member, above 0; equal by default.

        Returns:
            The ensemble, in the mode (train or eval) of its members.

        Raises:
            ConfigError: There are no members, the members do not match, or the weights do not match the members.
        """
        shares = tuple(float(weight) for weight in weights) if weights is not None else (1.0,) * len(pyramids)
        config = SyncerEnsembleConfig(tuple(pyramid.config for pyramid in pyramids), shares)
        ensemble = cls(config=config, pyramids=pyramids)
        ensemble.training = any(pyramid.training for pyramid in pyramids)
        return ensemble

    @checked
    def embed_motion(
        self,
        landmarks: Tensor,
        *,
        reference: str | Tensor | None = None,
        lengths: Tensor | None = None,
        levels: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Embed all windows of motion, with the arguments of ``forward``. Each member has its own default ``reference``.

        Returns:
            Unit-length embeddings of each of ``levels``, (batch, windows, sum of the members' embed).
        """
        return self._joined(
            [member.embed_motion(landmarks, reference=reference, lengths=lengths, levels=levels) for member in self._members]
        )

    @checked
    def embed_audio(self, audio: Tensor, *, lengths: Tensor | None = None, levels: Sequence[int] | None = None) -> list[Tensor]:
        """Embed all windows of audio, with the arguments of ``forward``.

        Returns:
            Unit-length embeddings of each of ``levels``, (batch, windows, sum of the members' embed).
        """
        return self._joined([member.embed_audio(audio, lengths=lengths, levels=levels) for member in self._members])

    @property
    def _members(self) -> list[SyncerPyramid]:
        return [cast(SyncerPyramid, pyramid) for pyramid in self.pyramids]

    def _joined(self, embedded: list[list[Tensor]]) -> list[Tensor]:
        """Concatenate the members' embeddings of each level."""
        return [
            torch.cat([root * unit_norm(part) for root, part in zip(self._roots, parts, strict=True)], dim=-1)
            for parts in zip(*embedded, strict=True)
        ]
