"""Which provider a machine gets, and what each refuses; programs of the machine are stood in for by small scripts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from infra.cluster import choice
from infra.cluster.existing import CONFIRMATION, Existing
from infra.cluster.kind import Kind, node_image
from infra.cluster.layout import Layout
from infra.cluster.local import Local
from infra.cluster.plan import Level
from vilam3.errors import NotFoundError, PrerequisiteError, UserError

Program = Callable[[str, str], None]
CONTEXT = """case "$1 $2" in
"config current-context") echo hospital ;;
"config view") echo "minified: true" ;;
esac"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Puts a script on a PATH that has nothing else but a shell's own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(name: str, script: str = "exit 0") -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return put


@pytest.mark.parametrize(
    ("level", "programs", "user", "chosen"),
    [
        ("api", ["go", "docker", "kind"], 1000, "local"),
        ("node", ["go", "docker", "kind"], 0, "kind"),
        ("node", ["go", "docker"], 0, "local"),
        ("full", ["go"], 0, "local"),
        ("api", ["docker", "kind"], 1000, "kind"),
    ],
)
def test_a_machine_gets_what_it_can_run(
    level: Level, programs: list[str], user: int, chosen: str, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    for name in programs:
        program(name, "exit 0")
    assert choice.choose(level) == chosen


def test_where_nothing_is_possible_all_ways_are_named(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    program("docker", "exit 1")
    program("kind", "exit 0")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(PrerequisiteError, match=r"docker.*kind.*PROVIDER=local.*PROVIDER=existing"):
        choice.choose("node")


def test_who_brought_it_up_takes_it_down(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert isinstance(choice.for_present("auto", layout=layout, say=print), Local)
    choice.for_new("kind", level="node", layout=layout, say=print)
    assert isinstance(choice.for_present("auto", layout=layout, say=print), Kind)


def test_an_existing_cluster_is_used_only_when_it_is_named(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("kubectl", CONTEXT)
    existing = Existing(kubeconfig=tmp_path / "kubeconfig", say=print)
    for wrong in ("", "yes", "other"):
        monkeypatch.setenv(CONFIRMATION, wrong)
        with pytest.raises(UserError, match=f"the context hospital; confirm by {CONFIRMATION}=hospital"):
            existing.up("node")
        assert not existing.kubeconfig.exists()
    monkeypatch.setenv(CONFIRMATION, "hospital")
    existing.up("node")
    assert existing.kubeconfig.read_text() == "minified: true\n"
    assert existing.kubeconfig.stat().st_mode & 0o777 == 0o600


def test_down_only_forgets_an_existing_cluster(tmp_path: Path, program: Program) -> None:
    program("kubectl", "exit 1")
    existing = Existing(kubeconfig=tmp_path / "kubeconfig", say=print)
    existing.kubeconfig.touch()
    existing.down()
    assert existing.status().up is False


def test_kind_takes_the_kubernetes_that_is_pinned() -> None:
    assert node_image().startswith("kindest/node:v1.34.")


def test_kind_needs_a_docker_that_answers(tmp_path: Path, program: Program) -> None:
    program("kind", "exit 0")
    program("docker", "exit 1")
    with pytest.raises(PrerequisiteError, match="PROVIDER=kind"):
        Kind(kubeconfig=tmp_path / "kubeconfig", say=print).up("node")


def test_kind_deletes_the_cluster_that_there_is(tmp_path: Path, program: Program) -> None:
    said = tmp_path / "said"
    program("kind", f'echo "$@" >> {said}\ncase "$1" in get) echo vilam3 ;; esac')
    kind = Kind(kubeconfig=tmp_path / "kubeconfig", say=print)
    assert kind.status().up
    kind.down()
    assert said.read_text().splitlines()[-1].startswith("delete cluster --name=vilam3")


def test_an_archive_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for provider in (Kind(kubeconfig=tmp_path / "k", say=print), Existing(kubeconfig=tmp_path / "k", say=print)):
        with pytest.raises((NotFoundError, UserError), match=r"image archive .*absent\.tar"):
            provider.load_image(tmp_path / "absent.tar")


def test_without_a_node_no_image_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no node is up"):
        Local(layout=Layout(tmp_path), say=print).load_image(tmp_path / "a.tar")
