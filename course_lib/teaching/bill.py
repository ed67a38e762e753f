"""The bill: a table of the accuracy and the costs of networks."""

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from IPython.display import Markdown
from torch import Tensor, nn

from course_lib import ensemble, measure
from course_lib.teaching import claims

CITED = re.compile(r"\{cite\}`([a-z]+)(\d{4})\w*`")  # a key begins with first author and year


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Markdown:
    """A table on the page. The first column is aligned to the left, the others to the right.

    A citation ``{cite}`han2015learning``` is the book's to resolve. Elsewhere it is in words: Han, 2015.

    Examples:
        >>> print(table(["network", "bytes"], [("dense", 4000), ("pruned", 400)]).data)
        | network | bytes |
        | :-- | --: |
        | dense | 4000 |
        | pruned | 400 |
    """
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    text = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
    if "COURSE_BOOK" not in os.environ:
        text = CITED.sub(lambda found: f"{found[1].capitalize()}, {found[2]}", text)
    return Markdown(text)


def bill(
    networks: Mapping[str, nn.Module | Sequence[nn.Module]],
    batch: Tensor | Sequence[Tensor],
    *,
    accuracy: Mapping[str, float | Sequence[float]] | None = None,
    extra: Mapping[str, Mapping[str, object]] | None = None,
    rounds: int = 21,
) -> Markdown:
    """A table of what networks cost, one row per network.

    ==================  ============================================================================
    column              what it says
    ==================  ============================================================================
    accuracy, %         mean ± standard deviation over seeds
    bytes               of all parameters and buffers in memory; in brackets the bytes with the
                        weights as CSR, if those are fewer
    multiplications     that a forward pass of one image performs; in brackets those by weights that
                        are not zero, if they are fewer
    ms, n images        median time of a forward pass of the whole batch, and its quartiles: if the
                        quartiles of two networks overlap, neither was shown to be faster
    ==================  ============================================================================

    Args:
        networks: name -> network. Of a list or a stack of networks, one per seed, the first one is
            measured. ``measure.sparse_copy`` makes a network that leaves its zeros out.
        batch: images, (n, …). A list of batches gives one column of milliseconds per batch.
        accuracy: name -> percent, or one value per seed. It may have more names than ``networks``.
        extra: header -> name -> cell. These are more columns, or cells that replace measured ones
            where the tensors do not show how a network is stored or multiplied.
        rounds: how often each network is timed (``measure.latency``).

    Raises:
        ValueError: no networks or no images; a network without accuracy; a cell for an unknown
            network.

    Examples:
        >>> import torch
        >>> net = nn.Linear(4, 3)
        >>> cost = bill({"dense": net}, torch.zeros(1, 4), extra={"ms, 1 image": {"dense": "-"}})
        >>> print(cost.data)
        | network | bytes | multiplications | ms, 1 image |
        | :-- | --: | --: | --: |
        | dense | 60 | 12 | - |
    """
    first = {name: _first(name, given) for name, given in networks.items()}
    batches = [batch] if isinstance(batch, Tensor) else list(batch)
    if not first or not batches:
        raise ValueError(
            f"networks and batch must not be empty, got {list(networks)} and {batch!r}"
        )
    columns: dict[str, dict[str, object]] = {}
    if accuracy is not None:
        if missing := [name for name in first if name not in accuracy]:
            raise ValueError(
                f"accuracy must have an entry for every network, got none for {missing}"
            )
        columns["accuracy, %"] = {name: _accuracy(accuracy[name]) for name in first}
    columns["bytes"] = {name: _bytes(net) for name, net in first.items()}
    columns["multiplications"] = {name: _macs(net, batches[0]) for name, net in first.items()}
    alone = {str(id(net)): net for net in first.values()}  # a network in two rows is measured once
    for x in batches:
        seconds = measure.latency(alone, x, rounds=rounds)
        header = f"ms, {len(x)} image{'s' if len(x) > 1 else ''}"
        columns[header] = {
            name: _milliseconds(seconds[str(id(net))]) for name, net in first.items()
        }
    for header, cells in (extra or {}).items():
        if unknown := [name for name in cells if name not in first]:
            raise ValueError(f"extra[{header!r}] names {unknown}, which are not among networks")
        columns[header] = columns.get(header, {}) | dict(cells)
    rows = [(name, *(cells.get(name, "") for cells in columns.values())) for name in first]
    return table(["network", *columns], rows)


def _first(name: str, given: nn.Module | Sequence[nn.Module]) -> nn.Module:
    networks = ensemble.members(given) if isinstance(given, nn.Module) else list(given)
    if not networks:
        raise ValueError(f"networks[{name!r}] must hold at least one network, got none")
    return networks[0]


def _accuracy(values: float | Sequence[float]) -> str:
    of_seeds = np.asarray(values, dtype=float).ravel().tolist()
    return f"{of_seeds[0]:.1f}" if len(of_seeds) == 1 else claims.mean_sd(of_seeds)


def _bytes(net: nn.Module) -> str:
    stored = measure.bytes_dense(net)
    try:
        as_csr = measure.bytes_sparse(net)
    except ValueError:  # it has no weights of linear or convolution layers, or computes them
        return f"{stored:,}"
    return f"{stored:,}" if as_csr >= stored else f"{stored:,} (as CSR {as_csr:,})"


def _macs(net: nn.Module, x: Tensor) -> str:
    performed = measure.macs(net, x)
    needed = measure.macs(net, x, skip_zeros=True)
    if performed == 0:  # none that can be counted, as in a network of bits
        return ""
    return f"{performed:,}" if needed == performed else f"{performed:,} (needs {needed:,})"


def _milliseconds(seconds: measure.Seconds) -> str:
    """Median and quartiles, with enough decimals to show three digits of the median."""
    decimals = max(0, 2 - math.floor(math.log10(1000 * seconds.median)))
    median, q1, q3 = (f"{1000 * s:.{decimals}f}" for s in seconds)
    return f"{median} ({q1}–{q3})"
