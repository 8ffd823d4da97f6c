"""Live training in JupyterLab: two at once, Stop, running a cell again, the keyboard, a dark and narrow window."""

import re

import books
import pytest
from playwright.sync_api import expect

SETTINGS = """from dataclasses import replace
from cbn_lab import start, widgets
long = replace(start.config("sigmoid", "complete"), epochs=2000)
records = [run for run in start.records() if run.config["activation"] == "sigmoid"]
recorded = {f"{p}, recorded": [r for r in records if r.config["placement"] == p] for p in ("before", "complete")}
made = []"""
FIRST = "made.append(widgets.LiveTraining([long]))  # first\nmade[-1]"
SECOND = "made.append(widgets.LiveTraining([long], recorded=recorded))  # second\nmade[-1]"
QUESTION = "'running', [live.running for live in made]"


def _button(cell, name):
    return cell.get_by_role("button", name=name, exact=True)


def _picture(cell):
    return cell.locator("img.widget-image, .widget-image img").first


def _status(cell):
    return cell.locator(".widget-hbox .widget-html-content").first


def _run_again(book, text):
    book.cell(text).locator(book.INPUT).click()
    book.page.keyboard.press("Control+Enter")


def _assert_running(book, answer):
    _run_again(book, "'running'")
    expect(book.cell("'running'")).to_contain_text(f"('running', {answer})")


@pytest.mark.parametrize("front_end", ["lab", "classic"])  # which send a cell's id, and none
def test_two_train_at_once_and_running_a_cell_again_ends_its_own(front_end, request):
    book = request.getfixturevalue(front_end)(cells=[SETTINGS, FIRST, SECOND, QUESTION])
    book.run_all()
    first, second = book.cell("# first"), book.cell("# second")
    for cell in (first, second):
        _button(cell, "Start").dblclick()
    for cell in (first, second):
        expect(_status(cell)).to_contain_text("epoch")
        picture = _picture(cell)
        books.changed(picture, books.changed(picture, books.pixels(picture)))
    book.shoot(first, f"live_two_at_once_{front_end}")
    _assert_running(book, "[True, True]")

    _run_again(book, "# second")
    expect(_button(second, "Start")).to_be_enabled()
    _assert_running(book, "[True, False, False]")
    before = books.pixels(_picture(first))
    books.changed(_picture(first), before)

    _button(first, "Stop").click()
    expect(_status(first)).to_have_text("stopped")  # and not "finished": long before its end
    _assert_running(book, "[False, False, False]")


def test_recorded_runs_play_by_keyboard_in_a_dark_and_narrow_window(lab):
    book = lab(cells=[SETTINGS, SECOND], size=(600, 900))
    book.use_dark_theme()
    book.command("application:toggle-left-area")
    book.run_all()
    cell = book.cell("# second")
    picture, caption = _picture(cell), cell.locator(".widget-html-content").last
    expect(cell).to_contain_text("Recorded on")
    expect(caption).to_contain_text("at epoch 10")
    whole = books.pixels(picture)
    book.move_slider(cell.locator(".widget-slider"), -60)
    expect(caption).to_contain_text("at epoch 4")
    part = books.changed(picture, whole)
    book.shoot(cell, "player_narrow_dark")

    _button(cell, "Play").focus()
    book.page.keyboard.press("Enter")
    expect(_button(cell, "Pause")).to_be_focused()
    books.changed(picture, part)
    book.page.keyboard.press("Enter")
    expect(_button(cell, "Play")).to_be_focused()

    _button(cell, "Start").focus()
    book.page.keyboard.press("Enter")
    expect(_status(cell)).to_contain_text("epoch")
    book.shoot(cell, "live_narrow_dark")
    book.page.keyboard.press("Tab")
    expect(_button(cell, "Stop")).to_be_focused()
    book.page.keyboard.press("Enter")
    expect(_status(cell)).to_have_text("stopped")
    book.page.keyboard.press("Tab")
    expect(_button(cell, "Clear")).to_be_focused()
    book.page.keyboard.press("Enter")
    expect(caption).not_to_contain_text(re.compile("complete: (from|training) loss"))


def test_errors_are_one_line_in_the_widget(lab):
    broken = 'widgets.LiveTraining([replace(long, placement="none", lr=1e30, log_every=1)])  # broken'
    book = lab(cells=[SETTINGS, broken])
    book.run_all()
    cell = book.cell("# broken")
    _button(cell, "Start").click()
    expect(_status(cell)).to_contain_text("DivergedError: the loss is")
    expect(_button(cell, "Next seed")).to_be_enabled()
    book.shoot(cell, "live_error")
