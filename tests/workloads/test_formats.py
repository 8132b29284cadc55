"""Number formats by name."""

import pytest

from workloads import Format, InputError

NAMES = [
    *("fp16", "fp32", "bf16", "tf32"),
    *(f"int{bits}" for bits in range(1, 17)),
    *(f"mf{bits}" for bits in range(3, 17)),
]


def test_every_format_is_read_as_it_is_written():
    formats = [Format.parse(name) for name in NAMES]
    assert [str(form) for form in formats] == NAMES
    assert len(set(formats)) == len(NAMES)
    assert [form.bits for form in formats] == [int(name.lstrip("abcdefghijklmnopqrstuvwxyz")) for name in NAMES]


@pytest.mark.parametrize(
    "name", ["tf16", "tf19", "tf", "fp8", "bf32", "int0", "int17", "mf2", "mf17", "int008", "32", ""]
)
def test_others_are_refused_with_what_is_allowed(name):
    with pytest.raises(InputError, match="tf32") as caught:
        Format.parse(name)
    assert "\n" not in str(caught.value)
