"""Putting the shards of one evaluation together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from bitlens.runtime.atomic_file import write_bytes_atomically
from bitlens.runtime.bounded_file import read_at_most
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.evaluation.chunk_file import CHUNKS, read_chunk, write_chunk
from bitlens.runtime.evaluation.plan import Plan, plan_bytes, plan_from_bytes
from bitlens.runtime.evaluation.work import PLAN

MAX_PLAN_BYTES = 2**26


def read_plan(folder: Path) -> Plan:
    """Read what a folder was made for.

    Raises
    ------
    BitlensError
        If it holds no plan, or a damaged one.
    """
    path = folder / PLAN
    content = read_at_most(path, MAX_PLAN_BYTES, "expected what `bitlens evaluate` wrote")
    with context(str(path)):
        return plan_from_bytes(content)


def merged(folders: Sequence[Path], output: Path) -> Plan:
    """Gather the chunks of several folders into `output`, every one checked.

    Raises
    ------
    BitlensError
        If the folders are of different evaluations, a chunk is damaged, or one is in none of them.
    """
    plans = [read_plan(folder) for folder in folders]
    for folder, plan in zip(folders, plans, strict=True):
        other = next(
            (item.name for item in fields(Plan) if getattr(plan, item.name) != getattr(plans[0], item.name)), ""
        )
        if other:
            raise BitlensError(
                f"{folder} is of another evaluation than {folders[0]}, {other} differs: merge the shards of one command"
            )
    chunks = list(plans[0].chunks())
    holders = {chunk.file_name: folder for folder in folders for chunk in chunks if _is_there(folder, chunk.file_name)}
    absent = [chunk for chunk in chunks if chunk.file_name not in holders]
    if absent:
        raise BitlensError(
            f"{len(absent)} of {len(chunks)} chunks are in none of these folders, the first one {absent[0].title}: run "
            "the shard that is missing, or name its folder too"
        )
    target = output / CHUNKS
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BitlensError(f"cannot make {target} ({error.strerror}): choose another place with --output") from error
    for chunk in chunks:
        values = read_chunk(holders[chunk.file_name] / CHUNKS, chunk)
        assert values is not None
        write_chunk(target, chunk, values)
    write_bytes_atomically(output / PLAN, plan_bytes(plans[0]))
    return plans[0]


def _is_there(folder: Path, name: str) -> bool:
    return (folder / CHUNKS / name).is_file()
