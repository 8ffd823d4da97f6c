"""The state string: every configuration comes back as it was, and text that is no state is refused with a reason."""

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cbn_lab import share, start
from cbn_lab.train import TrainConfig

TEXT = st.text(max_size=12) | st.sampled_from(["relu", "None", "True", "1", "1e3", "a,b", "a*2", '"', "\\", "é", "-x"])
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers() | FINITE | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=5) | st.lists(inner, max_size=5).map(tuple)
                      | st.dictionaries(TEXT | st.integers() | st.booleans() | FINITE, inner, max_size=3), max_leaves=8)
NAMES = TEXT | st.lists(st.sampled_from(["relu", "tanh"]), max_size=9).map(tuple) | VALUES
OPTIONS = st.dictionaries(TEXT, VALUES, max_size=3)
COUNTS = st.integers(1, 10**9)
CONFIGS = st.builds(
    TrainConfig, data=TEXT, model=TEXT, activation=NAMES, placement=NAMES, model_options=OPTIONS, norm_options=OPTIONS,
    train_images=st.none() | COUNTS, validation_images=st.integers(0, 9), epochs=COUNTS, batch_size=COUNTS,
    lr=st.floats(0, exclude_min=True, allow_infinity=False), momentum=st.floats(0, 1, exclude_max=True),
    weight_decay=st.floats(0, allow_infinity=False), decay_norm=st.booleans(), crop_padding=st.none() | COUNTS,
    flip=st.none() | st.booleans(), seed=st.integers(0, 2**80), device=st.sampled_from(["auto", "cpu", "cuda:12"]),
    precision=st.sampled_from(["auto", "fp32", "bf16", "fp16"]), compile=st.booleans(), cuda_graphs=st.booleans(),
    sync_norm=st.booleans(), ranks=COUNTS, schedule=st.sampled_from(["one_cycle", "steps"]),
    image_size=st.none() | COUNTS,
    evaluate_every=st.integers(0, 9), log_every=st.none() | COUNTS)


@given(CONFIGS)
@example(replace(share.DEFAULT, activation=("relu",) * (2 * share.LONGEST_RUN + 1)))
@example(replace(share.DEFAULT, activation=("relu",), placement=["none"], model_options={"widths": (1, 1.0, True)}))
def test_every_configuration_comes_back(config):
    text = share.encode(config)
    assert "\n" not in text and text.isascii()
    back = share.decode(text)
    assert back == config
    assert repr(back) == repr(config)  # equality alone would let 1 stand for True


def test_the_default_is_that_of_the_start_page_and_the_shortest_state():
    assert share.DEFAULT == start.config("sigmoid", "complete")
    assert share.encode(share.DEFAULT) == "cbn1"


@pytest.mark.parametrize("changes, text", [
    ({"activation": ("sigmoid",) * 3 + ("tanh",) * 3}, "cbn1 activation=sigmoid*3,tanh*3"),
    ({"activation": "relu", "placement": "before", "lr": 0.03}, "cbn1 activation=relu placement=before lr=0.03"),
    ({"placement": ("none", "both", "none"), "seed": 2}, "cbn1 placement=none,both,none seed=2"),
    ({"model": "mlp", "model_options": {"width": 64, "depth": 2}}, "cbn1 model=mlp model_options={width:64,depth:2}"),
    ({"model_options": {"widths": (16, 16, 32)}}, "cbn1 model_options={widths:(16*2,32)}"),
    ({"norm_options": {"gamma": None, "pre_shift": False}}, "cbn1 norm_options={gamma:None,pre_shift:False}"),
    ({"data": "my data/set.npz", "device": "cuda:1"}, 'cbn1 data="my data/set.npz" device="cuda:1"'),
])
def test_a_state_reads_like_its_settings(changes, text):
    """Strings of this version are in students' notes: they must not change their meaning."""
    config = replace(share.DEFAULT, **changes)
    assert share.encode(config) == text
    assert share.decode(text) == config


def test_space_around_and_between_the_parts_means_nothing():
    text = "\n cbn1  activation = relu * 2 , tanh\n norm_options={ eps : 0.001 , }\t"
    assert share.decode(text) == replace(share.DEFAULT, activation=("relu", "relu", "tanh"),
                                         norm_options={"eps": 0.001})


@pytest.mark.parametrize("text, reason", [
    ("", "the state is empty"),
    ("import torch", "a state starts with cbn1, got 'import torch'"),
    ("activation=relu", "a state starts with cbn1"),
    ("cbn2 lr=1", "version cbn2, and this copy of CBN Lab reads cbn1"),
    ("cbn1 learning_rate=1", "no setting 'learning_rate'; known: data, model, activation"),
    ("cbn1 lr=0.1 lr=0.2", "lr is set twice"),
    ("cbn1 lr", "a = is missing after lr, got 'the end'"),
    ("cbn1 lr=", "the state ends too early"),
    ("cbn1 lr=0.1,0.2", "lr must be a finite number"),
    ("cbn1 lr=-1", "lr must be positive"),
    ("cbn1 lr=1e999", "1e999 is too large"),
    ("cbn1 lr=0.1.2", "'0.1.2' cannot be read"),
    ("cbn1 seed=1.5", "seed must be at least 0, a whole number"),
    ("cbn1 activation=,relu", "a value is missing before ','"),
    ("cbn1 activation=relu,", "the state ends too early"),
    ("cbn1 activation=relu*0", "a whole number from 1 to 10000, got '0'"),
    ("cbn1 activation=relu*99999999", "a whole number from 1 to 10000"),
    ("cbn1 model_options={widths:[[[4*10000]*10000]*10000]}", "more than 1,000,000 values; shorten its lists"),
    ("cbn1 activation=[relu", "a ] is missing to close the ["),
    ("cbn1 norm_options={eps}", "a : is missing after the key 'eps'"),
    ("cbn1 norm_options={eps:1,eps:2}", "the key 'eps' stands twice"),
    ("cbn1 norm_options={(1):2}", "a key in { } must be a name or a number"),
    ("cbn1 norm_options=relu", "norm_options must be a dictionary"),
    ("cbn1 data=“x”", "'“x”' cannot be read; names with other characters"),
    ('cbn1 data="\\x"', "is not written as in JSON"),
    ('cbn1 data="x', "cannot be read"),
    ("cbn1 model_options=" + "(" * 100_000, "nests brackets too deeply"),
    ("cbn1 seed=" + "9" * 10_000, "Exceeds the limit"),
], ids=lambda value: value[:30] if value else "empty")
def test_what_is_no_state_is_refused_with_a_reason(text, reason):
    with pytest.raises(ValueError) as caught:
        share.decode(text)
    assert reason in str(caught.value)
    assert "cbn1 activation=relu placement=before lr=0.03" in str(caught.value)
    assert len(str(caught.value)) < 600


@given(st.text() | st.text("cbn1 lr=relu,*()[]{}:\"\\0.e-").map("cbn1 ".__add__))
def test_no_text_makes_the_reader_fail_in_another_way(text):
    try:
        config = share.decode(text)
    except ValueError:
        return
    assert share.decode(share.encode(config)) == config


def test_the_example_of_the_messages_is_a_state():
    assert share.decode(share.EXAMPLE) == replace(share.DEFAULT, activation="relu", placement="before", lr=0.03)


def test_only_configurations_are_encoded_and_only_text_is_read():
    with pytest.raises(TypeError, match="a TrainConfig is needed, got dict"):
        share.encode({"lr": 0.1})
    with pytest.raises(TypeError, match="the state must be text, got NoneType"):
        share.decode(None)
