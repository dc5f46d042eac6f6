"""A table of whether adaptive noising lowers what it looks at, and of what it does to the other metric.

SmoothTaylor on the first N held-out images of a data set: with fixed noise (mean|x|, where the search begins, and the
0.113 of the paper's middle setting), and with noise adapted to each image by AUTVC and by AUPC. Both areas of each, and
their change against fixed noise, image by image, with intervals:

    python examples/adaptive_noising.py out/demo/networks/w4a4.bitlens --data digits --images 20
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitlens.runtime import METHODS, open_engine, open_network
from bitlens.runtime.bootstrap import BootstrapMean, bootstrap_mean
from bitlens.runtime.faithfulness.perturbation_curve import aupc, perturbation_curve
from bitlens.runtime.faithfulness.total_variation import autvc
from bitlens.train.datasets import open_dataset

Areas = dict[str, npt.NDArray[np.float64]]


def told(mean: BootstrapMean) -> str:
    """Write a mean with its 95 % interval."""
    return f"{mean.mean:+.3f} [{mean.low:+.3f}, {mean.high:+.3f}]"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Compare fixed with adaptive noise for SmoothTaylor.")
    parser.add_argument("network", type=Path, help=".bitlens file that `bitlens export` wrote")
    parser.add_argument("--data", default="digits", help="data set (default: %(default)s)")
    parser.add_argument("--images", type=int, default=20, help="held-out images (default: %(default)s)")
    parser.add_argument("--roots", type=int, default=150, help="noisy copies per map (default: %(default)s)")
    parser.add_argument("--max-iteration", type=int, default=20, help="steps of the search (default: %(default)s)")
    arguments = parser.parse_args()
    engine = open_engine(open_network(arguments.network))
    test = open_dataset(arguments.data).test()
    images = test.images[: arguments.images].numpy()
    targets = engine.forward(images).argmax(axis=1).tolist()

    def areas_of(name: str, **options: object) -> Areas:
        maps = METHODS[name].function(engine, images, targets, roots=arguments.roots, **options).sum(axis=1)
        curve = perturbation_curve(engine, images, targets, maps)
        return {"AUTVC": autvc(maps), "AUPC": aupc(curve.logits), "AUPC, softmax": aupc(curve.probabilities)}

    adaptive = "adaptive_smooth_taylor"
    found = {
        "fixed, mean|x|": areas_of(adaptive, max_iteration=0),  # where the search begins
        "fixed, 0.113": areas_of("smooth_taylor"),
        "adapted by AUTVC": areas_of(adaptive, objective="autvc", max_iteration=arguments.max_iteration),
        "adapted by AUPC": areas_of(adaptive, objective="aupc", max_iteration=arguments.max_iteration),
    }
    print(f"{len(images)} images of {arguments.data}, predicted class, {engine.info.name}; lower is better")
    columns = ("mean", "less that of mean|x|", "less that of 0.113")
    print(f"{'':34}" + "".join(f"{column:28}" for column in columns))
    for noise, areas in found.items():
        for metric, values in areas.items():
            others = [values - found[fixed][metric] for fixed in list(found)[:2]]
            print(f"{noise:18}{metric:16}" + "".join(f"{told(bootstrap_mean(each)):28}" for each in (values, *others)))


if __name__ == "__main__":
    main()
