"""The exercises that `check` knows; a lesson and its module share a name.

Each is an `Exercise`: its cases and its properties, from the returned type to the finest point.
"""

from course_lib.grading.exercises import (
    criteria,
    history,
    pipeline,
    prune_rate,
    quantization,
    structured,
)

LESSONS = (
    criteria,
    prune_rate,
    history,
    pipeline,
    structured,
    quantization,
)
EXERCISES = {exercise.name: exercise for lesson in LESSONS for exercise in lesson.EXERCISES}
