"""What stands where NVIDIA's libraries are left out: a program that names them loads, and is refused when it calls."""

import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest

from infra.images import absent_cuda

CALLER = """\
extern int cublasCreate(void **handle);
extern const char *ncclGetErrorString(int code);
int call(void) { void *handle; return cublasCreate(&handle); }
const char *explain(void) { return ncclGetErrorString(1); }
"""


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """Where a library is linked with two of NVIDIA's that are there no more."""
    if which("cc") is None or which("nm") is None:
        pytest.skip("needs a C compiler and binutils")
    place = tmp_path / "lib" / "python3.11" / "site-packages" / "torch" / "lib"
    place.mkdir(parents=True)
    for name, function in {
        "libcublas.so.13": "int cublasCreate",
        "libnccl.so.2": "const char *ncclGetErrorString",
    }.items():
        versions = tmp_path / "versions"
        versions.write_text(f"{name} {{ *; }};\n")
        _compile(
            f"{function}(void *given) {{ return 0; }}",
            "-o",
            str(place / name),
            f"-Wl,-soname,{name}",
            f"-Wl,--version-script={versions}",
        )
    names = ["-l:libcublas.so.13", "-l:libnccl.so.2"]
    _compile(CALLER, "-o", str(place / "libcaller.so"), f"-L{place}", *names, "-Wl,-rpath,$ORIGIN")
    for name in ("libcublas.so.13", "libnccl.so.2"):
        (place / name).unlink()
    return tmp_path


def _compile(source: str, *options: str) -> None:
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-x", "none", *options]
    subprocess.run(command, input=source, text=True, check=True)  # noqa: S603 - our own words


def _called(caller: Path) -> subprocess.CompletedProcess[str]:
    """Load and call in a process of its own: this one may have NVIDIA's libraries loaded, by torch."""
    program = "import ctypes, sys; it = ctypes.CDLL(sys.argv[1]); it.explain.restype = ctypes.c_char_p"
    program += "; print(it.call(), it.explain().decode())"
    command = [sys.executable, "-I", "-c", program, str(caller)]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words


def test_what_names_absent_libraries_loads_and_is_refused(environment: Path) -> None:
    (caller,) = environment.rglob("libcaller.so")
    before = _called(caller)
    assert before.returncode
    assert "libcublas.so.13" in before.stderr
    absent_cuda.main(environment)
    after = _called(caller)
    assert after.stdout.startswith("1 "), after.stderr
    assert "no NVIDIA libraries" in after.stdout


def test_doing_it_again_changes_nothing(environment: Path) -> None:
    absent_cuda.main(environment)
    before = {file.name: file.read_bytes() for file in environment.rglob("*.so*")}
    absent_cuda.main(environment)
    assert {file.name: file.read_bytes() for file in environment.rglob("*.so*")} == before
