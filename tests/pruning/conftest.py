"""What the tests of rounds share: real digits, and an optimizer that is interrupted."""

import itertools

import pytest

from course_lib import data, training


@pytest.fixture(scope="session")
def digits():
    return data.load("digits", n_train=600, n_test=300)


@pytest.fixture
def stopping_at():
    """Return a function: step -> a maker of optimizers, which together end by Ctrl-C after it."""

    def stopping_at(step):
        steps = itertools.count()

        def stop_now(*_):
            if next(steps) == step:
                raise KeyboardInterrupt

        def optimizer(model):
            made = training.sgd(model)
            made.register_step_post_hook(stop_now)
            return made

        return optimizer

    return stopping_at
