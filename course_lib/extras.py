"""The extra ``lessons``: packages that lessons need and the methods do not."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lessons() -> Iterator[None]:
    """Imports inside the block may be missing; then the error says how to install them.

    Raises:
        ImportError: a package of the extra is not installed.

    Examples:
        >>> with lessons():
        ...     import no_such_package
        Traceback (most recent call last):
        ImportError: no_such_package is missing: pip install "course_lib[lessons]"
    """
    try:
        yield
    except ModuleNotFoundError as error:
        needed = f'{error.name} is missing: pip install "course_lib[lessons]"'
        raise ImportError(needed, name=error.name) from error
