"""Sparse training: the network has few weights from the first step to the last, and the mask moves.

From time to time the network drops some of its weights and grows as many elsewhere. The methods
differ in three choices, and each is a function here: which weights they ``drop``, how many weights
each layer gets back (``share``), and where they ``grow``.

========  ====================================  =====================  =========================
method    drop                                  share                  grow
========  ====================================  =====================  =========================
SET       the smallest of each sign, by layer   as dropped             at random
DSR       all below one adaptive threshold      by surviving weights   at random, not just dropped
SNFS      the smallest, by layer                by mean momentum       by momentum
RigL      the smallest, by layer                as dropped             by dense gradient
========  ====================================  =====================  =========================

``rewire`` makes an optimizer do this while ``training.fit`` trains a network or a stack. A
``Method`` says how: ``STATIC``, ``SET``, ``RIGL``, ``SNFS``, or the result of ``dsr``. First masks:
``allocate.per_layer(criteria.random(net, seed=0), allocate.erdos_renyi(shapes, sparsity))``.

The masks *simulate* sparse training: weights, gradients and momentum are stored and multiplied
densely. ``training_macs`` counts what an implementation that skips zeros would compute.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib import ensemble, seeds
from course_lib.data import check_counts, check_positive
from course_lib.handles import Handle, run_closure
from course_lib.layers import check_dtype
from course_lib.pruning.counting import check_sparsity, keep_top, whole_numbers
from course_lib.pruning.masks import Masks, hold, step_skipped


class State(NamedTuple):
    r"""What a method may read: one network in the middle of its training.

    All mappings are parameter name -> (\*shape).
    """

    weights: Mapping[str, Tensor]  #: of the masked parameters
    masks: Masks  #: True means active
    gradients: Mapping[str, Tensor]  #: dense, so of inactive weights too
    momenta: Mapping[str, Tensor]  #: SGD's; empty if the optimizer has none
    generator: torch.Generator  #: the network's own random numbers


Step = Callable[[State, float], Masks]  # (network, fraction to drop) -> its new masks


class Method(NamedTuple):
    """How masks move."""

    step: Step  #: (state, fraction to drop) -> the new masks
    keeps_momentum: bool = False  #: whether a grown weight starts with the momentum it has


def drop_and_grow(weight: Tensor, mask: Tensor, count: int, grow_score: Tensor) -> Tensor:
    r"""Drop the ``count`` smallest active weights, and grow the ``count`` best free positions.

    With k = ``count`` and the magnitude of the dense gradient as the score, this is RigL's update:

    .. math:: \mathrm{ArgTopK}(-|\theta^l|,\, k)
              \quad\text{and}\quad
              \mathrm{ArgTopK}_{i \notin \theta^l \setminus \mathbb{I}_{active}}
              (|\nabla_{\Theta^l} L_t|,\, k)

    A position that was just dropped is free. It may come back, and then it keeps its value. (The
    set in the second index is what remains active after the drop.)

    Source: Evci et al. 2020, section 3, equations 3 and 4.

    Args:
        weight, mask, grow_score: (\*shape). True in the mask means active.
        count: how many positions to drop and to grow.

    Returns:
        The new mask, (\*shape), with as many True as ``mask``.

    Raises:
        ValueError: shapes that differ, NaN, a ``count`` that is negative or above the number of
            active weights.
        TypeError: a mask that is not bool.

    Examples:
        >>> weight = torch.tensor([3.0, 1.0, 0.0, 0.0])
        >>> mask = torch.tensor([True, True, False, False])
        >>> drop_and_grow(weight, mask, 1, grow_score=torch.tensor([0.0, 1.0, 5.0, 2.0]))
        tensor([ True, False,  True, False])
    """
    return grow(drop(weight, mask, count), count, grow_score)


def drop(weight: Tensor, mask: Tensor, count: int) -> Tensor:
    """The mask without its ``count`` smallest active weights in magnitude (the later of equals).

    Raises:
        ValueError, TypeError: as ``drop_and_grow``.

    Examples:
        >>> drop(torch.tensor([3.0, -1.0, 2.0]), torch.tensor([True, True, True]), 1)
        tensor([ True, False,  True])
    """
    _check(weight, mask, "weight")
    active = mask.flatten().nonzero().squeeze(1)
    left = _check_count(count, len(active), "active weights")
    kept = mask.flatten().clone()
    kept[active] = keep_top(weight.flatten()[active].abs(), left)
    return kept.view(mask.shape)


def drop_each_sign(weight: Tensor, mask: Tensor, fraction: float) -> Tensor:
    """The mask without a fraction of the smallest positive and of the largest negative weights.

    Each sign loses ``int(fraction * its number of weights)``. An active weight of zero counts as
    positive. (The authors' code drops one positive weight more, and all active weights that are
    zero.)

    Source: Mocanu et al. 2018.

    Raises:
        ValueError, TypeError: as ``drop_and_grow``.

    Examples:
        >>> weight = torch.tensor([3.0, 1.0, -1.0, -2.0])
        >>> drop_each_sign(weight, torch.ones(4, dtype=torch.bool), 0.5)
        tensor([ True, False, False,  True])
    """
    _check(weight, mask, "weight")
    negative, kept = mask & (weight < 0), torch.zeros_like(mask)
    for part in (negative, mask & ~negative):
        kept |= drop(weight, part, _part(fraction, part))
    return kept


def grow(mask: Tensor, count: int, score: Tensor) -> Tensor:
    """The mask with ``count`` more: the free positions of highest score (the earlier of equals).

    Raises:
        ValueError, TypeError: as ``drop_and_grow``; fewer free positions than ``count``.

    Examples:
        >>> grow(torch.tensor([True, False, False]), 1, torch.tensor([9.0, 1.0, 2.0]))
        tensor([ True, False,  True])
    """
    _check(score, mask, "score")
    free = mask.flatten().logical_not().nonzero().squeeze(1)
    _check_count(count, len(free), "free positions")
    grown = mask.flatten().clone()
    grown[free[keep_top(score.flatten()[free], count)]] = True
    return grown.view(mask.shape)


def share(total: int, merit: Mapping[str, float], room: Mapping[str, int]) -> dict[str, int]:
    """Distribute ``total`` new weights over the layers in proportion to their merit.

    A layer without enough room is filled, and the others share the rest. The numbers are integers
    that add up exactly (the largest remainders are rounded up). If no layer has any merit, they
    share in proportion to their room.

    Raises:
        ValueError: less room than ``total``, other layers in ``room``, a merit that is negative or
            not finite.

    Examples:
        >>> share(10, merit={"a": 3.0, "b": 1.0, "c": 1.0}, room={"a": 4, "b": 9, "c": 9})
        {'a': 4, 'b': 3, 'c': 3}
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
    """The control: the mask does not change."""
    return state.masks


def set_step(state: State, fraction: float) -> Masks:
    """Sparse evolutionary training: drop the smallest weights of each sign, grow as many at random.

    In the paper this happens once per epoch with a constant fraction ζ, and nothing grows after the
    last epoch.

    Source: Mocanu et al. 2018.
    """
    kept = {n: drop_each_sign(state.weights[n], m, fraction) for n, m in state.masks.items()}
    back = {n: int(m.sum() - kept[n].sum()) for n, m in state.masks.items()}
    return {n: grow(k, back[n], _random(k, state.generator)) for n, k in kept.items()}


def rigl_step(state: State, fraction: float) -> Masks:
    """RigL: drop the smallest weights, grow where the gradient of the loss is largest.

    Every layer drops ``int(fraction * active)`` weights, as in the authors' code.

    Source: Evci et al. 2020, algorithm 1.

    Raises:
        ValueError: a masked weight without a gradient, or with one of NaN.
    """
    _check_gradients(state)
    return {
        n: drop_and_grow(state.weights[n], m, _part(fraction, m), state.gradients[n].abs())
        for n, m in state.masks.items()
    }


def _check_gradients(state: State) -> None:
    """Raise ValueError unless every masked weight has a gradient without NaN."""
    for name in state.masks:
        if name not in state.gradients:
            raise ValueError(
                f"model must have a gradient of every masked weight, {name!r} has none"
            )
        if state.gradients[name].isnan().any():
            raise ValueError(f"the gradient of {name!r} must hold no NaN")


def snfs_step(state: State, fraction: float) -> Masks:
    r"""Sparse momentum: drop the smallest weights, and grow where the momentum is largest.

    The layers share the dropped weights in proportion to their mean momentum:

    .. math:: \frac{\bar m_l}{\sum_k \bar m_k} \text{ for layer } l, \qquad
              \bar m_l = \operatorname{mean}_{i \text{ active}} |m_{l,i}|

    The authors' code also spares layers that are nearly dense, and fills no layer above 99 %.

    Source: Dettmers & Zettlemoyer 2019.

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
    """Dynamic sparse reparameterization: a method with a threshold that it adapts; one per network.

    All active weights below the threshold are dropped, in every layer, but the largest weight of a
    layer stays. Then ``adapt`` changes the threshold for the next time. As many weights grow at
    random, shared in proportion to the number of weights that survived in each layer. A position
    that was just dropped is used again only if its layer has no other free position.

    Source: Mostafa & Wang 2019, from the authors' code.

    Args:
        target: roughly how many weights to drop each time. The ``fraction`` of ``rewire`` only says
            when.
        threshold: the first threshold.

    Raises:
        ValueError: a target or threshold that is not positive, a target that is no integer.
        TypeError: a threshold that is no number.
    """
    check_counts(target=target)
    check_positive("threshold", threshold)

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
    """DSR's next threshold: half after too many weights were dropped, double after too few.

    Too many means more than 1.1 times the target, and too few means less than 0.9 times the target.

    Source: Mostafa & Wang 2019, from the authors' code.

    Examples:
        >>> [adapt(0.5, dropped, target=100) for dropped in (200, 100, 50)]
        [0.25, 0.5, 1.0]
    """
    if dropped > 1.1 * target:
        return threshold / 2
    return threshold * 2 if dropped < 0.9 * target else threshold


def cosine(alpha: float, end: int, *, every: int = 100) -> Callable[[int], float]:
    r"""A function from a step to the fraction to drop; it falls like a cosine.

    .. math:: f_{decay}(t; \alpha, T_{end}) =
              \frac{\alpha}{2} \left(1 + \cos \frac{t \pi}{T_{end}}\right)

    The fraction is 0, which means no move, at all steps but every ``every``-th one, and from step
    ``end`` on.

    Source: Evci et al. 2020, section 3, equation 2.

    Raises:
        ValueError: ``alpha`` outside [0, 1], ``end`` or ``every`` below 1.
        TypeError: an argument that is no number.

    Examples:
        >>> fraction = cosine(0.3, end=1000, every=100)
        >>> [round(fraction(step), 3) for step in (100, 150, 500, 1000)]
        [0.293, 0.0, 0.15, 0.0]
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
    r"""Hold the masks while ``optimizer`` trains, and move them from time to time.

    A move replaces the optimizer's step, as in RigL's algorithm 1. All members of a stack move at
    the same steps. With ``step(closure)`` the closure runs once and gives the gradients. New
    weights start at zero and without momentum, unless the method keeps the momentum. If a
    ``GradScaler`` skips a step, no move takes place.

    Source: Evci et al. 2020, algorithm 1.

    Args:
        optimizer: SGD, or another optimizer whose state has the shapes of the parameters.
        masks: parameter name -> (\*shape), or (K, \*shape) for a stack, on the model's device. They
            are updated in place.
        methods: a method, such as ``RIGL``; for a stack one method per member.
        fraction: number of the step, from 1 on -> fraction to drop, such as ``cosine``. Where it is
            0, nothing moves.
        seed: for the random growth. Each member has its own random numbers.

    Returns:
        A handle. After ``handle.remove()`` the masks neither move nor hold. To end only the moves,
        call ``masks.hold`` with ``masks`` afterwards.

    Raises:
        ValueError: as ``masks.hold``; not one method per network; a frozen weight, which has no
            gradient.
        TypeError: as ``masks.hold``; LBFGS, whose state does not belong to single weights.

    Examples:
        >>> layer = nn.Linear(4, 1)
        >>> masks = {"weight": torch.tensor([[True, True, False, False]])}
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> handle = rewire(optimizer, layer, masks, RIGL, fraction=cosine(1.0, end=10, every=1))
        >>> layer(torch.tensor([[0.0, 0.0, 1.0, 1.0]])).sum().backward()
        >>> optimizer.step()  # a move: the active weights have no gradient, the others have
        >>> int(masks["weight"].sum())
        2
    """
    methods = [methods] if isinstance(methods, Method) else list(methods)
    _check_rewire(optimizer, model, masks, methods)
    hold(optimizer, model, masks).remove()  # its checks, and zeros from the start
    parameters, t = {n: model.get_parameter(n) for n in masks}, 0
    keep = {n: m.to(parameters[n]) for n, m in masks.items()}  # 0 and 1
    # Far from the small seeds of ``criteria.random``: a mask drawn from the same numbers would grow
    # where it has just dropped.
    first = 2**31 + 1000 * seed
    streams = [seeds.generator(first + k) for k in range(len(methods))]

    def move(_: object, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        nonlocal t
        t += 1
        drops = check_sparsity("fraction's value", fraction(t))
        if drops == 0 or step_skipped(optimizer):
            return None
        args, kwargs = run_closure(args, kwargs)
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

    The forward pass, the errors and the gradient of the weights cost :math:`f_S` each. If the
    gradient of all weights is needed, it costs :math:`f_D`.

    Source: Evci et al. 2020, appendix H.

    Args:
        sparse, dense: multiply-accumulates of one forward pass of the sparse and of the dense
            network, from ``measure.macs`` with and without ``skip_zeros``.
        dense_gradients: the fraction of steps that need all gradients: 0 for static, SET and DSR, 1
            for SNFS, 1/(ΔT + 1) for RigL.

    Raises:
        ValueError: ``sparse`` outside [0, dense], ``dense_gradients`` outside [0, 1].

    Examples:
        >>> training_macs(10, 100, dense_gradients=1)
        120
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
    """Check what ``masks.hold`` does not check."""
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
    """The masks after a move; the optimizer's state of grown weights is cleared."""
    parameters = {n: model.get_parameter(n) for n in masks}
    for name, parameter in parameters.items():
        if parameter.isnan().any():
            raise ValueError(f"model's {name!r} must hold no NaN when masks move")
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
        weights, kept, gradients, momenta = ({n: x[k] for n, x in p.items()} for p in of_members)
        state = State(weights, kept, gradients, momenta, generator)
        new.append(method.step(state, drops))
        forgets = not method.keeps_momentum
        fresh.append({n: forgets & m & ~state.masks[n] for n, m in new[k].items()})
    for name, mask in ensemble.joined(model, fresh).items():
        for value in optimizer.state[parameters[name]].values():  # momentum, and what else there is
            if isinstance(value, Tensor) and value.shape == mask.shape:
                value.masked_fill_(mask, 0)
    return ensemble.joined(model, new)


def _part(fraction: float, mask: Tensor) -> int:
    """A fraction of the active weights, rounded down."""
    return int(fraction * int(mask.sum()))


def _random(mask: Tensor, generator: torch.Generator) -> Tensor:
    """A score in [0, 1) per position, drawn on the CPU, so that a GPU uses the same numbers."""
    return torch.rand(mask.shape, generator=generator).to(mask.device)


def _check(values: Tensor, mask: Tensor, argument: str) -> None:
    check_dtype("mask", mask, torch.bool)
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
