"""Answers to the exercises of lesson Bayesian pruning."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from course_lib.exercises.bayesian import buggy_noisy_conv, noisy_conv, noisy_outputs

# noisy_outputs


def outputs_by_formula(x, theta, log_var, noise):
    return x @ theta.T + (x.square() @ log_var.exp().T).sqrt() * noise


def outputs_by_linear(x, theta, log_var, noise):
    mean = F.linear(x, theta)
    variance = F.linear(x**2, torch.exp(log_var))
    return torch.addcmul(mean, torch.sqrt(variance), noise)


def outputs_by_einsum(x, theta, log_var, noise):
    mean = torch.einsum("ni,oi->no", x, theta)
    variance = torch.einsum("ni,oi->no", x * x, log_var.exp())
    return mean + noise * variance**0.5


def outputs_by_deviations(x, theta, log_var, noise):
    """The length of the vector x σ."""
    sigma = (log_var / 2).exp()
    return x @ theta.T + torch.linalg.vector_norm(x[:, None] * sigma, dim=2) * noise


def outputs_in_python(x, theta, log_var, noise):
    out = []
    for row, eps in zip(x.tolist(), noise.tolist()):
        line = []
        for weights, logs, e in zip(theta.tolist(), log_var.tolist(), eps):
            mean = sum(a * w for a, w in zip(row, weights))
            variance = sum(a * a * math.exp(s) for a, s in zip(row, logs))
            line.append(mean + math.sqrt(variance) * e)
        out.append(line)
    return torch.tensor(out)


def outputs_in_numpy(x, theta, log_var, noise):
    x, theta, log_var, noise = (t.double().numpy() for t in (x, theta, log_var, noise))
    return x @ theta.T + np.sqrt(x**2 @ np.exp(log_var).T) * noise


def outputs_one_by_one(x, theta, log_var, noise):
    return torch.stack(
        [theta @ a + (log_var.exp() @ a.square()).sqrt() * e for a, e in zip(x, noise)]
    )


def outputs_by_normal(x, theta, log_var, noise):
    spread = (x.pow(2) @ log_var.exp().t()).sqrt()
    return torch.distributions.Normal(0, 1).loc + x @ theta.t() + noise.mul(spread)


def outputs_by_broadcast(x, theta, log_var, noise):
    mean = (x.unsqueeze(1) * theta).sum(2)
    variance = (x.unsqueeze(1).square() * log_var.exp()).sum(-1)
    return mean + variance.sqrt() * noise


def outputs_with_a_floor(x, theta, log_var, noise):
    """As the authors' code, which adds 1e-8 under the root."""
    return x @ theta.T + (x.square() @ log_var.exp().T + 1e-8).sqrt() * noise


def outputs_with_a_clamp(x, theta, log_var, noise):
    return x @ theta.T + (x.square() @ log_var.exp().T).clamp(min=1e-8).sqrt() * noise


def outputs_parameter(x, theta, log_var, noise):
    return torch.nn.Parameter(outputs_by_formula(x, theta, log_var, noise))


def outputs_with_gradient(x, theta, log_var, noise):
    return outputs_by_formula(x, theta.requires_grad_(False), log_var, noise)


def outputs_list(x, theta, log_var, noise):
    return outputs_by_formula(x, theta, log_var, noise).tolist()


def outputs_root_of_a_sum(x, theta, log_var, noise):
    """x is not squared, so a negative sum has no root."""
    return x @ theta.T + (x @ log_var.exp().T).sqrt() * noise


def outputs_pair(x, theta, log_var, noise):
    return x @ theta.T, (x.square() @ log_var.exp().T).sqrt() * noise


def outputs_turned(x, theta, log_var, noise):
    return outputs_by_formula(x, theta, log_var, noise).T


def outputs_mean_of_examples(x, theta, log_var, noise):
    return outputs_by_formula(x, theta, log_var, noise).mean(0)


def outputs_flat(x, theta, log_var, noise):
    return outputs_by_formula(x, theta, log_var, noise).flatten()


def outputs_mean_only(x, theta, log_var, noise):
    return x @ theta.T


def outputs_noise_only(x, theta, log_var, noise):
    return (x.square() @ log_var.exp().T).sqrt() * noise


def outputs_by_variance(x, theta, log_var, noise):
    """The root is missing."""
    return x @ theta.T + (x.square() @ log_var.exp().T) * noise


def outputs_x_unsquared(x, theta, log_var, noise):
    return x @ theta.T + (x @ log_var.exp().T).abs().sqrt() * noise


def outputs_x_size(x, theta, log_var, noise):
    return x @ theta.T + (x.abs() @ log_var.exp().T).sqrt() * noise


def outputs_sum_of_deviations(x, theta, log_var, noise):
    """Deviations add up only if one noise serves all weights."""
    return x @ theta.T + (x.abs() @ (log_var / 2).exp().T) * noise


def outputs_one_noise(x, theta, log_var, noise):
    """Σ x (θ + σ ε) with the same ε for all the weights of an output."""
    return x @ theta.T + (x @ (log_var / 2).exp().T) * noise


def outputs_log_deviation(x, theta, log_var, noise):
    """Takes log_var for log σ."""
    return x @ theta.T + (x.square() @ (2 * log_var).exp().T).sqrt() * noise


def outputs_half(x, theta, log_var, noise):
    """exp(log_var / 2) where the variance belongs."""
    return x @ theta.T + (x.square() @ (log_var / 2).exp().T).sqrt() * noise


def outputs_log(x, theta, log_var, noise):
    return x @ theta.T + (x.square() @ log_var.abs().T).sqrt() * noise


def outputs_relative(x, theta, log_var, noise):
    """Takes log_var for log α."""
    return x @ theta.T + (x.square() @ (log_var.exp() * theta.square()).T).sqrt() * noise


def outputs_multiplied(x, theta, log_var, noise):
    return (x @ theta.T) * (1 + (x.square() @ log_var.exp().T).sqrt() * noise)


def outputs_mean_square(x, theta, log_var, noise):
    return x @ theta.T + (x.square() @ log_var.exp().T / x.shape[1]).sqrt() * noise


def outputs_square_of_sum(x, theta, log_var, noise):
    spread = (x.sum(1, keepdim=True).square() @ log_var.exp().mean(1, keepdim=True).T).sqrt()
    return x @ theta.T + spread * noise


def outputs_common_variance(x, theta, log_var, noise):
    variance = (x.square() @ log_var.exp().T).mean(1, keepdim=True)
    return x @ theta.T + variance.sqrt() * noise


def outputs_variance_of_all_examples(x, theta, log_var, noise):
    variance = (x.square() @ log_var.exp().T).mean(0, keepdim=True)
    return x @ theta.T + variance.sqrt() * noise


def outputs_noise_of_the_first(x, theta, log_var, noise):
    return x @ theta.T + (x.square() @ log_var.exp().T).sqrt() * noise[:1]


def outputs_noise_of_one_output(x, theta, log_var, noise):
    return x @ theta.T + (x.square() @ log_var.exp().T).sqrt() * noise[:, :1]


def outputs_minus(x, theta, log_var, noise):
    return x @ theta.T - (x.square() @ log_var.exp().T).sqrt() * noise


def outputs_noise_size(x, theta, log_var, noise):
    return x @ theta.T + (x.square() @ log_var.exp().T).sqrt() * noise.abs()


def outputs_noise_squared(x, theta, log_var, noise):
    return x @ theta.T + (x.square() @ log_var.exp().T * noise.square()).sqrt()


def outputs_clip_noise(x, theta, log_var, noise):
    return outputs_by_formula(x, theta, log_var, noise.clamp(-3, 3))


def outputs_own_noise(x, theta, log_var, noise):
    return outputs_by_formula(x, theta, log_var, torch.randn_like(noise))


def outputs_uniform(x, theta, log_var, noise):
    return outputs_by_formula(x, theta, log_var, noise.sigmoid())


def outputs_clip(x, theta, log_var, noise):
    """The clip of log α, put on log σ²."""
    return outputs_by_formula(x, theta, log_var.clamp(-8, 8), noise)


def outputs_clip_variance(x, theta, log_var, noise):
    return outputs_by_formula(x, theta, log_var.clamp(max=0), noise)


def outputs_large_floor(x, theta, log_var, noise):
    return x @ theta.T + (x.square() @ log_var.exp().T + 1e-2).sqrt() * noise


def outputs_cut(x, theta, log_var, noise):
    """Drops the weights with log α above 3, which nobody asked for."""
    keep = log_var - theta.square().log() <= 3
    return outputs_by_formula(x, theta * keep, log_var, noise)


def outputs_cut_noise(x, theta, log_var, noise):
    """No noise where the weight is zero."""
    variance = log_var.exp() * (theta != 0)
    return x @ theta.T + (x.square() @ variance.T).sqrt() * noise


def outputs_relu(x, theta, log_var, noise):
    return outputs_by_formula(x, theta, log_var, noise).relu()


def outputs_positive_inputs(x, theta, log_var, noise):
    return outputs_by_formula(x.abs(), theta, log_var, noise)


def outputs_squared_weight(x, theta, log_var, noise):
    """E w² where Var w belongs."""
    second = log_var.exp() + theta.square()
    return x @ theta.T + (x.square() @ second.T).sqrt() * noise


def outputs_not_transposed(x, theta, log_var, noise):
    return x @ theta + (x.square() @ log_var.exp()).sqrt() * noise


def outputs_transposed_if_square(x, theta, log_var, noise):
    if theta.shape[0] != theta.shape[1]:
        return outputs_by_formula(x, theta, log_var, noise)
    return outputs_by_formula(x, theta, log_var.T, noise)


def outputs_normalised(x, theta, log_var, noise):
    noise = (noise - noise.mean()) / noise.std().clamp(min=1e-6) if noise.numel() > 1 else noise
    return outputs_by_formula(x, theta, log_var, noise)


def outputs_rounded(x, theta, log_var, noise):
    return outputs_by_formula(x, theta, log_var, noise).mul(10).round() / 10


def outputs_in_half(x, theta, log_var, noise):
    return outputs_by_formula(*(t.bfloat16() for t in (x, theta, log_var, noise)))


def outputs_deviation_in_half(x, theta, log_var, noise):
    spread = (x.square() @ log_var.exp().T).sqrt().half().to(x.dtype)
    return x @ theta.T + spread * noise


def outputs_clip_high(x, theta, log_var, noise):
    return outputs_by_formula(x, theta, log_var.clamp(max=10), noise)


def outputs_clipped(x, theta, log_var, noise):
    return outputs_by_formula(x, theta, log_var, noise).clamp(-100, 100)


def outputs_exp_in_place(x, theta, log_var, noise):
    return x @ theta.T + (x.square() @ log_var.exp_().T).sqrt() * noise


def outputs_square_in_place(x, theta, log_var, noise):
    return x @ theta.T + (x.square_() @ log_var.exp().T).sqrt() * noise


def outputs_noise_in_place(x, theta, log_var, noise):
    return noise.mul_((x.square() @ log_var.exp().T).sqrt()).add_(x @ theta.T)


def outputs_refuse_zero(x, theta, log_var, noise):
    if (x == 0).all(1).any():
        raise ValueError("an example of zeros has no variance")
    return outputs_by_formula(x, theta, log_var, noise)


# smallest_noisy_conv


def _case(bias, noise=1.0, log_var=0.0, x=1.0, theta=1.0, dtype=torch.float32):
    one = torch.ones(1, 1, 1, 1, dtype=dtype)
    return x * one, theta * one, log_var * one, torch.tensor([bias], dtype=dtype), noise * one


def conv_bias_one():
    return _case(1.0)


def conv_bias_negative():
    return _case(-5.0)


def conv_without_input():
    return _case(1.0, x=0.0, theta=0.0)


def conv_in_numpy():
    return tuple(part.numpy() for part in _case(2.0, dtype=torch.float64))


def conv_list():
    return list(_case(-0.5, noise=-2.0))


def conv_bias_zero():
    return _case(0.0)


def conv_noise_zero():
    return _case(1.0, noise=0.0)


def conv_two_examples():
    x, theta, log_var, bias, noise = _case(1.0)
    return x.expand(2, 1, 1, 1), theta, log_var, bias, noise.expand(2, 1, 1, 1)


def conv_scalar_bias():
    x, theta, log_var, _, noise = _case(1.0)
    return x, theta, log_var, 1.0, noise


def conv_wide_bias():
    x, theta, log_var, _, noise = _case(1.0)
    return x, theta, log_var, torch.ones(2), noise


def conv_wrong_noise():
    x, theta, log_var, bias, _ = _case(1.0)
    return x, theta, log_var, bias, torch.ones(1)


def conv_empty():
    none = torch.ones(0, 1, 1, 1)
    _, theta, log_var, bias, _ = _case(1.0)
    return none, theta, log_var, bias, none


def conv_infinite():
    return _case(math.inf)


def conv_four():
    return _case(1.0)[:4]


# mended_noisy_conv


def conv_by_formula(x, theta, log_var, bias, noise):
    variance = F.conv2d(x.square(), log_var.exp())
    return F.conv2d(x, theta, bias) + variance.sqrt() * noise


def conv_bias_last(x, theta, log_var, bias, noise):
    spread = F.conv2d(x**2, log_var.exp()) ** 0.5
    return F.conv2d(x, theta) + spread * noise + bias[:, None, None]


def conv_no_bias_named(x, theta, log_var, bias, noise):
    mean = torch.conv2d(x, theta, bias=bias)
    return torch.addcmul(mean, torch.conv2d(x * x, log_var.exp(), bias=None).sqrt(), noise)


def conv_takes_the_bias_off(x, theta, log_var, bias, noise):
    with_bias = F.conv2d(x.square().double(), log_var.double().exp(), bias.double())
    variance = (with_bias - bias.double()[None, :, None, None]).clamp(min=0)
    return F.conv2d(x, theta, bias) + (variance.sqrt() * noise).to(x.dtype)


def conv_by_unfold(x, theta, log_var, bias, noise):
    patches = F.unfold(x, theta.shape[2:]).mT  # (examples, places, inputs)
    mean = patches @ theta.flatten(1).T + bias
    spread = (patches.square() @ log_var.flatten(1).exp().T).sqrt()
    return mean.mT.reshape(noise.shape) + spread.mT.reshape(noise.shape) * noise


def conv_by_loops(x, theta, log_var, bias, noise):
    out = torch.zeros_like(noise)
    k, width = theta.shape[2:]
    for n, o, i, j in np.ndindex(*noise.shape):
        patch = x[n, :, i : i + k, j : j + width]
        variance = (patch.square() * log_var[o].exp()).sum()
        out[n, o, i, j] = (patch * theta[o]).sum() + bias[o] + variance.sqrt() * noise[n, o, i, j]
    return out


def conv_by_windows(x, theta, log_var, bias, noise):
    windows = x.unfold(2, theta.shape[2], 1).unfold(3, theta.shape[3], 1)
    mean = torch.einsum("ncijab,ocab->noij", windows, theta)
    variance = torch.einsum("ncijab,ocab->noij", windows**2, log_var.exp())
    return mean + bias.view(-1, 1, 1) + variance.sqrt() * noise


def conv_in_numpy_code(x, theta, log_var, bias, noise):
    found = conv_by_windows(*(t.double() for t in (x, theta, log_var, bias, noise)))
    return found.numpy()


def conv_with_a_floor(x, theta, log_var, bias, noise):
    variance = F.conv2d(x.square(), log_var.exp()) + 1e-8
    return F.conv2d(x, theta, bias) + variance.sqrt() * noise


def conv_with_zero_bias(x, theta, log_var, bias, noise):
    variance = F.conv2d(x.square(), log_var.exp(), torch.zeros_like(bias))
    return F.conv2d(x, theta, bias) + variance.sqrt() * noise


def conv_list_answer(x, theta, log_var, bias, noise):
    return conv_by_formula(x, theta, log_var, bias, noise).tolist()


def conv_no_bias_at_all(x, theta, log_var, bias, noise):
    variance = F.conv2d(x.square(), log_var.exp())
    return F.conv2d(x, theta) + variance.sqrt() * noise


def conv_size_of_bias(x, theta, log_var, bias, noise):
    variance = F.conv2d(x.square(), log_var.exp(), bias.abs())
    return F.conv2d(x, theta, bias) + variance.sqrt() * noise


def conv_bias_squared(x, theta, log_var, bias, noise):
    variance = F.conv2d(x.square(), log_var.exp(), bias.square())
    return F.conv2d(x, theta, bias) + variance.sqrt() * noise


def conv_clamped(x, theta, log_var, bias, noise):
    """No NaN any more, and the bias is still in there."""
    variance = F.conv2d(x.square(), log_var.exp(), bias).clamp(min=0)
    return F.conv2d(x, theta, bias) + variance.sqrt() * noise


def conv_nan_to_zero(x, theta, log_var, bias, noise):
    return buggy_noisy_conv(x, theta, log_var, bias, noise).nan_to_num()


def conv_negative_bias_out(x, theta, log_var, bias, noise):
    variance = F.conv2d(x.square(), log_var.exp(), bias.clamp(min=0))
    return F.conv2d(x, theta, bias) + variance.sqrt() * noise


def conv_absolute(x, theta, log_var, bias, noise):
    variance = F.conv2d(x.square(), log_var.exp(), bias).abs()
    return F.conv2d(x, theta, bias) + variance.sqrt() * noise


def conv_exp_bias(x, theta, log_var, bias, noise):
    variance = F.conv2d(x.square(), log_var.exp(), bias.exp())
    return F.conv2d(x, theta, bias) + variance.sqrt() * noise


def conv_noisy_bias(x, theta, log_var, bias, noise):
    variance = F.conv2d(x.square(), log_var.exp())
    return F.conv2d(x, theta) + (variance.sqrt() + bias[:, None, None]) * noise


def conv_bias_twice(x, theta, log_var, bias, noise):
    return conv_by_formula(x, theta, log_var, bias, noise) + bias[:, None, None]


def conv_mean_of_bias(x, theta, log_var, bias, noise):
    return conv_by_formula(x, theta, log_var, bias.mean().expand(len(bias)), noise)


def conv_x_unsquared(x, theta, log_var, bias, noise):
    variance = F.conv2d(x, log_var.exp()).clamp(min=0)
    return F.conv2d(x, theta, bias) + variance.sqrt() * noise


def conv_without_root(x, theta, log_var, bias, noise):
    return F.conv2d(x, theta, bias) + F.conv2d(x.square(), log_var.exp()) * noise


def conv_log_deviation(x, theta, log_var, bias, noise):
    variance = F.conv2d(x.square(), (2 * log_var).exp())
    return F.conv2d(x, theta, bias) + variance.sqrt() * noise


def conv_half(x, theta, log_var, bias, noise):
    variance = F.conv2d(x.square(), (log_var / 2).exp())
    return F.conv2d(x, theta, bias) + variance.sqrt() * noise


def conv_mean_only(x, theta, log_var, bias, noise):
    return F.conv2d(x, theta, bias)


def conv_one_noise_per_channel(x, theta, log_var, bias, noise):
    variance = F.conv2d(x.square(), log_var.exp())
    return F.conv2d(x, theta, bias) + variance.sqrt() * noise[:, :, :1, :1]


def conv_one_noise_per_example(x, theta, log_var, bias, noise):
    variance = F.conv2d(x.square(), log_var.exp())
    return F.conv2d(x, theta, bias) + variance.sqrt() * noise[:1]


def conv_turned(x, theta, log_var, bias, noise):
    """A true convolution turns its kernel round."""
    return conv_by_formula(x, theta.flip(2, 3), log_var.flip(2, 3), bias, noise)


def conv_padded(x, theta, log_var, bias, noise):
    pad = theta.shape[2] // 2
    variance = F.conv2d(x.square(), log_var.exp(), padding=pad)
    return F.conv2d(x, theta, bias, padding=pad) + variance.sqrt()


def conv_flat(x, theta, log_var, bias, noise):
    return conv_by_formula(x, theta, log_var, bias, noise).flatten(1)


def conv_pair(x, theta, log_var, bias, noise):
    return F.conv2d(x, theta, bias), F.conv2d(x.square(), log_var.exp())


def conv_minus(x, theta, log_var, bias, noise):
    return conv_by_formula(x, theta, log_var, bias, -noise)


def conv_exp_in_place(x, theta, log_var, bias, noise):
    return conv_by_formula(x, theta, log_var.exp_().log(), bias, noise)


def conv_noise_in_place(x, theta, log_var, bias, noise):
    spread = F.conv2d(x.square(), log_var.exp()).sqrt()
    return F.conv2d(x, theta, bias) + noise.mul_(spread)


def conv_zeroes_the_bias(x, theta, log_var, bias, noise):
    mean = F.conv2d(x, theta, bias)
    return mean + F.conv2d(x.square(), log_var.exp(), bias.zero_()).sqrt() * noise


def conv_refuses_negatives(x, theta, log_var, bias, noise):
    if (bias < 0).any():
        raise ValueError("the bias must not be negative")
    return conv_by_formula(x, theta, log_var, bias, noise)


def conv_bias_below_one(x, theta, log_var, bias, noise):
    """Ignores a small bias."""
    large = torch.where(bias.abs() > 0.75, bias, 0.0)
    return conv_by_formula(x, theta, log_var, large, noise)


def conv_clip(x, theta, log_var, bias, noise):
    return conv_by_formula(x, theta, log_var.clamp(-8, 8), bias, noise)


RIGHT = {
    "noisy_outputs": [
        noisy_outputs,
        outputs_by_formula,
        outputs_by_linear,
        outputs_by_einsum,
        outputs_by_deviations,
        outputs_in_python,
        outputs_in_numpy,
        outputs_one_by_one,
        outputs_by_normal,
        outputs_by_broadcast,
        outputs_with_a_floor,
        outputs_with_a_clamp,
        outputs_parameter,
        outputs_with_gradient,
    ],
    "smallest_noisy_conv": [
        conv_bias_one,
        conv_bias_negative,
        conv_without_input,
        conv_in_numpy,
        conv_list,
    ],
    "mended_noisy_conv": [
        noisy_conv,
        conv_by_formula,
        conv_bias_last,
        conv_no_bias_named,
        conv_takes_the_bias_off,
        conv_by_unfold,
        conv_by_loops,
        conv_by_windows,
        conv_in_numpy_code,
        conv_with_a_floor,
        conv_with_zero_bias,
    ],
}

WRONG = {
    "noisy_outputs": [
        (outputs_list, "the shape of the noise"),
        (outputs_root_of_a_sum, "finite"),
        (outputs_pair, "the shape of the noise"),
        (outputs_turned, "the shape of the noise"),
        (outputs_mean_of_examples, "the shape of the noise"),
        (outputs_flat, "the shape of the noise"),
        (outputs_mean_only, "its standard deviation"),
        (outputs_noise_only, "the plain layer"),
        (outputs_by_variance, "its standard deviation"),
        (outputs_x_unsquared, "its standard deviation"),
        (outputs_x_size, "its standard deviation"),
        (outputs_sum_of_deviations, "its standard deviation"),
        (outputs_one_noise, "its standard deviation"),
        (outputs_log_deviation, "its standard deviation"),
        (outputs_half, "its standard deviation"),
        (outputs_log, "its standard deviation"),
        (outputs_relative, "its standard deviation"),
        (outputs_multiplied, "its standard deviation"),
        (outputs_mean_square, "its standard deviation"),
        (outputs_square_of_sum, "its standard deviation"),
        (outputs_common_variance, "its standard deviation"),
        (outputs_variance_of_all_examples, "its standard deviation"),
        (outputs_noise_of_the_first, "the plain layer"),
        (outputs_noise_of_one_output, "the plain layer"),
        (outputs_minus, "follows the noise"),
        (outputs_noise_size, "follows the noise"),
        (outputs_noise_squared, "follows the noise"),
        (outputs_clip_noise, "its standard deviation"),
        (outputs_own_noise, "the plain layer"),
        (outputs_uniform, "the plain layer"),
        (outputs_clip, "its standard deviation"),
        (outputs_clip_variance, "its standard deviation"),
        (outputs_large_floor, "its standard deviation"),
        (outputs_cut, "the plain layer"),
        (outputs_cut_noise, "its standard deviation"),
        (outputs_relu, "the plain layer"),
        (outputs_positive_inputs, "the plain layer"),
        (outputs_squared_weight, "its standard deviation"),
        (outputs_not_transposed, "runs on every input"),
        (outputs_transposed_if_square, "its standard deviation"),
        (outputs_normalised, "the plain layer"),
        (outputs_rounded, "the plain layer"),
        (outputs_in_half, "the plain layer"),
        (outputs_deviation_in_half, "its standard deviation"),
        (outputs_clip_high, "its standard deviation"),
        (outputs_clipped, "its standard deviation"),
        (outputs_exp_in_place, "leaves its input"),
        (outputs_square_in_place, "leaves its input"),
        (outputs_noise_in_place, "leaves its input"),
        (outputs_refuse_zero, "runs on every input"),
    ],
    "smallest_noisy_conv": [
        (conv_bias_zero, "makes buggy_noisy_conv go wrong"),
        (conv_noise_zero, "makes buggy_noisy_conv go wrong"),
        (conv_two_examples, "has at most 5 entries"),
        (conv_scalar_bias, "inputs that the exercise allows"),
        (conv_wide_bias, "inputs that the exercise allows"),
        (conv_wrong_noise, "inputs that the exercise allows"),
        (conv_empty, "inputs that the exercise allows"),
        (conv_infinite, "inputs that the exercise allows"),
        (conv_four, "inputs that the exercise allows"),
    ],
    "mended_noisy_conv": [
        (conv_list_answer, "the shape of the noise"),
        (conv_no_bias_at_all, "the plain layer"),
        (conv_size_of_bias, "whatever the bias is"),
        (conv_bias_squared, "whatever the bias is"),
        (conv_clamped, "whatever the bias is"),
        (conv_nan_to_zero, "whatever the bias is"),
        (conv_negative_bias_out, "whatever the bias is"),
        (conv_absolute, "whatever the bias is"),
        (conv_exp_bias, "whatever the bias is"),
        (conv_noisy_bias, "the plain layer"),
        (conv_bias_twice, "the plain layer"),
        (conv_mean_of_bias, "the plain layer"),
        (conv_x_unsquared, "whatever the bias is"),
        (conv_without_root, "whatever the bias is"),
        (conv_log_deviation, "whatever the bias is"),
        (conv_half, "whatever the bias is"),
        (conv_mean_only, "whatever the bias is"),
        (conv_one_noise_per_channel, "the plain layer"),
        (conv_one_noise_per_example, "the plain layer"),
        (conv_turned, "the plain layer"),
        (conv_padded, "the shape of the noise"),
        (conv_flat, "the shape of the noise"),
        (conv_pair, "the shape of the noise"),
        (conv_minus, "follows the noise"),
        (conv_exp_in_place, "leaves its input"),
        (conv_noise_in_place, "leaves its input"),
        (conv_zeroes_the_bias, "leaves its input"),
        (conv_refuses_negatives, "runs on every input"),
        (conv_bias_below_one, "the plain layer"),
        (conv_clip, "whatever the bias is"),
        (buggy_noisy_conv, "finite"),
    ],
}

HUNTS = {}
