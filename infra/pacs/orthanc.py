"""Runs an Orthanc of one's own: its folder, its port on the loopback, its random password, and nothing else of it."""

import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from vilam3.errors import ClusterError, PrerequisiteError
from vilam3.sources.pacs import AUTHORIZATION_FILE_VARIABLE, URL_VARIABLE

PROGRAMS = ("Orthanc", "/usr/sbin/Orthanc")
PLUGINS = (Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so"), Path("/usr/lib/orthanc/libOrthancDicomWeb.so"))
INSTALL = "apt-get install --no-install-recommends orthanc orthanc-dicomweb"
ROOT = "/dicom-web"
USER = "vilam3"
READY_S, LEAVE_S = 60.0, 30.0
_CHILDREN: "dict[int, subprocess.Popen[bytes]]" = {}  # by process id; those that this program has started


@dataclass(frozen=True, slots=True, kw_only=True)
class Orthanc:
    """One that was started.

    Attributes:
        folder: Everything of it.
        url: Root of its DICOMweb services.
        pid: Its process.
    """

    folder: Path
    url: str
    pid: int

    @property
    def authorization_file(self) -> Path:
        """Whose one line is the Authorization header."""
        return self.folder / "authorization"

    def environment(self) -> dict[str, str]:
        """What a server of ours is told, so that it uses this archive."""
        return {URL_VARIABLE: self.url, AUTHORIZATION_FILE_VARIABLE: str(self.authorization_file)}

    def is_running(self) -> bool:
        """Whether its process is still there, and still this program."""
        with contextlib.suppress(OSError):
            return str(self.folder / "orthanc.json").encode() in Path(f"/proc/{self.pid}/cmdline").read_bytes()
        return False


def start(folder: Path, *, port: int = 0) -> Orthanc:
    """Start one, or find the one that runs in this folder.

    Args:
        folder: Its own; made if it is not there.
        port: On the loopback; 0 chooses a free one.

    Raises:
        PrerequisiteError: Orthanc or its plug-in is not installed.
        ClusterError: it does not come up; the message names its log.
    """
    running = find(folder)
    if running is not None:
        return running
    program, plugin = programs()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    port = port or _free_port()
    _configure(folder, plugin, port)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - the distribution's program
            [program, str(folder / "orthanc.json")],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    started = Orthanc(folder=folder, url=f"http://127.0.0.1:{port}{ROOT}", pid=process.pid)
    _CHILDREN[process.pid] = process
    (folder / "state.json").write_text(json.dumps({"url": started.url, "pid": started.pid}), encoding="utf-8")
    try:
        _wait_until_ready(started, process)
    except BaseException:
        stop(folder, running=started)
        raise
    return started


def find(folder: Path) -> Orthanc | None:
    """The one that runs in this folder, if one does."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = Orthanc(folder=folder, url=state["url"], pid=state["pid"])
    return known if known.is_running() else None


def end(running: Orthanc) -> None:
    """End it by its own id; what it keeps stays."""
    child = _CHILDREN.pop(running.pid, None)
    with contextlib.suppress(ProcessLookupError):
        os.kill(running.pid, signal.SIGTERM)
    until = time.monotonic() + LEAVE_S
    while running.is_running() and time.monotonic() < until:
        if child is not None:
            child.poll()
        time.sleep(0.1)
    if running.is_running():
        os.kill(running.pid, signal.SIGKILL)
    if child is not None:
        child.wait()


def stop(folder: Path, *, running: Orthanc | None = None) -> bool:
    """End the one that runs in this folder, if one does, and remove the folder; False where there was none."""
    running = running or find(folder)
    if running is not None:
        end(running)
    existed = folder.exists()
    shutil.rmtree(folder, ignore_errors=True)
    return existed


def programs() -> tuple[str, Path]:
    """The program and its DICOMweb plug-in.

    Raises:
        PrerequisiteError: one is not installed; the message says how to come by them.
    """
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    plugin = next((path for path in PLUGINS if path.is_file()), None)
    if program is None or plugin is None:
        raise PrerequisiteError(f"Orthanc with DICOMweb is not installed; on Debian and Ubuntu: {INSTALL}")
    return program, plugin


def _configure(folder: Path, plugin: Path, port: int) -> None:
    if (folder / "authorization").exists():  # one that is started again keeps its password
        header = (folder / "authorization").read_text(encoding="utf-8").split()[1]
        password = base64.b64decode(header).decode().partition(":")[2]
    else:
        password = secrets.token_urlsafe(24)
    header = base64.b64encode(f"{USER}:{password}".encode()).decode()
    private = {
        "authorization": f"Basic {header}\n",
        "orthanc.json": json.dumps(_settings(folder, plugin, port, password)),
    }
    for name, content in private.items():
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(content, encoding="utf-8")


def _settings(folder: Path, plugin: Path, port: int, password: str) -> Mapping[str, object]:
    return {
        "Name": "vilam3 trial archive",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(plugin)],
        "HttpPort": port,
        "HttpBindAddresses": ["127.0.0.1"],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: password},
        "DicomServerEnabled": False,
        "OverwriteInstances": True,
        "DicomWeb": {"Enable": True, "Root": f"{ROOT}/", "EnableWado": False, "Ssl": False},
    }


def _wait_until_ready(started: Orthanc, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + READY_S
    headers = {"Authorization": started.authorization_file.read_text(encoding="utf-8").strip()}
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{started.url}/studies?limit=1", headers=headers, trust_env=False).is_success:
                return
        if process.poll() is not None:
            break
        time.sleep(0.2)
    said = (started.folder / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
    raise ClusterError(f"Orthanc does not come up in {started.folder}: {' / '.join(said)}; see its log")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
