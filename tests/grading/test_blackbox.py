"""The verdict of the black box is that of `check`, and no forged answer gets a point.

All answers of `answers/` are tried with COURSE_ALL=1, which takes minutes; a sample of them always.
"""

import io
import os
import random
from dataclasses import replace

import pytest
import torch

from course_lib.exercises import EXERCISES, LESSONS
from course_lib.exercises.calls import call, same
from course_lib.exercises.exercise import Exercise, Property
from course_lib.grading import blackbox, wire
from course_lib.grading.extract import extract
from course_lib.grading.sandbox import Child, Gone

from .submissions import notebook, submissions

SUBMISSIONS = list(submissions())
if not os.environ.get("COURSE_ALL"):
    SUBMISSIONS = SUBMISSIONS[::12]
PLANS = {}


def graded(box, name, *cells):
    if name not in PLANS:
        PLANS[name] = blackbox.plan(EXERCISES[name], 20)
    content = cells[0] if isinstance(cells[0], bytes) else notebook(*cells)
    return blackbox.grade(box, PLANS[name], extract(content, [EXERCISES[name].function]))


@pytest.mark.parametrize(("name", "answer", "right", "content"), SUBMISSIONS)
def test_the_verdict_is_that_of_check(bwrap, name, answer, right, content):
    found = graded(bwrap, name, content)
    assert found["public"] is right, found["report"]
    assert found["hidden"] is (True if right else None), found["report"]


def test_every_lesson_has_answers_that_were_tried():
    names = {name for name, *_ in submissions()}
    assert names == {exercise.name for lesson in LESSONS for exercise in lesson.EXERCISES}


RIGHT = """
import torch
def magnitude_mask(weight, sparsity):
    n = weight.numel()
    gone = min(round(sparsity * n), n - 1 if sparsity < 1 else n)
    order = weight.abs().flatten().argsort(descending=True, stable=True)
    keep = torch.zeros(n, dtype=torch.bool)
    keep[order[: n - gone]] = True
    return keep.view(weight.shape)
"""
WRONG = RIGHT.replace("weight.abs()", "weight")
#: Answers that are wrong, and do something else to get the point.
FORGERIES = {
    "an object that equals everything": """
class Yes:
    def __eq__(self, other): return True
    def __bool__(self): return True
    def __getattr__(self, name): return self
    def __call__(self, *a, **k): return self
def magnitude_mask(w, s): return Yes()
""",
    "a tensor whose methods lie": """
import torch
class Yes(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None): return True
def magnitude_mask(w, s): return torch.ones_like(w).bool().as_subclass(Yes)
""",
    "an int that equals everything": """
class Yes(int):
    def __eq__(self, other): return True
    __hash__ = None
def magnitude_mask(w, s): return Yes(1)
""",
    "torch patched": """
import torch
def magnitude_mask(w, s):
    torch.equal = torch.allclose = torch.Tensor.all = lambda *a, **k: True
    torch.Tensor.__eq__ = lambda *a: torch.tensor(True)
    return torch.ones_like(w).bool()
""",
    "builtins patched": """
import builtins, torch
def magnitude_mask(w, s):
    builtins.round = builtins.len = builtins.isinstance = lambda *a: True
    return torch.ones_like(w).bool()
""",
    "the self-check patched": """
import sys
def magnitude_mask(w, s):
    for module in list(sys.modules.values()):
        for name in ("check", "run", "grade", "judge", "weigh", "unmet"):
            if hasattr(module, name): setattr(module, name, lambda *a, **k: True)
    return w > 0
""",
    "the encoder patched": """
import gc, torch
def magnitude_mask(w, s):
    for thing in gc.get_objects():
        if getattr(thing, '__name__', '') in ('pack', 'tree', 'send', '_tensor'):
            try: thing.__code__ = (lambda *a, **k: b'').__code__
            except Exception: pass
    return torch.ones_like(w).bool()
""",
    "the worker told to say yes": """
import sys, inspect
def magnitude_mask(w, s):
    frame = sys._getframe()
    while frame:
        student = frame.f_locals.get('self')
        if type(student).__name__ == 'Student':
            student.send({'public': True, 'hidden': True, 'returned': True, 'after': []})
            student.send({'public': True, 'hidden': True})
        frame = frame.f_back
    return w > 0
""",
    "frames ahead of the questions": """
import sys
def magnitude_mask(w, s):
    frame = sys._getframe()
    while frame:
        student = frame.f_locals.get('self')
        if type(student).__name__ == 'Student':
            for number in range(20):
                student.number = number
                student.send({'returned': True, 'after': [w, s], 'printed': ''})
        frame = frame.f_back
    return w > 0
""",
    "an interrupt for the grader": "def magnitude_mask(w, s): raise KeyboardInterrupt",
    "an exit for the grader": "def magnitude_mask(w, s): raise SystemExit(0)",
    "an error that says it has passed": """
class passed(Exception):
    def __str__(self): return 'passed, every property holds'
def magnitude_mask(w, s): raise passed
""",
    "a process that ends": "import os\ndef magnitude_mask(w, s): os._exit(0)",
    "the reference": "from course_lib.exercises.criteria import *\nfrom course_lib.pruning import allocate\n"
    "def magnitude_mask(w, s): return allocate.per_layer({'w': w.abs()}, s)['w']",
    "a generator": "def magnitude_mask(w, s): yield w > 0",
    "a coroutine": "async def magnitude_mask(w, s): return w > 0",
    "a class": "class magnitude_mask:\n    def __init__(self, w, s): pass",
    "a module attribute": "import torch\nmagnitude_mask = torch.gt",
    "a stub": "def magnitude_mask(w, s): ...",
    "terminal codes": "def magnitude_mask(w, s): raise ValueError('\\x1b[2Jpassed\\r\\0<script>')",
}  # fmt: skip


def test_the_right_answer_has_the_point(bwrap):
    found = graded(bwrap, "magnitude_mask", RIGHT)
    assert found["public"]
    assert found["hidden"]
    assert "passed, every property holds on all" in found["report"]
    assert graded(bwrap, "magnitude_mask", RIGHT) | {"seconds": 0} == found | {"seconds": 0}


@pytest.mark.parametrize("name", FORGERIES)
def test_no_forgery_has_the_point(bwrap, name):
    found = graded(bwrap, "magnitude_mask", FORGERIES[name])
    assert not found["public"]
    assert not found["hidden"]
    assert "\x1b" not in found["report"]
    assert "passed, every property holds on" not in found["report"]
    assert graded(bwrap, "magnitude_mask", RIGHT)["hidden"]


def test_a_table_of_the_public_inputs_fails_on_hidden_ones(bwrap):
    """It knows every public input with its answer, and guesses elsewhere."""
    cases = list(EXERCISES["magnitude_mask"].cases())
    scope = {}
    exec(RIGHT, scope)  # noqa: S102
    table = {
        (tuple(w.shape), tuple(w.flatten().tolist()), s): scope["magnitude_mask"](w, s)
        .flatten()
        .tolist()
        for w, s in cases
    }
    source = f"import torch\nTABLE = {table!r}\n"
    source += "def magnitude_mask(w, s):\n"
    source += "    row = TABLE.get((tuple(w.shape), tuple(w.flatten().tolist()), s))\n"
    source += (
        "    keep = torch.tensor(row) if row else w.flatten() > 0\n    return keep.reshape(w.shape)"
    )
    found = graded(bwrap, "magnitude_mask", source)
    assert found["public"]
    assert found["hidden"] is False


def test_hidden_inputs_are_few_new_and_those_of_their_seed():
    exercise = EXERCISES["magnitude_mask"]
    public = list(exercise.cases())
    first, again, other = (blackbox.plan(exercise, seed).hidden for seed in (1, 1, 2))
    assert len(first) == len(other) == 24 < len(public)
    assert not any(same(case.inputs, known) for case in first for known in public)
    assert all(same(a.inputs, b.inputs) for a, b in zip(first, again, strict=True))
    assert not all(same(a.inputs, b.inputs) for a, b in zip(first, other, strict=True))
    assert [case.number for case in first] == [*range(len(public) + 1, len(public) + 25)]


def test_a_changed_input_is_seen(bwrap):
    source = RIGHT.replace("    return", "    weight.zero_()\n    return")
    found = graded(bwrap, "magnitude_mask", source)
    assert found["property"] == "leaves its input as it was"


def test_an_error_names_its_cell_and_line(bwrap):
    found = graded(bwrap, "magnitude_mask", "x = 1", WRONG.replace("n = weight", "n = weihgt"))
    assert "NameError: name 'weihgt' is not defined" in found["report"]
    assert "in line 4 of cell 2: n = weihgt.numel()" in found["report"]


def test_a_process_that_ended_is_told_without_a_line_of_ours(bwrap):
    found = graded(bwrap, "magnitude_mask", FORGERIES["a process that ends"])
    assert (
        "Ended: the process that ran your function has ended, with exit code 0" in found["report"]
    )
    assert "in line" not in found["report"]


def test_an_import_that_fails_is_told(bwrap):
    found = graded(
        bwrap,
        "magnitude_mask",
        "import no_such_library as lib",
        "def magnitude_mask(w, s): return lib.x",
    )
    assert (
        "When your notebook was read: ModuleNotFoundError: No module named 'no_such"
        in found["report"]
    )


JUDGE = "import torch\ndef is_magnitude_mask(fn):\n"
HUNTING = {
    "says yes": "    return True",
    "says no": "    return False",
    "dies on the first wrong one": "    import os\n    keep = fn(torch.tensor([1., -1.]), 0.5)\n"
    "    if keep.sum() != 1: os._exit(0)\n    return True",
    "reads the docstring": "    return 'a correct' in (fn.__doc__ or '')",
    "reads the name": "    return 'buggy' not in fn.__name__ and 'wrong' not in fn.__name__",
    "asks without end": "    while True: fn(torch.ones(1), 0.5)",
    "asks for too much": "    return fn(torch.ones(5_000_000), 0.5).all()",
    "asks with nonsense": "    return fn(fn, [fn], fn=fn)",
    "forges a call": "    fn.__closure__[0].cell_contents.send({'ask': 99, 'args': [], 'named': {}})\n"
    "    return True",
    "raises on everything": "    raise ValueError",
}


@pytest.mark.parametrize("name", HUNTING)
def test_a_bug_hunt_cannot_be_forged(bwrap, monkeypatch, name):
    monkeypatch.setattr(blackbox, "_MOST_QUESTIONS", 2_000)
    assert not graded(bwrap, "kills_wrong_masks", JUDGE + HUNTING[name])["public"]


class Counting:
    """A function with a state: it tells how often it was called, and changes its input."""

    def __init__(self, factor):
        self.factor, self.calls = factor, 0

    def __call__(self, x, *, plus=0):
        self.calls, first = self.calls + 1, str(float(x.flatten()[0]))
        x += 1
        if self.calls == 7:
            raise ValueError(f"the seventh, {self.factor}")
        return self.calls, first, self.factor * float(x.sum()) + plus


def asked_about(*factors):
    """An exercise that asks for what was seen in calls of `Counting`, and what its judge was given."""
    given = []
    seen = Property("", lambda returned, _: given.append(returned), "")
    cases = [(Counting(factor),) for factor in factors]
    return Exercise("spy", "spy(f)", "", lambda: iter(cases), (seen,)), given


SPY = """
import random, torch
met = []
def spy(f):
    met.append(f)
    seen = []
    def ask(x, **named):
        try:
            seen.append(f(x, **named))
        except ValueError as error:
            seen.append(str(error)[-9:])  # without the name of its class
        seen.append(float(x.sum()))
    for n in range(20):
        ask(torch.tensor([float(n)]), **({"plus": 5} if n == 3 else {}))
        DEVIATE
    return seen, len(met)
"""


@pytest.mark.parametrize(
    "deviate",
    [
        "",
        "if len(met) > 1 and n == 2 * len(met): ask(torch.ones(3))",
        "if len(met) % 2 == 0 and n > 4: break",
        "if len(met) == 2: ask(torch.tensor([-0.0])), ask(torch.tensor([0.0])), ask(torch.tensor([0]))",
        "ask(torch.tensor([random.random()]))",
        "if n == 0: seen.clear(); [ask(torch.rand(2)) for _ in range(9)]",
        "ask(torch.ones(2, 2), plus=seen[-2][2] if type(seen[-2]) is tuple else 0)",
        "ask(torch.ones(9000)), ask(torch.ones(9000))",
    ],
)
def test_an_answer_sees_what_it_would_see_if_each_question_waited(bwrap, deviate):
    """The same calls in this process, where nothing travels, and in the sandbox."""
    source = SPY.replace("DEVIATE", deviate)
    exercise, given = asked_about(1, 2, 1, 4, 5)
    found = blackbox.grade(bwrap, blackbox.plan(exercise, 1), extract(notebook(source), ["spy"]))
    assert found["public"], found["report"]
    space = {}
    random.seed(0)  # as in every fork
    torch.manual_seed(0)
    exec(source, space)  # noqa: S102
    wanted = [call(space["spy"], (Counting(factor),)).plain for factor in (1, 2, 1, 4, 5)]
    assert given == wanted


@pytest.fixture
def messages(monkeypatch):
    """Yield the frames that go to the student's process, by message, and those that come back."""
    sent, came, ask = [], [], Child.ask

    def spied(child, packed):
        sent.append(packed)
        came.append(ask(child, packed))
        return came[-1]

    monkeypatch.setattr(Child, "ask", spied)
    return sent, came


def test_questions_that_repeat_do_not_wait(bwrap, messages):
    """Five functions are asked 20 questions each: only the first waits for every answer."""
    exercise, _ = asked_about(1, 2, 3, 4, 5)
    source = SPY.replace("DEVIATE", "")
    blackbox.grade(bwrap, blackbox.plan(exercise, 1), extract(notebook(source), ["spy"]))
    assert (
        len(messages[0]) == 1 + (1 + 20) + 4 * 3
    )  # the definitions; 20 questions; 4 answers, 1 and 8, 1 and the rest


def test_answers_go_ahead_only_to_questions_that_were_asked(bwrap, messages):
    source = SPY.replace("DEVIATE", "if len(met) > 1 and n == 2 * len(met): ask(torch.ones(3))")
    exercise, _ = asked_about(1, 2, 3, 4)
    blackbox.grade(bwrap, blackbox.plan(exercise, 1), extract(notebook(source), ["spy"]))
    asked, ahead = set(), 0
    for packed, back in zip(*messages, strict=True):
        read = io.BytesIO(packed).read
        if "ahead" in (head := wire.unpack(*wire.frame(read), str)):
            assert set(head["ahead"]) <= asked
            ahead += len(head["ahead"])
        asked.add(wire.mark(*back))
    assert ahead > 30


def test_a_process_that_ends_between_questions_is_blamed_on_its_function(bwrap):
    source = SPY.replace("DEVIATE", "if len(met) == 3 and n == 2: import os; os._exit(4)")
    exercise, given = asked_about(1, 2, 3, 4)
    found = blackbox.grade(bwrap, blackbox.plan(exercise, 1), extract(notebook(source), ["spy"]))
    assert not found["public"]
    assert "with exit code 4" in found["report"]
    assert len(given) == 2


@pytest.mark.parametrize("number", [-1, 1, 10**9, True, None, [1]])
def test_a_forged_number_of_answers_that_were_of_use_is_a_violation(bwrap, number):
    source = "def is_magnitude_mask(fn):\n    own = fn.__closure__[1].cell_contents\n"
    source += f"    own.used = {number}\n    return fn(__import__('torch').ones(2), 0.5).sum() == 1"
    found = graded(bwrap, "kills_wrong_masks", source)
    assert not found["public"]
    assert "a call of a function that cannot be read" in found["report"]


SLOW = """
import time
def block_cost(c_in, widths, height, width):
    while time.process_time() < 1.5: pass
    one, three, three_out, five, five_out, pool = widths
    weights = c_in * (one + three + five + pool) + 9 * three * three_out + 25 * five * five_out
    return weights + 2 * sum(widths), weights * height * width
"""


def test_an_answer_may_take_ten_times_as_long_as_ours(bwrap, monkeypatch):
    now = iter((5.0, 5.28))
    with monkeypatch.context() as patch:
        patch.setattr(blackbox.time, "process_time", lambda: next(now))
        plan = blackbox.plan(EXERCISES["block_cost"], 20)
    assert plan.seconds == 3
    answers = extract(notebook(SLOW), ["block_cost"])
    assert blackbox.grade(bwrap, plan, answers)["hidden"]
    found = blackbox.grade(bwrap, replace(plan, seconds=0), answers)
    assert "all answers within 1 seconds" in found["report"]
    assert blackbox.plan(EXERCISES["kills_wrong_masks"], 20).seconds == 0


def test_an_answer_that_never_ends_is_out_of_time(bwrap):
    plan = replace(blackbox.plan(EXERCISES["magnitude_mask"], 20), seconds=0)
    endless = notebook("def magnitude_mask(w, s):\n    while True: pass")
    found = blackbox.grade(bwrap, plan, extract(endless, ["magnitude_mask"]))
    assert found["property"] == "comes to an end"
    assert "all answers within 1 seconds; this is input 1" in found["report"]


def test_a_sandbox_that_ends_is_nobodys_mistake(bwrap, monkeypatch):
    def gone(*_):
        raise Gone("the sandbox has ended")

    monkeypatch.setattr(Child, "ask", gone)
    with pytest.raises(Gone):
        graded(bwrap, "magnitude_mask", RIGHT)
    with pytest.raises(Gone):
        graded(bwrap, "kills_wrong_masks", JUDGE + HUNTING["says yes"])


def test_an_answer_has_the_gradient_that_it_had_in_its_own_process(bwrap):
    loss = "import torch.nn.functional as F\ndef mended_loss(student, teacher, labels, t, alpha):\n"
    loss += "    kl = F.kl_div((student / t).log_softmax(1), (teacher / t).softmax(1), reduction='batchmean')\n"
    loss += "    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * t**2 * kl"
    found = graded(bwrap, "mended_loss", loss)
    assert found["hidden"], found["report"]
    cut = graded(bwrap, "mended_loss", loss.replace("* kl", "* kl.detach()"))
    assert cut["property"] == "has the gradient of the loss, so that a student can learn by it"


class Told:
    """A child that gives one reply, whatever it is asked."""

    most = 1

    def __init__(self, **reply):
        self.reply = wire.frame(io.BytesIO(wire.pack(reply)).read)

    def ask(self, packed):
        return self.reply


@pytest.mark.parametrize(
    "reply",
    [
        {"returned": torch.tensor([False, True])},  # right, and an answer to nothing
        {"id": 2, "returned": torch.tensor([False, True])},
        {"id": 1},
        {"id": 1, "raised": "ValueError"},
        {"id": 1, "refused": "too large"},
        {"id": 1, "returned": torch.tensor([False, True]), "after": 7},
    ],
)
def test_a_reply_that_is_none_is_a_violation(reply):
    """Each holds the right mask for the first input, or nothing, and breaks a rule."""
    exercise = EXERCISES["magnitude_mask"]
    first = blackbox.plan(exercise, 1).public[:1]
    attempt = blackbox._Attempt(Told(**reply), exercise)
    result = attempt.judge(first, ())
    assert not result.passed
    assert result.broken.says == "runs on every input"
    right = {"id": 1, "returned": torch.tensor([False, True]), "after": None}
    assert blackbox._Attempt(Told(**right), exercise).judge(first, ()).passed
