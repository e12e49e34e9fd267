"""Messages of any type, made from its descriptor: some could be meant, some nobody would send, most are between."""

from __future__ import annotations

import math
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

from headwater_core.attribution import attribution_token
from headwater_core.events import BUILT_IN_EVENT_TYPES
from headwater_core.experiments import FIXED, INTERLEAVED, THOMPSON
from headwater_core.outcome_report import GROUPS
from headwater_core.sealing import seal
from headwater_core.strategies import SOURCES
from headwater_server.convert import ITEM_FIELDS
from headwater_server.tokens import ConsistencyToken, ListToken, PageToken

TENANT = "default"
_TOPICS = ["space", "love", "crime"]
_ITEMS = [f"{topic}-{number:02}" for topic in _TOPICS for number in (0, 1, 2, 19)]
_USERS = ["ada", "bob", "user-1"]
_NAMES = ["default", "one", "other", "mix", *SOURCES]
_EVENTS = ["e-1", "e-2", "e-3"]
_KEYS = ["category", "attributes.shelf", "shelf"]
_VALUES = ["old", "new", *_TOPICS]
_TYPES = ["click", "view", "search", "rating", "purchase", "dislike", *sorted(BUILT_IN_EVENT_TYPES)]
_HUGE = 1 << 70

TOKENS = [
    ConsistencyToken(TENANT, 1 << 40).seal(),  # the log does not have it yet
    ConsistencyToken(TENANT, (1 << 63) - 1).seal(),
    ConsistencyToken(TENANT, 1).seal(),
    ConsistencyToken(TENANT, 1 << 63).seal(),
    ConsistencyToken("other", 1).seal(),
    PageToken(TENANT, 1, "default", ("space-00", "love-01")).seal(),
    PageToken(TENANT, _HUGE, "default", ()).seal(),
    PageToken(TENANT, -1, "x\x00" * 100, ("", "\x00", "x" * 100_000)).seal(),
    ListToken("love-10").seal(),
    ListToken("7").seal(),
    ListToken("\x00").seal(),
    ListToken("9" * 18).seal(),
    attribution_token(TENANT, "0" * 32),
    attribution_token(TENANT, "\x00"),
    seal("c", [TENANT, _HUGE]),
    seal("p", [TENANT, 1, "default", [None, 1]]),
    seal("p", [TENANT, True, "default", []]),
    seal("l", ["\ud800".encode("utf-8", "surrogatepass").decode("latin-1")]),
]
"""Those that the server gives out, and some that it never would, with the right checksum."""

_MEANT: dict[str, list[str]] = {
    **dict.fromkeys(("item_id", "item_ids", "context_item_ids", "exclude_item_ids"), _ITEMS),
    **dict.fromkeys(("user_id", "visitor_id", "session_id"), _USERS),
    **dict.fromkeys(("event_id", "event_ids"), _EVENTS),
    **dict.fromkeys(("event_type", "event_types"), _TYPES),
    **dict.fromkeys(("page_token", "min_consistency_token", "attribution_token"), TOKENS),
    **dict.fromkeys(("category", "categories", "without_categories"), _TOPICS),
    **dict.fromkeys(("name", "strategy", "experiment"), _NAMES),
    "key": _KEYS,
    "value": _VALUES,
    "label": ["stable", "canary"],
    "query": ["space ship", "lov", "crime night detective"],
    "locale": ["en", "de", "en-GB"],
    "ranking": ["blend", "ranks", "learned"],
    "allocation": [FIXED, THOMPSON, INTERLEAVED],
    "paths": sorted(ITEM_FIELDS),
    "group_by": list(GROUPS),
    "surface": ["home", ""],
    "surfaces": ["home"],
}
_ODD_TEXTS = [
    "",
    " ",
    "\x00",
    "a\x00b",
    "é" * 129,
    "x" * 1025,
    "x" * 10_000,
    "😀" * 200,
    "\u202e\u0301\ufeff\uffff",
    "\x1b[2J\r\n\t\x7f",
    "'); DROP TABLE events;--",
    "%s%n{0}{}",
    "../../etc/passwd",
    "NaN",
    '"*" NEAR(a b) OR NOT AND',
    "- ^ : ( ) *",
]
_ODD_NUMBERS = [0.0, -0.0, -1.0, math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 3.4e38]
_MANY = 1100
"""Over the limit of most lists."""
_LARGEST = 10_000
"""So many bytes may the messages of one list have, before they are repeated."""

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor) -> Message:
    """A message of that type."""
    oddness = draw(st.sampled_from([0, 0, 1, 3]))  # of ten values so many are odd
    return _message(draw, descriptor, oddness, 0)


def _message(draw: st.DrawFn, descriptor: Descriptor, oddness: int, depth: int) -> Message:
    message = message_factory.GetMessageClass(descriptor)()
    if descriptor.full_name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
        _fill_time(draw, message, oddness)
        return message
    for field in descriptor.fields:
        if draw(st.integers(0, 9)) < (6 if depth < 2 else 4):
            _fill(draw, message, field, oddness, depth)
    return message


def _fill(draw: st.DrawFn, message: Message, field: FieldDescriptor, oddness: int, depth: int) -> None:
    if not field.is_repeated:
        if field.message_type is not None:
            getattr(message, field.name).CopyFrom(_message(draw, field.message_type, oddness, depth + 1))
        else:
            setattr(message, field.name, _scalar(draw, field, oddness))
        return
    count = draw(st.integers(1, 3))
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _fill_map(draw, getattr(message, field.name), field.message_type, oddness, depth, count)
        return
    values: list[Any]
    if field.message_type is not None:
        values = [_message(draw, field.message_type, oddness, depth + 1) for _ in range(count)]
        values = values if sum(value.ByteSize() for value in values) < _LARGEST else values[:1]
    else:
        values = [_scalar(draw, field, oddness) for _ in range(count)]
    # Else there would be many of many of many, and of the longest.
    is_small = depth == 0 or (depth == 1 and field.message_type is None)
    is_small = is_small and sum(len(value) for value in values if isinstance(value, str)) < 2000
    if oddness and is_small and draw(st.integers(0, 20)) == 0:
        values = (values * _MANY)[:_MANY]
    getattr(message, field.name).extend(values)


def _fill_map(draw: st.DrawFn, entries: Any, entry: Descriptor, oddness: int, depth: int, count: int) -> None:
    key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
    for _ in range(count):
        name = draw(st.sampled_from(["shelf", *_TYPES])) if draw(st.integers(0, 9)) >= oddness else _odd_text(draw)
        if value.message_type is not None:
            entries[name].CopyFrom(_message(draw, value.message_type, oddness, depth + 1))
        elif key.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            entries[name] = _scalar(draw, value, oddness)


def _scalar(draw: st.DrawFn, field: FieldDescriptor, oddness: int) -> Any:
    is_odd = draw(st.integers(0, 9)) < oddness
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return draw(st.binary(max_size=50))
        return _text(draw, field.name, is_odd)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return draw(st.booleans())
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        assert field.enum_type is not None
        known = [value.number for value in field.enum_type.values]
        return draw(st.sampled_from([99, -1] if is_odd else known))
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        is_short = kind == FieldDescriptor.CPPTYPE_FLOAT
        odd = st.sampled_from([x for x in _ODD_NUMBERS if not is_short or not 3.4e38 < abs(x) < math.inf])
        return draw(
            odd | st.floats(width=32 if is_short else 64) if is_odd else st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0])
        )
    low, high = _INTEGERS[kind]
    if is_odd:
        return draw(st.sampled_from([low, high, low + 1, max(low, -1)]) | st.integers(low, high))
    return draw(st.integers(0, 5))


def _text(draw: st.DrawFn, name: str, is_odd: bool) -> str:
    if not is_odd:
        return draw(st.sampled_from(_MEANT.get(name, ["text", *_VALUES])))
    if name.endswith("_token"):
        return damaged_token(draw)
    return _odd_text(draw)


def _odd_text(draw: st.DrawFn) -> str:
    return draw(st.sampled_from(_ODD_TEXTS) | st.text(st.characters(codec="utf-8"), max_size=20))


def damaged_token(draw: st.DrawFn) -> str:
    """A token with one character another, cut, or doubled."""
    token = draw(st.sampled_from(TOKENS))
    at = draw(st.integers(0, len(token) - 1))
    ways = [token[:at], token[:at] + draw(st.sampled_from("Aa0-_=é ")) + token[at + 1 :], token * 2, token[at:]]
    return draw(st.sampled_from(ways))


def _fill_time(draw: st.DrawFn, message: Any, oddness: int) -> None:
    if draw(st.integers(0, 9)) < oddness:
        message.seconds = draw(st.sampled_from([-(1 << 63), (1 << 63) - 1, -62_135_596_801, 253_402_300_800, -1]))
        message.nanos = draw(st.sampled_from([-(1 << 31), (1 << 31) - 1, -1, 1_000_000_000, 0]))
    else:
        message.seconds = draw(st.sampled_from([0, 820_000_000, 1_700_000_000, 253_402_300_799, -62_135_596_800]))
        message.nanos = draw(st.sampled_from([0, 999_999_999]))


BOMBS = [
    b"\x0b" * 10_000,  # groups in groups
    b"\x0a\xff\xff\xff\xff\x07",  # a string of 2 GiB, not there
    b"\xff" * 100,
    b"\x08" + b"\x80" * 100 + b"\x01",  # a number that does not end
    b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"",
]


@st.composite
def damaged(draw: st.DrawFn, descriptor: Descriptor) -> bytes:
    """A message of that type whose bytes were changed on the way, or bytes that never were one."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from(BOMBS) | st.binary(max_size=200))
    content = bytearray(draw(messages(descriptor)).SerializeToString())
    for _ in range(draw(st.integers(1, 3))):
        if not content:
            break
        at = draw(st.integers(0, len(content) - 1))
        what = draw(st.sampled_from(["flip", "cut", "double", "insert", "nest"]))
        if what == "flip":
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del content[at:]
        elif what == "double":
            content += content[at:]
        elif what == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:  # as a message of its own field, with the length that belongs to it
            number, length = draw(st.integers(1, 20)), len(content)
            size = bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])
            content[:0] = bytes([number << 3 & 0x7F | 2]) + size
    return bytes(content)


METADATA = st.lists(
    st.sampled_from(
        [
            ("headwater-tenant", TENANT),
            ("headwater-timing", "1"),
            ("headwater-timing", ""),
            ("headwater-timing", "x" * 1500),
            ("grpc-previous-rpc-attempts", "99999999999999999999"),
            ("traceparent", "00-zz-zz-zz"),
            ("headwater-request-id", "shop/1:2"),
            ("headwater-request-id", "%00%0a\\"),
            ("headwater-request-id", "x" * 1500),
            ("odd-bin", b"\x00\xff" * 100),
            ("grpc-trace-bin", b"\xff"),
            ("authorization", "Bearer x"),
        ]
    ),
    max_size=4,
)
"""What a caller may send beside a request that is read all the same."""

FOREIGN_TENANTS = ["other", "x" * 1500, "' OR 1=1", "DEFAULT", "default "]
"""Beside these none is read."""
