"""What a network costs: weights, multiplications, bytes, milliseconds, joules.

A weight that is zero still costs as much as any other, unless something leaves it out. Each function
says which of the two it counts.
"""

import lzma
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from course_lib import layers
from course_lib.data import Text, check_counts, check_nonnegative, check_text
from course_lib.handles import Handle
from course_lib.training import evaluating


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, zeros included. A tied parameter counts once.

    Examples:
        >>> count_parameters(nn.Linear(4, 3))
        15
    """
    layers.check_made(model)
    return sum(p.numel() for p in model.parameters())


def count_weights(model: nn.Module) -> int:
    """Number of weights of linear and convolution layers, zeros included. A tied weight counts once.

    Raises:
        ValueError: the model has no such layer.

    Examples:
        >>> count_weights(nn.Linear(4, 3))  # without the 3 biases
        12
    """
    return sum(w.numel() for w in _weights(model))


def sparsity(model: nn.Module) -> float:
    """Fraction of zeros among the weights of linear and convolution layers.

    Raises:
        ValueError: the model has no such layer, or only layers without a single weight.

    Examples:
        >>> layer = nn.Linear(4, 3)
        >>> layer.weight.data[0] = 0  # one of its three rows
        >>> round(sparsity(layer), 3)
        0.333
    """
    weights = _weights(model)
    total = sum(w.numel() for w in weights)
    if total == 0:
        raise ValueError(
            "model must have at least one weight, got layers without inputs or outputs"
        )
    return 1 - sum(int(w.count_nonzero()) for w in weights) / total


@torch.no_grad()
def _weights(model: nn.Module) -> list[Tensor]:
    """The weights as the layers compute with them: parametrised ones evaluated, a tied one once."""
    found = {}
    for layer in layers.weighted(model).values():
        weight = layer.weight
        # What is stored tells ties: a parametrised layer computes a new tensor at every look.
        stored = [id(t) for n, t in layer.state_dict(keep_vars=True).items() if n != "bias"]
        found[tuple(stored)] = weight
    return list(found.values())


def macs(
    model: nn.Module,
    x: Tensor,
    *,
    skip_zeros: bool = False,
    kinds: type | tuple[type, ...] | None = None,
) -> int:
    """Multiply–accumulates (MACs) of the linear and convolution layers for one example of ``x``.

    Papers that count FLOPs count two of them per multiply–accumulate. A layer that is called twice
    counts twice, and one that is not called counts nothing. Multiplications by padding count too.

    Args:
        x: a batch, (batch, …); its first example is run.
        skip_zeros: count only multiplications by a weight that is not zero. The network needs no
            others, but a dense kernel performs them too.
        kinds: count only the layers of these classes. None counts all, also those of a
            ``sparse_copy``, which multiply by the weights that they store.

    Raises:
        ValueError: ``x`` is empty or does not fit the model.
        TypeError: ``x`` is no tensor.
        NotImplementedError: the model has an ``nn.MultiheadAttention``, which does not call its
            layers but reads their weights.

    Examples:
        >>> from course_lib import models
        >>> macs(models.mlp((196, 100, 50, 10)), torch.zeros(1, 196))
        25100
    """
    layers.check_batch("x", x)
    layers.check_called(model)
    total = 0

    def count(layer: nn.Linear, args: tuple, kwargs: dict, out: Tensor) -> None:
        nonlocal total
        rows, weight = layer.weight.shape[0], layer.weight
        weight = weight.values() if weight.layout == torch.sparse_csr else weight
        # Every weight is used once at each position: of the output (1, out, …) or (1, …, out) as a
        # rule, of the input (1, in, …) where the convolution is transposed, weight (in, out, …).
        transposed = isinstance(layer, layers.TRANSPOSED)
        at = (args[0] if args else kwargs["input"]) if transposed else out
        positions = at.numel() // max(1, rows)
        total += positions * int(weight.count_nonzero() if skip_zeros else weight.numel())

    kinds = (*layers.WEIGHTED, SparseLinear) if kinds is None else kinds
    counted = [m for m in model.modules() if isinstance(m, kinds)]
    hooks = [m.register_forward_hook(count, with_kwargs=True) for m in counted]
    with Handle(*hooks), torch.no_grad(), evaluating(model), _eager():
        layers.run(model, x[:1])
    return total


def _eager() -> AbstractContextManager:
    """Within the block compiled networks run as they were written, where hooks are seen."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()  # nothing has been compiled, and the import would take seconds
    return torch.compiler.set_stance("force_eager")


def stored(model: nn.Module) -> list[Tensor]:
    """The parameters and buffers of a model, without copies of tied ones.

    A CSR matrix is given as its three parts: row offsets, columns, values.

    Raises:
        TypeError: the model's state_dict holds something that is not a tensor.
    """
    layers.check_made(model)
    found = {}
    for name, t in model.state_dict(keep_vars=True).items():
        if not isinstance(t, Tensor):
            raise TypeError(f"model must hold tensors, got {type(t).__name__} for {name!r}")
        found[id(t)] = t.detach()
    parts = []
    for t in found.values():
        csr = t.layout == torch.sparse_csr  # of SparseLinear
        parts += [t.crow_indices(), t.col_indices(), t.values()] if csr else [t]
    return parts


def bytes_dense(model: nn.Module) -> int:
    """Bytes of all parameters and buffers as they lie in memory, zeros included.

    Examples:
        >>> bytes_dense(nn.Linear(4, 3))  # 15 numbers of float32
        60
    """
    return sum(t.numel() * t.element_size() for t in stored(model))


def bytes_sparse(model: nn.Module) -> int:
    """Bytes with the weights of linear and convolution layers as CSR, and everything else dense.

    CSR (compressed sparse rows) keeps a value and an int32 column for every weight that is not zero,
    and an int32 offset per row. A convolution's weight counts as a matrix: its first dimension times
    all others. In float32, CSR is smaller than dense only above about 50 % sparsity.

    Raises:
        ValueError: the model has no linear or convolution layer, or one whose weight is not stored
            but computed (by a parametrisation or a hook).

    Examples:
        >>> layer = nn.Linear(100, 50, bias=False)
        >>> layer.weight.data[:, 10:] = 0  # 90 % sparsity
        >>> bytes_dense(layer), bytes_sparse(layer)
        (20000, 4204)
    """
    layers.weighted(model, plain=True)
    return bytes_dense(model) - sum(
        w.numel() * w.element_size() - csr_bytes(w.shape, int(w.count_nonzero()), w.element_size())
        for w in _weights(model)
    )


def csr_bytes(shape: Sequence[int], nonzeros: int, value_bytes: int = 4) -> int:
    """Bytes of one weight of shape (rows, …) as CSR, with int32 indices.

    They are ``nonzeros`` values of ``value_bytes`` bytes, as many columns, and rows + 1 offsets.

    Examples:
        >>> csr_bytes((50, 100), nonzeros=500)
        4204
    """
    return nonzeros * (value_bytes + 4) + 4 * (shape[0] + 1)


def bytes_file(model: nn.Module) -> int:
    """Bytes of all parameters and buffers after compression by LZMA.

    LZMA is a strong general-purpose compressor that knows nothing about networks.
    """
    return len(lzma.compress(b"".join(raw(t) for t in stored(model))))


def raw(tensor: Tensor) -> bytes:
    """The bytes of a tensor's numbers, in the order of their indices, whatever its memory format."""
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def nats(model: nn.Module, text: Text, *, batch_size: int = 200) -> float:
    """The mean cross-entropy per word of a language model on a text, in nats.

        −(1 / N) Σ ln p(word | the words before it in its row),   perplexity = exp(nats)

    The model runs in evaluation mode; afterwards its modes are as they were. If the text comes from
    a ``data.Grammar``, ``-text.log_p.mean()`` is what the truth itself scores on it, a floor.

    Args:
        model: (n, t) words -> (n, t, vocabulary) logits.
        text: its rows; the first word of each row is given, the others are predicted.
        batch_size: rows at a time.

    Raises:
        ValueError: a ``text`` without a word to predict or one that does not fit the model; logits
            of another shape.
        TypeError: ``text`` is no ``data.Text`` of int64 tokens.

    Examples:
        >>> from course_lib import data, models
        >>> text = data.Grammar(0).sample(10, 32, seed=1)
        >>> model = models.tiny_transformer(94)
        >>> model.words.weight.data.zero_()  # all words are alike to it
        tensor(...
        >>> round(nats(model, text), 3)  # ln 94
        4.543
    """
    check_text(text)
    check_counts(batch_size=batch_size)
    layers.check_made(model)
    x, y = text.split()
    total = 0.0
    with torch.no_grad(), evaluating(model):
        for rows, targets in zip(x.split(batch_size), y.split(batch_size), strict=True):
            with layers.fitting("text", rows):
                logits = model(rows)
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            if not isinstance(logits, Tensor) or logits.shape[:-1] != rows.shape:
                raise ValueError(
                    "model must give logits (n, t, vocabulary), "
                    f"got {shape} for {tuple(rows.shape)} words"
                )
            if int(targets.min()) < 0 or int(targets.max()) >= logits.shape[-1]:
                raise ValueError(
                    f"text must have words from 0 to {logits.shape[-1] - 1}, the model's outputs, "
                    f"got {int(targets.min())} to {int(targets.max())}"
                )
            known = layers.at_least_float32(logits).flatten(0, 1)
            total += F.cross_entropy(known, targets.flatten(), reduction="sum").item()
    return total / y.numel()


class Seconds(NamedTuple):
    """Seconds of one forward pass. Half of the measured turns lie between the two quartiles."""

    median: float  #: over the turns
    q1: float  #: first quartile
    q3: float  #: third quartile


def latency(models: Mapping[str, nn.Module], x: Tensor, *, rounds: int = 21) -> dict[str, Seconds]:
    """Seconds of one forward pass of the whole batch ``x``: name -> median and quartiles.

    The models take turns, so anything else that the machine does slows all of them alike. Times
    differ from one hour to the next; their ratios differ much less. Where the quartiles of two
    models overlap, this measurement does not say which is faster. The models run in evaluation
    mode, on as many threads as torch is set to. On a GPU, the clock waits until the GPU is done.

    Args:
        models: name -> model. Put all models that you want to compare into one call.
        rounds: turns of each model, about 5 ms each.

    Raises:
        ValueError: no models, ``rounds`` is not a positive integer, or ``x`` does not fit a model.

    Examples:
        >>> from course_lib import models
        >>> nets = {"narrow": models.mlp((196, 10)), "wide": models.mlp((196, 2000, 10))}
        >>> seconds = latency(nets, torch.zeros(100, 196), rounds=5)
        >>> seconds["narrow"].median < seconds["wide"].median
        True
    """
    at = torch.tensor([0.5, 0.25, 0.75], dtype=torch.float64)  # between two turns, interpolated
    return {
        name: Seconds(*torch.tensor(seconds, dtype=torch.float64).quantile(at).tolist())
        for name, seconds in turns(models, x, rounds=rounds).items()
    }


def turns(
    models: Mapping[str, nn.Module], x: Tensor, *, rounds: int = 21
) -> dict[str, list[float]]:
    """What ``latency`` measures: name -> the seconds of a forward pass, one number for each turn.

    Args, Raises:
        As ``latency``.

    Examples:
        >>> [len(seconds) for seconds in turns({"one": nn.Linear(2, 1)}, torch.zeros(3, 2)).values()]
        [21]
    """
    check_counts(rounds=rounds)
    if not models:
        raise ValueError("models must hold at least one model, got none")
    from torch.utils.benchmark import Timer  # looks for CUDA and may warn of its absence

    taken: dict[str, list[float]] = {name: [] for name in models}
    with ExitStack() as modes, torch.no_grad():
        for model in models.values():
            modes.enter_context(evaluating(model))
            layers.run(model, x)
        threads = torch.get_num_threads()
        timers = {
            name: Timer("model(x)", globals={"model": model, "x": x}, num_threads=threads)
            for name, model in models.items()
        }
        calls = {n: max(1, round(0.005 / timer.timeit(3).mean)) for n, timer in timers.items()}
        for _ in range(rounds):
            for name, timer in timers.items():
                taken[name].append(timer.timeit(calls[name]).mean)
    return taken


# Energy of one operation on 32 bits in a 45 nm process, in picojoules: Horowitz 2014, as Han et al.
# 2015 print it (figure 1). A memory's entry is one access of 32 bits.
PICOJOULES = {
    "int add": 0.1,
    "float add": 0.9,
    "register": 1.0,
    "int multiply": 3.1,
    "float multiply": 3.7,
    "SRAM": 5.0,
    "DRAM": 640.0,
}


def energy(
    weights: float, macs: float, *, bits: float = 32, memory: str = "DRAM"
) -> tuple[float, float]:
    """Joules of one forward pass: (for reading the weights, for arithmetic).

    The estimate reads every weight once from ``memory``, at ``bits`` bits per weight. Every
    multiply–accumulate is one multiplication and one addition of 32-bit floats. The energies are in
    ``PICOJOULES``; they belong to one 45 nm process, so use the result to compare networks. It
    leaves out activations, caches and circuits that idle.

    Source: Horowitz 2014, as Han et al. 2015 print it, figure 1.

    Args:
        weights, macs: how many of each one pass needs; ``count_parameters`` and ``macs`` count them.
        bits: bits per stored weight.
        memory: "DRAM", "SRAM" or "register".

    Raises:
        ValueError: a number that is negative or not finite, no bits, or another memory.
        TypeError: something that is no number.

    Examples:
        Han et al. 2015: one billion weights, read 20 times per second, need 12.8 W for reading.

        >>> reading, arithmetic = energy(1e9, 1e9)
        >>> round(20 * reading, 1)
        12.8
    """
    _check_energy(weights, macs, bits, memory)
    per_mac = PICOJOULES["float multiply"] + PICOJOULES["float add"]
    return 1e-12 * weights * bits / 32 * PICOJOULES[memory], 1e-12 * macs * per_mac


def _check_energy(weights: float, macs: float, bits: float, memory: str) -> None:
    for argument, n in (("weights", weights), ("macs", macs), ("bits", bits)):
        check_nonnegative(argument, n)
    if bits == 0:
        raise ValueError("bits must be positive, got 0")
    if memory not in ("DRAM", "SRAM", "register"):
        raise ValueError(f"memory must be DRAM, SRAM or register, got {memory!r}")


def bandwidth(model: nn.Module, *, per_second: float) -> float:
    """Bytes per second that the memory has to deliver for ``per_second`` passes of one example.

    Every stored byte is read once per pass; no part of the network stays in a cache.

    Raises:
        ValueError: ``per_second`` is negative or not finite.
        TypeError: ``per_second`` is no number.

    Examples:
        >>> bandwidth(nn.Linear(4, 3), per_second=20)  # 60 bytes, 20 times
        1200
    """
    check_nonnegative("per_second", per_second)
    return per_second * bytes_dense(model)


def sparse_copy(model: nn.Sequential) -> nn.Module:
    """A copy of a fully connected network that stores its weights as CSR and skips the zeros.

    It computes the same function. Give both networks to ``latency`` to see what sparsity is worth
    on this machine. An ``nn.Sequential`` may contain others.

    Raises:
        TypeError: ``model`` is not an ``nn.Sequential``; it has a convolution (torch has no sparse
            one), a subclass of ``nn.Linear``, or a linear layer inside another kind of module; its
            weights are neither float32 nor float64.
        ValueError: a weight that a forward hook computes.

    Examples:
        >>> model = nn.Sequential(nn.Linear(100, 50, bias=False))
        >>> model[0].weight.data[:, 10:] = 0
        >>> bytes_dense(sparse_copy(model))
        4204
    """
    if not isinstance(model, nn.Sequential) or any(
        isinstance(m, nn.modules.conv._ConvNd) for m in model.modules()
    ):
        raise TypeError(f"model must be an nn.Sequential without convolutions, got {model}")
    sparse: dict[nn.Linear, SparseLinear] = {}
    # All names of a layer that is used twice, so that it is replaced everywhere.
    named = dict(model.named_modules(remove_duplicate=False))
    for name, layer in named.items():
        if isinstance(layer, nn.Linear):
            _check_linear(name, layer, named[name.rpartition(".")[0]])
            sparse.setdefault(layer, SparseLinear(layer))
    copied = layers.copied(model)
    for name, layer in named.items():
        if isinstance(layer, nn.Linear):
            copied.set_submodule(name, sparse[layer])
    return copied


def _check_linear(name: str, layer: nn.Linear, parent: nn.Module) -> None:
    """An ordinary linear layer that an nn.Sequential calls, or an error that names it."""
    if parametrize.type_before_parametrizations(layer) is not nn.Linear:
        raise TypeError(
            f"model must hold plain nn.Linear, but {name!r} is a {type(layer).__name__}"
        )
    if not isinstance(parent, nn.Sequential):
        raise TypeError(
            f"{name!r} must stand in an nn.Sequential, not in a {type(parent).__name__}"
        )
    if not parametrize.is_parametrized(layer, "weight"):
        layers.check_plain(name, layer)
    if layer.weight.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            "model must have float32 or float64 weights, as torch multiplies no others sparsely, "
            f"but {name!r} has {layer.weight.dtype}"
        )


class SparseLinear(nn.Module):
    """A linear layer that stores and multiplies only its non-zero weights (CSR)."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", _csr(dense.weight.detach()))
        self.register_buffer("bias", None if dense.bias is None else dense.bias.detach().clone())
        self.train(dense.training)

    def forward(self, input: Tensor) -> Tensor:  # the name that nn.Linear gives it
        rows = input.reshape(-1, input.shape[-1])  # (…, in) -> (n, in)
        out = (self.weight @ rows.t()).t()  # (out, in) sparse @ (in, n) -> (n, out)
        out = out if self.bias is None else out + self.bias
        return out.reshape(*input.shape[:-1], out.shape[1])  # (…, out)

    def __deepcopy__(self, memo: dict) -> "SparseLinear":
        """A copy with tensors of its own; torch cannot make one of a CSR tensor itself."""
        copied = SparseLinear.__new__(SparseLinear)
        nn.Module.__init__(copied)
        for name, tensor in self._buffers.items():
            copied.register_buffer(name, None if tensor is None else tensor.detach().clone())
        return copied.train(self.training)


def _csr(weight: Tensor) -> Tensor:
    """A matrix (rows, columns) as CSR with int32 indices, as ``csr_bytes`` counts it. Torch's own
    conversion makes int64 indices."""
    wide = weight.to_sparse_csr()
    offsets, columns = wide.crow_indices().int(), wide.col_indices().int()
    return torch.sparse_csr_tensor(
        offsets, columns, wide.values(), wide.shape, check_invariants=True
    )
