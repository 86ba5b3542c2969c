"""`vilam3 doctor`: say in sentences what this machine can do, and what to do about what it cannot."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from vilam3.cli.main import Verbs

EXAMPLE = """example:
  vilam3 doctor
  vilam3 doctor --json | jq '.findings[] | select(.state == "fail")'
"""


def register(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "doctor",
        help="say what this machine can do",
        description="Check Python, memory, disk, installed roles, accelerator, tracking server and object store.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs are written (runs)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print every finding; 2 when one of them is a failure."""
    from vilam3.doctor import examine  # noqa: PLC0415 - keeps --help instant

    findings = examine(runs=arguments.runs)
    failures = [finding for finding in findings if finding.state == "fail"]
    if arguments.json:
        print(json.dumps({"ok": not failures, "findings": [asdict(finding) for finding in findings]}, indent=2))
        return 2 if failures else 0
    for finding in findings:
        print(f"{finding.state:4}  {finding.name + ':':16} {finding.sentence}")
        if finding.remedy:
            print(f"{'':22} {finding.remedy}")
    print(f"\n{len(failures)} failed." if failures else "\nThis machine can run the demo: make demo")
    return 2 if failures else 0
