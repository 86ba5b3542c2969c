"""`vilam3 corpus`: write a corpus in shards that training streams, or hold the shards against their index."""

# ruff: noqa: PLC0415 - heavy imports stay inside the run functions, so that --help is instant

import argparse
from pathlib import Path

from vilam3.cli.main import Verbs

MIB = 1 << 20
SHARD_EPILOG = """\
Shards are tar files as WebDataset lays them out; corpus.json names each by its SHA-256. `vilam3 train --corpus` takes
the place like any other corpus and fetches what the next steps need while it computes. --window decides in which order
samples are drawn: the same corpus with another window is another corpus. So it is with --held-out and --seed.

example: vilam3 corpus shard runs/corpus --out s3://bucket/corpus
         vilam3 corpus shard runs/corpus --out runs/streamed --shards s3://bucket/shards
"""


def register(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "corpus",
        help="write a corpus in shards, or check one",
        description="Work on a prepared corpus.",
        epilog="example: vilam3 corpus shard runs/corpus --out s3://bucket/corpus",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _register_shard(actions)
    _register_check(actions)


def _register_shard(actions: Verbs) -> None:
    parser = actions.add_parser(
        "shard",
        help="write a corpus in shards that training streams from disk or S3",
        description="Put conversations and pictures into shards, and take along what else the corpus has.",
        epilog=SHARD_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("corpus", type=Path, metavar="DIR", help="a prepared corpus")
    parser.add_argument("--out", required=True, metavar="PLACE", help="a folder, or s3://bucket/prefix")
    parser.add_argument(
        "--shards", default="", metavar="PLACE", help="where the shards go instead of below --out: s3:// or file://"
    )
    parser.add_argument("--samples", type=int, default=512, metavar="N", help="most of a shard (%(default)s)")
    parser.add_argument("--mib", type=int, default=128, metavar="N", help="most of a shard (%(default)s)")
    parser.add_argument(
        "--window", type=int, default=16, metavar="N", help="shards whose samples are shuffled together (%(default)s)"
    )
    parser.add_argument(
        "--held-out",
        type=int,
        default=0,
        metavar="N",
        help="samples, of whole patients, for validation_samples of a recipe, at least; nothing is learned from them",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="chooses whom to hold out (%(default)s)")
    parser.set_defaults(run=_shard)


def _register_check(actions: Verbs) -> None:
    parser = actions.add_parser(
        "check",
        help="read every shard of a corpus and hold it against the index",
        description="Read every shard and hold it against its SHA-256. Exit code 0 when all are as the index says.",
        epilog="example: vilam3 corpus check s3://bucket/corpus",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("corpus", metavar="PLACE", help="a corpus in shards: a folder or s3://")
    parser.set_defaults(run=_check)


def _shard(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from vilam3.corpus.sharding import Cut, HeldOut, shard_corpus
    from vilam3.data.shards import MOST_MIXED
    from vilam3.errors import UserError

    for flag, number in (("samples", arguments.samples), ("mib", arguments.mib), ("window", arguments.window)):
        if number < 1:
            raise UserError(f"--{flag}={number}: must be at least 1")
    if arguments.window > MOST_MIXED:
        raise UserError(f"--window={arguments.window}: must be at most {MOST_MIXED}; make shards larger instead")
    if arguments.held_out < 0:
        raise UserError(f"--held-out={arguments.held_out}: must not be negative")
    cut = Cut(max_samples=arguments.samples, max_bytes=arguments.mib * MIB, mixed_shards=arguments.window)
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("samples", total=None, visible=False)
        index = shard_corpus(
            arguments.corpus,
            out=arguments.out,
            at=arguments.shards,
            cut=cut,
            held_out=HeldOut(num_samples=arguments.held_out, seed=arguments.seed),
            on_progress=lambda done, total: progress.update(bar, completed=done, total=total, visible=True),
        )
    shards = list(index.shards())
    size = sum(shard.num_bytes for shard in shards) / MIB
    samples = ", ".join(f"{count} {name}" for name, count in index.sizes.items())
    samples += f", {sum(index.held_out_sizes.values())} held out" if index.held_out else ""
    print(f"{arguments.out}: {samples}; {len(shards)} shards, {size:.1f} MiB; digest {index.digest[:12]}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from vilam3.train.sources import brought_corpus
    from vilam3.train.streamed import check_shards

    index = check_shards(brought_corpus(arguments.corpus))
    samples = sum(shard.num_samples for shard in index.shards())
    print(f"{arguments.corpus}: {len(list(index.shards()))} shards, {samples} samples, all as the index says")
    return 0
