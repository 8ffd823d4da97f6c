"""The playground in notebook 07 and alone: slots and menus by mouse and by keyboard, training, the code to copy."""

import re

import pytest
from books import changed, pixels

CELLS = ["from cbn_lab import widgets", "widgets.playground()"]


class Play:
    """The first playground within `scope`: a cell, or the page."""

    def __init__(self, book, scope):
        self.book, self.scope = book, scope
        self.diagram, self.curves = (scope.locator("img.widget-image").nth(i) for i in (0, 1))
        self.words = scope.locator("[role=status]").first
        self.table = scope.locator(".widget-html table").first
        self.state = scope.locator(".widget-text:has(.widget-label:text-is('state')) input").first
        buttons = scope.locator(".widget-hbox:has(> button:text-is('Stop'))").first  # a page has them more than once
        self.status = buttons.locator(".widget-html-content").last
        self.script = scope.locator(".widget-textarea textarea").first

    def slot(self, place):
        return self.scope.locator(f"button[title$='norm {place}']").first

    def menu(self, name):
        return self.scope.locator(f".widget-dropdown:has(.widget-label:text-is('{name}')) select").first

    def button(self, name):
        return self.scope.get_by_role("button", name=name, exact=True).first

    def choose_by_keyboard(self, name, keys):
        """Open the menu and choose with `keys`: in JupyterLab a bare arrow key would go to the next cell."""
        menu = self.menu(name)
        menu.focus()
        for key in ("Space", *keys, "Enter"):
            menu.press(key)

    def make_long(self):
        """So many epochs that a training still runs when it is looked at, however busy the machine is."""
        from playwright.sync_api import expect

        field = self.scope.locator(".widget-text:has(.widget-label:text-is('epochs')) input").first
        field.fill("200")
        field.press("Enter")
        expect(self.state).to_have_value(re.compile("epochs=200"))  # a click may overtake what was typed

    def wait_for_running(self):
        """Until the curve of a running training has grown twice."""
        before = pixels(self.curves)
        for _ in range(2):
            before = changed(self.curves, before)

    def stop(self):
        from playwright.sync_api import expect

        self.button("Stop").click()
        expect(self.status).to_have_text("stopped")  # and not "finished": long before its end
        expect(self.button("Stop")).to_be_disabled()


def _open(front_end, size=(1300, 1000)):
    book = front_end(cells=CELLS, size=size)
    book.run_all()
    return Play(book, book.cell("widgets.playground()"))


@pytest.mark.parametrize("front_end", ["lab", "notebook7", "voila", "classic"])
def test_notebook_07(front_end, request):
    from playwright.sync_api import expect

    book = request.getfixturevalue(front_end)("07_placement_playground")
    if front_end != "voila":
        book.run_all()
    play = Play(book, book.page if front_end == "voila" else book.cell("widgets.playground()"))
    pixels(play.diagram)
    book.shoot(play.menu("layer"), f"07_{front_end}")
    expect(play.words).to_contain_text("sigmoid")

    diagram, table = pixels(play.diagram), play.table.inner_html()
    play.slot("before the activation").click()  # by mouse: the norm's position
    diagram = changed(play.diagram, diagram)
    expect(play.menu("placement")).to_have_value("before")
    expect(play.slot("before the activation")).to_have_text("norm  ×")
    play.menu("activation").select_option("tanh")
    diagram = changed(play.diagram, diagram)
    expect(play.words).to_contain_text("tanh")
    assert play.table.inner_html() != table
    play.slot("after the activation").press("Enter")  # by keyboard
    changed(play.diagram, diagram)

    play.make_long()
    play.button("Start").click()
    play.wait_for_running()
    book.shoot(play.curves, f"07_{front_end}_training")
    play.stop()

    play.button("Give me the code").click()
    expect(play.script).to_be_visible()
    play.script.click()
    play.script.press("Control+a")
    play.script.press("Control+c")
    copied = book.page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("# CBN Lab state: cbn1 activation=tanh placement=both epochs=200\n")
    assert "nn.Tanh()" in copied
    book.shoot(play.script, f"07_{front_end}_code")


def test_a_typed_rate_stays_as_it_was_typed(lab):
    """The page rounds a slider's value to its steps and may send that back: the state must not follow."""
    from playwright.sync_api import expect

    play = _open(lab)
    field = play.scope.locator(".widget-text:has(.widget-label:text-is('exact rate')) input").first
    field.fill("0.0123456")
    field.press("Enter")
    expect(play.state).to_have_value(re.compile("lr=0.0123456"))
    play.book.page.wait_for_timeout(1500)
    expect(play.state).to_have_value(re.compile("lr=0.0123456"))
    expect(field).to_have_value("0.0123456")


def _cut_off(scope):
    """Descriptions of the visible controls that stick out of the page to the right."""
    return scope.locator("button, select, input, [role=slider]").evaluate_all("""controls => controls
        .filter(c => c.offsetParent && c.getBoundingClientRect().right > document.documentElement.clientWidth)
        .map(c => c.textContent || c.closest('.jupyter-widgets')?.textContent)""")


def test_keyboard_only_in_a_narrow_dark_window(lab):
    from playwright.sync_api import expect

    book = lab(cells=CELLS, size=(600, 1000))
    book.hide_files()
    book.use_dark_theme()
    book.run_all()
    play = Play(book, book.cell("widgets.playground()"))
    diagram = pixels(play.diagram)
    assert _cut_off(play.scope) == []
    play.slot("before the weight layer").press("Space")
    expect(play.menu("placement")).to_have_value("before_weight")
    diagram = changed(play.diagram, diagram)
    play.choose_by_keyboard("activation", ["ArrowDown"])
    changed(play.diagram, diagram)
    expect(play.menu("placement")).to_have_value("before_weight")
    book.shoot(play.menu("layer"), "playground_narrow_dark")

    play.make_long()
    play.button("Start").press("Enter")
    expect(play.button("Stop")).to_be_enabled()
    play.wait_for_running()
    play.button("Stop").press("Enter")
    expect(play.button("Stop")).to_be_disabled()
    assert _cut_off(play.scope) == []
    book.shoot(play.button("Clear"), "playground_narrow_dark_trained")


def test_two_playgrounds_train_at_once_and_take_changes(lab):
    from playwright.sync_api import expect

    book = lab(cells=[CELLS[0], "widgets.playground()  # one", "widgets.playground()  # two"])
    book.run_all()
    one, two = (Play(book, book.cell(f"# {name}")) for name in ("one", "two"))
    for play, name in ((one, "tanh"), (two, "relu")):
        play.menu("activation").select_option(name)
        expect(play.words).to_contain_text(f"complete({name})")
        play.make_long()
        play.button("Start").dblclick()
    for play in (one, two):
        play.wait_for_running()
    one.menu("activation").select_option("selu")  # in the middle of the training, which goes on with its own
    expect(one.words).to_contain_text("complete(selu)")
    expect(one.status).to_have_text(re.compile("^tanh, complete.*, seed 0: epoch"))
    one.wait_for_running()
    expect(two.words).to_contain_text("complete(relu)")
    book.shoot(one.curves, "playground_changed_while_training")
    for play in (one, two):
        play.stop()
    one.button("Start").click()
    expect(one.status).to_have_text(re.compile("^selu, complete.*, seed 0: epoch"))
    one.stop()


def test_a_restarted_kernel_and_a_restored_state(lab):
    from playwright.sync_api import expect

    book = lab(cells=CELLS)
    book.run_all()
    play = Play(book, book.cell("widgets.playground()"))
    play.make_long()
    play.button("Start").click()
    play.wait_for_running()
    book.restart_kernel()
    book.run_all()
    expect(play.button("Start")).to_be_enabled()
    expect(play.button("Stop")).to_be_disabled()
    play.state.fill("cbn1 activation=tahn")
    play.button("Restore").click()
    expect(play.scope).to_contain_text("ValueError")
    expect(play.menu("activation")).to_have_value("sigmoid")
    diagram = pixels(play.diagram)
    play.state.fill("cbn1 activation=tanh placement=both")
    play.button("Restore").click()
    changed(play.diagram, diagram)
    expect(play.menu("activation")).to_have_value("tanh")
    expect(play.menu("placement")).to_have_value("both")
