"""Data: what is loaded is what lies on the disk, each image gets its own crop, damage is named."""

import hashlib
import io
import os
import pickle
import subprocess
import sys
import urllib.error
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cbn_lab import data


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def made_up(n=6, size=5, channels=3, seed=0):
    images = torch.randint(0, 256, (n, size, size, channels), dtype=torch.uint8, generator=seeded(seed))
    mean, std = (0.5,) * channels, (0.25,) * channels
    return data.Dataset(images, torch.arange(n), tuple(map(str, range(n))), mean, std, "made up")


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar_name(request):
    try:
        data.load(request.param, "test")
    except data.DataError as error:
        pytest.skip(str(error))
    return request.param


# Augmentation


def cropped_by_hand(image, dy, dx, flip, pad):
    """One image, pixel by pixel."""
    h, w, c = image.shape
    out = np.zeros((h, w, c), np.uint8)
    for y in range(h):
        for x in range(w):
            from_y, from_x = y + dy - pad, (w - 1 - x if flip else x) + dx - pad
            if 0 <= from_y < h and 0 <= from_x < w:
                out[y, x] = image[from_y, from_x]
    return out


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 4), st.booleans(), st.integers(0, 99))
def test_batch_equals_crops_made_pixel_by_pixel(size, channels, pad, flip, seed):
    dataset, generator = made_up(7, size, channels, seed), seeded(seed)
    indices = torch.randint(0, 7, (5,), generator=generator)
    draw = data.augmentation(5, generator, pad=pad, flip=flip)
    batch = data.augmented_batch(dataset, indices, draw)
    assert batch.dtype == torch.uint8 and batch.is_contiguous()
    for i, row in enumerate(indices):
        image, dy, dx = dataset.images[row].numpy(), int(draw.dy[i]), int(draw.dx[i])
        assert np.array_equal(batch[i].numpy(), cropped_by_hand(image, dy, dx, draw.flip[i], pad))


def test_batch_equals_torchvision_on_single_images():
    from torchvision.transforms.v2 import functional as tv

    dataset, draw = made_up(20, 8), data.augmentation(20, seeded(), pad=2, flip=True)
    batch = data.augmented_batch(dataset, torch.arange(20), draw)
    for i in range(20):
        padded = tv.pad(dataset.images[i].permute(2, 0, 1), [2])
        image = tv.crop(padded, int(draw.dy[i]), int(draw.dx[i]), 8, 8)
        image = tv.horizontal_flip(image) if draw.flip[i] else image
        assert torch.equal(batch[i].permute(2, 0, 1), image)


def test_no_padding_and_no_flip_is_plain_indexing():
    dataset, indices = made_up(), torch.tensor([3, 3, 0])
    draw = data.augmentation(3, seeded(), pad=0, flip=False)
    assert torch.equal(data.augmented_batch(dataset, indices, draw), dataset.images[indices])


def test_padding_is_black_before_normalization():
    dataset = made_up()
    zero = torch.zeros(1, dtype=torch.int64)
    corner = data.Augmentation(zero, zero, torch.tensor([False]), 2)
    batch = data.augmented_batch(dataset, torch.tensor([1]), corner)
    assert not batch[0, :2].any() and not batch[0, :, :2].any()
    assert torch.equal(batch[0, 2:, 2:], dataset.images[1, :-2, :-2])
    assert torch.equal(data.normalize(batch, dataset)[0, :, 0, 0], torch.full((3,), -2.0))  # (0 - 0.5) / 0.25


def test_every_image_gets_its_own_uniform_draw():
    """torchvision draws once for a batch: https://github.com/pytorch/vision/issues/8484"""
    n = 81_000
    draw = data.augmentation(n, seeded(3), pad=4, flip=True)
    cell = (draw.dy * 9 + draw.dx) * 2 + draw.flip
    counts = torch.bincount(cell, minlength=162).double()
    chi_squared = float(((counts - n / 162) ** 2 / (n / 162)).sum())
    # 161 degrees of freedom: mean 161, standard deviation 17.9. Jointly uniform, so also independent.
    assert len(counts) == 162 and 161 - 4 * 17.9 < chi_squared < 161 + 4 * 17.9
    assert abs(float(draw.flip.double().mean()) - 0.5) < 4 * 0.5 / n**0.5
    same = (cell[1:] == cell[:-1]).double().mean()  # neighbours agree as often as chance has it
    assert abs(float(same) - 1 / 162) < 4 * (1 / 162 / n) ** 0.5


def test_same_image_looks_different_within_one_batch():
    draw = data.augmentation(64, seeded(), pad=4, flip=True)
    batch = data.augmented_batch(made_up(size=9), torch.zeros(64, dtype=torch.long), draw)
    assert len({image.numpy().tobytes() for image in batch}) > 40


def test_draws_follow_the_seed_and_slice():
    a, b, c = (data.augmentation(50, seeded(s), pad=4, flip=True) for s in (1, 1, 2))
    assert torch.equal(a.dy, b.dy) and torch.equal(a.dx, b.dx) and torch.equal(a.flip, b.flip)
    assert not torch.equal(a.dy, c.dy)
    dataset, rows = made_up(50), torch.arange(50)
    whole = data.augmented_batch(dataset, rows, a)
    assert torch.equal(whole[10:20], data.augmented_batch(dataset, rows[10:20], a[10:20]))
    assert not data.augmentation(50, seeded(), pad=4, flip=False).flip.any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_batch_is_the_cpu_batch():
    dataset, draw = made_up(50, 8), data.augmentation(50, seeded(), pad=2, flip=True)
    on_gpu = data.augmented_batch(dataset.to("cuda"), torch.arange(50), draw)
    assert on_gpu.is_cuda and torch.equal(on_gpu.cpu(), data.augmented_batch(dataset, torch.arange(50), draw))


def test_augmentation_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="expected one on the CPU"):
        data.augmentation(2, SimpleNamespace(device=torch.device("cuda")), pad=1, flip=True)
    with pytest.raises(ValueError, match="3 images but 2 draws"):
        data.augmented_batch(made_up(), torch.arange(3), data.augmentation(2, seeded(), pad=1, flip=True))


# Normalization and statistics


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 3), st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
def test_normalize_is_the_formula(n, size, channels, seed):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (n, size, size, channels), np.uint8)
    mean, std = generator.uniform(0.1, 0.9, channels), generator.uniform(0.1, 0.4, channels)
    dataset = data.Dataset(torch.from_numpy(images), torch.zeros(n), ("a",), tuple(mean), tuple(std), "made up")
    out = data.normalize(dataset.images, dataset)
    expected = ((images.astype(np.float64) / 255 - mean) / std).transpose(0, 3, 1, 2)
    assert out.dtype == torch.float32 and out.shape == expected.shape
    assert out.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-6, atol=4e-6)
    rounded = data.normalize(dataset.images, dataset, torch.bfloat16)
    assert rounded.dtype == torch.bfloat16 and torch.equal(rounded, out.to(torch.bfloat16))


def test_normalize_takes_a_view_that_is_not_contiguous():
    dataset = made_up()
    flipped = dataset.images.permute(0, 2, 1, 3)
    assert torch.equal(data.normalize(flipped, dataset), data.normalize(flipped.contiguous(), dataset))


def test_normalized_train_split_has_mean_0_and_std_1():
    digits = data.load("digits", "train")
    pixels = data.normalize(digits.images, digits).double()
    assert abs(float(pixels.mean())) < 1e-6 and abs(float(pixels.std(correction=0)) - 1) < 1e-6


@pytest.mark.parametrize("images", [torch.zeros(2, 5, 5, 3), torch.zeros(2, 3, 5, 5, dtype=torch.uint8),
                                    torch.zeros(5, 5, 3, dtype=torch.uint8)])
def test_normalize_says_what_it_expected(images):
    with pytest.raises(ValueError, match=r"expected uint8 \[B, H, W, C\] with C = 3"):
        data.normalize(images, made_up())


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 99))
def test_statistics_equal_the_two_pass_formula(n, channels, seed):
    images = np.random.default_rng(seed).integers(0, 256, (n, 6, 6, channels), np.uint8)
    mean, std = data.channel_statistics(images)
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)) / 255, rtol=1e-13)
    np.testing.assert_allclose(std, images.std((0, 1, 2)) / 255, rtol=1e-12)


def test_statistics_do_not_depend_on_how_the_pixels_are_split_into_parts():
    images = np.random.default_rng(0).integers(0, 256, (90, 64, 64, 2), np.uint8)
    assert images[..., 0].size > 2 * 2**17  # three parts
    np.testing.assert_allclose(data.channel_statistics(images)[0], images.mean((0, 1, 2)) / 255, rtol=1e-13)


def test_constant_channel_has_std_1():
    assert data.channel_statistics(np.full((3, 4, 4, 1), 51, np.uint8)) == ((0.2,), (1.0,))


# The data sets with names


def test_digits_are_scikit_learns_in_file_order_cut_between_two_forms():
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    original = datasets.load_digits()
    train, test = data.load("digits", "train"), data.load("digits", "test")
    images = torch.cat([train.images, test.images])[..., 0]
    assert np.array_equal(images.numpy(), original.images * 15)
    assert np.array_equal(torch.cat([train.labels, test.labels]).numpy(), original.target)


def test_digits():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert train.images.shape == (1415, 8, 8, 1) and test.images.shape == (382, 8, 8, 1)
    assert (train.num_classes, train.in_channels, train.image_size, len(test)) == (10, 1, 8, 382)
    assert train.class_names == tuple("0123456789") and train.labels.dtype == torch.int64
    assert (int(train.images.min()), int(train.images.max())) == (0, 240)
    assert train.source == "digits.npz, train, sha256 ca921bab5ca6"
    assert test.source == "digits.npz, test, sha256 2733ac43d1da"
    assert (train.mean, train.std) == (test.mean, test.std)
    counts = torch.bincount(test.labels)
    assert counts.min() >= 35 and counts.max() <= 39
    # Every form starts with the ten digits three times over; the cut is at such a start.
    assert test.labels[:30].tolist() == 3 * list(range(10))


def test_digits_carry_their_licence():
    with np.load(Path(data.__file__).with_name("digits.npz"), allow_pickle=False) as arrays:
        notice = str(arrays["notice"])
    assert all(word in notice for word in ("Alpaydin", "Kaynak", "1998", "CC BY 4.0", "optdigits.tes"))


def test_cifar(cifar_name):
    train, test = data.load(cifar_name, "train"), data.load(cifar_name, "test")
    assert train.images.shape == (50_000, 32, 32, 3) and test.images.shape == (10_000, 32, 32, 3)
    k = {"cifar10": 10, "cifar100": 100}[cifar_name]
    assert torch.equal(torch.bincount(train.labels), torch.full((k,), 50_000 // k))
    published = {"cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
                 "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))}[cifar_name]
    np.testing.assert_allclose(test.mean, published[0], atol=5.1e-5)
    np.testing.assert_allclose(test.std, published[1], atol=5.1e-5)


def test_subset_keeps_statistics_and_says_so():
    digits = data.load("digits", "train")
    part, picked = digits.subset(slice(10, 30)), digits.subset([5, 3])
    assert len(part) == 20 and torch.equal(part.images, digits.images[10:30]) and part.mean == digits.mean
    assert torch.equal(picked.labels, digits.labels[torch.tensor([5, 3])])
    assert part.source == digits.source + ", 20 of its 1415 images"


def test_available_names_each_file_or_the_reason(alone):
    found = data.available()
    assert found["digits"] == "digits.npz" and found["cifar10"].startswith("missing: cifar10 was found at none of")
    write_npz(alone / "data" / "cifar10.npz")
    assert data.available()["cifar10"] == "cifar10.npz"


def test_training_path_imports_neither_torchvision_nor_pillow_nor_matplotlib():
    code = ("import sys; from cbn_lab import data; data.load('digits', 'test'); "
            "print([m for m in ('torchvision', 'PIL', 'matplotlib', 'sklearn') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# .npz files and where they are looked for


def arrays(n=4, size=6, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return {"x_train": rng.integers(0, 256, (n, size, size, channels), np.uint8), "y_train": np.arange(n) % 2,
            "x_test": rng.integers(0, 256, (2, size, size, channels), np.uint8), "y_test": np.array([1, 0]),
            "class_names": np.array(["cat", "dog"])}


def write_npz(path, **changes):
    """A good file but for `changes`; None leaves a key out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{key: value for key, value in (arrays() | changes).items() if value is not None})
    return path


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A working folder with no data, no home and no $CBN_LAB_DATA, so that nothing on this machine is found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.delenv("CBN_LAB_DATA", raising=False)
    return tmp_path


def refusal(name, split="train", **options):
    """The sentence with which `load` refuses."""
    with pytest.raises(data.DataError) as caught:
        data.load(name, split, **options)
    message = str(caught.value)
    assert "\n" not in message and isinstance(caught.value, ValueError)
    return message


def test_npz_by_path(tmp_path):
    wanted = arrays()
    path = write_npz(tmp_path / "mine.npz")
    train, test = data.load(path, "train"), data.load(str(path), "test")
    assert np.array_equal(train.images.numpy(), wanted["x_train"]) and train.labels.tolist() == [0, 1, 0, 1]
    assert np.array_equal(test.images.numpy(), wanted["x_test"]) and test.class_names == ("cat", "dog")
    np.testing.assert_allclose(test.mean, wanted["x_train"].mean((0, 1, 2)) / 255)
    digest = hashlib.sha256(wanted["x_train"].tobytes() + wanted["y_train"].astype("<i8").tobytes()).hexdigest()
    assert train.source == f"mine.npz, train, sha256 {digest[:12]}"


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_labels_of_any_integer_type(tmp_path, dtype):
    path = write_npz(tmp_path / "mine.npz", y_train=np.array([1, 0, 1, 0], dtype))
    assert data.load(path, "train").labels.tolist() == [1, 0, 1, 0]


def test_statistics_are_computed_once_until_the_file_changes(tmp_path, monkeypatch):
    calls, original = [], data.channel_statistics
    monkeypatch.setattr(data, "channel_statistics", lambda x: calls.append(len(x)) or original(x))
    path = write_npz(tmp_path / "mine.npz")
    first = data.load(path, "train")
    assert data.load(path, "test").mean == first.mean and calls == [4]
    write_npz(path, x_train=arrays(seed=1)["x_train"])
    os.utime(path, ns=(0, 0))  # a changed time stamp even on a file system that counts seconds
    assert data.load(path, "test").mean != first.mean and calls == [4, 4]


def test_a_split_is_read_without_the_other(tmp_path):
    path = write_npz(tmp_path / "mine.npz", x_test=None)
    assert len(data.load(path, "train")) == 4
    assert "mine.npz lacks x_test; expected" in refusal(path, "test")


def test_places_are_searched_in_the_documented_order(alone, monkeypatch):
    places = [alone / "root", alone / "env", alone / "data", alone / "home" / ".cache" / "cbn-lab"]
    for i, place in enumerate(places):
        write_npz(place / "cifar10.npz", class_names=np.array([str(i), "dog"]))
    monkeypatch.setenv("CBN_LAB_DATA", str(places[1]))
    for i, place in enumerate(places):
        assert data.load("cifar10", "train", root=places[0]).class_names[0] == str(i)
        (place / "cifar10.npz").unlink()
    message = refusal("cifar10", root=places[0])
    assert all(str(place) in message for place in (*places[:2], "data/cifar10.npz", "~/.cache/cbn-lab/cifar10.npz"))
    assert str(places[3]) not in message  # a stored notebook must not tell whose machine it was
    assert all(way in message for way in ("put a cifar10.npz", "cifar-10-batches-py", "download=True"))


def test_unknown_names_and_splits_list_the_known():
    message = refusal("mnist")
    assert all(name in message for name in ("'mnist'", "digits", "cifar10", "cifar100", "imagefolder:PATH", ".npz"))
    assert "expected 'train' or 'test'" in refusal("digits", "validation")
    assert "nowhere.npz does not exist" in refusal("nowhere.npz")


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"x_train": None, "class_names": None}, "lacks x_train, class_names; expected x_train, y_train, x_t"),
    ({"x_train": np.zeros((4, 6, 6, 3), np.float32)}, r"float32 of shape \(4, 6, 6, 3\); expected uint8"),
    ({"x_train": np.zeros((4, 6, 6), np.uint8)}, r"shape \(4, 6, 6\); expected uint8 \[N, H, W, C\]"),
    ({"x_train": np.zeros((4, 3, 6, 6), np.uint8)}, "at most 4 channels"),
    ({"x_train": np.zeros((0, 6, 6, 3), np.uint8)}, "at least one image"),
    ({"x_train": np.zeros((4, 6, 8, 3), np.uint8)}, "8 x 6 pixels; expected squares"),
    ({"y_train": np.zeros(4)}, "labels are float64"),
    ({"y_train": np.zeros((4, 1), int)}, r"labels are int64 of shape \(4, 1\); expected integers \[N\]"),
    ({"y_train": np.array(3)}, r"labels are int64 of shape \(\)"),
    ({"y_train": np.zeros(3, int)}, "4 images and 3 labels"),
    ({"y_train": np.array([0, 1, 2, 1])}, "run from 0 to 2; expected 0 to 1 for 2 class_names"),
    ({"y_train": np.array([0, 1, -1, 1])}, "run from -1 to 1; expected 0 to 1"),
    ({"class_names": np.array([0, 1])}, r"class_names are int64 of shape \(2,\); expected strings"),
    ({"class_names": np.array([], str)}, "expected 0 to -1 for 0 class_names"),
    ({"class_names": np.array(["cat", None])}, "pickled Python objects.*could run code"),
])
def test_wrong_arrays_are_named(tmp_path, changes, sentence):
    message = refusal(write_npz(tmp_path / "mine.npz", **changes))
    assert "mine.npz" in message and "again" in message
    with pytest.raises(data.DataError, match=sentence):
        data.load(tmp_path / "mine.npz", "train")


def test_damaged_files_are_named(tmp_path):
    path = write_npz(tmp_path / "mine.npz")
    whole = path.read_bytes()
    at = whole.index(arrays()["x_train"].tobytes())
    for damaged, sentence in [(whole[: len(whole) // 2], "truncated or no .npz"), (b"", "truncated or no .npz"),
                              (b"not an archive", "truncated or no .npz"),
                              (whole[:at] + bytes(8) + whole[at + 8:], "mine.npz is damaged (Bad CRC-32")]:
        path.write_bytes(damaged)
        message = refusal(path)
        assert "mine.npz" in message and sentence in message and "again" in message


# torchvision's files


class PicklerOf2009(pickle.Pickler):
    """Writes `align` as a number, like the published files, of which numpy 2.4 warns: see pytorch/vision#9340."""

    def reducer_override(self, thing):
        if isinstance(thing, np.dtype):
            return np.dtype, ("u1", 0)
        return NotImplemented


def pickled(thing):
    file = io.BytesIO()
    PicklerOf2009(file).dump(thing)
    return file.getvalue()


def write_torchvision(root, name="cifar10"):
    """CIFAR's python layout with 3 + 2 images; returns torchvision's class and the MD5 of each file."""
    from torchvision import datasets

    cls = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    folder, key = root / cls.base_folder, {"cifar10": "labels", "cifar100": "fine_labels"}[name]
    folder.mkdir(parents=True)
    rng, md5 = np.random.default_rng(0), {}
    for split_files, n in ((cls.train_list[:1], 3), (cls.test_list, 2)):
        for file, _ in split_files:
            content = pickled({"data": rng.integers(0, 256, (n, 3072), np.uint8), key: list(range(n))})
            (folder / file).write_bytes(content)
            md5[file] = hashlib.md5(content).hexdigest()
    content = pickle.dumps({cls.meta["key"]: ["plane", "car", "bird"]})
    (folder / cls.meta["filename"]).write_bytes(content)
    return cls, md5 | {"meta": hashlib.md5(content).hexdigest()}


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_torchvision_files(alone, monkeypatch, name):
    cls, md5 = write_torchvision(alone / "data", name)
    monkeypatch.setattr(cls, "train_list", [[file, md5[file]] for file, _ in cls.train_list[:1]])
    monkeypatch.setattr(cls, "test_list", [[file, md5[file]] for file, _ in cls.test_list])
    monkeypatch.setattr(cls, "meta", cls.meta | {"md5": md5["meta"]})
    test = data.load(name, "test")
    assert test.class_names == ("plane", "car", "bird") and test.labels.tolist() == [0, 1]
    assert test.source.startswith(f"{cls.base_folder}, test, sha256 ")
    rng = np.random.default_rng(0)  # as in write_torchvision, where the three train images come first
    planes = rng.integers(0, 256, (5, 3, 32, 32), np.uint8)[3:]
    assert np.array_equal(test.images.permute(0, 3, 1, 2).numpy(), planes)
    assert len(data.load(name, "train")) == 3


def test_torchvision_files_with_a_wrong_checksum_are_never_unpickled(alone, monkeypatch):
    write_torchvision(alone / "data")
    monkeypatch.setattr(pickle, "load", lambda *a, **k: pytest.fail("unpickled an unchecked file"))
    message = refusal("cifar10")
    assert "data/cifar-10-batches-py is incomplete or damaged" in message and "MD5" in message


def test_download_only_when_asked_and_its_failure_is_one_sentence(alone, monkeypatch):
    from torchvision.datasets import cifar

    asked = []

    def no_network(url, root, **kwargs):
        asked.append(str(root))
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(cifar, "download_and_extract_archive", no_network)
    refusal("cifar10")
    assert asked == []
    message = refusal("cifar10", root=alone / "here", download=True)
    assert asked == [str(alone / "here")] and "check the connection" in message and "no network" in message
    write_npz(alone / "data" / "cifar10.npz")
    assert len(data.load("cifar10", "train", download=True)) == 4 and len(asked) == 1


# Image folders


def write_folder(root, splits=("train", "test"), size=(6, 6), mode="RGB"):
    rng = np.random.default_rng(0)
    for split in splits:
        for class_name, n in (("cat", 2), ("ant", 3)):
            (root / split / class_name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
                Image.fromarray(pixels).convert(mode).save(root / split / class_name / f"{i:02d}.png")
    return root


@pytest.mark.parametrize("second", ["test", "val"])
def test_image_folder_equals_torchvisions(tmp_path, second):
    from torchvision.datasets import ImageFolder

    root = write_folder(tmp_path / "pets", ("train", second))
    for split, folder in (("train", "train"), ("test", second)):
        dataset, expected = data.load(f"imagefolder:{root}", split), ImageFolder(root / folder)
        assert dataset.class_names == tuple(expected.classes) == ("ant", "cat")
        assert dataset.labels.tolist() == expected.targets
        for image, (original, _) in zip(dataset.images, expected, strict=True):
            assert np.array_equal(image.numpy(), np.asarray(original))
        assert dataset.source.startswith(f"imagefolder:pets, {split}, sha256 ")


def test_image_folder_of_grey_images_becomes_rgb(tmp_path):
    dataset = data.load(f"imagefolder:{write_folder(tmp_path, mode='L')}", "train")
    assert dataset.in_channels == 3 and torch.equal(dataset.images[..., 0], dataset.images[..., 2])


def test_damaged_image_folders_are_named(tmp_path):
    assert f"there is no folder {tmp_path / 'train'}" in refusal(f"imagefolder:{tmp_path}")
    (tmp_path / "train").mkdir()
    assert "train has no class folders; expected" in refusal(f"imagefolder:{tmp_path}")
    (tmp_path / "train" / "ant").mkdir()
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no image")
    message = refusal(f"imagefolder:{tmp_path}")
    assert f"{tmp_path / 'train' / 'ant'} has no images" in message and "remove the folder" in message


def test_hidden_files_and_folders_are_no_images(tmp_path):
    root = write_folder(tmp_path)
    expected = data.load(f"imagefolder:{root}", "train")
    (root / "train" / "ant" / "._00.png").write_bytes(b"no image")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    (root / "train" / "cat" / ".thumbnails").mkdir()
    (root / "train" / "cat" / ".thumbnails" / "00.png").write_bytes(b"no image")
    found = data.load(f"imagefolder:{root}", "train")
    assert found.class_names == expected.class_names and torch.equal(found.images, expected.images)
    data.load(f"imagefolder:{root}", "test")


def test_test_classes_must_be_those_of_train(tmp_path):
    root = write_folder(tmp_path)
    (root / "test" / "cat").rename(root / "test" / "dog")
    assert "different class folders" in refusal(f"imagefolder:{root}", "test")


def test_images_must_be_readable_8_bit_squares_of_one_size(tmp_path):
    root = write_folder(tmp_path / "a")
    odd = root / "train" / "cat" / "01.png"
    Image.new("RGB", (7, 6)).save(odd)
    message = refusal(f"imagefolder:{root}")
    assert f"{odd} has 7 x 6 pixels but {root / 'train' / 'ant' / '00.png'} has 6 x 6" in message
    assert "resize" in message
    Image.new("I;16", (6, 6)).save(odd)
    assert f"{odd} has Pillow's mode I;16; expected 8 bits" in refusal(f"imagefolder:{root}")
    file = io.BytesIO()
    Image.effect_noise((6, 6), 50).save(file, "png")
    for content in (b"no image", file.getvalue()[:60]):
        odd.write_bytes(content)
        assert f"{odd} is not a readable image" in refusal(f"imagefolder:{root}")
    write_folder(tmp_path / "b", size=(8, 6))
    assert "8 x 6 pixels; expected squares" in refusal(f"imagefolder:{tmp_path / 'b'}")


def test_every_epoch_has_its_own_order_and_draws():
    (first, a), (second, b), (again, c) = (data.epoch_plan(300, 5, epoch, pad=2, flip=True) for epoch in (0, 1, 0))
    assert torch.equal(first.sort().values, torch.arange(300)) and not torch.equal(first, second)
    assert a.dy.unique().tolist() == a.dx.unique().tolist() == [0, 1, 2, 3, 4] and 100 < a.flip.sum() < 200
    assert not torch.equal(a.dy, b.dy) and not torch.equal(a.flip, b.flip)
    assert torch.equal(first, again) and torch.equal(a.dx, c.dx) and torch.equal(a.flip, c.flip)
    _, plain = data.epoch_plan(300, 5, 0, pad=0, flip=False)
    assert not plain.dy.any() and not plain.dx.any() and not plain.flip.any()


@given(n=st.integers(1, 40), batch=st.integers(1, 12), ranks=st.integers(1, 5), start=st.integers(0, 3))
def test_the_shares_of_the_ranks_make_up_the_mini_batches(n, batch, ranks, start):
    images = data.load("digits", "train").subset(slice(0, n))
    whole = list(images.shuffled(3, 1, batch, pad=1, flip=True))
    assert len(whole) == n // batch and all(len(y) == batch for _, y in whole)
    shares = [list(images.shuffled(3, 1, batch, start=start, pad=1, flip=True, rank=r, ranks=ranks))
              for r in range(ranks)]
    for i, (x, y) in enumerate(whole[start:]):
        parts = [share[i] for share in shares]
        assert torch.equal(torch.cat([p for p, _ in parts]), x) and torch.equal(torch.cat([p for _, p in parts]), y)
        sizes = [len(p) for _, p in parts]
        assert max(sizes) - min(sizes) <= 1
    assert all(len(share) == len(whole[start:]) for share in shares)
    held_out = [y for r in range(ranks) for _, y in images.in_order(batch, rank=r, ranks=ranks)]
    assert torch.equal(torch.cat(held_out).sort().values, images.labels.sort().values)
    assert torch.equal(torch.cat([x for x, _ in images.in_order(batch)]), images.images)
