"""Right calls of the models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from avsync import models as room
from avsync.landmarks import fit_lip_leak
from avsync.models.generator import AudioPyramidStream
from tests.right_calls import Call, new_folder

SYNCER = room.SyncerConfig(audio_features=5, points=7, width=4, embed=2)
CONFIG = room.SyncerPyramidConfig(syncer=SYNCER, audio="custom")
PYRAMID = room.SyncerPyramid(CONFIG)
REGIONS = room.SyncerRegions.of({"face": PYRAMID})
ENSEMBLE = room.SyncerEnsemble.of([PYRAMID, PYRAMID])
LANDMARKS, FEATURES = torch.rand(2, 40, 7, 2), torch.randn(2, 160, 5)
LENGTHS = torch.tensor([40, 38])
PAIR: dict[str, Any] = {"landmarks": LANDMARKS, "audio": FEATURES, "reference": "mean", "lengths": LENGTHS, "levels": [0, 1]}
M, A = torch.randn(2, 2, 6, 8)

GENERATOR = room.MultiScaleGenerator(
    room.GeneratorConfig(
        audio_features=5, points=7, hidden=4, position_embed=4, audio_channels=4, branch_width=4, motion_components=2
    )
).eval()
OBSERVED, SOUND = LANDMARKS[:, :2], FEATURES[:, :32]
STATE = GENERATOR.draw_state(2)
TERMS = GENERATOR.audio_terms(GENERATOR.audio_pyramid(SOUND))

FRAME = room.FrameDiscriminatorConfig(points=7, embed=4, depth=1)
WINDOW = room.WindowDiscriminatorConfig(points=7, embed=4, hidden=4, windows=(5, 10))
AUTOENCODER = room.MotionAutoencoderConfig(width=4, features=4)
MOTION_WINDOWS = torch.rand(2, 40, 68, 2)


def causal() -> room.MultiScaleGenerator:
    """A generator that streams."""
    return room.MultiScaleGenerator(replace(GENERATOR.config, causal=True)).eval()


CAUSAL = causal()


def stream(audio: Any) -> object:
    return room.GeneratorStream(network=CAUSAL, observed=OBSERVED).step(audio)


def pushed(audio: Any, *, last: Any = False) -> object:
    return AudioPyramidStream(pyramid=CAUSAL.audio_pyramid).push(audio, last=last)


def rollout() -> room.Rollout:
    return room.Rollout(GENERATOR, observed=OBSERVED, terms=TERMS, generator=None)


def disc(kind: Any) -> dict[str, Call]:
    """Right calls of a discriminator of windows."""
    made = kind(WINDOW)
    embedded = made.embed(OBSERVED, LANDMARKS)
    name = kind.__name__
    return {
        name: Call(kind, {"config": WINDOW}),
        f"{name}.forward": Call(made.forward, {"observed": OBSERVED, "landmarks": LANDMARKS, "embedded": embedded, "parts": 1}),
        f"{name}.embed": Call(made.embed, {"observed": OBSERVED, "landmarks": LANDMARKS}),
        f"{name}.shortest": Call(made.shortest, {"observed": 2}),
    }


CALLS = {
    "SyncerRegion": Call(room.SyncerRegion, {"name": "mouth", "pyramid": CONFIG, "levels": (0, 1)}),
    "SyncerRegionsConfig": Call(room.SyncerRegionsConfig, vars(REGIONS.config)),
    "SyncerRegions": Call(room.SyncerRegions, {"config": REGIONS.config}),
    "SyncerRegions.of": Call(room.SyncerRegions.of, {"pyramids": {"face": PYRAMID}}),
    "SyncerRegions.columns": Call(REGIONS.columns, {"level": 0}),
    "SyncerRegions.region": Call(REGIONS.region, {"name": "face"}),
    "SyncerRegions.embed_motion": Call(REGIONS.embed_motion, {k: v for k, v in PAIR.items() if k != "audio"}),
    "SyncerRegions.embed_audio": Call(
        REGIONS.embed_audio, {k: v for k, v in PAIR.items() if k in ("audio", "lengths", "levels")}
    ),
    "SyncerConfig": Call(room.SyncerConfig, {}),
    "SyncerPyramidConfig": Call(room.SyncerPyramidConfig, {}),
    "SyncerPyramidConfig.level_syncer": Call(CONFIG.level_syncer, {"level": 1}),
    "SyncerPyramidConfig.finest": Call(CONFIG.finest, {"levels": 2}),
    "SyncerEnsembleConfig": Call(room.SyncerEnsembleConfig, {"members": (CONFIG, CONFIG), "weights": (1.0, 2.0)}),
    "SyncerInterface": Call(room.SyncerInterface, PYRAMID.interface._asdict()),
    "AudioEncoder": Call(room.AudioEncoder, {"config": SYNCER}),
    "AudioEncoder.set_statistics": Call(
        room.AudioEncoder(SYNCER).set_statistics, {"mean": torch.zeros(5), "std": torch.ones(5)}
    ),
    "AudioEncoder.forward": Call(room.AudioEncoder(SYNCER).forward, {"audio": FEATURES}),
    "MotionEncoder": Call(room.MotionEncoder, {"config": SYNCER}),
    "MotionEncoder.forward": Call(room.MotionEncoder(SYNCER).forward, {"motion": LANDMARKS}),
    "Syncer": Call(room.Syncer, {"config": SYNCER}),
    "Syncer.forward": Call(room.Syncer(SYNCER).forward, {"motion": LANDMARKS, "audio": FEATURES}),
    "SyncerPyramid": Call(room.SyncerPyramid, {"config": CONFIG}),
    "SyncerPyramid.forward": Call(PYRAMID.forward, PAIR),
    "SyncerPyramid.embed_motion": Call(PYRAMID.embed_motion, {k: v for k, v in PAIR.items() if k != "audio"}),
    "SyncerPyramid.embed_audio": Call(
        PYRAMID.embed_audio, {k: v for k, v in PAIR.items() if k in ("audio", "lengths", "levels")}
    ),
    "SyncerPyramid.set_audio_statistics": Call(
        room.SyncerPyramid(CONFIG).set_audio_statistics, {"mean": torch.zeros(5), "std": torch.ones(5)}
    ),
    "SyncerPyramid.set_average_shape": Call(
        room.SyncerPyramid(replace(CONFIG, syncer=replace(SYNCER, points=68))).set_average_shape, {"shape": torch.rand(68, 2)}
    ),
    "SyncerPyramid.set_lip_leak": Call(
        room.SyncerPyramid(replace(CONFIG, syncer=replace(SYNCER, points=10), region="head", remove_lips=True)).set_lip_leak,
        {"weights": fit_lip_leak(torch.rand(2, 60, 68, 2))},
    ),
    "SyncerPyramid.shortest_clip": Call(PYRAMID.shortest_clip, {"levels": [0, 1]}),
    "SyncerEnsemble": Call(room.SyncerEnsemble, {"config": ENSEMBLE.config, "pyramids": [PYRAMID, PYRAMID]}),
    "SyncerEnsemble.of": Call(room.SyncerEnsemble.of, {"pyramids": [PYRAMID, PYRAMID], "weights": [1.0, 2.0]}),
    "SyncerEnsemble.forward": Call(ENSEMBLE.forward, PAIR),
    "SyncerEnsemble.embed_motion": Call(ENSEMBLE.embed_motion, {k: v for k, v in PAIR.items() if k != "audio"}),
    "SyncerEnsemble.embed_audio": Call(
        ENSEMBLE.embed_audio, {k: v for k, v in PAIR.items() if k in ("audio", "lengths", "levels")}
    ),
    "SyncerEnsemble.shortest_clip": Call(ENSEMBLE.shortest_clip, {"levels": [0, 1]}),
    "AudioPyramid": Call(room.AudioPyramid, {"audio_features": 5, "channels": 4}),
    "AudioPyramid.set_audio_statistics": Call(
        room.AudioPyramid(audio_features=5, channels=4).set_audio_statistics, {"mean": torch.zeros(5), "std": torch.ones(5)}
    ),
    "AudioPyramid.embed_audio": Call(GENERATOR.audio_pyramid.embed_audio, {"audio": SOUND}),
    "AudioPyramid.maps": Call(GENERATOR.audio_pyramid.maps, {"audio": SOUND}),
    "AudioPyramid.forward": Call(GENERATOR.audio_pyramid.forward, {"audio": SOUND}),
    "AudioPyramidStream": Call(AudioPyramidStream, {"pyramid": CAUSAL.audio_pyramid}),
    "AudioPyramidStream.push": Call(pushed, {"audio": SOUND[:, :16]}),
    "GeneratorConfig": Call(room.GeneratorConfig, {}),
    "MultiScaleGenerator": Call(room.MultiScaleGenerator, {"config": GENERATOR.config}),
    "MultiScaleGenerator.set_audio_statistics": Call(
        GENERATOR.set_audio_statistics, {"mean": torch.zeros(5), "std": torch.ones(5)}
    ),
    "MultiScaleGenerator.set_motion_basis": Call(
        GENERATOR.set_motion_basis, {"motions": torch.rand(2, 7, 2), "reach": torch.ones(2)}
    ),
    "MultiScaleGenerator.audio_terms": Call(GENERATOR.audio_terms, {"maps": GENERATOR.audio_pyramid(SOUND)}),
    "MultiScaleGenerator.draw_noise": Call(GENERATOR.draw_noise, {"batch": 2, "frames": 5}),
    "MultiScaleGenerator.draw_state": Call(GENERATOR.draw_state, {"batch": 2}),
    "MultiScaleGenerator.start": Call(GENERATOR.start, {"observed": OBSERVED, "terms": TERMS, "initial_state": STATE}),
    "MultiScaleGenerator.forward": Call(GENERATOR.forward, {"observed": OBSERVED, "audio": SOUND, "initial_state": STATE}),
    "MultiScaleGenerator.generate": Call(GENERATOR.generate, {"face": LANDMARKS[:, 0], "audio": SOUND}),
    "GeneratorStream": Call(room.GeneratorStream, {"network": CAUSAL, "observed": OBSERVED}),
    "GeneratorStream.step": Call(stream, {"audio": SOUND[:, :4]}),
    "Rollout": Call(room.Rollout, {"network": GENERATOR, "observed": OBSERVED, "terms": TERMS, "initial_state": STATE}),
    "Rollout.step": Call(lambda **given: rollout().step(**given), {"term": TERMS[2].detach()}, like=room.Rollout.step),
    "Rollout.restore": Call(rollout().restore, {"state": rollout().state}),
    "export_onnx": Call(
        room.export_onnx, {"model": room.SyncerPyramid(replace(CONFIG, num_levels=1)), "folder": new_folder()}, slow=True
    ),
    "Rollout.faces": Call(rollout().faces, {"displacements": torch.rand(2, 3, 14)}),
    "merge_branches": Call(room.merge_branches, {"velocities": torch.rand(2, 4, 7, 2), "mask_logits": torch.rand(2, 4, 7)}),
    "mirror_audio": Call(room.mirror_audio, {"audio": SOUND, "warm_up": 3}),
    "FrameDiscriminatorConfig": Call(room.FrameDiscriminatorConfig, {}),
    "FrameDiscriminator": Call(room.FrameDiscriminator, {"config": FRAME}),
    "FrameDiscriminator.forward": Call(
        room.FrameDiscriminator(FRAME).forward, {"landmarks": LANDMARKS, "reference": LANDMARKS[:, 0]}
    ),
    "WindowDiscriminatorConfig": Call(room.WindowDiscriminatorConfig, {}),
    **disc(room.WindowDiscriminator),
    **disc(room.PairDiscriminator),
    "MotionAutoencoderConfig": Call(room.MotionAutoencoderConfig, {}),
    "MotionAutoencoder": Call(room.MotionAutoencoder, {"config": AUTOENCODER}),
    "MotionAutoencoder.windows": Call(room.MotionAutoencoder(AUTOENCODER).windows, {"landmarks": MOTION_WINDOWS}),
    "MotionAutoencoder.encode": Call(room.MotionAutoencoder(AUTOENCODER).encode, {"motion": MOTION_WINDOWS}),
    "MotionAutoencoder.decode": Call(
        room.MotionAutoencoder(AUTOENCODER).decode,
        {"code": room.MotionAutoencoder(AUTOENCODER).encode(MOTION_WINDOWS).detach()},
    ),
    "MotionAutoencoder.forward": Call(room.MotionAutoencoder(AUTOENCODER).forward, {"landmarks": MOTION_WINDOWS}),
    "cosine_similarity": Call(room.cosine_similarity, {"motion": M, "audio": A}),
    "half_squared_distance": Call(room.half_squared_distance, {"motion": M, "audio": A}),
    "unit_norm": Call(room.unit_norm, {"embeddings": M}),
}
