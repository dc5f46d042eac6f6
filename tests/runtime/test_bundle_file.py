"""Bundles from anywhere: what export wrote opens, anything else is refused with one sentence and little memory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported_network import exported_network, packed, replaced_member, unpacked

from bitlens.runtime.bundle_file import MANIFEST, MAX_MEMBER_BYTES, bundle_bytes, is_bundle, open_bundle
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.network import NETWORK_PROGRAM, open_network

SEAL_BYTES = len("bitlens bundle 1 sha256 ") + 64
END_BYTES = 22
PEAK_BYTES = 200 * 2**20


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_network(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def path(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    (tmp_path / pristine.name).write_bytes(pristine.read_bytes())
    return tmp_path / pristine.name


def refusal(path: Path) -> str:
    with pytest.raises(BitlensError) as caught:
        open_network(path)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(str(path))
    return message


# What is written.


def test_every_member_comes_back(pristine: Path) -> None:
    bundle, members = open_bundle(pristine), unpacked(pristine)
    assert set(bundle.records) == set(members) - {MANIFEST}
    for name, record in bundle.records.items():
        assert bundle.read(name) == members[name]
        assert record == {"sha256": hashlib.sha256(members[name]).hexdigest(), "bytes": len(members[name])}
    assert json.loads(members[MANIFEST]) == bundle.manifest
    assert bundle.sha256 == hashlib.sha256(pristine.read_bytes()).hexdigest()
    assert bundle.file_bytes == pristine.stat().st_size


def resealed(archive: bytes, version: int = 1) -> bytes:
    """A zip that ends in an empty comment, with a seal in its place."""
    seal_bytes = SEAL_BYTES - 1 + len(str(version))
    content = archive[:-2] + struct.pack("<H", seal_bytes)
    return content + f"bitlens bundle {version} sha256 {hashlib.sha256(content).hexdigest()}".encode()


def zipped(members: dict[str, bytes], **attributes: Any) -> bytes:
    """A sealed zip of another writer; `attributes` change the last member's entry."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on names that are there twice
        for number, (name, content) in enumerate(members.items()):
            entry = zipfile.ZipInfo(name)
            packs = len(zlib.compress(content, 9)) < len(content) * 7 // 8
            entry.compress_type, entry.external_attr = 8 if packs else 0, 0o100644 << 16
            if number == len(members) - 1:
                for field, value in attributes.items():
                    setattr(entry, field, value)
            archive.writestr(entry, content, compresslevel=9)
    return resealed(stream.getvalue())


def test_another_writer_of_zips_writes_the_same_bytes(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = unpacked(pristine)
    facts = {
        name: value
        for name, value in open_bundle(pristine).manifest.items()
        if name not in ("bundle_version", "members")
    }
    del members[MANIFEST]
    # All but what one pass of zlib cannot do.
    monkeypatch.setattr("bitlens.runtime.bundle_file.deflated", lambda content: zlib.compress(content, 9)[2:-4])
    plain = pristine.parent / "plain.bitlens"
    plain.write_bytes(bundle_bytes(members, facts))
    assert zipped(unpacked(plain)) == plain.read_bytes()
    plain.unlink()
    assert pristine.stat().st_size <= len(bundle_bytes(members, facts))
    with zipfile.ZipFile(pristine) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[0] == MANIFEST


def test_the_same_content_gives_the_same_bytes(pristine: Path) -> None:
    members = {name: content for name, content in unpacked(pristine).items() if name != MANIFEST}
    facts = {"labels": ["a"]}
    shuffled = dict(reversed(members.items()))
    assert bundle_bytes(members, facts) == bundle_bytes(shuffled, facts)
    assert bundle_bytes(members, facts) != bundle_bytes(members, {"labels": ["b"]})


@pytest.mark.parametrize("name", ["../a", "/a", "a/b", "", ".", MANIFEST, "\x1b", "é", "a" * 101])
def test_odd_names_are_not_written(name: str) -> None:
    with pytest.raises(BitlensError, match="expected a plain file name"):
        bundle_bytes({name: b""}, {})


def test_what_no_reader_takes_is_not_written() -> None:
    with pytest.raises(BitlensError, match="use a smaller network"):
        bundle_bytes({"a": bytes(MAX_MEMBER_BYTES + 1)}, {})
    with pytest.raises(BitlensError, match="use a smaller network"):
        bundle_bytes({}, {"labels": "x" * 2**20})
    with pytest.raises(BitlensError, match="use a smaller network"):
        bundle_bytes({f"m{number}": b"" for number in range(64)}, {})


# Damage.


def test_a_flipped_bit_anywhere_is_noticed(path: Path) -> None:
    content = path.read_bytes()
    end = len(content) - SEAL_BYTES - END_BYTES
    for place in (*range(0, end, 53), *range(end, len(content))):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(BitlensError) as caught:
            open_bundle(path) if is_bundle(path) else open_network(path)
        assert str(caught.value).isprintable(), f"byte {place}"


def test_a_bundle_cut_short_is_refused(path: Path) -> None:
    content = path.read_bytes()
    for length in range(0, len(content), 101):
        path.write_bytes(content[:length])
        refusal(path)
    path.write_bytes(content[:-1])
    assert "cut short, or a zip that is no bundle" in refusal(path)


def test_a_bundle_that_changes_under_its_reader_is_noticed(path: Path) -> None:
    network = open_network(path)
    content = bytearray(path.read_bytes())
    place = content.index(b"golden.npz") + 200
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(BitlensError, match=r"member golden\.npz is damaged"):
        network.read("golden.npz")
    assert network.read("forward.onnx")
    path.write_bytes(content[:100])
    with pytest.raises(BitlensError, match=r"network\.bitlens: member golden\.npz"):
        network.read("golden.npz")
    path.unlink()
    with pytest.raises(BitlensError, match=r"cannot be read any more \(No such file"):
        network.read("golden.npz")


# Malice: every one of these has a sound seal.


def patched(content: bytes, name: str, central: int, local: int | None, form: str, *values: int) -> bytes:
    """Change a field of a member in the central directory and, unless None, in the local header; seal it again."""
    changed = bytearray(content[:-SEAL_BYTES])
    encoded = name.encode()
    at = changed.rindex(encoded) - 46
    assert changed[at : at + 4] == b"PK\x01\x02"
    (start,) = struct.unpack_from("<I", changed, at + 42)
    struct.pack_into(form, changed, at + central, *values)
    if local is not None:
        assert changed[start : start + 4] == b"PK\x03\x04"
        struct.pack_into(form, changed, start + local, *values)
    changed[-2:] = b"\0\0"
    return resealed(bytes(changed))


def end_patched(content: bytes, offset: int, form: str, *values: int) -> bytes:
    changed = bytearray(content[:-SEAL_BYTES])
    struct.pack_into(form, changed, len(changed) - END_BYTES + offset, *values)
    changed[-2:] = b"\0\0"
    return resealed(bytes(changed))


def inserted(content: bytes, place: int, junk: bytes) -> bytes:
    """Junk at a place before the directory, whose start is moved so that it is found."""
    (start,) = struct.unpack_from("<I", content, len(content) - SEAL_BYTES - END_BYTES + 16)
    return end_patched(content[:place] + junk + content[place:], 16, "<I", start + len(junk))


def million_entries(content: bytes) -> bytes:
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 788, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    directory = entry * 1_000_000
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 65535, 65535, len(directory), 30, 0)
    return resealed(b"PK\x03\x04" + bytes(26) + directory + end)


def few_claimed(content: bytes) -> bytes:
    return end_patched(million_entries(content), 8, "<HH", 3, 3)


def with_member(members: dict[str, bytes], name: str, content: bytes = b"x", **attributes: Any) -> bytes:
    return zipped({**members, name: content}, **attributes)


def manifest_changed(content: dict[str, bytes], **changes: Any) -> bytes:
    manifest = json.loads(content[MANIFEST]) | changes
    return zipped({**content, MANIFEST: json.dumps(manifest).encode()})


def twice(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in [*members.items(), ("twin.program", b"another")]:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
    return resealed(stream.getvalue())


def bomb(members: dict[str, bytes], claimed: int | None = None, true: int = 2**30) -> bytes:
    """`network.program` of a gigabyte of zeros, which a megabyte holds."""
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = engine.compress(bytes(2**20)) + engine.flush(zlib.Z_FULL_FLUSH)  # may stand any number of times
    packed_zeros = block * (true // 2**20) + zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    rest = {name: content for name, content in members.items() if name != NETWORK_PROGRAM}
    content = zipped({**rest, NETWORK_PROGRAM: packed_zeros}, compress_type=0)
    content = patched(content, NETWORK_PROGRAM, 10, 8, "<H", 8)
    return patched(content, NETWORK_PROGRAM, 24, 22, "<I", true if claimed is None else claimed)


def nonsense(members: dict[str, bytes]) -> bytes:
    size = len(members[NETWORK_PROGRAM])
    rest = {name: content for name, content in members.items() if name != NETWORK_PROGRAM}
    content = zipped({**rest, NETWORK_PROGRAM: b"\xff" * size}, compress_type=0)
    return patched(content, NETWORK_PROGRAM, 10, 8, "<H", 8)


def honest_bomb(members: dict[str, bytes]) -> bytes:
    """As large as a member may be, all of it zeros, with a manifest that says so."""
    content = bytes(MAX_MEMBER_BYTES)
    manifest = json.loads(members[MANIFEST])
    manifest["members"][NETWORK_PROGRAM] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    return bomb({**members, MANIFEST: json.dumps(manifest).encode()}, len(content), len(content))


HOSTILE: dict[str, tuple[Callable[[dict[str, bytes], bytes], bytes], str]] = {
    "path upwards": (lambda m, _: with_member(m, "../a"), r"a member is called '\.\./a', expected a plain file name"),
    "absolute path": (lambda m, _: with_member(m, "/etc/passwd"), "a member is called '/etc/passwd'"),
    "path downwards": (lambda m, _: with_member(m, "a/b"), "a member is called 'a/b'"),
    "Windows path": (lambda m, _: with_member(m, "a\\b"), "expected a plain file name"),
    "name that steers a terminal": (lambda m, _: with_member(m, "\x1b[2J"), r"called '\\x1b\[2J'"),
    "name with a NUL": (lambda m, _: patched(with_member(m, "abc"), "abc", 46, 30, "3s", b"a\0c"), r"'a\\x00c'"),  # type: ignore[arg-type]
    "member twice": (lambda m, _: twice(m), r"member twin\.program is in it twice"),
    "encrypted": (lambda _, c: patched(c, "golden.npz", 8, 6, "<H", 1), r"golden\.npz is encrypted or of unknown size"),
    "data descriptor": (lambda _, c: patched(c, "golden.npz", 8, 6, "<H", 8), "encrypted or of unknown size"),
    "bzip2": (lambda m, _: with_member(m, "a", compress_type=12), "packed in a way that bitlens does not use"),
    "LZMA": (lambda m, _: with_member(m, "a", compress_type=14), "encrypted or of unknown size"),
    "link": (lambda m, _: with_member(m, "a", external_attr=0o120777 << 16), "member a is a link or no plain file"),
    "extra field": (lambda m, _: with_member(m, "a", extra=b"\1\0\0\0"), "does not lie where and as"),
    "member comment": (lambda m, _: with_member(m, "a", comment=b"hi"), "does not lie where and as"),
    "another date": (lambda m, _: with_member(m, "a", date_time=(2020, 1, 1, 0, 0, 0)), "does not lie where and as"),
    "zip64 lie": (lambda _, c: patched(c, "golden.npz", 20, 18, "<II", 2**32 - 1, 2**32 - 1), "unpack to 4294967295"),
    "zip64 offset": (lambda _, c: patched(c, "golden.npz", 42, None, "<I", 2**32 - 1), "does not lie where and as"),
    "overlapping members": (lambda _, c: patched(c, "golden.npz", 42, None, "<I", 0), "does not lie where and as"),
    "headers that disagree": (lambda _, c: patched(c, "golden.npz", 24, None, "<I", 9), "does not lie where"),
    "larger than the file": (lambda _, c: patched(c, "twin.program", 20, 18, "<I", 10**6), "does not lie|does not use"),
    "stored size that lies": (
        lambda m, _: patched(with_member(m, "zzz.bin"), "zzz.bin", 24, 22, "<I", 9),
        "way that bitlens does not use",
    ),
    "leading junk": (lambda _, c: inserted(c, 0, b"PK\3\4junk"), "does not lie where and as"),
    "junk between members": (
        lambda _, c: inserted(c, c.index(b"PK\3\4", 40), b"junk"),
        "does not lie where and as",
    ),
    "junk before the directory": (lambda _, c: inserted(c, c.index(b"PK\1\2"), b"junk"), "do not follow one another"),
    "trailing junk": (lambda _, c: c + b"junk", "cut short, or a zip that is no bundle"),
    "another zip": (lambda _, c: resealed(c)[:-200] + b"PK\5\6" + bytes(18), "cut short, or a zip that is no bundle"),
    "seal of something else": (lambda _, c: c[:-1] + bytes([c[-1] ^ 1]), "damaged|cut short"),
    "two disks": (lambda _, c: end_patched(c, 4, "<H", 1), "zip directory contradicts itself"),
    "no members": (lambda _, c: end_patched(c, 8, "<HH", 0, 0), "claims 0 members"),
    "million entries": (lambda _, c: million_entries(c), "claims 65535 members in 47000000 bytes, expected at most 64"),
    "million entries, few claimed": (lambda _, c: few_claimed(c), "claims 3 members in 47000000 bytes"),
    "directory that is not there": (lambda _, c: end_patched(c, 12, "<II", 100, 50), "does not fill the place"),
    "newer version": (
        lambda _, c: resealed(c[: -SEAL_BYTES - 2] + b"\0\0", 2),
        "bundle version 2, this bitlens reads up to 1: update bitlens",
    ),
    "manifest not first": (
        lambda m, _: zipped(dict(sorted(m.items()))),
        r"do not follow one another, manifest\.json first",
    ),
    "no manifest": (lambda m, _: zipped({"network.program": m[NETWORK_PROGRAM]}), r"manifest\.json first"),
    "manifest of another version": (lambda m, _: manifest_changed(m, bundle_version=2), "form of version 1"),
    "manifest without members": (lambda m, _: manifest_changed(m, members=[]), "manifest.json is damaged"),
    "manifest with odd members": (lambda m, _: manifest_changed(m, members={"a": 1}), "manifest.json is damaged"),
    "manifest with odd sizes": (
        lambda m, _: manifest_changed(m, members={"a": {"sha256": "", "bytes": []}}),
        "not of the form of version 1",
    ),
    "manifest that is no JSON": (lambda m, _: zipped({**m, MANIFEST: b"{"}), "manifest.json is damaged"),
    "manifest that is a list": (lambda m, _: zipped({**m, MANIFEST: b"[]"}), "manifest.json is damaged"),
    "manifest that is nested": (lambda m, _: zipped({**m, MANIFEST: b"[" * 10**5}), "manifest.json is damaged"),
    "manifest that is large": (lambda m, _: zipped({**m, MANIFEST: b" " * (2**20 + 1)}), "unpack to 1048577 bytes"),
    "member the manifest does not know": (lambda m, _: with_member(m, "a"), "zip disagree on member 'a'"),
    "member that is missing": (
        lambda m, _: zipped({name: content for name, content in m.items() if name != "golden.npz"}),
        r"zip disagree on member 'golden\.npz'",
    ),
    "no program": (
        lambda m, _: bundle_bytes({"golden.npz": m["golden.npz"]}, {}),
        r"has no member 'network\.program': export the network again",
    ),
    "member that is another": (
        lambda m, _: zipped({**m, NETWORK_PROGRAM: m[NETWORK_PROGRAM][:-1] + b"x"}),
        r"member network\.program is damaged \(its SHA-256 differs\)",
    ),
    "member that is no program": (
        lambda m, _: bundle_bytes({NETWORK_PROGRAM: b"nonsense"}, {}),
        r"network\.program: not a bitlens program",
    ),
    "inflates to more": (lambda m, _: bomb(m, claimed=5760), "does not inflate to the size it claims"),
    "bomb": (lambda m, _: bomb(m), "unpack to 1073741824 bytes, more than bitlens takes"),
    "honest bomb": (lambda m, _: honest_bomb(m), r"network\.program: not a bitlens program"),
    "deflated nonsense": (lambda m, _: nonsense(m), r"member network\.program is damaged \(Error -3"),
}  # fmt: skip

# Opens every file that it is given in one process and says what came of it and how much memory that took at most.
PROBE = """
import json, sys, time
from pathlib import Path
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.network import open_network
answers = {}
for name in sys.argv[1:]:
    start = time.perf_counter()
    try:
        open_network(Path(name))
        answer = "opened"
    except BitlensError as error:
        answer = str(error)
    answers[name] = [answer, time.perf_counter() - start]
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([answers, int(peak.split()[1]) * 1024]))
"""


def probed(paths: list[Path]) -> tuple[dict[str, tuple[str, float]], int]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *map(str, paths)], capture_output=True, text=True, check=True, timeout=120
    )
    answers, peak = json.loads(done.stdout)
    return answers, peak


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_hostile_bundles_are_refused_in_one_sentence_and_little_memory(
    pristine: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    members, content = unpacked(pristine), pristine.read_bytes()
    paths = {}
    for number, (name, (make, _)) in enumerate(HOSTILE.items()):
        paths[name] = tmp_path / f"{number}.bitlens"
        paths[name].write_bytes(make(members, content))
    answers, peak = probed(list(paths.values()))
    for name, (_, expected) in HOSTILE.items():
        answer, seconds = answers[str(paths[name])]
        record_property(name, seconds)
        assert answer.startswith(str(paths[name])), name
        assert answer.isprintable(), name
        assert re.search(expected, answer), f"{name}: {answer}"
    record_property("peak", peak)
    assert peak < PEAK_BYTES


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_the_probe_sees_memory_and_a_sound_bundle(pristine: Path, tmp_path: Path) -> None:
    answers, small = probed([pristine])
    assert answers[str(pristine)][0] == "opened"
    (tmp_path / "honest.bitlens").write_bytes(honest_bomb(unpacked(pristine)))
    _, large = probed([tmp_path / "honest.bitlens"])
    assert large - small > MAX_MEMBER_BYTES // 2


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is no plain file: expected what" in refusal(tmp_path / "pipe")
    with pytest.raises(BitlensError, match=r"cannot read .*missing\.bitlens \(No such file"):
        open_network(tmp_path / "missing.bitlens")
    (tmp_path / "huge.bitlens").write_bytes(b"PK\3\4")
    os.truncate(tmp_path / "huge.bitlens", 2**28 + 1)  # a hole: no disk is filled
    assert "it has 268435457 bytes, expected at most" in refusal(tmp_path / "huge.bitlens")


def test_members_that_a_later_version_adds_do_no_harm(path: Path) -> None:
    replaced_member(path, "later.file", b"something new")
    network = open_network(path)
    assert network.read("later.file") == b"something new"


def test_pictures_of_an_unknown_rule_are_refused(path: Path, tmp_path: Path) -> None:
    from PIL import Image

    from bitlens.runtime.image import read_image

    packed(path, unpacked(path), preprocessing={"rule": "lanczos-7"})
    network = open_network(path)
    assert network.picture_rule == "lanczos-7"
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", np.zeros((8, 8), np.uint8))
    assert read_image(tmp_path / "a.npy", (1, 8, 8), rule=network.picture_rule).shape == (1, 1, 8, 8)
    with pytest.raises(BitlensError, match=r"rule 'lanczos-7', this bitlens knows 'centre-area-1': update bitlens, or"):
        read_image(tmp_path / "a.png", (1, 8, 8), rule=network.picture_rule)
