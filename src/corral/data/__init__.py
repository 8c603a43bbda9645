"""Images and labels: the data sets by name, their splits, batches and augmentation."""

from corral.data.augment import crop_and_flip
from corral.data.batches import shuffled
from corral.data.images import DataSet, Images, joined, require_all_classes
from corral.data.loading.arrays import from_arrays
from corral.data.lookup import is_known, known_names, load, loaded_once, resolved_name
from corral.data.registry import DATA_SETS, PATH_DATA_SETS, NamedDataSet, PathDataSet
from corral.data.split import random_subset, split_validation, stratified_subset

__all__ = [
    "DATA_SETS",
    "PATH_DATA_SETS",
    "DataSet",
    "Images",
    "NamedDataSet",
    "PathDataSet",
    "crop_and_flip",
    "from_arrays",
    "is_known",
    "joined",
    "known_names",
    "load",
    "loaded_once",
    "random_subset",
    "require_all_classes",
    "resolved_name",
    "shuffled",
    "split_validation",
    "stratified_subset",
]
