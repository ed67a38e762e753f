"""Lesson Pruning today: all its arms, controls and budgets, on language models that no lesson loads.

    python book/reproductions/long_language_models.py [seeds]

writes ``long_language_models.json`` beside this file. Seeds 0 to 4 come with the course, and the
lesson's sentences were first found on such models. Here seeds 10, 11, … each get a grammar, a text,
initial weights and an order of their own, and every sentence gets a margin that was written down
before the run (``FINDINGS``).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import record
import torch
from scipy import stats
from torch import Tensor, nn

from course_lib import language, measure, models
from course_lib.compression import quantization
from course_lib.data import Text
from course_lib.pruning import allocate, criteria, granularity, layerwise, masks
from course_lib.teaching import claims

FIRST, CHOICE = 10, 9  # the first of the seeds, and the one on which rates were chosen
CALIBRATION, BLOCK, RETRAIN = 128, 64, 160  # rows, columns, steps
BUDGETS = (0, 100, 200, 400, 800, 1600, 3200)  # steps
RATES = (0.001, 0.003, 0.01)
RETRAINED = ("random", "magnitude", "Wanda", "SparseGPT", "magnitude + repair")
PATTERNS = {f"{s} %": partial(allocate.per_output, sparsity=s / 100) for s in (50, 60, 70, 80)}
PATTERNS |= {"2:4": granularity.n_of_m}
UNIT = "nats per word"


class Case(NamedTuple):
    """A dense model and its texts."""

    seed: int
    model: models.Transformer
    train: Text
    test: Text

    @property
    def x(self) -> Tensor:
        """The words to calibrate on."""
        return self.train.tokens[:CALIBRATION, :-1]

    def lost(self, model: nn.Module) -> float:
        """Nats per word more than the dense model needs."""
        return measure.nats(model, self.test) - measure.nats(self.model, self.test)

    def gap(self, model: nn.Module) -> float:
        """Nats per word above the floor."""
        return measure.nats(model, self.test) + self.test.log_p.mean().item()


def case(seed: int) -> Case:
    return Case(seed, language.trained(seed), *language.texts(seed))


# ---- the arms


def masked(model: nn.Module, keep: masks.Masks) -> nn.Module:
    new = copy.deepcopy(model)
    masks.apply(new, keep)
    return new


def repaired(model: nn.Module, x: Tensor, keep: masks.Masks) -> nn.Module:
    return layerwise.rewrite(model, x, lambda name, w, g: layerwise.refit(w, g, keep[name]))


def pruned(seed: int, model: nn.Module, x: Tensor, pattern: layerwise.Pattern) -> dict:
    """Arm -> (network, masks)."""
    scores = {
        "random": criteria.random(model, seed=seed),
        "magnitude": criteria.magnitude(model),
        "Wanda": layerwise.wanda(model, x),
    }
    keep = {name: pattern(s) for name, s in scores.items()}
    found = {name: (masked(model, k), k) for name, k in keep.items()}
    found["SparseGPT"] = layerwise.sparsegpt(model, x, pattern, block=BLOCK)
    for name in ("magnitude", "Wanda", "SparseGPT"):
        k = found[name][1]
        found[f"{name} + repair"] = repaired(model, x, k), k
    return found


def retrained(of: Case, model: nn.Module, keep: masks.Masks | None, rate: float) -> nn.Module:
    new = copy.deepcopy(model)
    language.train(new, of.train, steps=RETRAIN, seed=of.seed + 1000, rate=rate, keep=keep)
    return new


def rates() -> dict[str, float]:
    """The best rate of each arm for retraining at 80 %, on a model and a text of their own."""
    of = case(CHOICE)
    found = pruned(of.seed, of.model, of.x, PATTERNS["80 %"])
    starts = {name: found[name] for name in RETRAINED} | {"dense": (of.model, None)}
    return {
        name: min(RATES, key=lambda rate: of.lost(retrained(of, *start, rate)))
        for name, start in starts.items()
    }


def table(rate: Mapping[str, float], seed: int) -> dict[str, float]:
    """Every arm at every pattern: what it loses, and what is lost after retraining."""
    of = case(seed)
    found = {"dense: gap": of.gap(of.model)}
    for width, sparsity in ((48, "50 %"), (32, "80 %")):
        found[f"small dense of the bytes at {sparsity}: lost"] = of.lost(
            language.trained(seed, width=width)
        )
    found["dense, trained on: lost"] = of.lost(retrained(of, of.model, None, rate["dense"]))
    for where, pattern in PATTERNS.items():
        for name, (net, keep) in pruned(seed, of.model, of.x, pattern).items():
            found[f"{where} {name}: lost"] = of.lost(net)
            if name in RETRAINED and where in ("50 %", "80 %", "2:4"):
                after = retrained(of, net, keep, rate[name])
                found[f"{where} {name}, retrained: lost"] = of.lost(after)
    return found


def budgets(seed: int) -> dict[str, float]:
    """What 70 % costs a model that was trained for so many steps."""
    _, _, train, test = case(seed)
    found = {}
    for steps in BUDGETS:
        model = models.tiny_transformer(language.WORDS, seed=seed)
        if steps == language.STEPS:
            model = language.trained(seed)
        elif steps:
            language.train(model, train, steps=steps, seed=seed)
        of = Case(seed, model, train, test)
        found[f"{steps} steps, dense: gap"] = of.gap(model)
        arms = pruned(seed, model, of.x, PATTERNS["70 %"])
        for name in ("magnitude", "Wanda", "SparseGPT", "magnitude + repair"):
            found[f"{steps} steps, 70 % {name}: lost"] = of.lost(arms[name][0])
    return found


def longer(seed: int) -> dict[str, float]:
    """The small dense models with the steps of the large one and of its retraining together."""
    of, steps = case(seed), language.STEPS + RETRAIN
    found = {}
    for width, sparsity in ((48, "50 %"), (32, "80 %")):
        model = models.tiny_transformer(language.WORDS, width=width, seed=seed)
        language.train(model, of.train, steps=steps, seed=seed)
        found[f"small dense of the bytes at {sparsity}, {steps} steps: lost"] = of.lost(model)
    return found


# ---- single questions


def calibrated(of: Case) -> dict[str, float]:
    """60 % after so many rows of calibration."""
    found = {}
    for rows in (1, 2, 4, 16, 64, 256):
        arms = pruned(of.seed, of.model, of.train.tokens[:rows, :-1], PATTERNS["60 %"])
        for name in ("Wanda", "SparseGPT", "Wanda + repair"):
            found[f"{rows} rows, 60 % {name}: lost"] = of.lost(arms[name][0])
    return found


def with_outliers(model: models.Transformer, times: float) -> models.Transformer:
    """The same function, with four channels behind each norm ``times`` as large as before."""
    new = copy.deepcopy(model)
    for block in new.blocks:
        for norm, reader in ((block.norm1, block.qkv), (block.norm2, block.up)):
            norm.weight.data[:4] *= times
            norm.bias.data[:4] *= times
            reader.weight.data[:, :4] /= times
    return new


def planted(of: Case) -> dict[str, float]:
    """50 % where some inputs are much larger than others."""
    found = {}
    for times in (1, 3, 10, 100):
        arms = pruned(of.seed, with_outliers(of.model, times), of.x, PATTERNS["50 %"])
        for name in ("magnitude", "Wanda", "SparseGPT", "magnitude + repair"):
            found[f"outliers x{times}, 50 % {name}: lost"] = of.lost(arms[name][0])
    return found


def rounded(of: Case) -> dict[str, float]:
    """Weights on a grid."""
    found = {}
    for bits in (2, 3, 4):
        found[f"{bits} bits, rounded: lost"] = of.lost(quantization.ptq(of.model, bits))
        net = quantization.gptq(of.model, of.x, bits)
        found[f"{bits} bits, GPTQ: lost"] = of.lost(net)
    return found


def parts(of: Case) -> dict[str, float]:
    """Heads and blocks: what their removal costs, and how scores rank it."""
    model, cost, norms = of.model, [], []
    for block, head in product(range(2), range(4)):
        new = copy.deepcopy(model)
        columns = slice(16 * head, 16 * head + 16)
        norms.append(new.blocks[block].out.weight[:, columns].norm().item())
        new.blocks[block].out.weight.data[:, columns] = 0
        cost.append(of.lost(new))
    names = {f"blocks.{b}.out.weight": 4 for b in range(2)}
    batch = of.train.tokens[:CALIBRATION, :-1], of.train.tokens[:CALIBRATION, 1:]
    gates = torch.cat([*layerwise.heads(model, batch, names).values()]).tolist()
    found = {
        "cheapest head: lost": min(cost),
        "dearest head: lost": max(cost),
        "heads, rank correlation of the gate with removal": stats.spearmanr(gates, cost)[0],
        "heads, rank correlation of the norm with removal": stats.spearmanr(norms, cost)[0],
    }
    for i in range(2):
        new = copy.deepcopy(model)
        new.blocks[i] = nn.Identity()
        found[f"without block {i}: lost"] = of.lost(new)
    return found


def in_order(of: Case, order: Callable[[Tensor], Tensor], block: int) -> float:
    """70 % by SparseGPT with the columns in another order."""

    def change(name: str, weight: Tensor, gram: Tensor) -> Tensor:
        places = order(gram.diagonal())

        def replace(columns: Tensor, scales: Tensor) -> Callable[[int, Tensor], Tensor]:
            keep = PATTERNS["70 %"]({name: (columns / scales).square()})[name]
            return lambda j, column: column * keep[:, j % block]

        new = layerwise.sweep(weight[:, places], gram[places][:, places], replace, block=block)
        return new[:, places.argsort()]

    return of.lost(layerwise.rewrite(of.model, of.x, change))


def orders(of: Case) -> dict[str, float]:
    stored = lambda sizes: torch.arange(len(sizes))
    down = lambda sizes: sizes.argsort(descending=True)
    found = {
        "70 % SparseGPT, largest inputs first: lost": in_order(of, down, BLOCK),
        "70 % SparseGPT, smallest inputs first: lost": in_order(of, torch.argsort, BLOCK),
    }
    for block in (8, 32, 64, 256):
        found[f"70 % SparseGPT, blocks of {block}: lost"] = in_order(of, stored, block)
    return found


def questions(seed: int) -> dict[str, float]:
    of = case(seed)
    asked = (calibrated, planted, rounded, parts, orders)
    return {name: value for ask in asked for name, value in ask(of).items()}


# ---- what was claimed before this run: (a, relation, b, margin) for each sentence

FINDINGS: dict[str, list[tuple[str, str, str, float]]] = {
    "the repair counts more than the mask": [
        ("70 % SparseGPT: lost", ">", "70 % magnitude + repair: lost", 0.0),
        ("80 % SparseGPT: lost", ">", "80 % magnitude + repair: lost", 0.0),
        ("2:4 SparseGPT: lost", ">", "2:4 magnitude + repair: lost", 0.0),
        ("70 % magnitude + repair: lost", "=", "70 % Wanda + repair: lost", 0.02),
    ],
    "SparseGPT loses less than Wanda": [
        (f"{s} Wanda: lost", ">", f"{s} SparseGPT: lost", 0.0) for s in PATTERNS
    ],
    "Wanda's lead over magnitude is small at 50 %, hangs on training, and shows at 70 %": [
        ("50 % magnitude: lost", "=", "50 % Wanda: lost", 0.03),
        ("1600 steps, 70 % magnitude: lost", ">", "1600 steps, 70 % Wanda: lost", 0.0),
        ("200 steps, 70 % Wanda: lost", ">", "200 steps, 70 % magnitude: lost", 0.0),
    ],
    "the longer a model has trained, the more pruning costs it": [
        ("1600 steps, 70 % magnitude: lost", ">", "100 steps, 70 % magnitude: lost", 0.1),
        ("0 steps, 70 % magnitude: lost", "=", "", 0.1),
    ],
    "2:4 costs more than free 50 %": [
        *((f"2:4 {a}: lost", ">", f"50 % {a}: lost", 0.0) for a in ("Wanda", "SparseGPT")),
        ("2:4 magnitude + repair: lost", "=", "", 0.01),
    ],
    "planted outliers harm magnitude, and SparseGPT through its damping, but not Wanda": [
        ("outliers x10, 50 % magnitude: lost", ">", "outliers x1, 50 % magnitude: lost", 0.0),
        ("outliers x100, 50 % Wanda: lost", "=", "outliers x1, 50 % Wanda: lost", 0.002),
        ("outliers x100, 50 % SparseGPT: lost", ">", "outliers x1, 50 % SparseGPT: lost", 0.0),
    ],
    "after short retraining the masks hardly differ at 50 %, and SparseGPT leads at 80 %": [
        *(
            (f"50 % {a}, retrained: lost", "=", "dense, trained on: lost", 0.01)
            for a in ("magnitude", "Wanda", "SparseGPT")
        ),
        ("80 % magnitude, retrained: lost", ">", "80 % SparseGPT, retrained: lost", 0.0),
        ("80 % random, retrained: lost", ">", "80 % magnitude, retrained: lost", 0.1),
    ],
    "a small dense model of equal bytes is a draw": [
        ("50 % magnitude + repair: lost", "=", "small dense of the bytes at 50 %: lost", 0.02),
        ("80 % SparseGPT, retrained: lost", "=", "small dense of the bytes at 80 %: lost", 0.03),
    ],
    "more than 16 rows of calibration help little": [
        ("16 rows, 60 % Wanda: lost", "=", "256 rows, 60 % Wanda: lost", 0.01),
        ("16 rows, 60 % SparseGPT: lost", "=", "256 rows, 60 % SparseGPT: lost", 0.01),
        ("1 rows, 60 % Wanda + repair: lost", ">", "16 rows, 60 % Wanda + repair: lost", 0.0),
    ],
    "the gate ranks heads as removal does, the norm does not": [
        ("heads, rank correlation of the gate with removal", ">", "", 0.5),
        (
            "heads, rank correlation of the gate with removal",
            ">",
            "heads, rank correlation of the norm with removal",
            0.0,
        ),
    ],
    "both blocks are needed, the first more": [
        ("without block 0: lost", ">", "without block 1: lost", 1.0),
        ("without block 1: lost", ">", "", 0.1),
    ],
    "GPTQ loses less than rounding at 2 and 3 bits, and at 4 bits both lose little": [
        ("2 bits, rounded: lost", ">", "2 bits, GPTQ: lost", 0.1),
        ("3 bits, rounded: lost", ">", "3 bits, GPTQ: lost", 0.0),
        ("4 bits, rounded: lost", "=", "4 bits, GPTQ: lost", 0.005),
    ],
    "SparseGPT loses more with the largest inputs first, and with blocks of 8 columns": [
        (
            "70 % SparseGPT, largest inputs first: lost",
            ">",
            "70 % SparseGPT, blocks of 64: lost",
            0.0,
        ),
        ("70 % SparseGPT, blocks of 8: lost", ">", "70 % SparseGPT, blocks of 64: lost", 0.0),
    ],
}


def unit(quantity: str) -> str:
    return "" if "correlation" in quantity else UNIT


def judged(found: Mapping[str, Sequence[float]]) -> dict[str, list[claims.Claim]]:
    """Each finding's sentences as claims on these seeds."""

    def claim(a: str, relation: str, b: str, margin: float) -> claims.Claim:
        said, pair = (
            f"{a} {relation} {b or 0}",
            (found[a], found[b] if b else [0.0] * len(found[a])),
        )
        how = {"unit": unit(a), "mark": "exploratory"}  # a claim that fails here is a result
        if relation == ">":
            return claims.greater(said, *pair, by=margin, **how)
        return claims.equal(said, *pair, within=margin, **how)

    return {name: [claim(*asked) for asked in of] for name, of in FINDINGS.items()}


def verdict(of: Mapping[str, Sequence[claims.Claim]]) -> str:
    """One sentence: which findings hold on these seeds, which in part, which do not."""
    share = {name: sum(c.holds for c in asked) / len(asked) for name, asked in of.items()}
    groups = {
        "Replicated": [name for name, s in share.items() if s == 1],
        "in part": [name for name, s in share.items() if 0 < s < 1],
        "not": [name for name, s in share.items() if s == 0],
    }
    return "; ".join(
        f"{how}: {', '.join(f'“{n}”' for n in of)}" for how, of in groups.items() if of
    )


def main(seeds: int) -> None:
    """Run what is missing, and write the result file."""
    torch.set_num_threads(1)
    rate, total = record.kept(__file__, "rates", rates)
    found: dict[str, list[float]] = {}
    for name, make in (
        ("table", partial(table, rate)),
        ("longer", longer),
        ("questions", questions),
        ("budgets", budgets),
    ):
        for seed in range(FIRST, FIRST + seeds):
            made, seconds = record.kept(__file__, f"{name} {seed}", partial(make, seed))
            total += seconds
            for quantity, value in made.items():
                found.setdefault(quantity, []).append(round(value, 5))
    of = judged(found)
    record.write(
        __file__,
        experiment="The lesson Pruning today on fresh language models, with every control",
        command=f"python book/reproductions/long_language_models.py {seeds}",
        verdict=verdict(of) + ".",
        setting={
            "seeds": f"{FIRST} to {FIRST + seeds - 1}",
            "steps of training": f"{language.STEPS} of {language.BATCH} rows, each row once",
            "rows to calibrate on": CALIBRATION,
            "steps of retraining": RETRAIN,
            "learning rate of retraining": f"of {RATES}, chosen on seed {CHOICE}: {rate}",
            "lost": "nats per word more than the dense model needs on the same 19,200 words",
            "gap": "nats per word above the known truth",
            "bytes": "a bit for each weight of the linear layers, and float32 for what is left",
        },
        differences=[
            "The language is the course's own, so no paper has these numbers.",
            "Each arm's rate of retraining was chosen at 80 % on one model and used at every pattern.",
        ],
        table=[record.row(name, unit(name), values) for name, values in found.items()],
        seconds=total,
        details={
            name: [{"claim": str(c), "margin": c.margin, "holds": c.holds} for c in asked]
            for name, asked in of.items()
        },
    )


if __name__ == "__main__":
    main(*record.numbers(5))
