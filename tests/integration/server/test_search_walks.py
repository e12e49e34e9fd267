"""Whatever is done to the catalogue between searches, in whatever order: searches agree with it at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.v1 import catalog_service_pb2 as catalog_pb
from headwater.v1 import item_pb2
from headwater.v1 import recommendation_service_pb2 as pb

if TYPE_CHECKING:
    from headwater.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub
    from headwater.v1.recommendation_service_pb2_grpc import RecommendationServiceAsyncStub

POOL = [f"walk-{number}" for number in range(6)]
WORDS = [
    "murder",
    "rose",
    "robot",
    "Zanzibar",
    "Zanzibars",
    "Amélie",
    "amelie's",
    "осада",
    "千尋",
    "the",
    "OR",
    '"NEAR"',
    "1999",
]


class Step(NamedTuple):
    """One change of the catalogue, or a search."""

    what: str
    item_id: str
    title: str


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(["upsert", "upsert", "rename", "delete", "hide", "show", "search"]),
        st.sampled_from(POOL),
        st.one_of(
            st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join),
            st.text(min_size=1, max_size=40).filter(lambda text: "\x00" not in text and text.strip()),
        ),
    ),
    min_size=1,
    max_size=25,
)


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)
@given(steps=STEPS)
async def test_searches_follow_the_catalogue(
    catalog: CatalogServiceAsyncStub, recommendations: RecommendationServiceAsyncStub, steps: Sequence[Step]
) -> None:
    """What is hidden or deleted is in no answer; what is there is found by its exact title, before all others."""
    await catalog.DeleteItems(catalog_pb.DeleteItemsRequest(item_ids=POOL))
    titles: dict[str, str] = {}
    hidden: set[str] = set()
    for what, item_id, title in steps:
        if what == "upsert" or (what == "rename" and item_id in titles):
            mask = {"paths": ["title"]} if what == "rename" else None
            item = item_pb2.Item(item_id=item_id, title=title, available=True)
            written = catalog_pb.UpsertItemsRequest(items=[item], update_mask=mask)  # type: ignore[arg-type]
            assert not (await catalog.UpsertItems(written)).errors
            titles[item_id] = title
            hidden -= {item_id} if what == "upsert" else set()
        elif what == "delete":
            await catalog.DeleteItems(catalog_pb.DeleteItemsRequest(item_ids=[item_id]))
            titles.pop(item_id, None)
            hidden.discard(item_id)
        elif what in {"hide", "show"} and item_id in titles:
            request = catalog_pb.SetAvailabilityRequest(item_ids=[item_id], available=what == "show")
            await catalog.SetAvailability(request)
            hidden = hidden | {item_id} if what == "hide" else hidden - {item_id}
        for query in {title, *titles.values()}:
            answer = await recommendations.SearchItems(pb.SearchItemsRequest(query=query, page_size=100))
            found = [result.item_id for result in answer.results]
            assert len(found) == len(set(found))
            assert not {each for each in found if each in POOL} - (titles.keys() - hidden), steps
            exact = {each for each, theirs in titles.items() if theirs == query and each not in hidden}
            if any(char.isalnum() for char in query):
                assert exact <= set(found[: len(POOL)]), (query, steps)
                assert all(result.score > 1.0 for result in answer.results if result.item_id in exact)
