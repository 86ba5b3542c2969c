"""What this machine can do, checked one thing at a time; knows what is needed, not how it is printed.

A check that fails says its remedy. What is merely absent (no accelerator, an extra that only another role needs) is a
note: the demo runs without it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import httpx
import psutil

PYTHON = (3, 11)
DEMO_DISK_GIB = 5
DEMO_MEMORY_GIB = 6
TIMEOUT_S = 5.0
S3_VARIABLES = ("MLFLOW_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")

State = Literal["ok", "note", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One checked thing.

    Attributes:
        name: What was checked, a word or two.
        state: ``fail`` means that something needed does not work.
        sentence: What was found.
        remedy: What to do; never empty on ``fail``.
    """

    name: str
    state: State
    sentence: str
    remedy: str = ""


def examine(*, runs: Path = Path("runs")) -> list[Finding]:
    """Check everything and return the findings in a fixed order; a check never raises.

    Args:
        runs: Where the runs of this machine are written.
    """
    endpoint = next((os.environ[name] for name in S3_VARIABLES if os.environ.get(name)), "")
    return [
        python(),
        memory(),
        writable(runs),
        disk(runs),
        *extras(),
        accelerator(),
        tracking(os.environ.get("MLFLOW_TRACKING_URI", "")),
        object_store(endpoint),
    ]


def python() -> Finding:
    """The interpreter."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] < PYTHON:
        needed = ".".join(str(part) for part in PYTHON)
        return Finding(
            name="Python",
            state="fail",
            sentence=f"Python {version} is too old.",
            remedy=f"Install Python {needed} or newer and run make setup again.",
        )
    return Finding(name="Python", state="ok", sentence=f"Python {version} at {sys.prefix}.")


def memory(available_bytes: int | None = None) -> Finding:
    """Free memory, against what the demo needs."""
    available = psutil.virtual_memory().available if available_bytes is None else available_bytes
    sentence = f"{available / 2**30:.1f} GiB of memory are free; the demo needs {DEMO_MEMORY_GIB}."
    if available < DEMO_MEMORY_GIB * 2**30:
        return Finding(
            name="memory", state="fail", sentence=sentence, remedy="Close other programs or use a larger machine."
        )
    return Finding(name="memory", state="ok", sentence=sentence)


def disk(runs: Path, free_bytes: int | None = None) -> Finding:
    """Free disk space where runs are written, against what the demo needs."""
    free = shutil.disk_usage(_existing(runs)).free if free_bytes is None else free_bytes
    sentence = f"{free / 2**30:.1f} GiB are free for {runs}; the demo needs {DEMO_DISK_GIB}."
    if free < DEMO_DISK_GIB * 2**30:
        remedy = "Delete old runs below it, or give a place with more room."
        return Finding(name="disk", state="fail", sentence=sentence, remedy=remedy)
    return Finding(name="disk", state="ok", sentence=sentence)


def writable(runs: Path) -> Finding:
    """Whether runs can be written where they belong."""
    place = _existing(runs)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return Finding(
            name="runs",
            state="fail",
            sentence=f"{place} cannot be written: {error.strerror or error}.",
            remedy=f"Make {place} writable for this user, or start from a directory that is.",
        )
    return Finding(name="runs", state="ok", sentence=f"{runs} can be written.")


def extras(distribution: str = "vilam3") -> list[Finding]:
    """For each role of the installed package, whether everything it needs is here."""
    try:
        needs = _needs(distribution)
    except metadata.PackageNotFoundError:
        sentence = f"{distribution} runs from source and is not installed, so the roles cannot be told."
        return [Finding(name="extras", state="note", sentence=sentence, remedy="Run make setup.")]
    return [
        _extra(role, sorted(name for name in names if not _installed(name))) for role, names in sorted(needs.items())
    ]


def accelerator() -> Finding:
    """What NVIDIA's driver shows, and whether torch can use it."""
    cards = _cards()
    if not cards:
        sentence = "No NVIDIA accelerator; the demo runs on the processor, published models need an accelerator."
        return Finding(name="accelerator", state="note", sentence=sentence)
    shown = "; ".join(cards)
    problem = _torch_problem()
    if problem:
        return Finding(
            name="accelerator",
            state="fail",
            sentence=f"{shown}, but {problem}.",
            remedy="Install the driver that torch's CUDA version asks for, or hide the card: CUDA_VISIBLE_DEVICES=''.",
        )
    return Finding(name="accelerator", state="ok", sentence=f"{shown}; torch can use it.")


def tracking(uri: str) -> Finding:
    """Whether the tracking store of ``MLFLOW_TRACKING_URI`` answers; a local file without one."""
    if not uri:
        sentence = "MLFLOW_TRACKING_URI is not set; runs are tracked in a local sqlite file."
        return Finding(name="MLflow", state="ok", sentence=sentence)
    if urlsplit(uri).scheme not in {"http", "https"}:
        return Finding(name="MLflow", state="ok", sentence=f"Runs are tracked in {_shown(uri)}.")
    problem = _unreachable(f"{uri.rstrip('/')}/health", must_be_ok=True)
    if problem:
        remedy = "Start the tracking server, correct MLFLOW_TRACKING_URI, or unset it to track in a local file."
        sentence = f"The tracking server {_shown(uri)} {problem}."
        return Finding(name="MLflow", state="fail", sentence=sentence, remedy=remedy)
    return Finding(name="MLflow", state="ok", sentence=f"The tracking server {_shown(uri)} answers.")


def object_store(endpoint: str) -> Finding:
    """Whether the S3 endpoint answers at all; any HTTP status will do, the keys are not tried."""
    if not endpoint:
        return Finding(name="S3", state="note", sentence="No S3 endpoint is set; artifacts stay on this machine.")
    problem = _unreachable(endpoint, must_be_ok=False)
    if problem:
        remedy = f"Start the store or correct {' / '.join(S3_VARIABLES)}."
        return Finding(
            name="S3", state="fail", sentence=f"The S3 endpoint {_shown(endpoint)} {problem}.", remedy=remedy
        )
    return Finding(name="S3", state="ok", sentence=f"The S3 endpoint {_shown(endpoint)} answers.")


def _existing(path: Path) -> Path:
    """The nearest directory that is there, `path` itself or one above it."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.is_dir())


def _needs(distribution: str) -> dict[str, set[str]]:
    """Role to the distributions it needs, from the metadata of the installed package; roles may include roles."""
    direct: dict[str, set[str]] = {
        role: set() for role in metadata.metadata(distribution).get_all("Provides-Extra") or ()
    }
    for requirement in metadata.requires(distribution) or ():
        wanted, _, marker = requirement.partition(";")
        for role, wants in direct.items():
            if f'extra == "{role}"' in marker.replace("'", '"'):
                wants.add(wanted.strip())
    return {role: _flat(role, direct, distribution) for role in direct}


def _flat(role: str, direct: dict[str, set[str]], distribution: str) -> set[str]:
    names: set[str] = set()
    for wanted in direct[role]:
        if wanted.startswith(f"{distribution}["):
            for other in wanted[len(distribution) + 1 : wanted.index("]")].split(","):
                names |= _flat(other.strip(), direct, distribution)
        else:
            names.add(_name(wanted))
    return names


def _name(requirement: str) -> str:
    end = next((index for index, letter in enumerate(requirement) if letter in "[<>=!~ ("), len(requirement))
    return requirement[:end]


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _extra(role: str, missing: list[str]) -> Finding:
    if missing:
        remedy = f"Where this role runs: pip install 'vilam3[{role}]', or make setup in a checkout."
        return Finding(name=f"role {role}", state="note", sentence=f"Lacks {', '.join(missing)}.", remedy=remedy)
    return Finding(name=f"role {role}", state="ok", sentence="Everything it needs is installed.")


def _cards() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)  # noqa: S603 - found on PATH
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()] if answer.returncode == 0 else []


def _torch_problem() -> str:
    try:
        import torch  # noqa: PLC0415 - slow, and only worth it where there is a card
    except ImportError:
        return "torch is not installed here"
    return "" if torch.cuda.is_available() else f"torch {torch.__version__} cannot use it"


def _unreachable(url: str, *, must_be_ok: bool) -> str:
    """Why `url` does not answer, as the end of a sentence; empty when it does."""
    try:
        answer = httpx.get(url, timeout=TIMEOUT_S, follow_redirects=True)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"is out of reach ({type(error).__name__}: {error})"
    return f"answers with HTTP {answer.status_code}" if must_be_ok and answer.is_error else ""


def _shown(uri: str) -> str:
    """`uri` without a user name and password that may be in it."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
