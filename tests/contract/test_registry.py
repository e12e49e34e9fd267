"""Generations, labels and leases: what two processes must never both win."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from headwater_core.database import Database
from headwater_core.errors import ConflictError, InvalidFieldError, LeaseLostError, NotFoundError
from headwater_core.registry import GenerationRecord, GenerationRegistry, Lease
from headwater_core.schema import label_history

NOW_US = 1_700_000_000_000_000
SECOND_US = 1_000_000


@pytest.fixture
def registry(database: Database) -> GenerationRegistry:
    return GenerationRegistry(database)


def generation(number: int, **changes: float) -> GenerationRecord:
    return GenerationRecord(number, number - 1, True, NOW_US, 10 * number, 5, 1_000, 64, 2**40, {"hr": 0.25, **changes})


def leased(registry: GenerationRegistry, holder: str, now_us: int = NOW_US) -> Lease:
    lease = registry.acquire_lease("updater", holder, 10.0, now_us)
    assert lease is not None
    return lease


class TestGenerations:
    def test_numbers_grow_and_are_given_once(self, database_url: str, registry: GenerationRegistry) -> None:
        """Processes that allocate at once get different numbers."""
        databases = [Database(database_url) for _ in range(3)]
        with ThreadPoolExecutor(3) as pool:
            given = pool.map(lambda own: [GenerationRegistry(own).allocate() for _ in range(5)], databases)
        assert sorted(number for numbers in given for number in numbers) == list(range(1, 16))
        for own in databases:
            own.close()

    def test_the_last_number_given_is_known(self, database: Database, registry: GenerationRegistry) -> None:
        """Whether it was recorded or not: a generation under way counts."""
        assert registry.last_allocated() == 0
        registry.allocate()
        assert registry.allocate() == registry.last_allocated() == 2
        assert GenerationRegistry(database, "other").last_allocated() == 0

    def test_a_record_comes_back_whole(self, registry: GenerationRegistry) -> None:
        """Every field is kept; recording the same again changes nothing, anything else is refused."""
        registry.record(generation(1))
        registry.record(generation(1))
        assert registry.get(1) == generation(1)
        assert registry.get(2) is None
        with pytest.raises(ConflictError):
            registry.record(generation(1, hr=0.5))

    def test_a_metric_that_is_no_number_is_refused(self, registry: GenerationRegistry) -> None:
        """NaN would not survive on every database."""
        with pytest.raises(InvalidFieldError):
            registry.record(generation(1, hr=float("nan")))

    def test_listed_newest_first(self, registry: GenerationRegistry) -> None:
        """Gaps do not matter; pages go on below the last number."""
        for number in (1, 2, 5, 9):
            registry.record(generation(number))
        assert [each.number for each in registry.list(None, 3)] == [9, 5, 2]
        assert [each.number for each in registry.list(2, 3)] == [1]

    def test_a_labelled_generation_is_not_deleted(self, registry: GenerationRegistry) -> None:
        """Retention that would take one fails whole; unknown numbers are passed over."""
        for number in (1, 2, 3):
            registry.record(generation(number))
        registry.set_label("stable", 2)
        with pytest.raises(ConflictError):
            registry.delete([1, 2])
        assert registry.get(1) is not None
        lost = leased(registry, "asleep")
        leased(registry, "successor", NOW_US + 11 * SECOND_US)
        with pytest.raises(LeaseLostError):
            registry.delete([1, 3], lost)
        assert registry.get(1) is not None
        assert registry.delete([1, 3, 77]) == 2
        assert [each.number for each in registry.list(None, 10)] == [2]


class TestLabels:
    def test_a_label_names_one_generation(self, registry: GenerationRegistry) -> None:
        """Setting gives what it named before; 0 when it is new."""
        registry.record(generation(1))
        registry.record(generation(2))
        assert registry.set_label("stable", 1) == 0
        assert registry.set_label("stable", 2) == 1
        assert registry.set_label("canary", 1) == 0
        assert registry.labels() == {"stable": 2, "canary": 1}

    def test_a_flip_is_conditional(self, registry: GenerationRegistry) -> None:
        """It happens only if the label still names what the caller saw; 0 stands for no label."""
        for number in (1, 2, 3):
            registry.record(generation(number))
        with pytest.raises(ConflictError):
            registry.set_label("stable", 1, expected=3)
        assert registry.labels() == {}
        assert registry.set_label("stable", 1, expected=0) == 0
        with pytest.raises(ConflictError):
            registry.set_label("stable", 2, expected=0)
        assert registry.set_label("stable", 2, expected=1) == 1
        assert registry.labels() == {"stable": 2}

    @pytest.mark.parametrize("before", [0, 1])
    def test_of_two_flips_at_once_one_wins(self, database_url: str, registry: GenerationRegistry, before: int) -> None:
        """Two updaters that both saw the same label do not both move it, a new one neither."""
        for number in range(1, 6):
            registry.record(generation(number))
        if before:
            registry.set_label("stable", before)
        databases = [Database(database_url) for _ in range(4)]

        def flip(number: int) -> bool:
            try:
                GenerationRegistry(databases[number - 2]).set_label("stable", number, expected=before)
            except ConflictError:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            won = [number for number, ok in zip(range(2, 6), pool.map(flip, range(2, 6)), strict=True) if ok]
        assert len(won) == 1
        assert registry.labels() == {"stable": won[0]}
        for own in databases:
            own.close()

    def test_only_recorded_generations_can_be_named(self, registry: GenerationRegistry) -> None:
        """A number without a record is refused and leaves no label behind."""
        with pytest.raises(NotFoundError):
            registry.set_label("stable", 1)
        assert registry.labels() == {}

    def test_rolling_back_goes_down_the_history(self, registry: GenerationRegistry) -> None:
        """Each rollback goes to the newest earlier generation that the label named and that is still there."""
        for number in (1, 2, 3, 4, 5):
            registry.record(generation(number))
        for number in (1, 3, 4, 5):
            registry.set_label("stable", number)
        registry.set_label("canary", 2)
        registry.delete([4])
        assert registry.rollback("stable") == (3, 5)
        assert registry.rollback("stable") == (1, 3)
        with pytest.raises(NotFoundError):
            registry.rollback("stable")
        assert registry.labels()["stable"] == 1

    def test_the_history_of_forgotten_generations_goes(self, database: Database, registry: GenerationRegistry) -> None:
        """A chunk at a time; what can be gone back to stays, and each label's last step."""
        for number in range(1, 8):
            registry.record(generation(number))
            registry.set_label("stable", number)
        registry.set_label("canary", 6)
        registry.drop_label("canary", expected=6)
        registry.delete([1, 2, 3, 6])
        assert registry.named() == {4, 5, 7}
        assert [registry.prune_history(3), registry.prune_history(3), registry.prune_history(3)] == [3, 1, 0]
        with database.read() as connection:
            left = connection.execute(select(label_history.c.label, label_history.c.step).order_by(*label_history.c))
            assert left.all() == [("canary", 1), ("stable", 4), ("stable", 5), ("stable", 7)]
        assert registry.earlier("stable", 9) == [5, 4]
        assert registry.rollback("stable") == (5, 7)

    def test_generations_that_were_named_are_told_from_others(self, registry: GenerationRegistry) -> None:
        """By any label at any time, less what was taken back and what is recorded no more."""
        for number in range(1, 7):
            registry.record(generation(number))
        for number in (1, 2, 3, 5):
            registry.set_label("stable", number)
        registry.set_label("canary", 6)
        registry.take_back("stable", 3, expected=5)
        registry.delete([1])
        assert registry.named() == {2, 3, 6}

    def test_what_was_taken_back_is_not_gone_back_to(self, registry: GenerationRegistry) -> None:
        """As if the label had never named it; under the lease and from where the caller thinks it is, or not at all."""
        for number in (1, 2, 3, 4, 5):
            registry.record(generation(number))
        for number in (1, 2, 4):
            registry.set_label("stable", number)
        lease = leased(registry, "one")
        with pytest.raises(ConflictError):
            registry.take_back("stable", 2, expected=3, lease=lease)
        with pytest.raises(LeaseLostError):
            registry.take_back("stable", 2, expected=4, lease=lease._replace(epoch=9))
        with pytest.raises(NotFoundError):
            registry.take_back("stable", 9, expected=4, lease=lease)
        assert registry.earlier("stable", 10) == [2, 1]
        registry.take_back("stable", 2, expected=4, lease=lease)
        registry.set_label("stable", 5)
        assert registry.earlier("stable", 10) == [2, 1]
        assert registry.earlier("stable", 1) == [2]
        assert registry.rollback("stable") == (2, 5)
        assert registry.earlier("canary", 10) == []

    def test_a_label_can_be_dropped(self, registry: GenerationRegistry) -> None:
        """By who knows what it names and holds the lease; dropping what is not there changes nothing."""
        registry.record(generation(1))
        registry.set_label("canary", 1)
        lease = leased(registry, "one")
        with pytest.raises(ConflictError):
            registry.drop_label("canary", expected=2, lease=lease)
        with pytest.raises(LeaseLostError):
            registry.drop_label("canary", expected=1, lease=lease._replace(epoch=9))
        assert registry.labels() == {"canary": 1}
        registry.drop_label("canary", expected=1, lease=lease)
        registry.drop_label("canary", expected=1)
        assert registry.labels() == {}

    def test_an_unknown_label_has_nothing_to_go_back_to(self, registry: GenerationRegistry) -> None:
        """Rolling it back makes no label."""
        with pytest.raises(NotFoundError):
            registry.rollback("stable")
        assert registry.labels() == {}


class TestLeases:
    def test_one_holder_at_a_time(self, registry: GenerationRegistry) -> None:
        """Nobody else gets a lease before it runs out; every acquisition raises the epoch."""
        first = leased(registry, "one")
        assert first == Lease("updater", "one", 1)
        assert registry.acquire_lease("updater", "two", 10.0, NOW_US + 10 * SECOND_US - 1) is None
        assert registry.acquire_lease("other", "two", 10.0, NOW_US) == Lease("other", "two", 1)
        assert leased(registry, "two", NOW_US + 10 * SECOND_US).epoch == 2

    def test_its_holder_gets_it_anew_at_once(self, registry: GenerationRegistry) -> None:
        """A process that could not release its lease need not wait for it; for all else that lease is lost."""
        registry.record(generation(1))
        orphan = leased(registry, "one")
        registry.set_label("stable", 1, lease=orphan)
        again = leased(registry, "one", NOW_US + SECOND_US)
        assert again == orphan._replace(epoch=2)
        with pytest.raises(LeaseLostError):
            registry.renew(orphan, 10.0, NOW_US + SECOND_US)
        with pytest.raises(LeaseLostError):
            registry.set_label("stable", 1, lease=orphan)
        with pytest.raises(LeaseLostError):
            registry.take_back("stable", 1, expected=1, lease=orphan)
        with pytest.raises(LeaseLostError):
            registry.drop_label("stable", expected=1, lease=orphan)
        registry.release(orphan)
        assert registry.acquire_lease("updater", "two", 10.0, NOW_US + 11 * SECOND_US - 1) is None
        registry.renew(again, 10.0, NOW_US + SECOND_US)

    def test_renewing_keeps_it(self, registry: GenerationRegistry) -> None:
        """A renewed lease runs from the renewal on; one that was taken cannot be renewed."""
        first = leased(registry, "one")
        registry.renew(first, 10.0, NOW_US + 9 * SECOND_US)
        assert registry.acquire_lease("updater", "two", 10.0, NOW_US + 18 * SECOND_US) is None
        leased(registry, "two", NOW_US + 19 * SECOND_US)
        with pytest.raises(LeaseLostError):
            registry.renew(first, 10.0, NOW_US + 19 * SECOND_US)

    def test_releasing_frees_it_at_once(self, registry: GenerationRegistry) -> None:
        """A late release by a former holder does not free its successor's."""
        first = leased(registry, "one")
        registry.release(first)
        second = leased(registry, "two")
        registry.release(first)
        assert registry.acquire_lease("updater", "three", 10.0, NOW_US) is None
        registry.renew(second, 10.0, NOW_US)

    def test_an_old_lease_cannot_set_a_label(self, registry: GenerationRegistry) -> None:
        """A process that woke up after its lease was taken publishes nothing, the same holder's old lease neither."""
        registry.record(generation(1))
        registry.record(generation(2))
        first = leased(registry, "one")
        assert registry.set_label("stable", 1, lease=first) == 0
        second = leased(registry, "one", NOW_US + 10 * SECOND_US)
        with pytest.raises(LeaseLostError):
            registry.set_label("stable", 2, expected=1, lease=first)
        assert registry.labels() == {"stable": 1}
        assert registry.set_label("stable", 2, expected=1, lease=second) == 1

    def test_of_many_that_ask_at_once_one_gets_it(self, database_url: str, registry: GenerationRegistry) -> None:
        """Several updaters start together."""
        databases = [Database(database_url) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            asked = pool.map(
                lambda own: GenerationRegistry(own).acquire_lease("updater", str(id(own)), 10.0, NOW_US), databases
            )
            got = [lease for lease in asked if lease is not None]
        assert [lease.epoch for lease in got] == [1]
        for own in databases:
            own.close()


class TestHeldGenerations:
    def test_live_servers_hold_what_they_said_last(self, registry: GenerationRegistry) -> None:
        """A heartbeat replaces the one before and counts until it runs out."""
        registry.heartbeat("one", [1, 2], 10.0, NOW_US)
        registry.heartbeat("two", [2, 3], 20.0, NOW_US)
        assert registry.held_generations(NOW_US) == {1, 2, 3}
        registry.heartbeat("one", [4], 10.0, NOW_US)
        assert registry.held_generations(NOW_US) == {2, 3, 4}
        assert registry.held_generations(NOW_US + 10 * SECOND_US) == {2, 3}
        registry.heartbeat("one", [], 10.0, NOW_US + 30 * SECOND_US)
        assert registry.held_generations(NOW_US + 30 * SECOND_US) == set()


def test_tenants_are_kept_apart(database: Database, registry: GenerationRegistry) -> None:
    """Numbers, labels, leases and heartbeats of one tenant are nobody else's."""
    registry.record(generation(registry.allocate()))
    registry.set_label("stable", 1)
    leased(registry, "one")
    registry.heartbeat("one", [1], 10.0, NOW_US)
    other = GenerationRegistry(database, "other")
    assert other.allocate() == 1
    assert other.labels() == {}
    assert other.get(1) is None
    assert leased(other, "two").epoch == 1
    assert other.held_generations(NOW_US) == set()
