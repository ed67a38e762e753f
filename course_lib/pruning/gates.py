r"""Gates: every weight is multiplied by a learnt switch, and training decides which ones close.

The best subset of weights is the minimum over masks m and weights w of

.. math:: \min_{m \in \{0, 1\}^d,\; w} \; L(m \odot w) + \lambda \lVert m \rVert_0

A mask has no gradient. Here a soft gate takes its place, a function of one number per weight that
trains with the weights. ``Sigmoid`` becomes a switch because its steepness β grows (``anneal``).
``HardConcrete`` is its stochastic cousin: it is exactly 0 or exactly 1 with positive probability.
``harden`` turns either into an ordinary network and its masks.

The gates are parametrisations (``torch.nn.utils.parametrize``): layer ``fc1`` trains
``fc1.parametrizations.weight.original`` and ``fc1.parametrizations.weight.0.logits``. Gated
networks train alone or in an ``ensemble.stack``. To make such a stack, attach gates to networks,
then stack them; ``harden`` its ``ensemble.members``. The steepness is a frozen parameter,
``….0.beta``, so that it is saved and restored with everything else: a training that continues from
a checkpoint has the right one.

Weight decay would push the numbers of the gates to 0, where no gate is open or closed. An optimizer
with weight decay takes ``parameter_groups(model)``, which keeps the gates free of it.

Source: Savarese, Silva & Maire 2020, "Winning the lottery with continuous sparsification", and the
authors' code; Louizos, Welling & Kingma 2018, "Learning sparse neural networks through L0
regularization", and the authors' code.
"""

import copy
import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from course_lib import ensemble, layers, parametrized
from course_lib.data import check_counts, check_number
from course_lib.handles import check_trains
from course_lib.layers import at_least_float32
from course_lib.pruning.masks import Masks, step_skipped

LIMIT = 30.0  # beyond ±30 the slope of a sigmoid is below 1e-13, and its gate would never move


class Gate(nn.Module):
    """What all gates have: a number per weight that trains, and a steepness β that does not."""

    logits: nn.Parameter
    beta: nn.Parameter
    anneals = False  #: whether ``anneal`` makes it steeper

    def __init__(self, start: float, beta: float) -> None:
        super().__init__()
        _check_start(start)
        self.start, self.first = float(start), beta

    def on(self, weight: Tensor) -> "Gate":
        """Gates like this one, one for each entry of ``weight``."""
        own = copy.deepcopy(self)
        own.logits = nn.Parameter(torch.full_like(weight.detach(), self.start))
        # Not in half precision, where a small step of β would be rounded away.
        beta = torch.tensor(self.first, dtype=torch.float32, device=weight.device)
        own.beta = nn.Parameter(beta, requires_grad=False)
        return own

    def forward(self, weight: Tensor) -> Tensor:
        return (at_least_float32(weight) * self.factor()).to(weight.dtype)

    def factor(self) -> Tensor:
        """What each weight is multiplied by."""
        raise NotImplementedError

    def hard(self) -> Tensor:
        """What each weight is multiplied by after ``harden``; 0 where the gate is closed."""
        raise NotImplementedError

    def opened(self, logits: Tensor, beta: Tensor) -> Tensor:
        """How far each gate is open, from 0 to 1, for the L0 penalty."""
        raise NotImplementedError


class Sigmoid(Gate):
    r"""The gate of continuous sparsification: a sigmoid that becomes a step as β grows.

    .. math:: \frac{\sigma(\beta s)}{\sigma(s_0)}, \qquad
              \frac{\partial L}{\partial s} = \beta\, \sigma(\beta s)\, (1 - \sigma(\beta s))\,
              \frac{w}{\sigma(s_0)}\, \frac{\partial L}{\partial (m \odot w)}

    Every number s starts at :math:`s_0`. With the factor :math:`1 / \sigma(s_0)`, which the
    authors' code has, the network starts as if it had no gates. The lower :math:`s_0`, the fewer
    weights remain: from :math:`-0.3` to 0.1 is a useful range.

    Args:
        start: :math:`s_0`, from −30 to 30.

    Raises:
        ValueError: a start that is not finite or outside this range.
        TypeError: a start that is no number.
    """

    anneals = True

    def __init__(self, start: float = 0.0) -> None:
        super().__init__(start, 1.0)
        self.scale = 1 + math.exp(-self.start)  # 1 / σ(s₀)

    def factor(self) -> Tensor:
        return self.opened(self.logits, self.beta) * self.scale

    def hard(self) -> Tensor:
        return (self.logits > 0) * self.scale

    def opened(self, logits: Tensor, beta: Tensor) -> Tensor:
        return torch.sigmoid(beta * at_least_float32(logits))


class HardConcrete(Gate):
    r"""The gate of L0 regularisation: noise that is stretched beyond 0 and 1, then clipped to them.

    .. math:: z = \min\big(1, \max(0, \bar s)\big), \qquad
              \bar s = \sigma\Big(\frac{\log u - \log(1 - u) + \log\alpha}{\beta}\Big)
              (\zeta - \gamma) + \gamma, \qquad u \sim \mathcal U(0, 1)

    with γ = −0.1, ζ = 1.1 and β = 2/3. In training mode each forward pass draws one z per weight.
    In evaluation mode the gate is :math:`\min(1, \max(0, \sigma(\log\alpha)(\zeta - \gamma) +
    \gamma))`. The probability that a gate is not closed, for the penalty, is

    .. math:: P(z \neq 0) = \sigma\Big(\log\alpha - \beta \log\frac{-\gamma}{\zeta}\Big)

    The gate that is used in evaluation mode is already 0 at :math:`\log\alpha = \log(1/11)`, where
    training still opens it now and then.

    Args:
        start: :math:`\log\alpha` of every weight at the start, from −30 to 30.

    Raises:
        ValueError, TypeError: as ``Sigmoid``.
    """

    low, high = -0.1, 1.1  # γ and ζ

    def __init__(self, start: float = 2.0) -> None:
        super().__init__(start, 2 / 3)

    def factor(self) -> Tensor:
        if not self.training:
            return self.hard()
        logits = at_least_float32(self.logits)
        u = torch.rand_like(logits)
        return self._clipped(torch.sigmoid((u.log() - (-u).log1p() + logits) / self.beta))

    def hard(self) -> Tensor:
        return self._clipped(torch.sigmoid(at_least_float32(self.logits)))

    def opened(self, logits: Tensor, beta: Tensor) -> Tensor:
        return torch.sigmoid(at_least_float32(logits) - beta * math.log(-self.low / self.high))

    def _clipped(self, s: Tensor) -> Tensor:
        return (s * (self.high - self.low) + self.low).clamp(0, 1)


def attach(model: nn.Module, gate: Gate, names: Collection[str] | None = None) -> None:
    """Put a gate before every weight of the linear and convolution layers, in place.

    Args:
        model: a network. Biases and batch norms get no gates, and frozen weights stay frozen under
            gates that train.
        gate: ``Sigmoid()`` or ``HardConcrete()``. Every layer gets gates of its own.
        names: the layers that get gates. None means all of them.

    Raises:
        ValueError: a ``model`` that has gates, or has no such layer; no name, or one that is none of
            them;
            a weight that is not plain, not finite, or tied to another layer's. The model is then as
            it was.
        TypeError: a ``gate`` of another kind, names that are no collection of strings, a stack.

    Examples:
        >>> layer = nn.Linear(2, 1)
        >>> before = layer.weight.detach().clone()
        >>> attach(layer, Sigmoid())
        >>> torch.equal(layer.weight, before)  # with β = 1, the layer is as before
        True
        >>> [name for name, _ in layer.named_parameters()][1:3]
        ['parametrizations.weight.original', 'parametrizations.weight.0.logits']
    """
    if not isinstance(gate, Gate):
        raise TypeError(f"gate must be Sigmoid() or HardConcrete(), got {gate!r}")
    if isinstance(model, ensemble.Stack):
        raise TypeError("model must be one network, got a stack: attach gates, then stack")
    taken = [name for name, module in model.named_modules() if isinstance(module, Gate)]
    if taken:
        raise ValueError(f"model must have no gates yet, got one at {_weight_of(taken[0])!r}")
    layers.weights(model)
    found = layers.weighted(model, plain=True)
    if names is not None:
        found = {name: found[name] for name in check_names(names, found)}
    # A gate in one layer would leave the others that share its weight without.
    layers.check_untied(model, [layer.weight for layer in found.values()], twice=True)
    for layer in found.values():
        parametrize.register_parametrization(layer, "weight", gate.on(layer.weight))
        layer.parametrizations.train(layer.training)


def check_names(
    names: Collection[str], known: Collection[str], what: str = "layers"
) -> Collection[str]:
    """The names, if they are a collection of at least one and all are known."""
    if isinstance(names, str) or not isinstance(names, Collection):
        raise TypeError(f"names must be a collection of layer names, got {names!r}")
    if not names:
        raise ValueError(f"names must hold at least one of {[*known]}, got none")
    for name in names:
        if name not in known:
            raise ValueError(f"names must be {what} of {[*known]}, got {name!r}")
    return names


def parameter_groups(model: nn.Module, **of_gates: Any) -> list[dict[str, Any]]:
    """The parameters of a gated model in two groups, for an optimizer: the others, and the gates.

    The gates get no weight decay, whatever the optimizer's setting is.

    Args:
        model: a network with gates, or a stack of such networks.
        of_gates: further settings of the gates' group, such as ``lr``.

    Raises:
        ValueError: a ``model`` without gates.

    Examples:
        >>> layer = nn.Linear(2, 1)
        >>> attach(layer, Sigmoid())
        >>> optimizer = torch.optim.SGD(parameter_groups(layer), lr=0.1, weight_decay=5e-4)
        >>> [group["weight_decay"] for group in optimizer.param_groups]
        [0.0005, 0.0]
    """
    logits = [model.get_parameter(f"{name}.logits") for name in _gates(model)]
    known = {id(p) for p in logits}
    others = [p for p in model.parameters() if id(p) not in known]
    return [{"params": others}, {"params": logits, "weight_decay": 0.0} | of_gates]


def anneal(
    optimizer: torch.optim.Optimizer, model: nn.Module, *, to: float = 200.0, steps: int
) -> torch.utils.hooks.RemovableHandle:
    r"""Make the gates steeper from now on: after every optimizer step β grows by the same factor.

    .. math:: \beta_t = \beta_0 \left(\frac{\beta_T}{\beta_0}\right)^{t / T}

    The first of T steps runs with :math:`\beta_0`, which is 1 for ``Sigmoid`` gates, and after the
    last one β is :math:`\beta_T`, where it stays. (The authors' code multiplies β once per epoch.)
    How far the annealing has come is read from β itself, so it continues from a checkpoint, and in a
    second round after ``reset``.

    To use it in a ``training.Plan``, make the optimizer and the hook in one function of the model::

        def annealed(model):
            optimizer = torch.optim.SGD(gates.parameter_groups(model), lr=0.1, momentum=0.9)
            gates.anneal(optimizer, model, steps=1200)
            return optimizer

    Args:
        model: a network with ``Sigmoid`` gates or with ``shift_attention``, or a stack of such
            networks.
        to: :math:`\beta_T` > :math:`\beta_0`.
        steps: T, the steps of the training.

    Returns:
        A handle; after ``handle.remove()`` β stays as it is.

    Raises:
        ValueError: ``to`` that is not finite, not above :math:`\beta_0` or below the model's β;
            ``steps`` below 1; a model without gates that grow steeper, or with a β in half
            precision; an optimizer that does not train the gates, or that gives them weight decay.
        TypeError: ``to`` that is no number.

    Examples:
        >>> layer = nn.Linear(2, 1)
        >>> attach(layer, Sigmoid())
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> handle = anneal(optimizer, layer, to=100.0, steps=2)
        >>> for _ in range(3):
        ...     optimizer.step()
        ...     print(layer.parametrizations.weight[0].beta.item())
        10.0
        100.0
        100.0
    """
    check_counts(steps=steps)
    check_number("to", to)
    betas = _annealed(model, to)
    _check_no_decay(optimizer, model)

    @torch.no_grad()
    def grow(*_: object) -> None:
        if step_skipped(optimizer):
            return
        for beta, first in betas:  # () or (K,)
            whole = math.log(to / first)
            done = ((beta.double() / first).log() * (steps / whole)).round()
            beta.copy_(first * (whole * (done + 1).clamp(max=steps) / steps).exp())

    return optimizer.register_step_post_hook(grow)


def expected(model: nn.Module) -> Tensor:
    r"""The L0 penalty of the gates: how many weights they leave, softly counted.

    .. math:: \sum_i \sigma(\beta s_i) \quad \text{or} \quad \sum_i P(z_i \neq 0)

    Multiply it by a strength λ and add it to the loss. For a stack there is one number per member,
    as for the loss. While a gate is half open, its weight can grow to make up for it. The same λ
    therefore removes more weights here than in the problem with :math:`\lVert m \rVert_0`.

    Returns:
        (), or (K,) for a stack, with a gradient.

    Raises:
        ValueError: a ``model`` without gates.

    Examples:
        >>> layer = nn.Linear(4, 1)
        >>> attach(layer, Sigmoid())
        >>> expected(layer)
        tensor(2., grad_fn=...)
    """
    total: Any = 0.0  # then a tensor
    for name, gate in _gates(model).items():
        logits, beta = (model.get_parameter(f"{name}.{leaf}") for leaf in ("logits", "beta"))
        opened = gate.opened(logits, _spread(beta, logits))
        total = total + opened.flatten(beta.dim()).sum(-1)
    return total


def reset(model: nn.Module) -> None:
    r"""Begin the next round of continuous sparsification, in place.

    .. math:: s \leftarrow \min(\beta s, s_0), \qquad \beta \leftarrow 1

    A weight whose gate is closed keeps a closed one: with β = 1 its gate is σ(βs), as it was. A
    weight whose gate is open starts again at :math:`s_0`. (The authors' code sets β to 1 first, and
    then the minimum no longer sees it: gates of removed weights begin near one half again.)

    Args:
        model: a network with ``Sigmoid`` gates, or a stack of such networks.

    Raises:
        ValueError: a ``model`` without ``Sigmoid`` gates.

    Examples:
        >>> layer = nn.Linear(2, 1)
        >>> attach(layer, Sigmoid(start=-0.1))
        >>> gate = layer.parametrizations.weight[0]
        >>> gate.logits.data, gate.beta.data = torch.tensor([[0.5, -0.5]]), torch.tensor(200.0)
        >>> reset(layer)
        >>> gate.logits.tolist(), gate.beta.item()
        ([[-0.10000000149011612, -100.0]], 1.0)
    """
    with torch.no_grad():
        for name, gate in _sigmoids(model).items():
            logits, beta = (model.get_parameter(f"{name}.{leaf}") for leaf in ("logits", "beta"))
            logits.copy_((_spread(beta, logits) * at_least_float32(logits)).clamp(max=gate.start))
            beta.fill_(1)


def harden(model: nn.Module) -> Masks:
    r"""Turn a gated network into an ordinary one, in place, and return the masks that it has.

    .. math:: w \leftarrow w \cdot \frac{\mathbb 1[s > 0]}{\sigma(s_0)}

    The factor :math:`1 / \sigma(s_0)` stays in the weights: without it the network would not be
    the limit of the soft one. ``HardConcrete`` gates are folded as they are in evaluation mode, and
    the masks are True where they are not 0.

    Args:
        model: a network with gates. For a stack, harden its ``ensemble.members``.

    Returns:
        Masks: parameter name -> bool tensor, True where the weight remains.

    Raises:
        ValueError: a ``model`` without gates, or with another parametrisation beside them; a kernel
            slice of ``shift_attention`` without a winner.
        TypeError: a stack.

    Examples:
        >>> layer = nn.Linear(2, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> attach(layer, Sigmoid())
        >>> layer.parametrizations.weight[0].logits.data = torch.tensor([[0.5, -0.5]])
        >>> harden(layer)
        {'weight': tensor([[ True, False]])}
        >>> layer.weight
        Parameter containing:
        tensor([[6., 0.]], requires_grad=True)
    """
    if isinstance(model, ensemble.Stack):
        raise TypeError("model must be one network, got a stack: harden its ensemble.members")
    gates = _gates(model)
    for name in gates:
        if len(_steps(model, name)) > 1:
            raise ValueError(
                f"model must have nothing but the gate at {_weight_of(name)!r}, which has another "
                "parametrisation too"
            )
    keep = {}
    with torch.no_grad():
        factors = {name: gate.hard() for name, gate in gates.items()}  # one of them may refuse
        for name, factor in factors.items():
            weight = _steps(model, name).original
            weight.copy_((at_least_float32(weight) * factor).to(weight.dtype))
            parametrized.restore(model.get_submodule(_owner(name)), "weight", weight)
            keep[_weight_of(name)] = factor != 0
    return keep


# ---- where the gates are


def _gates(model: nn.Module) -> dict[str, Gate]:
    """The gates by name. Those of a stack are its template's: read their kind, not their numbers."""
    layers.check_module(model)
    modules = ensemble.template(model).named_modules()
    found = {name: module for name, module in modules if isinstance(module, Gate)}
    if not found:
        raise ValueError(
            f"model must have gates, got {type(model).__name__} without any: attach them first"
        )
    return found


def _sigmoids(model: nn.Module) -> dict[str, Gate]:
    gates = _gates(model)
    others = [name for name, gate in gates.items() if not isinstance(gate, Sigmoid)]
    if others:
        kind = type(gates[others[0]]).__name__
        raise ValueError(f"model must have Sigmoid gates, got {kind} at {_weight_of(others[0])!r}")
    return gates


def _steps(model: nn.Module, name: str) -> Any:
    """The list of parametrisations that a gate is in."""
    return model.get_submodule(name.rpartition(".")[0])


def _owner(name: str) -> str:
    """The layer of a gate: fc1.parametrizations.weight.0 -> fc1."""
    return name.rpartition("parametrizations.")[0].removesuffix(".")


def _weight_of(name: str) -> str:
    owner = _owner(name)
    return f"{owner}.weight" if owner else "weight"


def _spread(beta: Tensor, logits: Tensor) -> Tensor:
    """β of every member, () or (K,), in a shape that multiplies its gates, (…) or (K, …)."""
    return beta.view(beta.shape + (1,) * (logits.dim() - beta.dim())) if beta.dim() else beta


# ---- what is refused


def _check_start(start: float) -> None:
    if not abs(check_number("start", start)) <= LIMIT:  # also NaN
        raise ValueError(f"start must be from {-LIMIT:g} to {LIMIT:g}, got {start!r}")


def _annealed(model: nn.Module, to: float) -> list[tuple[Tensor, float]]:
    """The β of all gates and where it began, after a check that they can grow to ``to``."""
    betas = []
    for name, gate in _gates(model).items():
        if not gate.anneals:
            raise ValueError(
                f"model must have Sigmoid gates, got {type(gate).__name__} at {_weight_of(name)!r}"
            )
        if not gate.first < to < math.inf:
            raise ValueError(f"to must be above {gate.first:g} and finite, got {to!r}")
        beta = model.get_parameter(f"{name}.beta")
        betas.append((beta, gate.first))
        if beta.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"model must hold β in float32, where its small steps are not rounded away, got "
                f"{beta.dtype} at {_weight_of(name)!r}: attach the gates after the conversion"
            )
        if beta.max() > to:
            raise ValueError(
                f"to must be at least the model's β, {beta.max().item():g}, got {to!r}: begin a new "
                "round with reset"
            )
    return betas


def _check_no_decay(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    logits = {f"{name}.logits": model.get_parameter(f"{name}.logits") for name in _gates(model)}
    check_trains("model", optimizer, {n: p for n, p in logits.items() if p.requires_grad})
    known = {id(p) for p in logits.values()}
    for group in optimizer.param_groups:
        if group.get("weight_decay", 0) and any(id(p) in known for p in group["params"]):
            raise ValueError(
                "optimizer must give the gates no weight decay, got "
                f"{group['weight_decay']}: make it from gates.parameter_groups(model)"
            )
