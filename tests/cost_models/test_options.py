"""What stands behind a target's name, read and written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models import target
from cost_models.options import LARGEST_SIDE, described, named, one_of, parse_options, picture_size, thread_count
from workloads import InputError

ALLOWED = {"image": picture_size, "threads": thread_count, "cache": one_of("cold", "warm")}
DEFAULTS = {"image": None, "threads": 1, "cache": "cold"}
SIDES = st.integers(1, LARGEST_SIDE)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "image": st.tuples(SIDES, SIDES),
        "threads": st.integers(1, 1024),
        "cache": st.sampled_from(["cold", "warm"]),
    },
)


@given(VALUES)
def test_a_name_is_read_as_what_it_was_made_of(values):
    base, _, text = named("toy", values, ALLOWED).partition(":")
    assert base == "toy"
    assert DEFAULTS | (parse_options(base, text, ALLOWED) if text else {}) == DEFAULTS | values
    assert not any(f"{name}={value}" in text.split(",") for name, value in DEFAULTS.items())


@given(VALUES, st.randoms())
def test_the_order_does_not_change_the_name(values, random):
    shuffled = list(values.items())
    random.shuffle(shuffled)
    assert named("toy", dict(shuffled), ALLOWED) == named("toy", values, ALLOWED)


@given(st.text(max_size=30))
def test_anything_else_is_one_line(text):
    try:
        found = parse_options("toy", text, ALLOWED)
    except InputError as error:
        assert "\n" not in str(error) and str(error).startswith("target toy: ")
    else:
        name = named("toy", found, ALLOWED)
        assert name == "toy" or named("toy", parse_options("toy", name.partition(":")[2], ALLOWED), ALLOWED) == name


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("threads=0", "1 to 1024"),
        ("threads=1025", "1 to 1024"),
        ("threads=1e3", "1 to 1024"),
        ("threads=٣", "1 to 1024"),
        ("threads", "threads=N"),
        ("threads=", "1 to 1024"),
        ("threads=1,threads=2", "given twice"),
        ("threads=1,", "allowed: image=WIDTHxHEIGHT, threads=N, cache=cold|warm"),
        ("image=640", "WIDTHxHEIGHT"),
        ("image=0x10", "WIDTHxHEIGHT"),
        ("image=640x480\n", "WIDTHxHEIGHT"),
        ("image=-1x5", "WIDTHxHEIGHT"),
        ("image=9999x9999", f"at most {LARGEST_SIDE}"),
        ("image=4097x1", f"at most {LARGEST_SIDE}"),
        ("cache=hot", "cold, warm"),
        ("speed=1", "no option"),
    ],
)
def test_what_is_refused_says_what_is_allowed(text, told):
    with pytest.raises(InputError) as caught:
        parse_options("toy", text, ALLOWED)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_a_target_keeps_its_options_in_its_name_and_key():
    model = target("cpu-onnxruntime:threads=2,image=640x480")
    assert model.name == "cpu-onnxruntime:image=640x480,threads=2"
    assert model.key.startswith(f"{model.name}@")
    assert (model.image, model.threads) == ((640, 480), 2)
    assert target(model.name).key == model.key
    assert {"image=WIDTHxHEIGHT", "threads=N"} <= set(described(model.options))
    plain = target("cpu-onnxruntime")
    assert target("cpu-onnxruntime:threads=1,energy=on").key == plain.key
    assert "pillow" in model.runtime() and "pillow" not in plain.runtime()


def test_a_target_without_such_an_option_says_which_it_has():
    with pytest.raises(InputError, match=r"'cache=cold' is no option.*image=WIDTHxHEIGHT.*threads=N"):
        target("cpu-onnxruntime:cache=cold")
