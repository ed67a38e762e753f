"""Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network", section 3, on MNIST.

    COURSE_DATA=folder python book/reproductions/hinton2015.py [seeds]

writes ``hinton2015.json`` beside this file. The paper, of 10,000 test images: a teacher with two
layers of 1200 units, trained with dropout, weight constraints and images moved by up to two pixels,
makes 67 errors; a student with two layers of 800 makes 146 on labels alone and 74 with the teacher's
soft targets at T = 20, its images not moved. Without any 3 in its training set the distilled student
makes 206 errors, 133 of them on the 1010 threes; with the bias of class 3 raised by 3.5, which is
what does best on the test set, 109 and 14. (Checked against transcripts of the paper's text.)

A student that never saw a 3 and had labels alone is our control, with the same freedom of bias.
"""

import sys
import time
from collections.abc import Mapping, Sequence

import record
import torch
from torch import Tensor, nn
from tqdm import trange

from course_lib import data, ensemble, measure, models, training
from course_lib.compression import distillation

TEACHER, STUDENT = (784, 600, 600, 10), (784, 300, 300, 10)
TEACHER_EPOCHS, EPOCHS = 40, 30
DROPOUT, SHIFT = 0.25, 2
TEMPERATURE, ALPHA = 20, 0.1
LR = 0.1
TAUGHT_RATE = 0.3  # of LR: at the whole of it, matching at T = 20 diverged
BIASES = torch.arange(0, 20.01, 0.1)

DIFFERENCES = [
    "Fewer hidden units: 600 for the paper's 1200 in the teacher, 300 for its 800 in the student.",
    (
        f"Labels-only students learn at the rate {LR}, distilled ones at {LR * TAUGHT_RATE:g}: at "
        f"{LR} they diverged. Neither was tuned further; the paper names no rates."
    ),
    (
        f"{TEACHER_EPOCHS} epochs for the teacher and {EPOCHS} for the students, SGD with momentum "
        "0.9 and linear decay of the rate; the paper does not say how long it trained. First it was "
        "12 and 14: the teachers had learnt too little, and the distilled students made no fewer errors "
        "than those with labels alone. More epochs were then chosen on the last 10,000 training images, "
        "with a seed that is not among these."
    ),
    (
        f"The teacher drops {DROPOUT:.0%} of its hidden units and has no weight constraints; the "
        "paper refers to Hinton et al. 2012 for both."
    ),
    (
        f"The labels weigh {ALPHA}, the soft targets {1 - ALPHA} (times T²); the paper gives no "
        "number for this experiment."
    ),
    (
        "As in the paper, the raised bias of class 3 is the best one on the test set itself, so the "
        "rows with it are not estimates of what one would get on new images."
    ),
]
VERDICT = (
    "Reproduced in direction, with fewer units: soft targets remove about a fifth of the "
    "student's errors, and a student that never saw a 3 recognises most of them. In the "
    "paper soft targets remove half of the errors."
)


class Move(nn.Module):
    """In training, every image moves by a whole number of pixels, up to ``SHIFT`` each way."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        n, _, height, width = x.shape
        padded = nn.functional.pad(x, [SHIFT] * 4).squeeze(1)
        down, right = (torch.randint(2 * SHIFT + 1, (n, 1, 1)) for _ in range(2))
        rows = down + torch.arange(height).view(1, -1, 1)  # (n, height, 1)
        columns = right + torch.arange(width).view(1, 1, -1)  # (n, 1, width)
        return padded[torch.arange(n).view(-1, 1, 1), rows, columns].unsqueeze(1)


def teach(seed: int, train: data.Split) -> nn.Module:
    """The large network: dropout, moved images, and labels."""
    torch.manual_seed(seed)
    layers = []
    for layer in models.mlp(TEACHER, seed=seed):
        layers += [layer, nn.Dropout(DROPOUT)] if isinstance(layer, nn.ReLU) else [layer]
    teacher = nn.Sequential(Move(), *layers)
    optimizer = training.sgd(teacher, lr=LR)
    training.fit(teacher, train, epochs=TEACHER_EPOCHS, optimizer=optimizer, seed=seed)
    return teacher


def learn(seed: int, train: data.Split, answers: Tensor) -> Tensor:
    """Two students from the same start, (2, …): by labels alone, and by labels and soft targets."""
    pair = ensemble.stack([models.mlp(STUDENT, seed=seed) for _ in range(2)])

    def loss(logits: Tensor, batch: Tensor) -> Tensor:
        labels = train.y[batch]
        alone = training.cross_entropy(logits[:1], labels)
        taught = distillation.loss(
            logits[1:], answers[batch], labels, temperature=TEMPERATURE, alpha=ALPHA
        )
        return torch.cat([alone, TAUGHT_RATE * taught])  # with SGD, a factor on the rate

    optimizer = training.sgd(pair, lr=LR)
    training.fit(pair, train, epochs=EPOCHS, optimizer=optimizer, loss=loss, seed=seed)
    return pair


def errors(logits: Tensor, y: Tensor) -> int:
    return int((logits.argmax(-1) != y).sum())


def raised(logits: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """The bias of class 3 that does best on these labels, and the logits with it."""
    three = torch.eye(10)[3]
    wrong = [errors(logits + b * three, y) for b in BIASES]
    best = BIASES[wrong.index(min(wrong))]
    return float(best), logits + best * three


def run(seed: int, train: data.Split, test: data.Split) -> dict[str, float]:
    """Test errors of one seed."""
    teacher = teach(seed, train)
    answers = distillation.answers(teacher, train.x)
    found = {"teacher": errors(distillation.answers(teacher, test.x), test.y)}
    found |= {"teacher, training images": errors(answers, train.y)}
    alone, taught = distillation.answers(learn(seed, train, answers), test.x)
    found |= {"student": errors(alone, test.y), "distilled": errors(taught, test.y)}
    rest = train.y != 3
    pair = learn(seed, data.Split(train.x[rest], train.y[rest]), answers[rest])
    threes = test.y == 3
    for name, z in zip(("student", "distilled"), distillation.answers(pair, test.x), strict=True):
        bias, corrected = raised(z, test.y)
        found |= {
            f"{name} without 3s": errors(z, test.y),
            f"{name} without 3s, on 3s": errors(z[threes], test.y[threes]),
            f"{name} without 3s, bias": round(bias, 1),
            f"{name} without 3s, bias raised": errors(corrected, test.y),
            f"{name} without 3s, bias raised, on 3s": errors(corrected[threes], test.y[threes]),
        }
    return found


PAPER = {
    "teacher": 67,
    "student": 146,
    "distilled": 74,
    "distilled without 3s": 206,
    "distilled without 3s, on 3s": 133,
    "distilled without 3s, bias": 3.5,
    "distilled without 3s, bias raised": 109,
    "distilled without 3s, bias raised, on 3s": 14,
}


def write(runs: Sequence[Mapping[str, float]], seconds: float) -> None:
    """The result file of the seeds so far."""
    record.write(
        __file__,
        experiment="Distillation of an MLP on MNIST, with a digit left out (Hinton et al. 2015)",
        verdict=VERDICT,
        command=f"python book/reproductions/hinton2015.py {len(runs)}",
        setting={
            "teacher": "-".join(map(str, TEACHER)),
            "student": "-".join(map(str, STUDENT)),
            "bytes of the teacher": measure.bytes_dense(models.mlp(TEACHER)),
            "bytes of the student": measure.bytes_dense(models.mlp(STUDENT)),
            "epochs of the teacher": TEACHER_EPOCHS,
            "epochs of the student": EPOCHS,
            "temperature": TEMPERATURE,
            "alpha": ALPHA,
            "images": 60_000,
            "test images": 10_000,
        },
        differences=DIFFERENCES,
        table=[
            record.row(
                name,
                "added to a logit" if name.endswith("bias") else "errors",
                [found[name] for found in runs],
                PAPER.get(name),
            )
            for name in runs[0]
        ],
        seconds=seconds,
    )


def main(seeds: int) -> None:
    """Run, and write the result file after every seed."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    train, test = data.load("mnist", size=28)
    runs = []
    for seed in trange(seeds, desc="seeds"):
        runs.append(run(seed, train, test))
        write(runs, time.perf_counter() - start)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
