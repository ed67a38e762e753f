"""What the book's first page is made of: measured numbers to move through, the map, a self-test."""

import html
import statistics
from pathlib import Path

import nbformat
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from course_lib.teaching import page
from course_lib.teaching.quiz import Question, quiz
from course_lib.teaching.recorded import recorded_values
from course_lib.teaching.scrub import bars, scrub

NET = "LeNet-300-100"
STEPS = {  # what is done to the network -> the rows of the recorded run: error, times smaller
    "trained": ("error, dense, before pruning", None),
    "pruned": ("error after pruning", "times smaller on disk, P"),
    "weights shared": ("error, compressed", "times smaller on disk, P+Q"),
    "coded": ("error, compressed", "times smaller on disk, P+Q+H"),
}
OPPONENT = "small from the start"  # trained as long, shared and coded, but not pruned
SMALL = "70-23"  # its hidden layers


def deep(quantity: str) -> list[float]:
    """Return one quantity of the recorded run of Deep Compression, a value per seed."""
    return recorded_values("deepcompression2016", f"{NET}: {quantity}")


def compressed(step: str) -> tuple[str, str]:
    """Return the bars and the sentence of one step of Deep Compression, or of its small opponent."""
    mean = statistics.fmean
    dense = mean(deep("file, compressed")) * mean(deep("times smaller on disk, P+Q+H")) / 1000
    if step == OPPONENT:
        row, run = f"MNIST, 37 epochs: {SMALL}, not pruned", "long_deep_compression"
        error, now = (recorded_values(run, f"{row}, {what}") for what in ("error", "file"))
        now = mean(now) / 1000
        lead = f"A network with hidden layers of {SMALL.replace('-', ' and ')} units, not pruned"
    else:
        quantity, times = STEPS[step]
        error, now = deep(quantity), dense / (mean(deep(times)) if times else 1)
        lead = f"Step “{step}”"
    rows = {"file as trained": (dense, f"{dense:,.0f} kB"), "file now": (now, f"{now:,.0f} kB")}
    smaller = f", {dense / now:.0f} times less than the large one's" if now < dense else ""
    sentence = (
        f"{lead}: the file has {now:,.0f} kB{smaller}; the network reads "
        f"{100 - mean(error):.1f} % of the test images right."
    )
    return bars(rows, top=dense), sentence


class FirstWidget(SphinxDirective):
    """`{first-widget}`: how small the file of a network on MNIST becomes, and what that costs."""

    def run(self) -> list[nodes.Node]:
        """Show one frame for each step."""
        for run in ("deepcompression2016", "long_deep_compression"):
            self.env.note_dependency(f"book/reproductions/{run}.json")
        networks = len(deep("file, compressed"))
        title = f"Measured on MNIST, mean of {networks} networks: choose how far to go"
        steps = [*STEPS, OPPONENT]
        shown = scrub("first", title, {"step": steps}, compressed, start={"step": "coded"})
        return [nodes.raw("", shown.data, format="html")]


# --- The lessons -----------------------------------------------------------------------------------


def lessons(directive: SphinxDirective) -> dict[str, dict]:
    """Return name -> title, minutes and needs of every lesson, in reading order."""
    found = {}
    for docname in directive.env.external_site_map:  # book/_toc.yml, as it was read
        if docname.startswith("notebooks/"):
            directive.env.note_dependency(f"{docname}.ipynb")
            notebook = nbformat.read(directive.env.doc2path(docname), as_version=4)
            title = notebook.cells[0].source.splitlines()[0].removeprefix("# ")
            found[Path(docname).name] = {"title": title} | notebook.metadata["course"]
    return found


def spoken(name: str) -> str:
    """Return a lesson's name as pages write it: Prune rate for prune-rate."""
    return name.replace("-", " ").capitalize()


def duration(minutes: int) -> str:
    """Return a time as one would say it.

    Examples:
        >>> duration(50), duration(95), duration(210)
        ('50 minutes', 'about 1½ hours', 'about 3½ hours')
    """
    if minutes < 75:
        return f"{minutes} minutes"
    whole, half = divmod(round(minutes / 30), 2)
    return f"about {whole}{'½' * half} hours"


def link(name: str) -> str:
    """Return a link from the first page to a lesson."""
    return f'<a href="../notebooks/{name}.html">{spoken(name)}</a>'


def places(found: dict[str, dict]) -> dict[str, tuple[int, int]]:
    """Return where each lesson stands, (row, column): right of all it needs, below its siblings.

    Examples:
        >>> places({"a": {"needs": []}, "b": {"needs": ["a"]}, "c": {"needs": ["a"]}})
        {'a': (0, 0), 'b': (0, 1), 'c': (1, 1)}
    """
    column = {}
    for name, lesson in found.items():  # in reading order, so what a lesson needs has its place
        column[name] = 1 + max((column[need] for need in lesson["needs"]), default=-1)
    placed, rows = {}, iter(range(len(found)))

    def put(name: str) -> None:
        children = [child for child, lesson in found.items() if parent(lesson, column) == name]
        for child in children:
            put(child)
        row = placed[children[0]][0] if children else next(rows)
        placed[name] = (row, column[name])

    for name, lesson in found.items():
        if not lesson["needs"]:
            put(name)
    return {name: placed[name] for name in found}


def parent(lesson: dict, column: dict[str, int]) -> str | None:
    """Return the lesson that stands directly before this one: of those it needs, the last."""
    return max(lesson["needs"], key=column.get, default=None)


class CourseMap(SphinxDirective):
    """`{course-map}`: the lessons as a list that is drawn as a graph, with what is done."""

    def run(self) -> list[nodes.Node]:
        """Lay out the list; the page's script adds what the reader has done."""
        found = lessons(self)
        where = places(found)
        column = {name: at[1] for name, at in where.items()}
        size = [1 + max(at[axis] for at in where.values()) for axis in (0, 1)]
        lines = []
        for name, lesson in found.items():
            if before := parent(lesson, column):
                (y0, x0), (y1, x1) = where[before], where[name]
                middle = 100 * x1
                lines.append(
                    f"M{100 * x0 + 50} {100 * y0 + 50}H{middle}V{100 * y1 + 50}H{100 * x1 + 50}"
                )
        items = "\n".join(self.item(name, lesson, *where[name]) for name, lesson in found.items())
        drawn = (
            f'<svg aria-hidden="true" viewBox="0 0 {100 * size[1]} {100 * size[0]}" '
            f'preserveAspectRatio="none"><path d="{"".join(lines)}"></path></svg>'
        )
        return [
            nodes.raw(
                "",
                '<div class="course-map" data-course="map">\n'
                f'<div class="graph" style="--columns:{size[1]}">{drawn}\n'
                f'<ol role="list" aria-label="The lessons">\n{items}\n</ol></div>\n</div>',
                format="html",
            )
        ]

    def item(self, name: str, lesson: dict, row: int, column: int) -> str:
        """Return one lesson as an item of the list."""
        needs = ", ".join(map(spoken, lesson["needs"])) or "no other lesson"
        return (
            f'<li data-lesson="{name}" data-minutes="{lesson["minutes"]}" '
            f'style="--place:{row + 1}/{column + 1}">{link(name)} '
            f"<span>{lesson['minutes']} min</span> "
            f'<span class="more">{html.escape(lesson["title"])}. It needs {needs}.</span> '
            '<span class="state"></span></li>'
        )


class CoursePath(SphinxDirective):
    """`{course-path} A name`: lessons to read one after the other; without a body, all of them."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Write the name, the time and the links in one paragraph."""
        found = lessons(self)
        names = " ".join(self.content).split() or list(found)
        time = duration(sum(found[name]["minutes"] for name in names))
        listed = ", ".join(map(link, names)) if self.content else f"all {len(found)} lessons"
        words = f"<p><strong>{self.arguments[0]}</strong> ({time}): {listed}.</p>"
        return [nodes.raw("", words, format="html")]


# --- What a reader should know ---------------------------------------------------------------------

TUTORIAL = (
    'a tutorial of PyTorch, such as <a href="https://pytorch.org/tutorials/beginner/basics/intro.html">'
    "Learn the Basics</a>"
)
NOTATION = 'the page <a href="notation.html">Notation and conventions</a>'
MOTIVATION = 'the lesson <a href="../notebooks/motivation.html">Motivation</a>'
APPROACHES = 'the lesson <a href="../notebooks/approaches.html">Approaches</a>'
CRITERIA = 'the lesson <a href="../notebooks/criteria.html">Criteria</a>'
SELF_TEST = (  # question, and what to read for it
    (
        Question(
            "A linear layer has 3 inputs and 2 outputs, and a bias. How many parameters does it have?",
            [
                ("5, one for each input and each output", "Every input is joined to every output."),
                ("8", "3 × 2 weights and 2 biases."),
                ("6, one for each pair of input and output", "The two biases are missing."),
            ],
            1,
        ),
        TUTORIAL,
    ),
    (
        Question(
            "`w` is `[3., -1., 2.]` and `keep` is `[True, False, True]`. What is `w * keep`?",
            [
                ("`[3., 0., 2.]`", "True counts as 1 and False as 0."),
                ("`[3., 2.]`", "That is `w[keep]`: it chooses. A product keeps the shape."),
                (
                    "An error: numbers cannot be multiplied by truth values",
                    "PyTorch takes True for 1.",
                ),
            ],
            0,
        ),
        TUTORIAL,
    ),
    (
        Question(
            "The derivative of the loss by a weight is positive. What does a step of gradient descent do?",
            [
                ("It makes the weight larger", "Then the loss would grow."),
                ("It sets the weight to zero", "It moves a little, against the derivative."),
                ("It makes the weight smaller", "It moves against the derivative."),
            ],
            2,
        ),
        TUTORIAL,
    ),
    (
        Question(
            "You try ten learning rates. With which images do you choose the best one?",
            [
                (
                    "With training images that were set aside",
                    "The test images stay unseen until the end.",
                ),
                (
                    "With the test images, because they were not trained on",
                    "Then the choice has seen them.",
                ),
                (
                    "With the images that the network was trained on",
                    "They do not show what is new.",
                ),
            ],
            0,
        ),
        TUTORIAL,
    ),
    (
        Question(
            "Five networks reach 94.1 ± 0.3 % (mean ± sd). What does the 0.3 say?",
            [
                (
                    "All five lie within 0.3 points of the mean",
                    "Single networks may lie further away.",
                ),
                (
                    "How far single networks typically lie from the mean",
                    "It is the standard deviation.",
                ),
                (
                    "How far the five are from the best possible network",
                    "It compares the five with each other.",
                ),
            ],
            1,
        ),
        NOTATION,
    ),
    (
        Question(
            "An interval of 95 % for the difference of two methods reaches from −0.4 to 1.2 points. "
            "What follows?",
            [
                (
                    "The first method is better, because most of the interval lies above 0",
                    "0 is inside as well.",
                ),
                (
                    "The two methods are equally good, because 0 is inside",
                    "1.2 points are possible too.",
                ),
                ("Neither is shown to be better", "Differences of both signs fit the data."),
            ],
            2,
        ),
        NOTATION,
    ),
    (
        Question(
            "A 100 × 50 matrix is the product of a column of 100 numbers and a row of 50. How many "
            "numbers store it?",
            [
                ("5,000, since it has so many entries", "All of them follow from fewer numbers."),
                ("150", "The column and the row say everything."),
                ("50, since its rank is at most 50", "Its rank is 1, and it needs both factors."),
            ],
            1,
        ),
        APPROACHES,
    ),
    (
        Question(
            "How many bytes do a million weights take in float32?",
            [
                ("32 million, one for each bit", "A byte has 8 bits."),
                ("1 million, one byte for each weight", "That would be 8 bits for each weight."),
                ("4 million", "32 bits are 4 bytes."),
            ],
            2,
        ),
        MOTIVATION,
    ),
)


class SelfTest(SphinxDirective):
    """`{self-test}`: eight questions, and a sentence that says where to start."""

    def run(self) -> list[nodes.Node]:
        """Ask them as a quiz; the page's script counts the first choices."""
        asked = quiz(*(question for question, _ in SELF_TEST)).data
        table = {"advice": [where for _, where in SELF_TEST], "start": CRITERIA}
        rule = (
            "<p>Count the questions that you got right at once. With all eight you can start with "
            f"{CRITERIA}. If one of the first four was wrong, begin with {TUTORIAL}; if the fifth or "
            f"sixth was wrong, read {NOTATION}; for the last two, read {APPROACHES} and {MOTIVATION}.</p>"
        )
        shown = (
            f'<div class="course-self-test" data-course="selfTest">\n{asked}\n'
            f'<div class="advice" role="status">{rule}</div>\n{page.data(table)}\n</div>'
        )
        return [nodes.raw("", shown, format="html")]


def setup(app: Sphinx) -> dict:
    """Register the directives."""
    for name, directive in (
        ("first-widget", FirstWidget),
        ("course-map", CourseMap),
        ("course-path", CoursePath),
        ("self-test", SelfTest),
    ):
        app.add_directive(name, directive)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
