"""`.bitlens` files: one zip that a board needs and nothing more, and a reader that a hostile one cannot exhaust.

The zip is of one form only, so that every byte of it has one meaning: plain members one behind the other,
`manifest.json` first, each stored or deflated; no extra fields, no links, no encryption, no zip64; nothing before,
between or after them. Its comment is the **seal**, ``bitlens bundle VERSION sha256 HEX``: the SHA-256 of everything
before the comment. A seal finds damage, not malice; sizes are bounded before anything is allocated, and while a member
is inflated.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.piecewise_deflate import deflated

BUNDLE_VERSION = 1
SUFFIX = ".bitlens"
MANIFEST = "manifest.json"

MAX_BUNDLE_BYTES = 2**28
MAX_MEMBER_BYTES = 2**26  # inflated: a full-precision network of 16 million weights
MAX_MANIFEST_BYTES = 2**20  # JSON of this size parses within a tenth of a second, whatever it holds
MAX_MEMBERS = 64

_CHUNK = 2**18
_MEMBER_NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)  # a plain name, never a path
_SEAL = re.compile(rb"bitlens bundle ([1-9]\d{0,8}) sha256 ([0-9a-f]{64})")
_LONGEST_SEAL = 120

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LOCAL_MAGIC, _CENTRAL_MAGIC, _END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_ZIP_VERSION = 20
_MADE_BY = 3 << 8 | _ZIP_VERSION  # Unix, so that the attributes below are read as permissions
_DATE = 0x21  # 1980-01-01, the first that a zip can say: the same content gives the same bytes
_PLAIN_FILE = 0o100644 << 16
_STORED, _DEFLATED = 0, 8

_ADVICE = "not what `bitlens export` wrote, copy or export it again"


@dataclass(frozen=True)
class Member:
    """Where a member lies in its bundle.

    Parameters
    ----------
    name : str
    method : int
        0 for stored, 8 for deflated.
    crc : int
        CRC-32 of the content: zip tools want it, this reader checks the SHA-256 instead.
    packed_bytes, bytes : int
        Size in the file and of the content.
    start : int
        Offset of its packed bytes in the file.
    """

    name: str
    method: int
    crc: int
    packed_bytes: int
    bytes: int
    start: int


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its directory and its manifest. Members are read, and checked, when they are asked for.

    Parameters
    ----------
    path : Path
    sha256 : str
        Of the whole file, as `sha256sum` prints it: what the trust list and certificates name.
    file_bytes : int
    manifest : mapping
        The manifest's JSON; `members` holds sha256 and bytes of each member.
    places : mapping
        Member name -> where it lies.
    """

    path: Path
    sha256: str
    file_bytes: int
    manifest: Mapping[str, object]
    places: Mapping[str, Member]

    def read(self, name: str) -> bytes:
        """Content of a member.

        Raises
        ------
        BitlensError
            If there is no such member, the file has been changed since it was opened, or it holds something else than
            the manifest says.
        """
        record = self.records.get(name)
        if record is None:
            raise BitlensError(f"{self.path} has no member {name!r}: export the network again")
        with context(str(self.path)):
            try:
                with self.path.open("rb") as stream:
                    content = _content(stream, self.places[name])
            except OSError as error:
                raise BitlensError(f"cannot be read any more ({error.strerror}): copy or export it again") from error
            if hashlib.sha256(content).hexdigest() != record["sha256"]:
                raise BitlensError(f"member {name} is damaged (its SHA-256 differs): copy or export it again")
        return content

    @property
    def records(self) -> Mapping[str, Mapping[str, object]]:
        """Member name -> its record in the manifest: sha256, bytes."""
        records = self.manifest["members"]
        assert isinstance(records, dict)
        return records


def is_bundle(path: Path) -> bool:
    """Whether a file begins as a bundle does.

    Raises
    ------
    BitlensError
        If there is no such file, or it is no plain file.
    """
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
            raise BitlensError(f"{path} is no plain file: expected what `bitlens export` wrote")
        with path.open("rb") as stream:
            return stream.read(len(_LOCAL_MAGIC)) == _LOCAL_MAGIC
    except OSError as error:
        raise BitlensError(f"cannot read {path} ({error.strerror}): expected what `bitlens export` wrote") from error


# Writing.


def bundle_bytes(members: Mapping[str, bytes], facts: Mapping[str, object]) -> bytes:
    """Serialize a bundle; the same content, packed by the same zlib, always gives the same bytes.

    Parameters
    ----------
    members : mapping
        Name -> content, without the manifest.
    facts : mapping
        What the manifest says beside version, and SHA-256 and size of each member: JSON values.

    Raises
    ------
    BitlensError
        If a member is larger than a reader takes, or its name is no plain one.
    """
    for name, content in members.items():
        if not _MEMBER_NAME.fullmatch(name) or name == MANIFEST:
            raise BitlensError(f"a member is called {name!r}, expected a plain file name")
        if len(content) > MAX_MEMBER_BYTES:
            raise BitlensError(
                f"{name} takes {len(content)} bytes, expected at most {MAX_MEMBER_BYTES}: use a smaller network"
            )
    manifest = {
        "bundle_version": BUNDLE_VERSION,
        **facts,
        "members": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in sorted(members.items())
        },
    }
    text = (json.dumps(manifest, indent=2, allow_nan=False) + "\n").encode()
    body, directory = io.BytesIO(), io.BytesIO()
    for name, content in ((MANIFEST, text), *sorted(members.items())):
        packed = _deflated(content)
        method, data = (_STORED, content) if packed is None else (_DEFLATED, packed)
        start = body.tell()
        member = Member(name, method, zlib.crc32(content), len(data), len(content), start + _LOCAL.size + len(name))
        body.write(_local_header(member) + data)
        directory.write(_central_header(member, start))
    end = _END.pack(
        _END_MAGIC, 0, 0, len(members) + 1, len(members) + 1, directory.tell(), body.tell(), len(_seal(b""))
    )
    whole = body.getvalue() + directory.getvalue() + end
    if len(text) > MAX_MANIFEST_BYTES or len(whole) + len(_seal(b"")) > MAX_BUNDLE_BYTES or len(members) >= MAX_MEMBERS:
        raise BitlensError(
            f"the bundle takes {len(whole)} bytes and {len(text)} for its manifest, expected at most "
            f"{MAX_BUNDLE_BYTES} and {MAX_MANIFEST_BYTES}: use a smaller network"
        )
    return whole + _seal(whole)


def _seal(content: bytes) -> bytes:
    return f"bitlens bundle {BUNDLE_VERSION} sha256 {hashlib.sha256(content).hexdigest()}".encode()


def _deflated(content: bytes) -> bytes | None:
    """Packed content, or None where that saves less than an eighth and only costs a board time."""
    packed = deflated(content)
    return packed if len(packed) < len(content) * 7 // 8 else None


def _local_header(member: Member) -> bytes:
    sizes = member.crc, member.packed_bytes, member.bytes, len(member.name), 0
    return _LOCAL.pack(_LOCAL_MAGIC, _ZIP_VERSION, 0, member.method, 0, _DATE, *sizes) + member.name.encode("ascii")


def _central_header(member: Member, start: int) -> bytes:
    sizes = member.crc, member.packed_bytes, member.bytes, len(member.name)
    fixed = _CENTRAL_MAGIC, _MADE_BY, _ZIP_VERSION, 0, member.method, 0, _DATE
    return _CENTRAL.pack(*fixed, *sizes, 0, 0, 0, 0, _PLAIN_FILE, start) + member.name.encode("ascii")


# Reading.


def open_bundle(path: Path) -> Bundle:
    """Check a bundle's seal, directory and manifest; no other member is inflated yet.

    Raises
    ------
    BitlensError
        If it is damaged, cut short, made by a newer version, or anything but what `bundle_bytes` writes.
    """
    path = Path(path)
    with context(str(path)):
        try:
            with path.open("rb") as stream:
                size = stream.seek(0, io.SEEK_END)
                version, directory, end = _checked_end(stream, size)
                sha256 = _checked_seal(stream, size)
                places = _places(stream, directory, end)
                manifest = _manifest(_content(stream, places[MANIFEST]), version, places)
        except OSError as error:
            raise BitlensError(f"cannot be read ({error.strerror}): choose another file") from error
    return Bundle(path, sha256, size, manifest, places)


def _tail(stream: BinaryIO, size: int) -> tuple[bytes, re.Match[bytes] | None]:
    stream.seek(max(0, size - _LONGEST_SEAL - _END.size))
    tail = stream.read()
    place = tail.rfind(_END_MAGIC)
    return tail[max(place, 0) :], None if place < 0 else _SEAL.fullmatch(tail, place + _END.size)


def _checked_end(stream: BinaryIO, size: int) -> tuple[int, bytes, int]:
    """Version, the central directory's bytes and where it begins."""
    if size > MAX_BUNDLE_BYTES:
        raise BitlensError(f"it has {size} bytes, expected at most {MAX_BUNDLE_BYTES}: {_ADVICE}")
    tail, seal = _tail(stream, size)
    if seal is None:
        raise BitlensError("cut short, or a zip that is no bundle (it does not end in a seal): copy or export it again")
    version = int(seal[1])
    if version > BUNDLE_VERSION:
        raise BitlensError(f"bundle version {version}, this bitlens reads up to {BUNDLE_VERSION}: update bitlens")
    _, disk, first_disk, here, count, length, start, comment = _END.unpack_from(tail)
    if (disk, first_disk, here, comment) != (0, 0, count, len(tail) - _END.size):
        raise BitlensError(f"its zip directory contradicts itself: {_ADVICE}")
    if not 0 < count <= MAX_MEMBERS or length > MAX_MEMBERS * (_CENTRAL.size + 100):
        raise BitlensError(
            f"its zip directory claims {count} members in {length} bytes, expected at most {MAX_MEMBERS}: {_ADVICE}"
        )
    if start + length + len(tail) != size:
        raise BitlensError(f"its zip directory does not fill the place before its end: {_ADVICE}")
    stream.seek(start)
    directory = stream.read(length)
    if len(directory) != length:
        raise BitlensError(f"cut short: {_ADVICE}")
    return version, directory, start


def _places(stream: BinaryIO, directory: bytes, end: int) -> dict[str, Member]:
    """Members in the order in which they lie, or a refusal of anything but a row of plain files."""
    places: dict[str, Member] = {}
    at = start = 0
    while at < len(directory):
        if len(directory) - at < _CENTRAL.size:
            raise BitlensError(f"its zip directory is cut short: {_ADVICE}")
        fields = _CENTRAL.unpack_from(directory, at)
        flags, method, crc, packed, plain, length = fields[3], fields[4], *fields[7:11]
        offset, attributes = fields[16], fields[15]
        raw = directory[at + _CENTRAL.size : at + _CENTRAL.size + length]
        name = raw.decode("latin-1")
        if not _MEMBER_NAME.fullmatch(name):
            raise BitlensError(f"a member is called {name[:60]!a}, expected a plain file name: {_ADVICE}")
        if name in places:
            raise BitlensError(f"member {name} is in it twice: {_ADVICE}")
        if flags:
            raise BitlensError(f"member {name} is encrypted or of unknown size: {_ADVICE}")
        if attributes != _PLAIN_FILE:
            raise BitlensError(f"member {name} is a link or no plain file: {_ADVICE}")
        if method not in (_STORED, _DEFLATED) or (method == _STORED and packed != plain):
            raise BitlensError(f"member {name} is packed in a way that bitlens does not use: {_ADVICE}")
        if plain > MAX_MEMBER_BYTES or (name == MANIFEST and plain > MAX_MANIFEST_BYTES):
            raise BitlensError(f"member {name} claims to unpack to {plain} bytes, more than bitlens takes: {_ADVICE}")
        member = Member(name, method, crc, packed, plain, start + _LOCAL.size + length)
        header = _local_header(member)
        stream.seek(start)
        # Both headers must be the very bytes that are written: whatever else a zip can say is refused here.
        if (
            offset != start
            or member.start + packed > end
            or stream.read(len(header)) != header
            or directory[at : at + _CENTRAL.size + length] != _central_header(member, start)
        ):
            raise BitlensError(f"member {name} does not lie where and as the zip directory says: {_ADVICE}")
        places[name] = member
        at += _CENTRAL.size + length
        start = member.start + packed
    if start != end or next(iter(places), None) != MANIFEST:
        raise BitlensError(f"its members do not follow one another, {MANIFEST} first: {_ADVICE}")
    return places


def _checked_seal(stream: BinaryIO, size: int) -> str:
    """SHA-256 of the whole file, after that of what the seal covers was compared with it."""
    tail, seal = _tail(stream, size)
    assert seal is not None
    digest, left = hashlib.sha256(), size - len(seal[0])
    stream.seek(0)
    while left:
        piece = stream.read(min(left, _CHUNK))
        if not piece:
            raise BitlensError("it was cut short while it was read: copy or export it again")
        digest.update(piece)
        left -= len(piece)
    if digest.hexdigest().encode() != seal[2]:
        raise BitlensError("damaged (its seal differs): copy or export it again")
    digest.update(tail[_END.size :])
    return digest.hexdigest()


def _content(stream: BinaryIO, member: Member) -> bytes:
    """Content of a member: never more bytes than the directory says, whatever they inflate to."""
    stream.seek(member.start)
    if member.method == _STORED:
        content = stream.read(member.bytes)
    else:
        target, engine, left = io.BytesIO(), zlib.decompressobj(-zlib.MAX_WBITS), member.packed_bytes
        try:
            while left and target.tell() <= member.bytes:
                piece = stream.read(min(left, _CHUNK))
                if not piece:
                    break
                left -= len(piece)
                grown = _CHUNK
                while (piece or grown == _CHUNK) and target.tell() <= member.bytes:
                    grown = target.write(engine.decompress(piece, _CHUNK))
                    piece = engine.unconsumed_tail
        except zlib.error as error:
            raise BitlensError(f"member {member.name} is damaged ({error}): copy or export it again") from error
        if not engine.eof or engine.unused_data or left:
            raise BitlensError(f"member {member.name} does not inflate to the size it claims: {_ADVICE}")
        content = target.getvalue()
    if len(content) != member.bytes:
        raise BitlensError(f"member {member.name} has {len(content)} bytes, expected {member.bytes}: {_ADVICE}")
    return content


def _manifest(content: bytes, version: int, places: Mapping[str, Member]) -> dict[str, object]:
    try:
        manifest = json.loads(content)
        sound = manifest["bundle_version"] == version and all(
            isinstance(record["sha256"], str) and isinstance(record["bytes"], int)
            for record in manifest["members"].values()
        )
        sizes = {name: record["bytes"] for name, record in manifest["members"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise BitlensError(f"{MANIFEST} is damaged ({reason}): export the network again") from error
    if not sound:
        raise BitlensError(f"{MANIFEST} is not of the form of version {version}: export the network again")
    found = {name: member.bytes for name, member in places.items() if name != MANIFEST}
    if sizes != found:
        odd = min(name for name, _ in sizes.items() ^ found.items())
        raise BitlensError(f"{MANIFEST} and the zip disagree on member {odd[:60]!a}: export the network again")
    return dict(manifest)
