r"""The LC algorithm: train the weights w and compress a copy θ of them, in turns, until they meet.

The goal is the best network among those that can be compressed, such as those with at most κ
weights that are not zero:

.. math:: \min_{w, \theta} \; L(w) + \alpha\, C(\theta) \quad \text{subject to} \quad
          w = \theta, \quad \theta \in S

The set S, or the cost C, stands only at θ, so the loss never meets its jumps. The constraint is
relaxed: with multipliers λ and a number μ that rises slowly, each turn has two steps.

.. math:: \text{L step:} \quad & w \leftarrow \arg\min_w \; L(w)
          + \tfrac{\mu}{2} \lVert w - \theta - \lambda / \mu \rVert^2 \\
          \text{C step:} \quad & \theta \leftarrow \arg\min_{\theta \in S} \; \alpha\, C(\theta)
          + \tfrac{\mu}{2} \lVert w - \lambda / \mu - \theta \rVert^2, \qquad
          \lambda \leftarrow \lambda - \mu (w - \theta)

The L step is ordinary training with one more slope, :math:`\mu (w - \theta) - \lambda`. The C step
is the projection of :math:`w - \lambda/\mu` onto S, or a proximal map. Any compression of the
course can be that projection (``by_weight``). Without multipliers, λ = 0, this is the *quadratic
penalty*; with them it is the *augmented Lagrangian*. A single C step without any L step,
``compress(values, math.inf)``, is *direct compression*, the control.

Values are plain dictionaries, parameter name -> tensor, of one network. In a stack every member is
compressed by itself.

Source: Carreira-Perpiñán & Idelbayev 2018, "Learning-Compression Algorithms for Neural Net Pruning",
with the steps of the authors' code; the page of sources says what was checked.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib import ensemble, training
from course_lib.data import Split, check_counts, check_nonnegative, check_number, check_positive
from course_lib.handles import Handle
from course_lib.layers import at_least_float32
from course_lib.pruning import penalties
from course_lib.pruning.counting import check_sparsity
from course_lib.pruning.masks import step_skipped
from course_lib.pruning.penalties import Values
from course_lib.training import Plan

Compress = Callable[[Mapping[str, Tensor], float], Values]  # (values of one network, μ) -> θ


class Splitting(NamedTuple):
    """How w and θ are brought together."""

    compress: Compress  #: the C step
    mus: Sequence[float]  #: the μ of each turn: positive and rising, such as ``geometric`` gives
    multipliers: bool = True  #: augmented Lagrangian; False means quadratic penalty


class Turn(NamedTuple):
    """What one turn ends with."""

    mu: float
    weights: Values  #: w, the parameters that train
    values: Values  #: θ, the compressed ones


class Round(NamedTuple):
    """What ``alternate`` measured after one turn; tensors are () or, for a stack, (K,)."""

    mu: float
    weights_accuracy: Tensor | None  #: % on ``test`` with w; None without ``test``
    accuracy: Tensor | None  #: % on ``test`` with θ in place of w
    gap: Tensor  #: ‖w − θ‖ / ‖w‖
    moved: Tensor  #: the share of θ's non-zero weights that were zero one turn before


def geometric(first: float, factor: float, *, turns: int) -> list[float]:
    r"""The numbers :math:`\mu_n = \mu_0\, a^n`, n from 0 to ``turns`` − 1.

    Raises:
        ValueError: ``first`` that is not positive, ``factor`` that is not above 1, a last number
            that is not finite, ``turns`` that is no positive integer.
        TypeError: ``first`` or ``factor`` that is no number.

    Examples:
        >>> geometric(0.5, 2.0, turns=3)
        [0.5, 1.0, 2.0]
    """
    _check_above("first", first, 0)
    _check_above("factor", factor, 1)
    check_counts(turns=turns)
    if turns * math.log(factor) + math.log(first) > 700:
        raise ValueError(f"turns must leave the last number finite, got {turns!r}")
    return [first * factor**n for n in range(turns)]


def largest(sparsity: float) -> Compress:
    r"""C step of the ℓ0 constraint :math:`\lVert\theta\rVert_0 \le \kappa`: the κ largest values stay.

    Of the n values of a network ``round(sparsity * n)`` become zero; of equal ones the first stay.
    μ does not matter.

    Raises:
        ValueError: a sparsity outside [0, 1]; the C step itself for NaN or a μ that is not positive.
        TypeError: a sparsity that is no number.

    Examples:
        >>> largest(0.5)({"weight": torch.tensor([3.0, -1.0, 2.0, 0.5])}, 1.0)
        {'weight': tensor([3., 0., 2., 0.])}
    """
    sparsity = check_sparsity("sparsity", sparsity)

    def compress(values: Mapping[str, Tensor], mu: float) -> Values:
        _check_above("mu", mu, 0)
        keep = penalties.largest(values, sparsity)
        return {name: v.masked_fill(~keep[name], 0) for name, v in values.items()}

    return compress


def l0(alpha: float) -> Compress:
    r"""C step of the ℓ0 penalty :math:`\alpha \lVert\theta\rVert_0`: a hard threshold.

    .. math:: \theta_i = v_i \text{ if } |v_i| > \sqrt{2\alpha/\mu}, \text{ else } 0

    To keep :math:`v_i` costs α, and to lose it costs :math:`\tfrac\mu2 v_i^2`. At the threshold both
    are equal, and the value goes.

    Raises:
        ValueError: an ``alpha`` that is negative or not finite; the C step itself for a μ that is
            not positive.
        TypeError: an ``alpha`` that is no number.

    Examples:
        >>> l0(1.0)({"weight": torch.tensor([3.0, -1.0, 2.0])}, 0.5)
        {'weight': tensor([3., -0., 0.])}
    """
    check_nonnegative("alpha", alpha)

    def compress(values: Mapping[str, Tensor], mu: float) -> Values:
        _check_above("mu", mu, 0)
        edge = math.sqrt(2 * alpha / mu)
        return {n: v * (at_least_float32(v).abs() > edge) for n, v in values.items()}

    return compress


def l1(alpha: float) -> Compress:
    r"""C step of the ℓ1 penalty :math:`\alpha \lVert\theta\rVert_1`: a soft threshold at α/μ.

    Raises:
        ValueError, TypeError: as ``l0``.

    Examples:
        >>> l1(1.0)({"weight": torch.tensor([3.0, -1.0, 2.5])}, 0.5)
        {'weight': tensor([1.0000, -0.0000, 0.5000])}
    """
    check_nonnegative("alpha", alpha)

    def compress(values: Mapping[str, Tensor], mu: float) -> Values:
        _check_above("mu", mu, 0)
        return penalties.prox_l1(values, alpha / mu)

    return compress


def l1_ball(kappa: float) -> Compress:
    r"""C step of the ℓ1 constraint :math:`\lVert\theta\rVert_1 \le \kappa`: the nearest point of a ball.

    .. math:: \theta_i = \operatorname{sign}(v_i) \max(|v_i| - \tau, 0), \qquad
              \tau = \frac{1}{\rho} \Big(\sum_{j \le \rho} u_j - \kappa\Big), \qquad
              \rho = \max\Big\{j : u_j > \tfrac1j \Big(\sum_{i \le j} u_i - \kappa\Big)\Big\}

    where u are the :math:`|v|` of the whole network in descending order. Values inside the ball stay as
    they are. μ does not matter.

    Source: Duchi et al. 2008, "Efficient projections onto the ℓ1-ball".

    Raises:
        ValueError: a ``kappa`` that is not positive and finite; the C step itself for a μ that is
            not positive.
        TypeError: a ``kappa`` that is no number.

    Examples:
        >>> l1_ball(3.0)({"weight": torch.tensor([3.0, -2.0, 0.5])}, 1.0)
        {'weight': tensor([ 2., -1.,  0.])}
    """
    check_positive("kappa", kappa)

    def compress(values: Mapping[str, Tensor], mu: float) -> Values:
        _check_above("mu", mu, 0)
        u = torch.cat([v.detach().double().abs().flatten() for v in values.values()])
        if u.sum() <= kappa:
            return {name: v.clone() for name, v in values.items()}
        u = u.sort(descending=True).values
        tau = (u.cumsum(0) - kappa) / torch.arange(1, len(u) + 1, device=u.device)
        rho = int((u > tau).nonzero()[-1])
        return penalties.prox_l1(values, tau[rho].item())

    return compress


def by_weight(project: Callable[[Tensor], Tensor]) -> Compress:
    """A C step that projects each weight tensor by itself: k-means, ±1, low rank.

    Args:
        project: a weight (out, …) -> the nearest compressed weight, of the same shape.

    Examples:
        >>> binary = by_weight(lambda w: w.abs().mean() * w.sign())
        >>> binary({"weight": torch.tensor([[1.0, -3.0]])}, 1.0)
        {'weight': tensor([[ 2., -2.]])}
    """
    return lambda values, mu: {name: project(v) for name, v in values.items()}


def pull(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    splitting: Splitting,
    *,
    every: int,
    watch: Callable[[Turn], None] | None = None,
) -> Handle:
    """Train by the LC algorithm from now on: an L step is ``every`` steps, then comes a C step.

    The first θ is the C step of the present weights. After the C step of the last turn the weights
    *are* θ, and the hooks do nothing more: the network is compressed. The optimizer is the same in
    all L steps, so momentum and a learning-rate schedule go on.

    A step is stable while the learning rate times μ is below 2(1 + m), for SGD with momentum m.

    Args:
        optimizer: any that steps once per gradient.
        splitting: its values are the weights of linear and convolution layers that are not frozen.
        every: optimizer steps per turn; the training needs ``every * len(mus)`` steps.
        watch: called after each C step, before the weights become θ in the last one.

    Returns:
        A handle; ``handle.remove()`` ends the algorithm, and the weights stay what they are.

    Raises:
        ValueError: numbers μ that are not positive and rising; a C step that returns other names or
            shapes; weights that are not plain or not finite, or that ``optimizer`` does not train.
        TypeError: an optimizer that takes several gradients per step (LBFGS) or sparse ones.

    Examples:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> layer.weight.data = torch.tensor([[2.0, 1.0]])
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> handle = pull(optimizer, layer, Splitting(largest(0.5), [1.0, 2.0]), every=1)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     (layer(torch.eye(2)) - 1).square().sum().backward()
        ...     optimizer.step()
        >>> (layer.weight == 0).tolist()
        [[False, True]]
    """
    mus = _checked(splitting)
    check_counts(every=every)
    parameters = penalties.trained(model)
    theta = _compressed(model, splitting, parameters, mus[0])
    multipliers = {name: torch.zeros_like(at_least_float32(p)) for name, p in parameters.items()}
    done = itertools.count(1)
    turn = 0

    def slopes() -> Values:
        if turn == len(mus):
            return {}
        return {
            name: mus[turn] * (at_least_float32(p.detach()) - theta[name]) - multipliers[name]
            for name, p in parameters.items()
        }

    @torch.no_grad()
    def after(*_: object) -> None:
        nonlocal turn
        if turn == len(mus) or step_skipped(optimizer) or next(done) % every:
            return
        mu = mus[turn]
        wide = {name: at_least_float32(p.detach()) for name, p in parameters.items()}
        shifted = {name: w - multipliers[name] / mu for name, w in wide.items()}
        theta.update(_compressed(model, splitting, shifted, mu))
        if splitting.multipliers:
            for name, w in wide.items():
                multipliers[name] -= mu * (w - theta[name])
        if watch is not None:
            watch(Turn(mu, {n: p.detach() for n, p in parameters.items()}, theta))
        turn += 1
        if turn == len(mus):
            for name, p in parameters.items():
                p.copy_(theta[name])

    add = penalties.add_to_gradients(optimizer, parameters, slopes)
    return Handle(add, optimizer.register_step_post_hook(after))


def alternate(
    model: nn.Module,
    train: Split,
    plan: Plan,
    splitting: Splitting,
    *,
    test: Split | None = None,
) -> list[Round]:
    """Train a network, or a stack, by the LC algorithm, in place; it ends with the compressed θ.

    The plan's steps are divided into ``len(mus)`` L steps of equal length.

    Args:
        plan: of the whole training, with one learning-rate schedule over all turns.
        test: if given, each round holds the accuracies of w and of θ on it.

    Returns:
        One ``Round`` per turn.

    Raises:
        ValueError: steps that ``len(mus)`` does not divide; otherwise as ``pull`` and
            ``training.fit``. The model stays as it was.
        TypeError: as ``pull`` and ``training.fit``.
    """
    mus = _checked(splitting)
    training.check_plan(model, train, plan, test=test)
    per_epoch = -(-len(train.y) // plan.batch_size)
    last = plan.epochs * per_epoch if plan.last is None else plan.last
    if (last - plan.first) % len(mus):
        raise ValueError(
            f"mus must be as many as divide the {last - plan.first} steps of plan, got {len(mus)}"
        )
    optimizer = training.make_optimizer(model, plan)
    if plan.start is not None:
        model.load_state_dict(plan.start)
    before = _support(model, _compressed(model, splitting, penalties.trained(model), mus[0]))
    rounds: list[Round] = []

    def watch(turn: Turn) -> None:
        nonlocal before
        now = _support(model, turn.values)
        w, theta = (_rows(model, values) for values in (turn.weights, turn.values))  # (K, n)
        moved = (now & ~before).sum(1) / now.sum(1).clamp(min=1)
        gap = (w - theta).norm(dim=1) / w.norm(dim=1)
        before = now
        of_w = of_theta = None
        if test is not None:
            of_w = training.evaluate(model, test)
            of_theta = _evaluated_at(model, turn, test)
        gap, moved = (x if isinstance(model, ensemble.Stack) else x[0] for x in (gap, moved))
        rounds.append(Round(turn.mu, of_w, of_theta, gap, moved))

    every = (last - plan.first) // len(mus)
    with pull(optimizer, model, splitting, every=every, watch=watch):
        training.fit(model, train, dataclasses.replace(plan, optimizer=optimizer, start=None))
    return rounds


def _checked(splitting: Splitting) -> list[float]:
    """The numbers μ."""
    if not isinstance(splitting, Splitting):
        raise TypeError(f"splitting must be a Splitting, got {type(splitting).__name__}")
    mus = list(splitting.mus)
    if not mus:
        raise ValueError("mus must hold at least one number, got none")
    for mu in mus:
        _check_above("mus", mu, 0)
    if math.isinf(mus[-1]) or any(b <= a for a, b in itertools.pairwise(mus)):
        raise ValueError(f"mus must be finite and rise from turn to turn, got {mus}")
    return mus


def _compressed(
    model: nn.Module, splitting: Splitting, values: Mapping[str, Tensor], mu: float
) -> Values:
    """θ, computed for each member by itself, checked."""
    detached = {name: at_least_float32(v.detach()) for name, v in values.items()}
    with torch.no_grad():
        found = penalties.by_network(model, lambda v: splitting.compress(v, mu), detached)
    penalties.check_values("compress", found, detached)
    return {name: v.to(detached[name].dtype) for name, v in found.items()}


def _rows(model: nn.Module, values: Mapping[str, Tensor]) -> Tensor:
    """All values of each network in one row, (K, n)."""
    rows = ensemble.by_member(model, values)
    return torch.cat([at_least_float32(v).flatten(1) for v in rows.values()], 1)


def _support(model: nn.Module, values: Mapping[str, Tensor]) -> Tensor:
    """Where a network's values are not zero, (K, n)."""
    return _rows(model, values) != 0


def _evaluated_at(model: nn.Module, turn: Turn, test: Split) -> Tensor:
    """The accuracy with θ in place of the weights, which are afterwards as they were."""
    before = {name: w.clone() for name, w in turn.weights.items()}
    try:
        for name, theta in turn.values.items():
            model.get_parameter(name).data.copy_(theta)
        return training.evaluate(model, test)
    finally:
        for name, w in before.items():
            model.get_parameter(name).data.copy_(w)


def _check_above(argument: str, value: float, low: float) -> None:
    if not check_number(argument, value) > low:  # also refuses NaN
        raise ValueError(f"{argument} must be above {low}, got {value!r}")
