"""Answers to every exercise: right ones in several styles, and the mistakes that people make.

Each lesson's module has three dictionaries. `RIGHT[exercise]` lists functions; `WRONG[exercise]`
pairs a function with words from the property that must be the first to refuse it;
`HUNTS[exercise]` holds what a bug hunt must tell apart: a weak test, a wrong function that passes
it, and a good judge.
"""

from importlib import import_module

from course_lib.exercises import LESSONS

_ANSWERS = [import_module(f".{lesson.__name__.rpartition('.')[2]}", __name__) for lesson in LESSONS]
RIGHT = {name: answers for lesson in _ANSWERS for name, answers in lesson.RIGHT.items()}
WRONG = {name: answers for lesson in _ANSWERS for name, answers in lesson.WRONG.items()}
HUNTS = {name: hunt for lesson in _ANSWERS for name, hunt in lesson.HUNTS.items()}
