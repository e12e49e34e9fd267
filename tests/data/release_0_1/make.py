"""Makes what the upgrade test starts from, by the commands of the release that is installed: `make.py FOLDER`.

`installation.tar.xz` beside this script holds what release 0.1 wrote (SQLite database, artifact store), `answers.json`
what it answered. Run it again, with the next release's commands, only to add a folder for that one;
with `PYTHONPATH=benchmarks`.
"""

from __future__ import annotations

import json
import random
import sys
import tarfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from installations import installation_class

from headwater_client import Client, HealthStatus, event, item

HERE = Path(__file__).parent
TASTES = {"space": "A space ship among the stars", "love": "A love story in the summer"}
ITEMS_PER_TASTE, USERS, STEPS = 15, 20, 8
ENVIRONMENT = {
    "HEADWATER_PORT": "0",
    "HEADWATER_METRICS_PORT": "",
    "HEADWATER_UPDATER_METRICS_PORT": "",
    "HEADWATER_PUBLISH_INTERVAL_S": "0.2",
    "HEADWATER_POLL_INTERVAL_S": "0.05",
    "HEADWATER_BOOTSTRAP_EPOCHS": "2",
    "HEADWATER_DIMENSION": "8",
    "HEADWATER_N_LAYERS": "1",
    "HEADWATER_N_HEADS": "1",
    "HEADWATER_HISTORY_LENGTH": "10",
    "HEADWATER_KEEP_GENERATIONS": "2",
    "HEADWATER_GARBAGE_GRACE_S": "0",
}


def main(folder: Path) -> None:
    """Live through a short life of an installation, then pack it."""
    with installation_class()(folder, ENVIRONMENT) as installation:
        installation.start_server()
        with Client(installation.address) as client:
            _plant(client)
            installation.run("headwater-updater", "bootstrap")
            while client.health() is not HealthStatus.SERVING:
                time.sleep(0.1)
            installation.start_updater()
            _go_on(client)
            installation.stop_updater()
            answers = {
                f"user-{user}": client.recommend(user_id=f"user-{user}", page_size=20).item_ids for user in range(USERS)
            }
            stored = client.list_events(page_size=1000).events
            profile = client.recommend(user_id="user-1")
            told = {
                "answers": answers,
                "events": {each.event.event_id: each.log_position for each in stored},
                "generation": profile.generation,
                "watermark": profile.watermark,
            }
    (HERE / "answers.json").write_text(json.dumps(told, indent=1) + "\n")
    with tarfile.open(HERE / "installation.tar.xz", "w:xz") as archive:
        for name in ("headwater.db", "artifacts"):
            archive.add(folder / name, name, filter=_nobodys)


def _nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _plant(client: Client) -> None:
    chance = random.Random(1)
    client.upsert_items(
        item(f"{taste}-{number}", title=f"{text}, part {number}", categories=[taste])
        for taste, text in TASTES.items()
        for number in range(ITEMS_PER_TASTE)
    )
    client.set_availability(["love-14"], available=False)
    client.put_strategy("bold", {"sources": [{"name": "tower"}, {"name": "co_visit", "weight": 1.5}]})
    client.put_strategy("calm", {"ranking": "ranks", "sources": [{"name": "popular"}]})
    client.put_experiment(
        "spring",
        {
            "arms": [{"name": "bold", "strategy": "bold"}, {"name": "calm", "strategy": "calm"}],
            "allocation": "thompson",
            "surfaces": ["home"],
            "rewards": {"click": 1.0},
        },
    )
    began = datetime(2024, 1, 1, tzinfo=UTC)
    likes = [
        event(
            "like",
            user_id=f"user-{user}",
            item_id=f"{list(TASTES)[user % 2]}-{chance.randrange(ITEMS_PER_TASTE - 1)}",
            event_time=began + timedelta(minutes=10 * step, seconds=user),
        )
        for step in range(STEPS)
        for user in range(USERS)
    ]
    client.write(*likes, backfill=True).raise_for_refused()


def _go_on(client: Client) -> None:
    """Slates, what came of them, linked visitors, an erasure, rounds of the updater."""
    for user in range(USERS):
        shown = client.recommend(user_id=f"user-{user}", surface="home")
        client.write(
            event("click", user_id=f"user-{user}", item_id=shown.item_ids[0], attribution_token=shown.attribution_token)
        ).raise_for_refused()
    client.write(
        event("view", user_id="user-1", visitor_id="visitor-1", item_id="space-3"),
        event("view", visitor_id="visitor-2", item_id="space-4"),
        event("like", user_id="erased", item_id="space-5"),
    ).raise_for_refused()
    client.delete_user(user_id="erased")
    for user in range(6):
        client.write(event("like", user_id=f"user-{user}", item_id=f"{list(TASTES)[user % 2]}-{user}"))
        time.sleep(0.6)
    head = max(stored.log_position for stored in client.list_events(page_size=1000).events)
    while client.recommend(user_id="user-1").watermark < head:
        time.sleep(0.1)
    time.sleep(3.0)  # outcomes are counted every second


if __name__ == "__main__":
    main(Path(sys.argv[1]))
