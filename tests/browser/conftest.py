"""Real front ends in a real browser: `lab`, `notebook7`, `voila` and `classic` open notebooks in Chromium.

Each fixture is a function: `book = lab("00_start_here")` opens a copy of that notebook of the course without its stored
outputs, `book = lab(cells=["...", "..."])` one made of these code cells. What a book can do stands in `books.py`.
`size=(width, height)` sets the window. Servers and browser live as long as a test file, pages and kernels as long as a
test. A test fails at its end if the console showed an error or anything was asked of another machine.

Skipped where playwright or Chromium is missing. Screenshots go to tests/artifacts/ (not committed).
"""

import re
import shutil
import uuid

import nbformat
import pytest

pytest.register_assert_rewrite("books")  # for messages that say what the errors were
import books  # noqa: E402
import servers  # noqa: E402

try:
    from playwright import sync_api
except ImportError:
    sync_api = None
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]


def pytest_collection_modifyitems(items):
    missing = [name for name, there in (("playwright", sync_api), ("Chromium", CHROMIUM)) if not there]
    for item in items:
        if item.path.parent == servers.HERE:
            item.add_marker(pytest.mark.timeout(420))
            # A page can lose a key or a click while two tests share the processor; a fault fails three times.
            item.add_marker(pytest.mark.flaky(reruns=2))
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"no browser tests: {' and '.join(missing)} not installed"))


@pytest.fixture(scope="module")
def browser():
    sync_api.expect.set_options(timeout=books.WAIT_SECONDS * 1000)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page of its own context, which may use the clipboard, and which keeps its errors and the addresses it asked."""
    context = browser.new_context(viewport={"width": 1300, "height": 1000},
                                  permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.errors, page.addresses = [], []
    page.on("console", lambda message: page.errors.append(f"{message.text} [{message.location.get('url', '')}]")
            if message.type == "error" else None)
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("request", lambda asked: page.addresses.append(asked.url))
    page.on("websocket", lambda socket: page.addresses.append(socket.url))
    yield page
    context.close()


def _opener(server, page, book, test):
    opened = []

    def open_book(name=None, *, cells=None, size=(1300, 1000)):
        path = _notebook(server.work / "notebooks", name, cells)
        page.set_viewport_size({"width": size[0], "height": size[1]})
        opened.append(book(page, server, path))
        return opened[-1]

    try:
        yield open_book
        if opened:
            opened[0].assert_quiet()
    finally:
        books.shoot(page, f"last-{re.sub(r'[^a-z0-9_]+', '-', test).strip('-')}")
        page.goto("about:blank")  # before its kernel ends, or the console would say so
        server.end_kernels()


def _notebook(folder, name, cells):
    if cells is None:
        notebook = nbformat.read(servers.ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
    else:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    path = folder / f"{name or 'cells'}-{uuid.uuid4().hex[:8]}.ipynb"
    nbformat.write(notebook, path)
    return path


def _front_end(kind, book):
    @pytest.fixture(scope="module")
    def server(tmp_path_factory):
        with servers.serve(kind, tmp_path_factory.mktemp(kind)) as running:
            yield running

    @pytest.fixture
    def opener(request, page):
        server = request.getfixturevalue(f"{kind}_server")
        yield from _opener(server, page, book, request.node.name)

    return server, opener


lab_server, lab = _front_end("lab", books.Lab)
notebook7_server, notebook7 = _front_end("notebook7", books.Notebook7)
voila_server, voila = _front_end("voila", books.Voila)
classic_server, classic = _front_end("classic", books.Classic)
