"""Picture of the page that shows an instructor the class."""

import matplotlib.pyplot as plt

GREEN, ORANGE, EDGE = "#14694b", "#f4b57c", "#a1481d"
LOOKS = {
    "s": ("solved", {"facecolor": GREEN, "edgecolor": GREEN}),
    "p": (
        "right only on the inputs of check",
        {"facecolor": "white", "edgecolor": GREEN, "hatch": "/////"},
    ),
    "f": ("wrong", {"facecolor": ORANGE, "edgecolor": EDGE}),
    "e": ("empty", {"facecolor": "white", "edgecolor": "0.5", "linestyle": "--"}),
}
CLASS = {  # invented
    "exercise A": "sssssssssssssssffsse",
    "exercise B": "sssssssssssspsffffee",
    "exercise C": "ssssssspfffpfefsseee",
}


def class_overview() -> plt.Figure:
    """An invented class: a row for each exercise, a column for each student."""
    figure, axis = plt.subplots(figsize=(8.4, 2.9))
    students = sorted(zip(*CLASS.values(), strict=True), key=_points)
    for row, (name, states) in enumerate(zip(CLASS, zip(*students, strict=True), strict=True)):
        for column, state in enumerate(states):
            _field(axis, column, -1.3 * row, LOOKS[state][1])
        axis.text(-0.4, 0.45 - 1.3 * row, name, ha="right", va="center")
        axis.text(20.3, 0.45 - 1.3 * row, f"{states.count('s')} of 20", va="center")
    for place, (words, look) in zip((-1.6, 3, 13.2, 17.2), LOOKS.values(), strict=True):
        _field(axis, place, -4.2, look)
        axis.text(place + 1.1, -3.75, words, va="center", fontsize=11)
    axis.text(10, 1.5, "students, those with most points on the left", ha="center", fontsize=11)
    axis.set(xlim=(-4, 23.5), ylim=(-4.4, 2), aspect="equal")
    axis.axis("off")
    return figure


def _points(student: tuple[str, ...]) -> tuple[int, list[int]]:
    return -student.count("s"), [list(LOOKS).index(state) for state in student]


def _field(axis: plt.Axes, x: float, y: float, look: dict) -> None:
    axis.add_patch(plt.Rectangle((x, y), 0.86, 0.9, lw=1, **look))
