"""The exercises of the lesson Pruning as an objective."""

import copy
from collections.abc import Callable, Iterator
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor

from course_lib.exercises.common import (
    apart,
    draw,
    dyadic,
    first_that,
    lowest_removed,
    not_floats,
    pick,
    smallest_input,
)
from course_lib.exercises.exercise import (
    UNCHANGED,
    Exercise,
    Lines,
    Property,
    WrongLine,
    show,
)

LStep = Callable[[Tensor, float], Tensor]  # (pulled, mu) -> the w of the L step
_SECTION = "lesson Pruning as an objective, section “Definition → code”"
TOLERANCE = 1e-4  # which the lesson states


# ---- A · learning and compression in turn, with multipliers


def learn_and_compress(weight: Tensor, keep: int, mus: list[float], l_step: LStep) -> Tensor:
    """θ after the last C step."""

    def c_step(v: Tensor) -> Tensor:
        order = v.abs().flatten().argsort(descending=True, stable=True)
        stays = torch.zeros_like(order).index_fill(0, order[:keep], 1)
        return v * stays.view_as(v)

    theta, multipliers = c_step(weight), torch.zeros_like(weight)
    for mu in mus:
        w = l_step(theta + multipliers / mu, mu)
        theta = c_step(w - multipliers / mu)
        multipliers = multipliers - mu * (w - theta)
    return theta


class _LStep:
    """An L step. Copies of it are equal, so that an answer may call the one it is given."""

    def __init__(self, best: Tensor, says: str) -> None:
        self.best = best
        self.__doc__ = f"l_step: {says}"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"<{self.__doc__}>"

    def __call__(self, pulled: Tensor, mu: float) -> Tensor:
        pulled = torch.as_tensor(pulled).detach().to(self.best.dtype)
        if pulled.shape != self.best.shape:
            raise ValueError(
                f"pulled must have the shape {tuple(self.best.shape)} of the weights, "
                f"got {tuple(pulled.shape)}"
            )
        return self.step(pulled, float(mu))

    def step(self, pulled: Tensor, mu: float) -> Tensor:
        raise NotImplementedError


class _Halfway(_LStep):
    """Exact for short fractions, so that ties stay ties whatever the order of the operations."""

    def __init__(self, best: Tensor) -> None:
        super().__init__(best, f"goes half the way from pulled to {show(best)}")

    def step(self, pulled: Tensor, mu: float) -> Tensor:
        return (pulled + self.best) / 2


class _Warm(_LStep):
    """As a training that is short: it goes on from its last weights."""

    def __init__(self, best: Tensor) -> None:
        super().__init__(
            best, f"w ← (w + pulled + 2 b) / 4, from its last w, with b = {show(best)}"
        )
        self.w = torch.zeros_like(best)

    def step(self, pulled: Tensor, mu: float) -> Tensor:
        self.w = (self.w + pulled + 2 * self.best) / 4
        return self.w.clone()


class _Quadratic(_LStep):
    """The exact L step of L(w) = ½ (w − best)ᵀ H (w − best)."""

    def __init__(self, hessian: Tensor, best: Tensor) -> None:
        super().__init__(best, "minimises ½ (w − b)ᵀ H (w − b) + μ/2 ‖w − pulled‖²")
        self.hessian = hessian

    def step(self, pulled: Tensor, mu: float) -> Tensor:
        both = self.hessian + mu * torch.eye(len(pulled), dtype=pulled.dtype)
        return torch.linalg.solve(both, self.hessian @ self.best + mu * pulled)

    def loss(self, w: Tensor) -> float:
        """L(w)."""
        away = w - self.best
        return float(away @ self.hessian @ away) / 2

    def least(self, keep: int) -> float:
        """The least L(w) of all w with ``keep`` weights, by trying every set."""
        slope, losses = self.hessian @ self.best, []
        for places in map(list, combinations(range(len(self.best)), keep)):
            w = torch.zeros_like(self.best)
            w[places] = torch.linalg.solve(self.hessian[places][:, places], slope[places])
            losses.append(self.loss(w))
        return min(losses)


def random_quadratic(n: int, seed: int) -> _Quadratic:
    """A random positive definite quadratic in n weights, in float64."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=generator, dtype=torch.float64)
    best = torch.randn(n, generator=generator, dtype=torch.float64)
    return _Quadratic(root @ root.T / n + 0.1 * torch.eye(n, dtype=torch.float64), best)


GROWING = tuple(0.01 * 1.1**number for number in range(120))
SEEDS_FOUND = (0, 3, 4, 5, 6)  # of quadratics whose best set multipliers find, and the penalty not


def _problems() -> Iterator[tuple[Tensor, int, list[float], LStep]]:
    weight, best = torch.tensor([3.0, -1.0, 0.5, 2.0]), torch.tensor([1.0, -2.0, 4.0, 0.5])
    yield weight, 2, [1.0], _Halfway(best)
    yield weight, 2, [], _Halfway(best)
    yield weight, 0, [1.0, 2.0], _Halfway(best)
    yield weight, 4, [1.0, 2.0], _Halfway(best)
    yield torch.tensor([-1.0, 1.0, 1.0]), 1, [], _Halfway(torch.zeros(3))
    yield torch.tensor([2.0]), 1, [0.5, 0.5], _Halfway(torch.tensor([-1.0]))
    generator = torch.Generator().manual_seed(6)
    plans = ([1.0], [2.0], [1.0, 1.0], [0.5, 1.0, 4.0], [0.25, 0.25, 0.5, 2.0], [256.0] * 5)
    for shape, mus, trained in product(((3,), (2, 3), (3, 2, 2)), plans, (_Halfway, _Warm)):
        weight, best = draw(shape, generator), 2 * draw(shape, generator)
        yield weight, pick(weight.numel(), generator), list(mus), trained(best)
    for scale in (2.0**-40, 2.0**20):
        yield _without_ties(9, scale, 4, [0.5, 1.0, 1.0, 2.0], _Warm, generator)
        yield _without_ties(9, scale, 4, [2.0**-8, 2.0**10, 2.0**12], _Halfway, generator)
    yield torch.tensor([1.001, 1.002, -1.003]), 1, [], _Halfway(torch.zeros(3))
    yield _without_ties(100, 1.0, 30, [1.0, 2.0], _Warm, generator)
    for n, seed in ((3, 1), (6, 2), (40, 3)):
        quadratic = random_quadratic(n, seed)
        for mus in ([0.3], [3.0, 0.7], [0.1 * 1.3**number for number in range(10)]):
            yield quadratic.best.clone(), max(1, n // 3), mus, quadratic
    quadratic = random_quadratic(3, 1)
    yield quadratic.best.clone(), 1, [0.04, 0.02], quadratic
    for seed in SEEDS_FOUND:
        quadratic = random_quadratic(6, seed)
        yield quadratic.best.clone(), 2, list(GROWING), quadratic


def _without_ties(
    n: int, scale: float, keep: int, mus: list, trained: type, generator: torch.Generator
) -> tuple:
    """A problem of n normal weights, in which rounding never decides which weights stay."""

    def problem() -> tuple:
        weight, best = scale * torch.randn(2, n, generator=generator)
        return weight, keep, mus, trained(best)

    return first_that(_is_clear, problem)


def _is_clear(weight: Tensor, keep: int, mus: list[float], l_step: LStep) -> bool:
    """Whether the magnitudes on both sides of each cut are apart."""

    def c_step(v: Tensor) -> Tensor:
        return v * lowest_removed(v.abs(), len(v) - keep)

    theta, multipliers, l_step = c_step(weight), torch.zeros_like(weight), copy.deepcopy(l_step)
    seen = [weight]
    for mu in mus:
        w = l_step(theta + multipliers / mu, mu)
        seen.append(w - multipliers / mu)
        theta = c_step(seen[-1])
        multipliers = multipliers - mu * (w - theta)
    ranked = torch.stack(seen).abs().sort(1, descending=True).values
    return apart(ranked[:, keep - 1 : keep + 1])


def _not_theta(theta: object, weight: Tensor, *_: object) -> str | None:
    return not_floats(theta, weight)


def _too_many(theta: Tensor, _: Tensor, keep: int, *__: object) -> str | None:
    left = int((theta != 0).sum())
    return None if left <= keep else f"at most {keep} weights that are not zero, not {left}"


def _differs(theta: Tensor, *problem: Any) -> str | None:
    wanted = learn_and_compress(*copy.deepcopy(problem))  # an l_step may remember its calls
    far = (theta - wanted).abs().max() > TOLERANCE * wanted.abs().max()
    return show(wanted + 0) if far or not theta.isfinite().all() else None  # -0.0 + 0 is 0.0


def _up_to(most: int) -> Callable[..., str | None]:
    """The demand that θ is right where there are at most so many μ."""
    return lambda theta, *problem: _differs(theta, *problem) if len(problem[2]) <= most else None


def _not_the_best(theta: Tensor, _: Tensor, keep: int, mus: list, l_step: LStep) -> str | None:
    if not isinstance(l_step, _Quadratic) or len(mus) < len(GROWING):
        return None
    least, found = l_step.least(keep), l_step.loss(theta)
    if found <= least * (1 + 1e-3):
        return None
    return f"a loss of {least:.4g}, the least of all sets of {keep} weights; here it is {found:.4g}"


LEARN_AND_COMPRESS = Exercise(
    name="learn_and_compress",
    signature="learn_and_compress(weight, keep, mus, l_step)",
    section=_SECTION,
    cases=_problems,
    expected=lambda *problem: learn_and_compress(*copy.deepcopy(problem)),
    properties=(
        Property(
            "returns floats of the weight's shape",
            _not_theta,
            "Return θ alone, the weights with zeros in them.",
        ),
        Property(
            "keeps no more than it may",
            _too_many,
            "What is returned is θ after the last C step, not w. Do ties let one more through? And "
            "a slice [-0:] is everything.",
        ),
        Property(
            "begins with the C step of the weight",
            _up_to(0),
            "Without any μ, the result is the first θ: the weights largest in magnitude with their "
            "values, zeros elsewhere. Of equal magnitudes the earlier stays.",
        ),
        Property(
            "takes one L step and one C step",
            _up_to(1),
            "The multipliers are zero here. So l_step is called once, with the first θ and μ, and θ is "
            "the C step of what it returns.",
        ),
        Property(
            "takes every μ in turn, with the multipliers",
            _up_to(len(GROWING) - 1),
            "The L step is pulled to θ + λ/μ, the C step compresses w − λ/μ, and then λ becomes "
            "λ − μ (w − θ) with the new θ. Each of the three divides or multiplies by this round's μ.",
        ),
        Property(
            "finds the best set of weights where the method does",
            _not_the_best,
            "On shorter runs your function is right. Does it go through all of mus, however long?",
        ),
        UNCHANGED,
    ),
)


# ---- B · the projection onto an ℓ1 ball, as the authors of the LC algorithm wrote it


def buggy_l1_ball(v: Tensor, kappa: float) -> Tensor:
    """The point of the ball ‖θ‖₁ ≤ κ nearest to v, with the threshold wrong."""
    if v.abs().sum() <= kappa:
        return v.clone()
    size = v.abs().sort(descending=True).values
    level = (size.cumsum(0) - kappa) / torch.arange(1, len(v) + 1)
    fails = (size <= level).nonzero().flatten()
    threshold = level[fails[0]] if len(fails) else 0.0
    return v.sign() * (v.abs() - threshold).clamp(min=0)


def l1_ball(v: Tensor, kappa: float) -> Tensor:
    """The right answer: the threshold belongs to the last index that does not fail."""
    if v.abs().sum() <= kappa:
        return v.clone()
    size = v.abs().double().sort(descending=True).values
    level = (size.cumsum(0) - kappa) / torch.arange(1, len(v) + 1)
    threshold = level[size > level][-1]
    return (v.sign() * (v.abs() - threshold).clamp(min=0)).to(v.dtype)


def _points() -> Iterator[tuple[Tensor, float]]:
    for v, kappa in (
        ([3.0, -1.0, 0.5], 2.0),
        ([3.0], 1.0),
        ([1.0, 1.0, 1.0], 1.0),
        ([3.0, 1.0], 1.0),
        ([0.5, -0.25], 1.0),
        ([0.5, -0.5], 1.0),
        ([0.0, 0.0], 1.0),
        ([0.0, -4.0, 0.0], 0.5),
        ([-2.0, 2.0, 0.0], 3.0),
        ([1.0, 0.25], 1 / 300),  # a small ball: a bisection has to go on for long
        ([-0.75, 0.5, 0.25], 1 / 350),
        ([0.0, -1.5], 1 / 170),
    ):
        yield torch.tensor(v), kappa
    generator = torch.Generator().manual_seed(7)
    for trial in range(40):
        v = 2 * draw((1 + trial // 5,), generator)
        yield v, pick((0.25, 0.5, 1.0, 2.0, 5.0), generator)
    for scale in (2.0**-20, 2.0**20):
        yield scale * dyadic((9,), generator), 2.5 * scale
    yield torch.randn(7, generator=generator, dtype=torch.float64), 0.75
    yield dyadic((200,), generator), 20.0
    yield dyadic((200,), generator), 120.0


def _illegal_point(v: Tensor, kappa: float) -> str | None:
    """None for inputs that the statement allows, else what it allows."""
    floats = v.is_floating_point() and v.dim() == 1 and v.numel() and v.isfinite().all()
    if floats and 0 < kappa < float("inf"):
        return None
    return "a v of one dimension with at least one entry, all finite floats; a finite kappa above 0"


def _moved(theta: Tensor, v: Tensor, kappa: float) -> str | None:
    if v.abs().double().sum() > kappa or (theta - v).abs().max() <= TOLERANCE * kappa:
        return None
    return f"{show(v)} itself, which lies in the ball"


def _off_the_edge(theta: Tensor, v: Tensor, kappa: float) -> str | None:
    norm = float(theta.abs().double().sum())
    if v.abs().double().sum() <= kappa or abs(norm - kappa) <= TOLERANCE * kappa:
        return None
    return f"‖θ‖₁ = {kappa:g}, because v lies outside; here it is {norm:g}"


def _not_nearest(theta: Tensor, v: Tensor, kappa: float) -> str | None:
    wanted = l1_ball(v, kappa)
    return show(wanted) if (theta - wanted).abs().max() > TOLERANCE * kappa else None


MENDED_L1_BALL = Exercise(
    name="mended_l1_ball",
    signature="mended_l1_ball(v, kappa)",
    section=_SECTION,
    cases=_points,
    legal=_illegal_point,
    expected=l1_ball,
    properties=(
        Property(
            "returns floats of the shape of v",
            _not_theta,
            "Return θ alone, with one entry for each entry of v.",
        ),
        Property(
            "leaves a point in the ball where it is",
            _moved,
            "Where ‖v‖₁ ≤ κ, the nearest point of the ball is v.",
        ),
        Property(
            "brings a point outside to the edge of the ball",
            _off_the_edge,
            "Which index gives the threshold: the last one whose size is above its level, or the "
            "first one that is not? Try both on (3, 1) with κ = 1 by hand.",
        ),
        Property(
            "gives the nearest point",
            _not_nearest,
            "All sizes shrink by the same threshold, and those below it become zero. The signs stay.",
        ),
        UNCHANGED,
    ),
)

SMALLEST_L1_BALL = smallest_input(
    name="smallest_l1_ball",
    wrong=buggy_l1_ball,
    judged_by=MENDED_L1_BALL,
    at_most=2,
    hint="Inside the ball it is right. Take a v outside, and compare the norm of what comes back "
    "with kappa.",
)

# ---- B · the other two finds, which are puzzles alone: no reader writes these functions


def buggy_next_round(s: Tensor, beta: float, start: float) -> tuple[Tensor, float]:
    """The numbers of the gates and β for the next round, as in the authors' code."""
    fresh = 1.0
    s = (fresh * s).clamp(max=start)
    return s, fresh


def buggy_decayed(parameters: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Where selective weight decay acts now, as in the authors' code; 0 < ``sparsity`` < 1."""
    ranked = {n: p for n, p in parameters.items() if "bn" not in n}
    sizes = torch.cat([p.abs().flatten() for p in ranked.values()]).sort().values
    threshold = sizes[round(sparsity * len(sizes))]
    return {n: p.abs() < threshold for n, p in parameters.items()}


PUZZLES = (
    Lines(
        name="learn_and_compress",
        function=learn_and_compress,
        distractors={
            "    w = l_step(theta, mu)": "without λ/μ, this is the quadratic penalty: the multipliers "
            "would never reach the weights.",
            "    theta = c_step(w + multipliers / mu)": "the C step compresses w − λ/μ: the L step "
            "added λ/μ, and here it is taken off.",
            "    multipliers = multipliers - (w - theta)": "the gap has to be weighed by μ.",
            "    order = v.flatten().argsort(descending=True, stable=True)": "a large negative "
            "weight would go first.",
            "return w": "w is not compressed: it has no zeros.",
        },
    ),
    WrongLine(
        name="mended_l1_ball",
        function=buggy_l1_ball,
        wrong="threshold = level[fails[0]] if len(fails) else 0.0",
        why="the first index that fails is one too far: its level counts a weight that becomes zero. "
        "And if none fails, everything has to shrink, not nothing. Right is "
        "`level[size > level][-1]`, the level of the last index that does not fail.",
        others={
            "if v.abs().sum() <= kappa:": "a point in the ball is its own nearest point.",
            "size = v.abs().sort(descending=True).values": "from large to small, as the sum needs it.",
            "level = (size.cumsum(0) - kappa) / torch.arange(1, len(v) + 1)": "if the j largest stay, "
            "each of them has to shrink by this much to bring the norm to κ.",
            "return v.sign() * (v.abs() - threshold).clamp(min=0)": "this is the soft threshold. With "
            "the right threshold, it is the nearest point.",
        },
    ),
    WrongLine(
        name="next_round",
        function=buggy_next_round,
        wrong="s = (fresh * s).clamp(max=start)",
        why="β is already 1 here. A closed gate with β = 200 and s = −0.02 has σ(−4), which is almost "
        "0, and now it gets σ(−0.02), which is almost one half. Right is `(beta * s).clamp(max=start)`: "
        "the gate is σ(−4) again. A test with β = 1 finds nothing.",
        others={
            "fresh = 1.0": "the gates have to be soft again, or they would not train.",
            "return s, fresh": "the numbers of the gates, and the β with which the round begins.",
        },
    ),
    WrongLine(
        name="decayed",
        function=buggy_decayed,
        wrong="return {n: p.abs() < threshold for n, p in parameters.items()}",
        why="the threshold was found among the ranked weights, and here it meets all parameters. The "
        "shifts of batch norms begin at 0, below every threshold, so all of them are held there, and "
        "more is pulled than the sparsity says. Right is `ranked.items()`. A test with linear layers "
        "alone finds nothing.",
        others={
            'ranked = {n: p for n, p in parameters.items() if "bn" not in n}': "batch norms have no "
            "weights that a cut would remove.",
            "sizes = torch.cat([p.abs().flatten() for p in ranked.values()]).sort().values": "all "
            "layers are ranked together, from small to large.",
            "threshold = sizes[round(sparsity * len(sizes))]": "as many sizes lie below it as are to "
            "go, if no two are equal.",
        },
    ),
)
EXERCISES = (LEARN_AND_COMPRESS, SMALLEST_L1_BALL, MENDED_L1_BALL)
