"""The instructor's notes: each exercise has some, and they are sentences."""

from course_lib.exercises import EXERCISES
from course_lib.exercises.notes import NOTES


def test_every_exercise_has_notes():
    assert not set(EXERCISES) - set(NOTES)


def test_notes_are_a_question_and_sentences():
    for name, notes in NOTES.items():
        assert 3 <= notes.minutes <= 30, name
        assert notes.ask.endswith("?"), name
        assert notes.hear.endswith("."), name
        assert notes.hear not in notes.ask and len(notes.hear) > 20, name


def test_no_two_exercises_share_a_question():
    assert len({notes.ask for notes in NOTES.values()}) == len(NOTES)
