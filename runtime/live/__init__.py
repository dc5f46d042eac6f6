"""Live saliency: frames from a camera or a file, explained at their own pace, shown on one web page or in a window."""

# A source is looked for in the order of these lines: what has a name of its own first, what may be any file last.
from bitlens.runtime.live import synthetic_source  # isort: skip
from bitlens.runtime.live import picamera2_source  # isort: skip
from bitlens.runtime.live import camera_source  # isort: skip
from bitlens.runtime.live import address_source  # isort: skip
from bitlens.runtime.live import folder_source  # isort: skip
from bitlens.runtime.live import video_source  # isort: skip
from bitlens.runtime.live.frame_source import SOURCES, FrameSource, SourceKind, open_source, register_source

__all__ = [
    "SOURCES",
    "FrameSource",
    "SourceKind",
    "address_source",
    "camera_source",
    "folder_source",
    "open_source",
    "picamera2_source",
    "register_source",
    "synthetic_source",
    "video_source",
]
