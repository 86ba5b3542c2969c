"""What `vilam3 serve` takes for each role, and how it refuses the rest."""

from pathlib import Path

import pytest

from serving.cli import NEEDS, TAKES, addresses
from serving.roles import Place
from serving.tenants import Tenants
from vilam3.cli.main import build_parser, main
from vilam3.errors import UserError


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--role", "single"], "--role single: needs --model"),
        (["--role", "vlm"], "--role vlm: needs --model"),
        (["--role", "expert", "--experts", "x"], "--role expert: needs --expert;"),
        (["--role", "orchestrator"], "--role orchestrator: needs --vlm"),
        (
            ["--role", "expert", "--expert", "CXR", "--experts", "x", "--expert-url", "CXR=http://x"],
            "has no use for --expert-url",
        ),
        (["--model", "m", "--warmup-s", "3"], "--role single: has no use for --warmup-s"),
    ],
)
def test_an_option_too_few_or_too_many_is_a_misunderstanding(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *words]) == UserError.exit_code
    assert said in capsys.readouterr().err


def test_experts_and_orchestrators_need_the_store_they_share(tmp_path: Path) -> None:
    place = Place(work=tmp_path, studies_uri="", tenants=Tenants())
    for role in ("expert", "orchestrator"):
        with pytest.raises(UserError, match=f"--role {role}: needs the store of studies .* VILAM3_STUDIES_URI"):
            place.shared(role=role)
    shared = Place(work=tmp_path, studies_uri=f"file://{tmp_path}/shared", tenants=Tenants())
    shared.shared(role="expert").put("k", b"v")
    assert shared.any_store().get("k") == b"v"


def test_addresses_are_read_by_name() -> None:
    assert addresses(["CXR=http://a", "BRATS=http://b=c"]) == {"CXR": "http://a", "BRATS": "http://b=c"}
    for wrong in (["CXR"], ["=http://a"], ["CXR="], ["CXR=a", "CXR=b"]):
        with pytest.raises(UserError, match="write NAME=URL"):
            addresses(wrong)


def test_every_option_of_a_role_exists() -> None:
    parsed = vars(build_parser().parse_args(["serve"]))
    assert {name for names in (*TAKES.values(), *NEEDS.values()) for name in names} <= set(parsed)
