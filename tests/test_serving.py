"""docs/serving.md and deploy/ can't rot: commands, options, limits, errors and metrics are those of the server."""

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from documented import ROOT, blocks, check_parses, falconer_commands, help_of
from falconer import cli
from falconer.talk.server import metrics
from falconer.talk.server.limits import Limits

PAGE = ROOT / "docs" / "serving.md"
TEXT = PAGE.read_text(encoding="utf-8")
DEPLOY = ROOT / "deploy"
NGINX = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
SERVER = ROOT / "src" / "falconer" / "talk" / "server"
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def unit(section: str) -> dict[str, list[str]]:
    """Return the settings of the systemd unit; a setting may stand there several times."""
    found: dict[str, list[str]] = {}
    lines = (DEPLOY / "falconer.service").read_text(encoding="utf-8").split(f"[{section}]\n")[1].split("\n[")[0]
    for line in lines.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def settings() -> dict[str, str]:
    """Return the variables of falconer.env."""
    lines = (DEPLOY / "falconer.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def nginx(name: str) -> str:
    (value,) = set(re.findall(rf"^\s*{name}\s+(.*);", NGINX, re.MULTILINE))
    return value


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def rows(title: str) -> list[list[str]]:
    """Return the cells of the table below a title."""
    section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert section, title
    lines = [line for line in section.group(1).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def default_of(option: str) -> Any:
    """Return the default of an option of `falconer serve`."""
    group: Any = typer.main.get_command(cli.app)
    (found,) = (parameter.default for parameter in group.commands["serve"].params if option in parameter.opts)
    return found


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# Commands


@pytest.mark.parametrize("command", falconer_commands(TEXT))
def test_each_command_parses(command: str) -> None:
    check_parses(command)


def test_each_option_of_the_server_that_is_named_exists() -> None:
    prose = re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    # Those of other programs stand with the program's name, or here.
    others = {"--read-only", "--tmpfs", "--cap-drop", "--security-opt", "--stop-timeout", "--format", "--build-arg",
              "--enable-lora"}  # fmt: skip
    named = {option for span in names(prose) for option in OPTION.findall(span)} - others
    assert {"--host", "--allow-host"} <= named
    known = set(OPTION.findall(help_of("serve") + help_of("plan")))
    assert named <= known


def test_each_json_body_is_valid() -> None:
    bodies = re.findall(r"-d '(.*?)'", TEXT, re.DOTALL)
    assert len(bodies) >= 3
    for body in bodies:
        assert json.loads(body)["model"]


@pytest.mark.parametrize("program", blocks("python", TEXT))
def test_each_python_program_compiles(program: str) -> None:
    ast.parse(program)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)", TEXT))))
def test_each_link_leads_somewhere(link: str) -> None:
    assert (PAGE.parent / link).exists()


def test_each_file_in_deploy_is_shown() -> None:
    shown = set(re.findall(r"deploy/([\w.]+)", TEXT))
    assert shown == {path.name for path in DEPLOY.iterdir()}


# What the server says of itself


def test_the_limits_are_those_of_the_server() -> None:
    table = {names(row[0])[0]: row[1].replace(",", "") for row in rows("Limits")}
    assert table.pop("--max-tokens") == "half the context" and default_of("--max-tokens") is None
    assert {option: float(value) for option, value in table.items()} == {option: default_of(option) for option in table}
    fixed = Limits()
    assert f"{fixed.max_head // 1024} KiB" in TEXT
    assert f"{fixed.max_messages:,} messages, {fixed.max_choices} replies" in TEXT
    assert f"and {fixed.idle_s} seconds until" in TEXT


def test_the_metrics_are_those_of_the_server() -> None:
    source = (SERVER / "metrics.py").read_text(encoding="utf-8")
    counters = {family.name for family in metrics.Metrics().registry.collect() if family.type == "counter"}
    expected = {f"{name}_total" if name in counters else name for name in re.findall(r'"(falconer_\w+)"', source)}
    assert len(expected) > 10
    assert {name for row in rows("Metrics") for name in names(row[0])} == expected
    assert {name.removesuffix("_bucket") for name in re.findall(r"falconer_[a-z_]+", TEXT)} <= expected


def test_each_error_code_is_in_the_table() -> None:
    codes: set[str] = set()
    for path in SERVER.glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call):
                given = [word.value for word in call.keywords if word.arg == "code"]
                if ast.unparse(call.func) == "invalid":
                    given += call.args[2:]
                codes |= {one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    assert {name for row in rows("Errors") for name in names(row[1])} == codes


# nginx


def test_nginx_waits_longer_and_takes_more_than_the_server() -> None:
    limits = Limits()
    assert nginx("client_max_body_size") == "2m" and limits.max_body < 2 * 2**20
    assert seconds(nginx("proxy_read_timeout")) > limits.request_s
    assert seconds(nginx("client_body_timeout")) >= limits.receive_s
    assert nginx("proxy_buffering") == "off" and nginx("gzip") == "off"
    assert f"server 127.0.0.1:{default_of('--port')};" in NGINX


@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")
def test_nginx_reads_its_file(tmp_path: Path) -> None:
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=falconer.example.org"]
    certificate, key = tmp_path / "fullchain.pem", tmp_path / "privkey.pem"
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    site = NGINX.replace("/etc/letsencrypt/live/falconer.example.org", str(tmp_path))
    main = tmp_path / "nginx.conf"
    main.write_text(f"pid {tmp_path}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{ access_log off;\n{site}\n}}\n")
    result = subprocess.run(["nginx", "-t", "-p", tmp_path, "-c", main], capture_output=True, text=True)
    assert result.returncode == 0 and "warn" not in result.stderr, result.stderr


# systemd


def test_the_unit_calls_the_server_as_it_can_be_called() -> None:
    service, variables = unit("Service"), settings()
    (start,) = service["ExecStart"]
    program, *words = start.split()
    assert Path(program).name == "falconer" and words[0] == "serve"
    assert set(re.findall(r"\$\{?(\w+)", start)) == {"FALCONER_RUN", "FALCONER_OPTIONS"} <= set(variables)
    check_parses(" ".join(words[:-1]) + " " + variables["FALCONER_OPTIONS"])
    assert "FALCONER_API_KEY" in variables and "FALCONER_API_KEY" in (ROOT / "src/falconer/runtime.py").read_text()


def test_systemd_waits_longer_than_the_server() -> None:
    (stop,) = unit("Service")["TimeoutStopSec"]
    assert int(stop) >= default_of("--grace") + 10
    assert set(re.findall(r"--stop-timeout (\d+)", TEXT)) == {stop}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    lines = (DEPLOY / "falconer.service").read_text(encoding="utf-8")
    copy = tmp_path / "falconer.service"
    # The program and the user are those of the machine that it is installed on.
    copy.write_text(
        re.sub(r"^(User|Group)=.*$", "", lines, flags=re.MULTILINE).replace(
            "/opt/falconer/bin/falconer", sys.executable
        )
    )
    result = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True)
    assert result.returncode == 0 and not result.stderr, result.stderr


# The container and Prometheus


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    sources = {
        word for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    }
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert sources == {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert "*" in ignored and all((ROOT / source).exists() for source in sources)


def test_what_the_dockerfile_reads_from_the_project_is_there() -> None:
    assert re.search(r"^torch==", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE))
    assert set(re.findall(r"--target (\S+)", TEXT)) == {"cpu", "cuda"} <= targets
    assert set(re.findall(r"--from=(\S+)", DOCKERFILE)) <= targets


def test_the_container_serves_as_the_server_can_be_called() -> None:
    (command,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    words = json.loads(command)
    check_parses(shlex.join(words))
    assert words[words.index("--port") + 1] in re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE)
    assert re.search(r"^USER 10001:10001$", DOCKERFILE.split(" AS cpu\n")[1], re.MULTILINE)


def test_prometheus_scrapes_the_server() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    (shown,) = yaml.safe_load(blocks("yaml", TEXT)[0])["scrape_configs"]
    assert shown == {name: job[name] for name in shown}
    assert job["static_configs"][0]["targets"] == [f"127.0.0.1:{default_of('--port')}"]
