"""What a network costs: weights, multiplications, bytes, milliseconds, joules. Zeros are counted as
what they are: free only where something leaves them out.
"""

import lzma
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.benchmark import Timer

from course_lib import layers
from course_lib.training import check_counts, evaluating


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, zeros included; a tied one counts once."""
    return sum(p.numel() for p in model.parameters())


def count_weights(model: nn.Module) -> int:
    """Number of weights of linear and convolution layers, zeros included; a tied one counts once.

    Raises:
        ValueError: the model has no such layer.
    """
    return sum(w.numel() for w in _weights(model))


def sparsity(model: nn.Module) -> float:
    """Fraction of zeros among the weights of linear and convolution layers.

    Raises:
        ValueError: the model has no such layer, or only layers without a single weight.
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
    """Multiply–accumulates of the linear and convolution layers for one example of ``x``.

    One multiply–accumulate is two FLOPs in the literature that counts FLOPs. A layer that is called
    twice counts twice, one that is not called counts nothing. Padding is multiplied too.

    Args:
        x: a batch, (batch, …); its first example is run.
        skip_zeros: count only multiplications by a weight that is not zero. That is what the
            network *requires*; a dense kernel performs the others too.
        kinds: count the layers of these classes only; None: all, a ``sparse_copy``'s included, which
            multiplies by the weights that it stores.

    Raises:
        ValueError: ``x`` is empty or does not fit the model.
        NotImplementedError: the model has an ``nn.MultiheadAttention``, which does not call its
            layers but reads their weights.
    """
    if not isinstance(x, Tensor) or x.dim() == 0 or len(x) == 0:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x must be a batch of at least one example, got {got}")
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
    try:
        with torch.no_grad(), evaluating(model), _eager():
            model(x[:1])
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f"x must fit the model, which cannot be run on shape {tuple(x[:1].shape)}: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return total


def _eager() -> AbstractContextManager:
    """Within the block compiled networks run as they were written, where hooks are seen."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()  # nothing has been compiled, and the import would take seconds
    return torch.compiler.set_stance("force_eager")


def stored(model: nn.Module) -> list[Tensor]:
    """The parameters and buffers of a model's state, a tied one once, a CSR matrix as its parts.

    Raises:
        TypeError: the state holds something else than tensors.
    """
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
    """Bytes of all parameters and buffers as they lie in memory, zeros included."""
    return sum(t.numel() * t.element_size() for t in stored(model))


def bytes_sparse(model: nn.Module) -> int:
    """Bytes with each prunable weight stored as CSR, indices included, and the rest dense.

    CSR keeps a value and an int32 column for every non-zero, and an int32 offset per row; a
    convolution's weight counts as the matrix (first dimension, all others). At float32 it is
    smaller than dense only above about 50 % sparsity.

    Raises:
        ValueError: the model has no linear or convolution layer, or one whose weight is not stored
            but computed (by a parametrisation or a hook).
    """
    layers.weighted(model, plain=True)
    return bytes_dense(model) - sum(
        w.numel() * w.element_size() - csr_bytes(w.shape, int(w.count_nonzero()), w.element_size())
        for w in _weights(model)
    )


def csr_bytes(shape: Sequence[int], nonzeros: int, value_bytes: int = 4) -> int:
    """Bytes of one (rows, …) weight in CSR with int32 indices: values, columns, row offsets."""
    return nonzeros * (value_bytes + 4) + 4 * (shape[0] + 1)


def bytes_file(model: nn.Module) -> int:
    """Bytes of the parameters and buffers as a file, compressed by LZMA: a strong general-purpose
    compressor that knows nothing of networks."""
    return len(lzma.compress(b"".join(raw(t) for t in stored(model))))


def raw(tensor: Tensor) -> bytes:
    """The numbers' bytes in the order of the indices, whatever the layout in memory."""
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


class Seconds(NamedTuple):
    """Seconds of one forward pass: half of the measured turns lie between the two quartiles."""

    median: float
    q1: float
    q3: float


def latency(models: Mapping[str, nn.Module], x: Tensor, *, rounds: int = 21) -> dict[str, Seconds]:
    """Seconds of one forward pass of the whole batch ``x``, for each model by its name.

    The models take turns, round after round, so that whatever else the machine is doing slows all
    of them alike: milliseconds differ from one hour to the next, their ratios much less. Where the
    quartiles of two models overlap, this measurement does not say which is faster.
    Runs on as many threads as torch is set to, and waits for a GPU.

    Args:
        models: name -> model, all of them fed ``x``. Put those to be compared into one call.
        rounds: turns of each model, about 5 ms each.

    Raises:
        ValueError: no models, or ``rounds`` is not a positive integer.
    """
    check_counts(rounds=rounds)
    if not models:
        raise ValueError("models must hold at least one model, got none")
    taken: dict[str, list[float]] = {name: [] for name in models}
    with ExitStack() as modes, torch.no_grad():
        for model in models.values():
            modes.enter_context(evaluating(model))
        timers = {
            name: Timer(
                "model(x)",
                globals={"model": model, "x": x},
                num_threads=torch.get_num_threads(),
            )
            for name, model in models.items()
        }
        calls = {n: max(1, round(0.005 / timer.timeit(3).mean)) for n, timer in timers.items()}
        for _ in range(rounds):
            for name, timer in timers.items():
                taken[name].append(timer.timeit(calls[name]).mean)
    return {name: Seconds(*_quartiles(seconds)) for name, seconds in taken.items()}


def _quartiles(values: Sequence[float]) -> list[float]:
    """Median, first and third quartile; between two measured values, interpolated."""
    at = torch.tensor([0.5, 0.25, 0.75], dtype=torch.float64)
    return torch.tensor(values, dtype=torch.float64).quantile(at).tolist()


# Energy of one operation on 32 bits in a 45 nm process, in picojoules: Horowitz 2014, as Han et al.
# 2015 print it (figure 1, checked in its text). A memory's entry is one access of 32 bits.
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
    """Joules of one forward pass, as (reading the weights, arithmetic), from ``PICOJOULES``.

    Every weight is read once from ``memory``, at ``bits`` bits; every multiply–accumulate is a
    32-bit float multiplication and addition. An estimate from a table of one old process, for
    comparing: activations, caches and everything that idles are left out. Han et al. 2015: 1 G
    weights at 20 passes a second are (20 Hz)(1 G)(640 pJ) = 12.8 W for reading alone.

    Args:
        weights, macs: how many of each a pass needs; ``count_parameters`` and ``macs`` count them.
        bits: of one stored weight.
        memory: "DRAM", "SRAM" or "register".

    Raises:
        ValueError: a number that is negative or not finite, no bits, or another memory.
    """
    for argument, n in (("weights", weights), ("macs", macs), ("bits", bits)):
        if not 0 <= n < math.inf:
            raise ValueError(f"{argument} must be finite and not negative, got {n!r}")
    if bits == 0:
        raise ValueError("bits must be positive, got 0")
    if memory not in ("DRAM", "SRAM", "register"):
        raise ValueError(f"memory must be DRAM, SRAM or register, got {memory!r}")
    per_mac = PICOJOULES["float multiply"] + PICOJOULES["float add"]
    return 1e-12 * weights * bits / 32 * PICOJOULES[memory], 1e-12 * macs * per_mac


def bandwidth(model: nn.Module, *, per_second: float) -> float:
    """Bytes per second that a memory has to deliver so that a network, none of it kept nearer to the
    arithmetic, runs ``per_second`` forward passes of one example: every stored byte once per pass.

    Raises:
        ValueError: ``per_second`` is negative or not finite.
    """
    if not 0 <= per_second < math.inf:
        raise ValueError(f"per_second must be finite and not negative, got {per_second!r}")
    return per_second * bytes_dense(model)


def sparse_copy(model: nn.Sequential) -> nn.Module:
    """A fully connected network with its weights as CSR matrices: the same function, computed
    without the zeros. What ``latency`` needs to show what sparsity is worth on this machine.

    ``nn.Sequential`` may stand in ``nn.Sequential``; other layers are copied.

    Raises:
        TypeError: ``model`` is not an ``nn.Sequential``, or has a convolution (torch has no sparse
            one), a linear layer of another class or one inside another kind of module; weights
            that are neither float32 nor float64.
        ValueError: a weight that a forward hook computes.
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
            f"model must have float32 or float64 weights, since torch multiplies no others sparsely, "
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

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (…, in) -> (n, in)
        out = (self.weight @ rows.t()).t()  # (out, in) sparse @ (in, n) -> (n, out)
        out = out if self.bias is None else out + self.bias
        return out.reshape(*x.shape[:-1], out.shape[1])  # (…, out)

    def __deepcopy__(self, memo: dict) -> "SparseLinear":
        """A copy with tensors of its own; torch cannot make one of a CSR tensor itself."""
        copied = SparseLinear.__new__(SparseLinear)
        nn.Module.__init__(copied)
        for name, tensor in self._buffers.items():
            copied.register_buffer(name, None if tensor is None else tensor.detach().clone())
        return copied.train(self.training)


def _csr(weight: Tensor) -> Tensor:
    """A matrix (rows, columns) as CSR with int32 indices, as ``csr_bytes`` counts it; torch's own
    conversion makes int64 ones."""
    wide = weight.to_sparse_csr()
    offsets, columns = wide.crow_indices().int(), wide.col_indices().int()
    return torch.sparse_csr_tensor(
        offsets, columns, wide.values(), wide.shape, check_invariants=True
    )
