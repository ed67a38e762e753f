"""Pictures of lesson Motivation."""

import matplotlib.pyplot as plt

from course_lib import measure
from course_lib.teaching import plots

BLUE, VERMILION = plots.COLOURS[:2]


def energy_ladder() -> plt.Figure:
    """What one operation on 32 bits costs: arithmetic beside memory, logarithmic."""
    names = {
        "int add": "add two integers",
        "float add": "add two floats",
        "int multiply": "multiply two integers",
        "float multiply": "multiply two floats",
        "register": "read a register",
        "SRAM": "read memory on the chip (SRAM)",
        "DRAM": "read memory off the chip (DRAM)",
    }
    costs = {name: measure.PICOJOULES[key] for key, name in names.items()}
    figure, axis = plt.subplots(figsize=(8.4, 3.0))
    colours = [VERMILION if "read" in name else BLUE for name in costs]
    bars = axis.barh(list(costs), list(costs.values()), color=colours, height=0.62)
    for bar in bars[4:]:
        bar.set(hatch="//", edgecolor="white")
    for row, cost in enumerate(costs.values()):
        axis.text(cost * 1.15, row, f"{cost:g} pJ", va="center", fontsize=9.5)
    axis.set(xscale="log", xlim=(0.05, 3000), xlabel="energy, picojoules (45 nm process)")
    axis.invert_yaxis()
    axis.grid(False)
    return figure
