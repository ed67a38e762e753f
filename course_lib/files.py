"""Files that are written whole or not at all: under another name first, then put in place."""

import io
import os
from pathlib import Path
from typing import Any

import torch


def write(path: str | Path, data: bytes) -> None:
    """Write the bytes. Even after an interruption, the path has the old file or the new one."""
    unfinished = Path(f"{path}.part")
    try:
        unfinished.write_bytes(data)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def save(path: str | Path, state: Any) -> None:
    """Write tensors in plain containers as ``torch.save`` does, whole or not at all.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/state", {"weight": torch.ones(2)})
        ...     load("path", f"{folder}/state")
        {'weight': tensor([1., 1.])}
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write(path, buffer.getvalue())


def load(argument: str, path: str | Path, device: torch.device | str = "cpu") -> Any:
    """Read what ``save`` wrote, onto a device. Nothing in the file is executed.

    Args:
        argument: what error messages call the path.

    Raises:
        FileNotFoundError, PermissionError: there is no such file, or it may not be read.
        ValueError: the file is empty, cut off or of another kind.
    """
    try:
        return torch.load(path, weights_only=True, map_location=device)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # torch raises half a dozen kinds, by where the file is cut
        raise ValueError(
            f"{argument} {str(path)!r} cannot be read: it is cut off, damaged or of another kind"
        ) from error
