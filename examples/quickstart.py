"""Write a like, and see the very next answer change. Needs a server at 127.0.0.1:8980, or at HEADWATER_ADDRESS."""

import os

from headwater_client import Client, Recommendations, event


def show(answer: Recommendations) -> None:
    """Print one line per item."""
    for one in answer:
        print(f"{one.rank}. {one.item.title if one.item else one.item_id}")


with Client(os.environ.get("HEADWATER_ADDRESS", "127.0.0.1:8980")) as client:
    before = client.recommend(user_id="newcomer", page_size=5, return_items=True)
    show(before)

    liked = before.item_ids[-1]
    like = event("like", user_id="newcomer", item_id=liked, attribution_token=before.attribution_token)
    token = client.write(like).raise_for_refused().consistency_token

    print(f"\nafter liking {liked}:")  # with the token, any server's answer has seen the like
    show(client.recommend(user_id="newcomer", page_size=5, return_items=True, min_consistency_token=token))
