"""What was seen at one moment, kept: the frame, the map, a picture of both and the facts, in a folder of its own."""

from __future__ import annotations

import io
import json
import os
import secrets
import shlex
import shutil
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from bitlens import __version__
from bitlens.runtime.atomic_file import write_files_atomically
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.explanation import Explanation, explanation_picture
from bitlens.runtime.live.explained_frame import ExplainedFrame
from bitlens.runtime.network import TWIN_PROGRAM, Network
from bitlens.runtime.pictures import png_bytes
from bitlens.runtime.program import Program
from bitlens.runtime.top_classes import top_classes

REFERENCE = "reference"
IMAGE, MAP, PICTURE, FACTS = "image.png", "map.npy", "picture.png", "snapshot.json"


def snapshot_facts(seen: ExplainedFrame, explanation: Explanation, network: Network, source: str) -> dict[str, object]:
    """Tell what it is, as JSON, with the command that gives the same map again."""
    program: Program = network.program
    layer = explanation.settings.get("layer")
    is_twin = network.source.name == TWIN_PROGRAM and network.source.parent.is_file()
    source_name = network.source.parent.name if is_twin else network.source.name
    command = ["bitlens", "explain", source_name, IMAGE, "--method", explanation.method.name]
    command += ["--target", str(seen.target), *(["--layer", str(layer)] if layer else [])]
    command += ["--twin"] if is_twin else []
    if not is_twin or seen.engine.name == REFERENCE:  # no other engine may be named for a twin
        command += ["--engine", seen.engine.name]
    return {
        "bitlens": __version__,
        "network": network.source.name,
        "network_sha256": network.sha256,
        "source": source,
        "place": seen.frame.place,
        "frame": seen.frame.number,
        "engine": seen.engine.name,
        "engine_version": seen.engine.version,
        "kernels": seen.engine.kernels,
        "method": explanation.method.name,
        "settings": dict(explanation.settings),
        "meaning": explanation.method.meaning_for(program),
        "target": seen.target,
        "label": network.label(seen.target),
        "predicted": seen.is_predicted,
        "classes": top_classes(seen.logits, network),
        "preparation_latency_ms": seen.preparation_latency_ms,
        "forward_latency_ms": seen.forward_latency_ms,
        "map_latency_ms": seen.map_latency_ms,
        "command": " ".join(map(shlex.quote, [*command, "--map", MAP])),
    }


def save_snapshot(folder: Path, seen: ExplainedFrame, network: Network, source: str) -> Path:
    """Write image.png, map.npy, picture.png and snapshot.json into a new folder below `folder`.

    `bitlens explain` makes the same map and the same picture of image.png, bit for bit.

    Returns
    -------
    Path
        The new folder, named by the time. It is there whole or not at all, and never takes another one's place.

    Raises
    ------
    BitlensError
        If there is no map to save, or it cannot be written.
    """
    if seen.explanation is None:
        raise BitlensError("there is no map of this frame to save: choose another method")
    now = datetime.now(timezone.utc)
    facts = snapshot_facts(seen, seen.explanation, network, source) | {"time": now.isoformat(timespec="milliseconds")}
    values = io.BytesIO()
    np.save(values, seen.explanation.values, allow_pickle=False)
    # The random part keeps names apart where a board without a clock begins the same day again.
    name = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
    temporary = folder / f".{name}"
    try:
        temporary.mkdir(parents=True)
        contents = {
            IMAGE: png_bytes(seen.frame.pixels),
            MAP: values.getvalue(),
            PICTURE: png_bytes(explanation_picture(seen.image, seen.explanation)),
            FACTS: (json.dumps(facts, indent=1) + "\n").encode(),
        }
        write_files_atomically({temporary / each: content for each, content in contents.items()})
        os.rename(temporary, folder / name)  # refuses to replace a folder that holds anything
    except OSError as error:
        raise BitlensError(
            f"cannot write a snapshot below {folder} ({error.strerror}): make room, or choose another --snapshots"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder / name
