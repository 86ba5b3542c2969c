"""`vilam3 doctor`: say in sentences what this machine, or a cluster, can do, and what to do about what it cannot."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from vilam3.cli.main import Verbs

if TYPE_CHECKING:
    from vilam3.doctor import Finding

EXAMPLE = """example:
  vilam3 doctor
  vilam3 doctor --json | jq '.findings[] | select(.state == "fail")'
  vilam3 doctor --cluster --namespace vilam3 --need kserve --secret vilam3-api-keys:keys --accelerator nvidia.com/gpu

With --cluster it asks the Kubernetes of KUBECONFIG, or the one it runs in, and changes nothing there.
"""


def register(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "doctor",
        help="say what this machine or a cluster can do",
        description="Check Python, memory, disk, installed roles, accelerator, tracking server and object store.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs are written (runs)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    cluster = parser.add_argument_group("of a cluster")
    cluster.add_argument("--cluster", action="store_true", help="check a Kubernetes cluster instead of this machine")
    cluster.add_argument("--namespace", default="default", metavar="NAME", help="of the installation (default)")
    cluster.add_argument("--need", action="append", default=[], metavar="OPERATOR", help="it must have; repeat")
    cluster.add_argument("--secret", action="append", default=[], metavar="NAME:KEY", help="it must have; repeat")
    cluster.add_argument("--accelerator", default="", metavar="RESOURCE", help="its nodes must offer")
    cluster.add_argument("--storage-class", metavar="NAME", help="its claims will ask for; '' for the default one")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print every finding; 2 when one of them is a failure."""
    findings = _of_cluster(arguments) if arguments.cluster else _of_machine(arguments)
    failures = [finding for finding in findings if finding.state == "fail"]
    if arguments.json:
        print(json.dumps({"ok": not failures, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        well = "This cluster will do." if arguments.cluster else "This machine can run the demo: make demo"
        _show(findings, closing=f"{len(failures)} failed." if failures else well)
    return 2 if failures else 0


def _of_machine(arguments: argparse.Namespace) -> "list[Finding]":
    from vilam3.doctor import examine  # noqa: PLC0415 - keeps --help instant

    return examine(runs=arguments.runs)


def _of_cluster(arguments: argparse.Namespace) -> "list[Finding]":
    from vilam3 import platform  # noqa: PLC0415 - keeps --help instant
    from vilam3.errors import PrerequisiteError  # noqa: PLC0415 - likewise

    try:
        from vilam3.cluster import Cluster  # noqa: PLC0415 - the Kubernetes client is not on every machine
        from vilam3.cluster_doctor import Needs, examine  # noqa: PLC0415 - likewise
    except ModuleNotFoundError as error:
        raise PrerequisiteError(
            f"vilam3 doctor --cluster: {error.name} is not installed here; pip install 'vilam3[pipelines]' brings it"
        ) from error

    needs = Needs(
        operators=arguments.need,
        namespace=arguments.namespace,
        secrets=arguments.secret,
        accelerator=arguments.accelerator,
        storage_class=arguments.storage_class,
    )
    return examine(Cluster.connect(), needs, platform=platform.load())


def _show(findings: "Sequence[Finding]", *, closing: str) -> None:
    width = max(16, *(len(finding.name) + 1 for finding in findings))
    for finding in findings:
        print(f"{finding.state:4}  {finding.name + ':':{width}} {finding.sentence}")
        if finding.remedy:
            print(f"{'':{width + 6}} {finding.remedy}")
    print(f"\n{closing}")
