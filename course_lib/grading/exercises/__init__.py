"""The exercises that `check` knows; a lesson and its module share a name.

Each is an `Exercise`: its cases and its properties, from the returned type to the finest point.
"""

from course_lib.grading.exercises import (
    criteria,
    distillation,
    history,
    lottery,
    pipeline,
    prune_rate,
    structured,
)

LESSONS = (
    criteria,
    prune_rate,
    history,
    pipeline,
    structured,
    lottery,
    distillation,
)
EXERCISES = {exercise.name: exercise for lesson in LESSONS for exercise in lesson.EXERCISES}
