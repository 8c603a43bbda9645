"""Images and labels: the data sets by name, their splits, batches and augmentation."""

from corral.data.augment import crop_and_flip
from corral.data.batches import shuffled
from corral.data.given import AnyData, Measured, OnePart, is_own, own
from corral.data.images import DataSet, Images, as_float, joined, require_all_classes
from corral.data.loading.arrays import from_arrays
from corral.data.lookup import data_name, is_known, known_names, load, load_measured, loaded_once, resolved_name
from corral.data.registry import DATA_SETS, PATH_DATA_SETS, NamedDataSet, PathDataSet
from corral.data.split import random_subset, split_validation, stratified_subset
from corral.data.streamed import Streamed

__all__ = [
    "DATA_SETS",
    "PATH_DATA_SETS",
    "AnyData",
    "DataSet",
    "Images",
    "Measured",
    "NamedDataSet",
    "OnePart",
    "PathDataSet",
    "Streamed",
    "as_float",
    "crop_and_flip",
    "data_name",
    "from_arrays",
    "is_known",
    "is_own",
    "joined",
    "known_names",
    "load",
    "load_measured",
    "loaded_once",
    "own",
    "random_subset",
    "require_all_classes",
    "resolved_name",
    "shuffled",
    "split_validation",
    "stratified_subset",
]
