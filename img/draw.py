"""Draw every picture of this folder: ``python img/draw.py``.

Each public function of the other modules here draws one picture and is named as it is. The pictures
explain ideas; they hold no measurement. They are drawn on white, and the book's style inverts them
in dark mode.
"""

import runpy
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt

from course_lib.teaching import plots

HERE = Path(__file__).parent


def write(folder: Path) -> None:
    """Draw all pictures into ``folder``."""
    plots.use_style()
    for module in sorted(HERE.glob("*.py")):
        if module.name == "draw.py":
            continue
        for name, draw in runpy.run_path(str(module), run_name=module.stem).items():
            if getattr(draw, "__module__", "") == module.stem and not name.startswith("_"):
                figure = draw()
                text = plots.drawn(figure)
                (folder / f"{name.replace('_', '-')}.svg").write_text(text, encoding="utf-8")
                plt.close(figure)


if __name__ == "__main__":
    write(HERE)
