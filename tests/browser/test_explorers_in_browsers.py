"""The explorers of notebooks 02 to 06, in one notebook: by mouse and by keyboard, dark and narrow, and in classic."""

import time

import pytest
from books import changed, pixels
from servers import ROOT

CELLS = {
    "meter": "from cbn_lab.widgets import slack\nslack.meter()",
    "effects": "slack.effects()",
    "spectra": "from cbn_lab import widgets\nwidgets.spectrum_explorer(['tanh', 'relu'])",
    "landscape": ("from cbn_lab.probes.landscape import Landscape, Line\n"
                  "def made(k):\n"
                  "    line = Line((2 - k, 2 - 2 * k), (k, 2 * k), (k, k), 1.0, 4.0)\n"
                  "    return Landscape((0.1, 0.2), 2.0, line, {}, 'w', 'batch', 8, 4)\n"
                  "widgets.landscape_explorer({'BN': {0: [made(0.1)], 5: [made(0.2)], 9: [made(0.3)]}})"),
    "dashboard": ("from cbn_lab import effects_evidence, runs\n"
                  f"found = runs.load_all({str(ROOT / 'results' / 'effects')!r})\n"
                  "widgets.dashboard(effects_evidence.of_data(found, 'digits'))"),
    "ablation": f"widgets.ablation_explorer(runs.load_all({str(ROOT / 'results' / 'ablation')!r}))",
    "fold": "widgets.fold_explorer()",
}


def _cell(book, name):
    return book.cell(CELLS[name].splitlines()[-1])


@pytest.mark.parametrize("size", [(1300, 1000), (600, 900)], ids=["wide", "narrow"])
def test_every_explorer_redraws(lab, size):
    from playwright.sync_api import expect

    book = lab(cells=list(CELLS.values()), size=size)
    if size[0] < 1000:
        book.use_dark_theme()
    book.run_all()
    for name in CELLS:
        cell = _cell(book, name)
        picture = cell.locator("img.widget-image")
        before = pixels(picture)
        if cell.locator(".widget-slider").count():
            began = time.monotonic()
            book.move_slider(cell.locator(".widget-slider").first, -1)
        else:
            menu = cell.locator(".widget-dropdown select").first
            menu.focus()
            menu.press("Space")  # opens it; in JupyterLab a bare ArrowDown goes to the next cell
            menu.press("ArrowUp" if name == "fold" else "ArrowDown")  # the last of the placements is chosen
            began = time.monotonic()
            menu.press("Enter")
        changed(picture, before)
        print(f"{name}: {time.monotonic() - began:.2f} s from the key to the picture")
        words = cell.locator(".widget-html-content p")
        shown = words.count() and words.last.is_visible()
        cell.get_by_text("the picture in words").click()
        (expect(words.last).not_to_be_visible if shown else expect(words.last).to_be_visible)()
        book.shoot(cell, f"explorer_{name}_{size[0]}")


def test_the_explorers_in_the_classic_notebook(classic):
    book = classic(cells=list(CELLS.values()))
    book.run_all()
    for name in CELLS:
        cell = _cell(book, name)
        picture = cell.locator("img.widget-image")
        before = pixels(picture)
        if cell.locator(".widget-slider").count():
            book.move_slider(cell.locator(".widget-slider").first, -1)
        else:
            cell.locator(".widget-dropdown select").first.select_option(index=1)
        changed(picture, before)
        book.shoot(cell, f"explorer_{name}_classic")
