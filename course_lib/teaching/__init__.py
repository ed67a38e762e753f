"""What a lesson page needs besides the methods: figures, widgets, claims, quizzes, source code."""

from collections.abc import Callable

from course_lib.extras import lessons

with lessons():  # each module of this package needs some of them
    import anywidget  # noqa: F401
    import matplotlib  # noqa: F401
    import PIL  # noqa: F401
    import scipy  # noqa: F401
    from IPython.display import Markdown

from course_lib.exercises.exercise import code_of
from course_lib.teaching.beside import beside
from course_lib.teaching.bill import bill, table
from course_lib.teaching.puzzles import order_lines, wrong_line
from course_lib.teaching.recorded import recorded, recorded_values

__all__ = [
    "beside",
    "bill",
    "order_lines",
    "recorded",
    "recorded_values",
    "setup",
    "source",
    "table",
    "wrong_line",
]


def setup() -> None:
    """Prepare a notebook for class: one thread, the style of the figures, a first optimizer.

    Small networks gain little from a second thread, and they slow down tenfold when another job
    wants the second core. The first optimizer of a process imports modules for over a second, which
    a class should not have to watch.
    """
    import logging
    import warnings

    import torch

    from course_lib import models, training
    from course_lib.teaching import gates, plots

    torch.set_num_threads(1)
    plots.use_style()
    gates.close_gated()
    # CUDA's files on a machine without a GPU are nothing that a class should be warned of.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
    # torch.func.hessian imports code of torch's own that torch warns about.
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")
    training.sgd(models.mlp((2, 2)))


def source(function: Callable) -> Markdown:
    """The code of a function of the library, without its docstring, as a code block on the page.

    Lessons show code this way and never paste it, so a page always shows the code that runs.

    Examples:
        >>> from course_lib.pruning import masks
        >>> print(source(masks.stack).data)
        ```python
        def stack(...
    """
    return Markdown(f"```python\n{code_of(function)}\n```")
