"""Answers to the exercises of lesson All criteria in one bake-off."""

import numpy as np
import torch

from course_lib.exercises.channel_criteria import active_fraction, buggy_taylor, right_taylor

# active_fraction


def active_by_mean(activation):
    axes = [axis for axis in range(activation.dim()) if axis != 1]
    return (activation != 0).float().mean(dim=axes)


def active_by_counting(activation):
    found = []
    for c in range(activation.shape[1]):
        entries = activation[:, c].flatten().tolist()
        found.append(sum(value != 0 for value in entries) / len(entries))
    return torch.tensor(found)


def active_by_count_nonzero(activation):
    flat = activation.movedim(1, 0).reshape(activation.shape[1], -1)
    return flat.count_nonzero(dim=1) / flat.shape[1]


def active_in_numpy(activation):
    a = np.asarray(activation)
    return (np.moveaxis(a, 1, 0).reshape(a.shape[1], -1) != 0).mean(axis=1)


def active_in_double(activation):
    return (activation != 0).double().transpose(0, 1).flatten(1).mean(1)


def active_by_unbind(activation):
    return torch.stack([(a != 0).float().mean() for a in activation.unbind(1)])


def active_by_apoz(activation):
    zeros = (activation == 0).transpose(0, 1).flatten(1)
    return 1 - zeros.float().mean(1)


def active_image_by_image(activation):
    total = torch.zeros(activation.shape[1])
    for image in activation:
        total += image.bool().float().reshape(len(image), -1).mean(1)
    return total / len(activation)


def active_by_sign(activation):
    return torch.nn.Parameter(activation.sign().abs().float().transpose(0, 1).flatten(1).mean(1))


def active_by_einsum(activation):
    on = (activation != 0).to(torch.float64).flatten(2) if activation.dim() > 2 else None
    if on is None:
        return (activation != 0).to(torch.float64).mean(0)
    return torch.einsum("bcp->c", on) / (on.shape[0] * on.shape[2])


def active_list(activation):
    return active_by_mean(activation).tolist()


def active_of_each_place(activation):
    return (activation != 0).float().mean(0)


def active_of_examples(activation):
    return (activation != 0).float().flatten(1).mean(1)


def active_counts(activation):
    return active_by_mean(activation).round().long()


def active_as_apoz(activation):
    return 1 - active_by_mean(activation)


def active_positive(activation):
    return active_by_mean(activation.relu())


def active_mean_value(activation):
    return activation.movedim(1, 0).flatten(1).mean(1)


def active_anywhere(activation):
    return (activation != 0).movedim(1, 0).flatten(1).any(1).float()


def active_in_place(activation):
    activation[activation != 0] = 1
    return activation.movedim(1, 0).flatten(1).mean(1)


def active_mixed(activation):
    return (activation != 0).float().reshape(activation.shape[1], -1).mean(1)


def active_above_a_little(activation):
    return active_by_mean(torch.where(activation.abs() > 1e-8, activation, 0))


def active_normalised(activation):
    found = active_by_mean(activation)
    return found / found.sum().clamp(min=1e-9)


def active_summed(activation):
    return (activation != 0).float().movedim(1, 0).flatten(1).sum(1)


def active_in_percent(activation):
    return 100 * active_by_mean(activation)


def active_ranks(activation):
    return active_by_mean(activation).argsort().argsort().float()


def active_of_the_first(activation):
    return active_by_mean(activation[:1])


def active_by_relative_mean(activation):
    return active_by_mean(torch.where(activation > activation.mean(), activation, 0))


def active_of_maps_only(activation):
    return (activation != 0).float().mean((0, 2, 3))


def active_up_to_four_axes(activation):
    return (activation != 0).float().sum(0).reshape(activation.shape[1], -1)[:, :4].mean(1)


def active_rounded(activation):
    return (100 * active_by_mean(activation)).round() / 100


def active_keeps_axes(activation):
    found = active_by_mean(activation)
    return found.reshape(1, -1)


def active_one_number(activation):
    return (activation != 0).float().mean()


def active_nothing(activation):
    return active_by_mean(activation) if activation.any() else None


def active_median(activation):
    return (activation != 0).float().movedim(1, 0).flatten(1).median(1).values


def active_per_image_any(activation):
    return (
        (activation != 0).flatten(2).any(2).float().mean(0)
        if activation.dim() > 2
        else (active_by_mean(activation))
    )


def active_nonnegative_counts_less(activation):
    return (activation != 0).float().movedim(1, 0).flatten(1).sum(1) / (
        max(1, activation[:, 0].numel() - 1)
    )


# smallest_taylor


def taylor_opposite_images():
    maps = torch.tensor([1.0, 1.0]).view(2, 1, 1, 1)
    return maps, maps * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)


def taylor_in_numpy():
    return np.array([2.0, -1.0]).reshape(2, 1, 1, 1), np.ones((2, 1, 1, 1))


def taylor_as_list():
    return [torch.tensor([[[[3.0]]], [[[0.5]]]]), torch.tensor([[[[1.0]]], [[[-4.0]]]])]


def taylor_one_image():
    return torch.ones(1, 2, 1, 1), torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)


def taylor_same_signs():
    return torch.ones(2, 1, 1, 1), torch.ones(2, 1, 1, 1)


def taylor_too_large():
    return torch.ones(2, 2, 1, 1), torch.tensor([1.0, 1.0, -1.0, -1.0]).view(2, 2, 1, 1)


def taylor_flat():
    return torch.tensor([1.0, 1.0]), torch.tensor([1.0, -1.0])


def taylor_of_two_shapes():
    return torch.ones(1, 1, 1, 1), torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)


def taylor_only_one_input():
    return torch.ones(2, 1, 1, 1)


def taylor_empty():
    return torch.zeros(0, 1, 1, 1), torch.zeros(0, 1, 1, 1)


def taylor_not_finite():
    return torch.full((2, 1, 1, 1), float("nan")), torch.ones(2, 1, 1, 1)


def taylor_whole_numbers():
    return torch.ones(2, 1, 1, 1).long(), torch.tensor([1, -1]).view(2, 1, 1, 1)


# mended_taylor


def mended_in_two_lines(activation, gradient):
    slope = (activation * gradient).mean(dim=(2, 3))
    return slope.abs().mean(dim=0)


def mended_by_einsum(activation, gradient):
    batch, _, height, width = activation.shape
    slope = torch.einsum("bchw,bchw->bc", activation, gradient)
    return slope.abs().sum(0) / (batch * height * width)


def mended_image_by_image(activation, gradient):
    pairs = zip(activation, gradient, strict=True)
    return torch.stack([(a * g).flatten(1).mean(1).abs() for a, g in pairs]).mean(0)


def mended_in_numpy(activation, gradient):
    product = np.asarray(activation, dtype=np.float64) * np.asarray(gradient)
    return np.abs(product.mean(axis=(2, 3))).mean(axis=0)


def mended_in_python(activation, gradient):
    a, g = activation.flatten(2).tolist(), gradient.flatten(2).tolist()
    found = []
    for c in range(len(a[0])):
        slopes = [
            sum(x * y for x, y in zip(m[c], n[c], strict=True)) / len(m[c])
            for m, n in zip(a, g, strict=True)
        ]
        found.append(sum(map(abs, slopes)) / len(slopes))
    return torch.tensor(found)


def mended_by_norm(activation, gradient):
    slope = (activation * gradient).flatten(2).mean(2)
    return torch.linalg.vector_norm(slope, ord=1, dim=0) / len(slope)


def mended_by_matmul(activation, gradient):
    a, g = activation.flatten(2).unsqueeze(2), gradient.flatten(2).unsqueeze(3)
    return (a @ g).flatten(1).abs().mean(0) / a.shape[-1]


def mended_by_where(activation, gradient):
    s = (activation * gradient).mean((-1, -2))
    return torch.where(s < 0, -s, s).mean(0)


def mended_of_each_place(activation, gradient):
    return (activation * gradient).abs().mean(dim=(0, 2, 3))


def mended_signed(activation, gradient):
    return (activation * gradient).mean(dim=(0, 2, 3))


def mended_by_gradient(activation, gradient):
    return gradient.mean(dim=(2, 3)).abs().mean(0)


def mended_of_means(activation, gradient):
    return (activation.mean(dim=(2, 3)) * gradient.mean(dim=(2, 3))).abs().mean(0)


def mended_of_the_first(activation, gradient):
    return (activation[0] * gradient[0]).mean(dim=(1, 2)).abs()


def mended_in_place(activation, gradient):
    return activation.mul_(gradient).mean(dim=(2, 3)).abs().mean(0)


def mended_normalised(activation, gradient):
    found = mended_in_two_lines(activation, gradient)
    return found / found.norm().clamp(min=1e-12)


def mended_summed(activation, gradient):
    return (activation * gradient).sum((2, 3)).abs().mean(0)


def mended_summed_over_images(activation, gradient):
    return (activation * gradient).mean((2, 3)).abs().sum(0)


def mended_squared(activation, gradient):
    return (activation * gradient).mean((2, 3)).square().mean(0)


def mended_root(activation, gradient):
    return (activation * gradient).mean((2, 3)).square().mean(0).sqrt()


def mended_largest(activation, gradient):
    return (activation * gradient).mean((2, 3)).abs().amax(0)


def mended_median(activation, gradient):
    return (activation * gradient).mean((2, 3)).abs().median(0).values


def mended_per_image(activation, gradient):
    return (activation * gradient).mean((2, 3)).abs()


def mended_one_number(activation, gradient):
    return (activation * gradient).mean((2, 3)).abs().mean()


def mended_of_magnitudes(activation, gradient):
    return (activation.abs() * gradient).mean((2, 3)).abs().mean(0)


def mended_of_active(activation, gradient):
    return ((activation != 0) * gradient).mean((2, 3)).abs().mean(0)


def mended_rank(activation, gradient):
    return mended_in_two_lines(activation, gradient).argsort().argsort().float()


def mended_rows_only(activation, gradient):
    return (activation * gradient).mean(2).abs().mean((0, 2))


def mended_half(activation, gradient):
    return mended_in_two_lines(activation, gradient) / 2


def mended_list(activation, gradient):
    return mended_in_two_lines(activation, gradient).tolist()


def mended_gradient_in_place(activation, gradient):
    gradient *= activation
    return gradient.mean((2, 3)).abs().mean(0)


def active_by_bits(activation):
    """Minus zero is zero, but its bits are not."""
    bits = activation.double().view(torch.int64)
    return active_by_mean((bits != 0).double())


def active_of_a_hundred_images(activation):
    return active_by_mean(activation[:100])


def active_by_a_limit(activation):
    return active_by_mean(activation.abs() > 1e-38)


def active_in_float32(activation):
    """What only 64 bits hold is zero in 32."""
    return active_by_mean(activation.float())


def active_counted_in_16_bits(activation):
    flat = activation.movedim(1, 0).reshape(activation.shape[1], -1)
    return (flat != 0).sum(1).to(torch.int16) / flat.shape[1]


def active_of_two_or_more(activation):
    """A single entry counts as inactive."""
    return active_fraction(activation) * (activation.numel() > 1)


RIGHT = {
    "active_fraction": [
        active_fraction,
        active_by_mean,
        active_by_counting,
        active_by_count_nonzero,
        active_in_numpy,
        active_in_double,
        active_by_unbind,
        active_by_apoz,
        active_image_by_image,
        active_by_sign,
        active_by_einsum,
    ],
    "smallest_taylor": [
        taylor_opposite_images,
        taylor_in_numpy,
        taylor_as_list,
        taylor_whole_numbers,
    ],
    "mended_taylor": [
        right_taylor,
        mended_in_two_lines,
        mended_by_einsum,
        mended_image_by_image,
        mended_in_numpy,
        mended_in_python,
        mended_by_norm,
        mended_by_matmul,
        mended_by_where,
    ],
}


WRONG = {
    "active_fraction": [
        (active_list, "one number per channel"),
        (active_of_each_place, "one number per channel"),
        (active_of_examples, "one number per channel"),
        (active_counts, "one number per channel"),
        (active_by_bits, "counts the entries that are not zero"),
        (active_of_a_hundred_images, "counts the entries that are not zero"),
        (active_keeps_axes, "one number per channel"),
        (active_one_number, "one number per channel"),
        (active_nothing, "one number per channel"),
        (active_as_apoz, "higher for channels to keep"),
        (active_positive, "entries that are not zero"),
        (active_mean_value, "entries that are not zero"),
        (active_anywhere, "entries that are not zero"),
        (active_mixed, "entries that are not zero"),
        (active_above_a_little, "entries that are not zero"),
        (active_normalised, "entries that are not zero"),
        (active_summed, "entries that are not zero"),
        (active_in_percent, "entries that are not zero"),
        (active_ranks, "entries that are not zero"),
        (active_of_the_first, "entries that are not zero"),
        (active_by_relative_mean, "entries that are not zero"),
        (active_up_to_four_axes, "entries that are not zero"),
        (active_rounded, "entries that are not zero"),
        (active_median, "entries that are not zero"),
        (active_per_image_any, "entries that are not zero"),
        (active_nonnegative_counts_less, "entries that are not zero"),
        (active_of_maps_only, "runs on every input"),
        (active_in_place, "leaves its input"),
        (active_by_a_limit, "over all images and places"),
        (active_in_float32, "over all images and places"),
        (active_counted_in_16_bits, "over all images and places"),
        (active_of_two_or_more, "counts the entries"),
    ],
    "smallest_taylor": [
        (taylor_only_one_input, "inputs that the exercise allows"),
        (taylor_flat, "inputs that the exercise allows"),
        (taylor_of_two_shapes, "inputs that the exercise allows"),
        (taylor_empty, "inputs that the exercise allows"),
        (taylor_not_finite, "inputs that the exercise allows"),
        (taylor_too_large, "at most 4 entries"),
        (taylor_one_image, "makes buggy_taylor go wrong"),
        (taylor_same_signs, "makes buggy_taylor go wrong"),
    ],
    "mended_taylor": [
        (mended_per_image, "one number per channel"),
        (mended_one_number, "one number per channel"),
        (mended_list, "one number per channel"),
        (buggy_taylor, "opposite images cancel"),
        (mended_of_each_place, "adds up the places"),
        (mended_signed, "averaged over the images"),
        (mended_by_gradient, "averaged over the images"),
        (mended_of_means, "averaged over the images"),
        (mended_of_the_first, "averaged over the images"),
        (mended_normalised, "averaged over the images"),
        (mended_summed, "averaged over the images"),
        (mended_summed_over_images, "averaged over the images"),
        (mended_squared, "averaged over the images"),
        (mended_root, "averaged over the images"),
        (mended_largest, "averaged over the images"),
        (mended_median, "averaged over the images"),
        (mended_of_magnitudes, "averaged over the images"),
        (mended_of_active, "averaged over the images"),
        (mended_rank, "averaged over the images"),
        (mended_rows_only, "adds up the places"),
        (mended_half, "averaged over the images"),
        (mended_in_place, "leaves its input"),
        (mended_gradient_in_place, "leaves its input"),
    ],
}

HUNTS = {}
