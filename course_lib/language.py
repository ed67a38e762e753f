"""Small language models: how they are trained, and fifteen that come with the course, ready to prune.

Nobody trains a language model in order to prune it once; one loads it. ``trained`` does so. Model
number 0 to 4 has a grammar, a text, initial weights and an order of its own, so five models are
five independent runs.
"""

import io
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import data, files, models, seeds, training
from course_lib.data import Grammar, Text, check_counts, check_positive, check_text
from course_lib.pruning import masks
from course_lib.pruning.masks import Masks

WORDS, LENGTH = 94, 32  # of each grammar; per row
TRAIN, TEST = 25_600, 600  # rows
BATCH, WARM_UP, RATE = 16, 20, 0.01  # rows per step, steps, the highest learning rate
STEPS = TRAIN // BATCH  # one pass
WIDTHS = (64, 48, 32)
HERE = Path(__file__).parent / "checkpoints"  # {width}-{seed}.npz, in float16


def texts(seed: int) -> tuple[Text, Text]:
    """A text to train on, 25,600 rows of 32 words, and one to test on, 600 rows: both of one grammar.

    Raises:
        TypeError: a seed that is not an integer.

    Examples:
        >>> train, test = texts(0)
        >>> train.tokens.shape, round(-test.log_p.mean().item(), 1)  # the floor, in nats per word
        (torch.Size([25600, 33]), 1.8)
    """
    grammar = Grammar(seed)
    train, test = (
        grammar.sample(n, LENGTH, seed=2 * seed + i) for i, n in enumerate((TRAIN, TEST))
    )
    return train, test


def train(
    model: nn.Module,
    text: Text,
    *,
    steps: int,
    seed: int = 0,
    rate: float = RATE,
    keep: Masks | None = None,
) -> training.History:
    """Train a language model in place, with the loop of all lessons (``training.fit``).

    AdamW with weight decay 0.1 takes minibatches of 16 rows. Its learning rate rises for 20 steps
    and then falls to 0. The gradient is cut to a norm of at most 1 (Pascanu et al. 2013).

    Args:
        model: (n, t) words -> (n, t, vocabulary) logits.
        steps: how many minibatches. A text with fewer is read again in another order.
        seed: sets the order of the rows.
        rate: the highest learning rate.
        keep: masks; what they remove is zero and stays zero.

    Raises:
        ValueError: a count below 1, a rate that is not positive, a text that does not fit the model,
            or masks that do not.
        TypeError: ``text`` is no ``data.Text``.

    Examples:
        >>> text = Grammar(0).sample(400, 32, seed=0)
        >>> model = models.tiny_transformer(94)
        >>> history = train(model, text, steps=50)
        >>> bool(history.loss[-1] < math.log(94))  # it has learnt something
        True
    """
    check_text(text)
    check_counts(steps=steps)
    check_positive("rate", rate)
    split = text.split()
    epochs = math.ceil(steps / math.ceil(len(split.x) / BATCH))
    whole = epochs * math.ceil(len(split.x) / BATCH)  # fit counts its fractions in whole epochs

    def schedule(t: float) -> float:
        done = t * whole
        return max(0.0, min((done + 1) / WARM_UP, 1 - done / steps))

    def loss(logits: Tensor, rows: Tensor) -> Tensor:
        words = split.y[rows].flatten()
        return F.cross_entropy(logits.reshape(len(words), -1), words)

    def optimizer(net: nn.Module) -> torch.optim.Optimizer:
        made = training.adamw(net, lr=rate)
        made.register_step_pre_hook(lambda *_: _clip(net))
        if keep is not None:
            masks.apply(model, keep)
            masks.hold(made, model, keep)
        return made

    plan = training.Plan(
        epochs=epochs,
        batch_size=BATCH,
        seed=seed,
        schedule=schedule,
        loss=loss,
        optimizer=optimizer,
        last=steps,
    )
    # fit knows one row of numbers per example: the logits of all words of a row, side by side.
    return training.fit(nn.Sequential(model, nn.Flatten(1)), split, plan)


def trained(seed: int, *, width: int = 64) -> models.Transformer:
    """A transformer that has read the text of ``texts(seed)`` once: 1,600 steps.

    Those of seeds 0 to 4 come with the course, in float16, with 64, 48 or 32 numbers per word. Any
    other seed, and all under a ``COURSE_OFFSET``, are trained here (a quarter of a minute) and kept
    in the user's cache folder.

    Args:
        width: numbers per word. The smaller two have about the bytes of the large one at 50 % and
            at 80 % sparsity.

    Raises:
        ValueError: another width.
        TypeError: a seed that is not an integer.

    Examples:
        >>> from course_lib import measure
        >>> _, test = texts(0)
        >>> gap = measure.nats(trained(0), test) + test.log_p.mean().item()
        >>> 0 < gap < 0.06  # nats per word above the floor
        True
    """
    if type(width) is not int or width not in WIDTHS:
        raise ValueError(f"width must be one of {', '.join(map(str, WIDTHS))}, got {width!r}")
    model = models.tiny_transformer(WORDS, width=width, context=LENGTH, seed=seed)
    path = HERE / f"{width}-{seed}.npz"
    if seeds.offset() or not path.exists():
        path = _cache() / f"{width}-{seeds.shifted(seed)}.npz"
    if not path.exists():
        train(model, texts(seed)[0], steps=STEPS, seed=seed)
        save(path, training.snapshot(model))
    with np.load(path) as stored:
        model.load_state_dict({name: torch.from_numpy(stored[name]).float() for name in stored})
    return model


def save(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a state_dict in float16, as ``trained`` reads it."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: t.half().numpy() for name, t in state.items()}
    np.savez_compressed(buffer, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, buffer.getvalue())


def _clip(net: nn.Module) -> None:
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)


def _cache() -> Path:
    """The folder of this recipe: where a file that it consists of changes, it is another one."""
    recipe = b"".join(Path(str(m.__file__)).read_bytes() for m in (data, models, training))
    recipe += Path(__file__).read_bytes()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "course_lib" / f"{zlib.crc32(recipe):08x}"
