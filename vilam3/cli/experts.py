"""`vilam3 experts`: list, run, parse, overlay and fit expert models."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vilam3.cli.main import Verbs
from vilam3.experts.fitting import fittable

if TYPE_CHECKING:
    from vilam3.data.study import Study
    from vilam3.experts.protocol import ExpertResult

EXPERTS = Path("experts")
CORPUS = Path("corpus")
EXAMPLES = """examples:
  vilam3 experts list --experts experts
  vilam3 experts run --experts experts --expert VISTA3D --argument "hepatic tumor" --image scan.nii.gz --out finding
  vilam3 experts parse "Let me trigger <VISTA3D(hepatic tumor)>."
  vilam3 experts overlay --expert VISTA3D --image ct.nii.gz --mask mask.nii.gz --slice 40 --out picture
  vilam3 experts fit --expert cxr --corpus corpus --out experts --steps 600
"""
LIST_EXAMPLE = "example:\n  vilam3 experts list --experts experts --json"
RUN_EXAMPLE = """example:
  vilam3 experts run --experts experts --expert VISTA3D --argument "hepatic tumor" --image scan.nii.gz --out finding
"""
PARSE_EXAMPLE = 'example:\n  vilam3 experts parse "Let me trigger <VISTA3D(hepatic tumor)>."'
OVERLAY_EXAMPLE = """example:
  vilam3 experts overlay --expert VISTA3D --image ct.nii.gz --mask mask.nii.gz --slice 40 --out picture
"""
FIT_EXAMPLE = "example:\n  vilam3 experts fit --expert vista3d --corpus corpus --out experts --steps 500"
Add = Callable[..., argparse.ArgumentParser]


def register(verbs: Verbs) -> None:
    """Add the verb and its actions."""
    parser = verbs.add_parser(
        "experts",
        help="list, run, parse, overlay or fit expert models",
        description="The expert models that the language model consults.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for add in (_add_list, _add_run, _add_parse, _add_overlay, _add_fit):
        add(actions)


def _action(actions: Any, name: str, *, help: str, epilog: str, run: Callable[[argparse.Namespace], None]) -> Any:  # noqa: A002, ANN401 - as argparse calls it and has it
    parser = actions.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _experts_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--experts",
        type=Path,
        default=EXPERTS,
        metavar="DIR",
        help="holds vista3d/, brats_mri_segmentation/ and cxr/ (experts)",
    )


def _dialect_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dialect", choices=("demo", "training"), default="demo", help="wording of the text (demo)")


def _add_list(actions: Any) -> None:  # noqa: ANN401 - argparse has no public type for it
    parser = _action(actions, "list", help="say which experts are at hand", epilog=LIST_EXAMPLE, run=list_experts)
    _experts_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_run(actions: Any) -> None:  # noqa: ANN401 - likewise
    parser = _action(actions, "run", help="run one expert on a study", epilog=RUN_EXAMPLE, run=run_expert)
    _experts_option(parser)
    parser.add_argument("--expert", required=True, metavar="NAME", help="VISTA3D, BRATS, CXR or an added one")
    parser.add_argument("--argument", default="", metavar="A", help="such as 'hepatic tumor'; nothing means everything")
    parser.add_argument("--image", type=Path, required=True, metavar="PATH", help="DICOM, NIfTI, PNG, folder or zip")
    parser.add_argument("--modality", choices=("CT", "MRI", "CXR"), help="where the file does not say it")
    parser.add_argument("--slice", type=int, metavar="I", help="axial slice, 0 is the lowest (the middle one)")
    parser.add_argument("--point", type=_point, action="append", metavar="LABEL=X,Y,Z", help="it is here (RAS mm)")
    parser.add_argument("--not-point", type=_point, action="append", metavar="LABEL=X,Y,Z", help="it is not here")
    parser.add_argument("--device", default="cpu", help="torch device (cpu)")
    _dialect_option(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to write")


def _add_parse(actions: Any) -> None:  # noqa: ANN401 - likewise
    parser = _action(
        actions,
        "parse",
        help="print what a reply of the language model triggers",
        epilog=PARSE_EXAMPLE,
        run=parse_reply,
    )
    parser.add_argument("reply", metavar="REPLY", help="the reply")
    parser.add_argument("--several", action="store_true", help="serve every trigger, not only a single one")


def _add_overlay(actions: Any) -> None:  # noqa: ANN401 - likewise
    parser = _action(
        actions,
        "overlay",
        help="write a slice, its overlay and the text that goes back to the model",
        epilog=OVERLAY_EXAMPLE,
        run=draw_overlay,
    )
    parser.add_argument("--expert", choices=("VISTA3D", "BRATS"), required=True, help="whose wording and window")
    parser.add_argument(
        "--image", type=Path, nargs="+", required=True, metavar="VOL", help="NIfTI; of several the first is drawn on"
    )
    parser.add_argument("--mask", type=Path, required=True, metavar="MASK", help="NIfTI with label ids, same grid")
    parser.add_argument("--slice", type=int, metavar="I", help="axial slice, 0 is the lowest (the middle one)")
    _dialect_option(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to write")


def _add_fit(actions: Any) -> None:  # noqa: ANN401 - likewise
    parser = _action(actions, "fit", help="fit a small expert to a corpus", epilog=FIT_EXAMPLE, run=fit)
    parser.add_argument("--expert", choices=fittable(), required=True)
    parser.add_argument(
        "--corpus", type=Path, default=CORPUS, metavar="DIR", help="as vilam3 prepare writes it (corpus)"
    )
    parser.add_argument("--out", type=Path, default=EXPERTS, metavar="DIR", help="directory of experts (experts)")
    parser.add_argument("--steps", type=int, default=500, help="optimizer steps (500)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, crops and noise (0)")


def list_experts(arguments: argparse.Namespace) -> None:
    """Print the experts at hand and why others are not."""
    from vilam3.experts.registry import Registry  # noqa: PLC0415 - keeps --help instant

    registry = Registry.load(arguments.experts)
    described = registry.describe()
    if arguments.json:
        print(json.dumps({"experts": described, "absent": dict(registry.absent)}, indent=2))
        return
    for entry in described:
        takes = ", ".join(entry["arguments"]) or "no argument"
        print(f"{entry['name']:8}  {entry['modality']:4} {entry['version']:16} {takes}")
    for name, reason in registry.absent.items():
        print(f"{name:8}  absent: {reason}")


def run_expert(arguments: argparse.Namespace) -> None:
    """Run one expert and write its text, picture, mask and record."""
    from vilam3.data.intake import read_study  # noqa: PLC0415 - keeps --help instant
    from vilam3.experts.protocol import ExpertCall, Point  # noqa: PLC0415 - likewise
    from vilam3.experts.registry import Registry  # noqa: PLC0415 - likewise

    registry = Registry.load(
        arguments.experts, dialect=arguments.dialect, only=[arguments.expert], device=arguments.device
    )
    study = read_study(arguments.image, modality=arguments.modality)
    call = ExpertCall(expert=arguments.expert, argument=arguments.argument)
    points = [Point(xyz_mm=xyz_mm, label=label) for label, xyz_mm in arguments.point or ()]
    points += [Point(xyz_mm=xyz_mm, label=label, positive=False) for label, xyz_mm in arguments.not_point or ()]
    result = registry.run(call, study, slice_index=arguments.slice, points=points)
    _write_result(arguments.out, result, study)
    print(result.text)


def parse_reply(arguments: argparse.Namespace) -> None:
    """Print what a reply triggers; a reply that triggers nonsense is parsed as well, so the exit code is 0."""
    from vilam3.errors import ExpertError  # noqa: PLC0415 - keeps --help instant
    from vilam3.experts.facts import ARGUMENTS  # noqa: PLC0415 - likewise
    from vilam3.experts.trigger import Grammar  # noqa: PLC0415 - likewise

    parsed: dict[str, Any] = {"calls": [], "error": None}
    try:
        calls = Grammar(ARGUMENTS, several=arguments.several).parse(arguments.reply)
        parsed["calls"] = [{"expert": call.expert, "argument": call.argument} for call in calls]
    except ExpertError as error:
        parsed["error"] = str(error)
    print(json.dumps(parsed))


def draw_overlay(arguments: argparse.Namespace) -> None:
    """Write slice.png, overlay.png and text.txt for a given segmentation."""
    from vilam3.artifacts import whole_directory  # noqa: PLC0415 - keeps --help instant
    from vilam3.experts.given import drawn  # noqa: PLC0415 - likewise

    pictures = drawn(
        arguments.image[0],
        arguments.mask,
        expert=arguments.expert,
        dialect=arguments.dialect,
        slice_index=arguments.slice,
    )
    with whole_directory(arguments.out) as partial:
        pictures.slice_picture.save(partial / "slice.png")
        pictures.overlay.save(partial / "overlay.png")
        (partial / "text.txt").write_bytes(pictures.text.encode())
    print(pictures.text)


def fit(arguments: argparse.Namespace) -> None:
    """Fit a small expert, show progress, print its measures."""
    from rich.console import Console  # noqa: PLC0415 - keeps --help instant
    from rich.progress import Progress  # noqa: PLC0415 - likewise

    from vilam3.experts.fitting import fit_expert  # noqa: PLC0415 - likewise

    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(arguments.expert, total=arguments.steps)

        def show(done: int, _total: int, loss: float) -> None:
            progress.update(task, completed=done, description=f"{arguments.expert} loss {loss:.3f}")

        metrics = fit_expert(
            arguments.expert,
            arguments.corpus,
            arguments.out,
            steps=arguments.steps,
            seed=arguments.seed,
            on_progress=show,
        )
    print(json.dumps(metrics, indent=2))


def _point(text: str) -> tuple[str, tuple[float, float, float]]:
    label, _, place = text.partition("=")
    try:
        x, y, z = (float(number) for number in place.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LABEL=X,Y,Z, such as 'liver=62,18,12'") from None
    return label, (x, y, z)


def _write_result(out: Path, result: "ExpertResult", study: "Study") -> None:
    from vilam3.artifacts import whole_directory  # noqa: PLC0415 - keeps --help instant
    from vilam3.data.nifti import write_label_map  # noqa: PLC0415 - likewise

    record = {
        "text": result.text,
        "colors": dict(result.colors),
        "scores": dict(result.scores),
        "measurements": [asdict(measurement) for measurement in result.measurements],
        "provenance": asdict(result.provenance),
        "warnings": list(study.warnings),
    }
    with whole_directory(out) as partial:
        (partial / "text.txt").write_bytes(result.text.encode())
        (partial / "result.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if result.overlay is not None:
            result.overlay.save(partial / "overlay.png")
        if result.mask is not None:
            write_label_map(
                partial / "mask.nii.gz", result.mask.ids_XYZ, like=study.volumes[0], names=result.mask.names
            )
