"""The exercises that ``grading.check`` knows. A lesson and its module have the same name.

Each is an ``Exercise``: its cases, and its properties from the returned type to the finest point. The puzzles on
the pages are made from the same functions.
"""

from course_lib.exercises import (
    approaches,
    bayesian,
    channel_criteria,
    channel_sets,
    criteria,
    deep_compression,
    distillation,
    history,
    language_models,
    lottery,
    motivation,
    objective,
    pipeline,
    practical,
    prune_rate,
    quantization,
    shapes,
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
    lottery,
    sparse_training,
    structured,
    channel_criteria,
    channel_sets,
    shapes,
    objective,
    bayesian,
    deep_compression,
    quantization,
    distillation,
    language_models,
    practical,
)
EXERCISES = {exercise.name: exercise for lesson in LESSONS for exercise in lesson.EXERCISES}
PUZZLES = [puzzle for lesson in LESSONS for puzzle in lesson.PUZZLES]
