"""Streamed images are those in memory: the same pixels, parts, fingerprints and refusals, in bounded memory."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.pictures import write_tree
from torch.utils.data import Subset, TensorDataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from corral.data import Images, Streamed, joined, load, load_measured, own, split_validation
from corral.data.crops import Crops
from corral.data.loading import files, workers
from corral.errors import CorralError, UsageError

CROPS = 0.3


@pytest.fixture(autouse=True)
def streaming(monkeypatch, tmp_path_factory):
    """Everything is streamed, by one process; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("CORRAL_MEMORY_SHARE", "0")
    monkeypatch.setenv("CORRAL_WORKERS", "1")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("tree"), train=12)


def in_memory(monkeypatch, name, **options):
    with monkeypatch.context() as patch:
        patch.setenv("CORRAL_MEMORY_SHARE", "1")
        found = load(name) if isinstance(name, str) else own(name, **options)
    assert not (found.train if hasattr(found, "train") else found.images).streamed
    return found


def crops(seed=3):
    return Crops(CROPS, torch.Generator().manual_seed(seed))


def assert_equal(one: Images, other: Images) -> None:
    assert (len(one), one.shape, one.dtype) == (len(other), other.shape, other.dtype)
    assert torch.equal(one.stored(), other.stored())
    assert torch.equal(one.float(), other.float())
    assert (one.labels is None) == (other.labels is None)
    assert one.labels is None or torch.equal(one.labels, other.labels)


def test_a_tree_s_images_are_those_in_memory(tree, monkeypatch):
    name = f"{tree}?size=24,resize=28"
    expected, found = in_memory(monkeypatch, name), load(name)
    assert isinstance(found.train, Streamed)
    assert (found.fingerprint, found.note, found.classes) == (expected.fingerprint, expected.note, expected.classes)
    for one, other in ((found.train, expected.train), (found.test, expected.test)):
        assert_equal(one, other)
        some = torch.tensor([4, 0, 4])
        assert_equal(one.take(some), other.take(some))
        mask = torch.arange(len(one)) % 3 == 1
        assert torch.equal(one.float(mask), other.float(mask))
        assert torch.equal(one.stored(some, crops()), other.whole().stored(some, crops()))
    for one, other in zip(
        split_validation(found.train, 5, seed=0), split_validation(expected.train, 5, seed=0), strict=True
    ):
        assert_equal(one, other)
    assert_equal(joined(found.train, found.test), joined(expected.train, expected.test))
    with pytest.raises(CorralError, match=r"24 images are streamed, .*stored\(rows\) or float\(rows\)"):
        _ = found.train.pixels


def test_batches_come_in_their_order_with_their_parts_whatever_the_processes(tree, monkeypatch):
    """More rows than a process reads at once, none, and one image twice; a rank's share has the whole batch's parts."""
    images = load(f"{tree}?size=16").train
    batches = [torch.randperm(24), torch.tensor([], dtype=torch.int64), torch.tensor([3]), torch.tensor([5, 5, 1])]
    expected = in_memory(monkeypatch, f"{tree}?size=16").train.whole()
    for count in ("0", "3"):
        monkeypatch.setenv("CORRAL_WORKERS", count)
        found = list(images.each(iter(batches), crops()))
        alone = crops()
        for (indices, pixels), batch in zip(found, batches, strict=True):
            assert indices is batch
            assert torch.equal(pixels, expected.stored(batch, alone))
        shares = [list(images.each(batches, crops(), lambda n, rank=rank: range(rank, n, 2))) for rank in range(2)]
        for (_, whole), (_, first), (_, second) in zip(found, *shares, strict=True):
            assert torch.equal(first + second, whole)
            assert not first[1::2].any()
            assert not second[::2].any()


def test_few_batches_are_asked_for_before_they_are_wanted(tree):
    images, asked = load(f"{tree}?size=16").train, []

    def batches():
        for number in range(100):
            asked.append(number)
            yield torch.tensor([number % 24])

    found = images.each(batches())
    for _ in range(10):
        next(found)
    found.close()
    assert 10 <= len(asked) <= 10 + workers.AHEAD + 1


def test_parts_of_a_tree_without_a_test_part_are_the_same(tmp_path, monkeypatch):
    for path in (Path(write_tree(tmp_path / "tree", test=0).removeprefix("folder:")) / "train").iterdir():
        path.rename(tmp_path / path.name)
    (tmp_path / "tree").rename(tmp_path / "unlabeled")
    for number in range(3):
        Image.new("L", (30 + number, 40), 50 * number).save(tmp_path / "unlabeled" / f"{number}.png")
    name = f"folder:{tmp_path}?size=20"
    expected, found = in_memory(monkeypatch, name), load(name)
    assert (found.fingerprint, found.unlabeled_fingerprint) == (expected.fingerprint, expected.unlabeled_fingerprint)
    assert found.unlabeled.streamed
    assert_equal(joined(found.train, found.unlabeled), joined(expected.train, expected.unlabeled))
    one, other = (load_measured(name), None)
    with monkeypatch.context() as patch:
        patch.setenv("CORRAL_MEMORY_SHARE", "1")
        other = load_measured(name)
    assert_equal(one.test, other.test)
    assert one.note == other.note


def test_what_was_found_is_known_until_a_file_changes(tree, tmp_path, monkeypatch):
    name = f"{write_tree(tmp_path / 'tree')}?size=16,skip-damaged"
    first = load(name)

    def refused(*_):
        raise AssertionError("an image was decoded")

    with monkeypatch.context() as patch:
        patch.setattr(files, "read_picture", refused)
        patch.setattr(files, "common_shape", refused)
        assert load(name).fingerprint == first.fingerprint
    file = tmp_path / "tree/train/class0/3.jpg"
    Image.new("RGB", (50, 50), "red").save(file)
    changed = load(name)
    assert changed.fingerprint == in_memory(monkeypatch, name).fingerprint != first.fingerprint
    file.write_bytes(file.read_bytes()[:300])
    (tmp_path / "tree/val/class1/0.jpg").write_bytes(b"no picture")
    left = load(name)
    expected = in_memory(monkeypatch, name)
    assert (len(left.train), len(left.test), left.note) == (11, 5, expected.note)
    assert left.fingerprint == expected.fingerprint


def one_line(caught) -> str:
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_damaged_picture_is_named_before_anything_is_trained_and_later(tmp_path):
    name = f"{write_tree(tmp_path / 'tree')}?size=16"
    data = load(name)
    file = tmp_path / "tree/train/class1/2.jpg"
    whole = file.read_bytes()
    for content, words in ((whole[:-60], "a damaged image"), (b"no picture", "not a PNG, JPEG"), (None, "cannot")):
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        with pytest.raises(CorralError) as caught:
            list(data.train.each([torch.arange(12)]))
        assert one_line(caught).startswith(f"{file}: {words}")
        with pytest.raises(CorralError) as caught:
            data.train.float(torch.tensor([8]))
        assert str(file) in one_line(caught)
    file.write_bytes(whole[:-60])
    with pytest.raises(CorralError, match="a damaged image"):
        load(name)


class Photographs:
    """Pictures of different sizes as a foreign data set of items, with or without labels beside them."""

    classes = ("dark", "light")

    def __init__(self, count=10, targets=True, gray=()):
        numbers = np.random.default_rng(0)
        self.labels = [index % 2 for index in range(count)]
        sides = numbers.integers(20, 40, (count, 2))
        levels = [numbers.integers(0, 256, (*side, 3), dtype=np.uint8) for side in sides]
        self.pictures = [
            Image.fromarray(image).convert("L" if index in gray else "RGB") for index, image in enumerate(levels)
        ]
        if targets:
            self.targets = self.labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.pictures[index], self.labels[index]


@pytest.mark.parametrize("targets", [True, False])
@pytest.mark.parametrize("gray", [(), (0, 3), tuple(range(10))])
def test_a_map_style_data_set_s_pictures_are_those_in_memory(targets, gray, monkeypatch):
    items = Photographs(targets=targets, gray=gray)
    expected, found = in_memory(monkeypatch, items, size=16), own(items, size=16)
    assert found.images.streamed
    assert_equal(found.images, expected.images)
    some = torch.tensor([7, 1])
    assert torch.equal(found.images.stored(some, crops()), expected.images.whole().stored(some, crops()))
    assert found.data_set.fingerprint == expected.data_set.fingerprint
    assert found.measured.fingerprint == expected.measured.fingerprint
    assert found.data_set.classes == expected.data_set.classes == ("dark", "light")


def test_labels_that_are_stated_wrongly_are_not_believed():
    items = Photographs()
    items.targets = [1 - label for label in items.labels]
    assert own(items, size=16).images.labels.tolist() == items.labels


def test_labels_of_a_subset_and_of_a_column_are_taken_without_decoding(monkeypatch):
    items = Photographs()
    rows = [9, 0, 2, 5]
    assert own(Subset(items, rows), size=16).images.labels.tolist() == [items.labels[row] for row in rows]

    class Table(Photographs):
        column_names = ("image", "label")
        asked = 0

        def __getitem__(self, index):
            Table.asked += 1
            return {"image": self.pictures[index], "label": self.labels[index]}

        def select_columns(self, names):
            assert names == ["label"]
            return [{"label": label} for label in self.labels]

    monkeypatch.setattr("corral.data.loading.own_items.SAMPLED", 5)
    monkeypatch.setenv("CORRAL_WORKERS", "0")
    assert own(Table(1000), size=16).images.labels.tolist() == [0, 1] * 500
    assert Table.asked < 50


@pytest.mark.parametrize("levels", [True, False])
def test_floats_are_levels_where_all_are_and_a_mixture_is_refused(levels, monkeypatch):
    x = torch.randint(256, (8, 3, 6, 6), generator=torch.Generator().manual_seed(0)) / 255
    x = x if levels else x * 0.999
    data = TensorDataset(x, torch.arange(8) % 2)
    expected, found = in_memory(monkeypatch, data), own(data)
    assert_equal(found.images, expected.images)
    some = torch.tensor([7, 1])
    assert torch.equal(found.images.stored(some, crops()), expected.images.stored(some, crops()))
    if levels:
        x[5] *= 0.999
        with pytest.raises(CorralError, match=r"item 5: has other values than k/255, item 0 has not"):
            own(data).images.float()


def test_items_that_change_or_are_almost_black_are_refused():
    class Random(Photographs):
        def __getitem__(self, index):
            return torch.rand(3, 8, 8), index % 2

    with pytest.raises(CorralError, match="item 0 is another image when it is read again"):
        own(Random())
    black = TensorDataset(torch.ones(8, 1, 4, 4, dtype=torch.uint8), torch.arange(8) % 2)
    with pytest.raises(CorralError, match="uint8 of 0 and 1 alone"):
        own(black)


def test_images_that_a_device_cannot_hold_stay_in_the_host_s_memory():
    """A device of this process's own memory by another name: its share is 0."""
    x = torch.randint(256, (9, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = Images(x, torch.arange(9) % 3)
    held = images.to("cpu:0")
    assert isinstance(held, Streamed)
    assert (held.device, held.streamed) == (torch.device("cpu:0"), False)
    assert_equal(held, images)
    assert_equal(held.take(torch.tensor([5, 2])), images.take(torch.tensor([5, 2])))
    batches = [torch.tensor([1, 8, 0]), torch.tensor([4])]
    for (_, one), (_, other) in zip(held.each(batches, crops()), images.each(batches, crops()), strict=True):
        assert torch.equal(one, other)


def test_a_process_that_is_killed_is_one_line(monkeypatch):
    first = os.getpid()

    class Killing(Photographs):
        def __getitem__(self, index):
            if index == 7 and os.getpid() != first:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__getitem__(index)

    # A process that is gone is looked for every five seconds.
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))
    before = signal.getsignal(signal.SIGCHLD)
    images = own(Killing(), size=16).images
    with pytest.raises(CorralError) as caught:
        images.float(torch.tensor([7]))
    assert "own/Killing: a process that reads its images ended (signal 9, SIGKILL)" in one_line(caught)
    assert "set CORRAL_WORKERS to fewer than 1" in one_line(caught)
    assert signal.getsignal(signal.SIGCHLD) is before
    assert images.float(torch.tensor([1])).shape == (1, 3, 16, 16)  # others are read all the same
    for child in images.store.asked.children:  # which wait for the next call
        os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(CorralError, match=r"a process that reads its images ended \(signal 9, SIGKILL\)"):
        images.float(torch.tensor([1]))


def test_the_state_of_torch_s_generator_is_left_alone(tree):
    images = load(f"{tree}?size=16").train
    before = torch.get_rng_state()
    images.float()
    list(images.each([torch.arange(5)]))
    assert torch.equal(torch.get_rng_state(), before)


def test_variables_that_are_none_are_refused(tree, monkeypatch):
    for name, value in (("CORRAL_WORKERS", "-1"), ("CORRAL_MEMORY_SHARE", "much"), ("CORRAL_MEMORY_SHARE", "nan")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(UsageError, match=rf"{name} must be .*found '{value}'"):
                load(f"{tree}?size=16").train.float(torch.tensor([0]))


def test_without_shared_memory_there_are_fewer_processes_or_a_line(monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setenv("CORRAL_WORKERS", "8")
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda _: usage)
    assert workers.worker_count(10) == 8
    assert workers.worker_count(100) == 3
    with pytest.raises(CorralError, match=r"1,000 bytes of shared memory are free, .* need 2,000.*--shm-size"):
        workers.worker_count(500)


# One picture under many names: what is read at once decides the memory, not how many there are.
MEASURED = """
import json, os, resource, sys, torch
from pathlib import Path
from PIL import Image
from corral.data import load
from corral.data.crops import Crops

def peak():
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

picture = Path(sys.argv[1]) / "picture.jpg"
Image.radial_gradient("L").convert("RGB").resize((150, 120)).save(picture)
peaks = []
for count in (25, 250):
    root = Path(sys.argv[1]) / str(count)
    for part, each in (("train", count), ("val", 2)):
        for name in "ab":
            (root / part / name).mkdir(parents=True)
            for index in range(each):
                os.link(picture, root / part / name / f"{index}.jpg")
    data = load(f"folder:{root}?resize=128,size=112")
    crops = Crops(0.08, torch.Generator().manual_seed(0))
    seen = sum(len(pixels) for _, pixels in data.train.each(torch.randperm(2 * count).split(25), crops))
    assert seen == 2 * count
    data.train.take(torch.arange(30)).float()
    peaks.append(peak())
print(json.dumps(peaks))
"""


def test_peak_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """450 images more of 112 pixels are 17 MB more; docs/large-data.md has the figures of 224 pixels, by this script.

    glibc's heap, which keeps freed blocks of a few megabytes or does not, as they happen to lie, is left out.
    """
    found = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "500000"},
    )
    one, ten = json.loads(found.stdout)
    assert ten - one < 3_000  # kilobytes
