"""`make bench`: ratios measured side by side, with what bounds them.

    python tests/bench.py            everything; a part takes up to some minutes
    python tests/bench.py ensemble   or any of the parts at the end of this file

Absolute times differ from machine to machine and hour to hour; every ratio is taken over the same
work in the same run, the contestants taking turns, and is the median over the turns.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.utils import prune
from torch.utils.benchmark import Timer
from tqdm import tqdm

from course_lib import (
    data,
    ensemble,
    layers,
    measure,
    models,
    parametrized,
    training,
)
from course_lib.compression import (
    binary,
    compact,
    decomposition,
    quantization,
)
from course_lib.pruning import (
    allocate,
    channel_criteria,
    channels,
    criteria,
    lottery,
    masks,
    pipeline,
    sparse_training,
)

ROOT = Path(__file__).resolve().parent.parent
SEEDS, IMAGES, BATCH = 10, 5000, 100
SIZES = (196, 100, 50, 10)  # the lessons' MLP
THREADS = torch.get_num_threads()  # as many as torch takes by itself


def take_turns(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, after one round to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in tqdm(range(rounds + 1), desc="turns", leave=False):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if turn:
                taken[name].append(time.perf_counter() - start)
    return taken


def median_ratio(slow: list[float], fast: list[float]) -> float:
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True))


def stacked() -> None:
    """Ten seeds of the lessons' MLP, one epoch: class loop, tensor loop, stack."""
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    train, _ = data.load("glyphs", n_train=IMAGES, n_test=1)
    to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.14, 0.25)])
    pictures = [transforms.functional.to_pil_image(image) for image in train.x]

    class Pictures(Dataset):
        """What torchvision's MNIST is: pictures, turned into tensors one by one when asked for."""

        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            return to_tensor(pictures[i]), int(train.y[i])

    def class_loop() -> None:
        for seed in range(SEEDS):
            net = models.mlp(SIZES, seed=seed)
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
            for x, y in DataLoader(Pictures(), batch_size=BATCH, shuffle=True):
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()

    def one_after_another() -> None:
        for seed in range(SEEDS):
            training.fit(models.mlp(SIZES, seed=seed), train, epochs=1, batch_size=BATCH)

    def stacked() -> None:
        stack = ensemble.stack([models.mlp(SIZES, seed=seed) for seed in range(SEEDS)])
        training.fit(stack, train, epochs=1, batch_size=BATCH)

    best: dict[str, list[float]] = {}
    flops = 2 * BATCH * SEEDS * _training_macs() * (IMAGES // BATCH)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        contestants = {"one after another": one_after_another, "stack": stacked}
        taken = take_turns(contestants, rounds=7)
        print(
            f"\n{threads} thread(s): {SEEDS} seeds of the MLP {SIZES}, {IMAGES:,} images, one epoch"
        )
        for name, seconds in taken.items():
            middle = statistics.median(seconds)
            print(f"  {name:18} {middle:6.2f} s  {flops / middle / 1e9:6.1f} GFLOP/s")
            if name not in best or middle < statistics.median(best[name]):
                best[name] = seconds
        print(f"  stack is {median_ratio(taken['one after another'], taken['stack']):.1f}× as fast")
        limits = _matmul_limits()
        print(
            "  limit of this machine, GFLOP/s: "
            + ", ".join(f"{n} {v:.0f}" for n, v in limits.items())
        )
    torch.set_num_threads(1)
    slow = take_turns({"class": class_loop, "stack": stacked}, rounds=2)
    print("\nagainst torchvision transforms + DataLoader + a loop over networks, one thread each:")
    print(f"  stack is {median_ratio(slow['class'], slow['stack']):.0f}× as fast (goal 10×)")
    ratio = statistics.median(best["one after another"]) / statistics.median(best["stack"])
    print("against the same tensors, one network after another, each at its better thread count:")
    print(f"  stack is {ratio:.1f}× as fast (goal 3.5×)")
    print("what bounds the rest:")
    _profile(stacked)


def _training_macs() -> int:
    """Multiply–accumulates of a training step for one image: forward, weight gradients, and input
    gradients except for the first layer."""
    weights = [a * b for a, b in pairwise(SIZES)]
    return 3 * sum(weights) - weights[0]


def _matmul_limits() -> dict[str, float]:
    """GFLOP/s of single products: a large one, and those of the stack's layers."""
    shapes = {
        "2048³": (1, 2048, 2048, 2048),
        "first layer": (SEEDS, 100, 196, BATCH),
        "second layer": (SEEDS, 50, 100, BATCH),
    }
    found = {}
    for name, (k, n, m, p) in shapes.items():
        a, b = torch.rand(k, n, m), torch.rand(k, m, p)
        taken = Timer("a @ b", globals={"a": a, "b": b}, num_threads=torch.get_num_threads())
        found[name] = 2 * k * n * m * p / taken.blocked_autorange(min_run_time=0.3).median / 1e9
    return found


def _profile(run: Callable[[], None]) -> None:
    from torch.profiler import ProfilerActivity, profile

    run()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    events = profiler.key_averages()
    total = sum(e.self_cpu_time_total for e in events)
    products = ("aten::bmm", "aten::baddbmm", "aten::mm", "aten::addmm")
    share = {
        "matrix products": sum(e.self_cpu_time_total for e in events if e.key in products),
        "optimizer": sum(e.self_cpu_time_total for e in events if "sgd" in e.key.lower()),
    }
    share["elementwise work, loss, copies, Python"] = total - sum(share.values())
    print("  " + ", ".join(f"{name} {value / total:.0%}" for name, value in share.items()))


def tickets() -> None:
    """The ticket experiment, search and both controls: all networks in one stack, or one by one."""
    torch.set_num_threads(1)
    train, _ = data.load("glyphs", n_train=2000, n_test=1)
    nets = [models.mlp(SIZES, seed=seed) for seed in range(5)]
    rounds, epochs = 4, 2
    plan = training.Plan(epochs=epochs)
    again = training.Plan(epochs=epochs, schedule=lambda t: 1.0)
    halving = lottery.by_shares(lottery.layer_shares(nets[0], 0.5), rounds=rounds)

    def search(start: torch.nn.Module) -> list[masks.Masks]:
        found = lottery.find_tickets(start, train, plan, halving)
        return [r.masks for r in found.rounds[1:]]

    def stacked() -> None:
        found = search(ensemble.stack(nets))
        members, keep = [], []
        for r, kept in enumerate(found):
            for net, own in zip(nets, masks.unstack(kept), strict=True):
                members += [lottery.reinitialise(net, seed=r), net]
                keep += [own, lottery.random_mask(net, own, seed=r)]
        pipeline.train_held(ensemble.stack(members), train, masks.stack(keep), again)

    def one_by_one() -> None:
        for net in nets:
            for r, own in enumerate(search(lottery.ticket(net, {}))):
                new, other = (
                    lottery.reinitialise(net, seed=r),
                    lottery.random_mask(net, own, seed=r),
                )
                pipeline.train_held(new, train, own, again)
                pipeline.train_held(lottery.ticket(net, {}), train, other, again)

    taken = take_turns({"one by one": one_by_one, "stack": stacked}, rounds=5)
    trainings = len(nets) * (1 + 3 * rounds)
    steps = trainings * epochs * len(train.y) // BATCH
    print(f"\nthe ticket experiment, {trainings} trainings of the MLP {SIZES}, one thread:")
    for name, seconds in taken.items():
        print(f"  {name:12} {1000 * statistics.median(seconds) / steps:5.2f} ms a network and step")
    print(f"  stack is {median_ratio(taken['one by one'], taken['stack']):.1f}× as fast")


def pruning() -> None:
    """One global ranking over ResNet-50's 25.5 million weights, ours beside torch's, and beside one
    read of the weights."""
    from torchvision.models import resnet50

    torch.set_num_threads(1)
    net = resnet50()
    state = net.state_dict()
    for sparsity in (0.5, 0.9):
        ratios = []
        for _ in tqdm(range(3), desc="turns", leave=False):
            fresh = resnet50()
            fresh.load_state_dict(state)
            pruned = [(m, "weight") for m in fresh.modules() if isinstance(m, layers.WEIGHTED)]
            start = time.perf_counter()
            keep = allocate.globally(criteria.magnitude(net), sparsity)
            middle = time.perf_counter()
            prune.global_unstructured(pruned, prune.L1Unstructured, amount=sparsity)
            ratios.append((time.perf_counter() - middle) / (middle - start))
            other = sum(
                int((keep[f"{n}.weight"] != m.weight_mask.bool()).sum())
                for n, m in fresh.named_modules()
                if isinstance(m, layers.WEIGHTED)
            )
        print(
            f"\nresnet50 to {masks.sparsity(keep):.0%}: allocate.globally(criteria.magnitude(model)) is "
            f"{statistics.median(ratios):.1f}× as fast as torch.nn.utils.prune.global_unstructured "
            f"(goal 5×; {other} weights, tied at the cut, chosen otherwise)"
        )
    _beside_one_read(net)


def _beside_one_read(net: torch.nn.Module) -> None:
    """The exact global mask in units of one read of the weights, with 1 thread and torch's default.
    One read counts the weights that are not zero; a sum, the fastest pass there is, and a copy are
    printed too: scores are as many numbers as the weights, and must at least be written."""
    warnings.simplefilter("ignore")  # at 90 % nothing is left of an untrained network's last layer
    weights = [p.detach() for p in net.parameters() if p.dim() > 1]
    contestants = {
        "read": lambda: [w.count_nonzero() for w in weights],
        "sum": lambda: [w.sum() for w in weights],
        "copy": lambda: [w.clone() for w in weights],
        "magnitude": lambda: criteria.magnitude(net),
        "mask": lambda: allocate.globally(criteria.magnitude(net), 0.9),
    }
    for threads in (1, THREADS):
        torch.set_num_threads(threads)
        taken = take_turns(contestants, rounds=15)
        middle = {name: statistics.median(seconds) for name, seconds in taken.items()}
        print(
            f"  {threads} thread(s): one read {1000 * middle['read']:.1f} ms; the exact mask at 90 % "
            f"takes {middle['mask'] / middle['read']:.1f} reads (goal 6), of which its scores "
            f"{middle['magnitude'] / middle['read']:.1f}; a copy takes "
            f"{middle['copy'] / middle['read']:.1f}, a sum {middle['sum'] / middle['read']:.1f}"
        )


def surgery() -> None:
    """Half of the channels: ResNet-18 beside Torch-Pruning; what it gains on the small networks."""
    import copy

    import torch_pruning as tp
    from torchvision.models import resnet18

    torch.set_num_threads(1)
    net, x = resnet18().eval(), torch.randn(1, 3, 224, 224)
    small: dict[str, torch.nn.Module] = {}

    def ours() -> None:
        graph = channels.trace(net, x)
        dead = channels.weakest(graph, channel_criteria.l1(net, graph), 0.5)
        small["ours"] = channels.remove(net, graph, dead)

    def theirs() -> None:  # cuts in place: the copy, which ours makes too, is part of the work
        mine = copy.deepcopy(net)
        pruner = tp.pruner.BasePruner(
            mine,
            x,
            importance=tp.importance.GroupMagnitudeImportance(p=1),
            pruning_ratio=0.5,
            ignored_layers=[mine.fc],
        )
        pruner.step()
        small["theirs"] = mine

    taken = take_turns({"ours": ours, "theirs": theirs}, rounds=5)
    size = {name: measure.count_parameters(model) for name, model in small.items()}
    print(
        f"\nresnet18, half of every layer's channels: trace + score + remove is "
        f"{median_ratio(taken['theirs'], taken['ours']):.1f}× as fast as Torch-Pruning "
        f"({statistics.median(taken['ours']):.2f} s; {size['ours']:,} and {size['theirs']:,} "
        "parameters left)"
    )
    print("\nhalf of the channels of each small network, 64 images of 14x14, one thread:")
    print(
        "  network   width  channels MACs     ms  after  products after  gain/MACs (goal 0.9) limit"
    )
    builders = (models.small_cnn, models.vgg, models.resnet, models.inception, models.mobilenet)
    for build in builders:
        for width in (1, 4, 16):
            _gain(build, width)
    print(
        "products: the share of the time in convolutions and linear layers, the layers whose MACs are\n"
        "counted. The rest (pooling, batch norm, ReLU, sums, dispatch) passes over memory: it halves\n"
        "with the channels at best, where MACs quarter. limit: what gain/MACs would be with that rest\n"
        "as measured, if products took time in proportion to their MACs. What is missing between the\n"
        "limit and 1 is the rest; what is missing below the limit is that small products use the\n"
        "processor less well."
    )


def _gain(build: Callable[..., torch.nn.Module], width: float) -> None:
    """Measured gain in time over gain in MACs of a half-channel cut, and what bounds it. In both
    memory layouts: pooling and batch norm are several times as fast with the channels last."""
    x = torch.randn(64, 1, 14, 14)
    whole = build(width=width).eval()
    graph = channels.trace(whole, x)
    dead = channels.weakest(graph, channel_criteria.l1(whole, graph), 0.5)
    half = channels.remove(whole, graph, dead).eval()
    macs = measure.macs(whole, x) / measure.macs(half, x)
    for name, layout in (("first", torch.contiguous_format), ("last", torch.channels_last)):
        images = x.to(memory_format=layout)
        before, products = _cpu_seconds(whole.to(memory_format=layout), images)
        after, products_after = _cpu_seconds(half.to(memory_format=layout), images)
        ratio = before / after / macs
        limit = before / (products / macs + after - products_after) / macs
        print(
            f"  {build.__name__:9} {width:5} {name:>5} {macs:5.1f} {1e3 * before:7.1f} "
            f"{1e3 * after:6.1f} {products / before:7.0%} {products_after / after:5.0%} "
            f"{ratio:7.2f} {limit:6.2f}"
        )


@torch.no_grad()
def _cpu_seconds(model: torch.nn.Module, x: torch.Tensor) -> tuple[float, float]:
    """CPU seconds of a forward pass, and those in convolutions and linear layers: the fastest of
    the passes that fit into half a second. (CPU time: a neighbour on the core does not count.)"""
    inside: list[float] = []

    def enter(*_: object) -> None:
        inside.append(-time.process_time())

    def leave(*_: object) -> None:
        inside[-1] += time.process_time()

    counted = (torch.nn.Conv2d, torch.nn.Linear)
    layers = [layer for layer in model.modules() if isinstance(layer, counted)]
    hooks = [layer.register_forward_pre_hook(enter) for layer in layers]
    hooks += [layer.register_forward_hook(leave) for layer in layers]
    passes: list[tuple[float, float]] = []
    while len(passes) < 5 or sum(total for total, _ in passes) < 0.5:
        inside.clear()
        start = time.process_time()
        model(x)
        passes.append((time.process_time() - start, sum(inside)))
    for hook in hooks:
        hook.remove()
    return min(passes)


def sparse() -> None:
    """Ten of the lessons' MLPs, one epoch: dense, under a held mask, and with a mask that moves every
    25 or 100 steps."""
    torch.set_num_threads(1)
    train, _ = data.load("glyphs", n_train=4 * IMAGES, n_test=1)
    nets = [models.mlp(SIZES, seed=seed) for seed in range(SEEDS)]
    keep = [allocate.per_layer(criteria.random(net, seed=0), 0.95) for net in nets]
    methods = {
        "SET": lambda: sparse_training.SET,
        "DSR": lambda: sparse_training.dsr(100),
        "SNFS": lambda: sparse_training.SNFS,
        "RigL": lambda: sparse_training.RIGL,
    }

    def trained(method: str | None, every: int) -> Callable[[], None]:
        def run() -> None:
            stack = ensemble.stack(nets)
            optimizer, held = training.sgd(stack), masks.stack(keep)
            if method == "held":
                masks.hold(optimizer, stack, held)
            elif method is not None:
                sparse_training.rewire(
                    optimizer,
                    stack,
                    held,
                    [methods[method]() for _ in nets],
                    fraction=lambda t: 0.3 if t % every == 0 else 0,
                )
            training.fit(stack, train, epochs=1, batch_size=BATCH, optimizer=optimizer)

        return run

    arms = {"dense": trained(None, 1), "mask held": trained("held", 1)}
    arms |= {f"{name}, every {n}": trained(name, n) for n in (25, 100) for name in methods}
    taken = take_turns(arms, rounds=5)
    count = len(train.y) // BATCH
    print(f"\n{SEEDS} MLPs {SIZES} at 95 %, {count} steps, one thread:")
    for name, seconds in taken.items():
        overhead = 100 * (median_ratio(seconds, taken["dense"]) - 1)
        print(
            f"  {name:16} {1000 * statistics.median(seconds) / count:6.2f} ms a step, "
            f"{overhead:+5.0f} % over dense"
        )


def quant() -> None:
    """8 bits and packed bits beside float32, one thread: a layer, and LeNet-300-100 whole."""
    torch.set_num_threads(1)
    for n in (256, 1024, 4096):
        layer = torch.nn.Sequential(torch.nn.Linear(n, n, bias=False))
        with torch.no_grad():
            layer[0].weight.copy_(torch.where(layer[0].weight >= 0, 1.0, -1.0))
        contestants = {
            "float32": layer,
            "int8": quantization.int8(layer),
            "packed": binary.PackedLinear(layer[0].weight),
        }
        for batch in (1, 64):
            _speed_ups(f"{n} × {n}, {batch} inputs", contestants, torch.randn(batch, n))
    net = binary.bnn((784, 300, 100, 10)).eval()
    lenet = models.lenet_300_100()
    contestants = {
        "float32": lenet,
        "int8": quantization.int8(lenet),
        "binarized, in float32": parametrized.folded(net),
        "packed": binary.packed(net),
    }
    for batch in (1, 64):
        x = torch.rand(batch, 1, 28, 28)
        with torch.no_grad():
            same = torch.equal(contestants["packed"](x), net(x))
        _speed_ups(
            f"LeNet-300-100, {batch} images (packed {'equal' if same else 'NOT EQUAL'} to float)",
            contestants,
            x,
        )


def _speed_ups(title: str, contestants: dict[str, torch.nn.Module], x: torch.Tensor) -> None:
    seconds = {n: s.median for n, s in measure.latency(contestants, x).items()}
    print(f"{title}: float32 {1000 * seconds['float32']:.3f} ms")
    for name in list(contestants)[1:]:
        print(f"  {name}: {seconds['float32'] / seconds[name]:.2f}× as fast")


def lowrank() -> None:
    """Layers of three sizes and their chains at a quarter of the weights: latency beside MACs."""
    from torch import nn

    torch.set_num_threads(1)
    print(
        "\na layer to a quarter of its weights, one thread: times fewer MACs, times as fast in CPU time"
    )
    for n in (64, 512, 2048):
        layer = nn.Linear(n, n)
        small = decomposition.svd(layer, decomposition.rank_by_budget(layer, 0.25, "svd"))
        for batch in (1, 64):
            _beside(f"linear {n}, batch {batch}", layer, {"SVD": small}, torch.randn(batch, n))
    for c, side in ((16, 14), (64, 28), (256, 14)):
        conv = nn.Conv2d(c, c, 3, padding=1)
        chains = {"separable": compact.separable(conv)}
        chains["Tucker"] = decomposition.tucker(
            conv, decomposition.rank_by_budget(conv, 0.25, "tucker")
        )
        rank = decomposition.rank_by_budget(conv, 0.25, "cp")
        chains["CP"] = decomposition.cp(conv, rank, iterations=1)  # its time is its shape's
        _beside(f"convolution {c}, {side}×{side}", conv, chains, torch.randn(8, c, side, side))


def _beside(
    name: str, layer: torch.nn.Module, chains: dict[str, torch.nn.Module], x: torch.Tensor
) -> None:
    seconds = {kind: _cpu_seconds(m.eval(), x)[0] for kind, m in {"layer": layer, **chains}.items()}
    gains = [
        f"{kind} {measure.macs(layer, x) / measure.macs(chain, x):.1f}× fewer, "
        f"{seconds['layer'] / seconds[kind]:.1f}× as fast"
        for kind, chain in chains.items()
    ]
    print(f"  {name:26} {1e3 * seconds['layer']:8.3f} ms; {'; '.join(gains)}")


def book() -> None:
    """A cold build of the book beside the seconds that its cells need."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "course"
        unwanted = shutil.ignore_patterns(".venv", ".git", "_build", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, copy, ignore=unwanted)
        build = [sys.executable, "book/build.py"]
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            subprocess.run(build, cwd=copy, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - start)
        timing = json.loads((copy / "book/_build/timing.json").read_text())
    cells = sum(notebook["seconds"] for notebook in timing.values())
    print(f"\nbook: cold build {seconds[0]:.0f} s; its cells run for {cells:.0f} s")
    print(f"  cold build / cells = {seconds[0] / cells:.2f}; nothing changed: {seconds[1]:.1f} s")
    for name, notebook in timing.items():
        print(f"  {name}: {notebook['seconds']:.0f} s")


def grader() -> None:
    """The black-box grader: seconds of computing per submission, stage by stage, and what follows.

    Seconds of computing, of this process and of the sandbox, hardly depend on what else the machine
    does. `tests/grading/many.py` measures whole runs, and kills them.
    """
    sys.path.insert(0, str(ROOT))
    from course_lib.grading import batch, blackbox, sandbox
    from course_lib.grading.extract import extract
    from tests.grading.many import USER, hand_in

    count, assignment = int(os.environ.get("COURSE_SUBMISSIONS", "100")), "criteria"
    torch.set_num_threads(1)
    plans = [blackbox.plan(exercise, 7) for exercise in batch.assignments()[assignment]]
    names = [plan.exercise.function for plan in plans]
    with tempfile.TemporaryDirectory() as folder, sandbox.Sandbox(user=(USER or [None])[-1]) as box:
        hand_in(Path(folder), count, assignment)
        files = sorted(Path(folder).glob("*/*/*.ipynb"))
        students = [int(path.parts[-3].removeprefix("student")) for path in files]
        # The others are mangled or hostile.
        whole = [path for path, student in zip(files, students, strict=True) if student % 3]
        start, read = time.process_time(), []
        for path in whole:
            read.append(extract(path.read_bytes(), names))
        stages = {"reading the notebook": time.process_time() - start}

        def forks() -> None:
            for _ in whole * len(plans):
                with box.fork():
                    pass

        stages["forks, and their ends"] = sum(_computed(box, forks))
        for plan in plans:
            outside, inside = _computed(
                box, lambda plan=plan: [blackbox.grade(box, plan, one) for one in read]
            )
            stages[f"{plan.exercise.name}: outside"] = outside
            stages[f"{plan.exercise.name}: inside"] = inside - stages[
                "forks, and their ends"
            ] / len(plans)
    total = sum(stages.values()) / len(whole)
    print(f"\ngrader: {len(whole)} submissions of {assignment}, {len(plans)} exercises each, warm")
    for stage, seconds in stages.items():
        print(f"  {stage}: {1000 * seconds / len(whole):.1f} ms of computing per submission")
    print(f"  {1 / total:.1f} submissions per second on one core; two cores have {2 / total:.0f}")


def _computed(box: object, work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of computing of this process and of a sandbox while ``work`` runs."""
    import psutil

    top = psutil.Process(box._process.pid)  # type: ignore

    def inside() -> float:
        times = [process.cpu_times() for process in (top, *top.children(recursive=True))]
        return sum(sum(t[:4]) for t in times)  # its own and that of its ended children

    outside, before = time.process_time(), inside()
    work()
    return time.process_time() - outside, inside() - before


LIVING = """async () => {
    const { data, current, settings, trainer } = playground;
    const median = (times) => times.sort((a, b) => a - b)[times.length >> 1];
    const took = async (n, act) => {
        const times = [];
        for (let k = 0; k < n; k++) {
            const before = performance.now();
            await act(k);
            times.push(performance.now() - before);
        }
        return median(times);
    };
    const image = data.test.images.subarray(0, 196);
    const slider = playground.part('sparsity');
    const moved = (k) => {
        slider.value = 0.5 + k / 200;
        slider.dispatchEvent(new Event('input', { bubbles: true }));
    };
    const options = { rate: settings.rates.cut.still, seed: 1 };
    const thread = () => trainer.epoch(current, options, () => {});
    const js = window.modules;
    return {
        '100 forward passes of one image': await took(9, () => {
            for (let k = 0; k < 100; k++) js.forward(current, image, 1);
        }),
        'accuracy on all test images': await took(9, () =>
            js.accuracy(current, data.test.images, data.test.labels)),
        'a step of the slider, to the end of painting': await took(40, moved),
        'an epoch on the page': await took(5, () =>
            js.epoch(js.copy(current), data.train, options)),
        'an epoch in the thread': await took(5, thread),
        'the file at 90 %': await took(5, () => js.coded(current, settings.fingerprint)),
    };
}"""


def living() -> None:
    """The living page in headless Chromium, from a file: its weight, and milliseconds by step."""
    from playwright.sync_api import sync_playwright

    from course_lib.teaching import playground

    text = playground.page()
    parts = {"all": text, "numbers": playground.packed(), "modules": playground.script()}
    print("\nkB:", {name: round(len(part.encode()) / 1000, 1) for name, part in parts.items()})
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "page.html"
        file.write_text(f"<!doctype html><title>Page</title>{text}", encoding="utf-8")
        path = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(file.as_uri())
        page.wait_for_selector(".playground[data-alive]")
        alive = page.evaluate("performance.now()")
        page.evaluate(
            """async (code) => {
            const blob = new Blob([code], { type: 'text/javascript' });
            window.modules = await import(URL.createObjectURL(blob));
        }""",
            playground.script(),
        )
        print(f"{alive:8.0f} ms until the page is alive")
        for name, milliseconds in page.evaluate(LIVING).items():
            print(f"{milliseconds:8.2f} ms for {name}")
        browser.close()


if __name__ == "__main__":
    parts = {
        "ensemble": stacked,
        "lottery": tickets,
        "prune": pruning,
        "channels": surgery,
        "sparse": sparse,
        "quant": quant,
        "lowrank": lowrank,
        "book": book,
        "grader": grader,
        "living": living,
    }
    for wanted in sys.argv[1:] or parts:
        parts[wanted]()
