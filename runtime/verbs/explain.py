"""`bitlens explain`: a picture of what the decision was based on."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bitlens.runtime.atomic_file import write_files_atomically
from bitlens.runtime.engines import Engine
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.explanation import GAP, Explanation, explanation_picture, panel_factor, shown_image
from bitlens.runtime.lettering import lettering
from bitlens.runtime.methods import METHODS, SURROGATE, Method, Value, method
from bitlens.runtime.methods.heat_picture import heat_picture
from bitlens.runtime.methods.integrated_gradients import completeness_gap
from bitlens.runtime.page import PictureCell, page, paragraph, picture_grid, section, table
from bitlens.runtime.pictures import WHITE, Picture, enlarge, png_bytes, tile
from bitlens.runtime.program import Array
from bitlens.runtime.verbs.options import (
    add_engine,
    add_image,
    add_json,
    add_optional_network,
    chosen_target,
    opened_engine,
    opened_image,
)

HELP = "show what a decision was based on"
NEEDS = ()

ALL = "all"
SHEET_COLUMNS = 6
LABEL_LINES = 2
LONG = 100  # passes from which the cost is said before the work begins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bitlens explain`."""
    add_optional_network(parser)
    add_image(parser)
    parser.add_argument(
        "--method", default="gradient", help=f"{', '.join(METHODS)}, or {ALL} of them (default: %(default)s)"
    )
    parser.add_argument(
        "--target", default="predicted", help="'predicted', a class number or a label (default: %(default)s)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the method, may be repeated; docs/methods.md lists them",
    )
    parser.add_argument("--seed", type=int, help="for methods that draw random numbers (default: 0)")
    parser.add_argument(
        "--layer", help="for grad_cam and its kin: a feature map, by the name `bitlens info` lists (default: the last)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.png",
        help="picture, or a page with --output FILE.html (default: IMAGE.METHOD.png here)",
    )
    parser.add_argument("--map", type=Path, metavar="FILE.npy", help="also write the map itself, float32 (C, H, W)")
    add_engine(parser)
    add_json(parser)


def contact_sheet(image: Array, explanations: Sequence[Explanation]) -> Picture:
    """Image and heat maps in rows, each below its method's name; every map has its own scale.

    Parameters
    ----------
    image : (C, H, W)
        Codes, or x.
    explanations : sequence of Explanation
    """
    shown = shown_image(image)
    factor = panel_factor(shown)
    panels = [("image", shown)] + [(each.method.title, heat_picture(each.method, each.values)) for each in explanations]
    labelled = [
        np.concatenate([lettering(title, shown.shape[1] * factor, LABEL_LINES), enlarge(panel, factor)])
        for title, panel in panels
    ]
    columns = min(SHEET_COLUMNS, len(labelled))
    labelled += [np.full_like(labelled[0], WHITE)] * (-len(labelled) % columns)
    return tile([labelled[start : start + columns] for start in range(0, len(labelled), columns)], GAP)


def explanation_page(title: str, image: Array, explanations: Sequence[Explanation], engine: Engine) -> str:
    """Compose a page: the pictures, and what each method cost and means.

    Parameters
    ----------
    title : str
    image : (C, H, W)
        Codes, or x.
    explanations : sequence of Explanation
    engine : Engine
        Which made them.
    """
    titles = [each.method.title for each in explanations]
    cells = [
        [PictureCell(png_bytes(explanation_picture(image, each)), f"image, {each.method.title} map, and both")]
        for each in explanations
    ]
    rows = [
        (each.method.title, each.method.paper, str(each.passes), each.method.meaning_for(engine.program))
        for each in explanations
    ]
    grid = picture_grid(titles, ["image, map, both"], cells, "Each map has its own scale.")
    what = table(("method", "paper", "cost", "what it shows"), rows, f"Run by {engine.info.name}")
    gaps = [
        paragraph(f"{each.method.title}: completeness gap {each.gap:+.3g} logits.")
        for each in explanations
        if each.gap is not None
    ]
    return page(title, [section("Maps", [grid]), section("Methods", [what, *gaps])])


def _settings(chosen: Method, arguments: argparse.Namespace) -> dict[str, Value]:
    """Options for one method, refused where it does not have them."""
    settings = chosen.settings(arguments.set)
    names = {option.name for option in chosen.options}
    if arguments.layer is not None:
        if "layer" not in names:
            raise BitlensError(f"{chosen.name} looks at no layer: leave --layer out, or use --method grad_cam")
        settings["layer"] = arguments.layer
    if arguments.seed is not None:
        if "seed" not in names:
            raise BitlensError(f"{chosen.name} draws no random numbers: leave --seed out")
        settings["seed"] = arguments.seed
    return settings


def _settings_where_they_fit(chosen: Method, arguments: argparse.Namespace) -> dict[str, Value]:
    """Options for one of all methods: each takes what it has."""
    names = {option.name for option in chosen.options}
    own = argparse.Namespace(
        set=[text for text in arguments.set if text.partition("=")[0] in names],
        layer=arguments.layer if "layer" in names else None,
        seed=arguments.seed if "seed" in names else None,
    )
    return _settings(chosen, own)


def _chosen(arguments: argparse.Namespace) -> list[tuple[Method, dict[str, Value]]]:
    if arguments.method != ALL:
        one = method(arguments.method)
        return [(one, _settings(one, arguments))]
    if arguments.map is not None:
        raise BitlensError("--map holds one map: choose one --method")
    known = {option.name for each in METHODS.values() for option in each.options}
    for text in arguments.set:
        if text.partition("=")[0] not in known:
            raise BitlensError(
                f"no method has an option {text.partition('=')[0]!r}: choose from {', '.join(sorted(known))}"
            )
    return [(each, _settings_where_they_fit(each, arguments)) for each in METHODS.values()]


def _explained(engine: Engine, image: Array, target: int, chosen: Method, settings: Mapping[str, Value]) -> Explanation:
    values = chosen.function(engine, image, [target], **settings)
    gap = None
    if chosen.name == "integrated_gradients":
        shared = {name: value for name, value in settings.items() if name in ("baseline", "seed")}
        gap = float(completeness_gap(engine, image, [target], values, **shared)[0])  # type: ignore[arg-type]
    return Explanation(chosen, settings, chosen.passes(engine.program, **settings), values[0], gap)


def _facts(explanation: Explanation, engine: Engine) -> dict[str, object]:
    return {
        "name": explanation.method.name,
        "settings": dict(explanation.settings),
        "forward_passes": explanation.passes.forward,
        "backward_passes": explanation.passes.backward,
        "at_most": explanation.passes.at_most,
        "completeness_gap": explanation.gap,
        "meaning": explanation.method.meaning_for(engine.program),
    }


def run(arguments: argparse.Namespace) -> int:
    """Write the picture, and say what it shows."""
    chosen = _chosen(arguments)
    network, engine = opened_engine(arguments)
    image = opened_image(arguments, network)
    logits = engine.forward(image)[0]
    target = chosen_target(arguments.target, network, int(logits.argmax()), len(logits))
    output = arguments.output or Path(f"{arguments.image.stem}.{arguments.method}.png")
    if arguments.map == output:
        raise BitlensError(f"--output and --map are both {output}: give each its own file")
    explanations, left_out = [], []
    for one, settings in chosen:
        passes = one.passes(network.program, **settings)
        if passes.forward + passes.backward > LONG and not arguments.json:
            print(f"{one.name} takes {passes}", flush=True)
        try:
            explanations.append(_explained(engine, image, target, one, settings))
        except BitlensError as error:
            if arguments.method != ALL:
                raise
            left_out.append(f"{one.name} is left out: {error}")
    if not explanations:
        raise BitlensError(left_out[0])
    label = network.label(target)
    if output.suffix == ".html":
        content = explanation_page(f"{arguments.image.name}: {label}", image[0], explanations, engine).encode()
    elif arguments.method == ALL:
        content = png_bytes(contact_sheet(image[0], explanations))
    else:
        content = png_bytes(explanation_picture(image[0], explanations[0]))
    files = {output: content}
    if arguments.map is not None:
        stream = io.BytesIO()
        np.save(stream, explanations[0].values.astype(np.float32), allow_pickle=False)
        files[arguments.map] = stream.getvalue()
    write_files_atomically(files)
    result: dict[str, object] = {
        "engine": engine.info.name,
        "method": arguments.method,
        "target": target,
        "label": label,
        "logit": float(logits[target]),
        "picture": str(output),
        "map": None if arguments.map is None else str(arguments.map),
    }
    if arguments.json:
        facts = [_facts(each, engine) for each in explanations]
        print(json.dumps(result | ({"methods": facts, "left_out": left_out} if arguments.method == ALL else facts[0])))
        return 0
    print(f"{output}: {arguments.method} for {label!r} (logit {logits[target]:+.3f})")
    print("\n".join([*_told(explanations, engine), *left_out]))
    return 0


def _told(explanations: Sequence[Explanation], engine: Engine) -> list[str]:
    """Lines for a person."""
    if len(explanations) == 1:
        (one,) = explanations
        lines = [f"engine {engine.info.name}, {one.passes}; left to right: image, map, both"]
        lines.append(one.method.meaning_for(engine.program))
    else:
        lines = [f"engine {engine.info.name}; every map has its own scale"]
        lines += [f"{each.method.title}: {each.method.meaning}" for each in explanations]
        if not engine.program.is_full_precision:
            lines.append(SURROGATE)
    for each in explanations:
        if each.gap is not None:
            lines.append(f"completeness gap of {each.method.name}: {each.gap:+.3g} logits")
        if not each.values.any():
            other = "--layer or --method" if "layer" in {option.name for option in each.method.options} else "--method"
            lines.append(
                f"The map of {each.method.name} is zero everywhere: the method found nothing that moves this class; "
                f"try another {other}."
            )
    return lines
