"""The pins are the only source of versions, and whatever can change a program changes its key."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from infra.cluster import tools
from vilam3.errors import ClusterError, NotFoundError

FAMILIES = sorted({tool.family for tool in tools.TOOLS.values()} - {"pause"})


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A family of one tool, `etcd`, that a test may change."""
    copy = tmp_path / "etcd"
    copy.mkdir()
    (copy / "go.mod").write_text(
        "module m\n\nrequire (\n\tgo.etcd.io/etcd v2.0.0\n\tgo.etcd.io/etcd/server/v3 v3.6.14\n)\n"
    )
    (copy / "go.sum").write_text("go.etcd.io/etcd/server/v3 v3.6.14 h1:a=\n")
    monkeypatch.setattr(tools, "FAMILIES", (tmp_path,))
    return copy


@pytest.mark.usefixtures("family")
def test_a_key_follows_from_what_it_is_made_of() -> None:
    assert tools.key("etcd", go_version="go1.26.8") == tools.key("etcd", go_version="go1.26.8")
    assert tools.key("etcd", go_version="go1.26.8").startswith("etcd-")


def test_sums_pins_and_compiler_change_the_key(family: Path) -> None:
    keys = {tools.key("etcd", go_version="go1.26.8"), tools.key("etcd", go_version="go1.26.9")}
    (family / "go.sum").write_text("go.etcd.io/etcd/server/v3 v3.6.14 h1:b=\n")
    keys.add(tools.key("etcd", go_version="go1.26.8"))
    (family / "go.mod").write_text((family / "go.mod").read_text() + "\ngodebug default=go1.24\n")
    keys.add(tools.key("etcd", go_version="go1.26.8"))
    assert len(keys) == 4


@pytest.mark.usefixtures("family")
def test_flags_change_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = tools.key("etcd", go_version="go1.26.8")
    monkeypatch.setattr(tools, "FLAGS", ("-trimpath", "-race"))
    assert tools.key("etcd", go_version="go1.26.8") != before


@pytest.mark.usefixtures("family")
def test_a_version_is_that_of_the_innermost_module() -> None:
    assert tools.version("etcd") == "v3.6.14"


def test_a_program_without_a_pin_is_refused(family: Path) -> None:
    (family / "go.mod").write_text("module m\n")
    with pytest.raises(ClusterError, match=r"requires nothing that holds go\.etcd\.io/etcd/server/v3"):
        tools.version("etcd")


def test_an_unknown_tool_is_refused_with_those_there_are() -> None:
    with pytest.raises(NotFoundError, match=r"tool heml: not among .*helm"):
        tools.path("heml")


def test_kubernetes_is_told_its_version() -> None:
    flags = tools.link_flags("k8s")
    version = tools.version("kubelet")
    assert version.startswith("v1.34.")
    assert f"-X=k8s.io/component-base/version.gitVersion={version}" in flags
    assert "-X=k8s.io/client-go/pkg/version.gitMinor=34" in flags


def test_a_built_program_is_found_without_building(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILAM3_CACHE", str(tmp_path))
    monkeypatch.setattr(tools, "go_version", lambda: "go1.26.8")
    built = tmp_path / "tools" / tools.key("etcd", go_version="go1.26.8") / "bin" / "etcd"
    built.parent.mkdir(parents=True)
    built.touch()
    assert tools.path("etcd") == built


def test_what_a_build_took_is_noted_beside_its_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go is stood in for: it takes a moment and writes the program."""
    monkeypatch.setenv("VILAM3_CACHE", str(tmp_path / "cache"))
    go = tmp_path / "go"
    go.write_text(
        "#!/bin/sh\n"
        '[ "$1" = env ] && { echo go1.26.8; exit; }\n'
        'while [ "$1" != -o ]; do shift; done\n'
        'sleep 0.2; echo built > "$2"\n'
    )
    go.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert tools.took("etcd") is None
    assert not tools.is_built("etcd")
    assert tools.path("etcd").read_text() == "built\n"
    took = tools.took("etcd")
    assert took is not None
    assert 0.2 <= took.wall_s < 60
    assert 0 <= took.cpu_s < took.wall_s
    assert tools.is_built("etcd")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_holds_pins_only(name: str) -> None:
    assert {file.name for file in tools.folder(name).iterdir()} == {"go.mod", "go.sum"}


@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_built_is_what_is_pinned(name: str) -> None:
    """Every program of the table is a tool of its go.mod, and the other way round."""
    command = ["go", "mod", "edit", "-json"]
    told = subprocess.run(command, cwd=tools.folder(name), capture_output=True, text=True, check=True).stdout  # noqa: S603 - our own arguments
    pinned = {tool["Path"] for tool in json.loads(told)["Tool"]}
    assert pinned == {tool.package for tool in tools.TOOLS.values() if tool.family == name}
