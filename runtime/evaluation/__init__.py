"""Evaluation: how close maps are to the full-precision twin's, and how faithful to the network, on many images.

| noun | module | what it is |
|---|---|---|
| labelled images | `labelled_images` | what is evaluated on |
| candidate, cast | `candidate` | the networks, their twin, and who makes the baselines |
| plan, chunk | `plan` | the work, cut into chunks with keys |
| measurement | `measurement` | what one chunk computes |
| chunk file | `chunk_file` | per-image values on the disk |
| work | `work` | doing what is missing |
| merge | `merge` | shards of several machines |
| result | `result` | means with intervals; `evaluation.json` |
| tables, page | `tables`, `evaluation_page` | what a person reads |
"""

from bitlens.runtime.evaluation.candidate import Candidate, Cast, open_cast
from bitlens.runtime.evaluation.labelled_images import LabelledImages, open_labelled_images
from bitlens.runtime.evaluation.merge import merged
from bitlens.runtime.evaluation.plan import Plan
from bitlens.runtime.evaluation.result import Result, collected, evaluation_facts
from bitlens.runtime.evaluation.work import Shard, do_missing, planned

__all__ = [
    "Candidate",
    "Cast",
    "LabelledImages",
    "Plan",
    "Result",
    "Shard",
    "collected",
    "do_missing",
    "evaluation_facts",
    "merged",
    "open_cast",
    "open_labelled_images",
    "planned",
]
