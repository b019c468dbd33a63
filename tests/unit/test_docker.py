"""The files in docker/ fit each other, the service and what the exporter says; Docker itself is not needed."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from aioprometheus.collectors import Registry
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from examples.students.settings import Settings
from imperfect_dollop import FunctionSource, Node, Repository, State
from imperfect_dollop.brokers import SCHEMES
from imperfect_dollop.metrics.prometheus import register, render

from .builders import Row

ROOT: Final = Path(__file__).parents[2]
DOCKER: Final = ROOT / "docker"
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
ONCE: Final = "table"
"""The service that ends when it has done its work."""
STUDENTS: Final = [name for name in SERVICES if name.startswith("students-")]
PROMETHEUS: Final[dict[str, Any]] = yaml.safe_load(
    (DOCKER / "prometheus/prometheus.yml").read_text()
)
RULES: Final[dict[str, Any]] = yaml.safe_load((DOCKER / "prometheus/rules.yml").read_text())
DASHBOARD: Final[dict[str, Any]] = json.loads(
    (DOCKER / "grafana/dashboards/dollop.json").read_text()
)
PROVISIONED: Final[dict[str, Any]] = yaml.safe_load(
    (DOCKER / "grafana/provisioning/datasources/prometheus.yaml").read_text()
)
FILES: Final = [path for path in DOCKER.rglob("*") if path.is_file() and path.name != ".env"]
PASSWORDS: Final = ["BROKER_PASSWORD", "MARIADB_PASSWORD", "GRAFANA_PASSWORD"]
SECRET: Final = re.compile(r"(?i)pass|secret|token|_key")
EVERY_SERVICE: Final = pytest.mark.parametrize("service", SERVICES)


def texts(value: Any) -> Iterator[str]:
    """Every string in it, names too."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for each in value:
            yield from texts(each)
    elif isinstance(value, str):
        yield value


# -- compose.yaml ----------------------------------------------------------------------------------


def test_compose_file_is_of_the_specification() -> None:
    check = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"),
            str(DOCKER / "compose.yaml"),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert check.returncode == 0, check.stdout + check.stderr


def test_there_are_five_instances_alike_but_for_name_port_and_who_builds() -> None:
    own = [
        {
            "build": SERVICES[name].get("build"),
            "node": SERVICES[name]["environment"]["STUDENTS_NODE"],
            "ports": SERVICES[name]["ports"],
        }
        for name in STUDENTS
    ]
    build = {"context": "..", "dockerfile": "docker/Dockerfile"}
    assert own == [
        {
            "build": build if number == 1 else None,
            "node": f"students-{number}",
            "ports": [f"127.0.0.1:800{number}:8000"],
        }
        for number in range(1, 6)
    ]
    assert SERVICES[ONCE]["environment"].items() <= SERVICES["students-1"]["environment"].items()
    common = [
        {
            **{
                key: value for key, value in SERVICES[name].items() if key not in ("build", "ports")
            },
            "environment": SERVICES[name]["environment"] | {"STUDENTS_NODE": "its own"},
        }
        for name in STUDENTS
    ]
    assert all(each == common[0] for each in common)


@EVERY_SERVICE
def test_images_are_pinned_to_a_version(service: str) -> None:
    image = SERVICES[service]["image"]
    if service in (*STUDENTS, ONCE):
        assert image == "dollop-students"
        assert SERVICES[service]["pull_policy"] == "never"
    else:
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+[\w.-]*", image)


@EVERY_SERVICE
def test_every_service_is_checked_restarted_and_bounded(service: str) -> None:
    check = SERVICES[service]["healthcheck"]
    if service == ONCE:
        assert check == {"disable": True}
        assert SERVICES[service]["restart"] == "no"
    else:
        assert check["test"][0] in ("CMD", "CMD-SHELL")
        assert len(check["test"]) > 1
        assert {"interval", "timeout", "retries"} <= set(check)
        assert SERVICES[service]["restart"] == "unless-stopped"
    assert SERVICES[service]["deploy"]["resources"]["limits"]["memory"]


@EVERY_SERVICE
def test_what_is_waited_for_is_there(service: str) -> None:
    for name, how in SERVICES[service].get("depends_on", {}).items():
        ends = name == ONCE
        assert how["condition"] == f"service_{'completed_successfully' if ends else 'healthy'}"
        assert ends or "test" in SERVICES[name]["healthcheck"]
        # What not every profile starts may be waited for, but not required.
        assert how.get("required", True) is ("profiles" not in SERVICES[name])


@EVERY_SERVICE
def test_ports_are_published_on_this_machine_only(service: str) -> None:
    for port in SERVICES[service].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)


def test_no_port_is_published_twice() -> None:
    ports = [port.split(":")[1] for each in SERVICES.values() for port in each.get("ports", [])]
    assert len(ports) == len(set(ports)) == 7


@EVERY_SERVICE
def test_what_is_mounted_exists(service: str) -> None:
    used = set()
    for volume in SERVICES[service].get("volumes", []):
        origin, target, *mode = volume.split(":")
        assert target.startswith("/")
        if origin.startswith("."):
            assert (DOCKER / origin).exists()
            assert mode == ["ro"]
        else:
            assert origin in COMPOSE["volumes"]
            used.add(origin)
    assert used <= {service}  # nobody has another's data


def test_every_volume_and_network_is_used() -> None:
    volumes = {text.split(":")[0] for each in SERVICES.values() for text in each.get("volumes", [])}
    assert set(COMPOSE["volumes"]) <= volumes
    networks = {name for each in SERVICES.values() for name in each["networks"]}
    assert set(COMPOSE["networks"]) == networks


def test_the_build_finds_its_files() -> None:
    build = SERVICES["students-1"]["build"]
    context = DOCKER / build["context"]
    assert context.resolve() == ROOT
    assert (context / build["dockerfile"]).is_file()
    assert (context / ".dockerignore").is_file()


# -- variables and passwords -----------------------------------------------------------------------


def variables(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_variables_are_in_the_example_and_none_is_there_for_nothing() -> None:
    references = [
        match
        for text in texts(COMPOSE)
        for match in re.findall(r"(?<!\$)\$\{(\w+)(:[-?][^}]*)?\}", text)
    ]
    example = variables(DOCKER / ".env.example")
    assert {name for name, _ in references} | {"COMPOSE_PROFILES"} == set(example)
    for name, otherwise in references:
        # A password that is missing stops Compose instead of becoming an empty one.
        assert otherwise.startswith(":?" if name in PASSWORDS else ":-"), name


def test_a_dollar_is_of_compose_or_doubled() -> None:
    for text in texts(COMPOSE):
        rest = re.sub(r"\$\$|\$\{\w+(:[-?][^}]*)?\}", "", text)
        assert "$" not in rest, text


def test_one_variable_chooses_the_broker() -> None:
    example = variables(DOCKER / ".env.example")
    assert (example["BROKER"], example["COMPOSE_PROFILES"]) == ("amqp", "${BROKER}")
    brokers = {name: each for name, each in SERVICES.items() if "profiles" in each}
    assert {name: each["profiles"] for name, each in brokers.items()} == {
        "rabbitmq": ["amqp"],
        "redis": ["redis"],
    }
    for each in brokers.values():
        # The profile is the scheme of the URL, and the host the same for both.
        assert each["profiles"][0] in SCHEMES
        assert each["networks"] == {"storage": {"aliases": ["broker"]}}
    url = SERVICES["students-1"]["environment"]["STUDENTS_BROKER"]
    assert re.fullmatch(r"\$\{BROKER:-amqp\}://students:\$\{BROKER_PASSWORD:\?.*\}@broker/", url)


def test_no_password_is_written_down() -> None:
    example = variables(DOCKER / ".env.example")
    assert [name for name in example if SECRET.search(name)] == PASSWORDS
    assert all(not example[name] for name in PASSWORDS)
    given = {
        name: value
        for each in SERVICES.values()
        for name, value in each.get("environment", {}).items()
        if SECRET.search(name) and name != "MARIADB_RANDOM_ROOT_PASSWORD"
    }
    assert len(given) == 4
    assert all(re.fullmatch(r"\$\{\w+_PASSWORD:\?[^}]*\}", value) for value in given.values())
    image = (DOCKER / "Dockerfile").read_text()
    assert not [line for line in image.splitlines() if SECRET.search(line) and line[0] != "#"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DOCKER)))
def test_no_url_holds_a_password(path: Path) -> None:
    for password in re.findall(r"://[^/\s:@]*:(\$\{[^}]*\}|[^@/\s]+)@", path.read_text()):
        assert password.startswith("${")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """What new-env makes, in a folder of its own."""
    for name in (".env.example", "new-env"):
        (tmp_path / name).write_bytes((DOCKER / name).read_bytes())
    subprocess.run(["sh", tmp_path / "new-env"], check=True, cwd="/")
    return tmp_path / ".env"


@pytest.mark.skipif(os.name != "posix", reason="a shell script, and a mode of files")
def test_new_env_makes_passwords(made: Path) -> None:
    values, example = variables(made), variables(DOCKER / ".env.example")
    assert list(values) == list(example)
    assert len({values[name] for name in PASSWORDS}) == len(PASSWORDS)
    for name, value in values.items():
        if name in PASSWORDS:
            assert re.fullmatch("[0-9a-f]{48}", value)
        else:
            assert value == example[name]
    assert made.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in made.parent.iterdir()) == [
        ".env",
        ".env.example",
        "new-env",
    ]


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_new_env_leaves_what_is_there(made: Path) -> None:
    before = made.read_bytes()
    again = subprocess.run(
        ["sh", made.parent / "new-env"], check=False, capture_output=True, text=True
    )
    assert again.returncode == 1
    assert "is left as it is" in again.stderr
    assert made.read_bytes() == before


def test_passwords_stay_out_of_the_repository_and_the_image() -> None:
    assert {".env", ".env.new"} <= set((ROOT / ".gitignore").read_text().splitlines())
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert next(line for line in ignored if not line.startswith("#")) == "*"
    assert not any(line.startswith("!") and "env" in line for line in ignored)


def interpolated(text: str, values: dict[str, str]) -> str:
    """As Compose does it, where a variable has a value."""
    return re.sub(r"\$\{(\w+)(:[-?][^}]*)?\}", lambda found: values[found[1]], text)


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
@pytest.mark.parametrize("name", STUDENTS)
def test_the_service_takes_what_it_is_told(name: str, scheme: str) -> None:
    values = dict.fromkeys(PASSWORDS, "secret") | {"BROKER": scheme}
    environment = {
        variable: interpolated(value, values)
        for variable, value in SERVICES[name]["environment"].items()
    }
    known = {f"STUDENTS_{field.name.upper()}" for field in dataclasses.fields(Settings)}
    assert set(environment) <= known
    settings = Settings.from_environment(environment)
    assert settings.broker == f"{scheme}://students:secret@broker/"
    driver, _, rest = settings.database.partition("://")
    assert (driver.partition("+")[2], rest) == ("asyncmy", "students:secret@mariadb/students")
    assert settings.node == name


def test_hosts_in_urls_are_services_of_the_same_network() -> None:
    mariadb = SERVICES["mariadb"]
    assert (mariadb["environment"]["MARIADB_USER"], mariadb["environment"]["MARIADB_DATABASE"]) == (
        "students",
        "students",
    )
    assert SERVICES["rabbitmq"]["environment"]["RABBITMQ_DEFAULT_USER"] == "students"
    assert "user students on >$$REDIS_PASSWORD" in SERVICES["redis"]["command"][-1]
    for name in ("mariadb", "rabbitmq", "redis"):
        assert "storage" in SERVICES[name]["networks"]
        assert all("storage" in SERVICES[student]["networks"] for student in STUDENTS)


# -- requirements ----------------------------------------------------------------------------------


def test_what_is_pinned_is_what_pyproject_asks_for() -> None:
    """Else it is time for `nox -s lock`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    session = (ROOT / "noxfile.py").read_text()
    found = re.search(r"^SAMPLE_EXTRAS = (\(.*\))$", session, flags=re.MULTILINE)
    assert found is not None
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["image"]]
    for extra in ast.literal_eval(found[1]):
        wanted += project["project"]["optional-dependencies"][extra]
    pinned = dict(
        re.findall(
            r"^([\w.-]+)==([^\s;]+)", (DOCKER / "requirements.txt").read_text(), re.MULTILINE
        )
    )
    for need in map(Requirement, wanted):
        assert need.specifier.contains(pinned[canonicalize_name(need.name)]), need


# -- Prometheus and Grafana ------------------------------------------------------------------------


def test_prometheus_scrapes_every_instance_where_it_listens() -> None:
    (job,) = PROMETHEUS["scrape_configs"]
    (targets,) = job["static_configs"]
    assert targets["targets"] == [f"{name}:8000" for name in STUDENTS]
    for name in STUDENTS:
        assert SERVICES[name]["ports"][0].endswith(":8000")
        assert set(SERVICES[name]["networks"]) & set(SERVICES["prometheus"]["networks"])
    assert all((DOCKER / "prometheus" / file).is_file() for file in PROMETHEUS["rule_files"])


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    (source,) = PROVISIONED["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert set(SERVICES["grafana"]["networks"]) & set(SERVICES["prometheus"]["networks"])
    provider = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/dollop.yaml").read_text())
    folder = provider["providers"][0]["options"]["path"]
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    assert mounts["./grafana/dashboards"] == folder
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder}/dollop.json"


def panels() -> Iterator[dict[str, Any]]:
    return (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def test_panels_are_told_apart_explained_and_beside_each_other() -> None:
    every = DASHBOARD["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in panels():
        assert panel["title"]
        assert panel["description"], panel["title"]
        assert panel["targets"], panel["title"]


def test_every_query_asks_the_provisioned_source() -> None:
    uid = PROVISIONED["datasources"][0]["uid"]
    asked = [panel["datasource"] for panel in panels()]
    asked += [target["datasource"] for panel in panels() for target in panel["targets"]]
    asked += [variable["datasource"] for variable in DASHBOARD["templating"]["list"]]
    assert all(source == {"type": "prometheus", "uid": uid} for source in asked)


async def no_rows() -> list[Row]:
    return []


async def shown() -> str:
    """What an open node shows."""
    source: FunctionSource[int, Row] = FunctionSource(load_all=no_rows)
    rows: Repository[int, Row] = Repository(Row, source=source, read_only=True)
    registry = Registry()
    node = Node("memory://", rows)
    register(node, registry)
    async with node:
        return render(registry).decode()


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    """The series that a node shows, and the labels of each."""
    text = asyncio.run(shown())
    series: dict[str, set[str]] = {
        name: set() for name in re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE)
    }
    for name, labels in re.findall(r"^(dollop_\w+)\{(.*)\} ", text, re.MULTILINE):
        series.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    # Without a rejected event there is no sample to read their labels from.
    series["dollop_events_rejected_total"] = {"namespace", "repository", "reason"}
    series["up"] = set()
    return {name: labels | {"instance", "job"} for name, labels in series.items()}


def asked() -> Iterable[tuple[str, str]]:
    """Every expression, with where it stands."""
    for panel in panels():
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        yield f"variable {variable['name']}", variable["definition"]
    for rule in RULES["groups"][0]["rules"]:
        yield rule["alert"], rule["expr"]


ASKED: Final = dict(asked())
WORDS: Final = re.compile(r"\b(?:dollop_\w+|up)\b")


@pytest.mark.parametrize("where", ASKED)
def test_what_is_asked_for_is_exposed(where: str, exposed: dict[str, set[str]]) -> None:
    expression = ASKED[where]
    metrics = WORDS.findall(expression)
    assert metrics
    assert set(metrics) <= set(exposed)
    labels = set.intersection(*(exposed[metric] for metric in metrics))
    for metric, selector in re.findall(r"\b(dollop_\w+|up)\{(.*?)\}", expression):
        assert set(re.findall(r"(\w+)\s*=~?", selector)) <= exposed[metric]
    for names in re.findall(r"\bby \((.*?)\)", expression):
        assert {name.strip() for name in names.split(",")} <= labels | {"le"}
    match = re.fullmatch(r"label_values\(.*, (\w+)\)", expression)
    assert match is None or match[1] in labels


def test_variables_of_the_dashboard_are_those_in_its_queries() -> None:
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = {name for where in ASKED for name in re.findall(r"\$(\w+)", ASKED[where])}
    assert used - {"__rate_interval"} == names


@pytest.mark.parametrize("where", ASKED)
def test_states_that_are_asked_for_exist(where: str) -> None:
    for choice in re.findall(r'state=~?"([\w|]+)"', ASKED[where]):
        assert set(choice.split("|")) <= {str(state) for state in State}


def test_the_dashboard_shows_every_metric(exposed: dict[str, set[str]]) -> None:
    shown = {name for where in ASKED for name in WORDS.findall(ASKED[where])}
    families = {name for name in exposed if not re.search(r"_(count|sum)$", name)}
    assert families - shown == {
        "dollop_node_state",  # the worst of its repositories' states, which are shown
        "dollop_propagation_seconds",  # by its buckets
    }


def test_legends_name_labels_that_are_there(exposed: dict[str, set[str]]) -> None:
    for panel in panels():
        for target in panel["targets"]:
            by = re.search(r"by \((.*?)\)", target["expr"])
            if by is None:
                there = set.union(*(exposed[name] for name in WORDS.findall(target["expr"])))
            else:
                there = {name.strip() for name in by[1].split(",")}
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= there
