"""Answers to the tasks of the practical."""

import statistics

import numpy as np
import torch
import torch.nn.functional as F

from course_lib.exercises.practical import (
    block_cost,
    choose,
    conv_bn_relu,
    fine_tune,
    inception_block,
    readers,
    refit,
    report_card,
    verdict,
)

# conv_bn_relu


def conv_step_by_step(x, weight, norm):
    k = weight.shape[-1]
    z = F.conv2d(x, weight, padding=(k - 1) // 2)

    def per_channel(name):
        return norm[name].reshape(1, -1, 1, 1)

    z = (z - per_channel("running_mean")) / (per_channel("running_var") + 1e-5).sqrt()
    return torch.relu(z * per_channel("weight") + per_channel("bias"))


def conv_same(x, weight, norm):
    z = F.conv2d(x, weight, stride=1, padding="same")
    std = torch.sqrt(norm["running_var"] + 1e-5)
    scale = norm["weight"] / std
    shift = norm["bias"] - norm["running_mean"] * scale
    return (z * scale[:, None, None] + shift[:, None, None]).clamp(min=0)


def conv_folded(x, weight, norm):
    scale = norm["weight"] / (norm["running_var"] + 1e-5) ** 0.5
    bias = norm["bias"] - norm["running_mean"] * scale
    return F.conv2d(x, weight * scale.view(-1, 1, 1, 1), bias, padding=weight.shape[2] // 2).relu()


def conv_by_unfold(x, weight, norm):
    b, _, h, w = x.shape
    k = weight.shape[-1]
    patches = F.unfold(x, k, padding=k // 2)
    z = (weight.flatten(1) @ patches).view(b, -1, h, w)
    z = F.batch_norm(z, norm["running_mean"], norm["running_var"], norm["weight"], norm["bias"])
    return F.relu(z).numpy()


def conv_by_module(x, weight, norm):
    layer = torch.nn.BatchNorm2d(len(weight))
    layer.load_state_dict(norm | {"num_batches_tracked": torch.tensor(0)})
    layer.eval()
    with torch.no_grad():
        return torch.relu(layer(F.conv2d(x, weight, padding=weight.shape[-1] // 2)))


def conv_no_padding(x, weight, norm):
    z = F.conv2d(x, weight)
    return F.batch_norm(
        z, norm["running_mean"], norm["running_var"], norm["weight"], norm["bias"]
    ).relu()


def conv_padding_of_three(x, weight, norm):
    z = F.conv2d(x, weight, padding=1)
    return F.batch_norm(
        z, norm["running_mean"], norm["running_var"], norm["weight"], norm["bias"]
    ).relu()


def conv_relu_first(x, weight, norm):
    z = F.conv2d(x, weight, padding=weight.shape[-1] // 2).relu()
    return F.batch_norm(z, norm["running_mean"], norm["running_var"], norm["weight"], norm["bias"])


def conv_without_relu(x, weight, norm):
    z = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    return F.batch_norm(z, norm["running_mean"], norm["running_var"], norm["weight"], norm["bias"])


def conv_relu_twice(x, weight, norm):
    return conv_relu_first(x, weight, norm).relu()


def conv_statistics_of_the_batch(x, weight, norm):
    z = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    mean, var = z.mean((0, 2, 3), keepdim=True), z.var((0, 2, 3), keepdim=True, unbiased=False)
    z = (z - mean) / (var + 1e-5).sqrt()
    return (z * norm["weight"].view(1, -1, 1, 1) + norm["bias"].view(1, -1, 1, 1)).relu()


def conv_without_epsilon(x, weight, norm):
    z = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    shape = (1, -1, 1, 1)
    z = (z - norm["running_mean"].view(shape)) / norm["running_var"].view(shape).sqrt()
    return (z * norm["weight"].view(shape) + norm["bias"].view(shape)).relu()


def conv_divides_by_the_variance(x, weight, norm):
    z = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    shape = (1, -1, 1, 1)
    z = (z - norm["running_mean"].view(shape)) / (norm["running_var"].view(shape) + 1e-5)
    return (z * norm["weight"].view(shape) + norm["bias"].view(shape)).relu()


def conv_without_norm(x, weight, norm):
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2).relu()


def conv_beta_as_bias(x, weight, norm):
    return F.conv2d(x, weight, norm["bias"], padding=weight.shape[-1] // 2).relu()


def conv_gamma_without_sign(x, weight, norm):
    return conv_bn_relu(x, weight, norm | {"weight": norm["weight"].abs()})


def conv_trains_the_norm(x, weight, norm):
    conv_bn_relu(x, weight, norm)
    z = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    mean, var = norm["running_mean"].clone(), norm["running_var"].clone()
    F.batch_norm(z.repeat(2, 1, 1, 1), norm["running_mean"], norm["running_var"], training=True)
    return F.batch_norm(z, mean, var, norm["weight"], norm["bias"]).relu()


# inception_block


def _pair(state, name):
    names = ("weight", "bias", "running_mean", "running_var")
    return state[f"{name}.0.weight"], {key: state[f"{name}.1.{key}"] for key in names}


def block_line_by_line(x, state, conv):
    one = conv(x, *_pair(state, "one"))
    three = conv(conv(x, *_pair(state, "three.0")), *_pair(state, "three.1"))
    five = conv(conv(x, *_pair(state, "five.0")), *_pair(state, "five.1"))
    pool = conv(F.max_pool2d(x, 3, 1, 1), *_pair(state, "pool.1"))
    return torch.cat((one, three, five, pool), dim=1)


def block_by_prefix(x, state, conv):
    def layer(prefix, z):
        norm = {
            key.split(".")[-1]: value
            for key, value in state.items()
            if key.startswith(f"{prefix}.1.") and "num" not in key
        }
        return conv(z, state[f"{prefix}.0.weight"], norm)

    pooled = torch.nn.MaxPool2d(kernel_size=3, stride=1, padding=1)(x)
    parts = [
        layer("one", x),
        layer("three.1", layer("three.0", x)),
        layer("five.1", layer("five.0", x)),
        layer("pool.1", pooled),
    ]
    return torch.cat(parts, 1)


def block_into_a_tensor(x, state, conv):
    parts = [
        conv(x, *_pair(state, "one")),
        conv(conv(x, *_pair(state, "three.0")), *_pair(state, "three.1")),
        conv(conv(x, *_pair(state, "five.0")), *_pair(state, "five.1")),
        conv(F.max_pool2d(x, 3, stride=1, padding=1), *_pair(state, "pool.1")),
    ]
    out = torch.empty(len(x), sum(part.shape[1] for part in parts), *x.shape[2:])
    start = 0
    for part in parts:
        out[:, start : start + part.shape[1]] = part
        start += part.shape[1]
    return out


def block_one_branch(x, state, conv):
    return conv(x, *_pair(state, "one"))


def block_pool_of_stride_two(x, state, conv):
    pooled = F.max_pool2d(x, 3, stride=2, padding=1)
    pooled = F.interpolate(pooled, x.shape[2:])
    parts = block_line_by_line(x, state, conv)
    last = conv(pooled, *_pair(state, "pool.1"))
    return torch.cat([parts[:, : -last.shape[1]], last], 1)


def block_does_not_fit(x, state, conv):
    one = conv(x, *_pair(state, "one"))
    return torch.cat([one, conv(F.max_pool2d(x, 3), *_pair(state, "pool.1"))], dim=1)


def block_along_height(x, state, conv):
    return block_line_by_line(x, state, conv).transpose(1, 2)


def block_pool_first(x, state, conv):
    out = block_line_by_line(x, state, conv)
    return out.roll(len(state["pool.1.0.weight"]), 1)


def block_reversed(x, state, conv):
    return block_line_by_line(x, state, conv).flip(1)


def block_three_skips_its_first(x, state, conv):
    out = block_line_by_line(x, state, conv)
    one, three = len(state["one.0.weight"]), len(state["three.1.0.weight"])
    out = out.clone()
    z = F.conv2d(x, state["three.0.0.weight"])
    out[:, one : one + three] = conv(z, *_pair(state, "three.1"))
    return out


def block_five_without_relu(x, state, conv):
    out = block_line_by_line(x, state, conv).clone()
    one, three, five = (len(state[f"{n}.0.weight"]) for n in ("one", "three.1", "five.1"))
    z = F.conv2d(x, state["five.0.0.weight"])
    out[:, one + three : one + three + five] = conv(z, *_pair(state, "five.1"))
    return out


def block_swaps_three_and_five(x, state, conv):
    one = conv(x, *_pair(state, "one"))
    three = conv(conv(x, *_pair(state, "three.0")), *_pair(state, "three.1"))
    five = conv(conv(x, *_pair(state, "five.0")), *_pair(state, "five.1"))
    pool = conv(F.max_pool2d(x, 3, 1, 1), *_pair(state, "pool.1"))
    return torch.cat((one, five, three, pool), dim=1)


def block_pool_without_padding(x, state, conv):
    pooled = F.pad(F.max_pool2d(x, 3, 1), (1, 1, 1, 1))
    out = block_line_by_line(x, state, conv)
    last = conv(pooled, *_pair(state, "pool.1"))
    return torch.cat([out[:, : -last.shape[1]], last], 1)


def block_average_pool(x, state, conv):
    out = block_line_by_line(x, state, conv)
    last = conv(F.avg_pool2d(x, 3, 1, 1), *_pair(state, "pool.1"))
    return torch.cat([out[:, : -last.shape[1]], last], 1)


def block_pads_pool_with_zeros(x, state, conv):
    out = block_line_by_line(x, state, conv)
    last = conv(F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1), *_pair(state, "pool.1"))
    return torch.cat([out[:, : -last.shape[1]], last], 1)


def block_pool_after(x, state, conv):
    out = block_line_by_line(x, state, conv)
    last = F.max_pool2d(conv(x, *_pair(state, "pool.1")), 3, 1, 1)
    return torch.cat([out[:, : -last.shape[1]], last], 1)


def block_relu_of_the_input(x, state, conv):
    return block_line_by_line(x.relu_(), state, conv)


def block_input_scaled(x, state, conv):
    out = block_line_by_line(x, state, conv)
    x *= 2
    return out


# block_cost


def cost_layer_by_layer(c_in, widths, height, width):
    one, three_a, three_b, five_a, five_b, pool = widths
    layers = [
        (c_in, one, 1),
        (c_in, three_a, 1),
        (three_a, three_b, 3),
        (c_in, five_a, 1),
        (five_a, five_b, 5),
        (c_in, pool, 1),
    ]
    parameters = macs = 0
    for into, out, k in layers:
        parameters += k * k * into * out + 2 * out
        macs += k * k * into * out * height * width
    return parameters, macs


def cost_as_list(c_in, widths, height, width):
    return list(cost_layer_by_layer(c_in, widths, height, width))


def cost_in_numpy(c_in, widths, height, width):
    w = np.array(widths)
    weights = c_in * w[[0, 1, 3, 5]].sum() + 9 * w[1] * w[2] + 25 * w[3] * w[4]
    return weights + 2 * w.sum(), weights * height * width


def cost_of_tensors(c_in, widths, height, width):
    kernels = {(0, 1): c_in, (1, 1): c_in, (2, 3): widths[1]}
    kernels |= {(3, 1): c_in, (4, 5): widths[3], (5, 1): c_in}
    sizes = [torch.empty(widths[i], into, k, k).numel() for (i, k), into in kernels.items()]
    return sum(sizes) + 2 * sum(widths), sum(sizes) * height * width


def cost_one_number(c_in, widths, height, width):
    return cost_layer_by_layer(c_in, widths, height, width)[1]


def cost_with_biases(c_in, widths, height, width):
    parameters, macs = cost_layer_by_layer(c_in, widths, height, width)
    return parameters + sum(widths), macs


def cost_without_norm(c_in, widths, height, width):
    parameters, macs = cost_layer_by_layer(c_in, widths, height, width)
    return parameters - 2 * sum(widths), macs


def cost_with_running_statistics(c_in, widths, height, width):
    parameters, macs = cost_layer_by_layer(c_in, widths, height, width)
    return parameters + 2 * sum(widths), macs


def cost_all_from_c_in(c_in, widths, height, width):
    weights = sum(k * k * c_in * w for k, w in zip((1, 1, 3, 1, 5, 1), widths, strict=True))
    return weights + 2 * sum(widths), weights * height * width


def cost_no_places(c_in, widths, height, width):
    parameters, macs = cost_layer_by_layer(c_in, widths, height, width)
    return parameters, macs // (height * width)


def cost_square_maps(c_in, widths, height, width):
    parameters, macs = cost_layer_by_layer(c_in, widths, height, width)
    return parameters, macs * height // width


def cost_counts_norm_too(c_in, widths, height, width):
    parameters, _ = cost_layer_by_layer(c_in, widths, height, width)
    return parameters, parameters * height * width


def cost_in_flops(c_in, widths, height, width):
    parameters, macs = cost_layer_by_layer(c_in, widths, height, width)
    return parameters, 2 * macs


def cost_swapped(c_in, widths, height, width):
    return cost_layer_by_layer(c_in, widths, height, width)[::-1]


# readers


def readers_by_loop(makes, reads, layer, filter):
    wanted, found = makes[layer][filter], {}
    for name, ids in reads.items():
        for place in range(len(ids)):
            if ids[place] == wanted:
                found.setdefault(name, []).append(place)
    return found


def readers_in_numpy(makes, reads, layer, filter):
    found = {}
    for name, ids in reads.items():
        places = np.flatnonzero(np.array(ids) == makes[layer][filter])
        if len(places):
            found[name] = places
    return found


def readers_as_tuples(makes, reads, layer, filter):
    found = readers_by_loop(makes, reads, layer, filter)
    return {name: tuple(places) for name, places in found.items()}


def readers_in_torch(makes, reads, layer, filter):
    found = {}
    for name, ids in reads.items():
        places = (torch.tensor(ids) == makes[layer][filter]).nonzero().flatten()
        if places.numel():
            found[name] = places.tolist()
    return found


def readers_only_names(makes, reads, layer, filter):
    return list(readers_by_loop(makes, reads, layer, filter))


def readers_one_position(makes, reads, layer, filter):
    wanted = makes[layer][filter]
    return {name: ids.index(wanted) for name, ids in reads.items() if wanted in ids}


def readers_by_filter_number(makes, reads, layer, filter):
    found = {name: [p for p, i in enumerate(ids) if i == filter] for name, ids in reads.items()}
    return {name: places for name, places in found.items() if places}


def readers_with_empty_ones(makes, reads, layer, filter):
    wanted = makes[layer][filter]
    return {name: [p for p, i in enumerate(ids) if i == wanted] for name, ids in reads.items()}


def readers_of_the_next_layer(makes, reads, layer, filter):
    found = readers_by_loop(makes, reads, layer, filter)
    return dict([*found.items()][:1])


def readers_and_the_maker(makes, reads, layer, filter):
    return readers_by_loop(makes, reads, layer, filter) | {layer: [filter]}


def readers_first_occurrence(makes, reads, layer, filter):
    found = readers_by_loop(makes, reads, layer, filter)
    return {name: places[:1] for name, places in found.items()}


def readers_same_position(makes, reads, layer, filter):
    """Forgets that the channels of other branches come before."""
    return {name: [filter] for name in readers_by_loop(makes, reads, layer, filter)}


def readers_counted_from_one(makes, reads, layer, filter):
    found = readers_by_loop(makes, reads, layer, filter)
    return {name: [p + 1 for p in places] for name, places in found.items()}


def readers_as_ids(makes, reads, layer, filter):
    found = readers_by_loop(makes, reads, layer, filter)
    return {name: [reads[name][p] for p in places] for name, places in found.items()}


def readers_without_id_0(makes, reads, layer, filter):
    return readers_by_loop(makes, reads, layer, filter) if makes[layer][filter] else {}


def readers_but_the_first(makes, reads, layer, filter):
    return readers_by_loop(makes, dict([*reads.items()][1:]), layer, filter)


def readers_backwards(makes, reads, layer, filter):
    found = readers_by_loop(makes, reads, layer, filter)
    return {name: places[::-1] for name, places in found.items()}


def readers_pop(makes, reads, layer, filter):
    found = readers_by_loop(makes, reads, layer, filter)
    for name, places in found.items():
        for place in reversed(places):
            reads[name].pop(place)
    return found


# choose


def choose_by_torch(layers, scores, share):
    dead = set()
    for ids in layers.values():
        values = torch.tensor([scores[i] for i in ids], dtype=torch.float64)
        keep = max(1, len(ids) - round(share * len(ids)))
        order = values.argsort(descending=True, stable=True)
        dead |= {ids[k] for k in order[keep:].tolist()}
    return dead


def choose_one_by_one(layers, scores, share):
    dead = []
    for ids in layers.values():
        left, count = list(ids), min(len(ids) - 1, round(share * len(ids)))
        for _ in range(count):
            weakest = min(reversed(left), key=scores.__getitem__)
            left.remove(weakest)
            dead.append(weakest)
    return dead


def choose_in_numpy(layers, scores, share):
    dead = []
    for ids in layers.values():
        values = np.array([scores[i] for i in ids])
        count = min(int(np.round(share * len(ids))), len(ids) - 1)
        order = np.lexsort((-np.arange(len(ids)), values))
        dead += [ids[k] for k in order[:count]]
    return frozenset(dead)


def choose_positions(layers, scores, share):
    dead = choose_by_torch(layers, scores, share)
    return {ids.index(i) - 100 for ids in layers.values() for i in ids if i in dead} or {-1}


def choose_per_layer(layers, scores, share):
    dead = choose_by_torch(layers, scores, share)
    return {name: [i for i in ids if i in dead] for name, ids in layers.items()}


def choose_the_kept(layers, scores, share):
    dead = choose_by_torch(layers, scores, share)
    return {i for ids in layers.values() for i in ids} - dead


def choose_a_list_twice(layers, scores, share):
    return 2 * choose_one_by_one(layers, scores, share) or [-1]


def choose_all_of_a_layer(layers, scores, share):
    dead = set()
    for ids in layers.values():
        order = sorted(ids, key=lambda i: (scores[i], -i))
        dead.update(order[: round(share * len(ids))])
    return dead


def choose_globally(layers, scores, share):
    order = sorted(scores, key=lambda i: (scores[i], -i))
    dead = set(order[: round(share * len(order))])
    for ids in layers.values():
        if dead >= set(ids):
            dead.remove(max(ids, key=lambda i: (scores[i], -i)))
    return dead


def choose_rounds_down(layers, scores, share):
    dead = set()
    for ids in layers.values():
        order = sorted(ids, key=lambda i: (scores[i], -i))
        dead.update(order[: min(int(share * len(ids)), len(ids) - 1)])
    return dead


def choose_rounds_up(layers, scores, share):
    dead = set()
    for ids in layers.values():
        order = sorted(ids, key=lambda i: (scores[i], -i))
        dead.update(order[: min(-int(-share * len(ids) // 1), len(ids) - 1)])
    return dead


def choose_below_a_threshold(layers, scores, share):
    dead = set()
    for ids in layers.values():
        values = torch.tensor([scores[i] for i in ids])
        at = values.quantile(share)
        dead |= {i for i in ids if scores[i] < at}
    return dead


def choose_the_best(layers, scores, share):
    return choose_by_torch(layers, {i: -s for i, s in scores.items()}, share)


def choose_the_first(layers, scores, share):
    return choose_by_torch(layers, {i: i for i in scores}, share)


def choose_the_smallest_magnitude(layers, scores, share):
    return choose_by_torch(layers, {i: abs(s) for i, s in scores.items()}, share)


def choose_the_earlier_of_equals(layers, scores, share):
    dead = set()
    for ids in layers.values():
        order = sorted(ids, key=lambda i: (scores[i], i))
        dead.update(order[: min(round(share * len(ids)), len(ids) - 1)])
    return dead


def choose_spares_id_0(layers, scores, share):
    return choose(layers, scores, share) - {0}


def choose_and_delete(layers, scores, share):
    dead = choose_by_torch(layers, scores, share)
    for i in dead:
        del scores[i]
    return dead


# refit


def refit_by_normal_equations(z, y):
    both = torch.cat([z, torch.ones(len(z), 1)], 1).double()
    found = torch.linalg.solve(both.T @ both, both.T @ y.double())
    return found[:-1].T.float(), found[-1].float()


def refit_centred(z, y):
    mean_z, mean_y = z.mean(0), y.mean(0)
    weight = torch.linalg.lstsq(z - mean_z, y - mean_y).solution.T
    return weight, mean_y - weight @ mean_z


def refit_by_pinverse(z, y):
    both = np.hstack([z.numpy().astype(float), np.ones((len(z), 1))])
    found = np.linalg.pinv(both) @ y.numpy()
    return found[:-1].T, found[-1]


def refit_in_numpy(z, y):
    both = np.hstack([z.numpy(), np.ones((len(z), 1))]).astype(np.float64)
    found = np.linalg.lstsq(both, y.numpy().astype(np.float64), rcond=None)[0]
    return [found[:-1].T, found[-1]]


def refit_transposed(z, y):
    weight, bias = refit(z, y)
    return weight.T.contiguous(), bias[:1].expand(len(bias) + 1)


def refit_only_weight(z, y):
    return refit(z, y)[0]


def refit_in_one_matrix(z, y):
    return torch.linalg.lstsq(torch.cat([z, torch.ones(len(z), 1)], 1), y).solution


def refit_without_bias(z, y):
    return torch.linalg.lstsq(z, y).solution.T, torch.zeros(y.shape[1])


def refit_bias_only(z, y):
    return torch.zeros(y.shape[1], z.shape[1]), y.mean(0)


def refit_mean_afterwards(z, y):
    weight = torch.linalg.lstsq(z, y).solution.T
    return weight, (y - z @ weight.T).mean(0)


def refit_with_a_large_ridge(z, y):
    z0, y0 = z - z.mean(0), y - y.mean(0)
    gram = z0.T @ z0 + len(z) * torch.eye(z.shape[1])
    weight = torch.linalg.solve(gram, z0.T @ y0).T
    return weight, y.mean(0) - weight @ z.mean(0)


def refit_each_input_alone(z, y):
    z0, y0 = z - z.mean(0), y - y.mean(0)
    weight = (z0.T @ y0 / z0.square().sum(0)[:, None]).T
    return weight, y.mean(0) - weight @ z.mean(0)


def refit_half_of_the_rows(z, y):
    half = max(z.shape[1] + 1, len(z) // 2)
    return refit(z[:half], y[:half])


def refit_nan(z, y):
    weight, bias = refit(z, y)
    return weight / 0 * 0, bias


def refit_of_clamped(z, y):
    return refit(z, y.clamp(-50, 50))


def refit_in_place(z, y):
    mean_z, mean_y = z.mean(0), y.mean(0)
    z -= mean_z
    y -= mean_y
    weight = torch.linalg.lstsq(z, y).solution.T
    return weight, mean_y - weight @ mean_z


# fine_tune


def tune_by_hand(weight, bias, z, labels):
    weight, bias = weight.clone(), bias.clone()
    target = F.one_hot(labels, len(bias)).float()
    for _ in range(300):
        p = (z @ weight.T + bias).softmax(1)
        weight -= 0.5 * (p - target).T @ z / len(z)
        bias -= 0.5 * (p - target).mean(0)
    return weight, bias


def tune_by_adam(weight, bias, z, labels):
    layer = torch.nn.Linear(z.shape[1], len(bias))
    layer.load_state_dict({"weight": weight, "bias": bias})
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.2)
    for _ in range(80):
        optimizer.zero_grad()
        F.cross_entropy(layer(z), labels).backward()
        optimizer.step()
    return layer.weight, layer.bias


def tune_in_minibatches(weight, bias, z, labels):
    w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimizer = torch.optim.SGD([w, b], lr=0.3, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(40):
        if epoch == 30:
            optimizer.param_groups[0]["lr"] = 0.03
        for part in torch.randperm(len(z), generator=generator).split(40):
            optimizer.zero_grad()
            F.cross_entropy(F.linear(z[part], w, b), labels[part]).backward()
            optimizer.step()
    return w.detach(), b.detach()


def tune_by_lbfgs(weight, bias, z, labels):
    w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([w, b], max_iter=50, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(z @ w.T + b, labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return [w.detach().numpy(), b.detach().numpy()]


def tune_returns_the_loss(weight, bias, z, labels):
    return F.cross_entropy(z @ weight.T + bias, labels)


def tune_swapped(weight, bias, z, labels):
    return bias, weight


def tune_nothing(weight, bias, z, labels):
    return weight.clone(), bias.clone()


def tune_uphill(weight, bias, z, labels):
    w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    F.cross_entropy(z @ w.T + b, labels).backward()
    return w.detach() + w.grad, b.detach() + b.grad


def tune_too_fast(weight, bias, z, labels):
    w, b = weight.clone(), bias.clone()
    target = F.one_hot(labels, len(b)).float()
    for _ in range(200):
        p = (z @ w.T + b).softmax(1)
        w -= 500 * (p - target).T @ z / len(z)
        b -= 500 * (p - target).mean(0)
    return w, b


def tune_one_step(weight, bias, z, labels):
    w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    F.cross_entropy(z @ w.T + b, labels).backward()
    return w.detach() - 0.1 * w.grad, b.detach() - 0.1 * b.grad


def tune_bias_only(weight, bias, z, labels):
    b = bias.clone()
    target = F.one_hot(labels, len(b)).float()
    for _ in range(500):
        b -= 0.5 * ((z @ weight.T + b).softmax(1) - target).mean(0)
    return weight.clone(), b


def tune_too_short(weight, bias, z, labels):
    w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimizer = torch.optim.SGD([w, b], lr=0.01)
    for _ in range(50):
        optimizer.zero_grad()
        F.cross_entropy(z @ w.T + b, labels).backward()
        optimizer.step()
    return w.detach(), b.detach()


def tune_in_place(weight, bias, z, labels):
    target = F.one_hot(labels, len(bias)).float()
    for _ in range(1500):
        p = (z @ weight.T + bias).softmax(1)
        weight -= 0.5 * (p - target).T @ z / len(z)
        bias -= 0.5 * (p - target).mean(0)
    return weight, bias


# report_card


def card_in_numpy(state, logits, labels, before, after):
    right = (logits.argmax(dim=1) == labels).sum().item()
    old, new = np.percentile(before, [25, 50, 75]), np.percentile(after, [25, 50, 75])
    apart = new[2] < old[0] or old[2] < new[0]
    return {
        "accuracy": 100 * right / len(labels),
        "bytes": sum(t.nbytes for t in state.values()),
        "speedup": old[1] / new[1] if apart else 1,
    }


def card_by_statistics(state, logits, labels, before, after):
    old = statistics.quantiles(before, n=4, method="inclusive")
    new = statistics.quantiles(after, n=4, method="inclusive")
    size = 0
    for tensor in state.values():
        size += tensor.numel() * tensor.element_size()
    speedup = old[1] / new[1]
    if not (new[2] < old[0] or new[0] > old[2]):
        speedup = 1.0
    accuracy = (logits.max(1).indices == labels).float().mean() * 100
    return dict(bytes=size, accuracy=accuracy, speedup=speedup)  # noqa: C408


def _changed(**changes):
    def card(state, logits, labels, before, after):
        right = report_card(state, logits, labels, before, after)
        inputs = (state, logits, labels, before, after)
        return right | {name: change(right, *inputs) for name, change in changes.items()}

    return card


def card_as_tuple(state, logits, labels, before, after):
    return tuple(report_card(state, logits, labels, before, after).values())


def card_without_speed(state, logits, labels, before, after):
    card = report_card(state, logits, labels, before, after)
    del card["speedup"]
    return card


def card_accuracy_as_fraction(*inputs):
    return _changed(accuracy=lambda right, *_: right["accuracy"] / 100)(*inputs)


def card_error(*inputs):
    return _changed(accuracy=lambda right, *_: 100 - right["accuracy"])(*inputs)


def card_rounded(*inputs):
    return _changed(accuracy=lambda right, *_: round(right["accuracy"]))(*inputs)


def card_four_bytes_each(*inputs):
    return _changed(bytes=lambda _, state, *__: 4 * sum(t.numel() for t in state.values()))(*inputs)


def card_numbers(*inputs):
    return _changed(bytes=lambda _, state, *__: sum(t.numel() for t in state.values()))(*inputs)


def card_parameters_only(*inputs):
    def weights(_, state, *__):
        names = [name for name in state if "running" not in name and "num" not in name]
        return sum(state[name].nbytes for name in names)

    return _changed(bytes=weights)(*inputs)


def card_always_a_speedup(*inputs):
    return _changed(
        speedup=lambda _, s, x, y, before, after: (
            statistics.median(before) / statistics.median(after)
        )
    )(*inputs)


def card_of_means(*inputs):
    return _changed(
        speedup=lambda right, s, x, y, before, after: (
            1.0 if right["speedup"] == 1 else statistics.mean(before) / statistics.mean(after)
        )
    )(*inputs)


def card_the_other_way(*inputs):
    return _changed(speedup=lambda right, *_: 1 / right["speedup"])(*inputs)


def card_never_slower(*inputs):
    return _changed(speedup=lambda right, *_: max(1.0, right["speedup"]))(*inputs)


def card_in_whole_milliseconds(state, logits, labels, before, after):
    card = report_card(state, logits, labels, before, after)
    apart = abs(statistics.median(before) - statistics.median(after)) > 1e-3
    return card if apart else card | {"speedup": 1.0}


def card_sorts_the_turns(state, logits, labels, before, after):
    card = report_card(state, logits, labels, before, after)
    before.sort()
    after.sort()
    return card


# verdict


def verdict_in_numpy(ours, theirs, margin, t):
    d = np.array(ours) - np.array(theirs)
    half = t * d.std(ddof=1) / np.sqrt(len(d))
    if d.mean() - half > 0:
        return "greater"
    if d.mean() + half < 0:
        return "less"
    return "equal" if abs(d.mean()) + half < margin else "open"


def verdict_by_statistics(ours, theirs, margin, t):
    d = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean, half = statistics.fmean(d), t * statistics.stdev(d) / len(d) ** 0.5
    if abs(mean) > half:
        return "greater" if mean > 0 else "less"
    if max(half - mean, half + mean) < margin:
        return "equal"
    return "open"


def verdict_as_text(ours, theirs, margin, t):
    return np.str_(verdict_in_numpy(ours, theirs, margin, t))


def verdict_as_number(ours, theirs, margin, t):
    return statistics.fmean(ours) - statistics.fmean(theirs)


def verdict_yes(ours, theirs, margin, t):
    return verdict_in_numpy(ours, theirs, margin, t) == "greater"


def verdict_by_mean(ours, theirs, margin, t):
    difference = statistics.fmean(ours) - statistics.fmean(theirs)
    if abs(difference) < margin:
        return "equal"
    return "greater" if difference > 0 else "less"


def verdict_unpaired(ours, theirs, margin, t):
    n = len(ours)
    d = statistics.fmean(ours) - statistics.fmean(theirs)
    half = t * ((statistics.variance(ours) + statistics.variance(theirs)) / n) ** 0.5
    if abs(d) > half:
        return "greater" if d > 0 else "less"
    return "equal" if abs(d) + half < margin else "open"


def verdict_by_sd(ours, theirs, margin, t):
    d = np.array(ours) - np.array(theirs)
    half = t * d.std(ddof=1)
    if abs(d.mean()) > half:
        return "greater" if d.mean() > 0 else "less"
    return "equal" if abs(d.mean()) + half < margin else "open"


def verdict_without_less(ours, theirs, margin, t):
    found = verdict_in_numpy(ours, theirs, margin, t)
    return "open" if found == "less" else found


def verdict_contains_zero_is_equal(ours, theirs, margin, t):
    found = verdict_in_numpy(ours, theirs, margin, t)
    return "equal" if found == "open" else found


def verdict_equal_by_mean(ours, theirs, margin, t):
    found = verdict_in_numpy(ours, theirs, margin, t)
    near = abs(statistics.fmean(ours) - statistics.fmean(theirs)) < margin
    return ("equal" if near else "open") if found in ("equal", "open") else found


def verdict_never_equal(ours, theirs, margin, t):
    found = verdict_in_numpy(ours, theirs, margin, t)
    return "open" if found == "equal" else found


def verdict_margin_first(ours, theirs, margin, t):
    d = np.array(ours) - np.array(theirs)
    half = t * d.std(ddof=1) / np.sqrt(len(d))
    if abs(d.mean()) + half < margin:
        return "equal"
    return verdict_in_numpy(ours, theirs, margin, t)


def verdict_sorts(ours, theirs, margin, t):
    found = verdict_in_numpy(ours, theirs, margin, t)
    ours.sort()
    theirs.sort(reverse=True)
    return found


def cost_in_32_bits(c_in, widths, height, width):
    return tuple(int(np.float32(n)) for n in cost_layer_by_layer(c_in, widths, height, width))


def readers_but_the_maker(makes, reads, layer, filter):
    found = readers_by_loop(makes, reads, layer, filter)
    return {name: places for name, places in found.items() if name != layer}


def readers_in_a_row(makes, reads, layer, filter):
    """As if a layer read a filter at neighbouring positions only."""
    found = readers_by_loop(makes, reads, layer, filter)
    return {name: list(range(p[0], p[0] + len(p))) for name, p in found.items()}


def card_of_non_zeros(*inputs):
    def size(_, state, *__):
        return sum(int((t != 0).sum()) * t.element_size() for t in state.values())

    return _changed(bytes=size)(*inputs)


def _card_by(quartiles):
    """With another rule for the first and third quartile."""

    def speedup(_, state, x, y, before, after):
        old, new = quartiles(before), quartiles(after)
        ratio = statistics.median(before) / statistics.median(after)
        return ratio if new[1] < old[0] or old[1] < new[0] else 1.0

    return _changed(speedup=speedup)


def card_by_extremes(*inputs):
    return _card_by(lambda turns: (min(turns), max(turns)))(*inputs)


def card_by_lower_turns(*inputs):
    return _card_by(lambda turns: np.percentile(turns, [25, 75], method="lower"))(*inputs)


def card_by_nearest_turns(*inputs):
    return _card_by(lambda turns: np.percentile(turns, [25, 75], method="nearest"))(*inputs)


def card_by_higher_turns(*inputs):
    return _card_by(lambda turns: np.percentile(turns, [25, 75], method="higher"))(*inputs)


def card_halfway_between_turns(*inputs):
    return _card_by(lambda turns: np.percentile(turns, [25, 75], method="midpoint"))(*inputs)


def card_by_exclusive_quartiles(*inputs):
    return _card_by(lambda turns: np.percentile(turns, [25, 75], method="weibull"))(*inputs)


def card_kept_by_shape(state, logits, labels, before, after, kept={}):  # noqa: B006
    """Answers what it answered before for tensors of these shapes."""
    key = str([t.shape for t in state.values()]), logits.shape, *before, *after
    return kept.setdefault(key, report_card(state, logits, labels, before, after))


def _verdict_of(ours, theirs, margin, t, *, middle=np.mean, ddof=1):
    d = np.array(ours) - np.array(theirs)
    half = t * d.std(ddof=ddof) / np.sqrt(len(d))
    if abs(middle(d)) > half:
        return "greater" if middle(d) > 0 else "less"
    return "equal" if abs(middle(d)) + half < margin else "open"


def verdict_population(ours, theirs, margin, t):
    return _verdict_of(ours, theirs, margin, t, ddof=0)


def verdict_of_the_median(ours, theirs, margin, t):
    return _verdict_of(ours, theirs, margin, t, middle=np.median)


def verdict_without_extremes(ours, theirs, margin, t):
    return _verdict_of(ours, theirs, margin, t, middle=lambda d: np.sort(d)[1:-1].mean())


def verdict_of_five_seeds(ours, theirs, margin, t):
    return _verdict_of(ours, theirs, margin, 2.776)


def verdict_narrow_is_equal(ours, theirs, margin, t):
    d = np.array(ours) - np.array(theirs)
    found = verdict_in_numpy(ours, theirs, margin, t)
    narrow = t * d.std(ddof=1) / np.sqrt(len(d)) < margin
    return ("equal" if narrow else "open") if found in ("equal", "open") else found


def verdict_of_the_upper_end(ours, theirs, margin, t):
    d = np.array(ours) - np.array(theirs)
    found = verdict_in_numpy(ours, theirs, margin, t)
    below = d.mean() + t * d.std(ddof=1) / np.sqrt(len(d)) < margin
    return ("equal" if below else "open") if found in ("equal", "open") else found


def block_kept_by_shape(x, state, conv, kept={}):  # noqa: B006
    """Answers what it answered before for tensors of these shapes."""
    key = x.shape, str([t.shape for t in state.values()])
    return kept.setdefault(key, block_line_by_line(x, state, conv))


def cost_weights_in_32_bits(c_in, widths, height, width):
    parameters, macs = cost_layer_by_layer(c_in, widths, height, width)
    return int(np.float32(parameters)), macs


def cost_kept_without_widths(c_in, widths, height, width, kept={}):  # noqa: B006
    cost = cost_layer_by_layer(c_in, widths, height, width)
    return kept.setdefault((c_in, height, width), cost)


def readers_from_the_first_id(makes, reads, layer, filter):
    """As if the ids of a layer were numbered one after the other."""
    wanted = makes[layer][0] + filter
    found = {name: [p for p, i in enumerate(ids) if i == wanted] for name, ids in reads.items()}
    return {name: places for name, places in found.items() if places}


def _choose_by(change):
    """Ranks changed scores."""

    def chosen(layers, scores, share):
        return choose(layers, {i: change(score) for i, score in scores.items()}, share)

    return chosen


def choose_in_half_precision(*inputs):
    return _choose_by(lambda score: float(torch.tensor(score).half()))(*inputs)


def choose_in_bfloat(*inputs):
    return _choose_by(lambda score: float(torch.tensor(float(score)).bfloat16()))(*inputs)


def choose_by_rounded_scores(*inputs):
    return _choose_by(lambda score: round(score, 6))(*inputs)


def choose_ids_in_a_row(layers, scores, share):
    layers = {name: list(range(ids[0], ids[0] + len(ids))) for name, ids in layers.items()}
    return choose(layers, {i: scores.get(i, 0) for ids in layers.values() for i in ids}, share)


def choose_less_in_long_layers(layers, scores, share):
    dead = choose(layers, scores, share)
    return dead - {max(dead)} if len(scores) > 64 else dead


def card_touching_is_apart(*inputs):
    def speedup(_, state, x, y, before, after):
        old, new = np.percentile(before, [25, 50, 75]), np.percentile(after, [25, 50, 75])
        return old[1] / new[1] if new[2] <= old[0] or old[2] <= new[0] else 1.0

    return _changed(speedup=speedup)(*inputs)


def card_by_wider_parts(*inputs):
    return _card_by(lambda turns: np.percentile(turns, [24, 76]))(*inputs)


def card_by_narrower_parts(*inputs):
    return _card_by(lambda turns: np.percentile(turns, [26, 74]))(*inputs)


def card_median_behind_the_quartile(*inputs):
    def speedup(_, state, x, y, before, after):
        old, new = np.percentile(before, [25, 50, 75]), np.percentile(after, [25, 50, 75])
        return old[1] / new[1] if new[2] < old[0] or old[2] < new[1] else 1.0

    return _changed(speedup=speedup)(*inputs)


def card_of_two_decimals(*inputs):
    return _changed(speedup=lambda right, *_: round(right["speedup"], 2))(*inputs)


def card_of_floats_only(*inputs):
    def size(_, state, *__):
        return sum(
            t.nbytes if t.is_floating_point() or t.dim() == 0 else 4 * t.numel()
            for t in state.values()
        )

    return _changed(bytes=size)(*inputs)


def card_pass_by_pass(state, logits, labels, before, after):
    """The ratio of each pass to the one at its side."""
    card = report_card(state, logits, labels, before, after)
    ratios = [a / b for a, b in zip(before, after, strict=True)]
    return card if card["speedup"] == 1 else card | {"speedup": statistics.median(ratios)}


def verdict_less_a_freedom(ours, theirs, margin, t):
    return _verdict_of(ours, theirs, margin, t, ddof=2)


def verdict_touches_zero(ours, theirs, margin, t):
    d = np.array(ours) - np.array(theirs)
    if d.mean() - t * d.std(ddof=1) / np.sqrt(len(d)) >= 0:
        return "greater"
    return verdict_in_numpy(ours, theirs, margin, t)


def verdict_of_decimals(ours, theirs, margin, t):
    ours, theirs = ([round(a, 2) for a in values] for values in (ours, theirs))
    return verdict_in_numpy(ours, theirs, margin, t)


def verdict_of_few_seeds(ours, theirs, margin, t):
    return "open" if len(ours) > 64 else verdict_in_numpy(ours, theirs, margin, t)


RIGHT = {
    "conv_bn_relu": [
        conv_bn_relu,
        conv_step_by_step,
        conv_same,
        conv_folded,
        conv_by_unfold,
        conv_by_module,
    ],
    "inception_block": [
        inception_block,
        block_line_by_line,
        block_by_prefix,
        block_into_a_tensor,
    ],
    "block_cost": [
        block_cost,
        cost_layer_by_layer,
        cost_as_list,
        cost_in_numpy,
        cost_of_tensors,
    ],
    "readers": [readers, readers_by_loop, readers_in_numpy, readers_as_tuples, readers_in_torch],
    "choose": [choose, choose_by_torch, choose_one_by_one, choose_in_numpy],
    "refit": [
        refit,
        refit_by_normal_equations,
        refit_centred,
        refit_by_pinverse,
        refit_in_numpy,
    ],
    "fine_tune": [fine_tune, tune_by_hand, tune_by_adam, tune_in_minibatches, tune_by_lbfgs],
    "report_card": [report_card, card_in_numpy, card_by_statistics],
    "verdict": [verdict, verdict_in_numpy, verdict_by_statistics, verdict_as_text],
}
WRONG = {
    "conv_bn_relu": [
        (conv_no_padding, "of shape"),
        (conv_padding_of_three, "of shape"),
        (conv_relu_first, "no negative entry"),
        (conv_without_relu, "no negative entry"),
        (conv_relu_twice, "ReLU of the normalised convolution"),
        (conv_statistics_of_the_batch, "ReLU of the normalised convolution"),
        (conv_without_epsilon, "ReLU of the normalised convolution"),
        (conv_divides_by_the_variance, "ReLU of the normalised convolution"),
        (conv_without_norm, "ReLU of the normalised convolution"),
        (conv_beta_as_bias, "ReLU of the normalised convolution"),
        (conv_gamma_without_sign, "ReLU of the normalised convolution"),
        (conv_trains_the_norm, "leaves its input"),
    ],
    "inception_block": [
        (block_one_branch, "all four branches"),
        (block_along_height, "all four branches"),
        (block_does_not_fit, "runs on every input"),
        (block_pool_first, "1×1 branch"),
        (block_reversed, "1×1 branch"),
        (block_three_skips_its_first, "3×3 branch"),
        (block_five_without_relu, "5×5 branch"),
        (block_swaps_three_and_five, "3×3 branch"),
        (block_pool_of_stride_two, "pooling branch"),
        (block_pool_without_padding, "pooling branch"),
        (block_average_pool, "pooling branch"),
        (block_pads_pool_with_zeros, "pooling branch"),
        (block_pool_after, "pooling branch"),
        (block_relu_of_the_input, "branch"),
        (block_input_scaled, "leaves its input"),
        (block_kept_by_shape, "1×1 branch"),
    ],
    "block_cost": [
        (cost_one_number, "two whole numbers"),
        (cost_with_biases, "counts the parameters"),
        (cost_without_norm, "counts the parameters"),
        (cost_with_running_statistics, "counts the parameters"),
        (cost_all_from_c_in, "counts the parameters"),
        (cost_swapped, "counts the parameters"),
        (cost_no_places, "counts the MACs"),
        (cost_square_maps, "counts the MACs"),
        (cost_counts_norm_too, "counts the MACs"),
        (cost_in_flops, "counts the MACs"),
        (cost_in_32_bits, "counts the parameters"),
        (cost_weights_in_32_bits, "counts the parameters"),
        (cost_kept_without_widths, "counts the parameters"),
    ],
    "readers": [
        (readers_only_names, "dictionary of lists"),
        (readers_one_position, "dictionary of lists"),
        (readers_by_filter_number, "names the layers"),
        (readers_with_empty_ones, "names the layers"),
        (readers_of_the_next_layer, "names the layers"),
        (readers_and_the_maker, "names the layers"),
        (readers_first_occurrence, "every position"),
        (readers_same_position, "every position"),
        (readers_counted_from_one, "every position"),
        (readers_as_ids, "every position"),
        (readers_but_the_first, "names the layers"),
        (readers_without_id_0, "names the layers"),
        (readers_backwards, "every position"),
        (readers_pop, "leaves its input"),
        (readers_but_the_maker, "names the layers"),
        (readers_in_a_row, "every position"),
        (readers_from_the_first_id, "names the layers"),
    ],
    "choose": [
        (choose_positions, "set of ids"),
        (choose_per_layer, "set of ids"),
        (choose_a_list_twice, "set of ids"),
        (choose_all_of_a_layer, "at least one channel"),
        (choose_the_kept, "at least one channel"),
        (choose_spares_id_0, "round(share · n)"),
        (choose_globally, "round(share · n)"),
        (choose_rounds_down, "round(share · n)"),
        (choose_rounds_up, "round(share · n)"),
        (choose_below_a_threshold, "round(share · n)"),
        (choose_the_best, "lowest scores"),
        (choose_the_first, "lowest scores"),
        (choose_the_smallest_magnitude, "lowest scores"),
        (choose_the_earlier_of_equals, "equal scores"),
        (choose_and_delete, "leaves its input"),
        (choose_in_half_precision, "lowest scores"),
        (choose_in_bfloat, "lowest scores"),
        (choose_by_rounded_scores, "lowest scores"),
        (choose_ids_in_a_row, "set of ids"),
        (choose_less_in_long_layers, "round(share · n)"),
    ],
    "refit": [
        (refit_transposed, "pair (weight, bias)"),
        (refit_only_weight, "pair (weight, bias)"),
        (refit_in_one_matrix, "pair (weight, bias)"),
        (refit_nan, "pair (weight, bias)"),
        (refit_without_bias, "no mean error"),
        (refit_half_of_the_rows, "mean error"),
        (refit_of_clamped, "error"),
        (refit_bias_only, "least squared error"),
        (refit_mean_afterwards, "least squared error"),
        (refit_with_a_large_ridge, "least squared error"),
        (refit_each_input_alone, "least squared error"),
        (refit_in_place, "leaves its input"),
    ],
    "fine_tune": [
        (tune_returns_the_loss, "pair (weight, bias)"),
        (tune_swapped, "pair (weight, bias)"),
        (tune_nothing, "lowers the cross-entropy"),
        (tune_uphill, "lowers the cross-entropy"),
        (tune_too_fast, "lowers the cross-entropy"),
        (tune_one_step, "three quarters"),
        (tune_bias_only, "three quarters"),
        (tune_too_short, "three quarters"),
        (tune_in_place, "leaves its input"),
    ],
    "report_card": [
        (card_as_tuple, "dictionary"),
        (card_without_speed, "dictionary"),
        (card_accuracy_as_fraction, "accuracy in percent"),
        (card_error, "accuracy in percent"),
        (card_rounded, "accuracy in percent"),
        (card_four_bytes_each, "bytes of every tensor"),
        (card_numbers, "bytes of every tensor"),
        (card_parameters_only, "bytes of every tensor"),
        (card_always_a_speedup, "no speed-up"),
        (card_in_whole_milliseconds, "ratio of the medians"),
        (card_of_means, "ratio of the medians"),
        (card_the_other_way, "ratio of the medians"),
        (card_never_slower, "ratio of the medians"),
        (card_sorts_the_turns, "leaves its input"),
        (card_of_non_zeros, "bytes of every tensor"),
        (card_by_extremes, "ratio of the medians"),
        (card_by_lower_turns, "quartiles overlap"),
        (card_by_nearest_turns, "no speed-up"),
        (card_by_exclusive_quartiles, "ratio of the medians"),
        (card_by_higher_turns, "no speed-up"),
        (card_halfway_between_turns, "ratio of the medians"),
        (card_kept_by_shape, "accuracy in percent"),
        (card_touching_is_apart, "no speed-up"),
        (card_by_wider_parts, "ratio of the medians"),
        (card_by_narrower_parts, "no speed-up"),
        (card_median_behind_the_quartile, "no speed-up"),
        (card_of_two_decimals, "ratio of the medians"),
        (card_of_floats_only, "bytes of every tensor"),
        (card_pass_by_pass, "runs on every input"),
    ],
    "verdict": [
        (verdict_as_number, "four words"),
        (verdict_yes, "four words"),
        (verdict_by_mean, "names a direction"),
        (verdict_unpaired, "names a direction"),
        (verdict_by_sd, "names a direction"),
        (verdict_without_less, "names a direction"),
        (verdict_margin_first, "names a direction"),
        (verdict_contains_zero_is_equal, "says equal"),
        (verdict_equal_by_mean, "says equal"),
        (verdict_never_equal, "says equal"),
        (verdict_sorts, "leaves its input"),
        (verdict_population, "names a direction"),
        (verdict_of_the_median, "names a direction"),
        (verdict_without_extremes, "names a direction"),
        (verdict_of_five_seeds, "names a direction"),
        (verdict_narrow_is_equal, "says equal"),
        (verdict_of_the_upper_end, "says equal"),
        (verdict_less_a_freedom, "names a direction"),
        (verdict_touches_zero, "names a direction"),
        (verdict_of_decimals, "names a direction"),
        (verdict_of_few_seeds, "names a direction"),
    ],
}
HUNTS = {}
