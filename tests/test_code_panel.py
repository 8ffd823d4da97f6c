"""The code panel: what its buttons do, and that it says what went wrong. What the script computes: test_export.py."""

import asyncio
from dataclasses import replace

import clock
import ipywidgets
import pytest

from cbn_lab import export, share
from cbn_lab.widgets import display
from cbn_lab.widgets.code import CodePanel

CORE = {"VBox", "HBox", "Button", "HTML", "Text", "Textarea"}  # the same in ipywidgets 7.7 and 8
SMALL = replace(share.DEFAULT, model="mlp", epochs=1)


class Host:
    """Settings that a panel shows and restores."""

    def __init__(self, config=SMALL):
        self.config = config

    def get(self):
        return self.config

    def take(self, config):
        self.config = config


def _widgets(view):
    yield view
    for child in getattr(view, "children", ()):
        yield from _widgets(child)


def _named(panel, description):
    (found,) = [w for w in _widgets(panel.view) if getattr(w, "description", None) == description]
    return found


def _message(panel):
    (found,) = [w for w in _widgets(panel.view) if type(w) is ipywidgets.HTML]
    return found.value


@pytest.fixture
def host():
    return Host()


@pytest.fixture
def panel(host, tmp_path):
    return CodePanel(host.get, host.take, folder=tmp_path)


def test_the_button_writes_the_script_and_the_state(panel):
    assert panel.code == "" and panel.state == share.encode(SMALL)
    assert _named(panel, "script").layout.display == "none"
    _named(panel, "Give me the code").click()
    assert panel.code == export.script(SMALL) == _named(panel, "script").value
    assert _named(panel, "script").layout.display == "" and "Ctrl+C" in _message(panel)


def test_the_code_follows_the_settings_once_it_was_asked_for(panel, host):
    host.config = replace(SMALL, activation="relu")
    panel.refresh()
    assert panel.code == "" and panel.state == share.encode(host.config)
    panel.give()
    host.config = replace(SMALL, activation="tanh")
    panel.refresh()
    assert panel.code == export.script(host.config) and "nn.Tanh()" in panel.code


def test_a_state_is_restored(panel, host):
    _named(panel, "state").value = "  cbn1 activation=relu*2,tanh placement=before lr=0.03 "
    _named(panel, "Restore").click()
    assert host.config == replace(share.DEFAULT, activation=("relu", "relu", "tanh"), placement="before", lr=0.03)
    assert panel.error is None and _message(panel) == "restored"


def test_what_a_restored_state_says_stays_until_the_settings_change(panel, host):
    _named(panel, "state").value = "cbn1 lr=0.03"
    panel.restore()
    panel.refresh()  # the playground's, a moment later
    assert _message(panel) == "restored"
    host.config = SMALL
    panel.refresh()
    assert _message(panel) == "" and panel.state == share.encode(SMALL)


def test_settings_that_are_taken_over_although_they_fail_keep_their_error(host, tmp_path):
    def take(config):
        host.config = config
        raise RuntimeError("cannot be drawn")

    panel = CodePanel(host.get, take, folder=tmp_path)
    _named(panel, "state").value = "cbn1  lr=0.03"
    panel.restore()
    panel.refresh()
    assert "cannot be drawn" in _message(panel) and panel.state == "cbn1 lr=0.03"


@pytest.mark.parametrize("pasted", ['"{}"', "'{}'", "`{}`", " “{}” ", "# CBN Lab state: {}", "{}\n"])
def test_a_state_may_be_pasted_with_what_stood_around_it(panel, host, pasted):
    wanted = replace(SMALL, lr=0.03)
    _named(panel, "state").value = pasted.format(share.encode(wanted).replace(" ", "\N{NO-BREAK SPACE}"))
    panel.restore()
    assert panel.error is None and host.config == wanted


@pytest.mark.parametrize("data", ["digits", "cifar10"])
@pytest.mark.parametrize("end", ["\n", " ", ""])  # what a field for one line makes of the ends of lines
def test_a_script_restores_its_state(panel, host, data, end):
    """The whole of it, its first line alone, and with what stood before it."""
    wanted = replace(SMALL, lr=0.03, placement="before", data=data, norm_options={"eps": 0.001, "momentum": 0.3})
    text = export.script(wanted)
    for pasted in (text, text.splitlines()[0], f"In [3]: {text}"):
        host.config = SMALL
        _named(panel, "state").value = end.join(pasted.splitlines())
        panel.restore()
        assert panel.error is None and host.config == wanted


@pytest.mark.parametrize("end", ["\n", ""])  # a field for one line drops it
def test_a_state_of_two_lines_is_restored_whole_or_not_at_all(panel, host, end):
    wanted = replace(SMALL, model="convnet", placement=("complete", "before", "none", "after", "both", "before_weight"),
                     activation=("sigmoid", "tanh", "relu", "selu", "swish", "gelu"))
    first, second, *rest = export.script(wanted).splitlines()
    _named(panel, "state").value = first
    panel.restore()
    assert "paste that line, too" in _message(panel) and host.config == SMALL
    for pasted in ([first, second], [first, second, *rest]):
        host.config = SMALL
        _named(panel, "state").value = end.join(pasted)
        panel.restore()
        assert panel.error is None and host.config == wanted


def test_what_is_no_state_is_refused_in_one_line_and_changes_nothing(panel, host):
    _named(panel, "state").value = "cbn1 <b>=relu"
    _named(panel, "Restore").click()
    assert host.config == SMALL and isinstance(panel.error, ValueError)
    assert _message(panel) == display.one_line(panel.error) and "<b>" not in _message(panel)


def test_an_error_of_the_host_is_shown(host, tmp_path):
    def refuse(config):
        raise RuntimeError("not while it trains")

    panel = CodePanel(host.get, refuse, folder=tmp_path)
    _named(panel, "Restore").click()
    assert isinstance(panel.error, RuntimeError) and "not while it trains" in _message(panel)


def test_settings_without_a_script_leave_no_script_of_other_settings_behind(panel, host):
    panel.give()
    host.config = replace(SMALL, placement="before", norm_options={"norm": "batch_norm_written_out"})
    panel.refresh()
    assert panel.code == "" and _named(panel, "Save as file").disabled
    assert "batch_norm_written_out" in _message(panel) and panel.state == share.encode(host.config)
    host.config = SMALL
    panel.give()
    assert panel.error is None and panel.code == export.script(SMALL)


def test_the_script_comes_back_with_settings_that_have_one(panel, host):
    panel.give()
    host.config = replace(SMALL, model="vgg16")
    panel.refresh()
    panel.refresh()
    assert panel.error is not None and panel.code == ""
    host.config = SMALL
    panel.refresh()
    assert panel.error is None and panel.code == export.script(SMALL)


def test_saving_overwrites_no_other_file(panel, host, tmp_path):
    assert _named(panel, "Save as file").disabled
    (tmp_path / "cbn_script.py").write_text("mine")
    panel.give()
    for _ in range(2):  # a double click makes one file
        _named(panel, "Save as file").click()
        assert "cbn_script_2.py" in _message(panel)
    first = panel.code
    host.config = replace(SMALL, seed=5)
    panel.give()
    panel.save()
    texts = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert texts == {"cbn_script.py": "mine", "cbn_script_2.py": first, "cbn_script_3.py": panel.code}


def test_a_folder_that_cannot_be_written_to_is_reported(host, tmp_path):
    panel = CodePanel(host.get, folder=tmp_path / "missing")
    panel.give()
    panel.save()
    assert isinstance(panel.error, FileNotFoundError) and "FileNotFoundError" in _message(panel)


def test_without_a_place_to_restore_to_there_is_no_such_button(host):
    assert not [w for w in _widgets(CodePanel(host.get).view) if getattr(w, "description", "") == "Restore"]


def test_readers_without_a_kernel_see_the_script(panel):
    bundle = panel._repr_mimebundle_()
    assert bundle["text/plain"] == export.script(SMALL) and "<pre>" in bundle["text/html"]
    assert bundle[display.VIEW]["model_id"] == panel.view.model_id


def test_core_widgets_only_each_with_a_name(panel):
    assert {type(w).__name__ for w in _widgets(panel.view)} <= CORE
    assert all(w.description for w in _widgets(panel.view) if type(w).__name__ in {"Button", "Text", "Textarea"})


def test_restore_reads_what_was_typed_before_the_click_though_it_comes_later(host):
    async def scene():
        panel = CodePanel(host.get, host.take)
        _named(panel, "Restore").click()
        _named(panel, "state").value = share.encode(replace(SMALL, seed=7))
        await asyncio.sleep(1.5 * display.TYPED_SECONDS)
        assert host.config == replace(SMALL, seed=7) and "restored" in _message(panel)

    clock.run(scene())
