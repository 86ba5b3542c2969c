"""`vilam3 ask`: one question about one study, to a running server or to a model that it loads itself."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from vilam3.cli.main import Verbs
from vilam3.data.sample import Modality
from vilam3.errors import NotFoundError, UserError

EXAMPLE = """examples:
  vilam3 ask --image scan.dcm "Is there a hepatic tumor?"
  vilam3 ask --server http://127.0.0.1:8080 --image t1c.nii.gz --image t1.nii.gz --image t2.nii.gz \\
    --image flair.nii.gz --slice 70 "Is there an enhancing tumor?"

  vilam3 ask --image dicomweb://pacs/studies/1.2.3 --scope volume --stow "Is there a hepatic tumor?"

Without --server the model of the latest run is loaded; --model and --experts name another. A server that wants an API
key gets the one in VILAM3_API_KEY."""
LATEST = Path("runs/latest")
LABEL_WIDTH = 10
PICTURES = ("overlay_url", "mask_url", "segmentation_url")


def register(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "ask",
        help="ask a question about a study",
        description="Ask a question about a study, print the conversation and save what the experts drew.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("question", help="what you want to know")
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        type=_image,
        metavar="PATH",
        help="DICOM file, folder or zip, NIfTI, PNG or JPEG, or where such lie: https://, s3://, "
        "dicomweb://pacs/studies/UID; repeat it for the files of one study",
    )
    parser.add_argument("--slice", type=int, metavar="I", help="axial slice, 0 is the lowest (default: the middle one)")
    parser.add_argument(
        "--scope",
        choices=("slice", "volume"),
        default="slice",
        help="volume: experts show the slice with the most of what they looked for (default: %(default)s)",
    )
    parser.add_argument("--modality", choices=get_args(Modality), help="overrides what the files say")
    parser.add_argument("--no-experts", action="store_true", help="ask the model alone")
    parser.add_argument("--task", default="", metavar="T", help="whose adapters a model with task adapters is to use")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("answer"),
        metavar="DIR",
        help="for overlays, masks, DICOM segmentations, answer.json, report.json",
    )
    parser.add_argument("--stow", action="store_true", help="store the segmentations in the PACS too")
    parser.add_argument("--server", metavar="URL", help="a running server, such as http://127.0.0.1:8080")
    parser.add_argument("--model", metavar="DIR", help="checkpoint directory or models:/name@alias to load instead")
    parser.add_argument("--experts", type=Path, metavar="DIR", help="expert bundles beside --model")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask, print, save."""
    if arguments.server and (arguments.model or arguments.experts):
        raise UserError("--server and --model: a server has its own model; give one of the two")
    if arguments.scope == "volume" and arguments.slice is not None:
        raise UserError("--scope volume and --slice: a question about the volume has no slice; give one of the two")
    answer = _ask_server(arguments) if arguments.server else _ask_here(arguments)
    from vilam3.artifacts import write_json  # noqa: PLC0415 - keep --help instant

    write_json(arguments.out / "answer.json", answer)
    write_json(arguments.out / "report.json", _report(answer))
    if arguments.stow and not arguments.server:
        _stow_here(answer)
    return 0


def _image(text: str) -> Path | str:
    """A path, or an address elsewhere as it is."""
    from vilam3.sources.schemes import is_elsewhere  # noqa: PLC0415 - keep --help instant

    return text if is_elsewhere(text) else Path(text)


def _report(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What can be measured on the segmentations that were saved."""
    from vilam3.data.nifti import read_label_map  # noqa: PLC0415 - keep --help instant
    from vilam3.experts.protocol import LabelMap  # noqa: PLC0415 - likewise
    from vilam3.results.report import report  # noqa: PLC0415 - likewise

    masks = {}
    for number, call in enumerate(answer["expert_calls"]):
        if call.get("mask_url"):
            ids_XYZ, affine, names = read_label_map(Path(call["mask_url"]).read_bytes())
            masks[number] = LabelMap(ids_XYZ=ids_XYZ, affine_RAS=affine, names=names)
    return report(answer, masks)


def _stow_here(answer: Mapping[str, Any]) -> None:
    """Store what was saved, from here."""
    from vilam3.sources.pacs import URL_VARIABLE, Pacs  # noqa: PLC0415 - keep --help instant

    pacs = Pacs.from_environment()
    if pacs is None:
        raise UserError(f"--stow: no PACS is known here; name one in {URL_VARIABLE}, or ask a --server that knows one")
    for call in answer["expert_calls"]:
        if call.get("segmentation_url"):
            uid = pacs.store(Path(call["segmentation_url"]).read_bytes(), where="--stow")
            _say("stored", f"the segmentation of {call['expert']} in the PACS as {uid}")


def _ask_server(arguments: argparse.Namespace) -> dict[str, Any]:
    from vilam3.remote import Server  # noqa: PLC0415 - keep --help instant

    with Server(arguments.server) as server:
        study_id = None
        if arguments.image:
            study = _send(server, arguments)
            study_id = study["id"]
            _say_study(study["modality"], study["num_slices"], arguments.slice)
        try:
            events = server.ask(arguments.question, study_id=study_id, **_extras(arguments))
            return _follow(events, server, arguments.out, stow=arguments.stow)
        finally:
            if study_id is not None:
                server.forget(study_id)


def _send(server: Any, arguments: argparse.Namespace) -> dict[str, Any]:  # noqa: ANN401 - imported late
    """Upload what is here, or let the server fetch what is elsewhere."""
    elsewhere = [image for image in arguments.image if isinstance(image, str)]
    if elsewhere and len(elsewhere) < len(arguments.image):
        raise UserError("--image: some are here and some elsewhere; bring all of one study to one place")
    study: dict[str, Any] = (server.name if elsewhere else server.upload)(arguments.image, modality=arguments.modality)
    return study


def _follow(events: Iterator[dict[str, Any]], server: Any, out: Path, *, stow: bool) -> dict[str, Any]:  # noqa: ANN401 - imported late
    """Print events as they come; returns the answer, with files where the server had URLs."""
    saved: dict[str, str] = {}
    answer: dict[str, Any] = {}
    answer_id = ""
    for event in events:
        if event["event"] == "expert.finished":
            saved |= _fetch(event, server, out)
            answer_id = answer_id or _answer_of(event.get("segmentation_url"))
        answer = {**event, **_localised(event, saved)}
        if event["event"] == "answer":
            answer["expert_calls"] = [{**call, **_localised(call, saved)} for call in event["expert_calls"]]
        _show(answer)
    if stow:
        _stow_there(answer_id, server)
    return answer


def _stow_there(answer_id: str, server: Any) -> None:  # noqa: ANN401 - imported late
    if not answer_id:
        raise UserError("--stow: the answer has no segmentation of DICOM images, so there is nothing to store")
    for stored in server.stow(answer_id):
        _say("stored", f"segmentation {stored['number']} in the PACS as {stored['sop_instance_uid']}")


def _ask_here(arguments: argparse.Namespace) -> dict[str, Any]:
    from vilam3.direct import ask, read_images  # noqa: PLC0415 - keep --help instant
    from vilam3.progress import waiting  # noqa: PLC0415 - likewise

    model, experts = _chosen(arguments)
    study = None
    if arguments.image:
        study = read_images(arguments.image, modality=arguments.modality, question=arguments.question)
        _say_study(study.modality, study.num_slices, arguments.slice)
    with waiting("loading the model"):
        from vilam3.consultant import load  # noqa: PLC0415 - likewise

        consultant = load(model, experts=experts)
    return ask(
        consultant,
        arguments.question,
        study,
        slice_index=arguments.slice,
        whole=arguments.scope == "volume",
        with_experts=not arguments.no_experts,
        task=arguments.task,
        out=arguments.out,
        on_event=_show,
    )


def _chosen(arguments: argparse.Namespace) -> tuple[str, Path | None]:
    if arguments.model:
        return arguments.model, arguments.experts
    if not (LATEST / "model").is_dir():
        raise UserError(
            f"{LATEST / 'model'}: no such model; run make demo first, name one with --model DIR, or ask a --server URL"
        )
    experts = arguments.experts or LATEST / "experts"
    return str(LATEST / "model"), experts if experts.is_dir() or arguments.experts else None


def _extras(arguments: argparse.Namespace) -> dict[str, Any]:
    given = {
        "slice_index": arguments.slice,
        "scope": arguments.scope,
        "modality": arguments.modality,
        "experts": not arguments.no_experts,
        "task": arguments.task or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _fetch(event: Mapping[str, Any], server: Any, out: Path) -> dict[str, str]:  # noqa: ANN401 - imported late
    """Save what an expert drew; the file of each URL."""
    from vilam3.artifacts import whole_file  # noqa: PLC0415 - keep --help instant

    number = event["index"]
    names = (f"overlay-{number}.png", f"mask-{number}.nii.gz", f"segmentation-{number}.dcm")
    saved: dict[str, str] = {}
    for key, name in zip(PICTURES, names, strict=True):
        if not event.get(key):
            continue
        try:
            content = server.fetch(event[key])
        except NotFoundError:  # the expert looked and found nothing, so there is no segmentation to write
            saved[event[key]] = ""
            continue
        with whole_file(out / name) as partial:
            partial.write_bytes(content)
        saved[event[key]] = str(out / name)
    return saved


def _answer_of(url: str | None) -> str:
    """The answer that a URL of the server belongs to: ``/v1/results/<answer>/...``."""
    return (url or "").removeprefix("/v1/results/").partition("/")[0]


def _localised(record: Mapping[str, Any], saved: Mapping[str, str]) -> dict[str, str]:
    return {key: saved[record[key]] for key in PICTURES if record.get(key) in saved}


def _show(event: Mapping[str, Any]) -> None:
    """Print what a reader wants to know of an event."""
    match event["event"]:
        case "reply.finished":
            _say("model", event["text"])
        case "expert.started":
            argument = f" ({event['argument']})" if event["argument"] else ""
            _say("expert", f"{event['expert']}{argument} is consulted")
        case "expert.failed":
            _say("expert", f"{event['expert']} could not be used: {event['error']}")
        case "expert.finished":
            _say("expert", f"{event['expert']}, {event['seconds']:.1f} s: {event['text'].strip()}")
            for measurement in event["measurements"]:
                value = f"{measurement['value']:.4g} {measurement['unit']}"
                _say("", f"{measurement['label']}, {measurement['quantity']}: {value}")
            for key in PICTURES:
                if event.get(key):
                    _say("", f"saved {event[key]}")
        case "answer":
            _say("answer", event["answer"])
            for note in (*event["notes"], *event["warnings"]):
                _say("note", note)
            _say("", event["notice"])


def _say_study(modality: str, num_slices: int, chosen: int | None) -> None:
    slices = f", {num_slices} slices, slice {num_slices // 2 if chosen is None else chosen}" if num_slices > 1 else ""
    _say("study", f"{modality}{slices}")


def _say(label: str, text: str) -> None:
    first, *rest = text.splitlines() or [""]
    print(f"{label:{LABEL_WIDTH}}{first}")
    for line in rest:
        print(" " * LABEL_WIDTH + line)
