"""Coverage-guided fuzzing of what reads bytes: requests, tokens, manifests, trends, labels, tensors, index files.

Not a test: it goes on until it is stopped. It needs `atheris`, which the project does not depend on:

    pip install atheris
    python -m tests.fuzz.atheris_readers corpus -max_total_time=300

`corpus` is a folder that keeps what was interesting; whatever else libFuzzer understands may follow.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

with atheris.instrument_imports(include=["headwater", "headwater_core", "headwater_server", "headwater_client"]):
    import numpy as np

    from headwater.v1 import event_service_pb2, recommendation_service_pb2, strategy_service_pb2
    from headwater_client._importing.rows import ImportFileError, RowFile
    from headwater_core.artifact_store import ArtifactStore
    from headwater_core.attribution import attributed_slate
    from headwater_core.co_visit_files import SuccessorLists
    from headwater_core.errors import ArtifactError, InvalidFieldError
    from headwater_core.events import BUILT_IN_EVENT_TYPES, check_event
    from headwater_core.indexes import IndexKind, build_index, read_index, search_index, write_index
    from headwater_core.manifest import Manifest
    from headwater_core.shards import Delta
    from headwater_core.towers import TowerConfig
    from headwater_core.trends import load_trend
    from headwater_server import convert, queries
    from headwater_server.errors import NotBuiltError
    from headwater_server.tokens import ConsistencyToken, ListToken, PageToken

_NOW_US = 1_700_000_000_000_000
_FOLDER = Path(tempfile.mkdtemp(prefix="headwater-fuzz-"))
_REFUSED = (ArtifactError, InvalidFieldError, NotBuiltError, ImportFileError)
_COUNT, _DIMENSION = 20, 4
_written = 0


def _file(content: bytes, name: str = "file") -> Path:
    """A new file each time: what is mapped must not change."""
    global _written  # noqa: PLW0603 - libFuzzer calls a function, not an object
    _written += 1
    path = _FOLDER / f"{_written}-{name}"
    path.write_bytes(content)
    return path


def _recommend(content: bytes) -> None:
    request = recommendation_service_pb2.RecommendRequest.FromString(content)
    queries.recommend_query(request, BUILT_IN_EVENT_TYPES, "default", _NOW_US, 0)


def _search(content: bytes) -> None:
    queries.search_query(recommendation_service_pb2.SearchItemsRequest.FromString(content), "default")


def _events(content: bytes) -> None:
    for message in event_service_pb2.WriteEventsRequest.FromString(content).events:
        event = convert.to_event(message)
        check_event(event, BUILT_IN_EVENT_TYPES, _NOW_US)
        event.content_hash()


def _strategy(content: bytes) -> None:
    strategy_service_pb2.PutStrategyRequest.FromString(content)


def _tokens(content: bytes) -> None:
    text = content.decode(errors="replace")
    for opened in (
        lambda: ConsistencyToken.open(text, "token", "default"),
        lambda: PageToken.open(text, "token", "default"),
        lambda: ListToken.open_number(text, "token"),
        lambda: attributed_slate(text, "default"),
    ):
        try:
            opened()
        except InvalidFieldError:
            continue


def _manifest(content: bytes) -> None:
    TowerConfig.from_dict(Manifest.from_json(content, "fuzzed").tower_config)


def _trend(content: bytes) -> None:
    load_trend(_file(content), {"a": 1}.get)


def _label(content: bytes) -> None:
    path = _FOLDER / "store/default/labels/stable.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    ArtifactStore(str(_FOLDER / "store")).read_label("stable")


def _delta(content: bytes) -> None:
    Delta.load(_file(content), _DIMENSION)


def _co_visits(content: bytes) -> None:
    SuccessorLists.load(_file(content))


def _index(content: bytes) -> None:
    index = read_index(_file(content), _COUNT, _DIMENSION)
    hits = search_index(index, np.ones((1, _DIMENSION), np.float32), 5)
    assert hits.rows.max() < _COUNT


def _import(content: bytes) -> None:
    for name in ("rows.csv", "rows.jsonl", "rows.csv.gz"):
        with RowFile(_file(content, name)) as rows:
            list(rows)


READERS: list[Callable[[bytes], None]] = [
    _recommend, _search, _events, _strategy, _tokens, _manifest, _trend, _label, _delta, _co_visits, _index, _import,
]  # fmt: skip


def read(content: bytes) -> None:
    """The first byte says what reads the rest. What is not refused by an error of ours, and fails, is a finding."""
    if not content:
        return
    reader = READERS[content[0] % len(READERS)]
    try:
        reader(content[1:])
    except _REFUSED:
        pass
    except Exception as error:
        if type(error).__name__ != "DecodeError":  # which the server answers with INVALID_ARGUMENT for all methods
            raise
    finally:
        for path in _FOLDER.glob("[0-9]*"):
            path.unlink()


def seeds(corpus: Path) -> None:
    """Whole files and messages to begin from."""
    corpus.mkdir(parents=True, exist_ok=True)
    vectors = np.random.default_rng(0).normal(size=(_COUNT, _DIMENSION)).astype(np.float32)
    names = [f"i{number}" for number in range(_COUNT)]
    request = recommendation_service_pb2.RecommendRequest(user_id="ada", page_size=5, context_item_ids=["a"])
    whole: dict[Callable[[bytes], None], list[bytes]] = {
        _recommend: [request.SerializeToString()],
        _tokens: [ConsistencyToken("default", 1).seal().encode(), PageToken("default", 1, "d", ("a",)).seal().encode()],
        _trend: [b'{"item_ids":["a","b"],"weights":[1.0,2.5]}'],
        _label: [b'{"label": "stable", "generation": 3}'],
        _delta: [Delta(tuple(names), vectors, frozenset({"gone"})).save(_FOLDER, "seed").read_bytes()],
        _import: [b"user_id,item_id,timestamp\nada,a,1700000000\n", b'{"user_id": "ada", "item_id": "a"}\n'],
        _index: [],
    }
    for kind in IndexKind:
        path = _FOLDER / f"seed-{kind}"
        write_index(build_index(vectors, kind), path)
        whole[_index].append(path.read_bytes())
    for reader, contents in whole.items():
        for number, content in enumerate(contents):
            (corpus / f"seed{reader.__name__}-{number}").write_bytes(bytes([READERS.index(reader)]) + content)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit("which folder keeps what is interesting?")
    seeds(Path(sys.argv[1]))
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()
