"""The notebooks keep the course's rules, and `notebooks/build.py` refuses what breaks them."""

import importlib.util
import itertools
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
SOURCES = sorted((FOLDER / "source").glob("*.py"))


def _load_build():
    spec = importlib.util.spec_from_file_location("notebook_build", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


build = _load_build()

TWO_CELLS = '''# %% [markdown]
# # Title

# %% tags=["nbval-ignore-output"]
print("value", 1 + 1)
'''


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_stored_notebook_agrees_with_its_source_and_keeps_the_rules(source):
    assert build.check(source, FOLDER / f"{source.stem}.ipynb") == []


def test_set_up_cells_are_the_same_in_every_notebook():
    firsts = {path.stem: next(cell.source for cell in build.read_source(path).cells if cell.cell_type == "code")
              for path in SOURCES}
    assert len(set(firsts.values())) == 1, firsts


def test_every_notebook_has_a_source():
    assert {p.stem for p in FOLDER.glob("*.ipynb")} <= {p.stem for p in SOURCES}


def _folder(tmp_path, **sources):
    (tmp_path / "source").mkdir()
    for name, text in sources.items():
        (tmp_path / "source" / f"{name}.py").write_text(text, encoding="utf-8")
    return tmp_path


def test_build_executes_stores_and_repeats_itself_byte_for_byte(tmp_path, capsys, monkeypatch):
    looks = itertools.count(0.0, 12.0)  # each look at the clock 12 s after the one before, on any machine
    monkeypatch.setattr(build, "time", SimpleNamespace(perf_counter=lambda: next(looks)))
    folder = _folder(tmp_path, a=TWO_CELLS)
    assert build.main([], folder) == 0
    first = (folder / "a.ipynb").read_bytes()
    notebook = nbformat.reads(first.decode(), as_version=4)
    assert notebook.cells[1].outputs[0].text == "value 2\n"
    assert notebook.cells[1].metadata.tags == ["nbval-ignore-output"]
    assert notebook.metadata.kernelspec.name == "python3"
    assert "version" not in notebook.metadata.language_info
    assert notebook.metadata.cbn_lab.minutes == 0.5 and "thread" in notebook.metadata.cbn_lab.device
    assert build.main(["a"], folder) == 0
    assert (folder / "a.ipynb").read_bytes() == first
    assert build.main(["--check"], folder) == 0
    assert sorted(p.name for p in folder.iterdir()) == ["a.ipynb", "source"], "a scratch file was left behind"


def test_failing_cell_leaves_the_old_notebook_and_shows_the_traceback(tmp_path, capsys):
    folder = _folder(tmp_path, a=TWO_CELLS + "\n# %%\nraise ValueError('too small')\n")
    (folder / "a.ipynb").write_text("the old one")
    assert build.main([], folder) == 1
    assert (folder / "a.ipynb").read_text() == "the old one"
    printed = capsys.readouterr().out
    assert "raise ValueError('too small')" in re.sub(r"\x1b\[[\d;]*m", "", printed)


def test_slow_cell_is_stopped(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(build, "CELL_SECONDS", 1)
    folder = _folder(tmp_path, a=TWO_CELLS + "\n# %%\nimport time\ntime.sleep(60)\n")
    assert build.main([], folder) == 1
    assert "ran longer than 1 s" in capsys.readouterr().out


def test_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(SystemExit, match="no notebook b; known: a"):
        build.main(["b"], _folder(tmp_path, a=TWO_CELLS))


def test_check_names_a_notebook_that_was_never_built(tmp_path, capsys):
    assert build.main(["--check"], _folder(tmp_path, a=TWO_CELLS)) == 1
    assert "make course NOTEBOOKS=a" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda text: text.replace("1 + 1", "1 + 2"), "cell 2 differs"),
        (lambda text: text.replace('"nbval-ignore-output"', '"other"'), "cell 2 differs"),
        (lambda text: text.replace("# # Title", "# # Other"), "cell 1 differs"),
        (lambda text: text + "\n# %%\nx = 1\n", "has 2 cells, its source 3"),
        (lambda text: "# %%".join(["", *reversed(text.split("# %%")[1:])]), "cell 1 differs"),
    ],
    ids=["code", "tag", "prose", "cell added", "order"],
)
def test_disagreements_find_each_kind_of_edit(tmp_path, edit, said):
    folder = _folder(tmp_path, a=TWO_CELLS, b=edit(TWO_CELLS))
    ours, theirs = (build.read_source(folder / "source" / f"{name}.py") for name in "ba")
    assert build.disagreements(theirs, theirs) == []
    assert said in build.disagreements(ours, theirs)[0]


def test_editing_one_cell_changes_one_id(tmp_path):
    folder = _folder(tmp_path, a=TWO_CELLS + "\n# %%\nx = 1\n\n# %%\nx = 1\n",
                     b=TWO_CELLS.replace("1 + 1", "2") + "\n# %%\nx = 1\n\n# %%\nx = 1\n")
    a, b = ([c.id for c in build.read_source(folder / "source" / f"{name}.py").cells] for name in "ab")
    assert [x == y for x, y in zip(a, b, strict=True)] == [True, False, True, True]
    assert len(set(a)) == len(a)


def _stored(*outputs, count=1):
    """A notebook that was run, with `outputs` under its only code cell."""
    cell = new_code_cell("f()", execution_count=count, outputs=list(outputs))
    return new_notebook(cells=[new_markdown_cell("# T"), cell])


def _shown(**data):
    return _stored(new_output("display_data", data={k.replace("_", "/"): v for k, v in data.items()}))


def test_good_output_has_no_faults():
    picture = '<img alt="loss falls" src="data:image/png;base64,/tmp/abcd/home/abcd">'
    notebook = _shown(text_html=picture, text_plain="see https://example.org/home/page and results/tmp/x")
    assert build.output_faults(notebook) == []


@pytest.mark.parametrize(
    ("notebook", "said"),
    [
        (_stored(count=None), "cell 2 was not executed"),
        (_stored(new_output("stream", name="stderr", text="Warning")), "wrote to stderr: Warning"),
        (_stored(new_output("error", ename="ValueError", evalue="", traceback=[])), "raised ValueError"),
        (_shown(image_png="AAAA", text_plain="<Figure>"), "bare image"),
        (_shown(text_html='<p><IMG src="data:image/png;base64,AA"></p>'), "image without alt text"),
        (_shown(text_html='<img alt=" " src="data:,">'), "image without alt text"),
        (_shown(text_html='<img alt="x" src="https://example.org/x.png">'), "from the network"),
        (_shown(text_plain="read /home/ann/cbn/data.npz"), "path of this machine, /home/ann"),
        (_stored(new_output("stream", name="stdout", text="in '/tmp/x1'")), "path of this machine, /tmp/x1"),
        (_shown(text_plain="x" * build.NOTEBOOK_BYTES), "make its figures smaller"),
        (new_notebook(cells=[], metadata={"widgets": {}}), "metadata.widgets"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_output_faults(notebook, said):
    assert said in " | ".join(build.output_faults(notebook))


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([new_markdown_cell("## only a section")], "has 0 H1"),
        ([new_markdown_cell("# one"), new_markdown_cell("text\n\n# two")], "has 2 H1"),
        ([new_markdown_cell("# T"), new_code_cell("\n".join(["x = 1"] * 41))], "cell 2 has 41 lines"),
        ([new_markdown_cell("# T\n\n![](a.png)")], "cell 1 has an image without alt text"),
        ([new_markdown_cell('# T\n\n<img src="a.png">')], "cell 1 has an image without alt text"),
        ([new_markdown_cell("# T\n\n![x](https://example.org/a.png)")], "from the network"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_structure_faults(cells, said):
    assert said in " | ".join(build.structure_faults(new_notebook(cells=cells)))


def test_hash_in_a_fenced_block_is_no_heading():
    cells = [new_markdown_cell("# T\n\n```bash\n# a comment\n```"), new_code_cell("\n".join(["x = 1"] * 40))]
    assert build.structure_faults(new_notebook(cells=cells)) == []


def test_tidy_removes_what_differs_between_two_builds():
    notebook = _stored(
        new_output("display_data", data={build.WIDGET_VIEW: {"model_id": "1"}, "text/plain": "VBox()"}),
        new_output("display_data", data={"text/plain": "<F at 0x7f00ab>"}),
        new_output("stream", name="stdout", text="<F at 0x7f00ab>, mask 0xff\n"),
    )
    notebook.metadata.widgets = {"state": {}}
    build.tidy(notebook)
    assert notebook.metadata == build.KERNEL
    view, plain, stream = notebook.cells[1].outputs
    assert view.data == {"text/plain": build.WIDGET_NOTE}
    assert plain.data["text/plain"] == "<F at 0x0>"
    assert stream.text == "<F at 0x0>, mask 0xff\n"


def test_tidy_keeps_a_widgets_static_picture():
    data = {build.WIDGET_VIEW: {"model_id": "1"}, "text/html": '<img alt="a" src="data:,">', "text/plain": "a"}
    notebook = _stored(new_output("display_data", data=data))
    build.tidy(notebook)
    assert set(notebook.cells[1].outputs[0].data) == {"text/html", "text/plain"}


def _sanitized(text):
    config = (ROOT / "tests" / "nbval_sanitize.cfg").read_text(encoding="utf-8")
    pairs = re.findall(r"^regex: (.*)$\n^replace: (.*)$", config, flags=re.MULTILINE)  # as nbval reads it
    assert len(pairs) >= 6
    for pattern, replacement in pairs:
        text = re.sub(pattern, replacement, text)
    return text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("<F at 0x0>", "<F at 0x7f3a9c>"),
        ("took 3.1 s", "took 12 s"),
        ("1,234.5 images/s in 1.2e-05 s", "7 images/s in 3 s"),
        ("/tmp/ipykernel_12/99.py:3", "/tmp/ipykernel_777/1.py:3"),
        ("saved in /tmp/tmpab12/run.json", "saved in /tmp/tmpzz/run.json"),
        (build.WIDGET_NOTE, "VBox(children=(Image(value=b'\\x89PNG'),\n Label(value='x')))"),
        ('<img alt="loss 0.51" src="data:,A">', '<img alt="loss 0.52" src="data:,B">'),
    ],
)
def test_sanitizing_forgives(one, other):
    assert _sanitized(one) == _sanitized(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("accuracy 0.91", "accuracy 0.92"),
        ("slack 3 steps", "slack 4 steps"),
        ("12 samples", "13 samples"),
        ("sigma(x) = 0.5", "tanh(x) = 0.5"),
        ("True", "False"),
    ],
)
def test_sanitizing_keeps_results(one, other):
    assert _sanitized(one) != _sanitized(other)
