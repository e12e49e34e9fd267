"""Processes tell each other at once that they wrote, and know when they cannot hear."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator

import psycopg
import pytest

from headwater_core import notifications as module
from headwater_core.database import Database
from headwater_core.notifications import Notifications, Topic

LISTENING = "SELECT pid FROM pg_stat_activity WHERE application_name = '{}' AND query LIKE '%%pg_notify%%'"


class Party:
    """One process's notifications, and what it heard."""

    def __init__(self, url: str, tenant: str = "default", sender: str | None = None, name: str = "a party") -> None:
        self.database = Database(url, application=name)
        self.notifications = Notifications(self.database, tenant, sender)
        self.heard: list[Topic] = []
        self.notifications.start(self.heard.extend)

    def close(self) -> None:
        self.notifications.close()
        self.database.close()


Join = Callable[..., Party]


@pytest.fixture
def join(postgresql_url: str) -> Iterator[Join]:
    """Makes parties that listen already."""
    parties: list[Party] = []

    def join(*arguments: str, **named: str) -> Party:
        parties.append(Party(postgresql_url, *arguments, **named))
        wait_for(lambda: parties[-1].notifications.is_listening and len(parties[-1].heard) >= len(Topic))
        parties[-1].heard.clear()  # what may have been missed before
        return parties[-1]

    yield join
    for party in parties:
        party.close()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_others_hear_it(join: Join) -> None:
    """Those of the same tenant; of writes not the speaker and who shares its name, of labels they, too."""
    speaker, listener = join(sender="one"), join()
    fellow, stranger = join(sender="one"), join("other")
    speaker.notifications.announce(Topic.WRITES)
    wait_for(lambda: listener.heard == [Topic.WRITES])
    speaker.notifications.announce(Topic.LABELS)  # who was to hear the writes has heard them before this
    for party, heard in ((speaker, [Topic.LABELS]), (fellow, [Topic.LABELS]), (listener, [Topic.WRITES, Topic.LABELS])):
        wait_for(lambda party=party, heard=heard: party.heard == heard)  # type: ignore[misc]
    join("other").notifications.announce(Topic.WRITES)
    wait_for(lambda: stranger.heard == [Topic.WRITES])


def test_much_is_told_at_once(join: Join, postgresql_url: str) -> None:
    """A thousand commits in a row are a few notifications."""
    speaker, listener = join(), join()
    spoken = 0
    with psycopg.connect(postgresql_url, autocommit=True) as third:
        third.execute("LISTEN headwater")
        begun_s = time.monotonic()
        for _ in range(1_000):
            speaker.notifications.announce(Topic.WRITES)
        took_s = time.monotonic() - begun_s
        wait_for(lambda: Topic.WRITES in listener.heard)
        speaker.notifications.announce(Topic.LABELS)
        for notification in third.notifies(timeout=60):
            spoken += 1
            if notification.payload.startswith(Topic.LABELS):
                break
    assert spoken <= took_s / module.APART_S + 3


def test_who_lost_the_connection_knows_it_and_listens_again(join: Join, postgresql: str) -> None:
    """It is told to look for itself at once; what was to be said meanwhile is said afterwards."""
    speaker, listener = join(name="the speaker"), join(name="the listener")
    for name, party in (("the listener", listener), ("the speaker", speaker)):
        before = party.notifications
        party.heard.clear()
        with psycopg.connect(postgresql, autocommit=True) as other:
            [[pid]] = other.execute(LISTENING.format(name)).fetchall()
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        speaker.notifications.announce(Topic.LABELS)
        wait_for(lambda party=party: set(party.heard) == set(Topic))  # type: ignore[misc]
        wait_for(lambda party=party: party.notifications.is_listening)  # type: ignore[misc]
        assert party.notifications is before
    wait_for(lambda: listener.heard[-1] is Topic.LABELS)
    listener.heard.clear()
    speaker.notifications.announce(Topic.WRITES)
    wait_for(lambda: Topic.WRITES in listener.heard)


def test_who_does_not_hear_even_itself_does_not_count_as_listening(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler that gives every statement another session: it tries anew, and goes on looking for itself."""
    monkeypatch.setattr(module, "_DEAF_AFTER_S", 0.05)
    monkeypatch.setattr(module, "_LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(Notifications, "_say", lambda *_: None)
    party = Party(postgresql_url)
    wait_for(lambda: len(party.heard) > 3 * len(Topic))
    assert not party.notifications.is_listening
    party.close()


def test_a_database_that_is_away_is_waited_for(postgresql_url: str) -> None:
    """Nothing is raised, and closing does not hang."""
    party = Party("postgresql://nobody@127.0.0.1:1/none?connect_timeout=2")
    party.notifications.announce(Topic.WRITES)
    wait_for(lambda: bool(party.heard))
    assert not party.notifications.is_listening
    party.close()
    party.notifications.announce(Topic.WRITES)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_on_sqlite_nobody_speaks(database_url: str) -> None:
    """Every process looks for itself, as often as its settings say."""
    heard: list[Collection[Topic]] = []
    notifications = Notifications(Database(database_url))
    notifications.start(heard.append)
    notifications.announce(Topic.WRITES)
    assert (notifications.is_listening, heard) == (False, [])
    notifications.close()
