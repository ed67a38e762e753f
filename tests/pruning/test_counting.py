"""Exact counts: the cut, ties, whole numbers that add up."""

from fractions import Fraction

import pytest
import torch

from course_lib.pruning import allocate, counting


def test_the_highest_stay_and_of_equals_the_first():
    g = torch.Generator().manual_seed(0)
    for trial in range(200):
        scores = torch.randint(0, 4, (1 + trial % 9,), generator=g).float()
        for n_keep in range(len(scores) + 1):
            order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
            got = counting.keep_top(scores, n_keep).nonzero().flatten().tolist()
            assert got == sorted(order[:n_keep])


def test_of_each_row_the_highest_stay_as_they_would_alone():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 4, (3, 5, 7), generator=generator).float()  # many are equal
    for n_keep in range(8):
        keep = counting.keep_top_of_each(scores, n_keep)
        for row, mask in zip(scores.flatten(0, 1), keep.flatten(0, 1), strict=True):
            assert torch.equal(mask, counting.keep_top(row, n_keep))


def test_whole_numbers_add_up_and_lie_next_to_their_parts():
    g = torch.Generator().manual_seed(0)
    for trial in range(200):
        cuts = torch.rand(1 + trial % 6, generator=g).double()
        parts = {str(i): 50 * float(c / cuts.sum()) for i, c in enumerate(cuts)}
        got = counting.whole_numbers(parts, 50)
        assert sum(got.values()) == 50
        assert all(abs(got[name] - part) < 1 for name, part in parts.items())
    thirds = dict.fromkeys("abc", Fraction(10, 3))
    assert counting.whole_numbers(thirds, 10) == {"a": 4, "b": 3, "c": 3}  # of equals the first


def test_fraction_turns_counts_into_sparsities():
    scores = {"a": torch.rand(7, 13), "b": torch.rand(3, 5)}
    for count in range(107):
        keep = allocate.globally(scores, counting.fraction(scores, count))
        assert sum(int((~m).sum()) for m in keep.values()) == count
    with pytest.raises(ValueError, match="count must be between 0 and 106.*107"):
        counting.fraction(scores, 107)
