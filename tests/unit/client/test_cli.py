"""Every command of `headwater`, against the fake server."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from headwater_client import Client, event, item
from headwater_client.cli import app
from headwater_client.testing import FakeServer

ROOT = Path(__file__).parents[3]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server, Client(server.address) as client:
        client.upsert_items(
            [
                item("heat", title="Heat [1995]", categories=["Crime"]),
                item("ronin", title="Ronin", categories=["Crime"]),
            ]
        )
        client.write(event("like", user_id="ada", item_id="heat"))
        yield server


@pytest.fixture
def run(server: FakeServer) -> Callable[..., Any]:
    def run(*arguments: str, **options: Any) -> Any:
        return CliRunner().invoke(app, [*arguments, "--address", server.address], env={"COLUMNS": "200"}, **options)

    return run


@pytest.fixture
def run_json(run: Callable[..., Any]) -> Callable[..., Any]:
    def run_json(*arguments: str) -> Any:
        result = run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run_json


def test_recommend(run: Callable[..., Any], run_json: Callable[..., Any], server: FakeServer) -> None:
    """`recommend` shows a table with titles, as they are; JSON has every field."""
    result = run("recommend", "bob", "--explain")
    assert result.exit_code == 0 and "Heat [1995]" in result.stdout and "popular now" in result.stdout
    answer = run_json("recommend", "ada", "-n", "3", "--category", "Crime")
    assert [one["item_id"] for one in answer["items"]] == ["ronin"]
    assert answer["items"][0]["item"]["title"] == "Ronin" and answer["generation"] == 1
    assert run_json("recommend", "ada", "--include-seen", "--exclude", "ronin")["items"][0]["item_id"] == "heat"


def test_recommend_in_a_language(run: Callable[..., Any], run_json: Callable[..., Any], server: FakeServer) -> None:
    """`--locale` is sent along; explanations are in the JSON, each beside its sentence."""
    answer = run_json("recommend", "bob", "--explain", "--locale", "de-CH")
    assert server.calls_of("Recommend")[-1].locale == "de-CH"
    assert [one["source"] for one in answer["items"][0]["explanations"]] == ["popular"]
    assert answer["items"][0]["explanations"][0]["kind"] == "EXPLANATION_KIND_SOURCE"
    refused = run("recommend", "bob", "--locale", "de_CH")
    assert refused.exit_code == 1 and "locale" in refused.stderr


def test_profile(run: Callable[..., Any], run_json: Callable[..., Any], server: FakeServer) -> None:
    """`profile` shows what a user turns to and away from, and what that rests on; one of user and visitor is needed."""
    with Client(server.address) as client:
        client.upsert_items([item("up", title="Up", categories=["Family"], attributes={"studio": "Pixar"})])
        client.write(event("hide", user_id="ada", item_id="up"))
    shown = run("profile", "ada").stdout
    for line in ("turns to +Crime +1.0000 +1 .* heat", "turns away from +studio: Pixar +1.0000 +1 .* up"):
        assert re.search(line, shown), line
    assert "events: 1 hide, 1 like" in shown and "week: 2, 30 days: 2" in shown
    found = run_json("profile", "ada")
    assert found["interests"][0]["strongest_item_ids"] == ["heat"] and found["activity"]["events_last_week"] == 2
    assert run("profile", "nobody").stdout.strip() == "no events"
    assert run("profile").exit_code == run("profile", "ada", "--visitor", "cookie").exit_code == 2


def test_similar(run: Callable[..., Any], run_json: Callable[..., Any]) -> None:
    """`similar` lists neighbours; an unknown item is one line on stderr and exit code 1."""
    assert [one["item_id"] for one in run_json("similar", "heat")["items"]] == ["ronin"]
    result = run("similar", "none")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: NOT_FOUND: item_id: 'none' is not known\n"


def test_search(run: Callable[..., Any], run_json: Callable[..., Any], server: FakeServer) -> None:
    """`search` lists what has the words; a query of none is exit code 1."""
    assert [one["item_id"] for one in run_json("search", "ronin", "--user", "ada")["items"]] == ["ronin"]
    assert server.calls_of("SearchItems")[0].user_id == "ada"
    assert "Ronin" in run("search", "ronin").stdout
    assert run("search", " ").exit_code == 1


def test_strategies(run: Callable[..., Any], run_json: Callable[..., Any], tmp_path: Path) -> None:
    """What `show` gives `put` reads; files that cannot be read are wrong usage, refusals exit code 1."""
    path = tmp_path / "home.json"
    path.write_text('{"sources": [{"name": "tower", "weight": 2}, {"name": "popular"}], "diversity": 0.5}')
    assert run_json("strategies", "put", "home", str(path)) == {"name": "home", "version": 1}
    assert run("strategies", "put", "home", str(path), "--expected", "1").stdout == "home: version 2\n"
    shown = run("strategies", "show", "home").stdout
    assert json.loads(shown)["sources"] == [{"name": "tower", "weight": 2.0}, {"name": "popular"}]
    assert "tower x2, popular" in run("strategies", "list").stdout
    assert [one["version"] for one in run_json("strategies", "versions", "home")["versions"]] == ["2", "1"]
    side_by_side = run("strategies", "preview", str(path), "--user", "ada", "--current", "home").stdout
    assert "home/2" in side_by_side and "Ronin" in side_by_side
    assert run("recommend", "ada", "--strategy", "home").stdout.endswith("strategy home/2\n")
    assert run("strategies", "delete", "home").stdout == "home: deleted, version 3\n"
    assert "deleted" in run("strategies", "versions", "home").stdout
    assert run("strategies", "show", "home").exit_code == 1
    for content, said in (("{", "home.json"), ("[]", "must hold a JSON object"), ('{"magic": 1}', "magic")):
        path.write_text(content)
        result = run("strategies", "put", "home", str(path))
        assert result.exit_code == 2 and said in result.stderr
    assert run("strategies", "put", "home", str(tmp_path / "none.json")).exit_code == 2


def test_experiments(run: Callable[..., Any], run_json: Callable[..., Any], tmp_path: Path) -> None:
    """`experiments` starts, lists, shows and ends them; `outcomes` adds up what came of what was shown."""
    path = tmp_path / "home.json"
    arms = [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5, "strategy": "calm"}]
    path.write_text(json.dumps({"arms": arms, "rewards": {"click": 1.0}, "surfaces": ["home"]}))
    assert run("experiments", "put", "home", str(path)).stdout == "home: version 1\n"
    assert "a (default), b (calm)" in run("experiments", "list").stdout
    assert run_json("experiments", "list")["experiments"][0]["name"] == "home"
    assert "leads: nobody yet" in run("experiments", "show", "home").stdout
    assert run_json("experiments", "show", "home")["arms"][1]["share"] == 0.5
    assert run("experiments", "delete", "home").stdout == "home: ended, version 2\n"
    assert run("experiments", "show", "home").exit_code == 1
    token = run_json("recommend", "ada")["attribution_token"]
    run("write", "click", "--user", "ada", "--item", "ronin", "--attribution-token", token)
    assert "popular" in run("outcomes", "--by", "source", "--hours", "1").stdout
    assert run_json("outcomes")["rows"][0]["events"] == {"click": 1}


def test_write(run: Callable[..., Any], run_json: Callable[..., Any], server: FakeServer) -> None:
    """`write` writes one event and gives its token; a refused event is exit code 1."""
    arguments = ("write", "rating", "--user", "ada", "--item", "ronin", "--value", "4", "--event-id", "e1")
    written = run_json(*arguments, "--time", "2020-01-01")
    assert written == {"event_id": "e1", "duplicate": False, "consistency_token": "fake-2"}
    assert server.events[-1].event_time.ToJsonString() == "2020-01-01T00:00:00Z"
    assert run_json("recommend", "ada", "--min-consistency-token", "fake-2")["items"] == []
    assert "was there already: e1" in run(*arguments, "--time", "2020-01-01").stdout
    refused = run("write", "teleport", "--user", "ada", "--item", "ronin")
    assert refused.exit_code == 1 and "'teleport' is not registered" in refused.stderr
    assert run("write", "like", "--user", "ada", "--item", "ronin", "--time", "noon").exit_code == 2


def test_import_events(
    run: Callable[..., Any], run_json: Callable[..., Any], server: FakeServer, tmp_path: Path
) -> None:
    """An import is backfill, and run again it writes nothing twice."""
    path = tmp_path / "events.csv.gz"
    path.write_bytes(
        gzip.compress(b"user_id,item_id,timestamp,event_type,value\n1,2,828124615,stars,4\n1,2,828124615,stars,4\n")
    )
    report = run_json("import-events", str(path))
    assert (report["written"], report["duplicates"], report["bad_rows"]) == (2, 0, 0)
    assert "0 written, 2 there already" in run("import-events", str(path)).stdout
    assert all(request.backfill for request in server.calls_of("WriteEvents")[1:])
    assert len(server.events) == 3


def test_import_events_tells_bad_rows(run: Callable[..., Any], server: FakeServer, tmp_path: Path) -> None:
    """Bad rows are told with line and reason, the server's refusals too; too many of them are exit code 1."""
    path = tmp_path / "events.csv"
    path.write_text("user_id,item_id,timestamp,event_type\n1,2,never,click\n,2,1,click\n1,2,1,click\n")
    result = run("import-events", str(path))
    assert result.exit_code == 1 and len(server.events) == 1
    assert "events.csv:2: timestamp: 'never' is neither" in result.stderr and "--max-bad-rows" in result.stderr
    result = run("import-events", str(path), "--max-bad-rows", "2")
    assert result.exit_code == 0 and len(server.events) == 2
    assert "events.csv:3: user_id: one of user_id and visitor_id" in result.stderr


def test_import_items(
    run: Callable[..., Any], run_json: Callable[..., Any], server: FakeServer, tmp_path: Path
) -> None:
    """Items are imported with deferred features; a file without an item_id column is exit code 2."""
    path = tmp_path / "items.csv"
    path.write_text("item_id,title,categories,brand\n7,Up,Animation|Family,Pixar\n")
    assert run_json("import-items", str(path))["written"] == 1
    assert list(server.items["7"].categories) == ["Animation", "Family"]
    assert server.items["7"].attributes["brand"] == "Pixar"
    assert server.calls_of("UpsertItems")[-1].defer_features
    path.write_text("id\n7\n")
    result = run("import-items", str(path))
    assert result.exit_code == 2 and "lacks the column item_id" in result.stderr
    assert run("import-items", str(tmp_path / "none.csv")).exit_code == 2


def test_generations_rollback_and_labels(
    run: Callable[..., Any], run_json: Callable[..., Any], server: FakeServer
) -> None:
    """Generations are listed newest first; `rollback` and `set-label` move labels."""
    server.publish()
    listed = run_json("generations")["generations"]
    assert [(one["number"], one["state"]) for one in listed] == [
        (2, "GENERATION_STATE_SERVING"),
        (1, "GENERATION_STATE_PUBLISHED"),
    ]
    assert "stable" in run("generations", "-n", "1").stdout
    assert run_json("rollback") == {"label": "stable", "generation": 1, "previous": 2}
    assert "stable: 1 -> 2" in run("set-label", "stable", "2", "--expected", "1").stdout
    assert run_json("set-label", "canary", "1")["previous"] == 0
    assert run("set-label", "stable", "1", "--expected", "1").exit_code == 1
    assert "stable: 2 -> 1" in run("rollback", "stable").stdout


def test_delete_user(run: Callable[..., Any], run_json: Callable[..., Any], server: FakeServer) -> None:
    """`delete-user` asks first; refused it erases nothing."""
    assert run("delete-user", "ada", input="n\n").exit_code == 1
    assert len(server.events) == 1
    assert "1 events" in run("delete-user", "ada", input="y\n").stdout
    assert run_json("delete-user", "--visitor", "cookie", "--yes")["events_deleted"] == 0
    assert run("delete-user", "--yes").exit_code == 2
    assert server.events == []


def test_health(run: Callable[..., Any], run_json: Callable[..., Any], server: FakeServer) -> None:
    """`health` is exit code 0 only when the server is SERVING."""
    assert run("health").stdout == "SERVING\n"
    assert run_json("health", "headwater.v1.EventService")["status"] == "SERVING"
    assert run_json("health", "--live")["service"] == "liveness"
    assert run("health", "headwater.v1.EventService", "--live").exit_code == 2
    server.serving = False
    result = run("health")
    assert (result.exit_code, result.stdout) == (1, "NOT_SERVING\n")


def test_new_token() -> None:
    """On stdout the line for the server's file, without the token; on stderr the token; another each time."""
    tokens = set()
    for _ in range(2):
        made = CliRunner().invoke(app, ["new-token", "shop", "--scope", "write", "--scope", "read"])
        assert made.exit_code == 0
        token = made.stderr.strip().rsplit(" ", 1)[1]
        digest = hashlib.sha256(token.encode()).hexdigest()
        assert json.loads(made.stdout) == {"name": "shop", "scopes": ["read", "write"], "sha256": digest}
        assert len(token) >= 43 and token not in made.stdout
        tokens.add(token)
    assert len(tokens) == 2
    for arguments in (["shop"], ["a b", "--scope", "read"], ["shop", "--scope", "all"]):
        assert CliRunner().invoke(app, ["new-token", *arguments]).exit_code == 2


def test_an_unreachable_server_is_one_line_and_exit_code_3() -> None:
    """Nobody at the address: one line, no traceback."""
    result = CliRunner().invoke(app, ["health", "--address", "127.0.0.1:1"])
    assert result.exit_code == 3
    assert result.stderr.startswith("error: 127.0.0.1:1 does not answer") and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("health", "--address", "nowhere"),
        ("health", "--tls-ca", "/none.pem"),
        ("recommend", "--label", "a", "--generation", "1"),
        ("recommend", "--page-size", "0"),
        ("health", "--timeout", "0"),
        ("explode",),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    """What the command line itself gets wrong is exit code 2."""
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_options_reach_the_server(run: Callable[..., Any], server: FakeServer) -> None:
    """--token and --tenant travel as metadata; a failing call is exit code 1."""
    assert run("rollback", "--token", "secret", "--tenant", "acme").exit_code == 1
    assert server.calls[-1].metadata["authorization"] == "Bearer secret"
    assert server.calls[-1].metadata["headwater-tenant"] == "acme"
    server.fail_next(grpc.StatusCode.PERMISSION_DENIED, "not\nyou")
    result = run("generations")
    assert (result.exit_code, result.stderr) == (1, "error: PERMISSION_DENIED: not you\n")


def test_the_quickstart_runs_as_written(server: FakeServer) -> None:
    """examples/quickstart.py needs nothing but a server, and shows that a like changes the next answer."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "quickstart.py"],
        env={**os.environ, "HEADWATER_ADDRESS": server.address},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1. Heat [1995]\n2. Ronin\n\nafter liking ronin:\n1. Heat [1995]\n"
