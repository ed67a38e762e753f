"""Gates in JupyterLab: "Run All" shows a bar to click where the page hides what gives an answer away.

JupyterLab tells the kernel the tags of the cell that it runs. In a cell tagged ``gated``, a bar comes
before the cell's outputs, and a style sheet hides them until the reader has predicted or opens the bar.
(The metadata ``outputs_hidden`` cannot do this: JupyterLab shows the outputs of a cell that it runs.)
The build of the book and other notebooks send no tags, and get no bars.
"""

from typing import Any

from IPython.core.getipython import get_ipython
from IPython.display import HTML, display

_PREDICTED = ".jp-Notebook:has(.course-predict :checked)"
_AREA = ".jp-OutputArea-child"
BAR = f"""\
<style>
.course-gate summary {{ border: 1px solid color-mix(in srgb, currentColor 30%, transparent); border-radius: 6px;
  cursor: pointer; padding: 10px 12px; }}
{_AREA}:has(.course-gate:not([open])) ~ {_AREA} {{ display: none; }}
{_PREDICTED} {_AREA}:has(.course-gate) {{ display: none; }}
{_PREDICTED} {_AREA}:has(.course-gate) ~ {_AREA} {{ display: flex; }}
</style>
<details class="course-gate"><summary>Predict first, or just show me</summary></details>"""


def close_gated() -> None:
    """From now on, put the bar before the outputs of every gated cell that this notebook runs."""
    shell = get_ipython()
    if shell is not None:
        shell.events.register("pre_run_cell", _bar)


def _bar(info: Any) -> None:
    parent = getattr(get_ipython(), "get_parent", dict)()
    if "gated" in parent.get("metadata", {}).get("tags", []):
        display(HTML(BAR))
