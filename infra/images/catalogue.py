"""Which images there are, what they are called, and what their environments depend on; builds nothing."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vilam3 import __version__
from vilam3.errors import NotFoundError

ROOT = Path(__file__).parents[2]
FOLDERS = Path(__file__).parent  # of images with a Dockerfile of their own
REGISTRY = "docker.io/vilam3"  # what the test cluster calls them; nothing is pulled from there
KEY_LETTERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image that can be built.

    Attributes:
        role: Its short name, and the target of its Dockerfile where that has several.
        folder: Where its Dockerfile lies, which is also all that the build can see.
        has_environment: Whether it is an environment, kept from one build to the next, and our program on top.
    """

    role: str
    folder: Path
    has_environment: bool

    @property
    def dockerfile(self) -> Path:
        """What it is built from."""
        return self.folder / "Dockerfile"

    @property
    def target(self) -> str:
        """The stage to build; empty for a Dockerfile of one image."""
        return self.role if self.has_environment else ""

    @property
    def argument(self) -> str:
        """The build argument that names an environment built before."""
        return f"{self.role.upper()}_ENVIRONMENT"

    def name(self, registry: str = REGISTRY) -> str:
        """Full reference; the tag is the version of the program."""
        return f"{registry}/vilam3-{self.role}:{__version__}"

    def environment(self, base: str) -> str:
        """Reference of its environment on `base`: a new one whenever anything in it could differ."""
        return f"localhost/vilam3-{self.role}-environment:{self._key(base)}"

    def _key(self, base: str) -> str:
        texts = stages(self.dockerfile.read_text("utf-8"))
        used = sorted(ancestry(f"{self.role}-environment", texts))
        digest = hashlib.sha256(base.encode())
        for name in used:
            digest.update(texts[name].encode())
            for file in copied(texts[name]):
                digest.update((self.folder / file).read_bytes())
        return digest.hexdigest()[:KEY_LETTERS]


IMAGES = {
    image.role: image
    for image in (
        Image(role="ops", folder=ROOT, has_environment=True),
        Image(role="cpu", folder=ROOT, has_environment=True),
        Image(role="gpu", folder=ROOT, has_environment=True),
        Image(role="vllm", folder=ROOT, has_environment=True),
        Image(role="postgresql", folder=FOLDERS / "postgresql", has_environment=False),
        Image(role="storage-initializer", folder=FOLDERS / "storage-initializer", has_environment=False),
    )
}


def find(role: str) -> Image:
    """The image called `role`.

    Raises:
        NotFoundError: There is none.
    """
    if role not in IMAGES:
        raise NotFoundError(f"image {role}: there is none; there are {', '.join(IMAGES)}")
    return IMAGES[role]


def stages(dockerfile: str) -> dict[str, str]:
    """Text of each named stage of a Dockerfile, without comments."""
    text = re.sub(r"^#.*\n", "", dockerfile, flags=re.MULTILINE)
    parts = re.split(r"^(?=FROM )", text, flags=re.MULTILINE)[1:]
    return {part.splitlines()[0].rpartition(" AS ")[2].strip(): part.strip() for part in parts}


def ancestry(name: str, texts: dict[str, str]) -> set[str]:
    """`name` and every stage that it starts from or takes files of."""
    found = {name}
    for parent in re.findall(r"(?:^FROM |\bfrom=)([\w-]+)", texts[name], re.MULTILINE):
        if parent in texts and parent != name:
            found |= ancestry(parent, texts)
    return found


def copied(stage: str) -> Iterator[str]:
    """What a stage copies of the checkout."""
    for words in re.findall(r"^COPY (?!--from)(.+)$", stage, re.MULTILINE):
        yield from words.split()[:-1]
