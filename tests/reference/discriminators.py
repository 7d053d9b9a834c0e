"""Slow, obvious window scores: window by window, with torch's own LSTM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avsync.models.discriminators import PairDiscriminator, WindowDiscriminator


def torch_lstm(network: WindowDiscriminator | PairDiscriminator) -> nn.LSTM:
    """The discriminator's LSTM as an ``nn.LSTM``."""
    lstm = nn.LSTM(network.config.embed, network.config.hidden, dtype=network.head.beta.dtype)
    exchange = torch.cat([torch.arange(network.config.hidden) + network.config.hidden * gate for gate in (0, 1, 3, 2)])
    weights = {"weight_ih": network.lstm.gates.weight, "weight_hh": network.lstm.recurrent, "bias_ih": network.lstm.gates.bias}
    lstm.load_state_dict(
        {f"{name}_l0": weight.detach()[exchange] for name, weight in weights.items()}
        | {"bias_hh_l0": torch.zeros_like(network.lstm.gates.bias)}
    )
    return lstm


def window_logits(
    network: WindowDiscriminator | PairDiscriminator, observed: Tensor, landmarks: Tensor, *, pairs: bool
) -> Tensor:
    """Logits of ``network`` in eval mode, one window of one sample at a time."""
    lstm, head = torch_lstm(network), network.head
    batch, seen, frames = observed.shape[0], observed.shape[1], landmarks.shape[1]
    states, conditions = {}, []
    for sample in range(batch):
        clip = torch.cat([observed[sample], landmarks[sample]])
        centre = clip[0].mean(dim=0)
        height = clip[0, :, 1].max() - clip[0, :, 1].min()
        inputs = []
        first = before = (clip[0] - centre) / height
        for face in clip:
            x = (face - centre) / height
            displacement = network.config.displacement_scale * (x - first)
            velocity = network.config.velocity_scale * (x - before)
            inputs.append(torch.cat([x.flatten(), displacement.flatten(), velocity.flatten()]))
            before = x
        embedded = network.embedding(torch.stack(inputs))
        conditions.append(lstm(embedded[:seen, None])[1][0][0, 0])
        for window in network.config.windows:
            stride = window // 2
            start = max(-seen, stride - window)
            while start + window <= frames:
                states[sample, window, start] = lstm(embedded[seen + start : seen + start + window, None])[1][0][0, 0]
                start += stride
    logits = []
    for sample in range(batch // 2 if pairs else batch):
        partner = sample + batch // 2 if pairs else sample
        y = torch.maximum(conditions[sample], conditions[partner])
        means = []
        for window in network.config.windows:
            scores = []
            for (who, length, start), state in states.items():
                if who != sample or length != window:
                    continue
                phi = head.phi(torch.maximum(state, states[partner, length, start])).relu()
                projection = max(start, 1) ** (-1 / head.beta) * (y @ head.value(phi))
                scores.append(head.score(projection + head.psi(phi).relu()))
            if scores:
                means.append(torch.stack(scores).mean())
        logits.append(torch.stack(means).mean())
    return torch.stack(logits)
