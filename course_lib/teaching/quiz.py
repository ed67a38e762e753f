"""Questions on a lesson page: the quiz, and the prediction that comes before an experiment.

Each option of a quiz is a ``<details>`` element that holds its own feedback. It works on the page,
in JupyterLab, with the keyboard, with a screen reader and without JavaScript. A prediction works
everywhere too; with JavaScript, the page repeats the choice and opens what it unlocks.
"""

import hashlib
import html
from collections.abc import Sequence
from dataclasses import dataclass

from IPython.display import HTML

from course_lib.teaching import page


@dataclass(frozen=True)
class Question:
    """A multiple-choice question in which every option has its own feedback.

    Args:
        text: the question. Text between backticks becomes code; everything else is shown as typed.
        options: (option, feedback) pairs, at least two. The feedback to a wrong option names the
            misconception behind it.
        answer: position of the right option, from 0.

    Raises:
        ValueError: fewer than two options, an empty text, option or feedback, two equal options,
            or an answer out of range.
        TypeError: an option that is not a pair of strings, or an answer that is not an integer.

    Examples:
        >>> options = [("0.1", "That is the part that is kept."), ("0.9", "90 of 100 are removed.")]
        >>> Question("10 of 100 weights are kept. What is the sparsity?", options, answer=1).answer
        1
    """

    text: str
    options: Sequence[tuple[str, str]]
    answer: int

    def __post_init__(self) -> None:
        """Refuse a question that a page could not show."""
        for number, option in enumerate(self.options):
            if not isinstance(option, tuple | list) or len(option) != 2:
                raise TypeError(f"options[{number}] must be (option, feedback), got {option!r}")
            page.check_text(f"feedback of options[{number}]", option[1])
        _check_choice(self.text, [option for option, _ in self.options])
        if isinstance(self.answer, bool) or not isinstance(self.answer, int):
            raise TypeError(f"answer must be an integer, got {self.answer!r}")
        if not 0 <= self.answer < len(self.options):
            last = len(self.options) - 1
            raise ValueError(f"answer must be from 0 to {last}, got {self.answer}")


def quiz(*questions: Question) -> HTML:
    """The questions as HTML. A reader chooses an option by opening its feedback.

    Raises:
        ValueError: no questions.
        TypeError: something that is not a ``Question``.
    """
    if not questions:
        raise ValueError("questions must hold at least one Question, got none")
    for question in questions:
        if not isinstance(question, Question):
            raise TypeError(f"questions must be Questions, got {question!r}")
    groups = [_question(question, number) for number, question in enumerate(questions, start=1)]
    return HTML(
        page.html(
            '<div class="course-quiz" data-course="answers">\n' + "\n".join(groups) + "\n</div>"
        )
    )


def predict(text: str, options: Sequence[str], *, unlocks: str = "the experiment") -> HTML:
    """A question to answer before the result is shown.

    In the book, a choice opens the outputs of the cells tagged ``gated`` after it, up to the next
    prediction; without JavaScript, the reader opens them one by one. In JupyterLab, the choice is
    repeated below the options.

    Args:
        text: the question. Text between backticks becomes code.
        options: at least two possible predictions. None is marked as right; the experiment shows it.
        unlocks: what the choice opens, in words for the reader, with an article.

    Raises:
        ValueError: fewer than two options, two equal ones, or an empty text, option or ``unlocks``.
        TypeError: one of them is not a string.

    Examples:
        >>> predict("Which is faster?", ["dense", "pruned", "neither"])
        <IPython.core.display.HTML object>
    """
    _check_choice(text, options)
    page.check_text("unlocks", unlocks)
    name = _name("predict", text, *options)
    radio = '<label><input type="radio" name="{}" value="{}"> <span>{}</span></label>'
    radios = [radio.format(name, number, page.inline(o)) for number, o in enumerate(options)]
    return HTML(
        page.html(
            f'<form class="course-predict" id="{name}" data-course="predict"'
            f' data-unlocks="{html.escape(unlocks)}">\n'
            f"<fieldset><legend>{page.inline(text)}</legend>\n"
            + "\n".join(radios)
            + "\n</fieldset>\n"
            f'<p role="status">Choose before you read on: that opens {page.inline(unlocks)}.</p>'
            "\n</form>"
        )
    )


def _question(question: Question, number: int) -> str:
    """One question: a named group of disclosures of which one is open at a time."""
    name = _name("quiz", str(number), question.text, *(option for option, _ in question.options))
    rows = []
    for position, (option, feedback) in enumerate(question.options):
        right = position == question.answer
        kind, verdict = ("right", "Right:") if right else ("wrong", "Not quite:")
        rows.append(
            f'<details name="{name}"><summary>{page.inline(option)}</summary>'
            f'<p class="{kind}"><strong>{verdict}</strong> {page.inline(feedback)}</p></details>'
        )
    return (
        f'<div role="group" aria-labelledby="{name}">\n'
        f'<p id="{name}"><strong>Question {number}.</strong> {page.inline(question.text)}</p>\n'
        + "\n".join(rows)
        + "\n</div>"
    )


def _name(kind: str, *texts: str) -> str:
    """An id made of the texts, so that the same question gives the same page every time."""
    return f"{kind}-{hashlib.sha256(chr(0).join(texts).encode()).hexdigest()[:10]}"


def _check_choice(text: str, options: Sequence[str]) -> None:
    page.check_text("text", text)
    if isinstance(options, str):
        raise TypeError(f"options must be a list of options, got {options!r}")
    for number, option in enumerate(options):
        page.check_text(f"options[{number}]", option)
    if len(options) < 2:
        raise ValueError(f"options must hold at least 2, got {len(options)}")
    if len(set(options)) < len(options):
        raise ValueError(f"options must differ, got the same text twice: {list(options)!r}")
