"""The program's images: a user without rights on a read-only root can do what the image is for."""

import json
import subprocess
from pathlib import Path

import pytest

from infra.images.container import Container, Network, run, running
from tests.cluster.images.conftest import built, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]
ROLES = ("ops", "cpu")
TIMEOUT_S = 900
COMPLETE = {
    "ops": {"role imaging", "role pipelines", "role endpoint", "role tracking", "role database"},
    "cpu": {"role train", "role serve", "role pipelines"},
}
LOOK = """
import json, os, pathlib
def writable(path):
    try:
        (pathlib.Path(path) / "probe").touch()
    except OSError:
        return False
    return True
print(json.dumps({
    "ids": [os.getuid(), os.getgid()],
    "capabilities": int(pathlib.Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0], 16),
    "writable": [path for path in ("/", "/app", "/opt/venv", "/etc", "/tmp", "/var/lib/vilam3") if writable(path)],
}))
"""
PRESENT = """
import importlib.util, json
names = ("torch", "mlflow", "kfp", "serving")
print(json.dumps({name: importlib.util.find_spec(name) is not None for name in names}))
"""
ASK_WHETHER_READY = "import httpx; print(httpx.get('http://127.0.0.1:8080/v2/health/ready').text)"
CALCULATE = """
import json, torch, torchvision, torchxrayvision, monai, transformers, deepspeed, ray, kserve, mlflow
image = torch.randn(1, 1, 24, 24, 24)
scan = torch.nn.Conv3d(1, 4, 3, padding=1)(image)
scan.square().mean().backward()
kept = torchvision.ops.nms(torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]]), torch.tensor([0.9, 0.8]), 0.5)
print(json.dumps({
    "shape": list(scan.shape),
    "kept": kept.tolist(),
    "product": (torch.full((64, 64), 2.0) @ torch.full((64, 64), 3.0)).sum().item(),
    "accelerators": torch.cuda.device_count(),
}))
"""


def _vilam3(role: str, *words: str, inside: Network) -> subprocess.CompletedProcess[str]:
    return run(Container(image=built(role), arguments=words), inside=inside, timeout_s=TIMEOUT_S)


def _python(role: str, code: str, *, inside: Network) -> dict[str, object]:
    container = Container(image=built(role), entrypoint=["python", "-c"], arguments=[code])
    ran = run(container, inside=inside, timeout_s=TIMEOUT_S)
    assert ran.returncode == 0, ran.stderr
    told: dict[str, object] = json.loads(ran.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize("role", ROLES)
def test_it_runs_as_its_user_and_writes_only_where_it_may(role: str, inside: Network) -> None:
    told = _python(role, LOOK, inside=inside)
    assert told == {"ids": [10001, 10001], "capabilities": 0, "writable": ["/tmp", "/var/lib/vilam3"]}  # noqa: S108 - of the container


@pytest.mark.parametrize("role", ROLES)
def test_the_program_says_what_it_can_do(role: str, inside: Network) -> None:
    ran = _vilam3(role, "--help", inside=inside)
    assert ran.returncode == 0, ran.stderr
    assert {"serve", "pipeline", "train", "doctor"} <= set(ran.stdout.split())


@pytest.mark.parametrize(("role", "complete"), COMPLETE.items())
def test_the_roles_of_an_image_are_all_there(role: str, complete: set[str], inside: Network) -> None:
    ran = _vilam3(role, "doctor", "--json", "--runs", "/var/lib/vilam3", inside=inside)
    states = {finding["name"]: finding["state"] for finding in json.loads(ran.stdout)["findings"]}
    assert {name for name, state in states.items() if state == "ok"} >= {"Python", "runs", *complete}, ran.stdout


def test_ops_has_no_torch(inside: Network) -> None:
    assert _python("ops", PRESENT, inside=inside) == {"torch": False, "mlflow": True, "kfp": True, "serving": True}


def test_ops_compiles_the_pipelines(inside: Network) -> None:
    words = ("pipeline", "compile", "--recipe", "pipelines/recipes/tiny.toml", "--out", "/tmp/compiled")  # noqa: S108 - of the container
    ran = _vilam3("ops", *words, inside=inside)
    assert ran.returncode == 0, ran.stderr


def test_ops_orchestrates_without_torch(inside: Network, tmp_path: Path) -> None:
    """It lives, and says which service it waits for."""
    nowhere = "http://127.0.0.1:9"
    words = ["serve", "--role", "orchestrator", "--vlm", nowhere, "--expert-url", f"VISTA3D={nowhere}"]
    container = Container(image=built("ops"), arguments=[*words, "--studies", "file:///var/lib/vilam3/studies"])
    log = tmp_path / "log"
    with running(container, inside=inside, log=log) as server:
        wait_for(8080, inside=inside, server=server, log=log, path="/v2/health/live")
        told = _python("ops", ASK_WHETHER_READY, inside=inside)
    assert told["ready"] is False
    assert nowhere in str(told["reason"])
    assert server.returncode == 0, log.read_text()


def test_cpu_serves(inside: Network) -> None:
    ran = _vilam3("cpu", "serve", "--help", inside=inside)
    assert ran.returncode == 0, ran.stderr
    assert "--experts" in ran.stdout


def test_cpu_calculates_without_the_libraries_of_an_accelerator(inside: Network) -> None:
    told = _python("cpu", CALCULATE, inside=inside)
    assert told == {"shape": [1, 4, 24, 24, 24], "kept": [0], "product": 64 * 64 * 64 * 6.0, "accelerators": 0}
