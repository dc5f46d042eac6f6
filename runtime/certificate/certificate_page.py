"""A certificate as one self-contained page with pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bitlens.runtime.certificate.certificate import Certificate
from bitlens.runtime.certificate.certificate_text import COMPARED, NO_TWIN, few_images, fidelity_table
from bitlens.runtime.certificate.comparison import NOTHING, ComparedRow, Comparison
from bitlens.runtime.certificate.golden_fidelity import NETWORK, GoldenFidelity, MapsOfMethod
from bitlens.runtime.evaluation.measurement import compared_maps
from bitlens.runtime.fidelity import METRICS
from bitlens.runtime.golden import Golden
from bitlens.runtime.interval_chart import IntervalRow, interval_chart
from bitlens.runtime.methods import METHODS, SURROGATE
from bitlens.runtime.page import Html, PictureCell, page, paragraph, picture_grid, section, table
from bitlens.runtime.parity import EngineParity
from bitlens.runtime.pictures import Picture, colour_map_picture, enlarge, image_picture, png_bytes

Float32 = npt.NDArray[np.float32]

_SIDE = 112  # pixels of a picture, at least
_SHOWN_IMAGES = 8
CHARTED = "spearman"  # the others stand in the table
DRAWN = (
    "Each map is divided by its own largest magnitude. Difference: this network's less the twin's, red where it is "
    "larger, blue where it is smaller; the full colour is a difference of 1."
)


def certificate_page(
    certificate: Certificate,
    golden: Golden,
    labels: Sequence[str],
    maps: Sequence[MapsOfMethod] = (),
    comparison: Comparison | None = None,
    *,
    why_no_fidelity: str = NO_TWIN,
) -> str:
    """Compose the page: one file that refers to nothing outside itself.

    Parameters
    ----------
    certificate : Certificate
    golden : Golden
        The images it is about.
    labels : sequence of str
        Names of the classes.
    maps : sequence of MapsOfMethod
        Of the golden images.
    comparison : Comparison, optional
        With another machine.
    why_no_fidelity : str
        Said where the certificate has none.
    """
    name = certificate.network.name
    sections = [section("Verdict", _verdict(certificate, comparison))]
    if comparison is not None:
        sections.append(section("Two machines", _compared(comparison)))
    sections.append(section("Numerical parity: does this engine compute the network?", _parity(certificate)))
    heading = "Fidelity: are its maps those of the full-precision twin?"
    if certificate.fidelity is None:
        sections.append(section(heading, [paragraph(f"{why_no_fidelity[0].upper()}{why_no_fidelity[1:]}.")]))
    else:
        sections.append(section(heading, _fidelity(certificate.fidelity)))
    sections += [section(f"Maps: {one.row.title}", map_parts(one, golden, labels)) for one in maps]
    sections.append(section("What was verified, and where", [_facts(certificate)]))
    if certificate.fidelity is not None:
        sections.append(section("Metrics", [_meanings()]))
    if comparison is not None:
        sections.append(section("Both machines, row by row", [_rows(comparison.rows, "Here and there")]))
    return page(f"Certificate of {name}", sections)


def _verdict(certificate: Certificate, comparison: Comparison | None) -> list[Html]:
    engines = " and ".join(f"{each.engine.name} {each.engine.version}" for each in certificate.engines)
    images = certificate.engines[0].images
    if certificate.holds:
        said = (
            f"Numerical parity holds: on this machine {engines} compute{'s' if len(certificate.engines) == 1 else ''} "
            f"the network as the desktop did that exported it, on {images} golden images."
        )
        far = ", ".join(each.engine.name for each in certificate.engines if not each.holds)
        if far:
            said += f" The gradient in bytes of {far} is not as near to the exact one as asked for: see its numbers."
    else:
        bad = ", ".join(each.engine.name for each in certificate.engines if not each.holds)
        said = f"Numerical parity DOES NOT HOLD for {bad}, on {images} golden images: what differs stands below."
    parts = [paragraph(said)]
    if comparison is not None:
        parts.append(paragraph(f"The two machines {'agree' if comparison.agree else 'DO NOT AGREE'}."))
    parts.append(
        paragraph(
            "Fidelity is another question, and no part of this verdict: an engine can compute a network exactly whose "
            "maps are far from its full-precision twin's."
        )
    )
    return parts


def _parity(certificate: Certificate) -> list[Html]:
    full_precision = certificate.engines[0].full_precision
    headers = ("", *(f"{each.engine.name} {each.engine.version}" for each in certificate.engines))
    facts = [_engine_facts(each) for each in certificate.engines]
    rows = [(what, *(each[what] for each in facts)) for what in facts[0]]
    rows = [row for row in rows if set(row[1:]) != {NOTHING}]
    tolerances = certificate.tolerances
    parts = [
        table(headers, rows, "Every engine on this machine"),
        paragraph(
            "Codes and masks are compared bit for bit with the reference engine's on this machine, accumulators with "
            "those of the desktop, and the hash of all three with the desktop's. Errors are the largest of any image, "
            f"relative to its largest element; allowed are {tolerances.gradient:g} for the gradient of the predicted "
            f"class and {tolerances.logits:g} for the logits."
        ),
    ]
    if any(each.likeness is not None for each in certificate.engines):
        parts.append(
            paragraph(
                "A gradient in bytes is another gradient, near the exact one: on every image its cosine with the "
                f"desktop's must be at least {tolerances.int8_cosine:g}, and Spearman's correlation of their "
                f"magnitudes at least {tolerances.int8_spearman:g} in the mean, in place of the tolerance."
            )
        )
    if full_precision:
        parts.append(
            paragraph(
                "A full-precision network has no codes: it is held to its classes and its gradient, of which "
                f"{100 * tolerances.full_precision_exceptions:g} % of the images, or one, may lie beyond the tolerance."
            )
        )
    found = [(each.engine.name, line) for each in certificate.engines for line in each.differences()]
    if found:
        parts.append(table(("engine", "what differs"), found, "What differs, and where; counted from 0"))
    return parts


def _pair(mean: float, smallest: float) -> str:
    return f"{mean:.5f}, {smallest:.5f}"


def _engine_facts(each: EngineParity) -> dict[str, str]:
    near = each.likeness
    exact = {
        "codes that differ": f"{each.differing_codes:,} of {each.codes:,}",
        "mask bits that differ": f"{each.differing_masks:,} of {each.masks:,}",
        "logit accumulators that differ": f"{each.differing_accumulators:,}",
        "hash of all three": "the desktop's" if each.trace_equal else "ANOTHER than the desktop's",
    }
    return {
        "verdict": "holds" if each.holds else "gradient not near enough" if each.forward_holds else "DOES NOT HOLD",
        "kernels": each.engine.kernels,
        "threads": str(each.engine.threads),
        **({} if each.full_precision else exact),
        "images with another class": f"{each.differing_classes} of {each.images}",
        "largest logit error": f"{each.logit_error:.1e}",
        "gradient computed in": each.engine.gradients,
        "largest gradient error": f"{each.gradient_error:.1e}",
        "cosine of gradients, mean and smallest": NOTHING
        if near is None
        else _pair(near.mean_cosine, near.smallest_cosine),
        "Spearman of magnitudes, mean and smallest": (
            NOTHING if near is None else _pair(near.mean_spearman, near.smallest_spearman)
        ),
        "gradients beyond the tolerance": f"{each.gradient_exceptions} of {each.images}",
    }


def _fidelity(fidelity: GoldenFidelity) -> list[Html]:
    said = few_images(fidelity)
    parts = [
        paragraph(
            f"Maps of the golden images for the class that the network gives, made by {fidelity.engine}, beside the "
            f"twin's. These are {said}."
        ),
        paragraph(
            "Read each number beside its baselines: the twin with the weights of every layer in a random order (a map "
            "as close as this one shows the image, not what was learned), and a random map."
        ),
    ]
    metric = METRICS[CHARTED]
    rows = []
    for method in fidelity.methods:
        for of in COMPARED:
            mean = fidelity.mean(method, of, CHARTED)
            if mean is not None:
                label = "this network" if of == NETWORK else of
                rows.append(IntervalRow(method, label, mean.mean, mean.low, mean.high, of != NETWORK))
    parts.append(
        interval_chart(
            rows,
            x_label=f"{metric.title}, higher is better",
            caption=f"{metric.title} with the twin's maps: mean over {fidelity.images} images with its 95 % bootstrap "
            "interval; hollow: baselines",
        )
    )
    headers, cells = fidelity_table(fidelity)
    for method in fidelity.methods:
        own = [row[1:] for row in cells if row[0] == method]
        parts.append(table(headers[1:], own, f"{method}: means with 95 % intervals, over the images where defined"))
    return parts


def _meanings() -> Html:
    rows = [(metric.title, metric.meaning, metric.undefined) for metric in METRICS.values()]
    return table(("metric", "meaning", "undefined where"), rows, "What each number means; higher is better everywhere")


def map_parts(maps: MapsOfMethod, golden: Golden, labels: Sequence[str]) -> list[Html]:
    """Show image, the network's map, the twin's and their difference, a row per image."""
    method = METHODS[maps.row.method]
    spearman = compared_maps("spearman", maps.twin, maps.network)
    headers, cells = [], []
    for place, image in enumerate(golden.images[:_SHOWN_IMAGES]):
        label = _label(labels, int(golden.labels[place]))
        said = _label(labels, int(golden.targets[place]))
        headers.append(f"image {place}")
        network, twin = (_scaled(one[place]) for one in (maps.network, maps.twin))
        alike = "undefined" if math.isnan(spearman[place]) else f"{spearman[place]:.2f}"
        shown = image if image.shape[0] in (1, 3) else image[:1]
        cells.append(
            [
                PictureCell(_enlarged(image_picture(shown)), f"the image, labelled {label}", label),
                _map_cell(network, method.signed, f"{method.title} of this network for {said}", f"for {said}"),
                _map_cell(twin, method.signed, f"{method.title} of the twin for {said}", f"Spearman {alike}"),
                _map_cell(network - twin, True, f"this network's map less the twin's, Spearman {alike}", ""),
            ]
        )
    colours = "Red: for, blue: against, white: nothing." if method.signed else "Bright: most."
    surrogate = f" {SURROGATE}" if method.needs_gradient else ""
    caption = f"{maps.row.title}, the first {len(headers)} of {len(golden.images)} images"
    return [
        paragraph(f"{method.meaning} {colours}{surrogate}"),
        paragraph(DRAWN),
        picture_grid(headers, ("image", "this network", "twin", "difference"), cells, caption),
    ]


def _scaled(values: Float32) -> Float32:
    largest = np.abs(values).max()
    return values / largest if largest > 0 else values


def _map_cell(values: Float32, signed: bool, alt: str, note: str) -> PictureCell | None:
    if not np.isfinite(values).all():
        return None
    return PictureCell(_enlarged(colour_map_picture(values, signed, limit=1.0)), alt, note)


def _enlarged(picture: Picture) -> bytes:
    return png_bytes(enlarge(picture, max(1, -(-_SIDE // min(picture.shape[:2])))))


def _label(labels: Sequence[str], index: int) -> str:
    return labels[index] if 0 <= index < len(labels) else str(index)


def _compared(comparison: Comparison) -> list[Html]:
    there = comparison.there.machine
    parts = [
        paragraph(
            f"Beside the certificate of {there.name or there.processor}, of the same bundle. Versions and float errors "
            "may differ; codes, masks and accumulators may not."
        )
    ]
    if comparison.differences:
        said = [(str(number), line) for number, line in enumerate(comparison.differences, 1)]
        parts.append(table(("", "what differs and must not"), said, "Differences, from the input to the output"))
    differing = [row for row in comparison.rows if not row.equal]
    if differing:
        parts.append(_rows(differing, f"{len(differing)} of {len(comparison.rows)} rows differ; all stand at the end"))
    return parts


def _rows(rows: Sequence[ComparedRow], caption: str) -> Html:
    return table(("", "here", "there", ""), [(row.what, row.here, row.there, row.verdict) for row in rows], caption)


def _facts(certificate: Certificate) -> Html:
    network, machine = certificate.network, certificate.machine
    rows = [
        ("bundle", network.name),
        ("SHA-256 of the bundle", network.bundle_sha256),
        ("SHA-256 of its program", network.program_sha256),
        ("form of bundle and program", f"{network.bundle_version} and {network.program_version}"),
        ("precision", network.precision or "not said"),
        *([("machine", machine.name)] if machine.name else []),
        ("processor", f"{machine.processor} ({machine.architecture})"),
        ("system", machine.system),
        *([("board meanwhile", str(certificate.board))] if certificate.board and str(certificate.board) else []),
        ("Python, NumPy, bitlens", f"{machine.python}, {machine.numpy}, {certificate.bitlens}"),
        *((f"hash of codes, masks and accumulators: {each.engine.name}", _trace(each)) for each in certificate.engines),
    ]
    return table(("what", ""), rows, "A hash finds damage and mistakes; it is no signature")


def _trace(engine: EngineParity) -> str:
    return "none, floats need not be the same bits" if engine.full_precision else engine.trace_sha256
