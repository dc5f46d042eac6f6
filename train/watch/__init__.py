"""Watching a network while it trains: maps of a few held-out images after every epoch, on a page that keeps up.

The first idea of 2411.05858. Nothing here changes the training: no random number of its own, no gradient of a weight.

| noun | module | what it is |
|---|---|---|
| watched images | `watched_images` | which held-out images, and for which class they are explained |
| map | `model_maps` | gradient and GradCAM of a Brevitas model, by torch.autograd |
| look | `look` | the numbers of one epoch, one JSON line |
| history | `history` | all looks with their maps, in the run folder |
| page | `watch_page` | what a person opens |
| watcher | `watcher` | looks after every epoch, writes history and page |
"""

from bitlens.train.watch.history import WATCH_FILES, WATCH_FOLDER
from bitlens.train.watch.watcher import Subject, Watcher

__all__ = ["WATCH_FILES", "WATCH_FOLDER", "Subject", "Watcher"]
