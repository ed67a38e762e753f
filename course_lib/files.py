"""Files that are whole or not there: written beside the old one, then put in its place."""

import io
import os
from pathlib import Path
from typing import Any

import torch


def write(path: str | Path, data: bytes) -> None:
    """Write the bytes. A reader sees the old file or the new one, never half of one; also after an
    interruption."""
    unfinished = Path(f"{path}.part")
    try:
        unfinished.write_bytes(data)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def save(path: str | Path, state: Any) -> None:
    """Write tensors in plain containers, as ``torch.save`` does, in one piece."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write(path, buffer.getvalue())


def load(argument: str, path: str | Path, device: torch.device | str = "cpu") -> Any:
    """Read what ``save`` wrote, onto a device. Nothing in the file is executed.

    Raises:
        FileNotFoundError, PermissionError: there is no such file, or it may not be read.
        ValueError: the file is empty, cut off or of another kind; names ``argument`` and the path.
    """
    try:
        return torch.load(path, weights_only=True, map_location=device)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # torch raises half a dozen kinds, by where the file is cut
        raise ValueError(
            f"{argument} {str(path)!r} cannot be read: it is cut off, damaged or of another kind"
        ) from error
