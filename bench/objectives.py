"""What an objective costs where samples are read: microseconds of a core for each sample of 4,097 tokens.

    python -m bench.objectives

A sample of a real run is 16 documents of random tokens here. Prints a table; nothing is kept.
"""

import time
from fractions import Fraction

import numpy as np

from pretrain.config.schema import SpanCorruptionConfig
from pretrain.data.objectives.end_of_document import EndOfDocument
from pretrain.data.objectives.fill_in_the_middle import FillInTheMiddle
from pretrain.data.objectives.goldfish import Goldfish
from pretrain.data.objectives.pieces import Chance, objective_key
from pretrain.data.objectives.samples import Objective, Samples, new_counts
from pretrain.data.objectives.span_corruption import SpanCorruption

SAMPLES, LENGTH, VOCAB_SIZE, ROUNDS = 64, 4096, 60_000, 7
CONTROL = np.arange(VOCAB_SIZE) < 200


def samples() -> Samples:
    """A group of samples as the reader makes them."""
    tokens = np.random.default_rng(0).integers(200, VOCAB_SIZE, (SAMPLES, LENGTH + 1), dtype=np.uint16)
    return Samples(
        numbers=np.arange(SAMPLES),
        tokens=tokens,
        counted=new_counts(tokens),
        document_starts=[np.arange(256, LENGTH + 1, 256)] * SAMPLES,
        shards=[],
        pieces=[[(0, 0)]] * SAMPLES,
    )


def main() -> None:
    """Print the median of some rounds."""
    half = Chance(key=objective_key(42), start=Fraction(0), rate=Fraction(1, 2))
    spans = SpanCorruptionConfig()
    objectives: dict[str, Objective] = {
        "eod_mask_loss": EndOfDocument(1),
        "goldfish, k 50, h 50": Goldfish(k=50, h=50, exempt=CONTROL, within_documents=False),
        "goldfish, within documents": Goldfish(k=50, h=50, exempt=CONTROL, within_documents=True),
        "fill_in_the_middle, half of the documents": FillInTheMiddle(
            chance=half, spm_rate=Fraction(1, 2), prefix_id=4, suffix_id=5, middle_id=6, control=CONTROL
        ),
        "span_corruption, half of the documents": SpanCorruption(
            chance=half, config=spans, sentinel_ids=np.arange(100, 200), control=CONTROL
        ),
    }
    for name, objective in objectives.items():
        taken = []
        for _ in range(ROUNDS):
            group = samples()
            began = time.process_time()
            objective.apply(group)
            taken.append((time.process_time() - began) / SAMPLES * 1e6)
        print(f"{sorted(taken)[ROUNDS // 2]:8.1f} us  {name}")


if __name__ == "__main__":
    main()
