"""What no gRPC library sends: bytes for text, headers and frames that make no sense. Others are answered as before."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.conftest import fuzzing
from tests.fuzz.served import Served
from tests.fuzz.test_calls import METHODS, PLAIN, USER, assert_small, install, slate
from tests.integration.raw_http2 import RawConnection

PATHS = st.one_of(
    st.sampled_from([f"/{each.containing_service.full_name}/{each.name}".encode() for each in METHODS.values()]),
    st.sampled_from([b"", b"/", b"//", b"*", b"/grpc.health.v1.Health/", b"/\xff", b"/a/b\0"]),
    st.binary(max_size=120),
)
NAMES = st.one_of(
    st.sampled_from(
        [
            b":authority",
            b":method",
            b":path",
            b":scheme",
            b"authorization",
            b"content-type",
            b"grpc-accept-encoding",
            b"grpc-encoding",
            b"grpc-timeout",
            b"grpc-trace-bin",
            b"headwater-request-id",
            b"headwater-tenant",
            b"te",
        ]
    ),
    st.from_regex(rb"[a-z0-9_.-]{1,20}(-bin)?", fullmatch=True),
    st.binary(min_size=1, max_size=20),
)
VALUES = st.one_of(
    st.sampled_from(
        [b"", b"gzip", b"deflate", b"1n", b"99999999H", b"-1S", b"Bearer ", b"\xff" * 40, b"application/json"]
    ),
    st.binary(max_size=60),
)
HEADERS = st.dictionaries(NAMES, VALUES, max_size=5)
CONTENTS = st.one_of(
    st.just(b"\0" + len(PLAIN.SerializeToString()).to_bytes(4) + PLAIN.SerializeToString()),
    st.binary(max_size=100),
    st.binary(max_size=40).map(lambda content: b"\1" + len(content).to_bytes(4) + content),
    st.just(b"\0\xff\xff\xff\xff"),
)
FRAMES = st.tuples(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=60), st.integers(0, 2**31 - 1))


@pytest.fixture(scope="module")
def served(
    make_installation: Callable[..., Any], publish: Callable[..., int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A server that nobody writes to."""
    served = install(make_installation, publish, tmp_path_factory.mktemp("frames"))
    yield served
    served.close()


def test_whatever_frames_come_others_are_answered(served: Served, tried: Counter[str]) -> None:
    """Calls, and frames of every kind, in turn on one connection; the process stays small."""
    before = slate(served)
    served.grown()

    @fuzzing(60)
    @given(st.lists(st.one_of(st.tuples(PATHS, CONTENTS, HEADERS), FRAMES), min_size=1, max_size=6))
    def send(sent: list[Any]) -> None:
        with contextlib.closing(RawConnection(served.server.port)) as connection:
            for each in sent:
                with contextlib.suppress(ConnectionError):  # it was sent away: so be it
                    if len(each) == 3:
                        connection.begin(*each)
                        tried["frames: calls"] += 1
                    else:
                        connection.send(*each)
                        tried["frames: of any kind"] += 1
            assert slate(served) == before

    send()
    states = served.server.rooms.states.subjects()
    assert {subject.id for subject in states} <= {USER}
    assert_small(served, tried, "frames")
