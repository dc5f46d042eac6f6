"""`bitlens doctor`: what this machine has, what bitlens chooses for it, and how to get what is missing."""

from __future__ import annotations

import argparse
import json
import os
import textwrap
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version

from bitlens.runtime.board_state import BoardState, board_state
from bitlens.runtime.data_folder import DATA_VARIABLE, cache_folder, data_folder
from bitlens.runtime.engines import ENGINES, is_installed
from bitlens.runtime.engines.native import KERNELS_VARIABLE, allowed_instruction_sets
from bitlens.runtime.equipment import Equipment, equipment
from bitlens.runtime.errors import BitlensError, how_to_install
from bitlens.runtime.json_form import to_json
from bitlens.runtime.machine import Machine, this_machine
from bitlens.runtime.native.kernels import MODULE, kernels
from bitlens.runtime.trust import trust_list_path
from bitlens.runtime.verbs.options import add_json

HELP = "say what this machine has: processor, kernels, engines, camera and more, and how to get what is missing"
NEEDS = ()

COLUMNS, LABEL_COLUMNS = 100, 16


@dataclass(frozen=True)
class KernelFamily:
    """Kernels that compute one thing, by instruction set; a layer gets the first of `usable` that fits it.

    Parameters
    ----------
    name : str
    usable : tuple of str
        Instruction sets that may be used here, in order of preference.
    forbidden : tuple of str
        That this processor has and the environment does not allow.
    foreign : tuple of str
        That this processor does not have.
    """

    name: str
    usable: tuple[str, ...]
    forbidden: tuple[str, ...]
    foreign: tuple[str, ...]


@dataclass(frozen=True)
class EngineState:
    """One engine: `problem` says what is missing or broken, and what to do; empty if it can be opened."""

    name: str
    is_installed: bool
    problem: str


@dataclass(frozen=True)
class Diagnosis:
    """What there is.

    Parameters
    ----------
    bitlens : str
        Version.
    machine : Machine
    features : dict, or None
        Whether the processor has what kernels are written for; None without the compiled part, as for `families`.
    forced_kernels : str
        What the environment says of kernels; empty if nothing.
    families : tuple of KernelFamily, or None
    engines : tuple of EngineState
        The fastest first.
    picture_decoder : str
        Name and version; empty if there is none.
    board : BoardState
        Temperature, throttling, governor.
    equipment : tuple of Equipment
        Camera, display, programs and the like, found or missing.
    data_folder : str
        Of data sets; empty if none is named.
    downloads, trust_list : str
        Where downloaded data sets and the list of trusted bundles are, or will be.
    problems : tuple of str
        What is there and does not work. What is not installed is none.
    """

    bitlens: str
    machine: Machine
    features: dict[str, bool] | None
    forced_kernels: str
    families: tuple[KernelFamily, ...] | None
    engines: tuple[EngineState, ...]
    picture_decoder: str
    board: BoardState
    equipment: tuple[Equipment, ...]
    data_folder: str
    downloads: str
    trust_list: str
    problems: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bitlens doctor`."""
    add_json(parser)


def kernel_families(allowed: list[str]) -> tuple[KernelFamily, ...]:
    """List the kernels of this build; those of allowed instruction sets may be used, scalar ones always."""
    module = kernels()
    listed = [(family, name, runs) for family, name, _, _, _, runs in module.sum_kernels()]
    listed += [("expand", name, runs) for name, runs in module.expand_kernels()]
    listed += [("rows", name, runs) for name, runs in module.row_function_sets()]
    families = []
    for family in sorted({family for family, _, _ in listed}):
        sets = {name: runs for other, name, runs in listed if other == family}  # one each, in order of preference
        here = [name for name, runs in sets.items() if runs]
        usable = [name for name in here if name in allowed or name == "scalar"]
        forbidden = [name for name in here if name not in usable]
        foreign = [name for name in sets if name not in here]
        families.append(KernelFamily(family, tuple(usable), tuple(forbidden), tuple(foreign)))
    return tuple(families)


def diagnosed() -> Diagnosis:
    """Look at this machine."""
    engines = tuple(engine_state(name) for name in sorted(ENGINES, key=lambda name: -ENGINES[name].speed))
    problems = [f"{each.name} is {each.problem}" for each in engines if each.is_installed and each.problem]
    features = families = None
    if all(not each.problem for each in engines if MODULE in ENGINES[each.name].modules):
        features = dict(kernels().cpu_features())
        try:
            families = kernel_families(allowed_instruction_sets())
        except BitlensError as error:
            problems.append(str(error))
    data = ""
    try:
        data = str(data_folder() or "")
    except BitlensError as error:
        problems.append(str(error))
    machine = this_machine()
    return Diagnosis(
        bitlens=version("bitlens"),
        machine=machine,
        features=features,
        forced_kernels=os.environ.get(KERNELS_VARIABLE, ""),
        families=families,
        engines=engines,
        picture_decoder=_picture_decoder(),
        board=board_state(),
        equipment=equipment(machine.board),
        data_folder=data,
        downloads=str(cache_folder()),
        trust_list=str(trust_list_path()),
        problems=tuple(problems),
    )


def engine_state(name: str) -> EngineState:
    """Say whether an engine could be opened; its module is loaded for that."""
    entry = ENGINES[name]
    if not is_installed(name):
        return EngineState(name, False, f"not installed: {how_to_install(entry.extra)}")
    try:
        if entry.load is not None:
            entry.load()
        elif entry.modules:
            import_module(entry.modules[0])
    except BitlensError as error:  # says itself what to do
        return EngineState(name, True, f"installed but does not load: {error}")
    except Exception as error:  # whatever a broken installation raises
        return EngineState(name, True, f"installed but does not load ({error}): {how_to_install(entry.extra)}")
    return EngineState(name, True, "")


def _picture_decoder() -> str:
    try:
        import PIL
    except ImportError:
        return ""
    return f"Pillow {PIL.__version__}"


def diagnosis_lines(diagnosis: Diagnosis) -> list[str]:
    """Say it for a person, at most `COLUMNS` wide."""
    machine = diagnosis.machine
    lines = [
        _said("machine", f"{machine.processor} ({machine.architecture}), {machine.system}"),
        _said("versions", f"bitlens {diagnosis.bitlens}, Python {machine.python}, NumPy {machine.numpy}"),
    ]
    if diagnosis.features is not None:
        features = [name for name, there in diagnosis.features.items() if there]
        lines.append(_said("features", ", ".join(features) or "none that kernels are written for"))
    lines.append(_said("engines", f"auto takes {next(each.name for each in diagnosis.engines if not each.problem)}"))
    lines += [_said(f"  {each.name}", each.problem or "present") for each in diagnosis.engines]
    if diagnosis.families is not None:
        forced = f"{KERNELS_VARIABLE}={diagnosis.forced_kernels}: " if diagnosis.forced_kernels else ""
        lines.append(_said("kernels", f"{forced}the first that fits a layer is used"))
        lines += [_said(f"  {family.name}", _family(family)) for family in diagnosis.families]
    lines += [
        _said("board", _board(diagnosis.board)),
        *(
            _said(f"  {each.name}", each.found or f"none ({each.purpose}): {each.remedy}")
            for each in diagnosis.equipment
        ),
        _said("pictures", diagnosis.picture_decoder or f"none, .npy alone: {how_to_install('image')}"),
        _said("data sets", diagnosis.data_folder or f"{DATA_VARIABLE} is not set, so training downloads them"),
        _said("downloads", diagnosis.downloads),
        _said("trust list", diagnosis.trust_list),
        *(_said("PROBLEM", problem) for problem in diagnosis.problems),
    ]
    return lines


def _board(state: BoardState) -> str:
    said = [] if state.temperature_celsius is None else [f"{state.temperature_celsius:.1f} \N{DEGREE SIGN}C"]
    said += [f"governor {state.governor}"] if state.governor else []
    if state.throttle_bits is not None:
        slowed = state.slowed_by or tuple(f"{name} since the start" for name in state.slowed_since_start)
        said.append(f"slowed down ({', '.join(slowed)}): a fan, or a better supply" if slowed else "not slowed down")
    return ", ".join(said) or "says nothing of its temperature, throttling or governor"


def _family(family: KernelFamily) -> str:
    said = ", ".join(family.usable)
    if family.forbidden:
        said += f"; not allowed: {', '.join(family.forbidden)}"
    if family.foreign:
        said += f"; not on this processor: {', '.join(family.foreign)}"
    return said


def _said(label: str, text: str) -> str:
    start = f"{label:{LABEL_COLUMNS}}  "
    return textwrap.fill(
        text,
        COLUMNS,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,  # commands are copied
    )


def run(arguments: argparse.Namespace) -> int:
    """Print it; 0 unless something that is there does not work."""
    diagnosis = diagnosed()
    if arguments.json:
        print(json.dumps(to_json(diagnosis)))
    else:
        print("\n".join(diagnosis_lines(diagnosis)))
    return 1 if diagnosis.problems else 0
