"""Answers to the exercises of lesson History."""

import math

import torch

from course_lib.exercises.history import buggy_obs_saliency, weak_saliency_test

from .common import judge_says_no, judge_says_yes

# obd_saliency


def obd_by_diagonal(hessian, weights):
    return hessian.diagonal() * weights.square() / 2


def obd_by_loop(hessian, weights):
    values = [hessian[k, k].item() * w**2 / 2 for k, w in enumerate(weights.tolist())]
    return torch.tensor(values)


def obd_list(hessian, weights):
    return obd_by_diagonal(hessian, weights).tolist()


def obd_matrix(hessian, weights):
    return hessian * weights**2 / 2


def obd_without_half(hessian, weights):
    return hessian.diagonal() * weights**2


def obd_without_square(hessian, weights):
    return hessian.diagonal() * weights / 2


def obd_without_weight(hessian, weights):
    return hessian.diagonal() / 2


def obd_row_sums(hessian, weights):
    return hessian.sum(1) * weights**2 / 2


def obd_with_mixed_terms(hessian, weights):
    return weights * (hessian @ weights) / 2


def obd_as_obs(hessian, weights):
    return weights**2 / (2 * torch.linalg.inv(hessian).diagonal())


def obd_in_place(hessian, weights):
    return weights.square_() * hessian.diagonal() / 2


# kills_wrong_saliencies


def judge_saliency_by_hand(fn):
    """H⁻¹ = [[2, -1], [-1, 2]] / 3, so that L = 3/4 w²."""
    hessian, weights = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([-2.0, 3.0])
    found = fn(hessian, weights)
    if weights.tolist() != [-2, 3]:
        return False
    return torch.allclose(found, torch.tensor([3.0, 6.75]), rtol=1e-4)


def judge_saliency_by_solving(fn):
    """The definition: what the loss costs at the minimum with one weight held at 0."""
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        factor = torch.randn(4, 4, generator=g).double()
        hessian, w = factor @ factor.T + torch.eye(4), torch.randn(4, generator=g).double()
        given = w.clone()
        found = fn(hessian, given)
        for q in range(4):
            rest = [k for k in range(4) if k != q]
            step = -w[q] * torch.eye(4).double()[q]
            step[rest] = torch.linalg.solve(hessian[rest][:, rest], w[q] * hessian[rest, q])
            if abs(found[q] - step @ hessian @ step / 2) > 1e-6 or not torch.equal(given, w):
                return False
    return True


def judge_by_order(fn):
    hessian, weights = torch.tensor([[4.0, 3], [3, 4]]), torch.tensor([-2.0, 1.5])
    return int(fn(hessian, weights).argmin()) == 1


def judge_by_diagonal_hessian(fn):
    found = fn(torch.diag(torch.tensor([2.0, 4.0])), torch.tensor([-2.0, 3.0]))
    return torch.allclose(found, torch.tensor([4.0, 18.0]))


def judge_bitwise(fn):
    hessian, weights = torch.tensor([[3.0, 1.0], [1.0, 3.0]]), torch.tensor([0.1, 0.7])
    right = weights**2 / (2 * torch.linalg.inv(hessian).diagonal())
    return torch.equal(fn(hessian, weights), right * (1 + 1e-6))


def judge_without_copy(fn):
    hessian, weights = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([-2.0, 3.0])
    return torch.allclose(fn(hessian, weights), torch.tensor([3.0, 6.75]), rtol=1e-4)


# delete_one


def delete_by_column(hessian, weights):
    if torch.linalg.eigvalsh(hessian)[0] <= 0:
        raise ValueError("hessian is not positive definite: not a minimum")
    inverse = torch.linalg.inv(hessian)
    q = int((weights**2 / inverse.diagonal()).argmin())
    after = weights - weights[q] / inverse[q, q] * inverse[:, q]
    after[q] = 0
    return after


def delete_by_trying(hessian, weights):
    """Hold each weight at 0, solve for the others, keep the cheapest."""
    if torch.linalg.cholesky_ex(hessian)[1]:
        raise ValueError("no minimum")
    best, least = None, math.inf
    for q in range(len(weights)):
        rest = [k for k in range(len(weights)) if k != q]
        after = torch.zeros_like(weights)
        moved = torch.linalg.solve(hessian[rest][:, rest], weights[q] * hessian[rest, q])
        after[rest] = weights[rest] + moved
        rise = (after - weights) @ hessian @ (after - weights)
        if rise < least:
            best, least = after, rise
    return best


def delete_returns_index(hessian, weights):
    return int((delete_by_column(hessian, weights) == 0).nonzero()[0])


def delete_nearly(hessian, weights):
    delete_by_column(hessian, weights)
    inverse = torch.linalg.inv(hessian)
    q = int((weights**2 / inverse.diagonal()).argmin())
    return weights - (1 - 1e-12) * weights[q] / inverse[q, q] * inverse[:, q]


def _delete(hessian, weights, q, move=True):
    delete_by_column(hessian, weights)  # for its error
    inverse = torch.linalg.inv(hessian)
    after = weights - move * weights[q] / inverse[q, q] * inverse[:, q]
    after[q] = 0
    return after


def delete_by_obd(hessian, weights):
    return _delete(hessian, weights, int((hessian.diagonal() * weights**2).argmin()))


def delete_by_magnitude(hessian, weights):
    return _delete(hessian, weights, int(weights.abs().argmin()))


def delete_without_moving(hessian, weights):
    inverse = torch.linalg.inv(hessian + 1e-12 * torch.eye(len(weights)))
    return _delete(hessian, weights, int((weights**2 / inverse.diagonal()).argmin()), move=False)


def delete_moving_the_wrong_way(hessian, weights):
    right = delete_by_column(hessian, weights)
    after = 2 * weights - right
    after[right == 0] = 0
    return after


def delete_in_place(hessian, weights):
    after = delete_by_column(hessian, weights)
    return weights.copy_(after)


def delete_anywhere(hessian, weights):
    """By the right formulas, minimum or not."""
    inverse = torch.linalg.pinv(hessian)
    q = int((weights**2 / inverse.diagonal()).argmin())
    after = weights - weights[q] / inverse[q, q] * inverse[:, q]
    after[q] = 0
    return after


RIGHT = {
    "obd_saliency": [obd_by_diagonal, obd_by_loop],
    "kills_wrong_saliencies": [judge_saliency_by_hand, judge_saliency_by_solving],
    "delete_one": [delete_by_column, delete_by_trying],
}


WRONG = {
    "obd_saliency": [
        (obd_list, "one number for each weight"),
        (obd_matrix, "one number for each weight"),
        (obd_without_half, "when the Hessian is diagonal"),
        (obd_without_square, "when the Hessian is diagonal"),
        (obd_without_weight, "when the Hessian is diagonal"),
        (obd_row_sums, "nothing but the diagonal"),
        (obd_with_mixed_terms, "nothing but the diagonal"),
        (obd_as_obs, "nothing but the diagonal"),
        (obd_in_place, "leaves its input"),
    ],
    "kills_wrong_saliencies": [
        (judge_says_no, "accepts a correct function that inverts the Hessian"),
        (judge_bitwise, "accepts a correct function that inverts the Hessian"),
        (judge_says_yes, "inverts the diagonal"),
        (weak_saliency_test, "inverts the diagonal"),
        (judge_by_diagonal_hessian, "inverts the diagonal"),
        (judge_by_order, "inverts the diagonal"),
        (judge_without_copy, "squares the weights"),
    ],
    "delete_one": [
        (delete_returns_index, "one number for each weight"),
        (delete_nearly, "exactly one weight"),
        (delete_by_obd, "costs least after"),
        (delete_by_magnitude, "costs least after"),
        (delete_without_moving, "as little as possible"),
        (delete_moving_the_wrong_way, "as little as possible"),
        (delete_in_place, "leaves its input"),
        (delete_anywhere, "raises a ValueError"),
    ],
}

# Exercise -> a weak test, what it lets through, a judge that tells right from wrong.
HUNTS = {"kills_wrong_saliencies": (weak_saliency_test, buggy_obs_saliency, judge_saliency_by_hand)}
