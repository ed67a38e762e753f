"""Answers to the exercises of lesson Motivation."""

import math

from course_lib.exercises.motivation import buggy_file_bytes, weak_bytes_test

from .common import judge_says_no, judge_says_yes

# joules


def joules_in_one_line(weights, macs, bits):
    if min(weights, macs) < 0 or bits <= 0:
        raise ValueError("no such network")
    return (640 * weights * bits / 32 + 4.6 * macs) * 1e-12


def joules_in_steps(weights, macs, bits):
    if weights < 0 or macs < 0 or not bits > 0:
        raise ValueError(f"{weights}, {macs}, {bits}")
    words = weights * (bits / 32)
    return words * 640e-12 + macs * 3.7e-12 + macs * 0.9e-12


def joules_as_text(weights, macs, bits):
    return f"{joules_in_one_line(weights, macs, bits)} J"


def joules_multiply_only(weights, macs, bits):
    return (640 * weights * bits / 32 + 3.7 * macs) * 1e-12


def joules_in_picojoules(weights, macs, bits):
    return 640 * weights * bits / 32 + 4.6 * macs


def joules_weights_multiplied(weights, macs, bits):
    return (640 * weights * bits / 32 + 4.6 * weights) * 1e-12 if weights else macs * 4.6e-12


def joules_any_bits(weights, macs, bits):
    return (640 * weights + 4.6 * macs) * 1e-12


def joules_of_bytes(weights, macs, bits):
    return (640 * weights * bits / 8 + 4.6 * macs) * 1e-12


def joules_narrow_arithmetic(weights, macs, bits):
    return (640 * weights + 4.6 * macs) * bits / 32 * 1e-12


def joules_of_anything(weights, macs, bits):
    return (640 * weights * bits / 32 + 4.6 * macs) * 1e-12


# kills_wrong_sizes


def judge_bytes_by_table(fn):
    cases = {(3, 3): 2, (8, 1): 1, (9, 1): 2, (5, 4): 3, (1, 4): 1, (2, 8): 2, (15, 1): 2}
    return all(fn(*case) == size for case, size in cases.items())


def judge_bytes_by_formula(fn):
    return all(fn(n, b) == -(-n * b // 8) for n in range(1, 40) for b in range(1, 33))


def judge_bytes_full_words(fn):
    return all(fn(n, 32) == 4 * n for n in range(9))


def judge_bytes_floor(fn):
    return all(fn(n, b) == n * b // 8 for n in range(1, 9) for b in range(1, 9))


def judge_bytes_packed(fn):
    return fn(16, 4) == 8 and fn(8, 1) == 1


# widest


def widest_by_counting(budget):
    k = 0
    while 4 * (2 * (k + 1) ** 2 + 405 * (k + 1) + 10) <= budget:
        k += 1
    if k == 0:
        raise ValueError(f"{budget} bytes hold no such network")
    return k


def widest_by_quadratic(budget):
    room = budget // 4 - 10  # 2k² + 405k <= room
    if room < 407:
        raise ValueError("too small a budget")
    k = (math.isqrt(405 * 405 + 8 * room) - 405) // 4
    return int(k)


def widest_float(budget):
    return float(widest_by_counting(budget)) if budget >= 1668 else 1.0


def widest_without_biases(budget):
    k = 1
    while 4 * (2 * (k + 1) ** 2 + 402 * (k + 1)) <= budget:
        k += 1
    return k


def widest_in_words(budget):
    return widest_by_counting(4 * budget) if budget else 1


def widest_timid(budget):
    return max(1, widest_by_counting(budget) - 1)


def widest_not_refusing(budget):
    return widest_by_counting(budget) if budget >= 1668 else 1


RIGHT = {
    "joules": [joules_in_one_line, joules_in_steps],
    "kills_wrong_sizes": [judge_bytes_by_table, judge_bytes_by_formula],
    "widest": [widest_by_counting, widest_by_quadratic],
}

WRONG = {
    "joules": [
        (joules_as_text, "finite number"),
        (joules_multiply_only, "a multiplication and an addition"),
        (joules_in_picojoules, "a multiplication and an addition"),
        (joules_weights_multiplied, "reads each 32-bit weight"),
        (joules_of_bytes, "reads each 32-bit weight"),
        (joules_any_bits, "narrower weights"),
        (joules_narrow_arithmetic, "narrower weights"),
        (joules_of_anything, "raises a ValueError"),
    ],
    "kills_wrong_sizes": [
        (judge_says_no, "accepts a correct function that rounds up"),
        (judge_bytes_floor, "accepts a correct function that rounds up"),
        (judge_says_yes, "drops the last byte"),
        (weak_bytes_test, "drops the last byte"),
        (judge_bytes_full_words, "drops the last byte"),
        (judge_bytes_packed, "drops the last byte"),
    ],
    "widest": [
        (widest_float, "whole number"),
        (widest_without_biases, "within the budget"),
        (widest_in_words, "within the budget"),
        (widest_timid, "uses the budget up"),
        (widest_not_refusing, "raises a ValueError"),
    ],
}

HUNTS = {"kills_wrong_sizes": (weak_bytes_test, buggy_file_bytes, judge_bytes_by_table)}
