"""Data sets by name or folder: uint8 images in memory, a fixed split, and the augmentation that suits each.

| noun | module | what it is |
|---|---|---|
| image data set | `image_dataset` | images with their labels; code / 255 |
| split data set | `split_dataset` | name, shape, classes, and the two parts, read when asked for |
| registry | `registry` | data sets by name; `open_dataset` |
| digits | `digits` | scikit-learn's, always there |
| IDX | `idx` | the file format; `mnist` and `fashion-mnist` |
| CIFAR-10 | `cifar10` | binary version, zip or folder of pictures |
| image folder | `image_folder` | any `train/<class>/*.jpg` |
| decoding | `decoding` | pictures of any kind and size to tensors |
| download | `download` | official addresses with their SHA-256; into the cache of `bitlens.runtime.data_folder` |
| split | `split` | stratified |
| augmentation | `augmentation` | whole batches moved at once |

>>> from bitlens.train.datasets import open_dataset
>>> data = open_dataset("digits")
>>> data.input_shape, len(data.train())
((1, 28, 28), 1400)
"""

from bitlens.train.datasets import cifar10, digits, idx  # noqa: F401  (each registers its data sets)
from bitlens.train.datasets.augmentation import Augmentation, shift_and_flip, shift_and_rotate
from bitlens.train.datasets.image_dataset import ImageDataset, network_input
from bitlens.train.datasets.registry import DATASETS, open_dataset, register_dataset
from bitlens.train.datasets.split import stratified_split
from bitlens.train.datasets.split_dataset import SplitDataset

__all__ = [
    "DATASETS",
    "Augmentation",
    "ImageDataset",
    "SplitDataset",
    "network_input",
    "open_dataset",
    "register_dataset",
    "shift_and_flip",
    "shift_and_rotate",
    "stratified_split",
]
