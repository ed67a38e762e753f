"""How every public function that takes a model is called: the rows of ``test_awkward.py``."""

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from awkward import images, network
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from course_lib import ensemble, experiments, layers, parametrized, training
from course_lib.compression import binary, coding
from course_lib.data import Split, Text
from course_lib.pruning import (
    bayesian,
    channels,
    gates,
    granularity,
    learning_compression,
    penalties,
    pipeline,
    schedules,
    sparse_training,
)


@dataclass
class Row:
    call: object  # (function, cell) -> result
    kind: str = "cnn"  # of network
    changes: bool = False  # its task is to change the model
    views: bool = False  # its task is to show the model's own tensors
    same: bool = False  # returns a network that computes the same: the twin itself is the oracle
    oracle: object = None  # (cell, column) -> what is right, where that is not the twin's result


ROWS = {}


def rows(room, names="", call=None, **options):
    """Add rows of one room: those named, all called alike."""
    for name in names.split():
        ROWS[f"{room}.{name}"] = Row(call, **options)


def on_model(f, c):
    return f(c.model)


def on_x(f, c):
    return f(c.model, c.x)


def on_batch(f, c):
    return f(c.model, (c.x, c.y))


def on_layer(f, c):
    return f(c.layer)


def on_graph(f, c):
    return f(c.model, graph(c))


def graph(c):
    """The model's graph; where it has none, that of the plain network: then the graph is foreign."""
    try:
        return channels.trace(c.model, c.probe)
    except (ValueError, NotImplementedError):
        return channels.trace(network(c.row.kind), images()[0])


def costs(f, c):
    found = graph(c)
    return f(c.model, found, torch.ones(len(found.ids())))


def cut(f, c):
    found = graph(c)
    return f(c.model, found, [ids[-1] for ids in found.layers().values()])


def weights(c):
    """As ``layers.weights``, but of whatever computes a weight."""
    found, seen = {}, set()
    for name, layer in c.model.named_modules():
        weight = getattr(layer, "weight", None)
        if isinstance(weight, Tensor) and id(weight) not in seen and not is_lazy(weight):
            seen.add(id(weight))
            found[f"{name}.weight"] = weight.detach()
    return {name: weight for name, weight in found.items() if weight.dim() > 1}


def keep(c):
    return {name: weight.abs() > 0.1 for name, weight in weights(c).items()}


def clusters(c):
    return {n: torch.where(w == 0, -1, (w > 0).long()) for n, w in weights(c).items()}


def kernels(c):
    return {n: w.abs().float() for n, w in weights(c).items() if w.dim() == 4}


def outputs(model, x):
    with torch.no_grad(), training.evaluating(model):
        return model(x)


def then_outputs(change):
    def call(f, c):
        change(f, c)
        return outputs(c.model, c.probe)

    return call


def held(hold):
    """Two steps of an optimizer that ``hold`` has a hook at."""

    def call(f, c):
        other = torch.ones(1, device=c.x.device)  # an optimizer without parameters is refused
        optimizer = torch.optim.SGD([*c.model.parameters(), other], lr=0.05, momentum=0.9)
        hold(f, c, optimizer)
        c.held = True
        for _ in range(2):
            optimizer.zero_grad()
            with training.evaluating(c.model):
                loss = F.cross_entropy(c.model(c.probe).flatten(0, -2), c.labels)
            if loss.requires_grad:
                loss.backward()
            optimizer.step()
        return outputs(c.model, c.probe)

    return call


def within(enter):
    def call(f, c):
        with enter(f, c), torch.no_grad():
            return [m.training for m in c.model.modules()]

    return call


PLAN = training.Plan(epochs=1, batch_size=3)
PRUNING = pipeline.Pruning(schedules.one_shot(0.5), 1)


def evaluated(call):
    def inside(f, c):
        with training.evaluating(c.model):
            return call(f, c)

    return inside


def arms(c):
    return {"arm": experiments.Arm([c.model], [keep(c)])}


def load(f, c):
    """Saved, forgotten and loaded; where it cannot be saved, the plain network's file."""
    try:
        coding.save(c.model, c.path)
    except (ValueError, TypeError, NotImplementedError):
        coding.save(network("cnn"), c.path)
        f(c.path, c.model)
    with torch.no_grad():
        for parameter in c.model.parameters():
            parameter.zero_()
    f(c.path, c.model)


def signed(f, c):
    model = parametrized.attach(c.model, binary.sign)
    own = SimpleNamespace(model=model, x=c.x, probe=c.probe, labels=c.labels)
    return held(lambda f, c, o: f(o, c.model))(f, own)


def reads(f, c):
    seen = {}
    with f(c.model, graph(c), lambda name, z: seen.update({name: z.clone()})):
        layers.run(c.model, c.probe)
    return seen


def of_numbers(plain, **others):
    return lambda c, column: others.get(column, plain)


def stored(c, column):
    """Bytes of all tensors at different addresses."""
    state = {t.data_ptr(): t for t in c.model.state_dict().values()}
    return sum(t.nbytes for t in state.values())


rows("layers", "weighted weights", on_model, views=True)
rows("layers", "uncompiled", on_model, views=True, same=True)
rows("layers", "check_called check_made check_module", on_model)
rows("layers", "check_untied", lambda f, c: f(c.model, c.model.parameters()))
rows("layers", "chained", lambda f, c: [n.removeprefix("body") for n, _ in f(c.model)])
rows("layers", "copied", on_model, same=True)
rows("layers", "run", evaluated(on_x))
rows("layers", "called_with", evaluated(lambda f, c: f(c.model, {}, c.probe)))
rows("layers", "check_plain", lambda f, c: f(c.name, c.layer))
rows("layers", "outputs_first", lambda f, c: f(c.layer, torch.ones(4, 2, 3, 3)), views=True)
rows("parametrized", "attach", lambda f, c: f(c.model, torch.tanh))
rows("parametrized", "folded", on_model, same=True)
rows("ensemble", "stack", lambda f, c: ensemble.unstack(f([c.model] * 2))[1], kind="mlp", same=True)
_alike = dict.fromkeys("old_weight_norm pruned compiled bn_training mixed_modes".split(), False)
rows("ensemble", "alike", lambda f, c: f(c.model, c.model), oracle=of_numbers(True, **_alike))
rows("ensemble", "template", on_model, views=True, same=True)
rows("ensemble", "members unstack", on_model, views=True)
rows("ensemble", "size", on_model)
rows("ensemble", "by_member", lambda f, c: f(c.model, {"x": c.probe}), views=True)
rows("ensemble", "joined", lambda f, c: f(c.model, [{"x": c.probe}] * 2), views=True)
rows("ensemble", "all_modules", lambda f, c: len(list(f(c.model))) > 0)
rows("ensemble", "backward", lambda f, c: f(c.model, c.x, c.y), changes=True)
rows("ensemble", "check_separate", lambda f, c: f(c.model, torch.zeros(2)))
rows("training", "sgd adamw", lambda f, c: type(f(c.model)).__name__)
rows("training", "make_optimizer", lambda f, c: type(f(c.model, PLAN)).__name__)
rows("training", "evaluate mean_loss", lambda f, c: f(c.model, c.split))
rows("training", "snapshot", on_model)
rows("training", "check_plan", lambda f, c: f(c.model, c.split, PLAN))
rows("training", "check_state", lambda f, c: f("start", c.model, c.model.state_dict()))
rows(
    "training",
    "evaluating",
    within(on_model),
    oracle=lambda c, _: [False] * len([*c.model.modules()]),
)
rows("training", "fit", then_outputs(lambda f, c: f(c.model, c.split, PLAN)), changes=True)
rows("experiments", "run", lambda f, c: f(arms(c), c.split, c.split, PLAN, seeds=[0]))
rows("experiments", "evaluate", lambda f, c: f(arms(c), c.split, seeds=[0]))
rows("experiments", "choose", lambda f, c: f(arms(c), c.split, PLAN, held_out=2, seeds=[0]))
_parameters = {"weight_norm": 427, "old_weight_norm": 427, "tied": 279, "twice": 275}
_parameters |= {"grouped": 351, "depthwise": 315, "bn_training": 431, "mixed_modes": 431}
_parameters |= {"attention": 1187, "no_layer": 1, "no_parameter": 0}
rows("measure", "count_parameters", on_model, oracle=of_numbers(423, **_parameters))
_weights = {"tied": 264, "twice": 264, "grouped": 336, "depthwise": 300, "attention": 352}
rows("measure", "count_weights", on_model, oracle=of_numbers(408, **_weights))
rows("measure", "sparsity bytes_sparse bytes_file", on_model)
rows("measure", "stored", on_model, views=True)
rows("measure", "bytes_dense", on_model, oracle=stored)
rows("measure", "bandwidth", lambda f, c: f(c.model, per_second=1), oracle=stored)
_macs = of_numbers(5808, unused=3504, grouped=4656, depthwise=4080, no_layer=0, no_parameter=0)


class Reader(nn.Module):
    """A language model of three words out of a network of images: a word is the image of its number."""

    def __init__(self, model, x):
        super().__init__()
        self.model, self.x = model, x

    def forward(self, tokens):
        return self.model(self.x[tokens.flatten()]).unflatten(0, tokens.shape)


def words(c):
    return Text(torch.tensor([[0, 1, 2], [2, 0, 1]], device=c.x.device))


rows("measure", "nats", lambda f, c: f(Reader(c.model, c.x), words(c)))
rows(
    "language",
    "train",
    then_outputs(lambda f, c: f(Reader(c.model, c.x), words(c), steps=1, rate=1e-4)),
    changes=True,
)
rows("measure", "macs", on_x, oracle=_macs)
rows("measure", "latency turns", lambda f, c: len(f({"model": c.model}, c.x, rounds=1)))
rows("measure", "sparse_copy", on_model, kind="mlp", same=True)
rows("criteria", "magnitude", on_model)
rows("criteria", "random", lambda f, c: f(c.model, seed=0))
rows("criteria", "snip taylor", on_batch)
rows("criteria", "synflow", lambda f, c: f(c.model, (2, 4, 4)))
rows("criteria", "loss_on", evaluated(lambda f, c: f(c.model, (c.x, c.y), F.cross_entropy)({})))
rows("criteria", "masked", lambda f, c: f(c.model, keep(c)), views=True)
rows("granularity", "channels kernels", lambda f, c: f(c.model, kernels(c), 0.5))
rows("granularity", "strided", lambda f, c: f(c.model, kernels(c), 2))
_half = lambda f, c: f(c.model, c.x, lambda _, weight, gram: weight / 2)
rows("layerwise", "gram wanda", on_x, kind="mlp")
rows("layerwise", "rewrite", _half, kind="mlp")
_one_of_two = partial(granularity.n_of_m, keep=1, of=2)
rows("layerwise", "sparsegpt", lambda f, c: f(c.model, c.x, _one_of_two), kind="mlp")
_heads = lambda f, c: f(c.model, (c.x, c.y), {f"{c.name}.weight": 2})
rows("layerwise", "heads", _heads, kind="mlp")
rows("layerwise", "block_influence", lambda f, c: f(c.model, c.x, [c.name]), kind="mlp")
decay = {"weight_decay": 5.0}  # makes a minimum of any point
rows("second_order", "obd obs hessian", lambda f, c: f(c.model, (c.x, c.y), **decay), kind="mlp")


def in_one_row(model):
    return torch.cat([layers.at_least_float32(p.detach()).flatten() for p in model.parameters()])


energy = lambda f, c: f(c.model, (c.x, c.y), **decay)(in_one_row(c.model))
rows("second_order", "energy", energy, kind="mlp")
rows("second_order", "obs_prune", lambda f, c: f(c.model, (c.x, c.y), 0.1, **decay), kind="mlp")
rows("masks", "apply", then_outputs(lambda f, c: f(c.model, keep(c))), changes=True)
rows("masks", "hold", held(lambda f, c, o: f(o, c.model, keep(c))), changes=True)
rows("sharing", "apply", then_outputs(lambda f, c: f(c.model, clusters(c))), changes=True)
rows("sharing", "hold", held(lambda f, c, o: f(o, c.model, clusters(c))), changes=True)
rows("sharing", "clusters", lambda f, c: f(c.model, 2))
rows("penalties", "rows columns", on_model)
rows("penalties", "bn_scales", on_model, kind="bn")
_prox = {"prox": penalties.prox_l1, "strength": 0.1}
rows("penalties", "regularise", held(lambda f, c, o: f(o, c.model, **_prox)), changes=True)
_slope = {"slope": penalties.smooth_root(0.1), "strength": 0.1}
rows("penalties", "penalise", held(lambda f, c, o: f(o, c.model, **_slope)), changes=True)
rows("penalties", "trained", on_model, views=True)
rows("penalties", "per_member", lambda f, c: f(c.model, penalties.l1))
rows("penalties", "groups", on_graph, kind="bn")


def squares(values):
    return {name: v.square() for name, v in values.items()}


rows("penalties", "prox_selective", lambda f, c: f(c.model, 0.5)({"v": c.x.new_ones(2, 4)}, 1.0))
rows("penalties", "by_network", lambda f, c: f(c.model, squares, {"v": c.x.new_ones(2, 4)}))


def with_noise(c):
    return bayesian.noisy(c.model, bayesian.Variational)


def charged(f, c):
    own = SimpleNamespace(model=with_noise(c), x=c.x, probe=c.probe, labels=c.labels)
    return held(lambda f, c, o: f(o, c.model, n=10))(f, own)


rows("bayesian", "noisy", lambda f, c: outputs(f(c.model, bayesian.Jeffreys), c.probe))
rows("bayesian", "kl levels", lambda f, c: f(with_noise(c)))
rows("bayesian", "precision", lambda f, c: [*f(with_noise(c)).values()])
rows("bayesian", "harden", lambda f, c: f(with_noise(c))[1])
rows("bayesian", "charge", charged)
_lc = learning_compression.Splitting(learning_compression.l1(1e-3), [0.1])
rows(
    "learning_compression",
    "pull",
    held(lambda f, c, o: f(o, c.model, _lc, every=100)),
    changes=True,
)
_turn = then_outputs(lambda f, c: f(c.model, c.split, PLAN, _lc))
rows("learning_compression", "alternate", _turn, changes=True)
_moves = {"methods": sparse_training.RIGL, "fraction": lambda step: 0.3 * (step == 1)}
rows(
    "sparse_training",
    "rewire",
    held(lambda f, c, o: f(o, c.model, keep(c), **_moves)),
    changes=True,
)
_rounds = then_outputs(lambda f, c: f(c.model, c.split, PLAN, PRUNING))
rows("pipeline", "iterate", _rounds, changes=True)
rows(
    "pipeline",
    "train_held",
    then_outputs(lambda f, c: f(c.model, c.split, keep(c), PLAN)),
    changes=True,
)
rows("pipeline", "check_rounds", lambda f, c: f(c.model, c.split, PLAN, PRUNING))
rows("pipeline", "next_masks", lambda f, c: f(c.model, PRUNING))
rows("lottery", "find_tickets", _rounds, changes=True)


def with_gates(call):
    """With gates, closed before weights that are not positive; where there can be none, refused."""

    def inside(f, c):
        gates.attach(c.model, gates.Sigmoid())
        for steps in [m for m in c.model.modules() if isinstance(m, ParametrizationList)]:
            steps[0].logits.data.copy_(torch.where(steps.original > 0, 1.0, -1.0))
        return call(f, c)

    return inside


def annealed(f, c):
    optimizer = torch.optim.SGD(c.model.parameters(), lr=0.05)
    with f(optimizer, c.model, to=9.0, steps=2):
        optimizer.step()
    return outputs(c.model, c.probe)


def hardened(f, c):
    return f(c.model), outputs(c.model, c.probe)


rows("gates", "attach", then_outputs(lambda f, c: f(c.model, gates.Sigmoid())), changes=True)
rows("gates", "parameter_groups", with_gates(lambda f, c: len(f(c.model)[1])), changes=True)
rows("gates", "anneal", with_gates(annealed), changes=True)
rows("gates", "expected", with_gates(on_model), changes=True)
rows("gates", "reset", with_gates(then_outputs(on_model)), changes=True)
rows("gates", "harden", with_gates(hardened), changes=True)
_one_place = then_outputs(lambda f, c: f(c.model, [c.name], seed=0))
rows("shift_attention", "attach", _one_place, changes=True)
rows("lottery", "layer_shares", on_model)
rows("lottery", "ticket", lambda f, c: f(c.model, keep(c)))
rows("lottery", "reinitialise", lambda f, c: f(c.model, seed=0))
rows("lottery", "random_mask", lambda f, c: f(c.model, keep(c), seed=0))
rows("channel_criteria", "l1 l2 rms macs_share bn_scale", on_graph, kind="bn")
rows("channel_criteria", "random", lambda f, c: f(c.model, graph(c), seed=0), kind="bn")
_of_x = "activation_mean activation_std apoz"
rows("channel_criteria", _of_x, lambda f, c: f(c.model, graph(c), c.x), kind="bn")
rows("channel_criteria", "taylor oracle", lambda f, c: f(c.model, graph(c), (c.x, c.y)), kind="bn")
rows("channel_criteria", "flops_regularised", costs, kind="bn")
rows("channels", "trace", on_x, kind="bn")
rows("channels", "remove silence", cut, kind="bn")
rows("channels", "fold", lambda f, c: cut(lambda *args: f(*args, c.x), c), kind="bn")


def several(x):
    """More images than a fit has unknowns."""
    return torch.cat([x * factor for factor in (1, 0.5, -1, 2)])


_repair = lambda f, c: cut(lambda *args: f(*args, several(c.x)), c)
rows("channels", "reconstruct", _repair, kind="bn")
rows("channels", "check_graph", on_graph, kind="bn")
rows("channels", "watching_reads", reads, kind="bn")


def table(f, c):
    found = graph(c)
    return f(c.model, found, next(reversed(found.layers()), "none"), c.split)


def of_last(name):
    """Functions of the last layer whose width can be chosen."""

    def call(f, c):
        found = graph(c)
        layer = next(reversed(found.layers()), "none")
        if name == "affordable":
            return f(c.model, found, {}, layer, 1.0, budget=4000)
        if name == "layer_state":
            return f(c.model, found, {}, layer, c.x, last=1.0)
        return f(c.model, found, {layer: torch.zeros(2)}, {layer: [1, 4]})

    return call


_attention = lambda f, c: f(c.model, graph(c), c.split, seed=0)
rows("channel_attention", "attention_means", _attention, kind="bn")
rows("widths", "macs", lambda f, c: f(c.model, graph(c), {}), kind="bn")
for _name in ("affordable", "layer_state", "expected_macs"):
    rows("widths", _name, of_last(_name), kind="bn")
rows("subsets", "every_subset", table, kind="bn")


def genes(call):
    """With a width and bits for the first layer that has both."""

    def inside(f, c):
        name = next(iter(graph(c).layers()), "none")
        return call(f, c, {f"{name} width": [1, 2], f"{name} bits": [3, 8]})

    return inside


def sandwiched(f, c, space):
    loss = f(c.model, graph(c), space, Split(c.probe, c.labels[: len(c.probe)]), seed=0)
    with training.evaluating(c.model):
        return loss(c.model(c.probe), torch.arange(len(c.probe), device=c.x.device))


def of_chain(c):
    found = graph(c)
    widths = {f"{name} width": [1, 3] for name in found.layers()}
    return widths | {f"{name} bits": [3, 8] for name in found.makes}


_two = lambda f, c, space: f(c.model, graph(c), space, [(1, 3), (2, 8)])
rows("joint", "space", lambda f, c: f(c.model, graph(c), shares=[0.5, 1.0], bits=[2, 8]))
rows("joint", "built", genes(lambda f, c, space: f(c.model, graph(c), space, (2, 3))))
rows("joint", "stored_bytes", genes(_two))
rows("joint", "sandwich", genes(sandwiched))
rows("joint", "every_accuracy", lambda f, c: f(c.model, of_chain(c), c.split), kind="mlp")


def gone_on(f, c):
    """What the network says, the same from each stop on."""
    first, *others = [rest() for _, rest in f(c.model, c.x)]
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0, equal_nan=True)
    return first


rows("tracing", "symbolic", lambda f, c: len(f(c.model).nodes) > 2)
rows("tracing", "watch", lambda f, c: len(f("x", c.model, c.x, lambda *_: None).nodes) > 2)
rows("tracing", "stops", gone_on, oracle=lambda c, _: outputs(c.model, c.x))
rows("tracing", "follow", lambda f, c: f(c.model, c.x).makes)
rows(
    "tracing",
    "undisturbed",
    within(on_model),
    oracle=lambda c, _: [False] * len([*c.model.modules()]),
)
rows("tracing", "check_batched", lambda f, c: f(c.name, c.layer, c.x))
rows("tracing", "check_input", lambda f, c: f("x", c.model, c.x), views=True)
rows("tracing", "check_split", lambda f, c: f("split", c.model, (c.x, c.y)), views=True)
rows("tracing", "check_bare", on_model)
rows("tracing", "claim", lambda f, c: f({}, c.name, c.layer))
rows("quantization", "ptq qat", lambda f, c: f(c.model, 8))
rows("quantization", "gptq", lambda f, c: f(c.model, c.x, 8), kind="mlp")
rows("quantization", "activations", lambda f, c: f(c.model, c.x, 8))
rows("quantization", "layer_inputs", on_x)
rows("quantization", "stored_bytes", lambda f, c: f(c.model, 4))
rows("quantization", "int8", on_model, kind="mlp")
rows("hashing", "hashed", lambda f, c: f(c.model, 0.25))
rows("binary", "packed", on_model, kind="bnn", same=True)
rows("binary", "hold_in_range", signed, kind="mlp")
rows("container", "tensors", on_model, views=True)
rows("coding", "save", lambda f, c: f(c.model, c.path) > 0)
rows("coding", "sizes", on_model)
rows("coding", "load", then_outputs(load), changes=True, same=True)
rows("distillation", "answers", on_x)
rows("compact", "by_part pooled_head", on_x)
rows("compact", "separable", lambda f, c: [p.shape for p in f(c.layer).parameters()])
rows("decomposition", "replaced", lambda f, c: f(c.model, {c.name: nn.Identity()}))
rows("decomposition", "tucker", lambda f, c: f(c.layer, (2, 2)))
rows("decomposition", "cp", lambda f, c: f(c.layer, 3, iterations=5))
rows("decomposition", "squared_singular_values", on_layer)
rows("decomposition", "rank_by_energy", lambda f, c: f(c.layer, 0.9))
rows("decomposition", "rank_by_budget", lambda f, c: f(c.layer, 0.9, "tucker"))
rows("decomposition", "svd", lambda f, c: f(c.layer, 3), kind="mlp")
rows("decomposition", "product", lambda f, c: f(nn.Sequential(c.layer, c.layer)), kind="mlp")
