"""Notebooks 00 and 03 in JupyterLab: all cells run, menus and sliders redraw, training starts and stops."""

import re

from books import changed, pixels


def test_the_slack_meter(lab):
    book = lab("03_three_effects_proof")
    book.run_all()
    meter = book.cell("slack.meter()")
    picture = meter.locator("img.widget-image")
    first = pixels(picture)
    slider = meter.locator(".widget-slider [role=slider]").first
    slider.focus()
    for _ in range(10):
        slider.press("ArrowRight")
    changed(picture, first)
    book.shoot(meter, "slack_meter")


def test_notebook_00(lab):
    from playwright.sync_api import expect

    book = lab("00_start_here")
    book.run_all()

    live = book.cell("widgets.watch(pair")
    book.shoot(live, "experiment")
    assert re.search(r"finished in \d+ s", live.locator(".widget-html-content").first.inner_text())

    chooser = book.cell("widgets.chooser(records)")
    picture = chooser.locator("img.widget-image")
    caption = chooser.locator(".widget-html-content").last
    first = pixels(picture)
    menus = chooser.locator(".widget-dropdown select")
    menus.nth(0).select_option("tanh")
    second = changed(picture, first)
    menus.nth(1).select_option("both")
    third = changed(picture, second)
    expect(caption).to_contain_text("Learning curves, digits, convnet, tanh")
    expect(caption).to_contain_text(re.compile("both: .*training loss"))
    book.shoot(chooser, "chooser")

    start, stop = (chooser.get_by_role("button", name=name) for name in ("Start", "Stop"))
    start.click()
    expect(caption).to_contain_text(re.compile("live: .*training loss"))
    changed(picture, third)
    stop.click()
    expect(chooser.locator(".widget-hbox .widget-html-content").last).to_have_text("stopped")
    expect(stop).to_be_disabled()
    book.shoot(chooser, "stopped")


def test_the_recorded_runs_explorer(lab):
    from playwright.sync_api import expect

    book = lab("09_the_evidence")
    book.run_all()
    explorer = book.cell("widgets.evidence_explorer(")
    picture, menus = explorer.locator("img.widget-image").first, explorer.locator(".widget-dropdown select")
    first = pixels(picture)
    menus.nth(3).select_option("after")
    changed(picture, first)
    texts = explorer.locator(".widget-html-content").filter(has_text="paired by seed")
    headline, words = texts.nth(0), texts.nth(1)
    expect(headline).to_contain_text("complete minus after")
    expect(words).to_be_hidden()
    explorer.locator(".widget-checkbox input").check()
    expect(words).to_be_visible()
    explorer.get_by_role("button", name="Start").click()
    expect(words).to_contain_text("your seed 100")
    book.shoot(explorer, "evidence_explorer")
