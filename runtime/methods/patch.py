"""Patches: the squares by which methods without a gradient look at an image."""

from __future__ import annotations

from bitlens.runtime.program import Program

PATCHES_PER_SIDE = 7
"""Patches along the shorter side, where the user does not say: 4 pixels each at 28, 32 at 224."""


def default_side(program: Program) -> int:
    """Side of a patch in pixels, at least 1."""
    return max(1, min(program.image_type.shape[1:]) // PATCHES_PER_SIDE)
