"""`vilam3 graph`: the InferenceGraph of a release, generated from the experts that it has."""

import argparse
from pathlib import Path

from vilam3.cli.main import Verbs
from vilam3.errors import UserError

EXAMPLE = """examples:
  vilam3 graph --rounds 4 --namespace medical --out graph.json
  vilam3 graph --experts runs/latest/experts
  vilam3 graph --rounds 2 --expert VISTA3D=http://127.0.0.1:8082 --vlm http://127.0.0.1:8081

--experts names a directory whose experts are meant, added ones included; without it and --expert the three published
ones are. An expert without an address is that of the release's own
service in the namespace. What is written is JSON, which is YAML: kubectl apply -f takes it."""
MOST_ROUNDS = 8


def register(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "graph",
        help="write the InferenceGraph of a release",
        description="Write the acyclic InferenceGraph: model, switch over experts, model, as many rounds as told.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=4, metavar="N", help="most rounds of experts (%(default)s)")
    parser.add_argument("--release", default="vilam3", metavar="NAME", help="of the Helm release (%(default)s)")
    parser.add_argument("--namespace", metavar="NAME", help="of the object and of the services (default)")
    parser.add_argument("--vlm", metavar="URL", help="the language model's address, if it is not the release's own")
    parser.add_argument(
        "--expert",
        action="append",
        metavar="NAME[=URL]",
        help="an expert of the graph; repeat it (the published three)",
    )
    parser.add_argument("--experts", type=Path, metavar="DIR", help="all experts whose weights are in this directory")
    parser.add_argument("--step-s", type=int, default=600, metavar="S", help="longest time for one step (%(default)s)")
    parser.add_argument("--whole-s", type=int, default=1800, metavar="S", help="longest time for all (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write (standard output)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Generate and write."""
    from vilam3.artifacts import write_text  # noqa: PLC0415 - keep --help instant
    from vilam3.graph import Timeouts, document, inference_graph  # noqa: PLC0415 - likewise

    if not 0 <= arguments.rounds <= MOST_ROUNDS:
        raise UserError(f"--rounds {arguments.rounds}: a question may have 0 to {MOST_ROUNDS} rounds of experts")
    graph = inference_graph(
        _addresses(arguments),
        rounds=arguments.rounds,
        name=arguments.release,
        namespace=arguments.namespace,
        timeouts=Timeouts(step_s=arguments.step_s, whole_s=arguments.whole_s),
    )
    text = document(graph)
    if arguments.out is None:
        print(text, end="")
    else:
        write_text(arguments.out, text)
    return 0


def _addresses(arguments: argparse.Namespace) -> dict[str, str]:
    from vilam3.graph import MODEL, service_urls  # noqa: PLC0415 - keep --help instant
    from vilam3.services.http import check_url  # noqa: PLC0415 - likewise

    if unnamed := [option for option in arguments.expert or () if not option.partition("=")[0].isidentifier()]:
        raise UserError(f"--expert {unnamed[0]}: write NAME or NAME=URL, such as VISTA3D")
    told = dict(option.partition("=")[::2] for option in arguments.expert or ())
    given = {**dict.fromkeys(_names(arguments), ""), **told}
    own = service_urls(list(given), release=arguments.release, namespace=arguments.namespace or "default")
    urls = {MODEL: check_url(arguments.vlm, option="--vlm") if arguments.vlm else own[MODEL]}
    for name, url in given.items():
        urls[name] = check_url(url, option=f"--expert {name}=") if url else own[name]
    return urls


def _names(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Experts that are meant without being told one by one."""
    if arguments.experts is not None:
        from vilam3.experts.registry import Registry  # noqa: PLC0415 - torch and MONAI take seconds to import

        return Registry.load(arguments.experts).names
    from vilam3.experts.trigger import PUBLISHED_ORDER  # noqa: PLC0415 - keep --help instant

    return () if arguments.expert else PUBLISHED_ORDER
