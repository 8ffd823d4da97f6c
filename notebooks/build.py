"""Build the notebooks: source/NAME.py (a jupytext percent script) becomes NAME.ipynb, executed and stored.

    python notebooks/build.py                  build all
    python notebooks/build.py 00_start_here    build some
    python notebooks/build.py --check [NAME]   execute nothing; compare each notebook with its source

A notebook is written only if every cell ran and `structure_faults` and `output_faults` find nothing; otherwise
the stored one stays as it was. Conventions for a source:

- Markdown cells are `# %% [markdown]`, code cells `# %%`, tags `# %% tags=["nbval-ignore-output"]`. That tag
  is for output that differs between machines; `tests/nbval_sanitize.cfg` says what is forgiven without it.
- A picture is shown as `<img alt="..." src="data:image/png;base64,...">` in text/html, which is what
  `cbn_lab.figures.Figure` gives. A bare image/png output has no alt text and is refused.
- A widget's view means nothing without its kernel: the stored output says to run the cell instead, or shows the
  picture that the widget gives as its static form in text/html (`cbn_lab.widgets` do).
"""

import argparse
import hashlib
import math
import os
import re
import sys
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

FOLDER = Path(__file__).resolve().parent
CELL_SECONDS = 120  # twice what the course allows a cell on two CPU cores
CELL_LINES = 40
NOTEBOOK_BYTES = 1_500_000
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_NOTE = "[interactive: run this cell to use it]"
KERNEL = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}
ADDRESS = re.compile(r"(?<= at )0x[0-9a-fA-F]+")
# Folders that only one machine has. The look-behind lets web addresses and relative paths pass.
MACHINE_PATH = re.compile(r"(?<![\w.:/~-])/(?:home|root|Users|work|workspace|tmp|mnt|opt|usr)/[\w.-]+")
EMBEDDED = re.compile(r"data:image/[\w+.-]+;base64,[A-Za-z0-9+/=\s]+")


def read_source(path: Path) -> nbformat.NotebookNode:
    """The notebook that a percent script describes, without outputs; cell ids are made from the text.

    An id is a hash of the cell's type and source, so a rebuild changes only the ids of edited cells.
    """
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = nbformat.from_dict(KERNEL)
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] += 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: Path) -> list[str]:
    """Run all cells in a fresh kernel of this environment, in `folder`; store outputs, return faults."""
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],  # a kernel announces at length that it listens on TCP
        resources={"metadata": {"path": str(folder)}},
    )
    try:
        client.execute()
    except CellTimeoutError as error:
        return [f"has a cell that ran longer than {CELL_SECONDS} s: shorten it\n{error}"]
    except CellExecutionError as error:
        return [f"has a cell that failed\n{error}"]
    except DeadKernelError:
        return ["lost its kernel; the usual reason is too little memory"]
    return []


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Drop what differs between two builds of the same source, and what cannot be shown without a kernel."""
    notebook.metadata = nbformat.from_dict(KERNEL)  # the run adds widget state and the interpreter's version
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "data" in output:
                if output.data.pop(WIDGET_VIEW, None) is not None and "text/html" not in output.data:
                    output.data = nbformat.from_dict({"text/plain": WIDGET_NOTE})
                if "text/plain" in output.data:
                    output.data["text/plain"] = ADDRESS.sub("0x0", output.data["text/plain"])
            elif output.output_type == "stream":
                output.text = ADDRESS.sub("0x0", output.text)


class _Images(HTMLParser):
    """Collects the attributes of every <img> in a piece of HTML."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.found.append(dict(attrs))


def _image_faults(html: str) -> list[str]:
    faults = []
    for image in _Images(html).found:
        if not (image.get("alt") or "").strip():
            faults.append("has an image without alt text")
        if (image.get("src") or "").startswith(("http:", "https:", "//")):
            faults.append("loads an image from the network")
    return faults


def structure_faults(notebook: nbformat.NotebookNode) -> list[str]:
    """What breaks the course's rules in the cells themselves: headings, length, images in the prose."""
    faults = []
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    titles = re.findall(r"^# .*", re.sub(r"^```.*?^```", "", prose, flags=re.M | re.S), flags=re.M)
    if len(titles) != 1:
        faults.append(f"has {len(titles)} H1 headings {titles}; it needs exactly one")
    for number, cell in enumerate(notebook.cells, start=1):
        lines = cell.source.count("\n") + 1
        if cell.cell_type == "code" and lines > CELL_LINES:
            faults.append(f"cell {number} has {lines} lines; a code cell has at most {CELL_LINES}")
        if cell.cell_type == "markdown":
            faults += [f"cell {number} {fault}" for fault in _image_faults(cell.source)]
            if re.search(r"!\[\s*\]\(", cell.source):
                faults.append(f"cell {number} has an image without alt text")
            if re.search(r"!\[[^\]]*\]\((?:https?:)?//", cell.source):
                faults.append(f"cell {number} loads an image from the network")
    return faults


def output_faults(notebook: nbformat.NotebookNode) -> list[str]:
    """What must not stand in a stored notebook's outputs, a cell that was never run included."""
    faults = ["has metadata.widgets"] if "widgets" in notebook.metadata else []
    size = len(nbformat.writes(notebook).encode())
    if size > NOTEBOOK_BYTES:
        faults.append(f"has {size:,} bytes; at most {NOTEBOOK_BYTES:,} are allowed: make its figures smaller")
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type != "code":
            continue
        found = [] if cell.execution_count is not None else ["was not executed"]
        for output in cell.outputs:
            found += _faults_of(output)
        faults += [f"cell {number} {fault}" for fault in found]
    return faults


def _faults_of(output: nbformat.NotebookNode) -> list[str]:
    if output.output_type == "error":
        return [f"raised {output.ename}: {output.evalue}"]
    if output.output_type == "stream" and output.name == "stderr":
        return [f"wrote to stderr: {output.text.strip()[:300]}"]
    data = output.get("data", {"text/plain": output.get("text", "")})
    faults = _image_faults(data.get("text/html", ""))
    if WIDGET_VIEW in data:
        faults.append("stores a widget's view")
    if "text/html" not in data and any(mime.startswith("image/") for mime in data):
        faults.append("shows a bare image, which has no alt text: show a cbn_lab.figures.Figure")
    texts = [EMBEDDED.sub("", text) for mime, text in data.items() if mime.startswith("text/")]
    paths = MACHINE_PATH.findall("\n".join(texts))
    return faults + [f"shows a path of this machine, {path}" for path in paths]


def disagreements(source: nbformat.NotebookNode, built: nbformat.NotebookNode) -> list[str]:
    """Where a stored notebook first differs from its source in the cells' types, texts, tags or order."""

    def shape(cell):
        return cell.cell_type, cell.source, cell.metadata.get("tags", [])

    for number, (ours, theirs) in enumerate(zip(source.cells, built.cells, strict=False), start=1):
        if shape(ours) != shape(theirs):
            return [f"cell {number} differs from its source, which begins {ours.source[:60]!r}: rebuild it"]
    if len(source.cells) != len(built.cells):
        return [f"has {len(built.cells)} cells, its source {len(source.cells)}: rebuild it"]
    return []


def duration(seconds: float) -> dict:
    """For `cbn-lab doctor`: minutes of a run, rounded up to halves so that a rebuild seldom differs, and on what."""
    import torch  # takes seconds, and only a build needs it

    from cbn_lab.runs import device_name

    device = device_name("cuda" if torch.cuda.is_available() else "cpu")
    threads = torch.get_num_threads()
    return {"minutes": math.ceil(seconds / 30) / 2,
            "device": f"{device}, {threads} thread{'s' if threads > 1 else ''}"}


def build(source: Path, target: Path) -> list[str]:
    """Execute `source` and put it at `target` in one step; with faults, return them and write nothing."""
    notebook = read_source(source)
    started = time.perf_counter()
    faults = structure_faults(notebook) or execute(notebook, target.parent)
    if faults:
        return faults
    tidy(notebook)
    notebook.metadata["cbn_lab"] = duration(time.perf_counter() - started)
    faults = output_faults(notebook)
    if not faults:
        scratch = target.with_name(f".{target.name}.part")
        nbformat.write(notebook, scratch)
        os.replace(scratch, target)
    return faults


def check(source: Path, target: Path) -> list[str]:
    """Every fault of a stored notebook, its differences from its source included; executes nothing."""
    if not target.exists():
        return [f"is not there: build it with `make course NOTEBOOKS={source.stem}`"]
    built = nbformat.read(target, as_version=4)
    return disagreements(read_source(source), built) + structure_faults(built) + output_faults(built)


def _select(names: list[str], folder: Path) -> list[Path]:
    sources = {path.stem: path for path in sorted((folder / "source").glob("*.py"))}
    wanted = [Path(name).stem for name in names] or list(sources)
    unknown = [name for name in wanted if name not in sources]
    if unknown:
        raise SystemExit(f"There is no notebook {', '.join(unknown)}; known: {', '.join(sources) or 'none'}.")
    return [sources[name] for name in wanted]


def main(arguments: list[str] | None = None, folder: Path = FOLDER) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the sources, execute nothing")
    parser.add_argument("names", nargs="*", help="notebooks to take, such as 00_start_here (default: all)")
    options = parser.parse_args(arguments)
    job, done = (check, "agrees with its source") if options.check else (build, "built")
    failed = 0
    for source in _select(options.names, folder):
        started = time.perf_counter()
        faults = job(source, folder / f"{source.stem}.ipynb")
        for line in faults or [f"{done} ({time.perf_counter() - started:.0f} s)"]:
            print(f"{source.stem}: {line}", flush=True)
        failed += bool(faults)
    if failed:
        print(f"{failed} of the notebooks failed; what was stored before is unchanged.", file=sys.stderr)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
