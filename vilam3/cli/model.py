"""`vilam3 model`: fetch a checkpoint, look into it, write it in the other layout, probe its numbers."""

# ruff: noqa: PLC0415 - heavy imports stay inside the run functions, so that --help is instant

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from vilam3.cli.main import Verbs

if TYPE_CHECKING:
    from vilam3.model.config import VilaConfig
    from vilam3.model.inspect import Inspection

GIGABYTE = 1_000_000_000
FAMILIES = {"llama": "Llama", "qwen2": "Qwen2"}
TOWERS = {"siglip_vision_model": "SigLIP", "intern_vit_6b": "InternViT"}
PROBE_EPILOG = """\
Each line of the input is one case, one of:
  {"name": "a", "messages": [{"role": "user", "content": [{"type": "text", "text": "<image>Is there a tumor?"},
                                                          {"type": "image_path", "image_path": "a.png"}]}]}
  {"name": "b", "input_ids": [128000, -200, 9], "images": ["b.png"]}
Where the model puts something behind every image of its own accord, as NVILA does a line break, input_ids has its id.
Relative image paths start at the input file's folder. For each case DIR gets NAME.json (prompt, input_ids, n_embedded,
greedy_ids) and NAME.npz (last_logprobs: float32, the whole vocabulary, after the last prompt position). Everything is
computed in float32.

example: vilam3 model probe --checkpoint runs/latest/model --input cases.jsonl --out probe --greedy 24
"""


def register(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "model",
        help="fetch, inspect, convert or probe a checkpoint",
        description="Work on a checkpoint directory, in the published three-folder layout or in the flat one.",
        epilog="example: vilam3 model inspect runs/latest/model",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _register_fetch(actions)
    _register_inspect(actions)
    _register_convert(actions)
    _register_merge(actions)
    _register_probe(actions)


def _register_fetch(actions: Verbs) -> None:
    parser = actions.add_parser(
        "fetch",
        help="bring the files of a checkpoint or an expert here",
        description="Copy everything below a place; S3 endpoint and keys come from the AWS variables.",
        epilog="example: vilam3 model fetch --source s3://bucket/vila-m3-8b --out weights/vila-m3-8b\n"
        "         vilam3 model fetch --source models:/vila-m3@champion --out weights/champion",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--source", required=True, metavar="URI", help="s3://, file:///, or models:/name@alias")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="written whole or not at all")
    parser.set_defaults(run=_fetch)


def _register_inspect(actions: Verbs) -> None:
    parser = actions.add_parser(
        "inspect",
        help="print architecture, sizes, tensors that do not match, licence",
        description="Read configuration and file headers; no weight is loaded. Exit code 2 when it would not load.",
        epilog="example: vilam3 model inspect runs/latest/model",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.set_defaults(run=_inspect)


def _register_convert(actions: Verbs) -> None:
    parser = actions.add_parser(
        "convert",
        help="write a checkpoint in the other layout, or with what its files leave open",
        description="Write the same weights, bit for bit, in the flat or the three-folder layout, with digests. What a "
        "checkpoint's files leave open and you know is written into the new one.",
        epilog="example: vilam3 model convert runs/latest/model --out flat --layout flat\n"
        "         vilam3 model convert NVILA_LITE --out base --layout folders --images resize",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="written whole or not at all")
    parser.add_argument("--layout", choices=("flat", "folders"), default="flat", help="default: flat")
    parser.add_argument("--max-shard-gb", type=float, default=5.0, help="largest weight file in gigabytes (default: 5)")
    parser.add_argument(
        "--image-order",
        choices=("column", "row"),
        help="how an image's tokens follow each other: VILA 1.5 goes down columns",
    )
    parser.add_argument(
        "--images", choices=("resize",), help="take each picture as a whole, whatever the file says of tiles"
    )
    parser.add_argument("--template", metavar="NAME", help="conversation template the weights were trained with")
    parser.set_defaults(run=_convert)


def _register_merge(actions: Verbs) -> None:
    parser = actions.add_parser(
        "merge",
        help="make the adapters of one task part of the language model",
        description="Write a checkpoint in the published layout that does what one with task adapters does for one "
        "task. Only where each family of tasks has one expert: no single matrix does what a router among several does.",
        epilog="example: vilam3 model merge runs/latest/model --task report --out reporter",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, metavar="DIR")
    parser.add_argument("--task", required=True, metavar="T", help="a family of tasks, or a name that counts to one")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="written whole or not at all")
    parser.set_defaults(run=_merge)


def _register_probe(actions: Verbs) -> None:
    parser = actions.add_parser(
        "probe",
        help="write prompts, ids and log-probabilities of given cases",
        description="Hold this model against another implementation: its numbers on cases you choose.",
        epilog=PROBE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR")
    parser.add_argument("--input", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="written whole or not at all")
    parser.add_argument(
        "--template", metavar="NAME", help="v1, vicuna_v1, llama_3, hermes-2, qwen2 or plain (default: its own)"
    )
    parser.add_argument("--greedy", type=int, default=24, metavar="N", help="most greedy tokens (default: 24)")
    parser.add_argument(
        "--cue",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="end the prompt with the assistant's cue; by default as published: for llama_3 and qwen2 alone",
    )
    parser.set_defaults(run=_probe)


def _fetch(arguments: argparse.Namespace) -> int:
    from vilam3.weights import fetch

    num_bytes = fetch(arguments.source, arguments.out)
    print(f"{arguments.out}: {num_bytes / GIGABYTE:.3f} GB from {arguments.source}")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from vilam3.model.inspect import inspect

    found = inspect(arguments.checkpoint)
    if arguments.json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        _print(found)
    return 0 if found.is_usable else 2


def _print(found: "Inspection") -> None:
    config = found.config
    llm, vision = config.llm, config.vision
    lines = {
        "checkpoint": f"{found.path} ({found.layout}, {found.num_files} files, {found.num_bytes / GIGABYTE:.3f} GB)",
        "language model": f"{FAMILIES[llm.family]}, {llm.num_hidden_layers} layers, hidden {llm.hidden_size}, "
        f"{llm.num_attention_heads} heads ({llm.num_key_value_heads} KV), MLP {llm.intermediate_size}, "
        f"vocabulary {llm.vocab_size}, context {config.max_tokens}",
        "vision tower": f"{TOWERS[vision.model_type]}, {vision.num_hidden_layers} layers, hidden {vision.hidden_size}, "
        f"image {vision.image_size}, patch {vision.patch_size}, hidden state {config.select_layer}",
        "projector": f"{config.projector}, {config.merged_size} to {llm.hidden_size}; "
        f"{config.tokens_per_image} tokens per image, {config.image_order} by {config.image_order}"
        + (f", then {config.image_end!r}" if config.image_end else ""),
        "tokenizer": f"{found.tokenizer_size} entries",
        "template": found.template,
        "dialect": config.prompt_dialect,
        "adapters": _adapters(config),
        "parameters": ", ".join(f"{part} {count:,}" for part, count in found.parameters.items()),
        "stored as": ", ".join(f"{count} x {dtype}" for dtype, count in found.dtypes.items()),
        "missing": ", ".join(found.missing) or "none",
        "unexpected": ", ".join(found.unexpected) or "none",
        "wrong shape": "; ".join(found.misshapen) or "none",
        "licence": ", ".join(found.licences) or "no licence file in the directory",
        "digests": "present, all files match" if found.has_digests else "none",
    }
    for name, value in lines.items():
        print(f"{name:15} {value}")


def _adapters(config: "VilaConfig") -> str:
    adapters = config.adapters
    if adapters is None:
        return "none"
    families = "; ".join(f"{name} ({', '.join(adapters.families[name])})" for name in adapters.names)
    return f"{families}; default {adapters.default}, {adapters.experts} x rank {adapters.rank} each"


def _merge(arguments: argparse.Namespace) -> int:
    from vilam3.model.checkpoint import load, merged, refuse_to_replace, save

    refuse_to_replace(arguments.out, source=arguments.checkpoint)
    save(merged(load(arguments.checkpoint, dtype=None), task=arguments.task), arguments.out)
    print(arguments.out)
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from vilam3.model.checkpoint import convert
    from vilam3.model.config_files import Stated

    convert(
        arguments.checkpoint,
        arguments.out,
        layout=arguments.layout,
        stated=Stated(image_order=arguments.image_order, images=arguments.images, template=arguments.template),
        max_shard_bytes=int(arguments.max_shard_gb * GIGABYTE),
    )
    print(arguments.out)
    return 0


def _probe(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from vilam3.model.checkpoint import load
    from vilam3.model.probe import probe, read_cases

    cases = read_cases(arguments.input)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("loading the checkpoint", total=len(cases))
        loaded = load(arguments.checkpoint, template=arguments.template)

        def advance(name: str) -> None:
            progress.update(task, advance=1, description=f"probed {name}")

        probe(
            loaded,
            cases,
            arguments.out,
            images_root=arguments.input.parent,
            num_greedy=arguments.greedy,
            cue=arguments.cue,
            on_progress=advance,
        )
    print(arguments.out)
    return 0
