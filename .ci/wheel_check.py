"""Read wheels and a sdist and say what a machine must have for them: `python .ci/wheel_check.py dist/*`; 1 if too much.

Nothing of a wheel is run, so that one for another processor or another Python is read as well as any.
"""

from __future__ import annotations

import bisect
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

# Raspberry Pi OS and Debian 12, bookworm: glibc 2.36, and libstdc++ of gcc 12.
BOOKWORM = {"GLIBC": (2, 36), "GLIBCXX": (3, 4, 30), "CXXABI": (1, 3, 13), "GCC": (12, 0, 0)}
LIBRARIES = re.compile(r"(lib(stdc\+\+|m|gcc_s|c|pthread)|ld-linux-(aarch64|x86-64))\.so\.\d+")

WHEEL = re.compile(r"bitlens-[^-]+-(?P<python>cp311-cp311|cp312-abi3)-(?P<platform>[a-z0-9_.]+)\.whl")
GLIBC_TAG = re.compile(r"manylinux_2_(?P<minor>\d+)_(?P<machine>x86_64|aarch64)")
MODULES = {
    "cp311-cp311": "bitlens/runtime/_kernels.cpython-311-{machine}-linux-gnu.so",
    "cp312-abi3": "bitlens/runtime/_kernels.abi3.so",
}

OBJDUMP, ASSEMBLER = "aarch64-linux-gnu-objdump", "aarch64-linux-gnu-as"
REFUSED = re.compile(r":(\d+): Error: selected processor does not support")

INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\t(\S+)\s*(.*)")
TARGET = re.compile(r"\b([0-9a-f]+) <[^>]*>")
BRANCH = re.compile(r"b|bl|b\..+|cbn?z|tbn?z")
FRAME = re.compile(r" FDE .*pc=([0-9a-f]+)\.\.([0-9a-f]+)")

MUST_BE_IN_SDIST = ("pyproject.toml", "LICENSE", "PKG-INFO", "runtime/cli.py", "runtime/kernels/CMakeLists.txt")
LARGEST_BYTES = 2**21


@dataclass(frozen=True)
class Instruction:
    """One line of a disassembly."""

    address: int
    name: str
    operands: str


@dataclass(frozen=True)
class Report:
    """What a file says, in a line, and what is wrong with it."""

    said: str
    problems: tuple[str, ...]


def output_of(*command: str) -> str:
    """Run a program that reads files."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def versions_needed(text: str) -> dict[str, tuple[int, ...]]:
    """Largest version of each family, from `readelf -V`: what the module wants, not what it offers."""
    largest: dict[str, tuple[int, ...]] = {}
    wanted = text.partition("Version needs section")[2]
    for family, version in re.findall(r"Name: ([A-Z]+)_(\d+(?:\.\d+)+)", wanted):
        numbers = tuple(map(int, version.split(".")))
        largest[family] = max(largest.get(family, ()), numbers)
    return largest


def too_new(needed: dict[str, tuple[int, ...]]) -> list[str]:
    """Say which versions bookworm does not have."""
    return [
        f"needs {family}_{'.'.join(map(str, version))}, bookworm has {'.'.join(map(str, BOOKWORM.get(family, ())))}"
        for family, version in needed.items()
        if version > BOOKWORM.get(family, ())
    ]


def instructions_of(disassembly: str) -> list[Instruction]:
    """Read what `objdump -d --no-show-raw-insn` wrote."""
    found = (INSTRUCTION.match(line) for line in disassembly.splitlines())
    return [Instruction(int(each[1], 16), each[2], each[3].split("//")[0].strip()) for each in found if each]


def beyond_baseline(instructions: Sequence[Instruction]) -> list[Instruction]:
    """Instructions that the assembler refuses for a processor of armv8-a, without extensions."""
    texts = [f"{each.name} {TARGET.sub('.', each.operands)}" for each in instructions]
    distinct = list(dict.fromkeys(texts))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "all.s"
        source.write_text("\n".join(distinct) + "\n")
        command = [ASSEMBLER, "-march=armv8-a", "-o", f"{folder}/all.o", str(source)]
        said = subprocess.run(command, capture_output=True, text=True).stderr
    refused = {distinct[int(number) - 1] for number in REFUSED.findall(said)}
    return [each for each, text in zip(instructions, texts, strict=True) if text in refused]


def guarded(instructions: Sequence[Instruction]) -> set[int]:
    """Addresses of atomic instructions that libgcc's own helpers run only where the processor has them.

    Such a helper asks a byte that was set from the operating system's word: `ldrb w16`, `cbz w16` past the instruction.
    """
    return {
        third.address
        for first, second, third in zip(instructions, instructions[1:], instructions[2:], strict=False)
        if (first.name, first.operands[:4]) == ("ldrb", "w16,")
        and (second.name, second.operands[:4]) == ("cbz", "w16,")
        and re.fullmatch(r"(cas|swp|ldadd|ldclr|ldeor|ldset)(a|l|al)?[bh]?", third.name)
    }


def functions_of(frames: str) -> list[tuple[int, int]]:
    """Where each function begins and ends, from `readelf --debug-dump=frames`, in order."""
    return sorted({(int(first, 16), int(last, 16)) for first, last in FRAME.findall(frames)})


def blocks_of(
    instructions: Sequence[Instruction], beyond: Sequence[Instruction], functions: Sequence[tuple[int, int]]
) -> list[list[tuple[int, int]]]:
    """Functions with such instructions and all that lead to one by a call or a jump, as runs of neighbours.

    Each run is a file's: what a kernel's file holds is reached through the table of kernels, by a pointer. Were
    anything else to call it, the caller would stand here, far from it.
    """
    starts = [first for first, _ in functions]

    def place(address: int) -> int:
        index = bisect.bisect_right(starts, address) - 1
        return index if index >= 0 and address < functions[index][1] else -1

    callers: dict[int, set[int]] = {}
    for each in instructions:
        if BRANCH.fullmatch(each.name):
            target = TARGET.search(each.operands)
            if target:
                callers.setdefault(place(int(target[1], 16)), set()).add(place(each.address))
    reached, todo = set(), {place(each.address) for each in beyond}
    while todo:
        reached |= todo
        todo = {caller for each in todo for caller in callers.get(each, set())} - reached
    runs: list[list[tuple[int, int]]] = []
    previous = -9
    for index in sorted(reached):
        if index != previous + 1:
            runs.append([])
        runs[-1].append(functions[index] if index >= 0 else (0, 0))
        previous = index
    return runs


def instruction_report(module: Path) -> Report:
    """Say which instructions of an aarch64 module go beyond armv8-a, and whether one file holds them."""
    if not (shutil.which(OBJDUMP) and shutil.which(ASSEMBLER)):
        return Report(f"instructions NOT READ, no {OBJDUMP}: apt install binutils-aarch64-linux-gnu", ())
    instructions = instructions_of(output_of(OBJDUMP, "-d", "--no-show-raw-insn", str(module)))
    helpers = guarded(instructions)
    beyond = [each for each in beyond_baseline(instructions) if each.address not in helpers]
    names = sorted({each.name for each in beyond})
    functions = functions_of(output_of("readelf", "--debug-dump=frames", str(module)))
    runs = blocks_of(instructions, beyond, functions)
    problems = []
    if names != ["sdot"]:  # none at all would mean that the kernels for a Pi 5 are missing, or are not found
        problems.append(f"beyond armv8-a it has {', '.join(names) or 'nothing'}, expected sdot alone")
    if len(runs) > 1:
        problems.append(f"functions in {len(runs)} places lead to instructions beyond armv8-a, expected one file's")
    said = f"{len(beyond)} of {len(instructions):,} instructions beyond armv8-a ({', '.join(names)})"
    return Report(f"{said}, in {sum(map(len, runs))} function(s) of one file", tuple(problems))


def metadata_problems(text: str) -> list[str]:
    """NumPy is all that an installation pulls."""
    facts = Parser().parsestr(text)
    needed = [each for each in facts.get_all("Requires-Dist", []) if "extra ==" not in each]
    return (
        [] if [re.split(r"[<>=!~ ;]", each)[0] for each in needed] == ["numpy"] else [f"needs {needed}, expected NumPy"]
    )


def wheel_report(path: Path) -> Report:
    """Read one wheel."""
    name = WHEEL.fullmatch(path.name)
    tags = [GLIBC_TAG.fullmatch(tag) for tag in name["platform"].split(".")] if name else []
    if name is None or not tags or None in tags:
        return Report("", ("expected bitlens-VERSION-{cp311-cp311,cp312-abi3}-manylinux_2_N_{x86_64,aarch64}.whl",))
    (machine,) = {tag["machine"] for tag in tags if tag}
    minor = min(int(tag["minor"]) for tag in tags if tag)
    problems = [f"wants glibc 2.{minor}, bookworm has 2.36"] if minor > BOOKWORM["GLIBC"][1] else []
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        members = archive.namelist()
        (metadata,) = (each for each in members if each.endswith(".dist-info/METADATA"))
        problems += metadata_problems(archive.read(metadata).decode())
        wanted = MODULES[name["python"]].format(machine=machine)
        compiled = [each for each in members if ".so" in each]
        if compiled != [wanted]:
            return Report("", (*problems, f"holds {compiled}, expected {wanted} alone"))
        module = Path(archive.extract(wanted, folder))
        header, dynamic = output_of("readelf", "-h", str(module)), output_of("readelf", "-d", "-W", str(module))
        if {"aarch64": "AArch64", "x86_64": "X86-64"}[machine] not in header:
            problems.append(f"its module is not for {machine}")
        libraries = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
        problems += [
            f"needs {each}, which not every machine has" for each in libraries if not LIBRARIES.fullmatch(each)
        ]
        needed = versions_needed(output_of("readelf", "-V", "-W", str(module)))
        problems += too_new(needed)
        code = instruction_report(module) if machine == "aarch64" else Report("", ())
    audit = Path(sys.executable).parent / "abi3audit"
    if name["python"].endswith("abi3") and audit.exists():
        done = subprocess.run([str(audit), "--strict", str(path)], capture_output=True, text=True)
        if done.returncode:
            problems.append(f"is not within the stable ABI of Python 3.12: {' '.join(done.stderr.split())[-200:]}")
    symbols = ", ".join(f"{family} {'.'.join(map(str, version))}" for family, version in sorted(needed.items()))
    return Report("; ".join(filter(None, (symbols, code.said))), (*problems, *code.problems))


def sdist_problems(members: Iterable[tuple[str, int]]) -> list[str]:
    """Miss sources, find what is large, among members (path below the top folder, bytes)."""
    sizes = dict(members)
    problems = [f"lacks {each}" for each in MUST_BE_IN_SDIST if each not in sizes]
    return problems + [f"holds {each}, {size} bytes" for each, size in sizes.items() if size > LARGEST_BYTES]


def sdist_report(path: Path) -> Report:
    """Read the sdist."""
    with tarfile.open(path) as archive:
        members = [(each.name.partition("/")[2], each.size) for each in archive.getmembers() if each.isfile()]
    return Report(f"{len(members)} files", tuple(sdist_problems(members)))


def main(paths: Sequence[str]) -> int:
    """Read each; 1 if something is wrong, or there is nothing."""
    failed = not paths
    for path in map(Path, paths):
        report = sdist_report(path) if path.name.endswith(".tar.gz") else wheel_report(path)
        print(f"{path.name}: {path.stat().st_size:,} bytes; {report.said}")
        for problem in report.problems:
            print(f"  WRONG: {problem}")
        failed |= bool(report.problems)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
