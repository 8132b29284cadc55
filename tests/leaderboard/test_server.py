"""The server: read-only, for this machine alone, and one line for whatever it cannot answer."""

from __future__ import annotations

import gzip
import json
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
import schemathesis
from board_samples import cost, entry, scored, training
from board_server import asked, serve_command, serving, told
from hypothesis import HealthCheck, given, settings
from page_samples import RANKED, finals, ranked_benchmark
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from leaderboard import LeaderboardError, Query, Reference, Row, Store, serve, stored_ranking

KEY = "cpu-onnxruntime@ab12cd34"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = str(tmp_path_factory.mktemp("board") / "board.db")
    method = {"summary": "cuts channels", "source": "somebody, 2026"}
    with Store(file) as store:
        store.add_many(
            [
                *(scored(trial, 0.98 - trial / 100, 1 + trial / 4) for trial in range(6)),
                scored(0, 0.97, 1.4, strategy="sentei", method=method, knobs={"keep": 3, "bits.conv1": 4}),
                scored(1, 0.97, 1.3, strategy="sentei", method=method, knobs={"keep": 5, "bits.conv2": 8, "way": "a"}),
                entry(strategy="counted", costs=[cost("counts", speedup=None)], training=training(seconds=1.0)),
            ]
        )
    return file


@pytest.fixture(scope="module")
def server(storage: str) -> Iterator[str]:
    with serving(storage) as url:
        yield url


def test_a_board_is_what_the_store_answers(server: str, storage: str) -> None:
    options = {"workload": "digits/cnn", "target": KEY, "max_drop": 3, "max_latency": "2ms", "sort": "-accuracy"}
    (track,) = told(f"{server}/api/board?{urlencode(options)}")["tracks"]
    with Store(storage) as store:
        query = Query(workload="digits/cnn", target=KEY, max_drop=3, max_latency=2e-3, sort="-accuracy")
        (expected,) = store.query(query).tracks
    assert track["matched"] == expected.matched == len(expected.rows)
    assert track["dense"]["accuracy"] == pytest.approx(0.98)
    of_track = {"workload", "target", "key", "kind"}
    assert set(track["rows"]) == set(Row._fields) - of_track
    for name, column in track["rows"].items():
        assert column == [getattr(row, name) for row in expected.rows]


def test_tracks_say_what_they_hold(server: str) -> None:
    tracks = {track["key"]: track for track in told(f"{server}/api/tracks")["tracks"]}
    assert list(tracks) == ["counts", KEY]
    assert (tracks["counts"]["timed"], tracks[KEY]["timed"]) == (False, True)
    assert all(track["searched"] and not track["finals"] and track["metric"] == "top-1" for track in tracks.values())


def test_an_entry_is_itself_without_its_samples(server: str, storage: str) -> None:
    with Store(storage) as store:
        wanted = next(iter(store.entries()))
    answer = told(f"{server}/api/entries/{wanted.id[:8]}")
    assert answer["id"] == wanted.id
    held = answer["entry"]
    assert all(cost["samples"] == {} for cost in held["costs"])
    for cost_, own in zip(held["costs"], wanted.costs, strict=True):
        cost_["samples"] = json.loads(json.dumps(own.samples))
    assert held == json.loads(json.dumps(wanted.model_dump()))


def test_strategies_say_what_they_are_and_what_was_tried(server: str) -> None:
    where = urlencode({"workload": "digits/cnn", "target": KEY})
    first, second = told(f"{server}/api/strategies?{where}")["strategies"]
    assert (first["name"], first["entries"], first["method"]) == ("pca_l1+int", 6, None)
    assert second["method"] == {"summary": "cuts channels", "source": "somebody, 2026"}
    tried = {setting["name"]: setting for setting in second["settings"]}
    assert (tried["keep"]["low"], tried["keep"]["high"]) == (3, 5)
    assert sorted(tried["bits.*"]["values"]) == ["4", "8"]
    assert tried["way"] == {"name": "way", "low": None, "high": None, "values": ["a"], "distinct": 1}
    assert told(f"{server}/api/strategies?{where}&strategy=sentei")["strategies"] == [second]
    assert told(f"{server}/api/strategies?{where}&strategy=none")["strategies"] == []


@pytest.mark.parametrize(
    ("path", "status", "named"),
    [
        ("/api/board?workload=none", 400, "none"),
        ("/api/board?sort=nonsense", 400, "nonsense"),
        ("/api/board?where=import+os", 400, "where"),
        ("/api/board?max_latency=fast", 400, "fast"),
        ("/api/board?max_drop=nan", 400, "max-drop"),
        ("/api/board?limit=0", 422, "limit"),
        ("/api/board?limit=999999999", 422, "limit"),
        ("/api/board?weights=1", 422, "weights"),
        ("/api/board?front=%3Cscript%3E", 422, "front"),
        ("/api/entries/0000", 404, "0000"),
        ("/api/entries/" + quote("<b>\n", safe=""), 422, "id"),
        ("/api/entries/..%2F..%2Fetc", 404, "Not Found"),
        ("/api/strategies", 422, "workload"),
        ("/nothing", 404, "Not Found"),
        ("/docs", 404, "Not Found"),
    ],
)
def test_what_has_no_answer_gets_one_line(server: str, path: str, status: int, named: str) -> None:
    code, headers, body = asked(server + path)
    assert code == status
    assert headers["content-type"] == "application/json"
    (line,) = json.loads(body).values()
    assert named in line and "\n" not in line


@pytest.mark.parametrize("path", ["/", "/api/tracks", "/api/board?limit=0", "/nothing", "/api/openapi.json"])
def test_every_answer_keeps_other_sites_out(server: str, path: str) -> None:
    _, headers, _ = asked(server + path)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers and "server" not in headers


def test_a_page_may_not_be_framed_and_asks_its_own_server_only(server: str) -> None:
    policy = asked(server)[1]["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "connect-src 'self'" in policy


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_nothing_can_be_written(server: str, method: str) -> None:
    for path in ("/", "/api/board", "/api/entries/0000"):
        code, headers, _ = asked(server + path, method)
        assert (code, headers["allow"]) == (405, "GET, HEAD")


def test_head_says_what_get_would(server: str) -> None:
    for path in ("/", "/api/tracks", "/api/openapi.json"):
        code, headers, body = asked(server + path, "HEAD")
        _, got, content = asked(server + path)
        assert (code, body) == (200, b"")
        assert headers["content-length"] == got["content-length"] == str(len(content))


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::1"])
def test_a_foreign_name_for_this_machine_is_refused(server: str, host: str) -> None:
    assert asked(f"{server}/api/tracks", Host=host)[0] == 400
    assert asked(f"{server}/api/tracks", Host="localhost:1")[0] == 200


def test_what_is_unchanged_is_not_sent_again(server: str, storage: str) -> None:
    with Store(storage) as store:
        path = f"/api/entries/{next(iter(store.entries())).id}"
    for url in (f"{server}/", f"{server}/api/tracks", f"{server}/api/board", server + path):
        _, headers, _ = asked(url)
        code, again, body = asked(url, If_None_Match=headers["etag"])
        assert (code, body, again["etag"]) == (304, b"", headers["etag"])
        assert asked(url, If_None_Match='W/"other"')[0] == 200


def test_a_ranking_is_that_of_the_command(tmp_path: Path) -> None:
    file = str(tmp_path / "board.db")
    with Store(file) as store:
        store.add_many(finals(["a", "b", "c"]))
        with serving(file) as url:
            where = f"{url}/api/ranking?{urlencode({'workload': 'digits/cnn', 'target': RANKED})}"
            assert told(where) == {"ranking": None}
            store.freeze_benchmark(ranked_benchmark())
            ranking = told(where)["ranking"]
        expected = stored_ranking(store, ranked_benchmark())
    assert ranking["benchmark"] == "digits-cnn-fpga-z7020@1"
    assert [one["name"] for one in ranking["strategies"]] == [one.strategy for one in expected.strategies]
    for told_, one in zip(ranking["strategies"], expected.strategies, strict=True):
        assert one.hypervolume and told_["hypervolume"] == asdict(one.hypervolume)
        assert told_["at_gain"] == [asdict(at) for at in one.at_gain]
        assert (told_["rank"], told_["front_probability"]) == (one.rank, one.front_probability)


def test_an_answer_is_as_new_as_the_board(tmp_path: Path) -> None:
    file = str(tmp_path / "board.db")
    with Store(file) as store:
        store.add(scored(0, 0.9, 2.0))
        with serving(file) as url:
            for count in (1, 2, 3):
                (track,) = told(f"{url}/api/board")["tracks"]
                assert track["matched"] == count
                store.add(scored(count, 0.9, 2.0))
            store.freeze_reference("digits/cnn", KEY, Reference(latency=2e-3, dense_accuracy=0.98))
            assert told(f"{url}/api/board")["tracks"][0]["dense"]["latency"] == 2e-3


def test_answers_are_compressed_where_that_is_understood(server: str) -> None:
    _, headers, body = asked(f"{server}/api/board", Accept_Encoding="gzip")
    assert headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(body)) == told(f"{server}/api/board")


def test_only_this_machine_is_answered(server: str) -> None:
    port = int(server.rsplit(":", 1)[1])
    with socket.socket() as other:  # not the address that it listens at
        assert other.connect_ex(("127.0.0.2", port)) != 0


def test_a_port_that_is_taken_is_refused_in_one_line(server: str, storage: str) -> None:
    with Store(storage) as store, pytest.raises(LeaderboardError, match="port") as caught:
        serve(store, int(server.rsplit(":", 1)[1]))
    assert "\n" not in str(caught.value)


def test_without_its_extra_it_says_what_to_install(storage: str, tmp_path: Path) -> None:
    (tmp_path / "fastapi.py").write_text("raise ModuleNotFoundError('no fastapi', name='fastapi')")
    done = serve_command(storage, path=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "shrinkboard: serve needs fastapi; install it with: pip install 'shrinkboard[web]'\n"


def test_a_storage_that_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    done = serve_command(str(tmp_path / "none.db"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "none.db" in done.stderr


def test_no_question_breaks_the_server(server: str) -> None:
    """Schemathesis asks what its own description allows, and what it does not."""
    api = schemathesis.openapi.from_url(f"{server}/api/openapi.json")
    wanted = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
        checks.response_headers_conformance,
    ]
    operations = [operation.ok() for operation in api.get_all_operations()]
    assert {operation.path for operation in operations} == {
        *("/api/tracks", "/api/board", "/api/strategies", "/api/entries/{id}", "/api/ranking"),
    }
    answered: Counter[tuple[str, int]] = Counter()

    def ask(case: schemathesis.Case) -> None:
        answered[case.path, case.call_and_validate(checks=wanted).status_code] += 1

    bounded = settings(max_examples=60, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    for operation in operations:
        sound, unsound = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
        for mode in [sound, unsound] if list(operation.iter_parameters()) else [sound]:
            bounded(given(operation.as_strategy(mode))(ask))()
    # It reached both what can be answered and what cannot.
    assert all(answered["/api/board", code] for code in (200, 400, 422)), answered
