"""Does the data keep up with the trainer? Images per second of the augmentation alone, and of the training step.

`BITLENS_DATA=... python examples/augmentation_speed.py --data cifar10 --model resnet20 --precision w4a4`
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from bitlens.train.datasets import network_input, open_dataset
from bitlens.train.models import build_model

SECONDS = 3.0


def images_per_second(work: Callable[[], object], images: int) -> float:
    """Repeat `work`, which handles `images` images, for a few seconds; the first time does not count."""
    work()
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < SECONDS:
        work()
        count += 1
    return count * images / passed


def main() -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist", help="data set or folder (default: %(default)s)")
    parser.add_argument("--size", type=int, help="side of the pictures of a folder")
    parser.add_argument("--model", default="lenet", help="network (default: %(default)s)")
    parser.add_argument("--precision", default="w4a4", help="default: %(default)s")
    parser.add_argument("--width", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=64, help="images per step (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = open_dataset(arguments.data, size=arguments.size, report=lambda line: print(line, file=sys.stderr))
    start = time.perf_counter()
    train = data.train()
    loading = time.perf_counter() - start
    model = build_model(arguments.model, arguments.precision, data.input_shape, len(data.class_names), arguments.width)
    optimiser = torch.optim.Adam(model.parameters())
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(train), generator=generator)[: arguments.batch]

    def augmented() -> torch.Tensor:
        return data.augment(train.images[chosen], generator)

    def step() -> None:
        images = network_input(augmented())
        optimiser.zero_grad()
        functional.cross_entropy(model(images), train.labels[chosen]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    alone, whole = images_per_second(augmented, len(chosen)), images_per_second(step, len(chosen))
    print(
        f"{arguments.data}: {len(train)} images read in {loading:.1f} s; augmentation {alone:,.0f} images/s; "
        f"{arguments.model} {arguments.precision} step {whole:,.0f} images/s, {whole / alone:.1%} of it augmentation"
    )


if __name__ == "__main__":
    main()
