"""What Prometheus itself makes of docker/prometheus, and of every query on Grafana's dashboard."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from .presence import absent

DOCKER: Final = Path(__file__).parents[2] / "docker"
RULES: Final = DOCKER / "prometheus/rules.yml"
DASHBOARD: Final = DOCKER / "grafana/dashboards/dollop.json"


def promtool(*arguments: str | Path) -> str:
    """What it says; fails with that if it is not content."""
    program = shutil.which("promtool") or absent("no promtool on this machine")
    run = subprocess.run(
        [program, *arguments], check=False, capture_output=True, text=True, timeout=30
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))  # which is YAML, too
    return path


def test_prometheus_takes_its_files() -> None:
    said = promtool("check", "config", DOCKER / "prometheus/prometheus.yml")
    assert "1 rule files found" in said
    assert "9 rules found" in said


def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    targets = [
        target
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel.get("targets", [])
    ]
    rules = [
        {"record": f"query:{number}", "expr": target["expr"].replace("$__rate_interval", "1m")}
        for number, target in enumerate(targets)
    ]
    assert len(rules) > 40
    file = written(tmp_path / "rules.yml", {"groups": [{"name": "dashboard", "rules": rules}]})
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


MEMORY: Final = 'namespace="students", repository="Student"'


def series(metric: str, values: str, instance: int = 1, labels: str = MEMORY) -> dict[str, str]:
    where = f'job="students", instance="students-{instance}:8000"'
    return {"series": f"{metric}{{{where}, {labels}}}", "values": values}


CASES: Final[dict[str, tuple[list[dict[str, str]], str, str]]] = {
    # What is measured each half minute, when it is looked at, and how many then alert
    "DollopInstanceDown": ([series("up", "1 0x9", labels='x="y"')], "2m", "1"),
    "DollopInstanceDown, but back": ([series("up", "1 0 1x9", labels='x="y"')], "30s", "0"),
    "DollopNotReady": (
        [
            series("dollop_repository_state", "1x9", labels=f'{MEMORY}, state="cold"'),
            series("dollop_repository_state", "0x9", labels=f'{MEMORY}, state="ready"'),
            series("dollop_repository_state", "0x9", labels=f'{MEMORY}, state="degraded"'),
        ],
        "2m",
        "1",
    ),
    "DollopNotReady, but not for long": (
        [series("dollop_repository_state", "1 0 1x9", labels=f'{MEMORY}, state="ready"')],
        "30s",
        "0",
    ),
    "DollopNotReady, but degraded": (
        [
            series("dollop_repository_state", "0x9", labels=f'{MEMORY}, state="ready"'),
            series("dollop_repository_state", "1x9", labels=f'{MEMORY}, state="degraded"'),
        ],
        "2m",
        "0",
    ),
    "DollopNoBroker": (
        [
            series("dollop_broker_up", "0x9", labels='namespace="students"'),
            series("dollop_broker_up", "1x9", 2, labels='namespace="students"'),
        ],
        "2m",
        "1",
    ),
    "DollopNoBroker, but not for long": (
        [series("dollop_broker_up", "1 0 1x9", labels='namespace="students"')],
        "30s",
        "0",
    ),
    "DollopStaleData": ([series("dollop_data_age_seconds", "290+30x9")], "3m", "1"),
    "DollopStaleData, but not for long": (
        [series("dollop_data_age_seconds", "290+30x9")],
        "1m",
        "0",
    ),
    "DollopStaleData, but refreshed": (
        [series("dollop_data_age_seconds", "90 120 2x9")],
        "3m",
        "0",
    ),
    "DollopStaleData, but none yet": (
        [series("dollop_data_age_seconds", "NaN NaN NaN NaN NaN NaN")],
        "3m",
        "0",
    ),
    "DollopCopiesApart": (
        [series("dollop_entities", "7x9"), series("dollop_entities", "8x9", 2)],
        "3m",
        "1",
    ),
    "DollopCopiesApart, but for a moment": (
        [series("dollop_entities", "8 7 8x9"), series("dollop_entities", "8x9", 2)],
        "30s",
        "0",
    ),
    "DollopCopiesDiffer": (
        [series("dollop_agreed", "1 0x19"), series("dollop_agreed", "1x19", 2)],
        "6m",
        "1",
    ),
    "DollopCopiesDiffer, but for a moment": ([series("dollop_agreed", "1 0 1x19")], "6m", "0"),
    "DollopCopiesDiffer, but that is not known": (
        [series("dollop_agreed", "NaN NaN NaN NaN NaN NaN NaN NaN NaN NaN NaN NaN NaN")],
        "6m",
        "0",
    ),
    "DollopMutatedInPlace": ([series("dollop_mutated_total", "0 0 1x9")], "3m", "1"),
    "DollopMutatedInPlace, but long ago": (
        [series("dollop_mutated_total", "0 0 1x99")],
        "45m",
        "0",
    ),
    "DollopStrangers": (
        [series("dollop_messages_rejected_total", "0 0 3x9", labels='reason="malformed"')],
        "3m",
        "1",
    ),
    "DollopStrangers, but long ago": (
        [series("dollop_messages_rejected_total", "0 0 3x60", labels='reason="malformed"')],
        "25m",
        "0",
    ),
    "DollopCrash": ([series("dollop_crashes_total", "0 0 1x9")], "3m", "1"),
    "DollopCrash, but none": ([series("dollop_crashes_total", "0x9")], "3m", "0"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_alert_is_raised_when_it_should_and_only_then(case: str, tmp_path: Path) -> None:
    measured, moment, count = CASES[case]
    alert = case.split(",", maxsplit=1)[0]
    asked = {
        "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)',
        "eval_time": moment,
        "exp_samples": [{"labels": "{}", "value": int(count)}],
    }
    test = {"interval": "30s", "input_series": measured, "promql_expr_test": [asked]}
    content = {"rule_files": [str(RULES)], "evaluation_interval": "30s", "tests": [test]}
    promtool("test", "rules", written(tmp_path / "test.yml", content))


def test_every_alert_has_a_case_each_way() -> None:
    alerts = {rule["alert"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]}
    for outcome in ("0", "1"):
        assert {c.split(",")[0] for c, (*_, count) in CASES.items() if count == outcome} == alerts
