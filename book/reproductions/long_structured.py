"""The lesson Unstructured vs structured with more training, on MNIST, and with more grains.

    COURSE_DATA=folder python book/reproductions/long_structured.py

writes ``long_structured.json`` beside this file. Three parts: the lesson's arms with four times the
epochs, on the lesson's glyphs; the same arms with the lesson's epochs on MNIST, reduced to 14×14;
and masks of four grains on a small VGG, all with a third of the weights able to act. Each finished
part is kept in the temporary folder, so that an interrupted run goes on with the next one.
"""

import copy

import record
import torch

from course_lib import data, experiments, layers, measure, models, training
from course_lib.experiments import Arm
from course_lib.pruning import allocate, channel_criteria, channels, criteria, granularity, masks
from course_lib.pruning.criteria import Scores
from course_lib.pruning.masks import Masks
from course_lib.training import Plan

SHARE = 0.85
DIGITS = 20_000  # images of MNIST
IMAGES, EPOCHS = 3000, 6  # of the VGGs, before and after the masks
GRAINS = {  # each leaves a third of the weights of the masked convolutions on a path
    "single weights": lambda net, s: allocate.per_layer(s, 2 / 3),
    "kernels": lambda net, s: granularity.kernels(net, s, 2 / 3),
    "strides in kernels": lambda net, s: granularity.strided(net, s, 3),
    "channels": lambda net, s: granularity.channels(net, s, 0.44),
}
DIFFERENCES = ["No paper has these numbers: they are the controls of the lesson."]
VERDICT = (
    "Single weights stay ahead of whole neurons in longer training and on MNIST. The smallest "
    "norms show no lead over random neurons any more, and keep about a point over a network "
    "that was small from the start. Of the grains of the VGG, channels are slightly behind "
    "single weights."
)
MLP = {
    "network": "196-100-50-10",
    "neurons removed": f"{SHARE:.0%} of each hidden layer",
    "optimizer": "SGD, rate 0.1 with linear decay, momentum 0.9",
}


def only_read(scores: Scores, sparsity: dict[str, float]) -> Masks:
    """Each layer loses its lowest scores, those first that no later layer reads."""
    found, read = {}, None
    for name, score in reversed(scores.items()):
        if read is not None:
            score = score.masked_fill(~read[:, None], -1)
        found |= allocate.per_layer({name: score}, {name: sparsity[name]})
        read = found[name].any(0)
    return found


def two_of_four(scores: Scores) -> Masks:
    """Of every four neighbours in a row two stay, in layers whose rows can be divided by four."""
    fours = {n: s.unflatten(1, (-1, 4)) for n, s in scores.items() if s.shape[1] % 4 == 0}
    return {n: (f.argsort(-1).argsort(-1) >= 2).flatten(1) for n, f in fours.items()}


def neurons(images: tuple[data.Split, data.Split], epochs: int, n: int) -> dict:
    """Arm -> accuracy of n seeds, with so many epochs before the cut and as many after it."""
    (train, test), plan, seeds = images, Plan(epochs=epochs), range(n)
    start = {"dense": Arm([models.mlp(seed=seed) for seed in seeds])}
    nets = experiments.run(start, train, test, plan, seeds=seeds).networks["dense"]
    graph = channels.trace(nets[0], test.x[:1])

    def cut(scores: list[torch.Tensor]) -> list[torch.nn.Module]:
        dead = [channels.weakest(graph, s, SHARE) for s in scores]
        return [channels.remove(n, graph, d) for n, d in zip(nets, dead, strict=True)]

    small = cut([channel_criteria.l1(net, graph) for net in nets])
    by_chance = cut([channel_criteria.random(n, graph, seed=s) for s, n in enumerate(nets)])
    sizes = (196, small[0].fc1.out_features, small[0].fc2.out_features, 10)
    weights = layers.weights(nets[0])
    gone = {n: 1 - w.numel() / weights[n].numel() for n, w in layers.weights(small[0]).items()}
    whole = measure.count_weights(nets[0])
    others = measure.bytes_sparse(nets[0]) - 8 * whole  # offsets and biases
    affordable = (measure.bytes_dense(small[0]) - others) // 8
    scores = [criteria.magnitude(net) for net in nets]
    sparsity = 1 - measure.count_weights(small[0]) / whole
    arms = {
        "dense": Arm(nets),
        "A: single weights, one ranking": Arm(
            nets, [allocate.globally(s, sparsity) for s in scores]
        ),
        "B: single weights, shares of C": Arm(nets, [only_read(s, gone) for s in scores]),
        "B, careless": Arm(nets, [allocate.per_layer(s, gone) for s in scores]),
        "2:4": Arm(nets, [two_of_four(s) for s in scores]),
        "C: whole neurons": Arm(small),
        "random neurons": Arm(by_chance),
        "small from the start": Arm(
            [models.mlp(sizes, seed=seed) for seed in seeds], plan=Plan(epochs=2 * epochs)
        ),
        "A, as many bytes as C": Arm(
            nets, [allocate.globally(s, 1 - affordable / whole) for s in scores]
        ),
    }
    if epochs > 12:
        longer = Arm(arms["small from the start"].networks, plan=Plan(epochs=4 * epochs))
        arms["small from the start, twice the epochs"] = longer
    return experiments.run(arms, train, test, plan, seeds=seeds).accuracy


def acting(net: torch.nn.Module, keep: Masks) -> float:
    """Percent of the masked layers' weights that lie on a path from an input to an output."""
    bare = copy.deepcopy(net)
    with torch.no_grad():
        for name, value in (*bare.named_parameters(), *bare.named_buffers()):
            if value.dim() == 1:  # biases, and batch norm without shifts
                value.fill_(float(name.endswith(("weight", "var"))))
    masks.apply(bare, keep)
    scores = criteria.synflow(bare, (1, 14, 14))
    on_path = sum(int((scores[name] > 0).sum()) for name in keep)
    return 100 * on_path / sum(mask.numel() for mask in keep.values())


def grains(train: data.Split, test: data.Split, n: int) -> dict[str, list[float]]:
    """Grain -> accuracy of n seeds, and "acting, grain" -> percent of weights on a path."""
    few = data.Split(train.x[:IMAGES], train.y[:IMAGES])
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    def train_on(net: torch.nn.Module, keep: Masks) -> float:
        optimizer = training.sgd(net, lr=0.05)
        masks.hold(optimizer, net, keep)
        training.fit(net, few, epochs=EPOCHS, optimizer=optimizer)
        return training.evaluate(net, test).item()

    for seed in range(n):
        net = models.vgg(width=0.5, seed=seed)
        train_on(net, {})
        scores = criteria.magnitude(net)  # of the convolutions but the first
        scores = {n: s for n, s in scores.items() if s.dim() == 4 and s.shape[1] > 1}
        for name, make in GRAINS.items():
            keep = make(net, scores)
            note(f"acting, {name}", acting(net, keep))
            note(name, train_on(copy.deepcopy(net), keep))
    return found


def main() -> None:
    """Run what is missing, and write the result file."""
    torch.set_num_threads(1)
    glyphs = data.load("glyphs")
    parts = {
        "glyphs, 48 + 48 epochs": lambda: neurons(glyphs, 48, 10),
        "MNIST, 12 + 12 epochs": lambda: neurons(
            data.load("mnist", size=14, n_train=DIGITS), 12, 5
        ),
        "VGG": lambda: grains(*glyphs, 5),
    }
    table, seconds = [], 0.0
    for part, run in parts.items():
        found, taken = record.kept(__file__, part.replace(" ", ""), run)
        seconds += taken
        table += [
            record.row(
                f"{part}: {name}",
                "% of the weights" if name.startswith("acting") else "% test accuracy",
                [round(value, 2) for value in values],
            )
            for name, values in found.items()
        ]
    record.write(
        __file__,
        experiment="The lesson Unstructured vs structured: longer training, MNIST, and grains",
        verdict=VERDICT,
        command="python book/reproductions/long_structured.py",
        setting={
            "glyphs, 48 + 48 epochs": MLP | {"images": len(glyphs[0].y)},
            "MNIST, 12 + 12 epochs": MLP | {"images": DIGITS, "pixels": "14×14"},
            "VGG": {
                "width": 0.5,
                "images": IMAGES,
                "epochs": f"{EPOCHS} before and {EPOCHS} after the masks",
                "optimizer": "SGD, rate 0.05 with linear decay, momentum 0.9",
                "masked": "the convolutions but the first",
            },
        },
        differences=DIFFERENCES,
        table=table,
        seconds=seconds,
    )


if __name__ == "__main__":
    main()
