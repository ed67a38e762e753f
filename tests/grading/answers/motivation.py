"""Answers to the exercises of lesson Motivation."""

import math
from fractions import Fraction
from itertools import repeat

import numpy as np
import torch

from course_lib import measure

# joules


def _refuse(weights, macs, bits, images):
    if weights < 0 or macs < 0 or bits < 1 or images < 1:
        raise ValueError(f"no pass has {weights}, {macs}, {bits}, {images}")


def joules_in_one_line(weights, macs, bits, images):
    _refuse(weights, macs, bits, images)
    return (640 * math.ceil(weights * bits / 32) / images + 4.6 * macs) * 1e-12


def joules_in_steps(weights, macs, bits, images):
    if min(weights, macs) < 0:
        raise ValueError("a negative count")
    if not (bits >= 1 and images >= 1):
        raise ValueError("bits and images start at 1")
    words, rest = divmod(weights * bits, 32)
    if rest:
        words += 1
    reading = words * 640e-12 / images
    multiplying, adding = macs * 3.7e-12, macs * 0.9e-12
    return reading + multiplying + adding


def joules_of_the_library(weights, macs, bits, images):
    _refuse(weights, macs, bits, images)
    reading, arithmetic = measure.energy(-(-weights * bits // 32), macs)
    return reading / images + arithmetic


def joules_of_all_images(weights, macs, bits, images):
    """The whole batch in picojoules, then a share."""
    _refuse(weights, macs, bits, images)
    batch = (weights * bits + 31) // 32 * 640 + images * macs * (3.7 + 0.9)
    return batch / 1e12 / images


def joules_numpy(weights, macs, bits, images):
    _refuse(weights, macs, bits, images)
    words = np.ceil(np.float64(weights) * bits / 32)
    return np.dot([words / images, macs, macs], [640e-12, 3.7e-12, 0.9e-12])


def joules_tensor(weights, macs, bits, images):
    _refuse(weights, macs, bits, images)
    words = torch.tensor(weights * bits / 32, dtype=torch.float64).ceil()
    return 1e-12 * (640 * words / images + 4.6 * macs)


def joules_float32(weights, macs, bits, images):
    return np.float32(joules_in_one_line(weights, macs, bits, images))


def joules_fraction(weights, macs, bits, images):
    _refuse(weights, macs, bits, images)
    words = -(-weights * bits // 32)
    return float(Fraction(640 * words, images) + Fraction(46 * macs, 10)) / 10**12


def joules_as_a_fraction(weights, macs, bits, images):
    _refuse(weights, macs, bits, images)
    words = -(-weights * bits // 32)
    return (Fraction(640 * words, images) + Fraction(46 * macs, 10)) / 10**12


def joules_array(weights, macs, bits, images):
    return np.array(joules_in_steps(weights, macs, bits, images))


def joules_as_text(weights, macs, bits, images):
    return f"{joules_in_one_line(weights, macs, bits, images)} J"


def joules_pair(weights, macs, bits, images):
    _refuse(weights, macs, bits, images)
    return measure.energy(-(-weights * bits // 32) / images, macs)


def joules_multiply_only(weights, macs, bits, images):
    _refuse(weights, macs, bits, images)
    return (640 * math.ceil(weights * bits / 32) / images + 3.7 * macs) * 1e-12


def joules_in_picojoules(weights, macs, bits, images):
    return 1e12 * joules_in_one_line(weights, macs, bits, images)


def joules_two_operations(weights, macs, bits, images):
    """Counts multiply–accumulates as two of each."""
    return joules_in_one_line(weights, 2 * macs, bits, images)


def joules_weights_multiplied(weights, macs, bits, images):
    return joules_in_one_line(weights, weights or macs, bits, images)


def joules_any_bits(weights, macs, bits, images):
    return joules_in_one_line(weights, macs, 32 if bits >= 1 else bits, images)


def joules_of_bytes(weights, macs, bits, images):
    return joules_in_one_line(4 * weights, macs, bits, images)


def joules_narrow_arithmetic(weights, macs, bits, images):
    _refuse(weights, macs, bits, images)
    words = math.ceil(weights * bits / 32)
    return (640 * words / images + 4.6 * macs * bits / 32) * 1e-12


def joules_part_words(weights, macs, bits, images):
    """Pays for a part of the last word."""
    _refuse(weights, macs, bits, images)
    return (640 * weights * bits / 32 / images + 4.6 * macs) * 1e-12


def joules_full_words(weights, macs, bits, images):
    """Forgets the last word."""
    _refuse(weights, macs, bits, images)
    return (640 * (weights * bits // 32) / images + 4.6 * macs) * 1e-12


def joules_one_more_word(weights, macs, bits, images):
    _refuse(weights, macs, bits, images)
    return (640 * (weights * bits // 32 + 1) / images + 4.6 * macs) * 1e-12


def joules_nearest_word(weights, macs, bits, images):
    _refuse(weights, macs, bits, images)
    return (640 * round(weights * bits / 32) / images + 4.6 * macs) * 1e-12


def joules_aligned(weights, macs, bits, images):
    """No weight across two words: whole numbers of weights to a word."""
    _refuse(weights, macs, bits, images)
    words = math.ceil(weights / max(1, 32 // bits))
    return (640 * words / images + 4.6 * macs) * 1e-12


def joules_word_for_each(weights, macs, bits, images):
    return joules_in_one_line(weights * math.ceil(bits / 32), macs, 32, images)


def joules_through_bytes(weights, macs, bits, images):
    """Rounds to bytes, not to words."""
    _refuse(weights, macs, bits, images)
    return (160 * math.ceil(weights * bits / 8) / images + 4.6 * macs) * 1e-12


def joules_read_for_every_image(weights, macs, bits, images):
    return joules_in_one_line(weights, macs, bits, min(images, 1))


def joules_of_the_batch(weights, macs, bits, images):
    return images * joules_in_one_line(weights, macs, bits, images)


def joules_arithmetic_shared(weights, macs, bits, images):
    return joules_in_one_line(weights, macs, bits, min(images, 1)) / images


def joules_words_rounded_per_image(weights, macs, bits, images):
    _refuse(weights, macs, bits, images)
    return (640 * math.ceil(weights * bits / 32 / images) + 4.6 * macs) * 1e-12


def joules_on_chip(weights, macs, bits, images):
    _refuse(weights, macs, bits, images)
    return (5 * math.ceil(weights * bits / 32) / images + 4.6 * macs) * 1e-12


def joules_of_anything(weights, macs, bits, images):
    return (640 * math.ceil(weights * bits / 32) / (images or 1) + 4.6 * macs) * 1e-12


def joules_product_refused(weights, macs, bits, images):
    """Looks at the sign of the products only."""
    if weights * bits < 0 or macs * images < 0 or bits * images == 0:
        raise ValueError("negative")
    return (640 * math.ceil(weights * bits / 32) / images + 4.6 * macs) * 1e-12


def joules_too_strict(weights, macs, bits, images):
    """Refuses networks without multiplications."""
    if weights <= 0 or macs <= 0 or bits < 1 or images < 1:
        raise ValueError("not positive")
    return joules_in_one_line(weights, macs, bits, images)


def joules_no_wide_weights(weights, macs, bits, images):
    if bits > 32:
        raise ValueError("more than 32 bits")
    return joules_in_one_line(weights, macs, bits, images)


def joules_asserts(weights, macs, bits, images):
    assert min(weights, macs) >= 0 < min(bits, images)
    return joules_in_one_line(weights, macs, bits, images)


def joules_minus_one(weights, macs, bits, images):
    """-1 where there is no answer."""
    try:
        return joules_in_one_line(weights, macs, bits, images)
    except ValueError:
        return -1.0


def joules_images_not_refused(weights, macs, bits, images):
    return joules_in_one_line(weights, macs, bits, max(1, images))


def joules_four_bits_least(weights, macs, bits, images):
    return joules_in_one_line(weights, macs, max(bits, 4) if bits > 0 else bits, images)


# the smallest input: sizes and bits


def smallest_two_halves():
    return [1, 1], 4


def smallest_two_bits():
    return (1, 1), 1


def smallest_as_list():
    return [[1, 1], 3]


def smallest_one_layer():
    return [2], 4


def smallest_full_bytes():
    return [1, 1], 8


def smallest_three_layers():
    return [1, 1, 1], 4


def smallest_negative():
    return [1, -1], 4


def smallest_without_bits():
    return [1, 1], 0


def smallest_only_sizes():
    return [1, 1]


def smallest_two_layers_that_fit():
    return [2, 4], 4


# mended_file_bytes


def bytes_of_the_sum(sizes, bits):
    return math.ceil(sum(sizes) * bits / 8)


def bytes_in_integers(sizes, bits):
    return (sum(sizes) * bits + 7) // 8


def bytes_by_loop(sizes, bits):
    total = 0
    for count in sizes:
        total += count * bits
    full, rest = divmod(total, 8)
    return full + bool(rest)


def bytes_by_string(sizes, bits):
    stream = "".join("x" * (count * bits) for count in sizes if count < 10**4)
    big = sum(count for count in sizes if count >= 10**4)
    return -(-(len(stream) + big * bits) // 8)


def bytes_numpy(sizes, bits):
    return np.ceil(np.sum(sizes) * bits / 8)


def bytes_np_int(sizes, bits):
    return np.int64(bytes_in_integers(sizes, bits))


def bytes_tensor(sizes, bits):
    return -(-torch.tensor(sizes, dtype=torch.int64).sum() * bits // 8)


def bytes_floor_division(sizes, bits):
    return -(sum(sizes) * bits // -8)


def bytes_with_a_carry(sizes, bits):
    """Full bytes layer by layer; the bits that are left go to the next one."""
    total = left = 0
    for count in sizes:
        full, left = divmod(left + count * bits, 8)
        total += full
    return total + (left > 0)


def bytes_each_layer(sizes, bits):
    return sum(math.ceil(count * bits / 8) for count in sizes)


def bytes_rounded_down(sizes, bits):
    return sum(sizes) * bits // 8


def bytes_nearest(sizes, bits):
    return math.floor(sum(sizes) * bits / 8 + 0.5)


def bytes_each_weight(sizes, bits):
    return sum(sizes) * math.ceil(bits / 8)


def bytes_full_words(sizes, bits):
    return 4 * math.ceil(sum(sizes) * bits / 32)


def bytes_words_and_a_byte(sizes, bits):
    return sum(sizes) * bits // 8 + (sum(sizes) * bits % 32 > 0)


def bytes_unrounded(sizes, bits):
    return sum(sizes) * bits / 8


def bytes_at_least_one(sizes, bits):
    return max(1, bytes_of_the_sum(sizes, bits))


def bytes_of_the_largest(sizes, bits):
    return math.ceil(max(sizes, default=0) * bits / 8) * len(sizes)


def bytes_of_the_first(sizes, bits):
    return math.ceil(sizes[0] * bits / 8) if sizes else 0


def bytes_fails_without_layers(sizes, bits):
    first, *rest = sizes
    return bytes_of_the_sum([first, *rest], bits)


def bytes_in_bits(sizes, bits):
    return sum(sizes) * bits


def bytes_last_layer_rounded(sizes, bits):
    """All but the last are rounded down."""
    if not sizes:
        return 0
    return sum(n * bits // 8 for n in sizes[:-1]) + math.ceil(sizes[-1] * bits / 8)


def bytes_sorted(sizes, bits):
    sizes.sort()
    return bytes_of_the_sum(sizes, bits)


def bytes_popped(sizes, bits):
    total = 0
    while sizes:
        total += sizes.pop()
    return math.ceil(total * bits / 8)


def bytes_pairs_share(sizes, bits):
    """Only the layers two by two share a byte."""
    pairs = zip(sizes[::2], [*sizes[1::2], *repeat(0, len(sizes) % 2)], strict=True)
    return sum(math.ceil((a + b) * bits / 8) for a, b in pairs)


def bytes_distinct(sizes, bits):
    """Layers of one size are counted once."""
    return math.ceil(sum(set(sizes)) * bits / 8)


def bytes_text(sizes, bits):
    return str(bytes_of_the_sum(sizes, bits))


def file_bytes_in_32_bits(sizes, bits):
    return -(-(sum(sizes) * bits % 2**32) // 8)


RIGHT = {
    "joules": [
        joules_in_one_line,
        joules_in_steps,
        joules_of_the_library,
        joules_of_all_images,
        joules_numpy,
        joules_tensor,
        joules_float32,
        joules_as_a_fraction,
        joules_fraction,
        joules_array,
    ],
    "smallest_file": [smallest_two_halves, smallest_two_bits, smallest_as_list],
    "mended_file_bytes": [
        bytes_of_the_sum,
        bytes_in_integers,
        bytes_by_loop,
        bytes_by_string,
        bytes_numpy,
        bytes_np_int,
        bytes_tensor,
        bytes_floor_division,
        bytes_with_a_carry,
    ],
}

WRONG = {
    "joules": [
        (joules_as_text, "finite number"),
        (joules_pair, "finite number"),
        (joules_multiply_only, "a multiplication and an addition"),
        (joules_in_picojoules, "a multiplication and an addition"),
        (joules_two_operations, "a multiplication and an addition"),
        (joules_narrow_arithmetic, "a multiplication and an addition"),
        (joules_of_the_batch, "a multiplication and an addition"),
        (joules_arithmetic_shared, "a multiplication and an addition"),
        (joules_one_more_word, "a multiplication and an addition"),
        (joules_too_strict, "wherever there is one"),
        (joules_no_wide_weights, "wherever there is one"),
        (joules_weights_multiplied, "reads each 32-bit weight"),
        (joules_of_bytes, "reads each 32-bit weight"),
        (joules_on_chip, "reads each 32-bit weight"),
        (joules_any_bits, "whole words"),
        (joules_part_words, "whole words"),
        (joules_full_words, "whole words"),
        (joules_nearest_word, "whole words"),
        (joules_aligned, "whole words"),
        (joules_word_for_each, "whole words"),
        (joules_through_bytes, "whole words"),
        (joules_four_bits_least, "whole words"),
        (joules_read_for_every_image, "shares the reading"),
        (joules_words_rounded_per_image, "shares the reading"),
        (joules_of_anything, "raises a ValueError"),
        (joules_product_refused, "raises a ValueError"),
        (joules_asserts, "raises a ValueError"),
        (joules_minus_one, "raises a ValueError"),
        (joules_images_not_refused, "raises a ValueError"),
    ],
    "smallest_file": [
        (smallest_negative, "inputs that the exercise allows"),
        (smallest_without_bits, "inputs that the exercise allows"),
        (smallest_only_sizes, "inputs that the exercise allows"),
        (smallest_three_layers, "at most 2 entries"),
        (smallest_one_layer, "makes buggy_file_bytes go wrong"),
        (smallest_full_bytes, "makes buggy_file_bytes go wrong"),
        (smallest_two_layers_that_fit, "makes buggy_file_bytes go wrong"),
    ],
    "mended_file_bytes": [
        (bytes_unrounded, "whole number"),
        (bytes_text, "whole number"),
        (bytes_rounded_down, "a single layer"),
        (bytes_nearest, "a single layer"),
        (bytes_each_weight, "a single layer"),
        (bytes_full_words, "a single layer"),
        (bytes_words_and_a_byte, "a single layer"),
        (bytes_at_least_one, "a single layer"),
        (bytes_in_bits, "a single layer"),
        (bytes_fails_without_layers, "runs on every input"),
        (bytes_sorted, "runs on every input"),
        (bytes_popped, "runs on every input"),
        (bytes_each_layer, "the next layer begin"),
        (bytes_of_the_largest, "the next layer begin"),
        (bytes_of_the_first, "the next layer begin"),
        (bytes_last_layer_rounded, "the next layer begin"),
        (bytes_pairs_share, "the next layer begin"),
        (bytes_distinct, "the next layer begin"),
        (file_bytes_in_32_bits, "begin where the last one ends"),
    ],
}

HUNTS = {}
