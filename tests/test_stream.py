"""Streams of photographs: any size and kind of file, the usual cuts, and order and cuts of (seed, epoch) alone."""

import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from photograph_set import CLASSES, as_jpeg, picture
from PIL import Image

from cbn_lab import _photographs, cli, data, models, stream, train


def load(root, split="train", size=16, **options):
    return data.load(f"imagefolder:{root}", split, image_size=size, **{"workers": 0} | options)


def epoch(dataset, seed=1, number=2, batch=4, **options):
    return list(dataset.shuffled(seed, number, batch, flip=True, **options))


def assert_equal_batches(one, other):
    assert len(one) == len(other) > 0
    for (x, y), (v, w) in zip(one, other, strict=True):
        assert torch.equal(x, v) and torch.equal(y, w)


# What comes out


def test_a_stream_is_a_data_set(photographs):
    training = load(photographs)
    assert (len(training), training.num_classes, training.in_channels, training.image_size) == (12, 3, 3, 16)
    assert training.class_names == CLASSES and training.mean == (0.485, 0.456, 0.406)
    batches = epoch(training, batch=5)
    assert len(batches) == 2
    for images, labels in batches:
        assert images.dtype == torch.uint8 and images.shape == (5, 16, 16, 3) and labels.dtype == torch.int64
    assert data.normalize(images, training).shape == (5, 3, 16, 16)
    held_out = list(load(photographs, "test").in_order(5))
    assert [len(labels) for _, labels in held_out] == [5, 5, 2]
    assert sorted(torch.cat([labels for _, labels in held_out]).tolist()) == [0] * 4 + [1] * 4 + [2] * 4


def test_labels_belong_to_their_images(own):
    for value, name in ((0, "ant"), (120, "bee"), (250, "cat")):
        for file in (own / "train" / name).iterdir():
            Image.new("RGB", (30, 50), (value,) * 3).save(file)
    for images, labels in [*epoch(load(own, workers=2)), *load(own, workers=2).in_order(5)]:
        values = images.float().mean((1, 2, 3))
        assert torch.allclose(values, torch.tensor([0.0, 120.0, 250.0])[labels], atol=2)


@pytest.mark.parametrize("size", [(53, 40), (40, 61), (37, 37), (20, 90), (87, 11), (1, 1)])
def test_evaluation_equals_torchvisions_resize_and_centre_crop(tmp_path, size):
    from torchvision.transforms import CenterCrop, Compose, Resize

    picture(*size).save(tmp_path / "a.png")
    usual = Compose([Resize(round(28 * 256 / 224)), CenterCrop(28)])
    with Image.open(tmp_path / "a.png") as image:
        expected = np.asarray(usual(image))
    assert np.array_equal(_photographs.for_evaluation(tmp_path / "a.png", 28), expected)


def test_of_a_strip_the_middle_is_evaluated_and_the_rest_not_resized(tmp_path, monkeypatch):
    strip = Image.new("RGB", (20000, 2))
    strip.paste((255, 255, 255), (9990, 0, 10010, 2))
    resize, sizes = Image.Image.resize, []
    monkeypatch.setattr(Image.Image, "resize", lambda image, *to: sizes.append(to[0]) or resize(image, *to))
    for name, image in (("lying.png", strip), ("standing.png", strip.transpose(Image.Transpose.ROTATE_90))):
        image.save(tmp_path / name)
        assert (_photographs.for_evaluation(tmp_path / name, 28) == 255).all()
        assert _photographs.for_training(tmp_path / name, 28, np.random.default_rng(0), True).shape == (28, 28, 3)
    assert max(map(max, sizes)) == 8 * 32


def test_training_equals_torchvisions_resized_crop(tmp_path):
    from torchvision.transforms.functional import resized_crop

    picture(70, 55).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        image.load()
    for seed in range(20):
        left, top, right, bottom = _photographs.random_box(70, 55, np.random.default_rng(seed))
        expected = resized_crop(image, top, left, bottom - top, right - left, (24, 24))
        got = _photographs.for_training(tmp_path / "a.png", 24, np.random.default_rng(seed), flip=False)
        assert np.array_equal(got, np.asarray(expected))
    mirrored = 0
    for seed in range(40):
        plain, maybe = (_photographs.for_training(tmp_path / "a.png", 24, np.random.default_rng(seed), flip=flip)
                        for flip in (False, True))
        assert np.array_equal(maybe, plain) or np.array_equal(maybe, plain[:, ::-1])
        mirrored += not np.array_equal(maybe, plain)
    assert 8 < mirrored < 32


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 10**6))
def test_a_random_part_lies_inside_and_is_no_strip(width, height, seed):
    left, top, right, bottom = _photographs.random_box(width, height, np.random.default_rng(seed))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    w, h = right - left, bottom - top
    assert (w - 0.5) / (h + 0.5) <= 4 / 3 and (w + 0.5) / (h - 0.5 or 1e-9) >= 3 / 4


def test_random_parts_are_of_all_sizes():
    draws = np.random.default_rng(0)
    boxes = np.array([_photographs.random_box(1000, 1000, draws) for _ in range(4000)])
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 1e6
    ratio = np.log((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1]))
    assert area.min() > 0.079 and area.min() < 0.09 and area.max() > 0.9  # a few of the largest do not fit
    assert abs(ratio.mean()) < 0.02 and ratio.max() == pytest.approx(np.log(4 / 3), abs=0.01)


# Files


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(60, 44), (480, 352)])  # the larger one is decoded at a part of its size
def test_photographs_are_turned_upright(tmp_path, orientation, size):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(*size).resize(size).save(tmp_path / "a.jpg", quality=95, exif=exif)
    with Image.open(tmp_path / "a.jpg") as image:
        ImageOps.exif_transpose(image).save(tmp_path / "upright.png")
    for read in (lambda path: _photographs.for_evaluation(path, 28),
                 lambda path: _photographs.for_training(path, 28, np.random.default_rng(3), False)):
        got, expected = (read(tmp_path / name).astype(float) for name in ("a.jpg", "upright.png"))
        assert np.abs(got - expected).mean() < (1e-9 if size[0] == 60 else 6)  # of noise: wrongly turned, about 30


def test_every_kind_of_file_becomes_rgb(own):
    folder = own / "train" / "ant"
    for file in folder.iterdir():
        file.unlink()
    image = picture(50, 40)
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.convert("L").save(folder / "grey.jpeg")
    image.save(folder / "photograph.webp")
    image.convert("P").save(folder / "palette.png", transparency=b"\0\1\2")
    image.convert("RGBA").save(folder / "alpha.png")
    image.convert("1").save(folder / "bits.png")
    image.convert("L").save(folder / "Größe 猫.PNG", transparency=3)
    (folder / "more_behind_its_end.JPG").write_bytes(as_jpeg(image) + bytes(range(256)))
    (folder / "png_named.JPEG").write_bytes((folder / "alpha.png").read_bytes())
    (folder / "deeper").mkdir()
    (folder / "deeper" / "exif.jpg").write_bytes(as_jpeg(image, exif=b"Exif\0\0damaged"))
    training = load(own)
    assert len(training) == 10 + 8
    assert sum(len(labels) for _, labels in training.in_order(3)) == 18
    straight = np.asarray(_photographs.whole(folder / "alpha.png")).astype(float)
    assert np.array_equal(straight, np.asarray(image))
    assert np.abs(_photographs.whole(folder / "cmyk.jpg") - straight).mean() < 12
    grey = _photographs.whole(folder / "grey.jpeg")
    assert np.array_equal(grey[..., 0], grey[..., 2])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_is_named(own, workers):
    odd = own / "train" / "bee" / "2.JPEG"
    for content in (odd.read_bytes()[:400], b"no image", b""):
        odd.write_bytes(content)
        training = load(own, workers=workers)
        for batches in (training.shuffled(0, 0, 12), training.in_order(12)):
            with pytest.raises(data.DataError) as error:
                list(batches)
            message = str(error.value)
            assert message.startswith(f"{odd} is not a readable image (") and "replace or remove it" in message
            assert "\n" not in message and "Traceback" not in message
        assert not multiprocessing.active_children()
    Image.new("I;16", (6, 6)).save(odd, "png")
    with pytest.raises(data.DataError, match="2.JPEG has Pillow's mode I;16; expected 8 bits a channel"):
        epoch(load(own, workers=workers), batch=12)


# Order


def test_order_and_cuts_depend_on_seed_and_epoch_alone(photographs):
    alone, helped = load(photographs), load(photographs, workers=2)
    assert_equal_batches(epoch(alone), epoch(helped))
    assert_equal_batches(list(alone.in_order(5)), list(helped.in_order(5)))
    assert_equal_batches(epoch(alone), epoch(alone))
    assert not multiprocessing.active_children()
    for other in ({"seed": 2}, {"number": 3}):
        assert not any(torch.equal(a, b) for (a, _), (b, _) in zip(epoch(alone), epoch(alone, **other), strict=True))
        one = alone.subset([0])  # always the same image, never the same part of it
        assert not torch.equal(epoch(one, batch=1)[0][0], epoch(one, batch=1, **other)[0][0])


def test_an_epoch_that_is_left_leaves_no_process(photographs):
    batches = load(photographs, workers=2).shuffled(0, 0, 4)
    next(batches)
    assert multiprocessing.active_children()
    batches.close()
    assert not multiprocessing.active_children()
    batches = load(photographs, workers=2).shuffled(0, 0, 4)
    for _ in range(3):
        next(batches)
    assert not multiprocessing.active_children()  # while the last batch is in use


def test_torchs_random_numbers_are_left_alone(photographs):
    state = torch.get_rng_state()
    for workers in (0, 1):
        epoch(load(photographs, workers=workers))
    assert torch.equal(torch.get_rng_state(), state)


@given(st.integers(0, 3), st.integers(1, 5), st.integers(1, 3))
def test_the_shares_of_the_ranks_make_up_the_mini_batches(photographs, start, batch, ranks):
    training = load(photographs, size=4)
    whole = epoch(training, batch=batch)
    shares = [epoch(training, batch=batch, start=start, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert all(len(share) == max(0, len(whole) - start) for share in shares)
    for (x, y), *parts in zip(whole[start:], *shares, strict=True):
        assert torch.equal(torch.cat([part for part, _ in parts]), x)
        assert torch.equal(torch.cat([labels for _, labels in parts]), y)
    held_out = [list(training.in_order(batch, rank=rank, ranks=ranks)) for rank in range(ranks)]
    assert sum(len(labels) for part in held_out for _, labels in part) == 12


def test_what_is_skipped_is_not_decoded(photographs, monkeypatch):
    decoded = []
    original = _photographs.decode
    monkeypatch.setattr(_photographs, "decode", lambda path, cut: decoded.append(path) or original(path, cut))
    training = load(photographs)
    assert_equal_batches(epoch(training, start=2), epoch(training)[2:])
    assert len(decoded) == 4 + 12


def test_large_photographs_are_evaluated_in_small_batches(photographs):
    sizes = [len(labels) for _, labels in load(photographs, size=1500).in_order(1000)]
    assert sizes == [4, 4, 4]


# The set


def test_a_part_of_the_set_is_a_sample_of_all_classes(own):
    for i in range(40):
        for name in CLASSES:
            shutil.copy(own / "train" / name / "0.JPEG", own / "train" / name / f"more{i}.JPEG")
    training = load(own)
    first, last = training.subset(slice(0, 60)), training.subset(slice(len(training) - 60, None))
    for part in (first, last):
        assert min(torch.bincount(part.labels, minlength=3)) > 8
        assert len(part) == 60 and part.source.endswith("60 of its 132 images")
    assert torch.equal(training.subset([3, 1]).labels, training.labels[[3, 1]])
    again = load(own)
    assert again.files.tolist() == training.files.tolist()


def test_the_source_changes_with_names_and_sizes(own):
    source = load(own).source
    assert source.startswith("imagefolder:my zoo, train, 12 files, sha256 of names and sizes ") == 1
    assert load(own).source == source
    (own / "train" / "ant" / "0.JPEG").rename(own / "train" / "ant" / "7.JPEG")
    renamed = load(own).source
    with (own / "train" / "cat" / "0.JPEG").open("ab") as file:
        file.write(b"\0")
    assert len({source, renamed, load(own).source, load(own, "test").source}) == 4


def test_layouts_that_are_wrong_are_named(own):
    def refusal(split="train", **options):
        with pytest.raises(data.DataError) as error:
            load(own, split, **options)
        return str(error.value)

    (own / "test").mkdir()  # ILSVRC2012's: no classes, so no labels
    picture(30, 30).save(own / "test" / "0.png")
    assert load(own, "test").source.startswith("imagefolder:my zoo, test, 12 files")
    shutil.rmtree(own / "test")
    (own / "val" / "cat").rename(own / "val" / "dog")
    assert "have different class folders (cat, dog in one alone); expected the same in both" in refusal("test")
    (own / "val" / "dog").rename(own / "val" / "cat")
    (own / "val").rename(own / "test")
    assert len(load(own, "test")) == 12
    for file in (own / "train" / "bee").iterdir():
        file.unlink()
    assert "bee has no images; expected" in refusal()
    shutil.rmtree(own / "train")
    assert f"there is no folder {own / 'train'}" in refusal()
    assert "different class folders" in refusal("test")
    with pytest.raises(data.DataError, match="image_size=16 is for imagefolder:PATH.*leave it out for digits"):
        data.load("digits", "train", image_size=16)
    with pytest.raises(ValueError, match="crop_padding=4 is for images of one size"):
        stream.Stream.shuffled(None, 0, 0, 4, pad=4)


def test_hidden_files_and_folders_are_no_photographs(own):
    """As macOS, notebooks and file managers leave them beside the photographs."""
    source = load(own).source
    (own / "train" / "ant" / "._0.jpg").write_bytes(b"no image")
    (own / "train" / ".ipynb_checkpoints").mkdir()
    (own / "train" / "ant" / ".thumbnails").mkdir()
    shutil.copy(own / "train" / "ant" / "0.JPEG", own / "train" / "ant" / ".thumbnails")
    assert load(own).source == source and load(own, "test").class_names == CLASSES


@pytest.mark.parametrize("target", ["nowhere.jpg", "."])
def test_links_that_lead_to_no_file_are_named(own, target):
    (own / "train" / "ant" / "link.jpg").symlink_to(target)
    with pytest.raises(data.DataError, match="ant cannot be read to its end .*link.jpg.*; mend or remove that"):
        load(own)


def test_images_of_several_sizes_in_memory_name_the_way_out(photographs):
    with pytest.raises(data.DataError, match="expected squares of one size, so resize .*--image-size"):
        data.load(f"imagefolder:{photographs}", "train")


# Training


def arguments(photographs, tmp_path, *more):
    return ["train", "--data", f"imagefolder:{photographs}", "--image-size", "32", "--model", "convnet",
            "--model-option", "widths=4,8", "--epochs", "1", "--batch-size", "4", "--device", "cpu", "--out",
            str(tmp_path), "--json", *more]


def test_the_command_trains_resnet50_on_photographs(photographs, tmp_path, capsys):
    given = arguments(photographs, tmp_path, "--model", "resnet50", "--workers", "2", "--batch-size", "6",
                      "--train-images", "6", "--precision", "fp32", "--schedule", "steps", "--placement", "before")
    given = [one for i, one in enumerate(given) if "--model-option" not in given[max(0, i - 1):i + 1]]
    assert cli.main(given) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    record = json.loads(Path(result["record"]).read_text())
    assert record["config"]["image_size"] == 32 and record["config"]["schedule"] == "steps"
    assert record["config"]["data"] == "imagefolder:my zoo" and record["config"]["crop_padding"] == 0
    assert "workers" not in record["config"] and 0 <= result["test_accuracy"] <= 1
    assert record["provenance"]["data_sources"]["train"].endswith("6 of its 12 images")
    assert not multiprocessing.active_children()


def test_the_number_of_workers_changes_no_number(photographs, tmp_path, capsys):
    curves = []
    for workers in ("0", "2"):
        assert cli.main(arguments(photographs, tmp_path, "--workers", workers)) == 0
        record = json.loads(Path(json.loads(capsys.readouterr().out.splitlines()[-1])["record"]).read_text())
        curves.append([entry["loss"] for entry in record["curve"]])
    assert curves[0] == curves[1]


def test_a_run_that_stops_in_an_epoch_goes_on(photographs, tmp_path):
    config = train.TrainConfig(data=f"imagefolder:{photographs}", image_size=16, epochs=2,
                               model_options={"widths": [4]}, batch_size=4, device="cpu", precision="fp32", log_every=1)
    whole = [(p.step, p.loss) for p in train.train(config, workers=0)]
    trainer = train.Trainer(config, workers=2)
    turns = trainer.run()
    first = [(p.step, p.loss) for _, p in zip(range(4), turns, strict=False)]  # one step into the second epoch
    trainer.save(tmp_path / "at.ckpt")
    turns.close()
    assert not multiprocessing.active_children()
    rest = [(p.step, p.loss) for p in train.train(config, checkpoint=tmp_path / "at.ckpt", resume=True, workers=0)]
    assert first + rest == whole and len(whole) == 6


def test_resnet50_on_an_image_folder_means_the_usual_size():
    def resolved(**changes):
        usual = {"data": "imagefolder:zoo", "model": "resnet50", "device": "cpu"}
        return train.TrainConfig(**usual | changes).resolved()

    assert (resolved().image_size, resolved().crop_padding, resolved().flip) == (224, 0, True)
    assert resolved(image_size=64).image_size == 64
    assert (resolved(model="resnet18").image_size, resolved(model="resnet18").crop_padding) == (None, 4)
    assert resolved(data="cifar10").image_size is None


def test_settings_that_do_not_fit_are_named(photographs, tmp_path, capsys):
    for more, sentence in ((("--crop-padding", "4"), "crop_padding=4 is for images of one size"),
                           (("--workers", "-1"), "expected a whole number, 0 or more, got '-1'"),
                           (("--image-size", "0"), "image_size must be at least 1"),
                           (("--schedule", "cosine"), "schedule must be 'one_cycle' or 'steps', got 'cosine'"),
                           (("--data", "digits"), "image_size=32 is for imagefolder:PATH")):
        assert cli.main(arguments(photographs, tmp_path, *more)) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1


# The recipe


@pytest.mark.parametrize("epochs", [9, 90])
def test_the_rate_is_divided_by_ten_where_the_usual_recipe_does(epochs):
    config = train.TrainConfig(epochs=epochs, batch_size=128, lr=0.1, schedule="steps", device="cpu",
                               train_images=256, model_options={"widths": [2]})
    trainer = train.Trainer(config)
    rates = []
    for _ in range(trainer.steps):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.optimizer.step()
        trainer.schedule.step()
    steps = trainer.steps_per_epoch
    for epoch_number, rate in ((0, 0.1), (epochs // 3, 0.01), (2 * epochs // 3, 0.001), (8 * epochs // 9, 0.0001)):
        assert rates[epoch_number * steps] == pytest.approx(rate)
        assert epoch_number == 0 or rates[epoch_number * steps - 1] == pytest.approx(10 * rate)


def test_one_cycle_stays_the_default_and_records_keep_their_names():
    record = train.TrainConfig().record()
    assert "schedule" not in record and "image_size" not in record
    assert train.TrainConfig(schedule="steps").record()["schedule"] == "steps"


def test_operations_of_resnet50():
    """The figure of the cost at the top of cbn_lab.stream, and of the published tables: 4.09 G multiply-adds."""
    from torch.utils.flop_counter import FlopCounterMode

    model = models.build("resnet50", num_classes=1000, image_size=224, placement="before").eval().to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() == pytest.approx(2 * 4.09e9, rel=0.001)
    assert 90 * 1_281_167 * 3 * counter.get_total_flops() == pytest.approx(2.8e18, rel=0.02)
