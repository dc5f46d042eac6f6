"""No tile loop of an aarch64 kernel keeps a sum in memory: the cross-built module is disassembled.

`make boards` names the module in BITLENS_AARCH64_KERNELS. A loop is told by what it does: the wheel is stripped.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

MODULE = os.environ.get("BITLENS_AARCH64_KERNELS", "")
OBJDUMP = "aarch64-linux-gnu-objdump"

INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\t(\S+)\s*([^/]*)")
BRANCH = re.compile(r"(?:.*, )?([0-9a-f]+) <")
TILE = re.compile(r"cnt|sdot|smlal2?|fmla")  # what only a kernel's loops over taps and groups do
SPILL = re.compile(r"\[sp\b")

Loop = list[tuple[str, str]]  # name and operands of each instruction


def innermost_loops(disassembly: str) -> list[Loop]:
    """Instructions from the target of each backward branch to the branch, where no other branch lies between."""
    code = [
        (int(found[1], 16), found[2], found[3].strip())
        for found in map(INSTRUCTION.match, disassembly.splitlines())
        if found
    ]
    place = {address: index for index, (address, _, _) in enumerate(code)}
    loops = []
    for index, (_, name, operands) in enumerate(code):
        target = BRANCH.match(operands) if name.startswith(("b.", "cb", "tb")) else None
        first = place.get(int(target[1], 16), index) if target else index
        body = [(name, operands) for _, name, operands in code[first : index + 1]]
        if first < index and not any(BRANCH.match(operands) for _, operands in body[:-1]):
            loops.append(body)
    return loops


def tile_loops(disassembly: str) -> list[Loop]:
    def vectors(loop: Loop) -> int:
        return sum(bool(TILE.fullmatch(name)) and "v" in operands for name, operands in loop)

    return [loop for loop in innermost_loops(disassembly) if vectors(loop) > 1]


def spills(loop: Loop) -> list[str]:
    return [
        f"{name} {operands}" for name, operands in loop if name in ("str", "stp", "stur") and SPILL.search(operands)
    ]


@pytest.mark.skipif(not MODULE, reason="BITLENS_AARCH64_KERNELS names no module: `make boards`")
@pytest.mark.skipif(shutil.which(OBJDUMP) is None, reason=f"no {OBJDUMP} here")
def test_tile_loops_keep_their_sums_in_registers() -> None:
    command = [OBJDUMP, "-d", "--no-show-raw-insn", MODULE]
    loops = tile_loops(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    # w1a1 of 2 and 1 pixels, w2a2; i8, i16, f32 and SDOT of 4, 3, 2 and 1 pixels
    for name, tiles in (("cnt", 2 + 1), ("smlal", 4 + 4), ("fmla", 4), ("sdot", 4)):
        assert sum(any(each == name for each, _ in loop) for loop in loops) >= tiles, name
    assert not [spill for loop in loops for spill in spills(loop)]


LOOP = """
   10:	cmp	x0, #0x0
   14:	ld1r	{{v3.4s}}, [x1]
   18:	cnt	v3.16b, v3.16b
   1c:	cnt	v4.16b, v4.16b
   20:	{store}
   24:	add	v2.16b, v2.16b, v3.16b
   28:	subs	w2, w2, #0x1
   2c:	b.ne	14 <bitlens+0x14>  // b.any
   30:	str	q2, [sp, #16]
   34:	cbz	w3, 10 <bitlens+0x10>
"""


@pytest.mark.parametrize(
    ("store", "spilt"),
    [("str	q3, [sp, #96]", 1), ("stp	q3, q4, [sp]", 1), ("ldr	q3, [sp, #96]", 0), ("str	q3, [x4]", 0)],
)
def test_a_register_stored_to_the_stack_is_reported(store: str, spilt: int) -> None:
    (loop,) = tile_loops(LOOP.format(store=store))
    assert len(loop) == 7
    assert len(spills(loop)) == spilt
