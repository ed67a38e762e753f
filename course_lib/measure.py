"""What a network costs: weights, multiplications, bytes, milliseconds, joules. Zeros are counted as
what they are: free only where something leaves them out.
"""

import io
import lzma
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from course_lib import layers
from course_lib.training import check_counts, evaluating


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, zeros included."""
    return sum(p.numel() for p in model.parameters())


def sparsity(model: nn.Module) -> float:
    """Fraction of zeros among the weights of linear and convolution layers.

    Raises:
        ValueError: the model has no such layer.
    """
    weights = [layer.weight.detach() for layer in layers.weighted(model).values()]
    return 1 - sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)


def macs(
    model: nn.Module,
    x: Tensor,
    *,
    skip_zeros: bool = False,
    kinds: type | tuple[type, ...] = layers.WEIGHTED,
) -> int:
    """Multiply–accumulates of the linear and convolution layers for one example of ``x``.

    One multiply–accumulate is two FLOPs in the literature that counts FLOPs.

    Args:
        x: a batch, (batch, …); its first example is run.
        skip_zeros: count only multiplications by a weight that is not zero. That is what the
            network *requires*; a dense kernel performs the others too.
        kinds: count the layers of these classes only.
    """
    total = 0

    def count(layer: nn.Module, _: object, out: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        # Every weight is used once at each output position: Linear (1, …, out), Conv (1, out, …).
        positions = out[0].numel() // weight.shape[0]
        total += positions * int(weight.count_nonzero() if skip_zeros else weight.numel())

    layers = [m for m in model.modules() if isinstance(m, kinds)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad(), evaluating(model):
            model(x[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return total


def bytes_dense(model: nn.Module) -> int:
    """Bytes of all parameters and buffers as they lie in memory, zeros included."""
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


def bytes_sparse(model: nn.Module) -> int:
    """Bytes with each prunable weight stored as CSR, indices included, and the rest dense.

    CSR keeps a value and an int32 column for every non-zero, and an int32 offset a row; a
    convolution's weight counts as the matrix (out, in · kernel). At float32 it is smaller than
    dense only above about 50 % sparsity.
    """
    saved = 0
    for w in [layer.weight.detach() for layer in layers.weighted(model).values()]:
        saved += w.numel() * w.element_size() - csr_bytes(
            w.shape, int(w.count_nonzero()), w.element_size()
        )
    return bytes_dense(model) - saved


def csr_bytes(shape: Sequence[int], nonzeros: int, value_bytes: int = 4) -> int:
    """Bytes of one (rows, …) weight in CSR with int32 indices: values, columns, row offsets."""
    return nonzeros * (value_bytes + 4) + 4 * (shape[0] + 1)


def bytes_file(model: nn.Module) -> int:
    """Bytes of the parameters and buffers as a file, compressed by LZMA: a strong general-purpose
    compressor that knows nothing of networks."""
    file = io.BytesIO()
    for tensor in model.state_dict().values():
        file.write(tensor.detach().cpu().contiguous().numpy().tobytes())
    return len(lzma.compress(file.getvalue()))


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
        ValueError: a negative number, no bits, or another memory.
    """
    if min(weights, macs) < 0 or not bits > 0:
        raise ValueError(
            f"weights and macs must not be negative and bits be positive, "
            f"got {weights!r}, {macs!r} and {bits!r}"
        )
    if memory not in ("DRAM", "SRAM", "register"):
        raise ValueError(f"memory must be DRAM, SRAM or register, got {memory!r}")
    per_mac = PICOJOULES["float multiply"] + PICOJOULES["float add"]
    return 1e-12 * weights * bits / 32 * PICOJOULES[memory], 1e-12 * macs * per_mac


def bandwidth(model: nn.Module, *, per_second: float) -> float:
    """Bytes a second that a memory has to deliver so that a network, none of it kept nearer to the
    arithmetic, runs ``per_second`` forward passes of one example: every stored byte once a pass."""
    return per_second * bytes_dense(model)


def sparse_copy(model: nn.Sequential) -> nn.Sequential:
    """A fully connected network with its weights as CSR matrices: the same function, computed
    without the zeros. What ``latency`` needs to show what sparsity is worth on this machine.

    Raises:
        TypeError: ``model`` is not an ``nn.Sequential``, or has a convolution (torch has no sparse
            one).
    """
    if not isinstance(model, nn.Sequential) or any(
        isinstance(m, nn.modules.conv._ConvNd) for m in model
    ):
        raise TypeError(f"model must be an nn.Sequential without convolutions, got {model}")
    return nn.Sequential(*(SparseLinear(m) if isinstance(m, nn.Linear) else m for m in model))


class SparseLinear(nn.Module):
    """A linear layer that stores and multiplies only its non-zero weights (CSR)."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.weight = dense.weight.detach().to_sparse_csr()
        self.bias = None if dense.bias is None else dense.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        out = (self.weight @ x.t()).t()  # (out, in) sparse @ (in, batch) -> (batch, out)
        return out if self.bias is None else out + self.bias
