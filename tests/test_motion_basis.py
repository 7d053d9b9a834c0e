"""Principal motions, and generators that speak in them."""

from __future__ import annotations

import pytest
import torch

from avsync.errors import ArgumentError, ShapeError
from avsync.landmarks.principal_motions import principal_motions
from avsync.models.generator.model import GeneratorConfig, MultiScaleGenerator
from avsync.models.generator.stream import GeneratorStream

SMALL = {"hidden": 8, "position_embed": 8, "audio_channels": 8, "branch_width": 8}


def moving_faces(rng: torch.Generator, directions: torch.Tensor, *, clips: int = 6, frames: int = 30) -> torch.Tensor:
    """Clips whose every face is the first one plus a random walk along the given (n, 68, 2) directions."""
    face = torch.rand(clips, 1, 68, 2, generator=rng)
    face[..., 0, 1], face[..., 1, 1] = 0.0, 1.0  # height 1: the unit of the motions is then that of the faces
    walk = torch.randn(clips, frames, len(directions), generator=rng).cumsum(1)
    walk = walk - walk[:, :1]
    return face + torch.einsum("btn,npd->btpd", walk, directions)


def test_the_directions_and_lengths_of_a_known_motion_are_found(rng: torch.Generator) -> None:
    raw = torch.linalg.qr(torch.randn(136, 2, generator=rng)).Q.mT
    directions = torch.stack([0.02 * raw[0], 0.005 * raw[1]]).unflatten(1, (68, 2))
    motions = principal_motions(moving_faces(rng, directions, clips=40), 3).motions.flatten(1)
    unit = motions[:2] / motions[:2].norm(dim=1, keepdim=True)
    assert (unit * raw).sum(1).abs().min() > 0.99
    torch.testing.assert_close(motions[:2].norm(dim=1), torch.tensor([0.02, 0.005]), rtol=0.15, atol=0)
    assert motions[2].norm() < 1e-4, "there is no third motion"


def test_units_and_places_do_not_matter(rng: torch.Generator) -> None:
    faces = torch.rand(4, 12, 68, 2, generator=rng)
    here, there = principal_motions(faces, 4), principal_motions(150 * faces + 300, 4)
    torch.testing.assert_close(here.motions.abs(), there.motions.abs(), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(here.reach, there.reach, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("branches", [1, 4])
def test_faces_stay_in_the_span_of_their_motions(rng: torch.Generator, branches: int) -> None:
    """Also with several branches, whose masks differ from landmark to landmark."""
    motions = torch.randn(5, 68, 2, generator=rng)
    generator = MultiScaleGenerator(GeneratorConfig(num_branches=branches, motion_components=5, **SMALL))
    generator.set_motion_basis(motions, torch.full((5,), 100.0))
    velocities = generator(torch.rand(2, 3, 68, 2), torch.randn(2, 4 * 13, 26)).velocities.flatten(0, 1).flatten(1)
    outside = velocities - velocities @ torch.linalg.pinv(motions.flatten(1)) @ motions.flatten(1)
    assert velocities.norm() > 0
    assert outside.norm() < 1e-4 * velocities.norm()


def test_faces_go_no_farther_than_their_reach(rng: torch.Generator) -> None:
    """A network of large weights runs away without a reach, and stops at it with one."""
    motions = torch.linalg.qr(torch.randn(136, 3, generator=rng)).Q.mT.reshape(3, 68, 2) * 0.01
    generator = MultiScaleGenerator(GeneratorConfig(num_branches=2, motion_components=3, **SMALL))
    with torch.no_grad():
        generator.head.bias.add_(5.0)
    observed, audio = torch.rand(2, 1, 68, 2, generator=rng), torch.randn(2, 4 * 40, 26, generator=rng)
    observed[..., 0, 1], observed[..., 1, 1] = 0.0, 1.0

    def farthest() -> torch.Tensor:
        made = (generator(observed, audio).landmarks - observed).flatten(2)
        height = (observed[..., 1].amax(-1) - observed[..., 1].amin(-1))[..., None]
        return (made / height @ torch.linalg.pinv(motions.flatten(1))).abs().amax(dim=(0, 1))

    generator.set_motion_basis(motions, torch.tensor([4.0, 2.0, 1.0]))
    assert farthest().max() > 20, "training has no bounds"
    generator.eval()
    torch.testing.assert_close(farthest(), torch.tensor([4.0, 2.0, 1.0]), atol=1e-3, rtol=1e-3)


def test_reach_is_the_quantile_of_the_distance(rng: torch.Generator) -> None:
    raw = torch.linalg.qr(torch.randn(136, 1, generator=rng)).Q.mT
    motion = (0.02 * raw).unflatten(1, (68, 2))
    found = principal_motions(moving_faces(rng, motion, clips=4), 1, quantile=1.0)
    faces = moving_faces(torch.Generator().manual_seed(0), motion, clips=4)
    assert float(found.reach) > 3
    halved = principal_motions(faces, 1, quantile=0.5).reach
    assert float(halved) < float(principal_motions(faces, 1, quantile=1.0).reach)


def test_the_stream_speaks_in_the_same_motions() -> None:
    generator = MultiScaleGenerator(GeneratorConfig(num_branches=2, motion_components=4, causal=True, **SMALL)).eval()
    observed, audio = torch.rand(1, 3, 68, 2), torch.randn(1, 4 * 11, 26)
    whole = generator(observed, audio, generator=torch.Generator().manual_seed(1)).landmarks
    stream = GeneratorStream(network=generator, observed=observed, generator=torch.Generator().manual_seed(1))
    faces = [stream.step(piece) for piece in audio.split(4, dim=1)]
    torch.testing.assert_close(torch.stack([face for face in faces if face is not None], dim=1), whole, atol=1e-5, rtol=1e-5)


def test_the_motions_are_saved_with_the_weights() -> None:
    generator = MultiScaleGenerator(GeneratorConfig(motion_components=4, **SMALL))
    assert "motion_basis" in generator.state_dict()
    assert "motion_basis" not in MultiScaleGenerator(GeneratorConfig(**SMALL)).state_dict()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ArgumentError, match="components"):
        principal_motions(torch.rand(2, 3, 68, 2), 5)
    with pytest.raises(ShapeError, match="landmarks"):
        principal_motions(torch.rand(3, 68, 2), 2)
    with pytest.raises(ArgumentError, match="motion_components"):
        MultiScaleGenerator(GeneratorConfig(**SMALL)).set_motion_basis(torch.rand(4, 68, 2), torch.ones(4))
    with pytest.raises(ShapeError, match="motions"):
        MultiScaleGenerator(GeneratorConfig(motion_components=3, **SMALL)).set_motion_basis(torch.rand(4, 68, 2), torch.ones(4))


def test_the_inverse_of_a_loaded_basis_is_its_own(rng: torch.Generator) -> None:
    config = GeneratorConfig(motion_components=5, **SMALL)
    generator, twin = MultiScaleGenerator(config), MultiScaleGenerator(config)
    generator.set_motion_basis(torch.randn(5, 68, 2, generator=rng), torch.full((5,), 100.0))
    twin.load_state_dict(generator.state_dict())
    torch.testing.assert_close(generator.motion_basis @ generator.motion_analysis, torch.eye(5))
    assert torch.equal(twin.motion_analysis, generator.motion_analysis)
    assert "motion_analysis" not in generator.state_dict()
