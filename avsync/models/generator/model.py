"""Multi-scale autoregressive generator of landmark motion from audio, equations (6)-(8).

The branches of the generator (section 3.2 of the paper) have the same shape and different inputs. The weights of all branches
are one tensor with a leading branch axis (:class:`StackedLinear`), so that a step of the rollout costs one batched product per
layer for any number of branches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsync._checks import (
    at_least_float32,
    check_count,
    check_fields,
    check_finite_values,
    check_floating,
    check_positive,
    check_same_device,
    check_shape,
    check_some_clips,
    checked,
    checked_config,
    describe_shape,
)
from avsync.errors import ArgumentError, ClipTooShortError, ConfigError, ShapeError
from avsync.landmarks.geometry import normalise
from avsync.models.generator.audio_pyramid import AudioPyramid, mirror_audio
from avsync.pretrained import PretrainedModel, added_later
from avsync.pyramid import AUDIO_FRAMES_PER_FRAME, MOST_LEVELS

NOISE_PERIOD = 8
"""Frames between the vectors of the noise, the period of the coarsest audio map (ours)."""


_Products = dict[int, list[tuple[Tensor, Tensor]]]
"""Pairs (gradient of an output, input) by the number of the backward pass that formed them."""


def _backward_pass() -> int:
    return torch._C._current_graph_task_id()  # by which torch.utils.checkpoint separates backward passes


def needs_plain_operations(device: torch.device) -> bool:
    """Return whether code must do without derivatives of its own: in a compiler, under :mod:`torch.func` and autocast."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return True
    return torch.is_autocast_enabled(device.type)


def _sum(first: Tensor | None, second: Tensor) -> Tensor:
    return second if first is None else first + second


class _Collected(torch.autograd.Function):
    """Identity of a weight and a bias, whose backward pass adds the products that :class:`_Applied` has left for it.

    Autograd calls this backward pass after those of all uses of the result.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, products: _Products) -> tuple[Tensor, Tensor]:
        ctx.products = products
        ctx.set_materialize_grads(False)
        return weight.view_as(weight), bias.view_as(bias)

    @staticmethod
    def backward(ctx: Any, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        pairs = ctx.products.pop(_backward_pass(), [])
        if pairs:
            gradients, inputs = (torch.cat(parts, dim=-2) for parts in zip(*pairs, strict=True))
            if ctx.needs_input_grad[0]:
                weight = _sum(weight, gradients.transpose(-1, -2) @ inputs)
            if ctx.needs_input_grad[1]:
                bias = _sum(bias, gradients.sum(dim=-2))
        return weight, bias, None


class _Applied(torch.autograd.Function):
    """Product of an input and a weight, plus the bias or a term."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, term: Tensor | None, products: _Products) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.products = products
        return _product(x, weight, bias if term is None else term)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, of_term, _ = ctx.needs_input_grad
        weight_gradient = bias_gradient = None
        if torch.is_grad_enabled():  # a second derivative may follow
            weight_gradient = gradient.transpose(-1, -2) @ x if of_weight else None
            bias_gradient = gradient.sum(dim=-2) if of_bias else None
        elif of_weight or of_bias:
            ctx.products.setdefault(_backward_pass(), []).append((gradient, x))
        return gradient @ weight if of_x else None, weight_gradient, bias_gradient, gradient if of_term else None, None


def _product(x: Tensor, weight: Tensor, added: Tensor | None) -> Tensor:
    if added is None:
        return x @ weight.transpose(-1, -2)
    if x.ndim == 2:
        return torch.addmm(added, x, weight.t())
    return torch.baddbmm(added[:, None] if added.ndim == 2 else added, x, weight.transpose(1, 2))


class RecurrentLinear:
    r"""Linear map that a recurrence applies at every step; it lives as long as one rollout.

    Automatic differentiation forms one gradient of the weight per step, a product of as few rows as the batch has clips, and
    adds it to the sum of the others. This map keeps the inputs :math:`x_t` and the gradients :math:`g_t` of the outputs
    instead, and forms :math:`\sum_t g_t^T x_t` in one product when the backward pass has reached the first step.

    Derivatives of any order are those of plain automatic differentiation, because a backward pass that is differentiated itself
    uses plain operations. The values are the same to the last bit; the weight gradient is summed in another order.

    Args:
        weight: (out_features, in_features), or (branches, out_features, in_features).
        bias: (out_features,), or (branches, out_features); None for a map whose steps have terms of their own, or nothing to
            add.

    Raises:
        ArgumentError: A step of a map with a bias has a term, too.

    Example:
        >>> weight = torch.tensor([[2.0]], requires_grad=True)
        >>> linear, x = RecurrentLinear(weight, torch.zeros(1)), torch.ones(1, 1)
        >>> for _ in range(3):
        ...     x = linear(x)
        >>> x.item(), torch.autograd.grad(x.sum(), weight)[0].item()  # w^3 and 3 w^2
        (8.0, 12.0)

    Source: ours.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._products: _Products | None = None
        learned = weight.requires_grad or (bias is not None and bias.requires_grad)
        if learned and torch.is_grad_enabled() and not needs_plain_operations(weight.device):
            self._products = {}
            weight, shift = _Collected.apply(weight, weight.new_zeros(()) if bias is None else bias, self._products)
            bias = None if bias is None else shift
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor, term: Tensor | None = None) -> Tensor:
        """Compute ``x W^T``, plus the bias or the term of this step.

        Args:
            x: (rows, in_features), or (branches, rows, in_features).
            term: (rows, out_features), or (branches, rows, out_features); only without a bias.

        Returns:
            (rows, out_features), or (branches, rows, out_features).
        """
        if term is not None and self._bias is not None:
            raise ArgumentError("`term`: expected None, because the map has a bias, got a tensor")
        if self._products is not None:
            return _Applied.apply(x, self._weight, self._bias, term, self._products)
        return _product(x, self._weight, self._bias if term is None else term)


def stacked_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""Apply one linear map per branch, :math:`y_b = x_b W_b^T + c_b`, in one batched product.

    Args:
        x: (branches, rows, in_features).
        weight: (branches, out_features, in_features).
        bias: (branches, out_features), (branches, 1, out_features) or (branches, rows, out_features).

    Returns:
        (branches, rows, out_features).

    Raises:
        ShapeError: The rank is wrong, or the sizes do not match.

    Example:
        >>> x = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
        >>> weight = torch.tensor([[[1.0, 1.0]], [[1.0, -1.0]]])
        >>> stacked_linear(x, weight).flatten().tolist()
        [3.0, -1.0]

    Source: ours.
    """
    check_shape("weight", weight, "branches out_features in_features")
    check_shape("x", x, "branches rows in_features", branches=weight.shape[0], in_features=weight.shape[2])
    if bias is None:
        return torch.bmm(x, weight.transpose(1, 2))
    if bias.ndim == 2:
        bias = bias[:, None]
    return torch.baddbmm(bias, x, weight.transpose(1, 2))


def _uniform(*shape: int, fan_in: int, gain: float = 1.0) -> nn.Parameter:
    bound = gain / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


class StackedLinear(nn.Module):
    """Linear layers of several branches, each with its own input and weights; see :func:`stacked_linear`.

    Args:
        in_features: Input features per branch.
        out_features: Output features per branch.
        branches: Number of branches.
        gain: Factor on the usual range of the initial weights, 1 / sqrt(in_features).

    Raises:
        ArgumentError: A size is not positive.

    Example:
        >>> StackedLinear(in_features=3, out_features=5, branches=4)(torch.zeros(4, 2, 3)).shape
        torch.Size([4, 2, 5])

    Source: ours.
    """

    def __init__(self, *, in_features: int, out_features: int, branches: int, gain: float = 1.0) -> None:
        super().__init__()
        for name, size in (("in_features", in_features), ("out_features", out_features), ("branches", branches)):
            check_positive(name, size)
        self.weight = _uniform(branches, out_features, in_features, fan_in=in_features, gain=gain)
        self.bias = _uniform(branches, out_features, fan_in=in_features, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers: (branches, rows, in_features) -> (branches, rows, out_features)."""
        return stacked_linear(x, self.weight, self.bias)

    def unrolled(self) -> RecurrentLinear:
        """Return the layers as a function that a recurrence calls at every step."""
        return RecurrentLinear(self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the sizes for ``repr``."""
        branches, out_features, in_features = self.weight.shape
        return f"in_features={in_features}, out_features={out_features}, branches={branches}"


def layer_norm(x: Tensor) -> Tensor:
    """Apply LayerNorm over the last axis without an affine part, because the following linear layer can express this part."""
    return F.layer_norm(x, x.shape[-1:])


class StackedPointwiseBlock(nn.Module):
    """ConvNeXt block with kernel 1 for several branches: LayerNorm, pointwise, GELU, pointwise, residual.

    With kernel 1 the depthwise convolution is one scale and shift per channel, and so is the affine part of the LayerNorm. Both
    are left out, because the following pointwise layer can express them (ours).

    Args:
        width: Channels per branch.
        branches: Number of branches.
        expansion: Hidden channels, as a multiple of ``width``.

    Raises:
        ArgumentError: A size is not positive.

    Example:
        >>> StackedPointwiseBlock(width=6, branches=4)(torch.zeros(4, 2, 6)).shape
        torch.Size([4, 2, 6])

    Source: paper, section 3.2 (one fully connected branch per scale); the block from the paper's code; the stacking is ours.
    """

    def __init__(self, *, width: int, branches: int, expansion: int = 4) -> None:
        super().__init__()
        self.expand = StackedLinear(in_features=width, out_features=expansion * width, branches=branches)
        self.project = StackedLinear(in_features=expansion * width, out_features=width, branches=branches)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block: (branches, rows, width) -> (branches, rows, width)."""
        return self.unrolled()(x)

    def unrolled(self) -> Callable[[Tensor], Tensor]:
        """Return the block as a function that a recurrence calls at every step."""
        expand, project = self.expand.unrolled(), self.project.unrolled()
        return lambda x: x + project(F.gelu(expand(layer_norm(x))))


@checked
def merge_branches(velocities: Tensor, mask_logits: Tensor) -> tuple[Tensor, Tensor]:
    r"""Merge the velocities of the branches, equation (8): :math:`v = \sum_b m_b v_b`.

    The masks :math:`m_b` are the softmax of their logits over the branches.

    Args:
        velocities: (branches, batch, points, dims).
        mask_logits: (branches, batch, points); the coordinates of a landmark share a mask.

    Returns:
        The velocity (batch, points, dims) and the mask (branches, batch, points), which sums to 1 over the branches.

    Raises:
        ShapeError: The shapes do not match.

    Example:
        >>> velocities = torch.tensor([2.0, 4.0]).reshape(2, 1, 1, 1)
        >>> merge_branches(velocities, torch.zeros(2, 1, 1))[0].item()
        3.0

    Source: paper, equation (8).
    """
    check_shape("velocities", velocities, "branches batch points dims")
    branches, batch, points, _ = velocities.shape
    check_shape("mask_logits", mask_logits, "branches batch points", branches=branches, batch=batch, points=points)
    mask = at_least_float32(mask_logits).softmax(dim=0)
    return (mask[..., None] * velocities).sum(dim=0), mask


def lstm_update(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the new hidden and cell state of an LSTM from its gates before activation.

    The gates are in the order input, forget, output, cell, so that one sigmoid serves three gates.

    Args:
        gates: (batch, 4 * hidden).
        cell: (batch, hidden).

    Returns:
        Hidden and cell state, (batch, hidden) each, at least float32.

    Raises:
        ShapeError: The sizes do not match.

    Example:
        >>> hidden, cell = lstm_update(torch.zeros(1, 4), torch.ones(1, 1))
        >>> cell.item()
        0.5

    Source: the usual LSTM; the order of the gates is ours.
    """
    check_shape("cell", cell, "batch hidden")
    check_shape("gates", gates, "batch gates", batch=cell.shape[0], gates=4 * cell.shape[1])
    gates = at_least_float32(gates)
    size = cell.shape[-1]
    opening, new = gates.split([3 * size, size], dim=1)  # the gradient of a split is one concatenation
    enter, forget, leave = opening.sigmoid().chunk(3, dim=1)
    cell = torch.addcmul(forget * cell, enter, new.tanh())
    return leave * cell.tanh(), cell


@dataclass(frozen=True)
class GeneratorConfig:
    """Sizes and choices of :class:`MultiScaleGenerator`.

    The paper states neither a number of parameters nor the widths of its layers.

    The LSTM (one layer, 256), the four branches, the rates of the pyramid and the form of the blocks are those of the paper;
    the kernel of 7 and the branch width (twice the 136 coordinates) are those of its code. ``position_embed``,
    ``audio_channels``, ``branch_depth``, ``stem_kernel`` and the two scales are ours.

    Attributes:
        audio_features: Coefficients per audio frame.
        points: Number of points of a face.
        dims: Coordinates per point.
        hidden: Size of the LSTM's state.
        position_embed: Width of the position embedding.
        audio_channels: Channels of every map of the audio pyramid.
        stem_kernel: Taps of the two blocks from 100 Hz to the motion rate.
        kernel_size: Taps of the blocks between the maps.
        num_branches: Number of maps, branches and masks; 1 is the single-scale generator of the ablation, with the finest map
            only.
        branch_width: Channels per branch.
        branch_depth: Pointwise ConvNeXt blocks per branch.
        expansion: Hidden channels of the blocks, as a multiple of ``branch_width``.
        causal: Use no audio after the generated frame.
        initial_state: "random" (standard normal LSTM state) or "zeros".
        displacement_scale: Factor on the displacement from the first observed face, in face heights, for the network input.
        velocity_scale: Velocity for a network output of 1, in face heights per frame.
        motion_components: 0 lets the branches move every coordinate independently, as the paper does. Above 0, the branches
            move this many principal motions of real faces instead (:meth:`MultiScaleGenerator.set_motion_basis`). The output is
            then a face from the first step on and, in eval mode, goes no farther along a principal motion than real faces do.
            Without principal motions, short training runs distort faces (ours).
        motion_leak: Initial share of the distance from a rest position by which a face returns in each frame, along each
            principal motion. The shares and the rest position, a linear function of the first face's embedding, are learned.
            Without a leak, small errors of the velocities add up, and faces drift in long rollouts. 0 for none; requires
            principal motions (ours).
        noise: Channels of the noise that all branches read, for motion that differs between seeds; 0 for none. A vector is
            drawn every ``NOISE_PERIOD`` frames, and the frames between are interpolated linearly (ours).
        style: Channels of noise that keep their value for a whole clip, because people differ more in how much they move than
            one person does from second to second; 0 for none (ours).

    Raises:
        ConfigError: A value is impossible.
    """

    audio_features: int = 26
    points: int = 68
    dims: int = 2
    hidden: int = 256
    position_embed: int = 256
    audio_channels: int = 256
    stem_kernel: int = 5
    kernel_size: int = 7
    num_branches: int = 4
    branch_width: int = 272
    branch_depth: int = 1
    expansion: int = 4
    causal: bool = False
    initial_state: str = "random"
    displacement_scale: float = 8.0
    velocity_scale: float = 0.02
    motion_components: int = 0
    motion_leak: float = added_later(0.0)
    noise: int = added_later(0)
    style: int = added_later(0)

    @property
    def noise_channels(self) -> int:
        """Channels of :meth:`MultiScaleGenerator.draw_noise`: those that change in time, then those of the style."""
        return self.noise + self.style

    def __post_init__(self) -> None:
        check_fields(self)
        if self.num_branches > MOST_LEVELS:
            raise ConfigError(f"`num_branches`: expected 1 to {MOST_LEVELS}, got {self.num_branches}")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                smallest = 0 if field.name in ("branch_depth", "motion_components", "motion_leak", "noise", "style") else 1e-12
                if not smallest <= value < math.inf:  # not isfinite, which whole numbers can be too large for
                    raise ConfigError(f"`{field.name}`: expected a number above 0, got {value!r}")
        for name in ("stem_kernel", "kernel_size"):
            if getattr(self, name) % 2 == 0:
                raise ConfigError(f"`{name}`: expected an odd number, got {getattr(self, name)!r}")
        if self.initial_state not in ("random", "zeros"):
            raise ConfigError(f"`initial_state`: expected 'random' or 'zeros', got {self.initial_state!r}")
        if self.motion_leak >= 1 or (self.motion_leak and not self.motion_components):
            raise ConfigError(
                f"`motion_leak`: expected a share below 1, and 0 without motion_components, got {self.motion_leak!r}"
            )


class GeneratorOutput(NamedTuple):
    """Output of :meth:`MultiScaleGenerator.forward`.

    Attributes:
        landmarks: (batch, frames, points, dims), the generated frames in the unit of the observed ones.
        velocities: (batch, frames, points, dims), v_t = x_t - x_{t-1}, in the same unit per frame.
        masks: (batch, frames, branches, points), equation (8); they sum to 1 over the branches. None without ``return_masks``.
        observed: (batch, n - 1, points, dims), predictions of the observed frames 2 to n, each from the real frames before it.
            None without ``return_observed``.
    """

    landmarks: Tensor
    velocities: Tensor
    masks: Tensor | None
    observed: Tensor | None = None


class StepOutput(NamedTuple):
    """Output of one step of a rollout.

    Attributes:
        displacement: (batch, points * dims), in the unit of the rollout; :meth:`Rollout.faces` converts it to a face.
        velocity: (batch, points, dims), in face heights per frame, divided by ``velocity_scale``.
        mask: (branches, batch, points).
    """

    displacement: Tensor
    velocity: Tensor
    mask: Tensor


class RolloutState(NamedTuple):
    """Tensors that change from step to step of a rollout, to store it or to pass it to another program."""

    hidden: Tensor
    """Hidden state of the LSTM, (batch, hidden)."""
    cell: Tensor
    """Cell state of the LSTM, (batch, hidden)."""
    displacement: Tensor
    """Displacement of the last face from the first, (batch, points * dims), in the unit of the rollout."""
    place: Tensor | None = None
    """Position along each principal motion, (batch, motion_components); None without principal motions."""
    reach: Tensor | None = None
    """Largest position along each principal motion, (batch, motion_components); constant during a rollout."""


class Rollout:
    """State of a rollout: the LSTM state and the displacement of the face from the first observed face.

    :meth:`MultiScaleGenerator.start` creates it. The displacement is kept in face heights times ``displacement_scale``, which
    is what the position embedding reads, and in at least float32, because half precision is not accurate enough for sums of
    small velocities. The first observed face itself enters as a constant term.
    """

    @checked
    def __init__(
        self,
        network: MultiScaleGenerator,
        *,
        observed: Tensor,
        terms: Tensor | None,
        generator: torch.Generator | None,
        initial_state: Tensor | None = None,
        observed_terms: Tensor | None = None,
    ) -> None:
        config = network.config
        check_shape("observed", observed, "batch frames points dims", points=config.points, dims=config.dims)
        check_floating("observed", observed)
        self.batch = observed.shape[0]
        if observed_terms is not None:
            sizes = {"branches": config.num_branches, "batch": self.batch, "width": config.branch_width}
            check_shape("observed_terms", observed_terms, "frames branches batch width", frames=observed.shape[1] - 1, **sizes)
            check_floating("observed_terms", observed_terms)
        self._dtype = network.lstm_weight.dtype
        self._terms = None if terms is None else terms.unbind(0)
        self._scale = config.displacement_scale * config.velocity_scale
        observed = at_least_float32(observed)
        normalised = normalise(observed)
        self.height = normalised.height[:, None, None, None]
        self._first = observed[:, :1]
        self._unit = self.height / config.displacement_scale
        self._identity = network.identity(normalised.landmarks[:, 0].flatten(1).to(network.displacement_weight.dtype))
        self._velocities = (config.num_branches, self.batch, config.points, config.dims)
        self._steps = 0
        self._displace = RecurrentLinear(network.displacement_weight)
        self._gates = RecurrentLinear(network.lstm_weight, network.lstm_bias)
        self._enter = RecurrentLinear(network.enter_weight)
        self._width, self._dtype = config.branch_width, network.enter_weight.dtype
        self._blocks = [block.unrolled() for block in network.branch_blocks()]
        self._head = network.head.unrolled()

        if initial_state is None:
            source = observed.device if generator is None else generator.device
            initial_state = network.draw_state(self.batch, generator=generator, device=source)
        else:
            check_shape("initial_state", initial_state, "states batch hidden", states=2, batch=self.batch, hidden=config.hidden)
        self._hidden, self._cell = initial_state.to(at_least_float32(network.lstm_bias)).unbind(0)
        displacements = ((observed - self._first) / self._unit).flatten(2)
        self._basis: Tensor | None = None
        self._pull: Tensor | None = None
        if network.motion_basis is not None and network.motion_analysis is not None and network.motion_reach is not None:
            # The basis is in units of typical velocities, and so are positions along each motion, and their bounds.
            self._basis, self._analysis = at_least_float32(network.motion_basis), at_least_float32(network.motion_analysis)
            self._place = self._position(displacements[:, -1])
            # Training has no bounds, because a face at a bound has no gradient that moves it back, and the discriminators win.
            # A real face that is already beyond the usual reach keeps its position.
            self._bounded = not network.training
            reach = network.motion_reach if self._bounded else torch.full_like(network.motion_reach, torch.inf)
            self._reach = torch.maximum(reach.expand_as(self._place), self._place.abs())
            if network.leak is not None and network.rest is not None:
                leak = at_least_float32(network.leak).sigmoid()
                self._pull, self._stay = leak * at_least_float32(network.rest(self._identity)), 1 - leak
        predictions = []
        for index, displacement in enumerate(displacements[:, :-1].unbind(1)):
            shared = self._observe(displacement)
            if observed_terms is not None:
                velocity, _ = self._velocity(shared, observed_terms[index])
                if self._basis is not None:
                    velocity = self._within_reach(velocity, self._basis, self._position(displacement))[0]
                predictions.append(torch.add(displacement, velocity.flatten(1), alpha=self._scale))
        self.predictions = torch.stack(predictions, dim=1) if predictions else None
        self._displacement = displacements[:, -1]

    def _position(self, displacement: Tensor) -> Tensor:
        """Compute the position (batch, motion_components) of a displacement along the principal motions."""
        return displacement.to(self._analysis.dtype) @ self._analysis / self._scale

    @property
    def state(self) -> RolloutState:
        """The tensors that change from step to step."""
        motions = () if self._basis is None else (self._place, self._reach)
        return RolloutState(self._hidden, self._cell, self._displacement, *motions)

    @checked
    def restore(self, state: RolloutState) -> None:
        """Continue from the state of another rollout of the same network with the same first face.

        Args:
            state: From :attr:`state`.
        """
        self._hidden, self._cell, self._displacement = state[:3]
        if self._basis is not None and state.place is not None and state.reach is not None:
            self._place, self._reach = state.place, state.reach

    def _observe(self, displacement: Tensor) -> Tensor:
        dtype = self._dtype
        position = F.gelu(self._displace(displacement.to(dtype), self._identity)).to(dtype)
        gates = self._gates(torch.cat([position, self._hidden.to(dtype)], dim=1))
        self._hidden, self._cell = lstm_update(gates, self._cell)
        return torch.cat([self._hidden.to(dtype), position], dim=1)

    @checked
    def step(self, term: Tensor | None = None) -> StepOutput:
        """Generate the next frame, equations (6)-(8).

        Args:
            term: (branches, batch, branch_width), the audio's part of the branches' first layer; None if the rollout was
                started with the terms of all frames.

        Returns:
            The new displacement, its velocity and the mask.

        Raises:
            ArgumentError: No term was passed here or at the start, or the terms passed at the start are used up.
        """
        if term is None:
            if self._terms is None or self._steps >= len(self._terms):
                raise ArgumentError(
                    "`term`: expected the audio's part of this step, because the rollout has none (left), got None"
                )
            term = self._terms[self._steps]
        else:
            branches, width = self._velocities[0], self._width
            check_shape("term", term, "branches batch branch_width", branches=branches, batch=self.batch, branch_width=width)
            check_floating("term", term)
            term = term.to(self._dtype)
        velocity, mask = self._velocity(self._observe(self._displacement), term)
        if self._basis is not None:
            velocity, self._place = self._within_reach(velocity, self._basis, self._place)
        self._displacement = torch.add(self._displacement, velocity.flatten(1), alpha=self._scale)
        self._steps += 1
        return StepOutput(self._displacement, velocity, mask)

    def _velocity(self, shared: Tensor, term: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the merged velocity (batch, points, dims) and the mask of the branches, equation (8)."""
        x = self._enter(shared.expand(len(term), -1, -1), term)
        for block in self._blocks:
            x = block(x)
        outputs = self._head(layer_norm(x))
        points = self._velocities[2]
        velocities, logits = outputs.split([outputs.shape[-1] - points, points], dim=-1)
        if self._basis is not None:
            velocities = velocities.to(self._basis.dtype) @ self._basis
        return merge_branches(velocities.reshape(self._velocities), logits)

    def _within_reach(self, velocity: Tensor, basis: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Project a velocity (batch, points, dims) onto the principal motions, add the leak, and limit it to their reach.

        Masks differ between landmarks, so the merged velocity may distort a face although no branch does; and sums of
        velocities may exceed the range of real faces.

        Returns:
            The velocity, and the position along the principal motions after it, (batch, motion_components).
        """
        change = velocity.flatten(1).to(basis.dtype) @ self._analysis
        # With a leak: before + change + leak * (rest - before), in two operations.
        place = before + change if self._pull is None else torch.addcmul(change + self._pull, before, self._stay)
        if self._bounded:
            place = torch.minimum(torch.maximum(place, -self._reach), self._reach)
        return ((place - before) @ basis).view_as(velocity), place

    @checked
    def faces(self, displacements: Tensor) -> Tensor:
        """Convert displacements (batch, frames, points * dims) to faces (batch, frames, points, dims) in the input unit."""
        _, _, points, dims = self._first.shape
        check_shape("displacements", displacements, "batch frames values", batch=self.batch, values=points * dims)
        return torch.addcmul(self._first, self._unit, displacements.unflatten(2, self._first.shape[2:]))


def _invert_basis(generator: MultiScaleGenerator, *_: object) -> None:
    """Compute the pseudo-inverse of the principal motions after they are set or loaded."""
    if generator.motion_basis is not None and generator.motion_analysis is not None:
        generator.motion_analysis.copy_(torch.linalg.pinv(at_least_float32(generator.motion_basis)))


class MultiScaleGenerator(PretrainedModel):
    """Generator of landmark motion from audio at several rates: equations (6)-(8).

    An LSTM reads the faces so far. Its output and the embedding of the last face go to every branch, together with the branch's
    own audio vector for the next frame (map i of the :class:`~avsync.models.generator.audio_pyramid.AudioPyramid` for branch
    i). The branches are independent stacks of pointwise blocks, and a mask learned for each landmark merges their velocities.

    The network sees displacements from the first observed face in heights of that face and, once, that face itself. The output
    has the unit of the input, and the observed frames never move. Landmarks and audio of any floating-point dtype are accepted;
    the output is in at least float32.

    The default sizes have 6.1 million parameters with four branches (2.1 of them in the audio pyramid) and 1.7 million with one
    branch (0.3). For an ablation at equal size, ``num_branches=1, branch_width=749`` also has 6.1 million. The paper states no
    number of parameters.

    Args:
        config: Sizes and choices; the defaults if None.

    Raises:
        ArgumentError: ``config`` is of another class.

    Example:
        >>> generator = MultiScaleGenerator(GeneratorConfig(hidden=8, position_embed=8, audio_channels=8, branch_width=8))
        >>> observed, audio = torch.rand(2, 3, 68, 2), torch.zeros(2, 4 * 10, 26)
        >>> generator(observed, audio).landmarks.shape
        torch.Size([2, 7, 68, 2])

    Source: paper, section 3.2.
    """

    config_class = GeneratorConfig

    def __init__(self, config: GeneratorConfig | None = None) -> None:
        super().__init__()
        self.config = config = checked_config(config, GeneratorConfig)
        coordinates = config.points * config.dims
        branches, width = config.num_branches, config.branch_width
        self.audio_pyramid = AudioPyramid(
            audio_features=config.audio_features,
            channels=config.audio_channels,
            levels=branches,
            stem_kernel=config.stem_kernel,
            kernel_size=config.kernel_size,
            causal=config.causal,
        )
        self.identity = nn.Linear(coordinates, config.position_embed)
        self.displacement_weight = nn.Parameter(torch.empty(config.position_embed, coordinates))
        self.lstm_weight = nn.Parameter(torch.empty(4 * config.hidden, config.position_embed + config.hidden))
        self.lstm_bias = nn.Parameter(torch.empty(4 * config.hidden))
        self.audio_entry = StackedLinear(in_features=config.audio_channels, out_features=width, branches=branches)
        self.enter_weight = nn.Parameter(torch.empty(branches, width, config.hidden + config.position_embed))
        self.blocks = nn.ModuleList(
            StackedPointwiseBlock(width=width, branches=branches, expansion=config.expansion)
            for _ in range(config.branch_depth)
        )
        moved = config.motion_components or coordinates
        self.head = StackedLinear(in_features=width, out_features=moved + config.points, branches=branches, gain=0.05)
        self.motion_basis: Tensor | None
        self.motion_reach: Tensor | None
        basis, reach = torch.empty(config.motion_components, coordinates), torch.full((config.motion_components,), math.inf)
        self.register_buffer("motion_basis", nn.init.orthogonal_(basis) if config.motion_components else None)
        self.register_buffer("motion_reach", reach if config.motion_components else None)
        # The inverse of the basis is stored, because computing it in a forward pass would stall a GPU.
        self.motion_analysis: Tensor | None
        self.register_buffer("motion_analysis", basis.t().clone() if config.motion_components else None, persistent=False)
        self.register_load_state_dict_post_hook(_invert_basis)
        self.leak: nn.Parameter | None = None
        self.rest: nn.Linear | None = None
        if config.motion_leak:
            logit = math.log(config.motion_leak / (1 - config.motion_leak))
            self.leak = nn.Parameter(torch.full((config.motion_components,), logit))
            self.rest = nn.Linear(config.position_embed, config.motion_components)
            for parameter in self.rest.parameters():
                nn.init.zeros_(parameter)
        self.noise_entry: StackedLinear | None = None
        if config.noise_channels:
            self.noise_entry = StackedLinear(in_features=config.noise_channels, out_features=width, branches=branches)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for weight, fan_in in (
            (self.displacement_weight, self.displacement_weight.shape[1]),
            (self.lstm_weight, self.config.hidden),
            (self.lstm_bias, self.config.hidden),
            (self.enter_weight, self.enter_weight.shape[2]),
        ):
            nn.init.uniform_(weight, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    @property
    def look_ahead(self) -> int:
        """Number of motion frames of future audio on which a frame depends: 29 at the default sizes, 0 if causal."""
        return self.audio_pyramid.look_ahead

    def branch_blocks(self) -> list[StackedPointwiseBlock]:
        """Return the pointwise blocks of the branches, in order."""
        return list(self.blocks)  # type: ignore[arg-type]

    @checked
    def set_audio_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set the mean and the standard deviation (coeffs,) of the audio features; they are saved with the weights."""
        self.audio_pyramid.set_audio_statistics(mean, std)

    @checked
    def set_motion_basis(self, motions: Tensor, reach: Tensor) -> None:
        """Set the principal motions found by :func:`avsync.landmarks.principal_motions.principal_motions`.

        Args:
            motions: (motion_components, points, dims), in face heights per frame; saved with the weights.
            reach: (motion_components,), largest displacement from the first observed face along each motion, as a multiple of
                the motion. The limit applies in eval mode only.

        Raises:
            ArgumentError: The generator was built with ``motion_components=0``.
            ShapeError: The motions, points or dims differ from the configuration.
        """
        config = self.config
        if self.motion_basis is None or self.motion_reach is None:
            raise ArgumentError("`motions`: expected a generator with motion_components above 0, got one with 0")
        sizes = {"components": config.motion_components, "points": config.points, "dims": config.dims}
        check_shape("motions", motions, "components points dims", **sizes)
        check_shape("reach", reach, "components", components=config.motion_components)
        check_finite_values("motions", motions)
        self.motion_basis.copy_(motions.flatten(1) / config.velocity_scale)
        self.motion_reach.copy_(reach)
        _invert_basis(self)

    @checked
    def audio_terms(self, maps: Tensor, noise: Tensor | None = None) -> Tensor:
        """Compute the part of audio and noise in the branches' first layer, for all frames in one product.

        Args:
            maps: (branches, batch, frames, channels), from the audio pyramid.
            noise: (batch, frames, noise + style) from :meth:`draw_noise`; None for a generator without noise.

        Returns:
            (frames, branches, batch, branch_width).

        Raises:
            ShapeError: The noise does not match the maps.
            ArgumentError: The generator reads noise and got none.
        """
        sizes = {"branches": self.config.num_branches, "channels": self.config.audio_channels}
        check_shape("maps", maps, "branches batch frames channels", **sizes)
        check_floating("maps", maps)
        branches, batch, frames, _ = maps.shape
        if 0 in (batch, frames):
            raise ShapeError(f"`maps`: expected at least 1 clip of 1 frame, got {tuple(maps.shape)}")
        terms = self.audio_entry(maps.to(self.enter_weight.dtype).flatten(1, 2))
        if self.noise_entry is not None:
            if noise is None:
                raise ArgumentError("`noise`: expected noise from draw_noise, because the generator reads it, got None")
            check_shape("noise", noise, "batch frames noise", batch=batch, frames=frames, noise=self.config.noise_channels)
            rows = noise.flatten(0, 1).to(terms.dtype).expand(branches, -1, -1)
            terms = terms + self.noise_entry(rows)
        return terms.view(branches, batch, frames, -1).permute(2, 0, 1, 3)

    @checked
    def draw_noise(
        self,
        batch: int,
        frames: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw the noise of a rollout: a vector every ``NOISE_PERIOD`` frames, interpolated linearly between them, and a style.

        Args:
            batch: Number of clips.
            frames: Number of generated frames.
            generator: Random generator; torch's default if None.
            device: Device of the generator and of the result.

        Returns:
            (batch, frames, noise + style), float32; no channels for a generator without noise.
        """
        check_count("batch", batch)
        check_count("frames", frames)

        def draw(channels: int) -> Tensor:
            return torch.randn(batch, channels, generator=generator, device=device)

        # The style first and one knot at a time, so that a stream, which does not know its length, draws the same numbers.
        style = draw(self.config.style)[:, None].expand(-1, frames, -1)
        if not self.config.noise:
            return style
        drawn = torch.stack([draw(self.config.noise) for _ in range(frames // NOISE_PERIOD + 2)], dim=1)
        fraction = torch.arange(NOISE_PERIOD, device=device)[:, None] / NOISE_PERIOD
        between = torch.lerp(drawn[:, :-1, None], drawn[:, 1:, None], fraction).flatten(1, 2)[:, :frames]
        return torch.cat([between, style], dim=2)

    @checked
    def draw_state(
        self, batch: int, *, generator: torch.Generator | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Draw the initial hidden and cell state of the LSTM; zeros if so configured.

        Args:
            batch: Number of clips.
            generator: Random generator; torch's default if None.
            device: Device of the generator and of the result.

        Returns:
            (2, batch, hidden), float32.
        """
        check_count("batch", batch)
        if self.config.initial_state != "random":
            return torch.zeros(2, batch, self.config.hidden, device=device)
        return torch.randn(2, batch, self.config.hidden, generator=generator, device=device)

    @checked
    def start(
        self,
        observed: Tensor,
        terms: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        initial_state: Tensor | None = None,
        observed_terms: Tensor | None = None,
    ) -> Rollout:
        """Begin a rollout by reading the observed frames.

        Args:
            observed: (batch, n, points, dims), any unit.
            terms: (frames, branches, batch, branch_width) from :meth:`audio_terms` for the frames to generate; None if each
                step gets its own term.
            generator: Random generator for the initial state; torch's default if None.
            initial_state: (2, batch, hidden) from :meth:`draw_state`; drawn from ``generator`` if None.
            observed_terms: (n - 1, branches, batch, branch_width) from :meth:`audio_terms` for the observed frames 2 to n; the
                rollout then holds its predictions of these frames.

        Returns:
            The rollout, before its first generated frame.

        Raises:
            ShapeError: The points or dims differ from the configuration, or there is no clip or no frame.
            ArgumentError: The observed frames and the model are not on one device.
        """
        check_shape("observed", observed, "batch frames points dims", points=self.config.points, dims=self.config.dims)
        check_floating("observed", observed)
        check_some_clips("observed", observed)
        check_same_device("observed", observed, self.lstm_bias.device, "the model")
        if observed.shape[1] == 0:
            raise ClipTooShortError(f"`observed`: expected at least 1 frame, got {describe_shape(observed)}")
        return Rollout(
            self,
            observed=observed,
            terms=terms,
            generator=generator,
            initial_state=initial_state,
            observed_terms=observed_terms,
        )

    @checked
    def forward(
        self,
        observed: Tensor,
        audio: Tensor,
        *,
        generator: torch.Generator | None = None,
        initial_state: Tensor | None = None,
        noise: Tensor | None = None,
        return_masks: bool = False,
        return_observed: bool = False,
    ) -> GeneratorOutput:
        """Continue the observed frames to the end of the audio.

        Args:
            observed: (batch, n, points, dims), any unit; n = 3 in the paper's training.
            audio: (batch, 4 * T, coeffs), the audio of the n observed and the T - n generated frames.
            generator: Random generator for the initial state; torch's default if None.
            initial_state: (2, batch, hidden) from :meth:`draw_state`; drawn from ``generator`` if None. It is required in a
                CUDA graph.
            noise: (batch, T - n, noise + style) from :meth:`draw_noise`; drawn from ``generator`` if None. It is required in a
                CUDA graph, if the generator reads noise.
            return_masks: Return the masks of equation (8).
            return_observed: Return predictions of the observed frames 2 to n, for the reconstruction loss.

        Returns:
            Landmarks and velocities (batch, T - n, points, dims), the masks (batch, T - n, branches, points) or None, and the
                predictions of the observed frames or None.

        Raises:
            ShapeError: The rank, points, dims or coefficients are wrong, or the batches differ or are empty.
            ClipTooShortError: The audio ends with the observed frames or before.
            ArgumentError: Landmarks, audio and the model are not on one device.
        """
        check_shape("observed", observed, "batch frames points dims", points=self.config.points, dims=self.config.dims)
        check_shape("audio", audio, "batch audio_frames coeffs", batch=observed.shape[0], coeffs=self.config.audio_features)
        check_same_device("audio", audio, self.lstm_bias.device, "the model")
        check_some_clips("observed", observed)
        seen = observed.shape[1]
        if audio.shape[1] < AUDIO_FRAMES_PER_FRAME * (seen + 1):
            raise ClipTooShortError(
                f"`audio`: expected at least {AUDIO_FRAMES_PER_FRAME * (seen + 1)} audio frames "
                f"(4 for each of {seen} observed frames and one to generate), got {describe_shape(audio)}"
            )
        batch, frames = observed.shape[0], audio.shape[1] // AUDIO_FRAMES_PER_FRAME - seen
        source = observed.device if generator is None else generator.device
        if initial_state is None:
            initial_state = self.draw_state(batch, generator=generator, device=source)
        if noise is None:
            noise = self.draw_noise(batch, frames, generator=generator, device=source)
        noise = noise.to(observed.device)
        maps = self.audio_pyramid(audio)
        terms = self.audio_terms(maps[:, :, seen:], noise)
        before = None
        if return_observed:
            before = self.audio_terms(maps[:, :, 1:seen], noise.new_zeros(batch, seen - 1, self.config.noise_channels))
        rollout = self.start(observed, terms, initial_state=initial_state, observed_terms=before)
        steps = [rollout.step() for _ in range(terms.shape[0])]
        velocities = torch.stack([step.velocity for step in steps], dim=1)
        return GeneratorOutput(
            rollout.faces(torch.stack([step.displacement for step in steps], dim=1)),
            velocities * (rollout.height * self.config.velocity_scale),
            torch.stack([step.mask for step in steps], dim=1).permute(2, 1, 0, 3) if return_masks else None,
            None if rollout.predictions is None else rollout.faces(rollout.predictions),
        )

    @checked
    def generate(
        self,
        face: Tensor,
        audio: Tensor,
        *,
        warm_up: int = 3,
        generator: torch.Generator | None = None,
        return_masks: bool = False,
    ) -> GeneratorOutput:
        """Animate one face at test time.

        The observed frames are ``warm_up`` repetitions of the face; their audio is the beginning of ``audio``, mirrored. The
        face stands before the first frame of the audio, so T audio frames give T generated frames (ours); in the paper's code
        the face is frame 0 itself, and T - 1 frames are generated.

        Args:
            face: (batch, points, dims), any unit.
            audio: (batch, 4 * T, coeffs), of any length.
            warm_up: Repetitions of the face.
            generator: Random generator for the initial state; torch's default if None.
            return_masks: Return the masks of equation (8).

        Returns:
            T generated frames; see :meth:`forward`.

        Raises:
            ShapeError: See :meth:`forward`.
            ArgumentError: ``warm_up`` is below 1.
        """
        check_shape("face", face, "batch points dims", points=self.config.points, dims=self.config.dims)
        check_positive("warm_up", warm_up)
        observed = face[:, None].expand(-1, warm_up, -1, -1)
        return self(observed, mirror_audio(audio, warm_up), generator=generator, return_masks=return_masks)
