"""Every notebook as a page without a kernel (GitHub, nbviewer, a hand-out): pictures with alt text where widgets stood.

nbconvert makes the page from what is stored; nothing is executed and nothing is fetched.
"""

import ast
import importlib
import inspect
import re
import typing
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter

from cbn_lab import widgets
from cbn_lab.widgets.display import NOTE, Shown

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
NOTEBOOK = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
LEAST = 40  # letters; "[interactive: run this cell to use it]" and "an interactive view" are shorter


def _imported(tree: ast.AST) -> dict[str, object]:
    """Name -> what it is bound to, for the imports of cbn_lab in a cell."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cbn_lab":
            module = importlib.import_module(node.module)
            for alias in node.names:
                name = alias.asname or alias.name
                if hasattr(module, alias.name):
                    found[name] = getattr(module, alias.name)
                else:
                    found[name] = importlib.import_module(f"{node.module}.{alias.name}")
    return found


def _called(tree: ast.AST) -> list[str]:
    """Dotted names of what is called when the cell runs, not inside its functions and lambdas."""
    names, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Call):
            names.append(ast.unparse(node.func))
        waiting += ast.iter_child_nodes(node)
    return names


def _resolved(name: str, namespace: dict[str, object]):
    first, *rest = name.split(".")
    value = namespace.get(first)
    for part in rest:
        value = getattr(value, part, None)
    return value


def _makes_a_widget(function) -> bool:
    """Whether calling it gives something that shows itself as a widget, by its class or annotation."""
    if inspect.isclass(function):
        return issubclass(function, Shown)
    if not inspect.isfunction(function):
        return False
    try:
        result = typing.get_type_hints(function).get("return")
    except NameError:  # a type that is imported for type checkers alone, as in `data.load`; a widget's is not
        return False
    return inspect.isclass(result) and issubclass(result, Shown)


def widget_cells(notebook) -> list:
    """The code cells that make a widget when they run."""
    namespace, found = {}, []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            # "!pip" and the like, in set-up cells, is not Python; a top-level await needs the flag
            tree = compile(re.sub(r"^(\s*)[!%].*$", r"\1pass", cell.source, flags=re.M), "cell", "exec",
                           ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            namespace |= _imported(tree)
            if any(_makes_a_widget(_resolved(name, namespace)) for name in _called(tree)):
                found.append(cell)
    return found


def _page(notebook) -> BeautifulSoup:
    exporter = HTMLExporter()
    body, _ = exporter.from_notebook_node(notebook)
    return BeautifulSoup(body, "html.parser")


def _faults(notebook) -> list[str]:
    """What does not make sense on the static page."""
    if "widgets" in notebook.metadata:
        return [f"metadata.widgets is stored: {sorted(notebook.metadata.widgets)}"]
    page = _page(notebook)
    faults = [f"an image without alt text: {str(image)[:80]}" for image in page.find_all("img")
              if not image.get("alt", "").strip() or image["alt"].startswith("No description")]
    for cell in widget_cells(notebook):
        shown = page.find(id=f"cell-id={cell.id}")
        alts = [image.get("alt", "") for image in shown.select(".jp-Cell-outputWrapper img")]
        if not any(len(alt) >= LEAST for alt in alts):
            faults.append(f"the widget of cell {cell.source.splitlines()[-1]!r} leaves no picture with alt text")
    return faults


@NOTEBOOK
def test_a_notebook_makes_sense_as_static_html(path):
    assert _faults(nbformat.read(path, as_version=4)) == []


@NOTEBOOK
def test_each_figure_has_an_alt_text_made_with_it(path):
    """A Figure stores its sentence twice, as alt text and as plain text; a widget its note before the picture."""
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            assert not any(kind.startswith("image/") for kind in data), "a bare picture, without alt text"
            html = data.get("text/html", "").removeprefix(NOTE)
            if html.startswith("<img"):
                (image,) = BeautifulSoup(html, "html.parser").find_all("img")
                assert image["alt"] == data["text/plain"] and len(image["alt"]) >= LEAST


def _declared(element, *properties) -> bool:
    """Whether the element, or one around it, fixes one of these properties to a colour of its own."""
    for one in (element, *element.parents):
        pairs = (line.partition(":") for line in (one.get("style") or "").split(";"))
        style = {key.strip().lower(): value.strip().lower() for key, _, value in pairs}
        value = next((style[key] for key in properties if key in style), "inherit")
        if value not in ("inherit", "currentcolor", "transparent", "none") and "var(" not in value:
            return True
    return False


def unreadable_on_a_dark_page(html: str) -> list[str]:
    """Styles of elements with text that fix the letters' colour but not the paper's, or the paper's alone."""
    return [element["style"] for element in BeautifulSoup(html, "html.parser").find_all(style=True)
            if element.get_text().strip()
            and _declared(element, "color") != _declared(element, "background", "background-color")]


@NOTEBOOK
def test_outputs_can_be_read_on_a_dark_page(path):
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            assert unreadable_on_a_dark_page(output.get("data", {}).get("text/html", "")) == []


def test_fixed_letters_on_the_pages_paper_are_found():
    assert unreadable_on_a_dark_page('<p style="color:#b00020">x</p>') == ["color:#b00020"]
    assert unreadable_on_a_dark_page('<div style="background:#fff"><p style="margin:0">x</p></div>') != []
    good = ('<div style="background:#fff;color:#111"><p style="margin:0">x</p></div><b style="color:inherit">x</b>'
            '<i style="background:currentColor"></i>')
    assert unreadable_on_a_dark_page(good) == []


def test_widgets_are_found_by_what_a_cell_calls():
    def cells(*sources):
        return [cell.source for cell in widget_cells(nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source) for source in sources]))]

    first = "from cbn_lab import widgets as w\nfrom cbn_lab.widgets import slack"
    assert cells(first, "!pip install x\nw.chooser(records)", "await f()\nslack.meter()", "w.compare(r, 'a', 'b')",
                 "def f():\n    return slack.meter()", "len(w.LiveTraining([]).runs)", "print(1)") == [
        "!pip install x\nw.chooser(records)", "await f()\nslack.meter()", "len(w.LiveTraining([]).runs)"]


def test_public_widget_functions_say_what_they_return():
    """Otherwise their cells could not be found by `widget_cells`."""
    functions = [getattr(widgets, name) for name in widgets.__all__ if inspect.isfunction(getattr(widgets, name))]
    assert functions and [f.__name__ for f in functions if "return" not in typing.get_type_hints(f)] == []


def _stored(html, **metadata):
    cell = nbformat.v4.new_code_cell("from cbn_lab import widgets\nwidgets.chooser(records)", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("display_data", data={"text/html": html, "text/plain": "x"})]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# T"), cell], metadata=metadata)


GOOD = NOTE + f'<img alt="{LEAST * "a"}" src="data:image/png;base64,AAAA">'


@pytest.mark.parametrize(("notebook", "said"), [
    (_stored(NOTE), "leaves no picture"),
    (_stored("<p>[interactive: run this cell to use it]</p>"), "leaves no picture"),
    (_stored(GOOD.replace(LEAST * "a", "an interactive view")), "leaves no picture"),
    (_stored(GOOD.replace(LEAST * "a", " ")), "image without alt text"),
    (_stored(GOOD, widgets={"state": {}}), "metadata.widgets is stored"),
], ids=["note alone", "text alone", "bare alt text", "no alt text", "state"])
def test_what_does_not_make_sense_is_named(notebook, said):
    assert _faults(_stored(GOOD)) == []
    assert said in " | ".join(_faults(notebook))
