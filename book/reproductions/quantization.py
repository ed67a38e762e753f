"""Quantized LeNet-300-100 on MNIST: rounding after training against training on the grid, by bits;
and a binarized network (Courbariaux et al. 2016) of the same width.

    COURSE_DATA=folder python book/reproductions/quantization.py [seeds]

writes ``quantization.json`` beside this file. The paper's binarized network has three layers of
4,096 units and an error of 0.96 % (Theano) or 1.40 % (Torch7), as others quote it; ours is a
twelfth as wide, so no number of the paper stands beside it.
"""

import sys
import time
from collections.abc import Iterator

import record
import torch
from tqdm import tqdm

from course_lib import data, ensemble, models, training
from course_lib.compression import binary, quantization

BITS = (8, 6, 4, 3, 2)
TRAINED, EXTRA, RATE = 10, 3, 0.1  # epochs, epochs on the grid at a tenth of the rate, rate
BINARY_EPOCHS, BINARY_RATE = 10, 0.01  # Adam
SIZES = (784, 300, 100, 10)
DIFFERENCES = [
    "PTQ and QAT follow Jacob et al. 2018 and Krishnamoorthi 2018, who do not report MNIST.",
    "QAT rounds weights only; the BNN binarizes its inputs too, the paper keeps 8 bits.",
    "The BNN of the paper has three hidden layers of 4,096 units; ours 300 and 100.",
]
VERDICT = (
    "The papers report no MNIST numbers for this network. The direction is theirs: 8 bits "
    "cost nothing; with 2 bits only training on the grid stays about a point from float32."
)


def extra(nets: list[torch.nn.Module], train: data.Split, test: data.Split) -> list[float]:
    """Errors after the extra epochs."""
    stack = ensemble.stack(nets)
    optimizer = training.sgd(stack, lr=RATE / 10)
    training.fit(stack, train, epochs=EXTRA, optimizer=optimizer, seed=1)
    return record.errors(stack, test)


def binarized(seed: int, train: data.Split, test: data.Split) -> tuple[float, bool]:
    """Error of a BNN, and whether its packed form gives the same logits to the last bit."""
    net = binary.bnn(SIZES, seed=seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=BINARY_RATE, fused=True)
    binary.hold_in_range(optimizer, net)
    training.fit(net, train, epochs=BINARY_EPOCHS, optimizer=optimizer, seed=seed)
    net.eval()
    with torch.no_grad():
        same = torch.equal(binary.packed(net)(test.x), net(test.x))
    return record.error(net, test), same


def measured(seeds: int, train: data.Split, test: data.Split) -> Iterator[tuple[str, list[float]]]:
    """Yield a name and the errors of all seeds, arm after arm."""
    stack = ensemble.stack([models.mlp(SIZES, seed=seed) for seed in range(seeds)])
    training.fit(stack, train, epochs=TRAINED, optimizer=training.sgd(stack, lr=RATE))
    nets = ensemble.unstack(stack)
    few = train.x[:500]
    yield "float32", record.errors(stack, test)
    yield "float32, same extra training", extra(nets, train, test)
    for bits in tqdm(BITS, desc="bits"):
        each = [quantization.ptq(n, bits) for n in nets]
        variants = {
            "PTQ, a scale per tensor": [quantization.ptq(n, bits, per_channel=False) for n in nets],
            "PTQ, a scale per channel": each,
            "PTQ, a scale per channel, range by MSE": [
                quantization.ptq(n, bits, observe=quantization.mse(bits)) for n in nets
            ],
            "PTQ, weights and activations": [quantization.activations(n, few, bits) for n in each],
        }
        for name, small in variants.items():
            yield f"{bits} bits, {name}", [e for net in small for e in record.errors(net, test)]
        aware = [quantization.qat(n, bits) for n in nets]
        yield f"{bits} bits, QAT", extra(aware, train, test)


def main(seeds: int) -> None:
    """Run, and write the result file."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    train, test = data.load("mnist", size=28)
    errors = dict(measured(seeds, train, test))
    runs = [binarized(seed, train, test) for seed in tqdm(range(seeds), desc="binarized")]
    errors["1 bit, weights and activations (BNN), same width"] = [e for e, _ in runs]
    record.write(
        __file__,
        experiment="Quantized LeNet-300-100 on MNIST: PTQ and QAT by bits; a BNN of the same width",
        verdict=VERDICT,
        command=f"python book/reproductions/quantization.py {seeds}",
        setting={
            "epochs": TRAINED,
            "extra epochs": EXTRA,
            "learning rate": RATE,
            "epochs of the BNN": BINARY_EPOCHS,
            "Adam's learning rate for the BNN": BINARY_RATE,
            "images": len(train.y),
        },
        differences=DIFFERENCES,
        table=[record.row(f"error, {name}", "%", ours) for name, ours in errors.items()],
        seconds=time.perf_counter() - start,
        details={"packed BNN equal to the float one to the last bit": [s for _, s in runs]},
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
