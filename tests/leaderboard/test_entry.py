"""Entries: the round trip is exact, and nothing but an intact entry comes out of the reader."""

import copy
import json
from typing import Any

import pytest
from board_samples import cost, entry, fields, training
from hypothesis import given, settings
from hypothesis import strategies as st

from leaderboard import Entry, LeaderboardError

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=8), inner, max_size=4
        )
    ),
    max_leaves=12,
)


def reads(text: str) -> Entry | None:
    """The entry, or None where it is refused as it should be: with one line."""
    try:
        return Entry.from_json(text)
    except LeaderboardError as error:
        message = str(error)
        assert message and "\n" not in message and message.isprintable() and len(message) < 500
        assert error.exit_code == 2
        return None


@given(st.dictionaries(st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))), json_values, max_size=4))
def test_round_trip_keeps_every_value_and_its_type(plan: dict[str, Any]) -> None:
    made = entry(plan=plan)
    read = Entry.from_json(made.to_json())
    assert read == made
    assert read.id == made.id
    assert read.to_json() == made.to_json()
    assert json.dumps(read.plan) == json.dumps(plan)


def test_the_plan_is_the_entry_s_own_copy() -> None:
    plan = {"groups": {"conv1": 0.5}}
    made = entry(plan=plan)
    plan["groups"]["conv1"] = 0.1
    assert made.plan == {"groups": {"conv1": 0.5}}


def test_id_depends_on_every_field_but_the_time() -> None:
    made = entry()
    assert entry(created="2020-01-01T00:00:00Z").id == made.id
    others: list[dict[str, Any]] = [
        {"trial": 1},
        {"seed": 2},
        {"plan": {}},
        {"bytes": 1},
        {"costs": []},
        {"study": "x"},
        {"role": "control"},
    ]
    assert len({made.id, *(entry(**change).id for change in others)}) == 1 + len(others)


def test_primary_accuracy_and_the_one_that_ranks() -> None:
    as_run = entry(costs=[cost(runtime_accuracy={"top1": 0.9})])
    assert as_run.ranking_accuracy(as_run.costs[0]) == 0.9
    plain = entry()
    assert plain.ranking_accuracy(plain.costs[0]) == plain.accuracy.validation.primary == 0.97
    segmented = entry(accuracy={"validation": {"top1": 0.9, "miou": 0.6}, "dense_validation": 0.7})
    assert segmented.accuracy.validation.primary == 0.6


def test_an_entry_of_schema_1_keeps_its_id() -> None:
    made = entry(schema_version=1)
    assert made.id == "6da9eeda216b1dda"  # as the version before these fields hashed it
    assert "starts_from" not in made.to_json() and "epoch_fp32" not in made.to_json()
    assert Entry.from_json(made.to_json()).id == made.id


def test_an_entry_of_schema_2_keeps_its_id_and_one_of_schema_3_says_the_runtime() -> None:
    old = entry(schema_version=2)
    assert old.id == "e0cd519c8041d109"  # as the version before that field hashed it
    assert '"runtime":' not in old.to_json()
    new = entry(costs=[cost(runtime={"runtime": "onnxruntime", "version": "1.31.1"})])
    assert Entry.from_json(new.to_json()) == new
    assert new.id != entry(costs=[cost(runtime={"runtime": "onnxruntime", "version": "1.31.0"})]).id


def test_the_whole_training_is_that_of_the_dense_network_too_where_it_started_there() -> None:
    for start, epochs, seconds in ((None, 12.0, 15.5), ("trained", 12.0, 15.5), ("initial", 2.0, 3.5)):
        made = entry(training=training(starts_from=start, epoch_fp32=1.5))
        assert (made.training.total_epochs, made.training.total_seconds) == (epochs, seconds)
        assert Entry.from_json(made.to_json()) == made
    ids = {entry(training=training(**{name: 1.0})).id for name in ("epoch_fp32", "epoch_bf16", "dense_epoch_fp32")}
    assert len(ids) == 3


BAD: list[tuple[str, Any]] = [
    ("accuracy.validation.top1", 1.01),
    ("accuracy.validation.top1", -0.1),
    ("accuracy.validation.top1", float("nan")),
    ("accuracy.validation.top1", "0.9"),
    ("accuracy.validation.top1", True),
    ("accuracy.validation.top1", None),
    ("accuracy.dense_validation", float("inf")),
    ("accuracy.test", {"miou": 0.5}),
    ("costs.0.figures.latency.value", -1e-3),
    ("costs.0.figures.latency.value", None),
    ("costs.0.figures.latency.unit", "ms"),
    ("costs.0.figures.latency.reason", "both"),
    ("costs.0.speedup.value", 0.0),
    ("costs.0.speedup.low", 9.0),
    ("costs.0.speedup.low", None),
    ("costs.0.kind", "guessed"),
    ("costs.0.key", "elsewhere@ab"),
    ("costs.0.executed.conv1", ["int8"]),
    ("costs.0.samples.candidate", [[1.0], ["x"]]),
    ("costs.0.telemetry.steal", "much"),
    ("costs", "none"),
    ("trial", -1),
    ("trial", 1.0),
    ("trial", True),
    ("seed", 2**63),
    ("parameters", 10**400),
    ("epochs", 10**400),
    ("workload", ""),
    ("workload", "two\nlines"),
    ("workload", "\x1b[2J"),
    ("workload", "x" * 201),
    ("strategy", "\ud800"),
    ("role", "winner"),
    ("plan", [1]),
    ("plan.ratio", float("nan")),
    ("plan.ratio", 2**70),
    ("plan.ratio", object()),
    ("plan.mode", "\ud800"),
    ("created", "yesterday"),
    ("created", "2026-11-22T03:08:21+01:00"),
    ("training.seconds", -1.0),
    ("training.seconds", 1e300),  # sums of it would not be finite
    ("costs.0.speedup.value", 1e300),
    ("training.starts_from", "scratch"),
    ("training.epoch_bf16", -1.0),
    ("schema_version", 0),
    ("schema_version", 5),
]


def changed(path: str, value: Any) -> dict[str, Any]:
    data = copy.deepcopy(fields())
    *parents, last = path.split(".")
    at: Any = data
    for part in parents:
        at = at[int(part)] if isinstance(at, list) else at[part]
    at[last] = value
    return data


@pytest.mark.parametrize(("path", "value"), BAD, ids=lambda x: repr(x)[:40])
def test_an_impossible_value_is_refused_in_one_line(path: str, value: Any) -> None:
    with pytest.raises(LeaderboardError) as caught:
        Entry.create(**changed(path, value))
    message = str(caught.value)
    assert "\n" not in message and message.isprintable() and len(message) < 400
    assert path.split(".")[0] in message or "entry" in message


def test_the_message_names_the_field_and_what_was_given() -> None:
    with pytest.raises(
        LeaderboardError, match=r"accuracy\.validation\.top1 is 1\.01; it should be less than or equal to 1"
    ):
        Entry.create(**changed("accuracy.validation.top1", 1.01))
    with pytest.raises(LeaderboardError, match="host is not a field"):
        Entry.create(**fields(host="someone"))
    with pytest.raises(LeaderboardError) as caught:
        Entry.create(**fields(**{"x" * 5000: 1}))
    assert len(str(caught.value)) < 200
    with pytest.raises(LeaderboardError, match=r"costs\.0\.key is missing"):
        Entry.create(**fields(costs=[{name: value for name, value in cost().items() if name != "key"}]))


@pytest.mark.parametrize(
    "field", [name for name in json.loads(entry().to_json()) if name not in ("created", "schema_version")]
)
def test_a_changed_or_missing_field_is_refused(field: str) -> None:
    data = json.loads(entry().to_json())
    del data[field]
    assert reads(json.dumps(data)) is None
    data = json.loads(entry().to_json())
    value = data[field]
    data[field] = value + 1 if isinstance(value, int | float) else {} if isinstance(value, dict) else "0" * 16
    assert reads(json.dumps(data)) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"id": ' + "9" * 10_000 + "}",
        '{"seed": NaN}',
        '{"a": 1, "a": 1}',
        '{"a": "\ud800"}',
        '{"\\ud800": 1}',
        '{"schema_version": 5}',
        '{"schema_version": ' + "9" * 4000 + "}",
        "\x00",
        "\ufeff{}",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_hostile_text_is_refused(text: str) -> None:
    assert reads(text) is None


def test_large_files_are_refused_before_anything_is_made_of_them() -> None:
    intact = entry().to_json()
    many = intact.replace('"candidate": [[', '"candidate": [[' + "0.1, " * 100_000)
    assert many != intact
    with pytest.raises(LeaderboardError, match="more than 100000 values"):
        Entry.from_json(many)
    with pytest.raises(LeaderboardError, match="characters given"):
        Entry.from_json(intact + " " * 16_000_000)


def test_deep_plans_are_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(500):
        deep = {"in": deep}
    with pytest.raises(LeaderboardError, match="nested"):
        entry(plan=deep)
    text = entry().to_json().replace('"plan": {', '"plan": {"deep": ' + "[" * 500 + "]" * 500 + ", ")
    assert reads(text) is None


def test_a_repeated_field_is_refused_even_inside() -> None:
    text = entry().to_json().replace('"ratio": 0.5', '"ratio": 0.5, "ratio": 0.5', 1)
    with pytest.raises(LeaderboardError, match="'ratio' is given twice"):
        Entry.from_json(text)


@given(st.text())
def test_any_text(text: str) -> None:
    reads(text)


@given(st.recursive(json_values, lambda inner: st.dictionaries(st.sampled_from(list(fields())), inner)))
def test_any_json(value: Any) -> None:
    reads(json.dumps(value))


INTACT = entry().to_json()
FRAGMENTS = [
    '"',
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "NaN",
    "-1",
    "1e999",
    "null",
    "true",
    "\\ud800",
    "\ud800",
    "\x00",
    "9" * 500,
    "\u202e",
]


@settings(max_examples=400)
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(INTACT) - 1), st.integers(0, 12), st.sampled_from(FRAGMENTS) | st.text(max_size=4)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_mutated_files(edits: list[tuple[int, int, str]]) -> None:
    text = INTACT
    for at, removed, inserted in edits:
        text = text[:at] + inserted + text[at + removed :]
    read = reads(text)
    if read is not None:
        assert read.id == entry().id


PATHS = [path for path, _ in BAD]


@settings(max_examples=300)
@given(st.sampled_from(PATHS), json_values | st.integers() | st.floats())
def test_mutated_values(path: str, value: Any) -> None:
    data = changed(path, value)
    try:
        made = Entry.create(**data)
    except LeaderboardError as error:
        assert "\n" not in str(error)
    else:
        assert Entry.from_json(made.to_json()) == made
