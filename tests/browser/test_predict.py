"""Predictions in JupyterLab: by mouse and by keyboard, recorded and live, run again, in a narrow window, on dark."""

import re

import pytest
from books import changed, pixels

SETUP = """from cbn_lab import start, widgets
def arms(*placements):
    return {p: [run for run in start.records() if (run.config["activation"], run.config["placement"]) == ("sigmoid", p)]
            for p in placements}"""
RANKING = """widgets.predict_ranking("t.1", "Which placement trains Sigmoid best within ten epochs?",
                        ["before", "none", "complete"], arms("before", "none", "complete"))"""
NUMBER = """widgets.predict_number("t.2", "How far is Sigmoid with vanilla BN behind the complete layer?",
                       lambda: arms("complete", "before"), low=0, high=30, tolerance=2,
                       what="gap in test accuracy (points)")"""
CURVE = """widgets.predict_curve("t.3", "How will the complete layer do?",
                      widgets.LiveTraining([start.config("sigmoid", "complete", seed=7)]),
                      epochs=(1, 4, 10), tolerance=10, known=arms("before"))"""


def _button(cell, name):
    return cell.get_by_role("button", name=name, exact=True)


def test_a_ranking_by_mouse_over_recorded_runs_and_again(lab):
    from playwright.sync_api import expect

    book = lab(cells=[SETUP, RANKING])
    book.run_all()
    cell = book.cell("predict_ranking(")
    picture = cell.locator("img.widget-image").first
    empty = pixels(picture)
    expect(_button(cell, "Run (guess first)")).to_be_disabled()
    book.shoot(cell, "predict_open")
    for item in ("complete", "none", "before"):
        cell.get_by_role("button", name=item).click()
    expect(cell.locator("details").first).to_contain_text("So far: complete, none, before.")
    guessed = changed(picture, empty)
    expect(_button(cell, "Lock in my guess")).to_be_disabled()
    _button(cell, "70 %").click()
    _button(cell, "Lock in my guess").click()
    book.shoot(cell, "predict_locked")
    _button(cell, "Run").dblclick()
    shown = changed(picture, guessed)
    expect(cell).to_contain_text("2 of 3 pairs are in the right order")
    expect(cell).to_contain_text("Brier score (0.7 − 0)² = 0.49")
    expect(cell).to_contain_text("Your file so far: 1 prediction, 0 right")
    expect(_button(cell, "Change my guess")).to_be_disabled()
    book.shoot(cell, "predict_result")

    book.run_again("predict_ranking(")
    expect(cell).to_contain_text("have seen the result. Run shows it again")
    assert pixels(cell.locator("img.widget-image").first) not in (empty, shown)
    _button(cell, "Run").click()
    expect(cell).to_contain_text("Counted as not right when you first saw a result")
    expect(cell).to_contain_text("Your file so far: 1 prediction, 0 right")
    assert len(list((book.path.parent).glob("cbn_lab_progress.json"))) == 1


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_number_by_keyboard_in_a_narrow_window(lab, theme):
    from playwright.sync_api import expect

    book = lab(cells=[SETUP, NUMBER.replace("t.2", f"t.2 {theme}")], size=(600, 900))
    if theme == "dark":
        book.use_dark_theme()
    book.run_all()
    cell = book.cell("predict_number(")
    picture = cell.locator("img.widget-image").first
    empty = pixels(picture)
    book.move_slider(cell.locator(".widget-slider"), -55)
    guessed = changed(picture, empty)
    for name in ("90 %", "Lock in my guess", "Run"):
        expect(_button(cell, name)).to_be_enabled()
        _button(cell, name).focus()
        book.page.keyboard.press("Enter")
    expect(cell).to_contain_text(re.compile(r"Your number is [\d.]+ off"))
    changed(picture, guessed)
    overflow = cell.locator(".jp-OutputArea-output").evaluate_all(
        "found => Math.max(...found.map(e => e.scrollWidth - e.clientWidth))")
    book.shoot(cell, f"predict_number_{theme}")
    assert overflow <= 1, "something is cut off, or has to be scrolled to, in a window of 600 pixels"


def test_a_curve_is_drawn_over_the_guess_while_it_is_trained(lab):
    from playwright.sync_api import expect

    book = lab(cells=[SETUP, CURVE])
    book.run_all()
    cell = book.cell("predict_curve(")
    picture = cell.locator("img.widget-image").first
    sliders = cell.locator(".widget-slider")
    expect(sliders).to_have_count(3)
    for i, steps in enumerate((-30, 10, 35)):
        handle = sliders.nth(i).locator("[role=slider]")
        handle.focus()
        for _ in range(abs(steps)):
            handle.press("ArrowUp" if steps > 0 else "ArrowDown")
    _button(cell, "50 %").click()
    _button(cell, "Lock in my guess").click()
    expect(_button(cell, "Change my guess")).to_be_enabled()
    guessed = pixels(picture)
    book.shoot(cell, "predict_curve_locked")
    _button(cell, "Run").click()
    changed(picture, guessed)
    expect(cell).to_contain_text(re.compile(r"Your curve is [\d.]+ off on average"))
    expect(cell).to_contain_text("Brier score (0.5 − ")
    book.shoot(cell, "predict_curve_result")


def test_a_ranking_under_ipywidgets_7(classic):
    from playwright.sync_api import expect

    book = classic(cells=[SETUP, RANKING])
    book.run_all()
    cell = book.cell("predict_ranking(")
    picture = cell.locator("img.widget-image").first
    for item in ("complete", "before", "none"):
        cell.get_by_role("button", name=item).click()
    expect(cell.locator("details").first).to_contain_text("So far: complete, before, none.")
    guessed = pixels(picture)
    for name in ("90 %", "Lock in my guess", "Run"):
        expect(_button(cell, name)).to_be_enabled()
        _button(cell, name).click()
    expect(cell).to_contain_text("3 of 3 pairs are in the right order")
    expect(cell).to_contain_text("Brier score (0.9 − 1)² = 0.01")
    changed(picture, guessed)
    book.shoot(cell, "predict_classic")
