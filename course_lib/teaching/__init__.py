"""What a lesson page needs besides the methods: figures, widgets, claims, quizzes, shown source."""

import ast
import inspect
import textwrap
from collections.abc import Callable

from IPython.display import Markdown

from course_lib.teaching.bill import bill, table

__all__ = ["bill", "setup", "source", "table"]


def setup() -> None:
    """Make a notebook ready for class: one thread, the figures' style, a warm optimizer.

    One thread because small networks gain little from two, and lose tenfold when another job wants
    the second core. The first optimizer step of a process imports for over a second; better now
    than while a class watches the first training.
    """
    import warnings

    import torch

    from course_lib import models, training
    from course_lib.teaching import plots

    torch.set_num_threads(1)
    plots.use_style()
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
    # torch.func.hessian imports code of torch's own that torch warns about.
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")
    training.sgd(models.mlp((2, 2)))


def source(function: Callable) -> Markdown:
    """The code of a function as it stands in the library, without its docstring.

    Lessons show code this way and never paste it, so that a page cannot drift from the library.
    """
    code = textwrap.dedent(inspect.getsource(function))
    nodes = ast.walk(ast.parse(code))
    first, *rest = next(n for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)).body
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and rest:
        lines = code.splitlines(keepends=True)
        code = "".join(lines[: first.lineno - 1] + lines[first.end_lineno :])
    return Markdown(f"```python\n{code.rstrip()}\n```")
