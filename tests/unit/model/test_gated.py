"""Adapters that a task chooses: the published formula, one model for all families, and a folder of their own."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
import torch
from fastapi import FastAPI
from PIL import Image

from serving import vlm
from serving.tenants import Tenants
from tests.unit.serving.live import live
from vilam3 import engines
from vilam3.cli.main import main
from vilam3.dialogue.messages import Message, Sampling
from vilam3.engines import EngineChoice, open_engine
from vilam3.errors import CheckpointError, DataError, UserError
from vilam3.model import checkpoint
from vilam3.model.batching.cache import SlotCache
from vilam3.model.batching.loop import Limits
from vilam3.model.batching.network import Network, Piece, Said
from vilam3.model.batching.recorded import RecordedDecoding
from vilam3.model.checkpoint import Loaded, fresh
from vilam3.model.engine import TorchEngine
from vilam3.model.families import AdapterConfig
from vilam3.model.gated import Gated, told_families
from vilam3.model.images import pixels_NCHW
from vilam3.model.vila import Vila
from vilam3.services.engine import RemoteEngine

FAMILIES = {"answer": ("vqa", "radvqa"), "report": ("reports",), "segment": ("masks",)}
ROUTED = AdapterConfig(families=FAMILIES, default="report", experts=3, rank=2, alpha=6.0)
SINGLE = replace(ROUTED, experts=1)


def adapted(loaded: Loaded, config: AdapterConfig, *, seed: int = 4) -> Loaded:
    """A copy with random adapters, large enough that a mistake moves the logits."""
    whole = replace(loaded.config, adapters=config)
    model = Vila(whole)
    model.load_state_dict(loaded.model.state_dict(), strict=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".gated_" in name:
                weight.normal_(std=0.3, generator=generator)
    return replace(loaded, model=model.eval(), config=whole)


@pytest.fixture(scope="module")
def qwen2(loaded: Loaded) -> Loaded:
    """Whose attention has biases."""
    torch.manual_seed(6)
    made = fresh(replace(loaded.config, llm=replace(loaded.config.llm, family="qwen2")), loaded.tokenizer)
    with torch.no_grad():
        for name, weight in made.model.named_parameters():
            if "norm" not in name:
                weight.normal_(std=0.2)
    made.model.eval()
    return made


@pytest.fixture(scope="module", params=[ROUTED, SINGLE, "qwen2"], ids=["routed", "single", "qwen2"])
def gated(loaded: Loaded, qwen2: Loaded, request: pytest.FixtureRequest) -> Loaded:
    return adapted(qwen2, ROUTED) if request.param == "qwen2" else adapted(loaded, request.param)


@pytest.fixture
def engine(gated: Loaded) -> Iterator[TorchEngine]:
    made = TorchEngine(gated, limits=Limits(slots=4))
    yield made
    made.close()


@pytest.mark.parametrize("config", [ROUTED, SINGLE], ids=["routed", "single"])
def test_it_is_the_published_formula_token_by_token_and_expert_by_expert(config: AdapterConfig) -> None:
    """Lin et al. 2025, equations 6 to 8: with every expert of every family as a dense matrix of its own."""
    torch.manual_seed(2)
    layer = Gated(torch.nn.Linear(7, 5), config)
    for weight in layer.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    values = torch.randn(2, 6, 7)
    families = torch.tensor([[0, 0, 1, 2, 2, 1], [2, 1, 0, 0, 1, 2]])
    with told_families(families), torch.no_grad():
        found = layer(values)
    weights = {name: weight.detach().double() for name, weight in layer.named_parameters()}
    for row in range(2):
        for column in range(6):
            token, family = values[row, column].double(), int(families[row, column])
            experts = range(family * config.experts, (family + 1) * config.experts)
            shares = torch.ones(1, dtype=torch.float64)
            if config.experts > 1:
                shares = (weights["gated_route"][list(experts)] @ token).softmax(dim=0)
            expected = weights["weight"] @ token + weights["bias"]
            for share, expert in zip(shares, experts, strict=True):
                own = slice(expert * config.rank, (expert + 1) * config.rank)
                dense = weights["gated_b"][:, own] @ weights["gated_a"][own]
                expected = expected + share * (config.alpha / config.rank) * (dense @ token)
            torch.testing.assert_close(found[row, column].double(), expected, rtol=1e-5, atol=1e-5)


def test_families_are_told_apart_and_silence_means_the_default(gated: Loaded) -> None:
    ids_BT = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        families = [torch.full_like(ids_BT, family) for family in range(3)]
        outputs = [gated.model(ids_BT, families_BT=one) for one in (*families, None)]
    *said, silent = [one.logits_BLV for one in outputs if one.logits_BLV is not None]
    assert torch.equal(silent, said[1])
    assert all((said[one] - said[other]).abs().max() > 0.01 for one, other in ((0, 1), (1, 2), (0, 2)))


def test_an_image_belongs_to_the_family_of_its_token(gated: Loaded, pictures: tuple[Image.Image, ...]) -> None:
    """Rows of other lengths and families, an image each, padded, against each alone."""
    rows = ([3, -200, 4, 5], [6, 7, -200, 8, 9, 10])
    pixels = pixels_NCHW(pictures[:2], gated.config)
    assert pixels is not None
    ids_BT = torch.tensor([[*rows[0], 0, 0], rows[1]])
    mask_BT = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    families_BT = torch.tensor([[2] * 4 + [0] * 2, [0] * 6])
    with torch.no_grad():
        both = gated.model(ids_BT, pixels, attention_mask_BT=mask_BT, families_BT=families_BT)
        for number, (ids, family) in enumerate(zip(rows, (2, 0), strict=True)):
            ids_1T = torch.tensor([ids])
            alone = gated.model(ids_1T, pixels[number : number + 1], families_BT=torch.full_like(ids_1T, family))
            assert both.logits_BLV is not None
            assert alone.logits_BLV is not None
            found = both.logits_BLV[number, both.mask_BL[number]]
            torch.testing.assert_close(found, alone.logits_BLV[0], rtol=1e-4, atol=1e-4)


def test_requests_of_several_tasks_in_one_batch_are_answered_as_each_alone(gated: Loaded, engine: TorchEngine) -> None:
    """By family and by data set, with and without what is remembered of the same prompt."""
    talk = [Message(role="user", text="Is there a hepatic tumor in this CT image? You are a helpful assistant. " * 3)]
    samplings = [Sampling(max_new_tokens=8, task=task) for task in ("radvqa", "report", "masks", "", "answer")]
    for _ in range(2):
        tickets = [engine.submit(talk, sampling) for sampling in samplings]
        texts = [list(ticket)[-1] for ticket in tickets]
        alone = []
        for sampling in samplings:
            other = TorchEngine(gated, limits=Limits(slots=1, prefix_bytes=0))
            alone.append(other.generate([talk], sampling)[0])
            other.close()
        assert texts == alone
        assert texts[1] == texts[3]
        assert texts[0] == texts[4]
    assert len({one.text for one in alone}) == 3
    assert alone[0].prompt_tokens > 32
    assert engine.generate([talk], samplings[0])[0].reused_tokens > 0


def test_what_is_remembered_of_a_prompt_serves_its_family_alone(engine: TorchEngine) -> None:
    talk = [Message(role="user", text="You are a helpful language and vision assistant. " * 4)]
    reused = [engine.generate([talk], Sampling(max_new_tokens=1, task=task))[0].reused_tokens for task in FAMILIES]
    assert reused == [0, 0, 0]
    assert engine.generate([talk], Sampling(max_new_tokens=1, task="masks"))[0].reused_tokens > 0


def test_a_task_without_adapters_is_refused_with_those_there_are(engine: TorchEngine, loaded: Loaded) -> None:
    talk = [Message(role="user", text="yes")]
    with pytest.raises(DataError, match="task 'heart': this model has adapters for answer, report, segment"):
        engine.submit(talk, Sampling(task="heart"))
    plain = TorchEngine(loaded)
    with pytest.raises(DataError, match="task 'report': this model has no task adapters; leave it out"):
        plain.submit(talk, Sampling(task="report"))


def test_a_service_answers_by_the_adapters_of_the_task_that_it_is_told(engine: TorchEngine) -> None:
    talk = [Message(role="user", text="Is there a hepatic tumor?")]
    application = FastAPI()
    vlm.install(application, vlm.ModelService(engine=engine, digest="", dialect="demo", tenants=Tenants()))
    with live(application) as url, RemoteEngine(url) as remote:
        for task in ("masks", "answer", ""):
            sampling = Sampling(max_new_tokens=8, task=task)
            assert remote.generate([talk], sampling) == engine.generate([talk], sampling)
        with pytest.raises(DataError, match="this model has adapters for answer, report, segment"):
            remote.generate([talk], Sampling(task="heart"))


def test_a_recording_of_decoding_feeds_each_row_its_family(gated: Loaded) -> None:
    """The rounded-up rows, and again with other families."""
    model = gated.model
    network = Network(model, SlotCache(gated.config.llm, slots=5, dtype=model.dtype, device="cpu"))
    network.run([], [Piece(slot=slot, start=0, ids=[3, 4 + slot], family=slot) for slot in range(3)])
    recorded = RecordedDecoding(network, slots=4, spare=4, record=lambda work: work)
    for turn in range(2):
        said = [Said(slot=row, position=2 + turn, token=20 + row, family=(row + turn) % 3) for row in range(3)]
        torch.testing.assert_close(recorded.run(said), network.run(said, []), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["folders", "flat"])
def test_they_are_saved_in_a_folder_of_their_own_that_changes_no_other_file(
    gated: Loaded, loaded: Loaded, qwen2: Loaded, tmp_path: Path, layout: checkpoint.Layout
) -> None:
    plain = loaded if gated.config.llm == loaded.config.llm else qwen2
    for name, one in (("with", gated), ("without", plain)):
        checkpoint.save(one, tmp_path / name, layout=layout)
    again = checkpoint.load(tmp_path / "with")
    assert again.config.adapters == gated.config.adapters
    assert all(torch.equal(again.model.state_dict()[name], one) for name, one in gated.model.state_dict().items())
    files = {path.relative_to(tmp_path / "with") for path in (tmp_path / "with").rglob("*") if path.is_file()}
    others = {path for path in files if path.parts[0] != "adapters" and path.name != "digests.json"}
    assert {path.name for path in files - others} == {"config.json", "model.safetensors", "digests.json"}
    assert all((tmp_path / "with" / one).read_bytes() == (tmp_path / "without" / one).read_bytes() for one in others)
    digests = json.loads((tmp_path / "with" / "digests.json").read_text())
    assert {"adapters/config.json", "adapters/model.safetensors"} < digests.keys()
    checkpoint.convert(tmp_path / "with", tmp_path / "other", layout="flat" if layout == "folders" else "folders")
    other = checkpoint.load(tmp_path / "other").model.state_dict()
    assert all(torch.equal(other[name], one) for name, one in gated.model.state_dict().items())


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"adapters/config.json: is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), r"not readable as a JSON object"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"not readable as a JSON object"),
        (lambda folder: _rewrite(folder, adapter_type="other"), r"adapter_type='other': only 'task_gated_low_rank'"),
        (lambda folder: _rewrite(folder, default="heart"), r"default='heart': is none of the families"),
        (lambda folder: _rewrite(folder, rank="a"), r"adapters/config.json rank: "),
        (lambda folder: _rewrite(folder, rank=0), r"must be more than zero"),
        (lambda folder: _rewrite(folder, shape=1), r"adapters/config.json shape: "),
        (lambda folder: _rewrite(folder, rank=3), r"adapters/model.safetensors tensor .*gated_a: shape"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"adapters: holds neither model.safetensors"),
    ],
)
def test_what_is_damaged_is_named(loaded: Loaded, tmp_path: Path, damage: object, sentence: str) -> None:
    checkpoint.save(adapted(loaded, ROUTED), tmp_path / "model")
    (tmp_path / "model" / "digests.json").unlink()
    assert callable(damage)
    damage(tmp_path / "model" / "adapters")
    with pytest.raises(CheckpointError, match=sentence):
        checkpoint.load(tmp_path / "model")


def _rewrite(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))


def test_a_flipped_bit_is_found(loaded: Loaded, tmp_path: Path) -> None:
    checkpoint.save(adapted(loaded, ROUTED), tmp_path / "model")
    file = tmp_path / "model" / "adapters" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"adapters/model.safetensors: its SHA-256 is not the one recorded"):
        checkpoint.load(tmp_path / "model")


def test_inspect_shows_them(loaded: Loaded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save(adapted(loaded, ROUTED), tmp_path / "model")
    assert main(["model", "inspect", str(tmp_path / "model")]) == 0
    told = capsys.readouterr().out
    assert "adapters        answer (vqa, radvqa); report (reports); segment (masks); default report, 3 x rank 2" in told
    assert main(["model", "inspect", "--json", str(tmp_path / "model")]) == 0
    found = json.loads(capsys.readouterr().out)
    stored = sum(one.numel() for name, one in adapted(loaded, ROUTED).model.state_dict().items() if ".gated_" in name)
    assert found["parameters"]["adapters"] == stored
    assert found["parameters"]["llm"] == sum(one.numel() for one in loaded.model.llm.state_dict().values())
    assert found["config"]["adapters"]["families"]["report"] == ["reports"]


@pytest.mark.parametrize("base", ["loaded", "qwen2"])
def test_a_single_family_is_merged_into_a_published_checkpoint(
    base: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    loaded: Loaded = request.getfixturevalue(base)
    whole = adapted(loaded, SINGLE)
    checkpoint.save(whole, tmp_path / "model")
    assert main(["model", "merge", str(tmp_path / "model"), "--task", "masks", "--out", str(tmp_path / "merged")]) == 0
    assert not (tmp_path / "merged" / "adapters").exists()
    merged = checkpoint.load(tmp_path / "merged")
    assert merged.model.state_dict().keys() == loaded.model.state_dict().keys()
    ids_BT = torch.tensor([[3, 4, 5, 6, 7]])
    with torch.no_grad():
        expected = whole.model(ids_BT, families_BT=torch.full_like(ids_BT, 2)).logits_BLV
        torch.testing.assert_close(merged.model(ids_BT).logits_BLV, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("adapters", "task", "complaint"),
    [
        (ROUTED, "masks", "a router divides each token among 3 experts"),
        (SINGLE, "heart", "this model has adapters for answer, report, segment"),
        (None, "masks", "has no task adapters"),
    ],
)
def test_what_cannot_be_merged_is_refused(
    loaded: Loaded, tmp_path: Path, adapters: AdapterConfig | None, task: str, complaint: str
) -> None:
    checkpoint.save(loaded if adapters is None else adapted(loaded, adapters), tmp_path / "model")
    with pytest.raises((UserError, DataError), match=complaint):
        checkpoint.merged(checkpoint.load(tmp_path / "model"), task=task)


def test_an_engine_that_is_not_ours_refuses_them_before_it_loads(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(adapted(loaded, ROUTED), tmp_path / "model")
    points = EntryPoints([EntryPoint(name="other", group=engines.GROUP, value="nowhere:load")])
    monkeypatch.setattr(engines, "entry_points", points.select)
    with pytest.raises(
        CheckpointError, match=r"has task adapters \(answer, report, segment\), which engine other does"
    ):
        open_engine(tmp_path / "model", EngineChoice(kind="other"))
    shutil.rmtree(tmp_path / "model" / "adapters")
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        open_engine(tmp_path / "model", EngineChoice(kind="other"))
