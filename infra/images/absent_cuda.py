"""Give torch's stock build something to link with where NVIDIA's libraries are left out: an image without accelerator.

torch names cuBLAS, cuDNN and their kin as libraries that must be there when it is loaded, 2.7 GB that a machine without
an accelerator never calls. This makes one small library that has every function torch asks them for, each of which
returns NVIDIA's code for "not initialised", and lets it answer to their names. What is left in place (the CUDA runtime,
which says "no device") is not touched.

Runs while the image is built, with nothing but the standard library, binutils and a C compiler:
``python3 absent_cuda.py /opt/venv``.
"""

import re
import subprocess
import sys
from pathlib import Path

NAME = "libnvidia-absent.so"
FUNCTION = re.compile(r"(cublas|cudnn|cufft|curand|cusolver|cusparse|nccl|nvrtc|nvshmem|nvJitLink)\w+")
LIBRARY = re.compile(r"lib(cublas|cudnn|cufft|curand|cusolver|cusparse|nccl|nvrtc|nvshmem|nvJitLink)\w*\.so\.\d+")
REFUSAL = "long {name}(void) {{ return 1; }}"
SENTENCE = 'const char *{name}(void) {{ return "this image has no NVIDIA libraries; use the gpu image"; }}'


def main(environment: Path) -> None:
    """Put the library and its names beside torch's own, where torch's libraries look first."""
    (packages,) = environment.glob("lib/python*/site-packages")
    place = packages / "torch" / "lib"
    linked = sorted(place.glob("*.so"))
    functions = {symbol for library in linked for symbol in undefined(library) if FUNCTION.match(symbol)}
    build(functions, place / NAME)
    for name in sorted(needed(linked) - {library.name for library in packages.glob("nvidia/*/lib/*.so.*")}):
        (place / name).unlink(missing_ok=True)
        (place / name).symlink_to(NAME)
    sys.stdout.write(f"{NAME}: {len(functions)} functions\n")


def undefined(library: Path) -> set[str]:
    """What `library` expects of others, each ``function`` or ``function@version``."""
    lines = _output("nm", "--dynamic", "--undefined-only", "--format=posix", str(library)).splitlines()
    return {line.split()[0] for line in lines}


def needed(libraries: list[Path]) -> set[str]:
    """Those of NVIDIA's libraries that `libraries` cannot be loaded without."""
    dynamic = _output("readelf", "--dynamic", "--wide", *map(str, libraries))
    return {name for name in re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic) if LIBRARY.fullmatch(name)}


def build(functions: set[str], library: Path) -> None:
    """Compile `functions` into `library`, under the versions they are asked for by."""
    versions: dict[str, list[str]] = {}
    names = set()
    for function in sorted(functions):
        name, _, version = function.partition("@")
        names.add(name)
        if version:
            versions.setdefault(version.lstrip("@"), []).append(name)
    script = library.with_suffix(".map")
    script.write_text("".join(f"{version} {{ {'; '.join(held)}; }};\n" for version, held in versions.items()))
    source = "\n".join(_definition(name) for name in sorted(names))
    command = ["cc", "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", str(library), f"-Wl,-soname,{library.name}"]
    subprocess.run([*command, f"-Wl,--version-script={script}"], input=source, text=True, check=True)  # noqa: S603 - our own words
    script.unlink()


def _definition(name: str) -> str:
    return (SENTENCE if name.endswith(("ErrorString", "StatusString", "LastError")) else REFUSAL).format(name=name)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 - our own words


if __name__ == "__main__":
    main(Path(sys.argv[1]))
