"""The bundles that the device tests are given: those in the folder BITLENS_NETWORKS."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bitlens.runtime.bundle_file import SUFFIX

FOLDER = os.environ.get("BITLENS_NETWORKS")
NETWORKS = sorted(Path(FOLDER).glob(f"*{SUFFIX}")) if FOLDER else []

needs_networks = pytest.mark.skipif(not NETWORKS, reason="BITLENS_NETWORKS names no folder of bundles")
each_network = pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
