"""A network whose convolutions lie channels last in memory (faster on CPUs) is treated as any other."""

import copy

import pytest
import torch

from course_lib import measure, models, parametrized, training
from course_lib.compression import (
    binary,
    coding,
    decomposition,
    hashing,
    quantization,
    sharing,
)
from course_lib.data import Split
from course_lib.pruning import (
    allocate,
    channel_criteria,
    channels,
    criteria,
    granularity,
    masks,
    penalties,
    second_order,
    sparse_training,
)

X = torch.rand(40, 1, 14, 14, generator=torch.Generator().manual_seed(0))
BATCH = X, torch.arange(40) % 10


def state(net):
    return net.state_dict()


def trained(net, prepare):
    """The network after two steps, with what ``prepare`` hooks to the optimizer."""
    optimizer = training.sgd(net, lr=0.01)
    prepare(optimizer)
    training.fit(net, Split(*BATCH), epochs=1, batch_size=20, optimizer=optimizer)
    return state(net)


def half(net):
    return allocate.globally(criteria.magnitude(net), 0.5)


def masked(net):
    keep = half(net)
    masks.apply(net, keep)
    return trained(net, lambda optimizer: masks.hold(optimizer, net, keep))


def rewired(method):
    def run(net):
        def prepare(optimizer):
            fraction = sparse_training.cosine(0.3, 10, every=2)
            sparse_training.rewire(optimizer, net, keep, method, fraction=fraction)

        keep = half(net)
        before = {name: mask.clone() for name, mask in keep.items()}
        found = trained(net, prepare)
        assert any(not torch.equal(keep[name], before[name]) for name in keep)  # it has moved
        return found

    return run


def grouped(net):
    groups = penalties.rows(net)

    def prox(values, t):
        return penalties.prox_group_lasso(values, t, groups)

    return trained(net, lambda optimizer: penalties.regularise(optimizer, net, prox, strength=0.01))


def clustered(net):
    found = sharing.clusters(net, {"conv1.weight": 2, "conv2.weight": 3})
    optimizer = training.sgd(net, lr=1e-4)
    with sharing.hold(optimizer, net, found):
        training.fit(net, Split(*BATCH), epochs=1, batch_size=20, optimizer=optimizer)
    return state(net)


def cut(net):
    graph = channels.trace(net, X[:1])
    dead = channels.weakest(graph, channel_criteria.taylor(net, graph, BATCH), 0.5)
    return state(channels.remove(channels.fold(net, graph, dead, X), graph, dead))


def replaced(make):
    return lambda net: {"k": decomposition.product(make(net.conv2))}


WAYS = {
    "half": half,
    "snip": lambda net: criteria.snip(net, BATCH),
    "taylor": lambda net: criteria.taylor(net, BATCH),
    "synflow": lambda net: criteria.synflow(net, (1, 14, 14)),
    "obd": lambda net: second_order.obd(net, BATCH),
    "kernels": lambda net: granularity.kernels(
        net, {"conv2.weight": net.conv2.weight.detach()}, 0.5
    ),
    "strided": lambda net: granularity.strided(net, {"conv2.weight": net.conv2.weight.detach()}, 3),
    "masked": masked,
    "SET": rewired(sparse_training.SET),
    "RigL": rewired(sparse_training.RIGL),
    "SNFS": rewired(sparse_training.SNFS),
    "DSR": lambda net: rewired(sparse_training.dsr(50, threshold=0.1))(net),
    "group lasso": grouped,
    "clustered": clustered,
    "channels": cut,
    "tucker": replaced(lambda layer: decomposition.tucker(layer, (8, 8))),
    "cp": replaced(lambda layer: decomposition.cp(layer, 8, iterations=3)),
    "4 bits": lambda net: state(parametrized.folded(quantization.ptq(net, 4))),
    "binary": lambda net: dict(enumerate(binary.binarize(net.conv2.weight))),
    "ternary": lambda net: dict(enumerate(binary.ternarize(net.conv2.weight))),
    "hashed": lambda net: {"y": hashing.hashed(net, 0.25)(X)},
    "bytes": lambda net: {"n": torch.tensor(measure.bytes_sparse(net))},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_same_as_contiguous(way):
    width = 0.25 if way is WAYS["obd"] else 0.5  # its Hessian has a row for each weight
    net = models.small_cnn(width=width, seed=1)
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    assert not last.conv2.weight.is_contiguous()
    expected, found = way(net), way(last)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_a_file_does_not_depend_on_the_layout(tmp_path):
    net = models.small_cnn(width=0.5, seed=1)
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    coding.save(net, tmp_path / "one")
    coding.save(last, tmp_path / "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    empty = models.small_cnn(width=0.5, seed=2).to(memory_format=torch.channels_last)
    coding.load(tmp_path / "one", empty)
    assert all(torch.equal(a, b) for a, b in zip(state(empty).values(), state(net).values()))
