"""One table and one figure of everything that was recorded at LeNet-300-100 on MNIST."""

import statistics
from typing import NamedTuple

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from course_lib.teaching import plots
from course_lib.teaching.recorded import FOLDER, recorded_values

MARKERS = "osD^vPX*<>p"
SMALLEST = "Fewer weights, longer"  # the setting of the smallest file


class Point(NamedTuple):
    """One measurement: the recorded run, its row, and the percentage of the weights that are left."""

    run: str
    row: str
    left: float | str  # a row of the run: "times fewer", "weights left" or "sparsity"


DENSE = {  # run -> the dense network beside its other arms, trained as long where there is such a row
    "han2015": "test error, dense, as many epochs as the pruned one",
    "deepcompression2016": "LeNet-300-100: error, dense, trained as long",
    "snip2019": "test error, dense",
    "sparse_training": "dense",
    "savarese2020": "accuracy, dense",
    "variational2017": "error, dense",
    "smallest": f"{SMALLEST}: error, dense, as many epochs",
    "lc2018": "test error, dense, trained on",
}
EVERY = {
    "dense": [Point("han2015", DENSE["han2015"], 100)],
    "magnitude, in rounds": [
        Point("deepcompression2016", "LeNet-300-100: error after pruning", 10),
        Point("han2015", "test error, pruned", "times fewer weights"),
    ],
    "SNIP, before training": [
        Point("snip2019", f"test error, SNIP, {s}%", 100 - s) for s in (95, 98)
    ],
    "static mask, Erdős–Rényi": [
        Point("sparse_training", f"static, {s}% of the weights removed", 100 - s)
        for s in (90, 95, 98)
    ],
    "SET": [
        Point("sparse_training", f"SET, {s}% of the weights removed", 100 - s) for s in (90, 95, 98)
    ],
    "RigL": [
        Point("sparse_training", f"RigL, {s}% of the weights removed", 100 - s)
        for s in (90, 95, 98)
    ],
    "L1, then without": [Point("lc2018", "test error, L1, cut, last quarter without", 5)],
    "LC with multipliers": [Point("lc2018", "test error, LC with multipliers", 5)],
    "variational dropout": [Point("variational2017", "error after the cut", "times fewer weights")],
    "gates": [Point("savarese2020", "accuracy, gates", "sparsity of every arm but the dense")],
    "gates, in the smallest file": [
        Point(
            "smallest",
            f"{SMALLEST}: error of the network in the file",
            f"{SMALLEST}: weights left",
        )
    ],
}
METHODS = {  # those whose runs are recorded
    name: points
    for name, points in EVERY.items()
    if all((FOLDER / f"{point.run}.json").exists() for point in points)
}


def error(point: Point) -> list[float]:
    """Return the error of each seed in percent."""
    values = recorded_values(point.run, point.row)
    accuracy = "error" not in point.row  # rows of accuracies name the method alone
    return [100 - v if accuracy else v for v in values]


def left(point: Point) -> float:
    """Return the mean percentage of the weights that are left."""
    if not isinstance(point.left, str):
        return point.left
    mean = statistics.fmean(recorded_values(point.run, point.left))
    if "times fewer" in point.left:
        return 100 / mean
    return 100 - mean if "sparsity" in point.left else mean


def figure() -> plt.Figure:
    """Draw the error against the weights left, a marker and a dash for each method."""
    plots.use_style()
    drawn, axis = plt.subplots(figsize=(6.4, 5.2))
    for number, (name, points) in enumerate(METHODS.items()):
        x, y = [left(p) for p in points], [error(p) for p in points]
        spread = [statistics.stdev(v) if len(v) > 1 else 0 for v in y]
        axis.errorbar(
            x,
            [statistics.fmean(v) for v in y],
            spread,
            label=name,
            marker=MARKERS[number],
            capsize=3,
        )
    (dense,) = METHODS["dense"]
    axis.axhline(statistics.fmean(error(dense)), color=plots.COLOURS[0], linewidth=0.8)
    axis.set(xscale="log", xlabel="weights left, % (fewer to the right)", ylabel="test error, %")
    axis.set_xticks([100, 50, 20, 10, 5, 2, 1], labels=["100", "50", "20", "10", "5", "2", "1"])
    axis.minorticks_off()
    axis.invert_xaxis()
    drawn.legend(loc="outside lower center", ncols=2)
    return drawn


def rows(env) -> list[tuple]:
    """Return the table, header first, from the most weights to the fewest."""
    found = []
    for name, points in METHODS.items():
        for point in points:
            kept, dense = left(point), Point(point.run, DENSE[point.run], 100)
            found.append((kept, name, error(point), error(dense), point.run))
    found.sort(key=lambda row: -row[0])
    head = ("Method and run", "Weights left", "Test error", "Dense, same run", "Seeds")
    return [
        head,
        *(
            (link(name, run), f"{kept:.3g} %", f"{spelled(e)} %", f"{spelled(d)} %", len(e))
            for kept, name, e, d, run in found
        ),
    ]


def spelled(values: list[float]) -> str:
    """Return mean ± standard deviation, to two decimals."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{deviation}"


def link(name: str, run: str) -> nodes.reference:
    """Return a method's name, which leads to the run's section of the same page."""
    return nodes.reference("", name, refid=run, internal=True)


def alt() -> str:
    """Return what the figure shows, in sentences."""
    means = {
        name: [(left(p), statistics.fmean(error(p))) for p in points]
        for name, points in METHODS.items()
    }
    said = "; ".join(
        f"{name}: " + ", ".join(f"{e:.2f} % at {x:.3g} % of the weights" for x, e in points)
        for name, points in means.items()
    )
    return f"Test error against the weights left, a marker for each method. {said}."


class Overview(SphinxDirective):
    """`{lenet-300-100}`: the figure, and the table under it."""

    def run(self) -> list[nodes.Node]:
        """Draw from the recorded runs."""
        import course

        self.env.note_dependency("book/reproductions")  # its time changes when a run comes or goes
        for points in METHODS.values():
            for point in points:
                self.env.note_dependency(f"book/reproductions/{point.run}.json")
        picture = plots.show(figure(), alt=alt())
        return [nodes.raw("", picture.data, format="html"), course.table_of(rows(self.env))]


def setup(app) -> None:
    """Register the directive."""
    app.add_directive("lenet-300-100", Overview)
