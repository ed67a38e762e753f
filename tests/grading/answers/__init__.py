"""Answers to every exercise: right ones in several styles, and the mistakes that people make.

`RIGHT[exercise]` lists functions; `WRONG[exercise]` pairs a function with words from the property
that must be the first to refuse it; `HUNTS[exercise]` holds what a bug hunt must tell apart: a weak
test, a wrong function that passes it, and a good judge.
"""

from . import (
    approaches,
    channel_criteria,
    criteria,
    deep_compression,
    distillation,
    history,
    lottery,
    motivation,
    pipeline,
    prune_rate,
    quantization,
    sparse_training,
    structured,
)

LESSONS = (
    motivation,
    approaches,
    criteria,
    prune_rate,
    history,
    pipeline,
    structured,
    lottery,
    distillation,
    sparse_training,
    channel_criteria,
    deep_compression,
    quantization,
)
RIGHT = {name: answers for lesson in LESSONS for name, answers in lesson.RIGHT.items()}
WRONG = {name: answers for lesson in LESSONS for name, answers in lesson.WRONG.items()}
HUNTS = {name: hunt for lesson in LESSONS for name, hunt in lesson.HUNTS.items()}
