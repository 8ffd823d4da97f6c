"""`cbn-lab doctor --photographs`: every file that would end a training, found beforehand and in one go."""

import json
import multiprocessing
import os
import shutil
import signal
import sys

import pytest
from photograph_set import as_jpeg, picture
from PIL import Image
from test_stream import arguments, load

from cbn_lab import _photograph_check, _photographs, cli, data, stream

_forks = pytest.mark.skipif(sys.platform != "linux", reason="what is patched here reaches forked workers alone")


def damage(own):
    """Six unusable files: {path: how the sentence about it goes on}."""
    ant, bee, val = own / "train" / "ant", own / "train" / "bee", own / "val" / "cat"
    ant.joinpath("0.JPEG").write_bytes(b"")
    ant.joinpath("a  page.jpg").write_bytes(b"<html>404</html>")
    Image.new("I;16", (6, 6)).save(bee / "deep.PNG")
    bee.joinpath("ünvollständig.Jpg").write_bytes(as_jpeg(picture(64, 48))[:-2])
    picture(60, 50).save(bee / "half.png")
    bee.joinpath("half.png").write_bytes(bee.joinpath("half.png").read_bytes()[:3000])
    val.joinpath("1.JPEG").write_bytes(val.joinpath("1.JPEG").read_bytes()[:400])
    return {ant / "0.JPEG": "is not a readable image (it has 0 bytes); replace or remove it",
            ant / "a  page.jpg": "is not a readable image (it is of no kind that Pillow knows); replace or remove it",
            bee / "deep.PNG": "has Pillow's mode I;16; expected 8 bits a channel, so convert it",
            bee / "half.png": "is not a readable image (image file is truncated",
            bee / "ünvollständig.Jpg": "is not a readable image (image file is truncated",
            val / "1.JPEG": "is not a readable image ("}


def check(folder, *more):
    return cli.main(["doctor", "--photographs", str(folder), *more])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_every_unusable_file_is_listed_with_its_reason(own, workers, capsys):
    wrong = damage(own)
    assert check(own, "--workers", workers) == 1
    *faults, train, val = capsys.readouterr().out.splitlines()
    assert len(faults) == 6
    for (path, reason), fault in zip(wrong.items(), faults, strict=True):
        assert fault.startswith(f"{path} {reason}")
    assert train == "train: 16 of 16 photographs checked, classes: 3, unusable: 5"
    assert val == "val: 12 of 12 photographs checked, classes: 3, unusable: 1"
    assert not multiprocessing.active_children()
    assert check(f"imagefolder:{own}", "--json", "--workers", workers) == 1
    splits = json.loads(capsys.readouterr().out)["photographs"]
    assert [path for split in splits for path in split["unusable"]] == list(map(str, wrong))
    assert [(split["split"], split["photographs"], split["classes"]) for split in splits] == [
        ("train", 16, 3), ("val", 12, 3)]


def test_what_the_check_lists_ends_a_training_and_what_it_passes_does_not(own, capsys):
    for path in damage(own):
        with pytest.raises(data.DataError) as error:
            list(load(own, path.relative_to(own).parts[0].replace("val", "test")).in_order(99))
        assert f"; `cbn-lab doctor --photographs '{own}'` lists all such files" in str(error.value)
        path.unlink()
    assert check(own) == 0
    assert "unusable: 0" in capsys.readouterr().out
    assert sum(len(labels) for split in ("train", "test") for _, labels in load(own, split).in_order(99)) == 11 + 11


def test_an_image_folder_in_memory_names_the_check_as_well(own):
    damage(own)
    with pytest.raises(data.DataError, match="it has 0 bytes.*; `cbn-lab doctor --photographs .*my zoo'` lists all"):
        data.load(f"imagefolder:{own}", "train")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_cut_file_is_found_where_training_decodes_a_part_of_its_size(tmp_path, options):
    """Training reads these at an eighth, the check reads them whole; a file misses anything from its last byte on."""
    content, path = as_jpeg(picture(480, 352), **options), tmp_path / "a.jpg"
    for missing in (0, 1, 2, 3, 10, 100, 1000, len(content) // 2, len(content) - 700):
        path.write_bytes(content[:len(content) - missing])
        for read in (_photographs.whole, lambda path: _photographs.for_evaluation(path, 16)):
            if missing:
                with pytest.raises(data.DataError, match="truncated"):
                    read(path)
            else:
                read(path)


def test_what_is_wrong_with_the_folder_is_said_as_in_training(own, tmp_path, capsys):
    def same_error():
        codes, errors = [], []
        for given in (["doctor", "--photographs", str(own)], arguments(own, tmp_path / "runs")):
            codes.append(cli.main(given))
            errors.append(capsys.readouterr())
        assert codes == [2, 2] and errors[0] == errors[1] and errors[0].err.count("\n") == 1
        return errors[0].err

    (own / "val" / "cat" / "link.jpg").symlink_to("nowhere.jpg")
    assert "cat cannot be read to its end (No such file or directory: " in same_error()
    (own / "val" / "cat").rename(own / "val" / "dog")
    assert "have different class folders (cat, dog in one alone)" in same_error()
    shutil.rmtree(own)
    assert "there is no folder" in same_error()
    assert check(own, "--workers", "-1") == 2 and "0 or more, got '-1'" in capsys.readouterr().err


def test_names_of_any_kind_are_one_line_each(own, capsys):
    names = [b"latin\xe9.jpg", b"two\nlines.jpg"]
    for name in names:
        (own / "train" / "ant" / os.fsdecode(name)).write_bytes(b"no image")
    assert check(own, "--workers", "0") == 1
    first, second, *rest = capsys.readouterr().out.splitlines()
    assert "latin\\udce9.jpg is not" in first and "two lines.jpg is not" in second and len(rest) == 2
    assert check(own, "--workers", "0", "--json") == 1
    listed = json.loads(capsys.readouterr().out)["photographs"][0]["unusable"]
    assert [os.path.basename(os.fsencode(path)) for path in listed] == names


def test_a_file_that_the_system_does_not_give_is_not_called_damaged(own):
    gone = own / "train" / "ant" / "0.JPEG"
    gone.unlink()
    with pytest.raises(data.DataError, match=r"0.JPEG cannot be read \(No such file or directory\); mend or remove"):
        _photographs.whole(gone)


# Stopped


def test_ctrl_c_says_how_many_were_checked_and_what_was_found(own, monkeypatch, capsys):
    damage(own)
    whole, seen = _photographs.whole, []

    def interrupted(path):
        seen.append(path)
        if len(seen) == 8:
            raise KeyboardInterrupt
        return whole(path)

    monkeypatch.setattr(_photograph_check, "_TOGETHER", 3)
    monkeypatch.setattr(_photographs, "whole", interrupted)
    assert check(own, "--workers", "0") == 130
    shown = capsys.readouterr()
    *faults, train, val = shown.out.splitlines()
    assert len(faults) == 2
    assert train.startswith("train: 6 of 16 photographs checked") and val.startswith("val: 0 of 12 ")
    assert shown.err.splitlines()[-1] == "cbn-lab: interrupted; 6 of 28 photographs were checked"


@_forks
def test_a_ctrl_c_amid_the_start_of_the_workers_is_neither_lost_nor_theirs(own, monkeypatch, capsys):
    def start(*arguments, **options):  # as a terminal does: to all processes, the half-begun ones included
        workers = loader(*arguments, **options)
        os.kill(os.getpid(), signal.SIGINT)
        return workers

    loader = stream.DataLoader
    monkeypatch.setattr(stream, "DataLoader", start)
    monkeypatch.setattr(_photographs, "whole", lambda path: os.kill(os.getpid(), signal.SIGINT))
    assert check(own, "--workers", "2") == 130
    shown = capsys.readouterr().err
    assert shown.splitlines()[-1] == "cbn-lab: interrupted; 0 of 24 photographs were checked"
    assert "Traceback" not in shown and not multiprocessing.active_children()
    monkeypatch.setattr(stream, "DataLoader", loader)
    assert check(own, "--workers", "2") == 0  # they end when they are told to


@_forks
def test_a_lost_worker_is_an_error_after_what_was_found(own, monkeypatch, capsys):
    damage(own)
    whole = _photographs.whole
    monkeypatch.setattr(_photograph_check, "_TOGETHER", 1)
    monkeypatch.setattr(_photographs, "whole", lambda path: os._exit(9) if "/val/" in path else whole(path))
    assert check(own, "--workers", "1") == 2
    shown = capsys.readouterr()
    assert "train: 16 of 16 photographs checked, classes: 3, unusable: 5" in shown.out
    assert "error: a process that decodes images ended" in shown.err
    assert shown.err.endswith("; 16 of 28 photographs were checked\n")
