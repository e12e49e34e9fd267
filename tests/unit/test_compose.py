"""The compose file, as far as it can be checked without a container engine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from headwater_core.errors import ConfigurationError
from headwater_server.exposure import check_exposure
from headwater_server.settings import ServerSettings
from headwater_updater.settings import UpdaterSettings

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
LOGICAL_LINES = re.sub(r"\\\n\s*", "", DOCKERFILE)
SERVERS = ("server-1", "server-2")
PROCESSES = (*SERVERS, "updater")

Service = dict[str, Any]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The compose file with its anchors and merges resolved."""
    document = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Service]:
    """The services by name."""
    found: dict[str, Service] = compose["services"]
    return found


def test_an_installation_is_postgresql_two_servers_and_the_updater(services: dict[str, Service]) -> None:
    """Nothing is missing and nothing else is started."""
    assert set(services) == {"postgres", *PROCESSES}
    assert services["postgres"]["image"].startswith("postgres:")


def test_start_order_does_not_matter(services: dict[str, Service]) -> None:
    """No service waits for another, and each is started again when it gives up."""
    for name, service in services.items():
        assert "depends_on" not in service, name
        assert service["restart"] == "unless-stopped", name


def test_every_service_has_a_health_check_that_ends(services: dict[str, Service]) -> None:
    """Each health check is a command (no shell) with a time limit shorter than its interval or equal to it."""
    for name, service in services.items():
        check = service["healthcheck"]
        assert check["test"][0] == "CMD", name
        assert 0 < _seconds(check["timeout"]) <= _seconds(check["interval"]), name


def test_no_log_grows_for_ever(services: dict[str, Service]) -> None:
    """Docker's own driver keeps all that a container says, unless it is limited."""
    for name, service in services.items():
        assert service["logging"]["driver"] == "json-file", name
        limits = service["logging"]["options"]
        assert re.fullmatch(r"\d+m", limits["max-size"]), name
        assert isinstance(limits["max-file"], str), name  # the engine takes no numbers here
        assert int(limits["max-file"]) > 1, name


def test_the_processes_meet_in_one_database_and_one_store(services: dict[str, Service]) -> None:
    """Servers and updater have the same database and the same artifacts, and the store lies on the shared volume."""
    environments = [services[name]["environment"] for name in PROCESSES]
    (_database,) = {environment["HEADWATER_DATABASE_URL"] for environment in environments}
    (store,) = {environment["HEADWATER_STORE_URL"] for environment in environments}
    (volume,) = {mount for name in PROCESSES for mount in services[name]["volumes"]}
    source, target = volume.split(":")
    assert source == "artifacts"
    assert store.startswith(f"{target}/")


@pytest.mark.parametrize("name", PROCESSES)
def test_every_variable_is_a_setting(services: dict[str, Service], name: str) -> None:
    """A process reads every HEADWATER_… variable that it is given, and accepts its value."""
    settings = UpdaterSettings if name == "updater" else ServerSettings
    given = {
        variable.removeprefix("HEADWATER_").lower(): value for variable, value in services[name]["environment"].items()
    }
    assert set(given) <= set(settings.model_fields)
    settings.model_validate(given)


def test_the_database_the_processes_ask_for_is_the_one_that_runs(services: dict[str, Service]) -> None:
    """User, password, host and name in the URL are those of the postgres service."""
    postgres = services["postgres"]["environment"]
    url = services["updater"]["environment"]["HEADWATER_DATABASE_URL"]
    user, password, name = (postgres[f"POSTGRES_{part}"] for part in ("USER", "PASSWORD", "DB"))
    assert url == f"postgresql://{user}:{password}@postgres:5432/{name}"


def test_every_mounted_volume_is_declared_and_every_declared_one_is_used(
    compose: dict[str, Any], services: dict[str, Service]
) -> None:
    """Data outlives its containers: named volumes only."""
    mounted = {mount.split(":")[0] for service in services.values() for mount in service["volumes"]}
    assert mounted == set(compose["volumes"])


def test_the_images_are_targets_of_the_dockerfile(services: dict[str, Service]) -> None:
    """Each process is built from the repository's root and a stage that exists."""
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE))
    for name in PROCESSES:
        build = services[name]["build"]
        assert (ROOT / "docker" / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).is_file()
        assert build["target"] in stages


def test_ports_are_published_to_this_machine_only_and_each_once(services: dict[str, Service]) -> None:
    """Servers let everybody in here, so nothing is published beyond the loopback address; all that is exposed is."""
    ports = [port for name in PROCESSES for port in services[name]["ports"]]
    hosts, published, inside = zip(*(port.split(":") for port in ports), strict=True)
    assert set(hosts) == {"127.0.0.1"}
    assert len(set(published)) == len(published)
    exposed = re.findall(r"^EXPOSE (.+)$", DOCKERFILE, re.MULTILINE)
    assert set(inside) == set(" ".join(exposed).split())


def test_the_image_alone_lets_nobody_in_and_the_compose_file_says_that_it_does(services: dict[str, Service]) -> None:
    """An image that is started without certificates and tokens refuses; the flag stands where the ports are seen."""
    assert "HEADWATER_HOST=0.0.0.0" in DOCKERFILE
    assert not re.search(r"^ENV.*HEADWATER_ALLOW_INSECURE", LOGICAL_LINES, re.MULTILINE)
    for name in SERVERS:
        given = ServerSettings.model_validate({"host": "0.0.0.0", "allow_insecure": _allows_all(services[name])})
        check_exposure(given)
        with pytest.raises(ConfigurationError):
            check_exposure(given.model_copy(update={"allow_insecure": False}))


def _allows_all(service: Service) -> str:
    return str(service["environment"]["HEADWATER_ALLOW_INSECURE"])


def test_the_health_checks_of_images_and_compose_agree(services: dict[str, Service]) -> None:
    """What a plain `docker run` checks is what the compose file checks."""
    in_images = [
        json.loads(check) for check in re.findall(r"^HEALTHCHECK .*?CMD (\[.*\])$", LOGICAL_LINES, re.MULTILINE)
    ]
    assert in_images == [services[name]["healthcheck"]["test"][1:] for name in ("server-1", "updater")]


def test_the_images_run_as_an_ordinary_user() -> None:
    """The stage that both images come from ends on a user other than root."""
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users == ["headwater"]


def _seconds(duration: str) -> int:
    assert duration.endswith("s"), duration
    return int(duration[:-1])
