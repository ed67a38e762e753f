"""The language models that come with the course: train them, and note what they lose.

    python book/reproductions/long_language_checkpoints.py [seeds]

writes ``course_lib/checkpoints/{width}-{seed}.npz``, where ``language.trained`` finds them, and
``long_language_checkpoints.json`` beside this file. Each seed has a grammar, a text, initial weights and
an order of its own. The narrow models have about as many bytes as the wide one at 50 and at 80 %
sparsity, stored as a bit for each weight and the values that are left.
"""

import record
import torch

from course_lib import language, measure, models, training

PRIOR = 5.0
VERDICT = (
    "Every model comes near the entropy of its grammar, which cannot be beaten, and below every "
    "count of neighbouring words; rounding to 16 bits moves no loss visibly."
)


def counted(train: torch.Tensor, test: torch.Tensor, order: int) -> float:
    """Nats per word of an interpolated count of ``order`` words in a row.

    To the counts of n words it adds what counts of n - 1 words expect, as if it had been seen
    ``PRIOR`` times.
    """
    p = torch.full((test.numel() - len(test),), 1 / language.WORDS, dtype=torch.float64)
    for n in range(1, order + 1):
        seen: list[dict[tuple, float]] = [{}, {}]
        for row in train.tolist():
            for t in range(1, len(row)):
                words = tuple(row[max(0, t - n + 1) : t + 1])
                seen[0][words] = seen[0].get(words, 0) + 1
                seen[1][words[:-1]] = seen[1].get(words[:-1], 0) + 1
        words = [
            tuple(row[max(0, t - n + 1) : t + 1])
            for row in test.tolist()
            for t in range(1, len(row))
        ]
        joint = torch.tensor([seen[0].get(w, 0) for w in words], dtype=torch.float64)
        context = torch.tensor([seen[1].get(w[:-1], 0) for w in words], dtype=torch.float64)
        p = (joint + PRIOR * p) / (context + PRIOR)
    return -p.log().mean().item()


def made(width: int, seed: int) -> dict[str, float]:
    """Train one model and keep it; its loss before and after rounding, and the floor."""
    train, test = language.texts(seed)
    model = models.tiny_transformer(language.WORDS, width=width, seed=seed)
    language.train(model, train, steps=language.STEPS, seed=seed)
    before = measure.nats(model, test)
    path = language.HERE / f"{width}-{seed}.npz"
    language.save(path, training.snapshot(model))
    after = measure.nats(language.trained(seed, width=width), test)
    floor = -test.log_p.mean().item()
    return {"gap": after - floor, "rounding": after - before, "nats": after, "floor": floor}


def counts(seed: int) -> dict[str, float]:
    """The gap of interpolated n-grams."""
    train, test = (text.tokens for text in language.texts(seed))
    floor = -language.texts(seed)[1].log_p.mean().item()
    return {str(n): counted(train, test, n) - floor for n in range(1, 6)}


def main(seeds: int) -> None:
    """Train what is missing, and write the result file."""
    torch.set_num_threads(1)
    found, total = {}, 0.0
    for width in language.WIDTHS:
        found[f"width {width}"], seconds = record.per_seed(
            __file__, seeds, f"width {width}", lambda seed, width=width: made(width, seed)
        )
        total += seconds
    grams, seconds = record.per_seed(__file__, seeds, "counts", counts)
    rows = [
        record.row(f"{name}: {key}", "nats per word", [round(each[key], 6) for each in of])
        for name, of in found.items()
        for key in ("gap", "rounding", "nats", "floor")
    ]
    rows += [
        record.row(f"{n}-gram: gap", "nats per word", [round(each[n], 4) for each in grams])
        for n in grams[0]
    ]
    record.write(
        __file__,
        experiment="The language models that come with the course",
        command=f"python book/reproductions/long_language_checkpoints.py {seeds}",
        verdict=VERDICT,
        setting={
            "seeds": seeds,
            "rows of 32 words to train, to test": [language.TRAIN, language.TEST],
            "steps": f"{language.STEPS} of {language.BATCH} rows, each row once",
            "optimizer": "AdamW (0.9, 0.95), weight decay 0.1, gradient norm at most 1",
            "learning rate": f"{language.RATE} after {language.WARM_UP} steps, then linearly to 0",
            "gap": "nats per word minus those of the known truth on the same 19,200 words",
            "rounding": "nats per word after rounding to 16 bits minus those before",
        },
        differences=["The language is the course's own, so no paper has these numbers."],
        table=rows,
        seconds=total + seconds,
    )


if __name__ == "__main__":
    main(*record.numbers(5))
