"""What the doctor concludes, from facts that stand here."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator_free import contract
from orchestrator_free.lag import Lag
from orchestrator_free.operations.checks import conclude, covers, numbers
from orchestrator_free.operations.facts import Facts


def stream(config: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"config": config, "state": {"bytes": 10, "consumer_count": 1}} | more


def consumer(config: dict[str, Any], *, pending: int = 0, **more: Any) -> dict[str, Any]:
    return {"name": config["durable_name"], "config": config, "num_pending": pending, "num_ack_pending": 0} | more


def healthy(*, isolated: bool = False, **changes: Any) -> Facts:
    """An installation in order, with one agent."""
    settings = contract.StreamSettings(isolated=isolated)
    streams = [
        contract.stream_config(0, settings), contract.timer_stream(settings), contract.object_stream(settings),
        contract.audit_stream(settings), contract.presence_stream(),
    ]  # fmt: skip
    permissions = contract.permissions("operator", "operator")
    facts = Facts(
        version="2.15.1", logs=1, account={"streams": 5, "consumers": 2, "limits": {"max_storage": -1}}, role="operator",
        member="operator", user={"permissions": permissions}, varz={"max_payload": 1 << 20},
        jsz={"config": {"sync_always": True, "max_storage": 1000}, "storage": 10},
        streams={config["name"]: stream(config) for config in streams},
        consumers={"SESSIONS_0": [consumer(contract.agent_consumer(0, "writer"))]}, replicas={"writer": 1},
        gateways=[("http://g", 200, {"durability": "fsync"})],
    )  # fmt: skip
    for name, value in changes.items():
        setattr(facts, name, value)
    return facts


def said(facts: Facts, name: str) -> tuple[str, str]:
    """Return the worst status of a check, and all that it says."""
    found = [check for check in conclude(facts) if check.name == name]
    worst = max(found, key=lambda check: ("ok", "warning", "problem").index(check.status))
    assert worst.status == "ok" or worst.advice or worst.says.startswith(("could not", "cannot"))
    return worst.status, "; ".join(check.says for check in found)


def test_a_second_log_is_a_problem() -> None:
    """One elsewhere beside ours, or one elsewhere and none here; who may not ask is told nothing."""
    assert said(healthy(logs=2), "log")[0] == "problem"
    elsewhere = healthy(streams={"SESSIONS_0": None})
    assert said(elsewhere, "log") == (
        "problem",
        "the JetStream that answers here has no log, one elsewhere hears what is said here",
    )
    assert not [check for check in conclude(healthy(logs=0)) if check.name == "log"]


def test_nothing_is_wrong_with_an_installation_in_order() -> None:
    """No warning, no problem, and every question is answered."""
    found = conclude(healthy())

    assert {check.status for check in found} == {"ok"}
    assert {check.name for check in found} == {
        "broker", "jetstream", "durability", "clock", "storage", "log", "streams", "wire", "permissions", "consumers", "agents",
        "lag", "asks", "dead letters", "gateway",
    }  # fmt: skip


def test_an_installation_for_isolated_agents_is_in_order_without_roll_ups() -> None:
    """Nobody is told to switch on what isolation forbids; a stream that still takes roll-ups there is a problem."""
    assert said(healthy(isolated=True), "streams")[0] == "ok"

    one_takes_them = healthy(isolated=True)
    one_takes_them.streams |= {"OBJ_orchestrator_free_objects": healthy().streams["OBJ_orchestrator_free_objects"]}
    status, words = said(one_takes_them, "streams")

    assert status == "problem"
    assert words == "OBJ_orchestrator_free_objects differs: allow_rollup_hdrs: wanted False, found True"


def with_stream(name: str, **changes: Any) -> dict[str, Any]:
    found = dict(healthy().streams)
    info = found[name]
    assert info is not None
    found[name] = info | {"config": info["config"] | changes}
    return found


@pytest.mark.parametrize(
    ("changes", "name", "status", "words"),
    [
        ({"version": "2.12.3"}, "broker", "problem", "older than 2.14.0"),
        ({"version": "2.14.9"}, "broker", "warning", "2.15.1 and later"),
        ({"errors": {"jetstream": "not enabled"}}, "jetstream", "problem", "not enabled"),
        ({"varz": {"max_payload": 1000}}, "settings", "problem", "1000 bytes"),
        ({"jsz": {"config": {"sync_always": False}}}, "durability", "warning", "power cut"),
        ({"jsz": None, "gateways": []}, "durability", "warning", "unknown"),
        ({"jsz": None, "gateways": [("http://g", 200, {"durability": "interval"})]}, "durability", "warning", "power cut"),
        ({"jsz": None}, "durability", "ok", "survives a power cut"),
        ({"clock_ahead": 5.0, "clock_error": 0.01}, "clock", "warning", "5.000 s behind"),
        ({"clock_ahead": -90.0}, "clock", "problem", "90.000 s ahead"),
        ({"clock_ahead": 3.0, "clock_error": 2.0}, "clock", "ok", "±2.000"),
        ({"jsz": {"config": {"sync_always": True, "max_storage": 100}, "storage": 85}}, "storage", "warning", "85%"),
        ({"jsz": {"config": {"sync_always": True, "max_storage": 100}, "storage": 99}}, "storage", "problem", "99%"),
        ({"streams": healthy().streams | {"SESSIONS_TIMERS": None}}, "streams", "problem", "missing: SESSIONS_TIMERS"),
        ({"streams": with_stream("SESSIONS_0", allow_direct=False)}, "streams", "problem", "allow_direct"),
        ({"streams": with_stream("SESSIONS_0", discard="old")}, "streams", "warning", "discard"),
        ({"streams": with_stream("SESSIONS_0", max_age=10**15, num_replicas=3)}, "streams", "ok", "as the contract"),
        (
            {"streams": with_stream("SESSIONS_0", metadata={"orchestrator_free.wire": "9"})},
            "wire", "problem", "wire version 9",
        ),
        ({"user": {"permissions": {}}}, "permissions", "warning", "may do everything"),
        ({"user": None, "errors": {"permissions": "denied"}}, "permissions", "warning", "denied"),
        (
            {"user": {"permissions": {"publish": {"allow": ["session.>"]}, "subscribe": {"allow": [">"]}}}},
            "permissions", "problem", "is refused",
        ),
        ({"replicas": {}}, "consumers", "warning", "nobody lives"),
        (
            {"consumers": {"SESSIONS_0": [consumer(contract.agent_consumer(0, "writer") | {"ack_policy": "none"})]}},
            "consumers", "problem", "ack_policy",
        ),
        (
            {"replicas": {}, "consumers": {"SESSIONS_0": [consumer(contract.agent_consumer(0, "writer"), pending=3)]}},
            "agents", "problem", "writer (3)",
        ),
        (
            {"consumers": {"SESSIONS_0": [consumer(contract.agent_consumer(0, "writer"), pending=3, paused=True)]}},
            "agents", "warning", "paused: writer (3 waiting)",
        ),
        ({"lags": [Lag("SESSIONS_0", "agent-w", "w", 1, 7, 2, 0, 0, 61.0)]}, "lag", "warning", "7 waiting"),
        ({"overdue": [("s1", "q1")]}, "asks", "problem", "s1/q1"),
        ({"old": [("s1", "q1")]}, "asks", "warning", "s1/q1"),
        ({"letters": {"run": 2, "control": 1}}, "dead letters", "warning", "1 control, 2 run"),
        ({"gateways": [("http://g", 503, {"status": "not ready", "broker": "disconnected"})]}, "gateway", "problem", "broker disconnected"),
        ({"gateways": [("http://g", 0, {"error": "refused"})]}, "gateway", "problem", "refused"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_what_to_do(changes: Any, name: str, status: str, words: str) -> None:
    """Each fault has its check, its weight, and advice."""
    found, says = said(healthy(**changes), name)

    assert found == status
    assert words in says


def test_a_group_without_a_leader_is_a_problem_and_a_late_follower_a_warning() -> None:
    """Streams and consumers alike; a single server has no groups to speak of."""
    late = {"leader": "n1", "replicas": [{"name": "n2", "current": True}, {"name": "n3", "current": False}]}
    found = healthy()
    found.streams["SESSIONS_0"] = {**(found.streams["SESSIONS_0"] or {}), "cluster": late}
    assert said(found, "replicas") == ("warning", "SESSIONS_0: not current on n3")

    found.consumers["SESSIONS_0"][0]["cluster"] = {"leader": "", "replicas": []}
    assert said(found, "replicas")[0] == "problem"


def test_what_could_not_be_read_is_said() -> None:
    """Not silently left out."""
    assert said(healthy(errors={"epochs": "no answer"}), "epochs") == ("warning", "could not be looked at: no answer")


@pytest.mark.parametrize(
    ("pattern", "subject", "wanted"),
    [
        ("a.>", "a.b.c", True), ("a.>", "a.>", True), ("a.>", "a", False), ("a.*", "a.>", False), ("a.*", "a.*", True),
        ("a.*", "a.b", True), ("a.b", "a.*", False), ("a.b", "a.b", True), ("*.b", "a.b", True), (">", "a.*.>", True),
        ("a.*.c", "a.b.d", False), ("a.b", "a.b.c", False),
    ],
)  # fmt: skip
def test_a_pattern_covers_what_it_allows_whole(pattern: str, subject: str, wanted: bool) -> None:
    """Never more than the broker would."""
    assert covers(pattern, subject) is wanted


def test_versions_compare_by_number() -> None:
    """2.9 is older than 2.14; a pre-release counts as its release."""
    assert numbers("2.9.1") < numbers("2.14.0") == numbers("2.14.0-RC.1") < numbers("2.15.1")
