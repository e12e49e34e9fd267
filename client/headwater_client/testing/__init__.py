"""A fake Headwater server for your own tests; needs grpcio and protobuf only.

    from headwater_client import Client, event, item
    from headwater_client.testing import FakeServer

    def test_a_liked_film_is_not_recommended_again():
        with FakeServer() as server, Client(server.address) as client:
            client.upsert_items([item("1", title="Heat"), item("2", title="Ronin")])
            client.write(event("like", user_id="ada", item_id="1"))
            assert client.recommend(user_id="ada").item_ids == ["2"]

It keeps events and items in memory, recommends by decayed popularity without what the user has seen, records every
call, and fails the next calls, or holds its answers back, when told to. It checks requests less strictly than a real
server.
"""

from headwater_client.testing._server import FakeServer, RecordedCall

__all__ = ["FakeServer", "RecordedCall"]
