"""Syncers of several regions of the face, each at the levels that suit it, with the interface of a single pyramid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from avsync._checks import check_fields, checked
from avsync.audio.features import COEFFICIENTS, feature_columns
from avsync.errors import ArgumentError, ConfigError
from avsync.models.syncer.interface import MultiScaleSyncer, SyncerInterface, unit_norm
from avsync.models.syncer.pyramid import SyncerPyramid, SyncerPyramidConfig


@dataclass(frozen=True)
class SyncerRegion:
    """One region of :class:`SyncerRegions`.

    Attributes:
        name: Name of the region, such as "mouth".
        pyramid: Sizes of the region's pyramid, which selects the points.
        levels: Levels at which the region takes part, ascending; the pyramid may have more of them.
        weight: Weight of the region among the regions of a level, above 0.

    Raises:
        ConfigError: The levels are not ascending levels of the pyramid, or the weight is not a finite number above 0.
    """

    name: str
    pyramid: SyncerPyramidConfig
    levels: tuple[int, ...]
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        ascending = tuple(sorted(set(self.levels)))
        if not ascending or self.levels != ascending or not 0 <= ascending[0] <= ascending[-1] < self.pyramid.num_levels:
            raise ConfigError(
                f"`levels`: expected ascending levels of 0 to {self.pyramid.num_levels - 1} for the region {self.name!r}, got"
                f" {self.levels}"
            )
        if not 0 < self.weight < math.inf:
            raise ConfigError(f"`weight`: expected a finite number above 0 for the region {self.name!r}, got {self.weight}")


@dataclass(frozen=True)
class SyncerRegionsConfig:
    """Regions of :class:`SyncerRegions`.

    Attributes:
        regions: The regions. Their windows, landmarks and audio strides must be equal; their audio features may differ if one
            kind holds all of them, as "log-mel-prosody" holds "log-mel" and "prosody".

    Raises:
        ConfigError: There are no regions, two have the same name, a level has no region, or the pyramids do not match.
    """

    regions: tuple[SyncerRegion, ...]

    def __post_init__(self) -> None:
        check_fields(self)
        names = [region.name for region in self.regions]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"`regions`: expected at least one region and different names, got {names}")
        levels = {level for region in self.regions for level in region.levels}
        if levels != set(range(len(levels))):
            raise ConfigError(f"`regions`: expected a region at every level up to the coarsest, got levels {sorted(levels)}")
        for name in ("window", "audio_stride", "landmark_points", "landmark_dims", "layout", "fps"):
            found = [getattr(region.pyramid.interface, name) for region in self.regions]
            if len(set(found)) > 1:
                raise ConfigError(f"`regions`: expected pyramids with the same {name}, got {found}")
        for region in self.regions:
            if region.pyramid.audio != self.audio:
                try:
                    feature_columns(region.pyramid.audio, self.audio)
                except ArgumentError as error:
                    kinds = [other.pyramid.audio for other in self.regions]
                    raise ConfigError(f"`regions`: expected audio features that one kind holds, got {kinds}") from error

    @property
    def audio(self) -> str:
        """Audio features that hold the features of all regions: "custom" if a region has it, or the largest kind."""
        kinds = [region.pyramid.audio for region in self.regions]
        if len(set(kinds)) == 1:
            return kinds[0]
        if set(kinds) == {"log-mel", "prosody"}:
            return "log-mel-prosody"
        return max(kinds, key=lambda kind: COEFFICIENTS.get(kind, math.inf))

    @property
    def interface(self) -> SyncerInterface:
        """Inputs and windows of the regions together."""
        first = self.regions[0].pyramid.interface
        features = first.audio_features if self.audio == "custom" else COEFFICIENTS[self.audio]
        levels = 1 + max(region.levels[-1] for region in self.regions)
        return first._replace(num_levels=levels, audio=self.audio, audio_features=features)


class SyncerRegions(MultiScaleSyncer):
    r"""Syncers of several regions, such as mouth, non-rigid face and head pose, each at the levels that suit it.

    The cosine of the embeddings of level :math:`i` is the weighted mean of the cosines of the regions :math:`R_i` of that
    level,
    :math:`\sum_{r \in R_i} w_r \cos(e_a^{r,i}, e_x^{r,i}) / \sum_{r \in R_i} w_r`. The embeddings are the regions' unit
    embeddings, each multiplied by the square root of its share of the weight and concatenated; :meth:`columns` returns the
    columns of one region. Every loss and every metric on embeddings of a pyramid therefore accepts them, and
    :class:`avsync.losses.sync.MultiScaleSyncLoss` reports the regions one by one.

    Args:
        config: The regions.
        pyramids: Their pyramids, as ``config`` describes them; None for untrained pyramids.

    Raises:
        ArgumentError: ``config`` is not a :class:`SyncerRegionsConfig`.
        ConfigError: ``pyramids`` do not match ``config``.

    Example:
        >>> names = ("mouth", "head")
        >>> pyramids = {name: SyncerPyramid.from_pretrained(f"landmarks68-25fps-{name}") for name in names}
        >>> both = SyncerRegions.of(pyramids, levels={"mouth": (0, 1), "head": (1, 2, 3)})
        >>> both.regions, [both.columns(level) for level in (0, 1)]
        (('mouth', 'head'), [(slice(0, 128, None), None), (slice(0, 128, None), slice(128, 256, None))])

    Source: ours.
    """

    config_class = SyncerRegionsConfig

    @checked
    def __init__(self, config: SyncerRegionsConfig, *, pyramids: Sequence[SyncerPyramid] | None = None) -> None:
        if not isinstance(config, SyncerRegionsConfig):
            raise ArgumentError(f"`config`: expected SyncerRegionsConfig, got {type(config).__name__}")
        super().__init__(interface=config.interface)
        self.config = config
        if pyramids is None:
            pyramids = [SyncerPyramid(region.pyramid) for region in config.regions]
        elif [pyramid.config for pyramid in pyramids] != [region.pyramid for region in config.regions]:
            raise ConfigError("`pyramids`: expected the pyramids that `config.regions` describes, in this order, got others")
        self.pyramids = nn.ModuleList(pyramids)
        self._audio_columns = [
            slice(None) if region.pyramid.audio == config.audio else feature_columns(region.pyramid.audio, config.audio)
            for region in config.regions
        ]

    @classmethod
    @checked
    def of(
        cls,
        pyramids: Mapping[str, SyncerPyramid],
        *,
        levels: Mapping[str, Sequence[int]] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> SyncerRegions:
        """Build the syncers of regions from trained pyramids.

        Args:
            pyramids: The pyramid of each region, by the name of the region; they are kept, not copied.
            levels: Levels of each region, by name; all levels of its pyramid for regions left out.
            weights: Weight of each region, by name, above 0; 1 for regions left out.

        Returns:
            The syncers, in the mode (train or eval) of the pyramids.

        Raises:
            ConfigError: The pyramids, levels or weights do not match.
            ArgumentError: ``levels`` or ``weights`` names a region without a pyramid.
        """
        for name, values in (("levels", levels), ("weights", weights)):
            unknown = sorted(set(values or ()) - set(pyramids))
            if unknown:
                raise ArgumentError(f"`{name}`: expected some of the regions {sorted(pyramids)}, got {unknown}")
        regions = tuple(
            SyncerRegion(
                name,
                pyramid.config,
                tuple((levels or {}).get(name, range(pyramid.num_levels))),
                float((weights or {}).get(name, 1.0)),
            )
            for name, pyramid in pyramids.items()
        )
        syncers = cls(SyncerRegionsConfig(regions), pyramids=list(pyramids.values()))
        syncers.training = any(pyramid.training for pyramid in pyramids.values())
        return syncers

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the regions."""
        return tuple(region.name for region in self.config.regions)

    @property
    def region_weights(self) -> tuple[float, ...]:
        """Weight of each region."""
        return tuple(region.weight for region in self.config.regions)

    @checked
    def region(self, name: str) -> SyncerPyramid:
        """Return the pyramid of one region, for metrics of that region alone.

        Raises:
            ArgumentError: There is no such region.
        """
        if name not in self.regions:
            raise ArgumentError(f"`name`: expected one of {self.regions}, got {name!r}")
        return cast(SyncerPyramid, self.pyramids[self.regions.index(name)])

    @checked
    def columns(self, level: int) -> tuple[slice | None, ...]:
        """Return the columns of each region in the embeddings of a level; None for regions without that level."""
        self._chosen([level])
        found: list[slice | None] = []
        start = 0
        for region in self.config.regions:
            if level not in region.levels:
                found.append(None)
                continue
            found.append(slice(start, start + region.pyramid.syncer.embed))
            start += region.pyramid.syncer.embed
        return tuple(found)

    @checked
    def embed_motion(
        self,
        landmarks: Tensor,
        *,
        reference: str | Tensor | None = None,
        lengths: Tensor | None = None,
        levels: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Embed all windows of motion, with the arguments of ``forward``. Each region has its own default ``reference``.

        Returns:
            Unit-length embeddings of each of ``levels``, (batch, windows, sum of the regions' embed).
        """
        chosen = self._chosen(levels)
        parts = []
        for pyramid, region in self._pairs():
            some = [level for level in chosen if level in region.levels]
            found = pyramid.embed_motion(landmarks, reference=reference, lengths=lengths, levels=some) if some else []
            parts.append(dict(zip(some, found, strict=True)))
        return self._joined(chosen, parts)

    @checked
    def embed_audio(self, audio: Tensor, *, lengths: Tensor | None = None, levels: Sequence[int] | None = None) -> list[Tensor]:
        """Embed all windows of audio, with the arguments of ``forward``.

        Returns:
            Unit-length embeddings of each of ``levels``, (batch, windows, sum of the regions' embed).
        """
        chosen = self._chosen(levels)
        parts = []
        for (pyramid, region), columns in zip(self._pairs(), self._audio_columns, strict=True):
            some = [level for level in chosen if level in region.levels]
            found = pyramid.embed_audio(audio[..., columns], lengths=lengths, levels=some) if some else []
            parts.append(dict(zip(some, found, strict=True)))
        return self._joined(chosen, parts)

    def _pairs(self) -> list[tuple[SyncerPyramid, SyncerRegion]]:
        return [
            (cast(SyncerPyramid, pyramid), region) for pyramid, region in zip(self.pyramids, self.config.regions, strict=True)
        ]

    def _joined(self, levels: Sequence[int], parts: Sequence[Mapping[int, Tensor]]) -> list[Tensor]:
        """Concatenate the regions' embeddings of each level."""
        joined = []
        for level in levels:
            regions = [(part[level], weight) for part, weight in zip(parts, self.region_weights, strict=True) if level in part]
            total = sum(weight for _, weight in regions)
            joined.append(torch.cat([math.sqrt(weight / total) * unit_norm(part) for part, weight in regions], dim=-1))
        return joined
