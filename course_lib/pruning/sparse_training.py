"""Training with few weights from the first step to the last, while the mask moves.

Every so many optimizer steps a network drops some of its weights and grows as many elsewhere. The
methods differ in three answers, which are three functions here: which weights ``drop``, how many
each layer gets back (``share``), and where they ``grow``.

========  ====================================  =====================  =========================
method    drop                                  share                  grow
========  ====================================  =====================  =========================
SET       smallest of each sign, by layer       as dropped             at random
DSR       all below one adaptive threshold      by surviving weights   at random, not just dropped
SNFS      smallest, by layer                    by mean momentum       by momentum
RigL      smallest, by layer                    as dropped             by dense gradient
========  ====================================  =====================  =========================

``rewire`` lets an optimizer do it while ``training.fit`` trains one network or a stack of them. A
``Method`` says how: ``STATIC``, ``SET``, ``RIGL``, ``SNFS``, or what ``dsr`` makes.
A start: ``allocate.per_layer(criteria.random(net, seed=0), allocate.erdos_renyi(shapes, sparsity))``.

The masks *simulate* sparse training: weights, gradients and momentum are stored and multiplied
densely. ``training_macs`` counts what an implementation that skips zeros would have to do.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib import ensemble
from course_lib.handles import Handle
from course_lib.pruning.counting import check_sparsity, keep_top, whole_numbers
from course_lib.pruning.masks import Masks, hold, step_skipped
from course_lib.training import check_counts


class State(NamedTuple):
    """What a step may look at: one network in the middle of its training, name -> (*shape)."""

    weights: Mapping[str, Tensor]
    masks: Masks
    gradients: Mapping[str, Tensor]  # dense: of inactive weights too
    momenta: Mapping[str, Tensor]  # SGD's; empty where the optimizer has none
    generator: torch.Generator  # the network's own


Step = Callable[[State, float], Masks]  # (network, fraction to drop) -> its new masks


class Method(NamedTuple):
    """How masks move."""

    step: Step
    keeps_momentum: bool = False  # whether a grown weight starts with the momentum it has


def drop_and_grow(weight: Tensor, mask: Tensor, count: int, grow_score: Tensor) -> Tensor:
    r"""Drop the ``count`` smallest active weights, grow the ``count`` free positions with the highest
    score. With :math:`k` = ``count`` and the dense gradient's magnitude as the score this is RigL's

    .. math:: \mathrm{ArgTopK}(-|\theta^l|,\, k)
              \quad\text{and}\quad
              \mathrm{ArgTopK}_{i \notin \theta^l \setminus \mathbb{I}_{active}}
              (|\nabla_{\Theta^l} L_t|,\, k)

    What was just dropped is free: it may come back, and then keeps its value. (Here the set in
    the second index is what remains active after the drop.)

    Source: Evci et al. 2020, section 3, (3) and (4), read in the paper's text.

    Args:
        weight, mask, grow_score: (*shape); mask True = active.

    Returns:
        The new mask, (*shape), with as many True as ``mask``.

    Raises:
        ValueError: shapes that differ, a count that is negative or above the active weights, NaN.
        TypeError: a mask that is not bool.
    """
    return grow(drop(weight, mask, count), count, grow_score)


def drop(weight: Tensor, mask: Tensor, count: int) -> Tensor:
    """The mask without its ``count`` smallest active weights in magnitude; of equals the later go."""
    _check(weight, mask, "weight")
    left = _check_count(count, int(mask.sum()), "active weights")
    kept = mask.clone()
    kept[mask] = keep_top(weight[mask].abs(), left)
    return kept


def drop_each_sign(weight: Tensor, mask: Tensor, fraction: float) -> Tensor:
    """The mask without a fraction of the smallest positive and of the largest negative weights: each
    sign loses ``int(fraction * its number)``. An active weight of zero counts as positive.

    Source: Mocanu et al. 2018, "a fraction ζ of the smallest positive weights and of the largest
    negative weights" (read there). The authors' code drops one positive weight more, and all
    active weights that are zero on top.
    """
    _check(weight, mask, "weight")
    negative, kept = mask & (weight < 0), torch.zeros_like(mask)
    for part in (negative, mask & ~negative):
        kept |= drop(weight, part, _part(fraction, part))
    return kept


def grow(mask: Tensor, count: int, score: Tensor) -> Tensor:
    """The mask with ``count`` more: the inactive positions of the highest score; of equals the
    earlier."""
    _check(score, mask, "score")
    _check_count(count, int((~mask).sum()), "free positions")
    grown = mask.clone()
    grown[~mask] = keep_top(score[~mask], count)
    return grown


def share(total: int, merit: Mapping[str, float], room: Mapping[str, int]) -> dict[str, int]:
    """``total`` new weights over the layers, in proportion to their merit.

    A layer without enough room is filled, and the others share the rest. Whole numbers by largest
    remainder, so that they add up exactly.

    Raises:
        ValueError: less room than ``total``, other layers in ``room``, a merit that is negative or
            not finite.
    """
    if merit.keys() != room.keys() or any(not 0 <= m < math.inf for m in merit.values()):
        raise ValueError(f"merit must be finite and >= 0, for {sorted(room)}, got {dict(merit)}")
    if not 0 <= total <= sum(room.values()):
        raise ValueError(f"total must be between 0 and {sum(room.values())}, the room, got {total}")
    full: dict[str, int] = {}
    while True:
        claims = {n: m for n, m in merit.items() if n not in full}
        if not sum(claims.values()):
            claims = {n: room[n] for n in claims}  # where none has any merit, by room
        rest, whole = total - sum(full.values()), sum(claims.values()) or 1
        parts = {n: rest * claim / whole for n, claim in claims.items()}
        over = {n: room[n] for n, part in parts.items() if part > room[n]}
        if not over:
            shares = full | whole_numbers(parts, rest)
            return {n: shares[n] for n in merit}
        full |= over


def static_step(state: State, fraction: float) -> Masks:
    """The control: the mask stays as it is."""
    return state.masks


def set_step(state: State, fraction: float) -> Masks:
    """Sparse evolutionary training: drop the smallest of each sign, grow as many at random.

    Source: Mocanu et al. 2018 (text read). There once an epoch, with a constant fraction ζ, and
    without regrowth after the last epoch.
    """
    kept = {n: drop_each_sign(state.weights[n], m, fraction) for n, m in state.masks.items()}
    back = {n: int(m.sum() - kept[n].sum()) for n, m in state.masks.items()}
    return {n: grow(k, back[n], _random(k, state.generator)) for n, k in kept.items()}


def rigl_step(state: State, fraction: float) -> Masks:
    """RigL: drop the smallest, grow where the loss's gradient is largest.

    Source: Evci et al. 2020, algorithm 1 (text read); ``int(fraction * active)`` per layer, as in
    the authors' code.

    Raises:
        ValueError: a masked weight without a gradient.
    """
    for name in state.masks:
        if name not in state.gradients:
            raise ValueError(
                f"model must have a gradient of every masked weight, {name!r} has none"
            )
    return {
        n: drop_and_grow(state.weights[n], m, _part(fraction, m), state.gradients[n].abs())
        for n, m in state.masks.items()
    }


def snfs_step(state: State, fraction: float) -> Masks:
    r"""Sparse momentum: drop the smallest, share what went by the layers' mean momentum, grow where
    the momentum is largest.

    .. math:: \frac{\bar m_l}{\sum_k \bar m_k} \text{ goes to layer } l, \qquad
              \bar m_l = \operatorname{mean}_{i \text{ active}} |m_{l,i}|

    Source: Dettmers & Zettlemoyer 2019 (abstract and introduction read; details from the authors'
    code, which besides spares layers that are nearly dense and fills none above 99 %).

    Raises:
        ValueError: the optimizer keeps no momentum.
    """
    if state.momenta.keys() != state.masks.keys():
        raise ValueError("optimizer must be SGD with momentum for SNFS, got one without")
    size = {n: state.momenta[n].abs() for n in state.masks}
    merit = {n: float(size[n][m].mean()) if m.any() else 0.0 for n, m in state.masks.items()}
    kept = {n: drop(state.weights[n], m, _part(fraction, m)) for n, m in state.masks.items()}
    total = sum(_part(fraction, m) for m in state.masks.values())
    back = share(total, merit, {n: int((~k).sum()) for n, k in kept.items()})
    return {n: grow(k, back[n], size[n]) for n, k in kept.items()}


def dsr(target: int, threshold: float = 1e-3) -> Method:
    """Dynamic sparse reparameterization: a method with a memory, its threshold; one per network.

    All active weights below the threshold go, in whatever layer (the largest of a layer stays); then
    ``adapt`` moves the threshold for the next time. As many grow at random, shared in proportion to
    the weights that survived in each layer. What was just dropped returns only to a layer that has
    no other place.

    Source: Mostafa & Wang 2019 (the authors' code read, not the paper's text).

    Args:
        target: about how many weights should go each time. The fraction of ``rewire`` only says when.
        threshold: the first one.

    Raises:
        ValueError: a target or threshold that is not positive.
    """
    check_counts(target=target)
    if not 0 < threshold < math.inf:
        raise ValueError(f"threshold must be positive and finite, got {threshold!r}")

    def step(state: State, fraction: float) -> Masks:
        nonlocal threshold
        gone = {
            n: int((state.weights[n][m].abs() < threshold).sum()) for n, m in state.masks.items()
        }
        gone = {n: min(gone[n], max(int(m.sum()) - 1, 0)) for n, m in state.masks.items()}
        kept = {n: drop(state.weights[n], m, gone[n]) for n, m in state.masks.items()}
        total = sum(gone.values())
        threshold = adapt(threshold, total, target)
        survivors = {n: int(k.sum()) for n, k in kept.items()}
        back = share(total, survivors, {n: int((~k).sum()) for n, k in kept.items()})
        score = {n: _random(m, state.generator).masked_fill(m, -1) for n, m in state.masks.items()}
        return {n: grow(k, back[n], score[n]) for n, k in kept.items()}

    return Method(step)


STATIC = Method(static_step)
SET = Method(set_step)
RIGL = Method(rigl_step)
SNFS = Method(snfs_step, keeps_momentum=True)  # it grows a weight because of its momentum


def adapt(threshold: float, dropped: int, target: int) -> float:
    """DSR's next threshold: half after more than 1.1 times the target went, double after less than
    0.9 times (the authors' code)."""
    if dropped > 1.1 * target:
        return threshold / 2
    return threshold * 2 if dropped < 0.9 * target else threshold


def cosine(alpha: float, end: int, *, every: int = 100) -> Callable[[int], float]:
    r"""Step -> fraction to drop at every ``every``-th step before step ``end``; 0, no move, elsewhere.

    .. math:: f_{decay}(t; \alpha, T_{end}) =
              \frac{\alpha}{2} \left(1 + \cos \frac{t \pi}{T_{end}}\right)

    Source: Evci et al. 2020, section 3, (2), read in the paper's text.

    Raises:
        ValueError: ``alpha`` outside [0, 1], ``end`` or ``every`` below 1. TypeError: no number.
    """
    alpha = check_sparsity("alpha", alpha)
    check_counts(end=end, every=every)

    def fraction(t: int) -> float:
        moves = t % every == 0 and t < end
        return alpha / 2 * (1 + math.cos(t * math.pi / end)) if moves else 0.0

    return fraction


def rewire(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    masks: Masks,
    methods: Method | Sequence[Method],
    *,
    fraction: Callable[[int], float],
    seed: int = 0,
) -> Handle:
    """Hold the masks while ``optimizer`` trains, and move them now and then.

    As in RigL's algorithm 1 the move takes the place of the optimizer's step, for all members of a
    stack alike, under ``step(closure)`` too (the closure runs once and gives the gradients). New
    weights start at zero and without momentum, unless the method keeps it. A step that a
    ``GradScaler`` skips is no move either.

    Args:
        optimizer: SGD, or another whose state has the parameters' shapes.
        masks: parameter name -> (*shape), or (K, *shape) for a stack, on the model's device. Kept up
            to date in place.
        methods: a method, such as ``RIGL``; for a stack one per member.
        fraction: number of the optimizer's step, from 1 on -> fraction to drop, such as ``cosine``.
            Where it is 0, nothing moves.
        seed: of the random growth; each member draws from a stream of its own.

    Returns:
        A handle; ``handle.remove()`` ends the moves and lets the weights go. To end the moves only,
        hold ``masks`` (``masks.hold``) afterwards.

    Raises:
        ValueError, TypeError: as ``masks.hold``; not one method per network; a frozen weight, which
            has no gradient; LBFGS, whose memory is not one of single weights.
    """
    methods = [methods] if isinstance(methods, Method) else list(methods)
    _check_rewire(optimizer, model, masks, methods)
    hold(optimizer, model, masks).remove()  # its checks, and zeros from the start
    parameters, t = {n: model.get_parameter(n) for n in masks}, 0
    keep = {n: m.to(parameters[n]) for n, m in masks.items()}  # 0 and 1
    # Far from the small seeds of ``criteria.random``: a mask drawn from the same numbers would grow
    # where it has just dropped.
    seeds = [2**31 + 1000 * seed + k for k in range(len(methods))]
    streams = [torch.Generator().manual_seed(s) for s in seeds]

    def move(_: object, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        nonlocal t
        t += 1
        if not (drops := check_sparsity("fraction's value", fraction(t))) or step_skipped(
            optimizer
        ):
            return None
        args, kwargs = _run_closure(args, kwargs)
        new = _moved(optimizer, model, masks, list(zip(methods, streams, strict=True)), drops)
        for name, mask in new.items():
            masks[name].copy_(mask)
            keep[name].copy_(mask)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None  # an optimizer leaves alone what has no gradient
        return args, kwargs

    @torch.no_grad()
    def project(*_: object) -> None:
        for name, parameter in parameters.items():
            parameter.mul_(keep[name])

    return Handle(
        optimizer.register_step_pre_hook(move), optimizer.register_step_post_hook(project)
    )


def training_macs(sparse: float, dense: float, *, dense_gradients: float = 0.0) -> float:
    r"""Multiply-accumulates of one training step for one example, on hardware that skips zeros.

    .. math:: 3 f_S \text{ (static, SET, DSR)}, \qquad 2 f_S + f_D \text{ (SNFS)}, \qquad
              \frac{3 f_S \Delta T + 2 f_S + f_D}{\Delta T + 1} \text{ (RigL, on average)}

    Forward, error and weight gradient cost :math:`f_S` each; where the gradient of all weights is
    needed, the last costs :math:`f_D`.

    Source: Evci et al. 2020, appendix H, read in the paper's text.

    Args:
        sparse, dense: multiply-accumulates of one forward pass of the sparse and of the dense
            network, such as ``measure.macs`` with and without ``skip_zeros``.
        dense_gradients: the part of all steps that need them: 0 for static, SET and DSR, 1 for SNFS,
            1/(ΔT + 1) for RigL.
    """
    if not 0 <= sparse <= dense or not 0 <= dense_gradients <= 1:
        raise ValueError(
            "sparse must be in [0, dense] and dense_gradients in [0, 1], "
            f"got {sparse!r}, {dense!r}, {dense_gradients!r}"
        )
    return 3 * sparse + dense_gradients * (dense - sparse)


def _check_rewire(
    optimizer: torch.optim.Optimizer, model: nn.Module, masks: Masks, methods: Sequence[Method]
) -> None:
    """What ``masks.hold`` does not check."""
    size = ensemble.size(model)
    if len(methods) != size or not all(isinstance(method, Method) for method in methods):
        raise ValueError(f"methods must hold a Method for each of {size} networks, got {methods!r}")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError("optimizer must keep its state weight by weight, got LBFGS")
    for name, parameter in model.named_parameters():
        if name in masks and not parameter.requires_grad:
            raise ValueError(f"masks names {name!r}, which is frozen (requires_grad is False)")


@torch.no_grad()
def _moved(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    masks: Masks,
    methods: Sequence[tuple[Method, torch.Generator]],
    drops: float,
) -> Masks:
    """The masks after a move; what has grown has lost the optimizer's memory of it."""
    parameters = {n: model.get_parameter(n) for n in masks}
    momenta = {n: optimizer.state[p].get("momentum_buffer") for n, p in parameters.items()}
    whole = [
        {n: p.detach() for n, p in parameters.items()},
        masks,
        {n: p.grad for n, p in parameters.items() if p.grad is not None},
        {n: m for n, m in momenta.items() if m is not None},
    ]
    of_members = [ensemble.by_member(model, tensors) for tensors in whole]
    new, fresh = [], []
    for k, (method, generator) in enumerate(methods):
        state = State(*({n: x[k] for n, x in part.items()} for part in of_members), generator)
        new.append(method.step(state, drops))
        grown = {n: m & ~state.masks[n] for n, m in new[k].items()}
        if method.keeps_momentum:
            grown = {n: torch.zeros_like(m) for n, m in grown.items()}
        fresh.append(grown)
    for name, mask in ensemble.joined(model, fresh).items():
        _forget(optimizer, parameters[name], mask)
    return ensemble.joined(model, new)


def _run_closure(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """A step's arguments after its closure, if any, has run: it is not run again in the step."""
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if closure is None:
        return args, kwargs
    with torch.enable_grad():
        loss = closure()
    if len(args) > 1:
        return (args[0], lambda: loss, *args[2:]), kwargs
    return args, {**kwargs, "closure": lambda: loss}


def _forget(optimizer: torch.optim.Optimizer, parameter: Tensor, fresh: Tensor) -> None:
    """No momentum, or other state of a weight, where ``fresh`` is True."""
    for value in optimizer.state[parameter].values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            value.masked_fill_(fresh, 0)


def _part(fraction: float, mask: Tensor) -> int:
    """So many of the active weights, rounded down."""
    return int(fraction * int(mask.sum()))


def _random(mask: Tensor, generator: torch.Generator) -> Tensor:
    """A score in [0, 1) per position; drawn on the CPU, so that a GPU sees the same numbers."""
    return torch.rand(mask.shape, generator=generator).to(mask.device)


def _check(values: Tensor, mask: Tensor, argument: str) -> None:
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be a torch.bool tensor, got {mask.dtype}")
    if values.shape != mask.shape:
        raise ValueError(
            f"{argument} must have the mask's shape {tuple(mask.shape)}, got {tuple(values.shape)}"
        )
    if values.isnan().any():
        raise ValueError(f"{argument} must be numbers, got {int(values.isnan().sum())} NaN")


def _check_count(count: int, most: int, what: str) -> int:
    """How many of the ``most`` are left without ``count``."""
    if not 0 <= count <= most:
        raise ValueError(f"count must be between 0 and the {most} {what}, got {count!r}")
    return most - count
