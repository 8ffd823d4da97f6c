"""An open notebook in each front end, with the same few things to do: run, find a cell, look at a picture."""

import contextlib
import re
import time

import servers

ARTIFACTS = servers.ROOT / "tests" / "artifacts"
WAIT_SECONDS = 60  # generous: the tests share two cores with each other
LOCAL = r"^((http|ws)://127\.0\.0\.1:\d+/|data:|blob:|about:)"
PIXELS = """async image => {
    await image.decode();
    const canvas = Object.assign(document.createElement('canvas'),
                                 {width: image.naturalWidth, height: image.naturalHeight});
    canvas.getContext('2d').drawImage(image, 0, 0);
    return canvas.toDataURL();
}"""


def shoot(page, name: str) -> None:
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{name}.png")


def pixels(picture) -> str:
    """What an <img> shows; its address is a new one at each update, so addresses say nothing."""
    return changed(picture, None)


def changed(picture, before: str | None, seconds: float = WAIT_SECONDS) -> str:
    """The picture's pixels, once they differ from `before`."""
    from playwright import sync_api

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(sync_api.Error):  # the image is being replaced
            now = picture.evaluate(PIXELS)
            if now != before:
                return now
        time.sleep(0.05)
    raise AssertionError("the picture did not change")


def _unknown(texts, known) -> list[str]:
    return [text for text in texts if not any(re.search(pattern, text) for pattern in known)]


class Book:
    """A notebook in a front end. `cell(text)` is the code cell whose source contains `text`."""

    CELL = INPUT = ERROR = FINISHED = ""
    HANDLE = "[role=slider]"
    # Console errors and addresses of other machines that the front end itself brings along, as regular expressions.
    QUIET_ABOUT: tuple[str, ...] = ()
    OWN_ADDRESSES: tuple[str, ...] = ()

    def __init__(self, page, server, path):
        self.page, self.server, self.path = page, server, path
        page.goto(self.address(path.relative_to(server.work).as_posix()), timeout=240_000)  # Voila runs it meanwhile
        self.wait_until_ready()

    def address(self, path: str) -> str:
        raise NotImplementedError

    def wait_until_ready(self) -> None:
        raise NotImplementedError

    def cell(self, text: str):
        return self.page.locator(self.CELL).filter(has=self.page.locator(self.INPUT, has_text=text)).first

    def move_slider(self, slider, steps: int) -> None:
        """Move `slider` (a .widget-slider) by keyboard: so many arrow keys to the right, or to the left if negative.

        On a busy machine keys that come right after a widget appears may go nowhere: then they are pressed once more.
        """
        handle, readout = slider.locator(self.HANDLE), slider.locator(".widget-readout")
        before = readout.inner_text()
        for _ in range(3):
            handle.focus()
            for _ in range(abs(steps)):
                handle.press("ArrowRight" if steps > 0 else "ArrowLeft")
            self.page.wait_for_timeout(1000)
            if readout.inner_text() != before:
                return
        raise AssertionError(f"the slider stays at {before}")

    def click_slider(self, slider, pixels: int) -> None:
        """Click on the track of `slider`, so many pixels to the right of its handle, or to the left if negative."""
        handle = slider.locator(self.HANDLE)
        handle.scroll_into_view_if_needed()
        box = handle.bounding_box()
        self.page.mouse.click(box["x"] + box["width"] / 2 + pixels, box["y"] + box["height"] / 2)

    def wait_until_finished(self, seconds: float = 200) -> None:
        """Until every cell has run and the kernel is idle, or a cell has failed, which fails the test."""
        self.page.wait_for_function(f"() => document.querySelector({self.ERROR!r}) || ({self.FINISHED})()",
                                    timeout=seconds * 1000)
        self.assert_no_cell_failed()

    def shoot(self, target, name: str) -> None:
        target.scroll_into_view_if_needed()
        shoot(self.page, name)

    def assert_no_cell_failed(self) -> None:
        assert self.page.locator(self.ERROR).all_inner_texts() == []

    def assert_quiet(self) -> None:
        """No error in the console, and nothing asked of another machine."""
        errors = _unknown(self.page.errors, self.QUIET_ABOUT)
        elsewhere = _unknown(self.page.addresses, (LOCAL, *self.OWN_ADDRESSES))
        assert (errors, elsewhere) == ([], [])


class Lab(Book):
    CELL, INPUT = ".jp-CodeCell", ".jp-InputArea-editor"
    ERROR = ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']"
    READY = """() => {
        const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
        const kernel = context?.session?.kernel;
        return Boolean(context?.isReady && kernel?.connectionStatus === 'connected' && kernel.status === 'idle');
    }"""
    FINISHED = """() => {
        const shown = '.jp-CodeCell .jp-InputPrompt:not(.jp-Placeholder-prompt)';  // a folded source has no number
        const prompts = [...document.querySelectorAll(shown)].map(e => e.textContent);
        return prompts.length > 0 && prompts.every(text => /^\\[\\d+\\]:$/.test(text))
            && window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle';
    }"""

    def address(self, path: str) -> str:
        return f"{self.server.address}/lab/workspaces/{self.path.stem}/tree/{path}?token={servers.TOKEN}"

    def wait_until_ready(self) -> None:
        self.page.wait_for_function(self.READY)

    def command(self, name: str, **arguments) -> None:
        self.page.evaluate("([name, args]) => { window.jupyterapp.commands.execute(name, args); }", [name, arguments])

    def run_all(self, seconds: float = 200) -> None:
        self.command("notebook:run-all-cells")
        self.wait_until_finished(seconds)

    def run_again(self, text: str) -> None:
        """Run the cell that contains `text`, as a click into it and Ctrl-Enter do."""
        self.cell(text).locator(self.INPUT).click()
        self.page.keyboard.press("Control+Enter")

    def restart_kernel(self) -> None:
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
        self.wait_until_ready()

    def hide_files(self) -> None:
        """Close the list of files: in a narrow window it takes half of the room."""
        self.page.evaluate("() => window.jupyterapp.shell.collapseLeft()")

    def use_dark_theme(self) -> None:
        self.command("apputils:change-theme", theme="JupyterLab Dark")
        self.page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")


class Notebook7(Lab):
    QUIET_ABOUT = (r"reading 'schema'",)  # a JupyterLab plugin that Notebook 7 leaves out has no settings

    def address(self, path: str) -> str:
        return f"{self.server.address}/notebooks/{path}?token={servers.TOKEN}"


class Classic(Book):
    """The classic notebook 6.5.7 with ipywidgets 7.7.1."""

    CELL, INPUT, ERROR = ".cell.code_cell", ".input_area", ".output_error"
    HANDLE = ".ui-slider-handle"
    QUIET_ABOUT = (r"'about:blank'", r"\[about:blank\]", r"/MathJax/fonts/")  # fonts that its MathJax tries
    READY = """() => Boolean(window.Jupyter?.notebook?.kernel?.is_connected() && Jupyter.WidgetManager
        && !Jupyter.notebook.kernel_busy)"""
    # ipywidgets asks a new kernel for widgets in two rounds, and takes away what is shown before it has the answers.
    ROUND = """() => new Promise(
        answered => Jupyter.notebook.kernel.comm_info(null, () => setTimeout(answered, 300)))"""
    FINISHED = """() => !Jupyter.notebook.kernel_busy && Jupyter.notebook.get_cells().every(
        cell => cell.cell_type !== 'code' || /^\\d+$/.test(cell.input_prompt_number))"""

    def address(self, path: str) -> str:
        return f"{self.server.address}/notebooks/{path}?token={servers.TOKEN}"

    def wait_until_ready(self) -> None:
        self.page.wait_for_function(self.READY)
        for _ in range(3):
            self.page.evaluate(self.ROUND)

    def run_all(self, seconds: float = 200) -> None:
        self.page.evaluate("() => { Jupyter.notebook.execute_all_cells(); }")
        self.wait_until_finished(seconds)


class Voila(Book):
    """Voila runs the whole notebook on opening and shows no sources: find what it shows by its controls."""

    ERROR = ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']"
    QUIET_ABOUT = (r"Failed to load resource: net::ERR_",)  # those fonts, with the network off
    OWN_ADDRESSES = (r"^https://cdn\.jsdelivr\.net/npm/@fortawesome/",)

    def address(self, path: str) -> str:
        return f"{self.server.address}/voila/render/{path}"

    def wait_until_ready(self) -> None:
        self.page.locator(f".jupyter-widgets, {self.ERROR}").first.wait_for(timeout=150_000)
        self.assert_no_cell_failed()
