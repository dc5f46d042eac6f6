"""No tile loop of a kernel keeps a sum in memory: the compiled module is disassembled and its innermost loops are read.

A wheel is stripped, so that a loop is told by what it does, not by the name of its function. gcc it was that made some
kernels twice slower; clang stores a few registers of one kernel, at no cost that could be measured.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

kernels: Any = pytest.importorskip("bitlens.runtime._kernels", reason="a wheel without compiled kernels")
MODULE = Path(kernels.__file__)

pytestmark = [
    pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump here"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86-64 alone"),
    pytest.mark.skipif(b"clang version" in MODULE.read_bytes(), reason="compiled by clang"),
    pytest.mark.skipif(b"__asan_init" in MODULE.read_bytes(), reason="compiled with AddressSanitizer"),
]

INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(?:(?:bnd|notrack|data16|cs|rep\w*|lock) )*([a-z]\w*)\s*([^#<]*)")
# What only a kernel's loops over taps and groups do, and how many vectors of sums they do it to at least.
TILE = re.compile(r"vpopcntd|vpshufb|vpdpbusd|vpmaddwd|vpmaddubsw|vfmadd\w+ps")
SPILL = re.compile(r"%[xyz]mm\d+,(?:0x[0-9a-f]+|-0x[0-9a-f]+)?\(%rsp|%[xyz]mm\d+,-0x[0-9a-f]+\(%rbp")


@dataclass(frozen=True)
class Instruction:
    address: int
    name: str
    operands: str


def instructions_of(disassembly: str) -> list[Instruction]:
    found = (INSTRUCTION.match(line) for line in disassembly.splitlines())
    return [Instruction(int(each[1], 16), each[2], each[3].strip()) for each in found if each]


def innermost_loops(instructions: list[Instruction]) -> list[list[Instruction]]:
    """Instructions from the target of each backward jump to the jump, where no other such loop lies inside."""
    index = {each.address: place for place, each in enumerate(instructions)}
    loops = []
    for place, each in enumerate(instructions):
        if each.name.startswith("j") and re.fullmatch(r"[0-9a-f]+", each.operands):
            target = index.get(int(each.operands, 16))
            if target is not None and target <= place:
                loops.append((target, place))
    loops.sort(key=lambda loop: (loop[1], -loop[0]))
    innermost: list[tuple[int, int]] = []
    for loop in loops:  # by their ends: what lies inside came before
        if not innermost or innermost[-1][0] < loop[0]:
            innermost.append(loop)
    return [instructions[first : last + 1] for first, last in innermost]


def tile_loops(instructions: list[Instruction]) -> list[list[Instruction]]:
    return [loop for loop in innermost_loops(instructions) if sum(bool(TILE.match(each.name)) for each in loop) > 1]


def spills(loop: list[Instruction]) -> list[str]:
    moves = (each for each in loop if each.name.startswith("vmov"))
    return [f"{each.address:x}: {each.name} {each.operands}" for each in moves if SPILL.match(each.operands)]


@pytest.fixture(scope="module")
def loops() -> list[list[Instruction]]:
    command = ["objdump", "-d", "--no-show-raw-insn", str(MODULE)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return tile_loops(instructions_of(text))


def test_tile_loops_keep_their_sums_in_registers(loops: list[list[Instruction]]) -> None:
    found = [spill for loop in loops for spill in spills(loop)]
    assert not found, f"{len(found)} vectors stored to the stack in tile loops:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("name", "register", "tiles"),
    [("vpopcntd", "zmm", 8 + 4), ("vpshufb", "ymm", 3 * 2 + 2 * 4)],  # w1a1 and w2a2, each size of their tiles
)
def test_the_loops_that_are_read_are_those_of_the_kernels(
    loops: list[list[Instruction]], name: str, register: str, tiles: int
) -> None:
    assert sum(any(each.name == name and register in each.operands for each in loop) for loop in loops) >= tiles


LOOP = """
    10a0:	vpxord (%rax),%zmm0,%zmm1
    10a6:	vpopcntd %zmm1,%zmm1
    10ac:	vpaddd %zmm1,%zmm2,%zmm2
    10b2:	vpopcntd %zmm3,%zmm3
    {store}
    10c0:	add    $0x4,%rax
    10c4:	cmp    %rsi,%rax
    10c7:	jne    10a0 <bitlens+0x40>
    10c9:	vmovdqa64 %zmm2,0x40(%rsp)
    10d0:	cmp    %rdi,%rdx
    10d3:	jne    1080 <bitlens+0x20>
    10d5:	ret
"""


@pytest.mark.parametrize(
    ("store", "spilt"),
    [
        ("10b8:	vmovdqa64 %zmm16,0x8(%rsp)", 1),
        ("10b8:	vmovups %ymm1,(%rsp,%rax,1)", 1),
        ("10b8:	vmovdqa %ymm1,-0x40(%rbp)", 1),
        ("10b8:	vmovdqa64 0x8(%rsp),%zmm16", 0),
        ("10b8:	vmovdqu64 %zmm16,(%r8)", 0),
        ("10b8:	mov    %rax,0x8(%rsp)", 0),
    ],
)
def test_a_vector_stored_to_the_stack_is_reported(store: str, spilt: int) -> None:
    outer = "    1080:	xor    %eax,%eax\n"
    (loop,) = tile_loops(instructions_of(outer + LOOP.format(store=store)))
    assert [each.address for each in (loop[0], loop[-1])] == [0x10A0, 0x10C7]
    assert len(spills(loop)) == spilt
