"""A frame with what the network says of it and why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.engines import EngineInfo
from bitlens.runtime.explanation import Explanation
from bitlens.runtime.live.frame import Frame
from bitlens.runtime.resize import Codes


@dataclass(frozen=True, eq=False)
class ExplainedFrame:
    """What came out for one frame.

    Parameters
    ----------
    frame : Frame
    image : uint8 (C, H, W)
        The frame as the network sees it.
    engine : EngineInfo
    logits : float32 (classes,)
    target : int
        Class that the map is for.
    is_predicted : bool
        Whether it was asked for as the class with the largest logit.
    explanation : Explanation or None
        None where the method refused.
    refusal : str
        Why it refused; empty if it did not.
    preparation_latency_ms, forward_latency_ms, map_latency_ms : float
        To make the frame fit, for the prediction, and for the map.
    """

    frame: Frame
    image: Codes
    engine: EngineInfo
    logits: npt.NDArray[np.float32]
    target: int
    is_predicted: bool
    explanation: Explanation | None
    refusal: str
    preparation_latency_ms: float
    forward_latency_ms: float
    map_latency_ms: float
