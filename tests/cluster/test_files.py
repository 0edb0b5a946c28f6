"""The files of cluster/ are what the programs that read them take, and agree with each other."""

import http.server
import json
import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import pytest
import yaml
from cluster.conftest import DEPLOYMENTS

KUBERNETES, DOCKER = DEPLOYMENTS / "kubernetes", DEPLOYMENTS / "docker"
SCRIPTS = [*DEPLOYMENTS.rglob("*.sh"), *DEPLOYMENTS.rglob("*.sbatch")]


def _tool(name):
    """A program that a package brings, which need not be on the path."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return shutil.which(name, path=beside) or pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_scripts_are_sound(script):
    assert script.stat().st_mode & stat.S_IXUSR
    said = subprocess.run(
        [_tool("shellcheck"), "--shell=bash", "--enable=quote-safe-variables", script],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stdout


def test_the_dockerfile_is_sound():
    said = subprocess.run(
        [_tool("hadolint"), DOCKER / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout
    text = (DOCKER / "Dockerfile").read_text()
    copied = re.search(r"^COPY (.*) \./$", text, re.M)[1].split()
    for name in [*copied, "deepstreaks_dask"]:
        assert (DEPLOYMENTS.parent / name).exists()
        assert f"!{name}" in (DOCKER / "Dockerfile.dockerignore").read_text().split()
    assert re.search(r"^USER (?!0|root)", text, re.M)


@pytest.mark.parametrize("folder", ["tls", "slurm", "ssh", "kubernetes", "docker", "service"])
def test_each_page_says_what_was_checked(folder):
    page = (DEPLOYMENTS / folder / "README.md").read_text()
    assert re.search(r"^Checked[ :(]", page, re.M)
    assert re.search(r"^Not checked:", page, re.M)


# Kubernetes


def _objects(name):
    return list(yaml.safe_load_all((KUBERNETES / name).read_text()))


def _operator():
    return pytest.importorskip("dask_kubernetes.operator.controller.controller")


@pytest.mark.parametrize("version", ["1.31", "newest"])
def test_objects_fit_kubernetes(version):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    version = kubernetes_validate.latest_version() if version == "newest" else version
    objects = [*_objects("cluster.yaml"), *_objects("campaign.yaml")]
    plain = [one for one in objects if not one["kind"].startswith("Dask")]
    assert [one["kind"] for one in plain] == [
        "Namespace", "NetworkPolicy", "PersistentVolumeClaim", "Job",
    ]  # fmt: skip
    (cluster,) = (one["spec"] for one in objects if one["kind"] == "DaskCluster")
    for one in (*plain, *_made_by_the_operator(cluster)):
        kubernetes_validate.validate(one, version, strict=True)


def _made_by_the_operator(cluster):
    """What the operator makes of a DaskCluster."""
    controller = _operator()
    common = {"annotations": {}, "labels": {}}
    scheduler, worker = cluster["scheduler"], cluster["worker"]
    return [
        controller.build_scheduler_deployment_spec("deepstreaks", scheduler["spec"], **common),
        controller.build_scheduler_service_spec("deepstreaks", scheduler["service"], **common),
        controller.build_worker_deployment_spec(
            "default", "deepstreaks", "deepstreaks", "1", worker["spec"], **common
        ),
    ]


def test_workers_call_the_scheduler_by_tls():
    """The operator names the scheduler to its workers by tcp:// unless somebody has named it."""
    (cluster,) = (one for one in _objects("cluster.yaml") if one["kind"] == "DaskCluster")
    scheduler, service, worker = _made_by_the_operator(cluster["spec"])
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    named = [one["value"] for one in container["env"] if one["name"] == "DASK_SCHEDULER_ADDRESS"]
    assert named == [f"tls://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert service["spec"]["type"] == "ClusterIP"
    for one in (scheduler, worker):
        pod = one["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize(
    ("file", "kind"), [("cluster.yaml", "daskcluster"), ("autoscaler.yaml", "daskautoscaler")]
)
def test_dasks_objects_fit_their_definitions(file, kind):
    jsonschema = pytest.importorskip("jsonschema")
    home = Path(pytest.importorskip("dask_kubernetes").__file__).parent
    definitions = home / "operator/deployment/helm/dask-kubernetes-operator/crds" / f"{kind}.yaml"
    definition = yaml.safe_load(definitions.read_text())
    (version,) = definition["spec"]["versions"]
    schema = _closed(version["schema"]["openAPIV3Schema"])
    schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {}}
    (one,) = (one for one in _objects(file) if one["kind"] == definition["spec"]["names"]["kind"])
    assert one["apiVersion"] == f"{definition['spec']['group']}/{version['name']}"
    jsonschema.validate(one, schema)
    one["spec"]["schedulr"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(one, schema)


def _closed(schema):
    """Refuse what a definition does not know: Kubernetes would drop it without a word."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(part) for key, part in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and "type" in schema and not open_ended:
        closed.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
    return closed


def test_kubernetes_configuration_is_dask_kubernetes_own():
    pytest.importorskip("dask_kubernetes")
    (file,) = _objects("kubernetes.yaml")
    assert set(file["kubernetes"]) <= set(dask.config.get("kubernetes"))


# As in the chart's own values of 2024.1.
_CHART = {
    "scheduler": {"image", "serviceType", "resources", "securityContext"},
    "worker": {"image", "replicas", "threads_per_worker", "resources", "securityContext", "mounts"},
    "webUI": {"ingress"},
    "jupyter": {"enabled"},
}


def test_values_are_the_charts():
    (values,) = _objects("values.yaml")
    assert {name: set(part) for name, part in values.items()} == _CHART
    assert set(values["worker"]["image"]) == {"repository", "tag", "dask_worker"}
    assert values["worker"]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert not values["jupyter"]["enabled"]
    assert not values["webUI"]["ingress"]["enabled"]


def test_kubernetes_files_agree():
    texts = {file.name: file.read_text() for file in KUBERNETES.glob("*.yaml")}
    images = {match for text in texts.values() for match in re.findall(r"image: (\S+:\S+)", text)}
    assert len(images) == 1
    (values,) = _objects("values.yaml")
    image = values["worker"]["image"]
    assert images == {f"{image['repository']}:{image['tag']}"}
    page = (KUBERNETES / "README.md").read_text()
    assert "certificates.sh tls 365 /etc/deepstreaks-tls" in page
    for name in ("cluster.yaml", "campaign.yaml"):
        assert "secretName: deepstreaks-tls" in texts[name]
        assert "mountPath: /etc/deepstreaks-tls" in texts[name]
        assert "{name: DASK_CONFIG, value: /etc/deepstreaks-tls}" in texts[name]


# Docker


@pytest.fixture(scope="module")
def compose():
    text = (DOCKER / "compose.yaml").read_text()
    return yaml.safe_load(re.sub(r"\$\{(\w+):\?[^}]*\}", r"\1.example", text))


def test_compose_follows_its_specification(compose):
    specification = pytest.importorskip("compose_spec", reason="compose-spec is not installed")
    parsed = specification.PyCompose.from_yaml(yaml.safe_dump(compose))
    assert set(parsed.service_names()) == {
        "scheduler", "worker", "watcher", "dashboards", "database", "proxy",
    }  # fmt: skip
    for check in ("networks", "secrets", "volumes"):
        getattr(parsed, f"validate_{check}")()
    broken = {**compose, "services": {"x": {"image": "x", "helthcheck": {}}}}
    with pytest.raises(Exception, match="helthcheck"):
        specification.PyCompose.from_yaml(yaml.safe_dump(broken))


def _merged(base, override):
    """Merge two Compose files as Docker does: mappings by key, all else replaced."""
    if isinstance(base, dict) and isinstance(override, dict):
        return {
            **base,
            **{key: _merged(base.get(key), value) for key, value in override.items()},
        }
    return override


def test_gpu_workers_get_all_cards_and_keep_what_workers_have(compose):
    specification = pytest.importorskip("compose_spec", reason="compose-spec is not installed")
    both = _merged(compose, yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text()))
    specification.PyCompose.from_yaml(yaml.safe_dump(both))
    worker, plain = both["services"]["worker"], compose["services"]["worker"]
    (devices,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert devices == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert worker["deploy"]["replicas"] == 1, "a second container would have the same cards"
    assert worker["command"][:3] == ["dask", "cuda", "worker"]
    # as of dask-cuda's command line, https://docs.rapids.ai/api/dask-cuda/nightly/quickstart
    options = {one for one in worker["command"] if one.startswith("--")}
    assert options <= {"--nthreads", "--dashboard-address", "--local-directory"}
    assert worker["build"]["args"]["EXTRAS"].split(",") == ["all", "gpu"]
    for name in ("cap_drop", "security_opt", "user", "volumes", "networks", "healthcheck"):
        assert worker[name] == plain[name]
    assert "devices" not in str(plain), "GPU 0 would be everybody's"


def test_the_campaign_page_can_campaign(compose):
    page, worker = (compose["services"][name] for name in ("dashboards", "worker"))
    environment = page["environment"]
    assert environment["DEEPSTREAKS_SCHEDULER"] == worker["command"][2]
    assert environment["DASK_CONFIG"] == worker["environment"]["DASK_CONFIG"]
    assert set(worker["volumes"]) <= set(page["volumes"])
    assert environment["XDG_STATE_HOME"].startswith("/data/"), "the container's own disk is lost"
    assert set(worker["networks"]) <= set(page["networks"])


def test_containers_have_little_power_and_can_be_asked_for_their_health(compose):
    for name, service in compose["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("user", "unprivileged") not in ("0", "root", "0:0"), name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert name == "database" or service["read_only"], name
    published = {name for name, service in compose["services"].items() if "ports" in service}
    assert published == {"proxy"}
    inside = {name for name, network in compose["networks"].items() if network.get("internal")}
    assert inside == {"cluster", "database", "site"}
    for name in ("scheduler", "worker", "database", "dashboards"):
        assert set(compose["services"][name]["networks"]) <= inside


def test_secrets_are_files(compose):
    text = (DOCKER / "compose.yaml").read_text()
    assert all(set(secret) == {"file"} for secret in compose["secrets"].values())
    assert not re.search(r"(PASSWORD|SECRET|TOKEN)(?!_FILE)\w*\s*[:=]", text)
    used = {one for service in compose["services"].values() for one in service.get("secrets", [])}
    assert used == set(compose["secrets"])
    ignored = (DEPLOYMENTS.parent / ".gitignore").read_text().split()
    assert "/cluster/docker/secrets/" in ignored


def test_commands_are_understood(compose):
    import typer
    from distributed.cli import dask_scheduler, dask_worker

    from deepstreaks_dask.cli.main import app

    dasks = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}
    ours = typer.main.get_command(app).commands
    (cluster,) = (one["spec"] for one in _objects("cluster.yaml") if one["kind"] == "DaskCluster")
    (job,) = _objects("campaign.yaml")
    pods = [
        cluster["scheduler"]["spec"],
        cluster["worker"]["spec"],
        job["spec"]["template"]["spec"],
    ]
    commands = [
        service["command"] for service in compose["services"].values() if "command" in service
    ]
    commands += [pod["containers"][0]["args"] for pod in pods]
    assert len(commands) == 7
    for program, verb, *arguments in commands:
        command = (dasks if program == "dask" else ours)[verb]
        context = command.make_context(verb, [*map(str, arguments)])
        assert not context.params.get("preload_argv"), arguments  # what Dask did not know


@pytest.fixture
def secrets(tmp_path):
    folder = tmp_path / "secrets"
    made = subprocess.run(
        [DOCKER / "secrets.sh", "streaks.example.org"],
        env={**os.environ, "DEEPSTREAKS_SECRETS": str(folder)},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert "fill in" in made.stdout
    return folder


def test_secrets_are_made_for_the_containers_users(secrets, compose):
    for secret in compose["secrets"].values():
        assert (secrets / Path(secret["file"]).name).stat().st_mode & 0o077 == 0
    password = (secrets / "postgres_password").read_text()
    assert len(password) == 48
    assert (secrets / "pgpass").read_text().split(":")[-1].strip() == password
    configuration = yaml.safe_load((secrets / "tls" / "dask.yaml").read_text())
    mounted = compose["services"]["worker"]["volumes"][0].split(":")[1]
    assert configuration["distributed"]["comm"]["tls"]["ca-file"] == f"{mounted}/ca.pem"
    if os.geteuid() == 0:
        dask_user = int(compose["services"]["worker"]["user"].split(":")[0])
        owners = {"tls/worker-key.pem": dask_user, "pgpass": dask_user, "postgres_password": 999}
        assert {name: (secrets / name).stat().st_uid for name in owners} == owners


def test_the_proxy_speaks_tls_before_the_dashboards(secrets, tmp_path):
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Says)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    scratch = tmp_path / "scratch"
    scratch.mkdir(mode=0o777)
    configuration = (DOCKER / "nginx.conf").read_text()
    for there, here in (
        (" /tmp/", f" {scratch}/"),
        ("listen 8443", f"listen 127.0.0.1:{port}"),
        ("http://dashboards:5006", f"http://127.0.0.1:{server.server_port}"),
        ("/run/secrets/", f"{secrets}/"),
    ):
        assert there in configuration
        configuration = configuration.replace(there, here)
    if os.geteuid() == 0:
        configuration = "user root;\n" + configuration
    file = tmp_path / "nginx.conf"
    file.write_text(configuration)
    running = subprocess.Popen([nginx, "-c", file, "-g", "daemon off;"], stderr=subprocess.PIPE)
    try:
        said = _ask(port, secrets / "site_certificate", "/explore")
    finally:
        running.terminate()
        running.wait(30)
        server.shutdown()
    head, _, body = said.partition("\r\n\r\n")
    assert "strict-transport-security: max-age" in head.lower()
    heard = json.loads(body)
    assert heard["Host"] == "streaks.example.org"
    assert heard["X-Forwarded-Proto"] == "https"
    assert heard["X-Forwarded-For"] == "127.0.0.1"


class _Says(http.server.BaseHTTPRequestHandler):
    """Stands in for the dashboards: tells the headers that came."""

    def do_GET(self):
        body = json.dumps(dict(self.headers)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def _ask(port, certificate, path):
    context = ssl.create_default_context(cafile=certificate)
    for _ in range(200):
        try:
            plain = socket.create_connection(("127.0.0.1", port), 30)
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    with context.wrap_socket(plain, server_hostname="streaks.example.org") as connection:
        request = f"GET {path} HTTP/1.1\r\nHost: streaks.example.org\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer.decode()
