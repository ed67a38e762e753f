r"""Bayesian pruning: each weight, or each unit, learns how much noise it can bear.

A network with a distribution :math:`q` over its weights is trained to explain the data and to stay
close to a prior :math:`p`. Per training example, the loss is

.. math:: \mathbb{E}_{q(w)} L(w) + \frac{\lambda}{N}\, \mathrm{KL}(q(w) \,\|\, p(w)),
          \qquad \lambda = 1,\; N \text{ training examples}

The priors here prefer noise, so whatever the data do not need becomes noisy, and is then removed.

===============  ======================  =========================  ========================
layer            noise on                prior                      removed where
===============  ======================  =========================  ========================
``Variational``  each weight             log-uniform                log α > 3
``Jeffreys``     each input, weights     normal-Jeffreys            log α > 3
``Horseshoe``    each input, weights     half-Cauchy scales         v − m > 3
``Structured``   each input              log-uniform on [a, b]      log α > 0, so SNR < 1
===============  ======================  =========================  ========================

Here :math:`\alpha = \operatorname{Var} / \operatorname{mean}^2` is the noise-to-signal ratio, and
the signal-to-noise ratio (SNR) is :math:`\alpha^{-1/2}`.

``noisy`` gives a network such layers, ``charge`` adds the gradient of the KL term to every step of
an optimizer, and ``harden`` makes an ordinary network again. All of them work on a network and on an
``ensemble.stack``. In training mode each example meets its own noise, drawn from torch's global
generator; in evaluation mode a layer computes with the mean.

Sources: Molchanov, Ashukha & Vetrov 2017 (sparse variational dropout); Louizos, Ullrich & Welling
2017 (groups, bits); Neklyudov et al. 2017 (structured). The formulas were compared with the authors'
code, not with the papers' text, so they have no equation numbers here.
"""

import functools
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.hooks import RemovableHandle

from course_lib import ensemble, layers
from course_lib.data import check_counts, check_nonnegative, check_number, check_positive
from course_lib.handles import check_dense, run_closure, trained
from course_lib.layers import at_least_float32, check_floating
from course_lib.pruning.channels import ChannelGraph
from course_lib.pruning.masks import Masks, step_skipped

Parameters = Mapping[str, Tensor]  # of one layer: leaf -> (K, …), the members in front
EXACT = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
LEAST = 1e-12  # added to squares under a logarithm or a root
VANISHED = 1e-6  # a mean multiplier this small removes its input, whatever its SNR


# ---- formulas


def kl_log_uniform(log_alpha: Tensor) -> Tensor:
    r"""KL divergence of :math:`N(\theta, \alpha\theta^2)` from the log-uniform prior, elementwise.

    .. math:: \mathrm{KL}(\alpha) = \mathbb{E} \log|1 + \sqrt\alpha\, \varepsilon|
              - \tfrac12 \log\alpha + \tfrac12(\gamma + \log 2),
              \quad \varepsilon \sim N(0, 1)

    The prior is improper, so the divergence is known up to a constant. The one here makes it fall to
    0 as α → ∞ (γ is Euler's constant). The gradient is exact: with Dawson's function
    :math:`D(x) = e^{-x^2} \int_0^x e^{t^2} dt` and :math:`u = 1 / (2\alpha)` it is

    .. math:: \frac{d\,\mathrm{KL}}{d \log\alpha} = -\sqrt{u}\, D(\sqrt{u})

    Values and slopes come from a table that is computed once, in float64, by Taylor's formula; their
    error is below 2e-9 in float64. (``kl_approximation`` is the paper's formula.)

    Args:
        log_alpha: of any shape.

    Raises:
        TypeError: something else than a floating-point tensor.
        ValueError: NaN.

    Examples:
        >>> kl_log_uniform(torch.tensor([-8.0, 0.0, 3.0]))
        tensor([4.6350, 0.4267, 0.0247])
    """
    _check_numbers("log_alpha", log_alpha)
    return _LogUniform.apply(log_alpha)


def kl_approximation(log_alpha: Tensor) -> Tensor:
    r"""The paper's approximation of ``kl_log_uniform``, elementwise.

    .. math:: k_1 - k_1 S(k_2 + k_3 \log\alpha) + \tfrac12 \log(1 + \alpha^{-1})

    S is the sigmoid, and :math:`k_1 = 0.63576,\; k_2 = 1.87320,\; k_3 = 1.48695`. It is at most
    0.0094 away for log α from −8 to 8.

    Source: Molchanov et al. 2017; the constants are those of the authors' code.

    Raises:
        TypeError, ValueError: as ``kl_log_uniform``.

    Examples:
        >>> kl_approximation(torch.tensor([-8.0, 0.0, 3.0]))
        tensor([4.6359, 0.4312, 0.0254])
    """
    _check_numbers("log_alpha", log_alpha)
    t = at_least_float32(log_alpha)
    found = 0.63576 * torch.sigmoid(-1.87320 - 1.48695 * t) + 0.5 * F.softplus(-t)
    return found.to(log_alpha.dtype)


def kl_lognormal_gamma(mean: Tensor, variance: Tensor, scale: float = 1.0) -> Tensor:
    r"""KL divergence of a log-normal from the gamma distribution Γ(½, scale k), elementwise.

    .. math:: \frac{e^{m + v/2}}{k} - \tfrac12 (m - \log k + \log v + 1 + \log 2)

    Args:
        mean, variance: m and v of the logarithm, of shapes that broadcast.
        scale: k > 0.

    Raises:
        TypeError, ValueError: numbers of another type, NaN, a scale that is not positive.

    Examples:
        >>> kl_lognormal_gamma(torch.tensor(-1.0), torch.tensor(1.0))
        tensor(0.2600)
    """
    _check_numbers("mean", mean)
    _check_numbers("variance", variance)
    check_positive("scale", scale)
    m, v = at_least_float32(mean), at_least_float32(variance)
    k = math.log(scale)
    kl = torch.exp(m + v / 2 - k) - (m - k + v.log() + 1 + math.log(2)) / 2
    return kl.to(mean.dtype)


def kl_lognormal_inverse_gamma(mean: Tensor, variance: Tensor) -> Tensor:
    r"""KL divergence of a log-normal from the inverse gamma distribution IG(½, 1), elementwise.

    .. math:: e^{-m + v/2} - \tfrac12 (-m + \log v + 1 + \log 2)

    One over such a variable is Γ(½, 1), so this is ``kl_lognormal_gamma`` of −m.

    Raises:
        TypeError, ValueError: as ``kl_lognormal_gamma``.

    Examples:
        >>> kl_lognormal_inverse_gamma(torch.tensor(1.0), torch.tensor(1.0))
        tensor(0.2600)
    """
    _check_numbers("mean", mean)
    return kl_lognormal_gamma(-mean, variance)


def truncated_moments(
    mu: Tensor, log_sigma: Tensor, low: float = -20.0, high: float = 0.0
) -> tuple[Tensor, Tensor]:
    r"""Mean and signal-to-noise ratio of θ, where log θ is normal, truncated to [a, b].

    With :math:`A = (a - \mu)/\sigma,\; B = (b - \mu)/\sigma,\; Z = \Phi(B) - \Phi(A)`:

    .. math:: \mathbb{E}\,\theta^k = e^{k\mu + k^2\sigma^2/2}\,
              \frac{\Phi(B - k\sigma) - \Phi(A - k\sigma)}{Z},
              \qquad \mathrm{SNR} = \frac{\mathbb{E}\,\theta}{\sqrt{\operatorname{Var} \theta}}

    Everything is computed in logarithms and float64. It holds for μ and log σ of −25 … 5 and −10 … 5;
    a narrower distribution far outside of [a, b] loses digits. The SNR does not grow with the mean: where all
    the mass lies close to a, the mean is nearly 0 and the SNR is high. Look at both.

    Source: Neklyudov et al. 2017, from the authors' code.

    Args:
        mu, log_sigma: of shapes that broadcast.
        low, high: a < b.

    Returns:
        The two in the type of ``mu``. An SNR above 1e6 is rounded off and may be anything above.

    Raises:
        TypeError: numbers of another type.
        ValueError: NaN, limits that are not finite or not in ascending order.

    Examples:
        >>> truncated_moments(torch.tensor([0.0, -25.0]), torch.tensor([-5.0, 0.0]))
        (tensor([9.9465e-01, 2.5299e-09]), tensor([246.69...,   4.53...]))
    """
    _check_truncation(mu, log_sigma, low, high)
    m, s = mu.double(), log_sigma.double().exp()
    a, b = (low - m) / s, (high - m) / s
    whole = _log_mass(a, b)
    first = m + s.square() / 2 + _log_mass(a - s, b - s) - whole  # log E θ
    second = 2 * (m + s.square()) + _log_mass(a - 2 * s, b - 2 * s) - whole  # log E θ²
    alpha = torch.expm1(second - 2 * first).clamp(min=1e-14)
    return first.clamp(low, high).exp().to(mu.dtype), alpha.rsqrt().to(mu.dtype)


def kl_truncated(mu: Tensor, log_sigma: Tensor, low: float = -20.0, high: float = 0.0) -> Tensor:
    r"""KL divergence of a truncated normal from the uniform distribution, both on [a, b], elementwise.

    In the notation of ``truncated_moments``, with the normal density φ:

    .. math:: \log(b - a) - \log\sigma - \log Z - \tfrac12 \log(2\pi e)
              - \frac{A\varphi(A) - B\varphi(B)}{2Z}

    It is also the divergence of θ, whose logarithm this is, from the log-uniform prior.

    Source: Neklyudov et al. 2017, from the authors' code.

    Args, Raises:
        As ``truncated_moments``.

    Examples:
        >>> kl_truncated(torch.tensor(0.0), torch.tensor(-5.0))
        tensor(7.2699)
    """
    _check_truncation(mu, log_sigma, low, high)
    m, log_s = mu.double(), log_sigma.double()
    a, b = ((limit - m) * torch.exp(-log_s) for limit in (low, high))
    near, rest = _mass(a, b)
    # A φ(A) / Z and B φ(B) / Z, with the largest factor of φ and Z cancelled
    ends = [
        x * torch.exp((near - x) * (near + x) / 2) / (math.sqrt(2 * math.pi) * rest) for x in (a, b)
    ]
    entropy = log_s + rest.log() - near.square() / 2 + math.log(2 * math.pi * math.e) / 2
    return (math.log(high - low) - entropy - (ends[0] - ends[1]) / 2).to(mu.dtype)


# ---- layers


class Noisy(nn.Module):
    """A linear or convolution layer with noise: y = W(z ⊙ x) + b, with noise in W, in z, or in both.

    A subclass says what z is and which KL term it has. If the weights have a variance σ², an output
    is normal, with mean W(z ⊙ x) + b and variance σ²(z ⊙ x)². The output is drawn, not the weights
    (local reparametrisation), so every example has noise of its own. Biases have none.

    Args:
        layer: its parameters become those of this layer.
        start: log σ² of all weights. None: the weights have no noise.
    """

    threshold = 3.0  #: ``harden`` removes where ``level`` is above it

    def __init__(self, layer: Any, start: float | None = None) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.kind = type(layer)
        self.options: dict[str, Any] = {}
        if self.kind is not nn.Linear:
            names = ("stride", "padding", "dilation", "groups")
            self.options = {name: getattr(layer, name) for name in names}
        self.log_variance = None if start is None else _filled(layer, layer.weight.shape, start)
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:  # the name that nn.Linear gives it
        h = at_least_float32(input)
        z = self.draw(_examples(self, h)) if self.training else self.scale()[0]  # (B | 1, in | 1)
        h = h * _spread_out(self, z, h)
        out = self.applied(h, self.weight, self.bias)
        if self.training and self.log_variance is not None:
            variance = self.applied(h.square(), at_least_float32(self.log_variance).exp(), None)
            out = out + (variance + LEAST).sqrt() * torch.randn_like(out)
        return out.to(input.dtype)

    def applied(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The linear map or convolution of this layer with these weights."""
        weight, bias = at_least_float32(weight), None if bias is None else at_least_float32(bias)
        if self.kind is nn.Linear:
            return F.linear(x, weight, bias)
        return getattr(F, f"conv{weight.dim() - 2}d")(x, weight, bias, **self.options)

    def draw(self, examples: int) -> Tensor:
        """z for each example: (B, in), or (1, 1) where it is no variable."""
        return self.weight.new_ones(1, 1)

    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of z, each (1, in) or (1, 1)."""
        return self.weight.new_ones(1, 1), self.weight.new_zeros(1, 1)

    def kl(self, own: Parameters) -> list[Tensor]:
        """The KL terms, each (K, …), of K members whose parameters of this layer are ``own``."""
        raise NotImplementedError

    def level(self) -> Tensor:
        """How noisy each weight or input is, in the weight's shape or (in,)."""
        raise NotImplementedError

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of the weights with z, as wide as float32, in the weight's shape."""
        weight = at_least_float32(self.weight)
        mean, variance = (_per_weight(self, s.double()).to(weight.dtype) for s in self.scale())
        own = 0 if self.log_variance is None else at_least_float32(self.log_variance).exp()
        return mean * weight, mean.square() * own + variance * (weight.square() + own)


class Variational(Noisy):
    r"""Sparse variational dropout: :math:`w \sim N(\theta, \sigma^2)`, a log-uniform prior.

    The parameters are θ (``weight``) and log σ² (``log_variance``); then α = σ²/θ². The authors' code
    also sets weights with log α ≥ 3 to zero while it trains, and clips log α to [−8, 8].

    Source: Molchanov et al. 2017.
    """

    def __init__(self, layer: Any, start: float = -8.0) -> None:
        super().__init__(layer, start)

    def kl(self, own: Parameters) -> list[Tensor]:
        return [kl_log_uniform(_log_ratio(own["log_variance"], own["weight"]))]

    def level(self) -> Tensor:
        return _log_ratio(self.get_parameter("log_variance"), self.weight)


class Jeffreys(Noisy):
    r"""Group normal-Jeffreys: one multiplier per input, and weights with noise.

    :math:`z_i \sim N(\mu_z, \sigma_z^2)` and :math:`w_{ij} \sim N(\mu_{ij}, \sigma_{ij}^2)`:

    .. math:: \mathrm{KL} = \sum_i \mathrm{KL}(\alpha_i) + \tfrac12 \sum_{ij}
              (\sigma_{ij}^2 + \mu_{ij}^2 - 1 - \log \sigma_{ij}^2)

    with ``kl_log_uniform`` of :math:`\alpha_i = \sigma_z^2 / \mu_z^2`. An input is a column of a
    linear layer or an input channel of a convolution. (The authors' code has a multiplier per
    *output* channel of a convolution, and noise in the biases too.)

    Source: Louizos et al. 2017.
    """

    def __init__(self, layer: Any, start: float = -9.0) -> None:
        super().__init__(layer, start)
        inputs = layer.weight.shape[1] * self.options.get("groups", 1)
        self.scale_mean = _filled(layer, (inputs,), 1.0)
        self.scale_log_variance = _filled(layer, (inputs,), start)

    def draw(self, examples: int) -> Tensor:
        mean, variance = self.scale()
        return mean + variance.sqrt() * torch.randn(
            examples, mean.shape[1], device=mean.device, dtype=mean.dtype
        )

    def scale(self) -> tuple[Tensor, Tensor]:
        mean, log_variance = map(at_least_float32, (self.scale_mean, self.scale_log_variance))
        return mean[None], log_variance.exp()[None]

    def kl(self, own: Parameters) -> list[Tensor]:
        ratio = _log_ratio(own["scale_log_variance"], own["scale_mean"])
        return [kl_log_uniform(ratio), _kl_normal(own)]

    def level(self) -> Tensor:
        return _log_ratio(self.scale_log_variance, self.scale_mean)


class Horseshoe(Noisy):
    r"""Group horseshoe: multipliers :math:`z_i = s\, \tilde z_i` with half-Cauchy priors.

    :math:`s \sim C^+(0, \tau_0)` belongs to the layer and :math:`\tilde z_i \sim C^+(0, 1)` to an
    input. The square of a variable :math:`C^+(0, k)` is a product of two: Γ(½, scale k²) times
    IG(½, 1). All four factors have log-normal posteriors, so z is log-normal too, with
    :math:`m = \tfrac12 \sum m` and :math:`v = \tfrac14 \sum v`. Its negative log-mode v − m is the
    ``level``. The weights' own KL term is that of ``Jeffreys``.

    Source: Louizos et al. 2017 name the prior; the formulas here are derived, for the authors' code
    does not have it.

    Args:
        tau: τ₀.
    """

    def __init__(self, layer: Any, start: float = -9.0, tau: float = 1e-3) -> None:
        check_positive("tau", tau)
        super().__init__(layer, start)
        self.tau = tau
        inputs = layer.weight.shape[1] * self.options.get("groups", 1)
        # Rows: gamma, inverse gamma. The last column is s, the others are z̃. At the start s = τ₀ and
        # z̃ = 1/τ₀, whose size lies in the inverse gamma factors, which have the heavy tail.
        self.scale_mean = _filled(layer, (2, inputs + 1), 0.0)
        self.scale_mean.data[0, -1] = 2 * math.log(tau)
        self.scale_mean.data[1, :-1] = -2 * math.log(tau)
        self.scale_log_variance = _filled(layer, (2, inputs + 1), start)

    def draw(self, examples: int) -> Tensor:
        mean, variance = self._logarithm()
        noise = torch.randn(examples, mean.shape[0], device=mean.device, dtype=mean.dtype)
        log_z = mean + variance.sqrt() * noise  # (B, in + 1): s is drawn once for all inputs
        return torch.exp(log_z[:, :-1] + log_z[:, -1:])

    def scale(self) -> tuple[Tensor, Tensor]:
        m, v = (part[:-1] + part[-1] for part in self._logarithm())
        mean = torch.exp(m + v / 2)[None]
        return mean, torch.expm1(v) * mean.square()

    def kl(self, own: Parameters) -> list[Tensor]:
        mean, variance = own["scale_mean"], own["scale_log_variance"].exp()  # (K, 2, in + 1)
        squared = [(slice(-1), 1.0), (slice(-1, None), self.tau**2)]
        gamma = [kl_lognormal_gamma(mean[:, 0, at], variance[:, 0, at], k) for at, k in squared]
        inverse = kl_lognormal_inverse_gamma(mean[:, 1], variance[:, 1])
        return [*gamma, inverse, _kl_normal(own)]

    def level(self) -> Tensor:
        m, v = (part[:-1] + part[-1] for part in self._logarithm())
        return v - m

    def _logarithm(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of log z̃ and, in the last place, of log s: half the sum of two logs."""
        mean, variance = (at_least_float32(p) for p in (self.scale_mean, self.scale_log_variance))
        return mean.sum(0) / 2, variance.exp().sum(0) / 4


class Structured(Noisy):
    r"""Structured Bayesian pruning: one multiplier θ per input; the weights have no noise.

    log θ is normal with mean μ and deviation σ, truncated to [a, b], and its prior is uniform there
    (``kl_truncated``). In evaluation mode an input is multiplied by E θ (``truncated_moments``).

    Source: Neklyudov et al. 2017, who put the multipliers on the outputs of a layer. Their code draws
    one θ per minibatch, and here every example has its own.

    Args:
        start: log σ. μ starts at b.
        low, high: a < b.
    """

    threshold = 0.0  # an SNR of 1

    def __init__(
        self, layer: Any, start: float = -5.0, low: float = -20.0, high: float = 0.0
    ) -> None:
        _check_limits(low, high)
        super().__init__(layer)
        self.low, self.high = float(low), float(high)
        inputs = layer.weight.shape[1] * self.options.get("groups", 1)
        self.mu = _filled(layer, (inputs,), self.high)
        self.log_sigma = _filled(layer, (inputs,), start)

    def draw(self, examples: int) -> Tensor:
        mu, sigma = at_least_float32(self.mu), at_least_float32(self.log_sigma).exp()
        first, last = (torch.special.ndtr((x - mu) / sigma) for x in (self.low, self.high))
        u = torch.rand(examples, len(mu), device=mu.device, dtype=mu.dtype)
        p = torch.lerp(first, last, u).clamp(1e-5, 1 - 1e-5)
        normal = math.sqrt(2) * torch.erfinv(2 * p - 1)  # the quantile, faster than ndtri
        return torch.addcmul(mu, sigma, normal).clamp(self.low, self.high).exp()

    def scale(self) -> tuple[Tensor, Tensor]:
        mean, snr = truncated_moments(
            self.mu.double(), self.log_sigma.double(), self.low, self.high
        )
        found = (mean[None], (mean / snr).square()[None])
        wide = at_least_float32(self.weight).dtype
        return found[0].to(wide), found[1].to(wide)

    def kl(self, own: Parameters) -> list[Tensor]:
        return [kl_truncated(own["mu"], own["log_sigma"], self.low, self.high)]

    def level(self) -> Tensor:
        mean, snr = truncated_moments(self.mu, self.log_sigma, self.low, self.high)
        # Where all mass lies close to a, the SNR is high though nothing is left of the signal.
        return (-2 * snr.log()).masked_fill(mean <= VANISHED, math.inf)


# ---- networks


def noisy(model: nn.Module, how: Callable[[Any], Noisy]) -> Any:
    """A copy whose linear and convolution layers have noise.

    The weights stay where they are, under the names that they have. Frozen layers stay plain.

    Args:
        model: a network or a stack.
        how: ``Variational``, ``Jeffreys``, ``Horseshoe`` or ``Structured``, perhaps with other
            settings bound: ``functools.partial(Variational, start=-5.0)``.

    Raises:
        ValueError: no such layer that trains; a weight that is not plain, not finite or tied; a layer
            with hooks.
        NotImplementedError: a transposed convolution, a convolution whose padding is not zeros, a
            layer with a forward pass of its own, an ``nn.MultiheadAttention``.
        TypeError: a ``how`` that does not make such a layer.

    Examples:
        >>> model = noisy(nn.Sequential(nn.Linear(3, 2)), Variational)
        >>> [name for name, _ in model.named_parameters()]
        ['0.weight', '0.bias', '0.log_variance']
    """
    return _each(model, functools.partial(_noisy, how=how))


def kl(model: nn.Module) -> Tensor:
    """The KL divergence of all noisy layers from their priors, () or (K,), with its gradient.

    Raises:
        ValueError: no noisy layer, or parameters of NaN.

    Examples:
        >>> kl(noisy(nn.Linear(3, 2), Structured)).item()  # 7.27 for each input
        21.8...
    """
    total = _total(_parts(model), stacked=isinstance(model, ensemble.Stack))
    return total if isinstance(model, ensemble.Stack) else total[0]


def charge(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    *,
    n: int,
    weight: float | Callable[[int], float] = 1.0,
) -> RemovableHandle:
    r"""Train with the KL term from now on: before every step, add the gradient of
    :math:`\lambda\,\mathrm{KL}/N`.

    Adam suits this objective: with SGD, log σ² hardly moves. A step that a GradScaler skips is left
    out, and where it leaves the gradients scaled, the added gradient is scaled too.

    Args:
        optimizer: of a loss that is a *mean* over examples, as that of ``training.fit``.
        model: a network, or a stack; every member pays its own KL term.
        n: N, the number of training examples (not that of a minibatch).
        weight: λ >= 0, or a function of the number of steps done since this call, such as ``ramp``.

    Returns:
        A handle; ``handle.remove()`` ends the charge.

    Raises:
        ValueError: an ``n`` below 1; a weight that is negative or not finite; no noisy layer; an
            optimizer that trains no parameter of these layers.
        TypeError: a weight that is no number; an optimizer that takes several gradients per step
            (LBFGS) or sparse ones.

    Examples:
        >>> model = noisy(nn.Linear(3, 2), Variational)
        >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        >>> handle = charge(optimizer, model, n=100)
        >>> before = kl(model).item()
        >>> optimizer.step()
        >>> kl(model).item() < before
        True
    """
    check_counts(n=n)
    at = weight if callable(weight) else lambda step: weight
    check_nonnegative("weight", at(0))
    check_dense(optimizer)
    stacked, parts = isinstance(model, ensemble.Stack), _parts(model)
    known = trained(optimizer)
    paying = [p for _, own in parts for p in own.values() if id(p) in known and p.requires_grad]
    if not any(slope is not None for slope in _slopes(parts, paying, stacked)):
        raise ValueError("optimizer must train the noisy layers of model, got other parameters")
    steps = 0

    def pay(_: object, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        nonlocal steps
        args, kwargs = run_closure(args, kwargs)
        if step_skipped(optimizer):
            return args, kwargs
        now, scale = at(steps), getattr(optimizer, "grad_scale", None)
        check_nonnegative(f"weight at step {steps}", now)
        if rate := now / n * (1 if scale is None else float(scale)):
            for p, slope in zip(paying, _slopes(parts, paying, stacked), strict=True):
                if slope is not None:
                    p.grad = slope * rate if p.grad is None else p.grad.add_(slope, alpha=rate)
        steps += 1
        return args, kwargs

    return optimizer.register_step_pre_hook(pay)


def ramp(steps: int, *, weight: float = 1.0) -> Callable[[int], float]:
    """A weight for ``charge`` that rises in a straight line from 0 and stays from ``steps`` on.

    Raises:
        ValueError: ``steps`` below 1, a weight that is negative or not finite.

    Examples:
        >>> rise = ramp(10)
        >>> rise(0), rise(5), rise(20)
        (0.0, 0.5, 1.0)
    """
    check_counts(steps=steps)
    check_nonnegative("weight", weight)
    return lambda step: weight * min(1.0, step / steps)


def levels(model: nn.Module) -> dict[str, Tensor]:
    """How noisy each weight is (``Variational``) or each input of a layer: weight's name -> values.

    This is log α, and for ``Horseshoe`` v − m. ``harden`` removes what is above its threshold. Where
    the multiplier of ``Structured`` has almost vanished, it is infinite. A stack's values are (K, …).

    Raises:
        ValueError: no noisy layer.

    Examples:
        >>> levels(noisy(nn.Linear(2, 1), Structured))
        {'weight': tensor([-11.01..., -11.01...])}
    """

    @torch.no_grad()
    def one(member: nn.Module) -> dict[str, Tensor]:
        return {_path(n, "weight"): layer.level() for n, layer in _noisy_layers(member).items()}

    return ensemble.joined(model, [one(member) for member in ensemble.members(model)])


def harden(model: nn.Module, threshold: float | None = None) -> tuple[Any, Masks]:
    """An ordinary network: posterior means as weights, and zeros where the noise is too high.

    Apart from these zeros it computes what the noisy network computes in evaluation mode.

    Args:
        model: a network or a stack with noisy layers. It does not change.
        threshold: weights, or whole inputs, whose ``levels`` are above it are removed. None means
            log α = 3, and log α = 0 (an SNR of 1) for ``Structured``. ``math.inf`` keeps all, but for
            multipliers that have vanished.

    Returns:
        The network, and its masks: parameter name -> True where the weight stays. Hold them
        (``masks.hold``) to train on. A warning names a layer of which nothing is left.

    Raises:
        ValueError: no noisy layer, a threshold of NaN.
        TypeError: a threshold that is no number.

    Examples:
        >>> layer = nn.Linear(2, 1)
        >>> layer.weight.data = torch.tensor([[1.0, 1e-4]])
        >>> plain, keep = harden(noisy(layer, Variational))
        >>> keep["weight"], plain.weight.tolist()
        (tensor([[ True, False]]), [[1.0, 0.0]])
    """
    _check_threshold(threshold)
    found = [_harden(member, threshold) for member in ensemble.members(model)]
    keep = ensemble.joined(model, [masks for _, masks in found])
    for name, mask in keep.items():
        if not all(part.any() for part in ensemble.by_member(model, {name: mask})[name]):
            warnings.warn(f"nothing is left of {name!r}: no signal passes it", stacklevel=2)
    plain = [network for network, _ in found]
    return (ensemble.stack(plain) if isinstance(model, ensemble.Stack) else plain[0]), keep


def precision(model: nn.Module, threshold: float | None = None) -> dict[str, Tensor]:
    r"""How many binary places the remaining weights of each layer need: weight's name -> () or (K,).

    A weight that is uncertain by a standard deviation s need not be stored more exactly. With t
    places, rounding changes it by at most :math:`2^{-t-1}`, and t is the smallest number >= 0 with

    .. math:: 2^{-t-1} \le s, \qquad s^2 = \text{mean posterior variance of the layer's kept weights}

    The authors' code compares with twice the variance and not with the deviation; which of the two
    the paper means could not be checked. Bits for the sign and the integer part come on top.

    Source: Louizos et al. 2017, with this difference.

    Args:
        model, threshold: as for ``harden``. A layer of which nothing is left needs 0.

    Raises:
        ValueError, TypeError: as ``harden``.

    Examples:
        >>> precision(noisy(nn.Linear(2, 1), Variational))  # s = e⁻⁴ = 0.018
        {'weight': tensor(5)}
    """
    _check_threshold(threshold)

    @torch.no_grad()
    def one(member: nn.Module) -> dict[str, Tensor]:
        found = {}
        for name, layer in _noisy_layers(member).items():
            kept = layer.posterior()[1].double()[_kept(layer, threshold)]
            places = -1 - kept.mean().clamp(min=1e-300).log2() / 2  # NaN where nothing is left
            found[_path(name, "weight")] = places.nan_to_num(nan=0.0).ceil().clamp(min=0).long()
        return found

    return ensemble.joined(model, [one(member) for member in ensemble.members(model)])


def unread(graph: ChannelGraph, keep: Mapping[str, Tensor]) -> set[int]:
    """The channels that no weight reads under these masks, for ``channels.remove``.

    Args:
        graph: of the ordinary network (``channels.trace``).
        keep: masks such as those of ``harden``. A layer without a mask reads all its channels.

    Raises:
        ValueError: masks of layers, or for numbers of channels, that ``graph`` does not have.

    Examples:
        >>> from course_lib.pruning import channels
        >>> graph = channels.trace(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), torch.zeros(1, 2))
        >>> unread(graph, {"1.weight": torch.tensor([[True, False]])})
        {3}
    """
    layer_of = {_path(name, "weight"): name for name in graph.reads}
    for name, mask in keep.items():
        reads = graph.reads.get(layer_of.get(name, ""), None)
        if reads is None or mask.dim() < 2 or mask.shape[1] != len(reads):
            raise ValueError(
                f"keep must fit graph, got {name!r} of shape {tuple(mask.shape)}; "
                f"it has {', '.join(layer_of)}"
            )
    read = set(graph.fixed)
    for weight, name in layer_of.items():
        used = [True] * len(graph.reads[name])
        if weight in keep:
            used = keep[weight].transpose(0, 1).flatten(1).any(1).tolist()
        read |= {i for i, u in zip(graph.reads[name], used, strict=True) if u}
    return set(graph.ids()) - read


# ---- inside


def _noisy(model: nn.Module, how: Callable[[Any], Noisy]) -> nn.Module:
    layers.check_called(model)
    _check_no_noise(model)
    layers.weights(model)
    model = layers.copied(model)
    found = layers.weighted(model, plain=True)
    new = {n: _made(n, layer, how) for n, layer in found.items() if layer.weight.requires_grad}
    if not new:
        raise ValueError("model must have a layer whose weight is not frozen, got none")
    layers.check_untied(model, [p for layer in found.values() for p in layer.parameters()])
    return _replaced(model, new)


def _made(name: str, layer: Any, how: Callable[[Any], Noisy]) -> Noisy:
    if type(layer) not in EXACT or "forward" in vars(layer):
        raise NotImplementedError(
            f"{name!r} must be a linear layer or a convolution, got {type(layer).__name__}"
        )
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        raise NotImplementedError(f"{name!r} must pad with zeros, got {layer.padding_mode!r}")
    if any(getattr(layer, hooks) for hooks in ensemble.HOOKS.values()):
        raise ValueError(f"model must have no hooks, but {name!r} has one: remove it first")
    made = how(layer) if callable(how) else how
    if not isinstance(made, Noisy):
        raise TypeError(f"how must make a Noisy layer, got {made!r}")
    return made


def _check_no_noise(model: nn.Module) -> None:
    found = [name for name, module in model.named_modules() if isinstance(module, Noisy)]
    if found:
        raise ValueError(f"model must have no noisy layer yet, but it has {found}")


def _noisy_layers(model: nn.Module) -> dict[str, Noisy]:
    layers.check_module(model)
    found = {name: m for name, m in model.named_modules() if isinstance(m, Noisy)}
    if not found:
        raise ValueError(
            f"model must have a noisy layer, got {type(model).__name__} without one: "
            "call bayesian.noisy first"
        )
    return found


def _replaced(model: nn.Module, new: Mapping[str, nn.Module]) -> nn.Module:
    for name, module in new.items():
        if not name:
            return module
        path, _, leaf = name.rpartition(".")
        model.get_submodule(path)._modules[leaf] = module
    return model


def _each(model: nn.Module, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    if isinstance(model, ensemble.Stack):
        return ensemble.stack([change(member) for member in ensemble.members(model)])
    return change(model)


def _harden(model: nn.Module, threshold: float | None) -> tuple[nn.Module, Masks]:
    _noisy_layers(model)
    model = layers.copied(model)
    new, keep = {}, {}
    with torch.no_grad():
        for name, layer in _noisy_layers(model).items():
            mask = keep[_path(name, "weight")] = _kept(layer, threshold)
            mean = layer.posterior()[0].to(layer.weight.dtype)
            new[name] = _plain(layer, mean.masked_fill(~mask, 0))
    return _replaced(model, new), keep


def _kept(layer: Noisy, threshold: float | None) -> Tensor:
    """True where the layer is not noisier than the threshold, in the weight's shape."""
    kept = layer.level() <= (layer.threshold if threshold is None else threshold)
    if kept.shape != layer.weight.shape:
        kept = _per_weight(layer, kept[None]).expand(layer.weight.shape)
    return kept.contiguous()


def _plain(layer: Noisy, weight: Tensor) -> nn.Module:
    """The layer's ordinary form, with this weight."""
    out, inside = weight.shape[0], weight.shape[1] * layer.options.get("groups", 1)
    sizes = {} if layer.kind is nn.Linear else {"kernel_size": tuple(weight.shape[2:])}
    # On "meta" nothing is drawn, so torch's generator stays as it is.
    made = layer.kind(
        inside, out, bias=layer.bias is not None, device="meta", **sizes, **layer.options
    )
    made.weight = nn.Parameter(weight, layer.weight.requires_grad)
    made.bias = layer.bias
    return made.train(layer.training)


def _filled(layer: Any, shape: Any, value: float) -> nn.Parameter:
    """A parameter of one value, beside those of the layer."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"start must be a finite number, got {value!r}")
    return nn.Parameter(layer.weight.new_full(shape, value))


def _examples(layer: Noisy, x: Tensor) -> int:
    """How many examples x holds; one that has no batch dimension is one."""
    bare = 1 if layer.kind is nn.Linear else layer.weight.dim() - 1
    return len(x) if x.dim() > bare else 1


def _spread_out(layer: Noisy, z: Tensor, x: Tensor) -> Tensor:
    """z, (B | 1, in | 1), so that it multiplies x: inputs are the last axis of a linear layer, and
    the first after the batch of a convolution."""
    between = max(x.dim() - 2, 0)
    if layer.kind is nn.Linear:
        return z.view(len(z), *[1] * between, -1) if x.dim() > 1 else z[0]
    spatial = layer.weight.dim() - 2
    wide = z.view(*z.shape, *[1] * spatial)
    return wide if x.dim() == spatial + 2 else wide[0]


def _per_weight(layer: Noisy, s: Tensor) -> Tensor:
    """A value per input, (1, in | 1), so that it multiplies the weight (out, in / groups, …)."""
    groups = layer.options.get("groups", 1)
    if s.shape[1] > 1:
        s = s.view(groups, -1).repeat_interleave(
            len(layer.weight) // groups, 0
        )  # (out, in / groups)
    return s.view(*s.shape, *[1] * (layer.weight.dim() - 2))


def _path(name: str, leaf: str) -> str:
    return f"{name}.{leaf}" if name else leaf


def _parts(model: nn.Module) -> list[tuple[Noisy, dict[str, Tensor]]]:
    """Each noisy layer with its parameters, which are (K, …) in a stack."""
    layers.check_module(model)
    own = dict(model.named_parameters())
    return [
        (layer, {leaf: own[_path(name, leaf)] for leaf, _ in layer.named_parameters()})
        for name, layer in _noisy_layers(ensemble.template(model)).items()
    ]


def _total(parts: list[tuple[Noisy, dict[str, Tensor]]], *, stacked: bool) -> Tensor:
    """The KL term, (K,)."""
    total: Any = 0.0
    for layer, own in parts:
        wide = {leaf: at_least_float32(p) for leaf, p in own.items()}
        if not stacked:
            wide = {leaf: p[None] for leaf, p in wide.items()}
        total = total + sum(term.flatten(1).sum(1) for term in layer.kl(wide))
    return total


def _slopes(parts: list, parameters: list[Tensor], stacked: bool) -> tuple[Tensor | None, ...]:
    """The gradients of the KL term; None where it does not depend on the parameter."""
    if not parameters:
        return ()
    with torch.enable_grad():
        total = _total(parts, stacked=stacked).sum()
        return torch.autograd.grad(total, parameters, allow_unused=True)


def _log_ratio(log_variance: Tensor, mean: Tensor) -> Tensor:
    """log α = log σ² − log θ², of at least float32."""
    square = at_least_float32(mean).square()
    return at_least_float32(log_variance) - (square + LEAST).log()


def _kl_normal(own: Parameters) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) of each weight."""
    mean, log_variance = (at_least_float32(own[leaf]) for leaf in ("weight", "log_variance"))
    return (log_variance.exp() + mean.square() - 1 - log_variance) / 2


class _LogUniform(torch.autograd.Function):
    """``kl_log_uniform`` with its exact slope."""

    @staticmethod
    def forward(ctx: Any, log_alpha: Tensor) -> Tensor:
        value, slope = _looked_up(at_least_float32(log_alpha))
        ctx.save_for_backward(slope)
        return value.to(log_alpha.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> Tensor:
        return (given * ctx.saved_tensors[0]).to(given.dtype)


FIRST, LAST, PER_UNIT = -20.0, 20.0, 256  # the table's ends in log α, and its steps per unit


@functools.cache
def _table(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    r"""The divergence and its first three derivatives in log α, each (steps + 1,).

    With a = u / cosh² y and u = 1/(2α), the divergence is the integral of 1 − exp(−a) over y > 0, and
    every derivative acts on a as −a d/da. (Put s = tanh y into D(x) = x ∫ exp(−x²(1 − s²)) ds.) The
    trapezoidal rule is exact to rounding for these.
    """
    steps = int(LAST - FIRST) * PER_UNIT
    u = torch.exp(-torch.linspace(FIRST, LAST, steps + 1, dtype=torch.float64)) / 2
    y = torch.arange(0, 30, 0.125, dtype=torch.float64)
    width = torch.full_like(y, 0.125)
    width[0] /= 2
    a = u[:, None] / y.cosh().square()
    shrunk = a * torch.exp(-a)
    rows = (-torch.expm1(-a), -shrunk, (1 - a) * shrunk, (3 * a - 1 - a.square()) * shrunk)
    return tuple((row @ width).to(device, dtype) for row in rows)


def _looked_up(t: Tensor) -> tuple[Tensor, Tensor]:
    """The divergence and its slope at any log α, by Taylor's formula from the next entry."""
    table = _table(t.device, t.dtype)
    inside = t.clamp(FIRST, LAST)
    place = ((inside - FIRST) * PER_UNIT).round()
    at, d = place.long(), inside - (place / PER_UNIT + FIRST)
    value, first, second, third = (torch.take(row, at) for row in table)
    value = value + d * (first + d / 2 * (second + d / 3 * third))
    slope = first + d * (second + d / 2 * third)
    beyond, below = (LAST - t).clamp(max=0).exp(), (FIRST - t).clamp(min=0)
    return value * beyond + below / 2, slope * beyond  # there KL is u, and here its slope −1/2


def _mass(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Φ(upper) − Φ(lower) = exp(−near² / 2) · rest, as (near, rest): no underflow, however far out.

    The interval is reflected to where Φ is small. ``near`` is its end next to 0, or 0 inside it.
    """
    reflect = lower + upper > 0
    lower, upper = torch.where(reflect, -upper, lower), torch.where(reflect, -lower, upper)
    near, far = upper.clamp(max=0), lower.clamp(max=0)
    root = math.sqrt(2)
    scaled = torch.special.erfcx(-far / root) * torch.exp((near - far) * (near + far) / 2)
    tail = (torch.special.erfcx(-near / root) - scaled) / 2
    inside = torch.special.ndtr(upper) - torch.special.ndtr(lower)
    return near, torch.where(upper > 0, inside, tail)


def _log_mass(lower: Tensor, upper: Tensor) -> Tensor:
    """log(Φ(upper) − Φ(lower))."""
    near, rest = _mass(lower, upper)
    return rest.log() - near.square() / 2


def _check_numbers(argument: str, x: Tensor) -> None:
    check_floating(argument, x)
    if x.isnan().any():
        raise ValueError(f"{argument} must hold no NaN, got {int(x.isnan().sum())}")


def _check_limits(low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"low and high must be finite and in ascending order, got {low} and {high}"
        )


def _check_truncation(mu: Tensor, log_sigma: Tensor, low: float, high: float) -> None:
    _check_numbers("mu", mu)
    _check_numbers("log_sigma", log_sigma)
    _check_limits(low, high)


def _check_threshold(threshold: float | None) -> None:
    if threshold is not None and math.isnan(check_number("threshold", threshold)):
        raise ValueError("threshold must be a number, got NaN")
