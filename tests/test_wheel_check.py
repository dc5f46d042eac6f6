"""The reading of wheels: that each of its checks can fail, on files that this test makes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import wheel_check

ASSEMBLER, OBJDUMP = wheel_check.ASSEMBLER, wheel_check.OBJDUMP
NAME = "bitlens-0.1.0-cp311-cp311-manylinux_2_35_aarch64.whl"
MODULE = wheel_check.MODULES["cp311-cp311"].format(machine="aarch64")
cross = pytest.mark.skipif(shutil.which("aarch64-linux-gnu-gcc") is None, reason="no aarch64 cross compiler here")

KERNEL = """
    .text
    .arch armv8.2-a+dotprod
    .type kernel, %function
kernel:
    .cfi_startproc
    sdot v0.4s, v1.16b, v2.16b
    ret
    .cfi_endproc
    .type neighbour, %function
neighbour:
    .cfi_startproc
    b kernel
    .cfi_endproc
    .type far, %function
far:
    .cfi_startproc
    ret
    .cfi_endproc
    .type stranger, %function
stranger:
    .cfi_startproc
    {call}
    ret
    .cfi_endproc
    .data
    .quad kernel
"""
HELPER = """
    .arch armv8.1-a
    {ask}
    cbz w16, 1f
    ldaddal w0, w0, [x1]
    ret
1:  ret
"""


def module_of(folder: Path, source: str) -> Path:
    (folder / "module.s").write_text(source)
    path = folder / "module.so"
    subprocess.run(
        ["aarch64-linux-gnu-gcc", "-shared", "-nostdlib", "-o", str(path), str(folder / "module.s")], check=True
    )
    return path


def wheel_of(folder: Path, module: Path, *, name: str = NAME, inside: str = MODULE, needs: str = "numpy>=1.24") -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(module, inside)
        archive.writestr(
            "bitlens-0.1.0.dist-info/METADATA",
            f"Metadata-Version: 2.1\nName: bitlens\nRequires-Dist: {needs}\nRequires-Dist: torch; extra == 'train'\n\n",
        )
    return path


@cross
def test_a_kernel_behind_a_pointer_passes(tmp_path: Path) -> None:
    module = module_of(tmp_path, KERNEL.format(call="nop"))
    assert wheel_check.wheel_report(wheel_of(tmp_path, module)).problems == ()
    assert "(sdot), in 2 function(s) of one file" in wheel_check.instruction_report(module).said


@cross
@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (KERNEL.format(call="bl kernel"), "functions in 2 places"),
        (KERNEL.format(call="fadd v0.8h, v1.8h, v2.8h").replace("dotprod", "dotprod+fp16"), "it has fadd, sdot"),
        (KERNEL.format(call="nop").replace("sdot v0.4s, v1.16b, v2.16b", "nop"), "it has nothing, expected sdot"),
        (KERNEL.format(call="nop") + ".text\n" + HELPER.format(ask="nop"), "it has ldaddal, sdot"),
    ],
    ids=["called", "half precision", "no kernel", "unguarded atomic"],
)
def test_instructions_that_a_board_may_lack(source: str, problem: str, tmp_path: Path) -> None:
    assert problem in " ".join(wheel_check.instruction_report(module_of(tmp_path, source)).problems)


@cross
def test_atomics_that_are_asked_for_pass(tmp_path: Path) -> None:
    source = KERNEL.format(call="nop") + ".text\n" + HELPER.format(ask="ldrb w16, [x16]")
    assert wheel_check.instruction_report(module_of(tmp_path, source)).problems == ()


@cross
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"needs": "torch>=2"}, "expected NumPy"),
        ({"needs": "numpy\nRequires-Dist: pillow"}, "expected NumPy"),
        ({"inside": "bitlens/runtime/_kernels.abi3.so"}, "expected bitlens/runtime/_kernels.cpython-311-aarch64"),
        ({"name": NAME.replace("2_35", "2_38")}, "wants glibc 2.38"),
        ({"name": NAME.replace("manylinux_2_35", "linux")}, "expected bitlens-VERSION"),
        ({"name": NAME.replace("aarch64", "x86_64"), "inside": MODULE.replace("aarch64", "x86_64")}, "not for x86_64"),
    ],
    ids=["foreign", "more", "another Python's", "newer glibc", "no tag", "another machine's"],
)
def test_a_wheel_that_does_not_fit(changes: dict[str, str], problem: str, tmp_path: Path) -> None:
    module = module_of(tmp_path, KERNEL.format(call="nop"))
    assert problem in " ".join(wheel_check.wheel_report(wheel_of(tmp_path, module, **changes)).problems)


NEEDS = """
Version definition section '.gnu.version_d' contains 1 entry:
  000000: Rev: 1  Name: GLIBC_2.40
Version needs section '.gnu.version_r' contains 2 entries:
  000000: Version: 1  File: libstdc++.so.6  Cnt: 2
  0x0010:   Name: CXXABI_1.3.13  Flags: none  Version: 9
  0x0020:   Name: GLIBCXX_{newest}  Flags: none  Version: 8
  0x0030:   Name: GLIBC_2.17  Flags: none  Version: 7
"""


def test_symbols_that_bookworm_lacks() -> None:
    needed = wheel_check.versions_needed(NEEDS.format(newest="3.4.30"))
    assert needed == {"CXXABI": (1, 3, 13), "GLIBCXX": (3, 4, 30), "GLIBC": (2, 17)}
    assert wheel_check.too_new(needed) == []
    newer = wheel_check.versions_needed(NEEDS.format(newest="3.4.32"))
    assert wheel_check.too_new(newer) == ["needs GLIBCXX_3.4.32, bookworm has 3.4.30"]
    assert wheel_check.too_new({"OTHER": (1,)}) != []


def test_a_sdist_without_sources_or_with_data() -> None:
    sound = [(name, 10) for name in wheel_check.MUST_BE_IN_SDIST]
    assert wheel_check.sdist_problems(sound) == []
    assert wheel_check.sdist_problems(sound[1:]) == ["lacks pyproject.toml"]
    assert "holds weights.bin" in " ".join(wheel_check.sdist_problems([*sound, ("weights.bin", 2**22)]))


def test_nothing_to_read_is_no_success() -> None:
    script = Path(wheel_check.__file__)
    assert subprocess.run([sys.executable, str(script)], check=False).returncode == 1
