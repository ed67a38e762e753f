"""Every public function that takes a model, times every awkward model (``awkward.COLUMNS``).

Each cell is *right*: what the function makes of the model is what it makes of the plain twin; or
*refused*: in a sentence of the library's own. Either way the model is as it was, to the last bit.
Which cells are refused is written down in ``REFUSED``.
"""

import functools
import importlib
import inspect
import pkgutil
import sys
import traceback
import warnings
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import course_lib
from course_lib import ensemble, layers
from course_lib.data import Split
from course_lib.measure import raw

sys.path.insert(0, str(Path(__file__).parent))
from awkward import COLUMNS, images, on_cuda
from awkward_calls import ROWS, outputs

# Parameters that are a model or hold one, and rooms that are not for models of other people.
MODELS = {"model", "models", "network", "networks", "layer", "conv", "teacher", "other", "chain"}
MODELS |= {"arms", "settings", "module", "net"}
ROOMS = {"exercises", "teaching", "grading"}


def public():
    """Room.name -> every public function of the library that takes a model."""
    found = {}
    for module in pkgutil.walk_packages(course_lib.__path__, "course_lib."):
        if module.name.split(".")[1] not in ROOMS:
            for name, value in vars(importlib.import_module(module.name)).items():
                own = inspect.isfunction(value) and value.__module__ == module.name
                given = inspect.signature(value).parameters.values() if own else ()
                takes = any(p.name in MODELS or "Stack" in str(p.annotation) for p in given)
                if takes and name[0] != "_":
                    found[f"{module.name.rpartition('.')[2]}.{name}"] = value
    return found


FUNCTIONS = public()
CUDA = "on a CUDA device"  # a column that most machines lack

# ---- what is expected

COMPUTED = "parametrised weight_norm old_weight_norm pruned"
GROUPS = "grouped depthwise"
TYPES = "float16 bfloat16 float64"
BATCHES = "empty_batch nan_batch unbatched"
PLAIN = f"plain nested keyword channels_last compiled {BATCHES}".split()  # the twin is plain
NONE = "lazy no_layer no_parameter stack"  # no network with weights of its own
UNTRACED = "tied twice transposed grouped compiled"
# What the twin's result says nothing of: its weights have other names, types, numbers or places, or
# other random numbers fall on them. These cells have to run, and to leave the model as it is.
FREE = {
    "layers.run criteria.loss_on measure.nats language.train second_order.energy": "nan_batch",
    "layers.weighted": "tied twice",
    "layers.chained": "nested",
    "layers.outputs_first": "transposed",
    "training.snapshot container.tensors": f"{COMPUTED} tied twice",
    "training.fit": "weight_norm old_weight_norm",
    "experiments.run penalties.regularise penalties.penalise penalties.trained": "frozen",
    "penalties.per_member": "frozen unused",
    "learning_compression.*": "frozen",
    "penalties.groups": "unused depthwise",
    "bayesian.kl bayesian.precision": "frozen unused",
    "bayesian.levels bayesian.charge": f"frozen {GROUPS}",
    "bayesian.harden": "frozen",
    "measure.sparsity sharing.clusters": GROUPS,
    "measure.bytes_sparse": f"{TYPES} unused transposed",
    "measure.bytes_file": f"{COMPUTED} {TYPES} {GROUPS} unused",
    "measure.stored": f"{COMPUTED} {GROUPS} unused transposed",
    "granularity.channels granularity.kernels granularity.strided second_order.obs": GROUPS,
    "gates.expected": f"{GROUPS} unused",
    "criteria.random lottery.random_mask lottery.reinitialise": f"{GROUPS} unused transposed",
    "second_order.hessian second_order.energy": f"{GROUPS} unused transposed",
    "layerwise.gram layerwise.wanda layerwise.rewrite": "tied twice",
    "layerwise.block_influence": "twice",
    "layerwise.sparsegpt layerwise.heads quantization.gptq": "tied twice",
    "second_order.obs_prune penalties.rows penalties.columns": f"{GROUPS} unused",
    "pipeline.iterate pipeline.next_masks lottery.find_tickets": f"{GROUPS} unused",
    "penalties.bn_scales": "nested compiled",
    "channel_criteria.* channel_attention.* widths.*": "unused depthwise",
    "channels.trace tracing.follow channels.watching_reads": "depthwise nested",
    "tracing.check_input": "nan_batch unbatched",
    "quantization.activations quantization.layer_inputs": "tied twice",
    "quantization.stored_bytes joint.stored_bytes": f"{TYPES} {GROUPS} unused",
    "joint.space": "depthwise",
    "quantization.int8": "tied keyword",
    "hashing.hashed": f"{GROUPS} tied unused transposed",
    "binary.hold_in_range": f"{TYPES} {GROUPS}",
    "coding.sizes": f"{COMPUTED} {TYPES} {GROUPS}",
    "compact.by_part": f"{GROUPS} weight_norm old_weight_norm tied twice unused",
    "decomposition.replaced": "twice attention",
}


def named(table, name):
    """The columns that a table gives a function: under its name, or under its room and a star."""
    star = f"{name.partition('.')[0]}.*"
    keys = [key for key in table if {name, star} & {*key.split()}]
    return {column for key in keys for column in table[key].split()}


REFUSED = {
    "layers.weighted measure.count_weights measure.sparsity": NONE,
    "layers.weights parametrized.attach criteria.magnitude": f"{COMPUTED} nan inf {NONE}",
    "criteria.random criteria.synflow criteria.masked": f"{COMPUTED} nan inf {NONE}",
    "sharing.clusters quantization.ptq quantization.qat": f"{COMPUTED} nan inf {NONE}",
    "hashing.hashed": f"{COMPUTED} nan inf {NONE}",
    "layers.check_called": "attention",
    "layers.check_untied": "tied twice",
    "layers.check_made layers.called_with training.snapshot training.check_state": "lazy",
    "measure.count_parameters measure.bytes_file measure.stored measure.bytes_dense": "lazy",
    "measure.bandwidth container.tensors coding.save coding.sizes coding.load": "lazy",
    "layers.chained": "unused keyword compiled stack",
    "layers.copied parametrized.folded decomposition.replaced": "old_weight_norm pruned",
    "layers.run measure.latency measure.turns": "lazy empty_batch unbatched",
    "layers.check_plain": f"{COMPUTED} no_parameter",
    "ensemble.stack": "old_weight_norm pruned compiled bn_training mixed_modes lazy stack",
    "ensemble.unstack": " ".join(COLUMNS.keys() - {"stack"}),
    "training.sgd training.adamw training.make_optimizer": "all_frozen lazy no_parameter",
    "training.evaluate training.mean_loss distillation.answers": f"lazy {BATCHES}",
    "training.check_plan training.fit": f"all_frozen lazy no_parameter {BATCHES}",
    "language.train": "all_frozen lazy no_parameter stack empty_batch unbatched",
    "pipeline.check_rounds": f"all_frozen lazy no_parameter {BATCHES}",
    "experiments.run experiments.choose": f"{COMPUTED} all_frozen lazy no_parameter stack {BATCHES}",
    "experiments.evaluate": f"{COMPUTED} lazy stack {BATCHES}",
    "measure.bytes_sparse": f"{COMPUTED} {NONE}",
    "measure.nats": "lazy stack empty_batch unbatched",
    "measure.macs compact.by_part": "attention lazy empty_batch unbatched",
    "measure.sparse_copy": "old_weight_norm pruned float16 bfloat16 transposed grouped depthwise compiled attention lazy stack",
    "criteria.snip criteria.taylor": f"{COMPUTED} nan inf {NONE} {BATCHES}",
    "criteria.loss_on": "lazy stack empty_batch unbatched",
    "granularity.channels granularity.kernels": f"{COMPUTED} nan attention {NONE}",
    "granularity.strided": f"{COMPUTED} nan attention {NONE}",
    "layerwise.gram layerwise.wanda layerwise.rewrite layerwise.sparsegpt": f"transposed {GROUPS} {COMPUTED} unused nan inf attention {NONE} {BATCHES}",
    "layerwise.heads": f"transposed {GROUPS} {COMPUTED} nan inf attention {NONE} {BATCHES}",
    "layerwise.block_influence": f"transposed attention lazy stack {BATCHES}",
    "quantization.gptq": f"transposed {GROUPS} {COMPUTED} unused nan inf attention {NONE} {BATCHES}",
    "second_order.obd second_order.hessian": f"{COMPUTED} nan inf attention {NONE} {BATCHES}",
    "second_order.energy": f"{COMPUTED} nan inf {NONE} empty_batch unbatched",
    "second_order.obs second_order.obs_prune": f"{COMPUTED} frozen all_frozen nan inf attention {NONE} {BATCHES}",
    "masks.apply masks.hold lottery.ticket lottery.random_mask": COMPUTED,
    "sharing.apply sharing.hold": f"{COMPUTED} nan inf",
    "penalties.rows penalties.columns": f"{COMPUTED} nan inf lazy no_layer no_parameter",
    "pipeline.next_masks lottery.layer_shares": f"{COMPUTED} nan inf lazy no_layer no_parameter",
    "lottery.reinitialise": f"{COMPUTED} nan inf lazy no_layer no_parameter",
    "penalties.bn_scales": "attention no_layer no_parameter stack",
    "penalties.regularise penalties.penalise penalties.trained penalties.per_member": f"{COMPUTED} all_frozen nan inf lazy no_layer no_parameter",
    "learning_compression.pull": f"{COMPUTED} all_frozen nan inf lazy no_layer no_parameter",
    "learning_compression.alternate": f"{COMPUTED} all_frozen nan inf lazy no_layer no_parameter {BATCHES}",
    "penalties.groups": f"{COMPUTED} {UNTRACED} attention lazy no_layer stack",
    "bayesian.*": f"{COMPUTED} tied twice all_frozen transposed nan inf attention lazy no_layer no_parameter",
    "sparse_training.rewire": f"{COMPUTED} unused frozen all_frozen inf stack",
    "pipeline.iterate lottery.find_tickets": f"{COMPUTED} all_frozen nan inf lazy no_layer no_parameter {BATCHES}",
    "gates.*": f"{COMPUTED} tied nan inf {NONE}",
    "shift_attention.attach": f"{COMPUTED} {GROUPS} tied transposed attention nan inf {NONE}",
    "pipeline.train_held": f"{COMPUTED} all_frozen lazy no_parameter {BATCHES}",
    "channel_criteria.l1 channel_criteria.l2": f"{COMPUTED} {UNTRACED} nan inf attention {NONE}",
    "channel_criteria.rms": f"{COMPUTED} {UNTRACED} nan inf attention {NONE}",
    "channel_criteria.macs_share": f"{COMPUTED} {UNTRACED} nan inf attention {NONE}",
    "channel_criteria.bn_scale": f"{COMPUTED} {UNTRACED} nan inf attention {NONE}",
    "channel_criteria.random": f"{COMPUTED} {UNTRACED} nan inf attention {NONE}",
    "channel_criteria.flops_regularised": f"{COMPUTED} {UNTRACED} nan inf attention {NONE}",
    "channel_criteria.activation_mean": f"{COMPUTED} {UNTRACED} nan inf attention {NONE} {BATCHES}",
    "channel_criteria.activation_std": f"{COMPUTED} {UNTRACED} nan inf attention {NONE} {BATCHES}",
    "channel_criteria.apoz": f"{COMPUTED} {UNTRACED} nan inf attention {NONE} {BATCHES}",
    "channel_criteria.taylor": f"{COMPUTED} {UNTRACED} nan inf attention {NONE} {BATCHES}",
    "channel_criteria.oracle": f"{COMPUTED} {UNTRACED} nan inf attention {NONE} {BATCHES}",
    "channels.trace tracing.follow": "tied twice unused transposed grouped compiled attention lazy no_layer stack empty_batch unbatched",
    "channels.remove channels.silence": f"{COMPUTED} {UNTRACED} attention lazy no_layer stack",
    "channels.check_graph": f"{COMPUTED} {UNTRACED} attention lazy no_layer stack",
    "channels.watching_reads": f"{COMPUTED} {UNTRACED} attention lazy no_layer stack",
    "channels.fold channels.reconstruct": f"{COMPUTED} tied twice unused transposed grouped compiled nan inf attention lazy no_layer stack {BATCHES}",
    "channel_attention.attention_means": f"{COMPUTED} {UNTRACED} unused nan inf attention {NONE} {BATCHES}",
    "widths.macs": f"{COMPUTED} {UNTRACED} attention lazy no_layer stack",
    "widths.affordable widths.expected_macs": f"{COMPUTED} {UNTRACED} attention lazy no_layer no_parameter stack",
    "widths.layer_state": f"{COMPUTED} tied twice unused transposed grouped compiled attention lazy no_layer no_parameter stack empty_batch unbatched",
    "joint.space joint.stored_bytes": f"{COMPUTED} {UNTRACED} attention {NONE}",
    "joint.built": f"{COMPUTED} {UNTRACED} attention nan inf {NONE}",
    "joint.sandwich": f"{COMPUTED} {UNTRACED} attention nan inf bn_training mixed_modes lazy no_layer no_parameter",
    "joint.every_accuracy": f"{COMPUTED} {UNTRACED} unused nested keyword depthwise attention nan inf bn_training mixed_modes {NONE} {BATCHES}",
    "subsets.every_subset": f"{COMPUTED} tied twice unused transposed grouped compiled nan inf attention lazy no_layer no_parameter stack {BATCHES}",
    "tracing.symbolic": "compiled stack",
    "tracing.watch tracing.stops": "compiled lazy stack empty_batch unbatched",
    "tracing.check_batched": "unbatched",
    "tracing.check_input": "empty_batch",
    "tracing.check_split": "empty_batch nan_batch unbatched",
    "tracing.check_bare": "compiled lazy stack",
    "quantization.activations": f"old_weight_norm pruned unused nan inf attention {NONE} {BATCHES}",
    "quantization.layer_inputs": f"unused nan inf attention {NONE} {BATCHES}",
    "quantization.stored_bytes": f"old_weight_norm pruned {NONE}",
    "quantization.int8": f"old_weight_norm pruned float16 bfloat16 float64 nan inf attention {NONE}",
    "binary.packed": f"old_weight_norm pruned unused transposed grouped depthwise nested keyword compiled nan inf dead attention {NONE}",
    "binary.hold_in_range": f"{COMPUTED} all_frozen nan inf {NONE}",
    "compact.pooled_head": "old_weight_norm pruned unused nested keyword compiled stack empty_batch unbatched",
    "compact.separable": f"transposed grouped depthwise attention {NONE}",
    "decomposition.tucker decomposition.cp": f"transposed grouped depthwise nan inf attention {NONE}",
    "decomposition.rank_by_budget": f"transposed grouped depthwise nan inf attention {NONE}",
    "decomposition.squared_singular_values": f"transposed grouped depthwise nan inf {NONE}",
    "decomposition.rank_by_energy": f"transposed grouped depthwise nan inf {NONE}",
    "decomposition.svd": f"transposed grouped depthwise nan inf {NONE}",
    "decomposition.product": f"transposed grouped depthwise {NONE}",
}

# ---- what a function may not change


def fingerprint(c):
    """The model, its batch and torch's global state, as something to compare."""
    found = [raw(torch.get_rng_state()), torch.is_grad_enabled(), torch.get_num_threads()]
    found += [raw(c.x), raw(c.y)]
    for name, module in c.model.named_modules(remove_duplicate=False):
        hooks = {k: list(v) for k, v in vars(module).items() if "hooks" in k and v}
        found += [name, id(module), type(module), module.training, hooks, sorted(vars(module))]
        computed = {k: v for k, v in vars(module).items() if isinstance(v, Tensor)}  # by a hook
        found += [(leaf, t.dtype, raw(t)) for leaf, t in computed.items()]
        for leaf, t in (*module._parameters.items(), *module._buffers.items()):
            found += [leaf, id(t), type(t)]
            if t is not None and not is_lazy(t):
                found += [t.dtype, t.requires_grad, t.stride(), raw(t), t._backward_hooks]
                found += [t.grad_fn, None if t.grad is None else raw(t.grad)]
    return found


def addresses(value):
    """Where the tensors of a result lie."""
    if isinstance(value, Tensor):
        dense = value.layout == torch.strided and not is_lazy(value)
        return {value.untyped_storage().data_ptr()} if dense else set()
    if isinstance(value, nn.Module):
        value = [*value.parameters(), *value.buffers()]
    value = list(value.values()) if isinstance(value, dict) else value
    return set().union(*map(addresses, value)) if isinstance(value, (list, tuple)) else set()


# ---- what is right


def comparable(value, c):
    """A result as lists and dictionaries of numbers: a network by its answers."""
    if isinstance(value, nn.Module):
        return answers(value, c.probe)
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return value.double() if value.is_floating_point() else value
    if isinstance(value, dict):
        pairs = [c.view(k, v) if isinstance(k, str) else (k, v) for k, v in value.items()]
        pairs = [(k, v) for k, v in pairs if not c.extra or c.extra not in str(k)]
        return {k: comparable(v, c) for k, v in pairs}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, (list, tuple)):
        return [comparable(v, c) for v in value]
    return (
        {k: comparable(v, c) for k, v in vars(value).items()}
        if hasattr(value, "__dict__")
        else value
    )


def answers(net, x):
    """What a network says of x; what a layer says of numbers that fit it."""
    layer = next((m for m in net.modules() if isinstance(m, layers.WEIGHTED)), None)
    flattens = any(isinstance(m, nn.Flatten) for m in net.modules())
    if isinstance(layer, nn.Linear) and not flattens:
        x = torch.linspace(-1, 1, 2 * layer.in_features).view(2, -1).to(x)
    elif layer is not None and x.shape[1] != getattr(layer, "in_channels", x.shape[1]):
        x = torch.linspace(-1, 1, 50 * layer.in_channels).view(2, -1, 5, 5).to(x)
    return outputs(net, x).cpu().double()


def differs(found, wanted, tolerance, where="result"):
    """Where two comparable results differ, or None."""
    if isinstance(wanted, dict) and isinstance(found, dict) and wanted.keys() == found.keys():
        parts = [(found[k], wanted[k], f"{where}[{k!r}]") for k in wanted]
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        parts = [
            (a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(found, wanted, strict=True))
        ]
    elif isinstance(wanted, Tensor) and isinstance(found, Tensor) and found.shape == wanted.shape:
        finite = wanted[wanted.isfinite()].double().abs()
        slack = (
            tolerance * float(finite.amax()) if wanted.is_floating_point() and len(finite) else 0
        )
        near = torch.isclose(found, wanted, rtol=tolerance, atol=slack, equal_nan=True)
        return None if near.all() else f"{where}: {int((~near).sum())} of {near.numel()} differ"
    elif isinstance(wanted, float) and isinstance(found, float):
        near = found == pytest.approx(wanted, rel=tolerance, nan_ok=True)
        return None if near else f"{where}: {found} for {wanted}"
    else:
        same = type(found) is type(wanted) and not isinstance(found, Tensor) and found == wanted
        return None if same else f"{where}: {str(found)[:99]} for {str(wanted)[:99]}"
    return next((d for a, b, w in parts if (d := differs(a, b, tolerance, w))), None)


def bad_refusal(error, function, model):
    """What is wrong with an error, or None: it must be the library's own, and name something."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    if not isinstance(error, (ValueError, TypeError, NotImplementedError)):
        return f"{type(error).__name__}: {error}"
    if "/course_lib/" not in last.filename:
        return f"{type(error).__name__} from {last.filename}:{last.lineno}: {error}"
    named = [*inspect.signature(function).parameters, *dict(model.named_modules()), "model"]
    named = [type(model).__name__, "arms[", *filter(None, named)]
    return None if any(name in str(error) for name in named) else f"names nothing: {error}"


# ---- the cells


def placed(case, row, folder, twin=False):
    """What a row's call may use, of the awkward model or of its twin."""
    model, batch = (case.twin, case.twin_batch) if twin else (case.model, case.batch)
    probe, labels = images()
    name = (
        case.layer.split(".")[-1]
        if twin and case.layer.startswith(("body", "_orig"))
        else case.layer
    )
    c = SimpleNamespace(model=model, name=name, row=row, x=batch[0], y=batch[1])
    c.labels = labels.to(batch[1])
    c.layer, c.split, c.path = model.get_submodule(name), Split(*batch), str(folder / "file")
    c.probe, c.held = probe.to(batch[0]), False
    c.extra = case.extra
    c.view = case.view if not twin else lambda name, value: (name, value)
    if isinstance(model, ensemble.Stack):
        c.labels = c.labels.repeat(2)
    if twin and row.changes:  # what does not train in the model
        for parameter, mask in case.masks.items():
            model.get_parameter(parameter).register_hook(mask.mul)
    return c


def of_twin(case, row, function, folder, known=None):
    """What is right: a result that is known, the twin itself, or what the function makes of it."""
    twin = placed(case, row, folder, twin=True)
    if known is None:
        known = case.twin if row.same else row.call(function, twin)
    return comparable(known, twin)


@functools.cache
def of_plain_network(name, folder):
    return of_twin(COLUMNS["plain"](ROWS[name].kind), ROWS[name], FUNCTIONS[name], folder)


def cell(name, column, folder):
    """ "refused", "right", or what is wrong."""
    make = on_cuda if column == CUDA else COLUMNS[column]
    row, function, case = ROWS[name], FUNCTIONS[name], make(ROWS[name].kind)
    c = placed(case, row, folder)
    before, result, error = fingerprint(c), None, None
    # What would compile is run as it is written: compiling takes seconds per cell.
    eager = torch.compiler.set_stance("force_eager") if column == "compiled" else nullcontext()
    with warnings.catch_warnings(), eager:
        warnings.simplefilter("ignore")
        try:
            result = row.call(function, c)
        except Exception as e:  # noqa: BLE001  (what kind it is, is the question)
            error = e
        changed = not c.held and not (row.changes and error is None) and fingerprint(c) != before
        if changed:
            return f"the model is changed, {error!r}"
        if error is not None:
            wrong = bad_refusal(error, function, case.model)
            return f"bad refusal: {wrong}" if wrong else "refused"
        if not (row.views or row.changes) and addresses(result) & addresses(case.model):
            return "the result shares memory with the model"
        if column in named(FREE, name) | {"lazy", "stack"}:  # they have no twin
            return "right"
        if column in PLAIN and not row.oracle:
            wanted = of_plain_network(name, folder)
        else:
            wanted = of_twin(case, row, function, folder, row.oracle and row.oracle(c, column))
        return differs(comparable(result, c), wanted, case.tolerance) or "right"


@pytest.mark.parametrize("name", ROWS)
def test_every_cell_is_right_or_refused(name, tmp_path):
    found = {column: cell(name, column, tmp_path) for column in COLUMNS}
    wanted = dict.fromkeys(COLUMNS, "right") | dict.fromkeys(named(REFUSED, name), "refused")
    assert found == wanted


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_every_function_takes_a_model_on_a_cuda_device(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # 10 bits of 23
    found = {name: cell(name, CUDA, tmp_path) for name in ROWS}
    refused = {"ensemble.unstack", "quantization.int8"}  # no stack; torch's integers want a CPU
    wanted = {name: "refused" if name in refused else "right" for name in ROWS}
    assert found == wanted


def test_every_public_function_has_a_row():
    assert ROWS.keys() == FUNCTIONS.keys()
