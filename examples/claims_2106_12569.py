r"""Three findings of 2106.12569, "Gradient-Based Interpretability Methods and Binarized Neural Networks", tested.

The paper says, without numbers: plain gradient maps of binary networks look like those of full-precision ones;
SmoothGrad is noisier on binary networks; GradCAM differs from one kind of network to the other. Here each becomes a
difference over images with a 95 % bootstrap interval, and the verdict is what the interval says:

    python examples/claims_2106_12569.py --twin nets/fp32.bitlens --networks nets/w1a1.bitlens \
        --other-seed nets/fp32-seed1.bitlens --data mnist

Maps and metrics are made by the work behind `bitlens evaluate`, into --output, and a second run takes up what is there.
What it found on Fashion-MNIST stands in docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitlens.runtime.bootstrap import BootstrapMean, bootstrap_mean
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.evaluation import (
    Cast,
    LabelledImages,
    Result,
    collected,
    do_missing,
    planned,
)
from bitlens.runtime.evaluation.measurement import Scene
from bitlens.runtime.evaluation.plan import BLOCK, OTHER_SEED, RANDOM_WEIGHTS
from bitlens.runtime.evaluation.tables import Table, cell, markdown
from bitlens.runtime.evaluation.work import WHOLE, parsed_rows
from bitlens.runtime.faithfulness import FAITHFULNESS
from bitlens.runtime.fidelity import METRICS
from bitlens.runtime.verbs.evaluate import add_cast_and_images, open_cast_and_images

Float64 = npt.NDArray[np.float64]

ALIKE = ("spearman", "ssim")
NOISE = ("atv", "autvc")
RIGHT = ("insertion", "deletion")


HOLDS, FAILS, OPEN = "holds", "fails", "open"
FEWEST = 10  # images with a value, below which an interval says nothing


@dataclass(frozen=True)
class Reading:
    """What a difference means for a claim, in words and as an outcome, by where its interval lies."""

    above: tuple[str, str]
    below: tuple[str, str]
    neither: tuple[str, str] = ("no difference seen", OPEN)

    def of(self, difference: BootstrapMean) -> tuple[str, str]:
        """Read an interval."""
        if difference.images < FEWEST:
            return "too few images to say", OPEN
        if difference.low > 0:
            return self.above
        return self.below if difference.high < 0 else self.neither


@dataclass(frozen=True)
class Finding:
    """One row: a difference, and what follows from its interval."""

    network: str
    measured: str
    values: tuple[BootstrapMean, BootstrapMean]
    difference: BootstrapMean
    words: str
    outcome: str


def found(network: str, measured: str, one: Float64, other: Float64, reading: Reading) -> Finding:
    """Compare two values per image, image by image; an image counts where both are defined."""
    difference = bootstrap_mean(one - other)
    return Finding(network, measured, (bootstrap_mean(one), bootstrap_mean(other)), difference, *reading.of(difference))


def magnitude_likeness(cast: Cast, images: LabelledImages, seed: int) -> dict[tuple[str, str], Float64]:
    """Compare the magnitudes of gradient maps with the twin's: (whose, metric) -> float64 (N,)."""
    (row,) = parsed_rows("gradient")
    baseline = cast.random_weights if cast.other_seed is None else cast.other_seed
    parts: dict[tuple[str, str], list[Float64]] = {}
    for start in range(0, len(images), BLOCK):
        scene = Scene(cast, images.subset(slice(start, start + BLOCK)), seed)
        twin = np.abs(scene.maps(row, cast.twin))
        for candidate in (*cast.networks, baseline):
            maps = np.abs(scene.maps(row, candidate))
            for metric in ALIKE:
                parts.setdefault((candidate.name, metric), []).append(METRICS[metric].batch(twin, maps))
    return {key: np.concatenate(values) for key, values in parts.items()}


def first_claim(cast: Cast, images: LabelledImages, seed: int) -> list[Finding]:
    """Gradient maps are as alike as those of two full-precision networks."""
    likeness = magnitude_likeness(cast, images, seed)
    if cast.other_seed is None:
        against = RANDOM_WEIGHTS
        reading = Reading(("more alike than by chance", OPEN), ("less alike than by chance", FAILS))
    else:
        against = OTHER_SEED
        reading = Reading(
            ("more alike than two seeds", HOLDS),
            ("less alike than two seeds", FAILS),
            ("not told apart from two seeds", HOLDS),
        )
    return [
        found(
            network.name,
            f"{METRICS[metric].title} of gradient magnitudes with the twin's, against {against}",
            likeness[network.name, metric],
            likeness[against, metric],
            reading,
        )
        for network in cast.networks
        for metric in ALIKE
    ]


def second_claim(result: Result) -> list[Finding]:
    """SmoothGrad is noisier on the quantized network, and calms its gradient less."""
    rows = [row.title for row in result.plan.rows]
    plain, smooth = rows.index("gradient"), rows.index("smoothgrad")
    noisier = Reading(("noisier", HOLDS), ("calmer", FAILS))
    calmed_less = Reading(("calms it less", HOLDS), ("calms it more", FAILS))
    findings = []
    for judged, network in enumerate(result.plan.judged[1:], 1):
        for metric in NOISE:
            name = f"faithfulness.{metric}"
            noise = {(who, row): result.per_image(who, row, name) for who in (0, judged) for row in (plain, smooth)}
            measured = f"{metric.upper()} of SmoothGrad"
            own, twins = noise[judged, smooth], noise[0, smooth]
            findings.append(found(network.name, f"{measured}, against the twin", own, twins, noisier))
            own, twins = own - noise[judged, plain], twins - noise[0, plain]
            measured += " minus that of Gradient, against the twin"
            findings.append(found(network.name, measured, own, twins, calmed_less))
    return findings


def third_claim(result: Result) -> list[Finding]:
    """GradCAM maps differ from the twin's more than those of two seeds, and are more or less faithful."""
    if result.plan.other_seed is None:
        against = RANDOM_WEIGHTS
        alike = Reading(("more alike than by chance", OPEN), ("less alike than by chance", HOLDS))
    else:
        against = OTHER_SEED
        alike = Reading(("more alike than two seeds", FAILS), ("less alike than two seeds", HOLDS))
    findings = []
    for judged, network in enumerate(result.plan.judged[1:], 1):
        for row in result.method_rows:
            title = result.plan.rows[row].title
            if not title.startswith("grad_cam:"):
                continue
            own, seeds = result.per_image(judged, row, "fidelity.spearman"), f"{against}.spearman"
            measured = f"Spearman of {title} with the twin's, against {against}"
            findings.append(found(network.name, measured, own, result.per_image(0, row, seeds), alike))
            for metric in RIGHT:
                more, less = ("more faithful", HOLDS), ("less faithful", HOLDS)
                reading = Reading(more, less) if FAITHFULNESS[metric].higher_is_better else Reading(less, more)
                name = f"faithfulness.{metric}"
                own, twins = result.per_image(judged, row, name), result.per_image(0, row, name)
                measured = f"{FAITHFULNESS[metric].title} of {title}, against the twin"
                findings.append(found(network.name, measured, own, twins, reading))
    return findings


def claim_table(caption: str, findings: Sequence[Finding]) -> str:
    """Write one claim as Markdown, the verdict below."""
    rows = [
        (
            one.network,
            one.measured,
            cell(one.values[0]),
            cell(one.values[1]),
            cell(one.difference),
            str(one.difference.images),
            f"{one.words}: {one.outcome}",
        )
        for one in findings
    ]
    headers = ("network", "measured", "here", "against", "difference", "images", "verdict")
    return f"{markdown(Table(caption, '', headers, tuple(rows)))}\n{verdict(findings)}\n"


def verdict(findings: Sequence[Finding]) -> str:
    """Say in one line, network by network, how many comparisons bear a claim out."""
    parts = []
    for network in dict.fromkeys(one.network for one in findings):
        outcomes = [one.outcome for one in findings if one.network == network]
        counts = ", ".join(f"{word} in {outcomes.count(word)}" for word in (HOLDS, FAILS, OPEN))
        parts.append(f"on {network} it {counts} of {len(outcomes)} comparisons")
    return f"Verdict: {'; '.join(parts)}."


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--twin", type=Path, required=True, help="the full-precision network, exported by itself")
    parser.add_argument("--networks", type=Path, nargs="+", required=True, help="quantized networks of this twin")
    add_cast_and_images(parser, images=200)
    parser.add_argument("--layers", nargs="+", default=["act1", "act2"], help="of GradCAM (default: act1 act2)")
    parser.add_argument("--output", type=Path, default=Path("out/claims"))
    return parser.parse_args(arguments)


def main(given: Sequence[str] | None = None) -> None:
    """Measure what is missing and print the three tables."""
    arguments = parsed(given)
    cast, images = open_cast_and_images(arguments, [arguments.twin, *arguments.networks])
    rows = parsed_rows(",".join(["gradient", "smoothgrad", *(f"grad_cam:layer={layer}" for layer in arguments.layers)]))
    plan = planned(cast, images, rows, fidelity=("spearman",), faithfulness=(*RIGHT, *NOISE), seed=arguments.seed)
    do_missing(plan, cast, images, arguments.output, WHOLE, lambda line: print(line, file=sys.stderr))
    result = collected(plan, [arguments.output])
    assert result is not None
    print(f"{len(images)} images of {images.name}; means with 95 % bootstrap intervals, differences image by image.\n")
    print(claim_table("Claim 1: gradient maps look alike", first_claim(cast, images, arguments.seed)))
    print(claim_table("Claim 2: SmoothGrad is noisier on quantized networks", second_claim(result)))
    print(claim_table("Claim 3: GradCAM differs by network type", third_claim(result)))
    if cast.other_seed is None:
        print("Without --other-seed, likeness is only held against random weights, which claims 1 and 3 do not settle.")


if __name__ == "__main__":
    try:
        main()
    except BitlensError as error:
        sys.exit(f"claims_2106_12569: {error}")
