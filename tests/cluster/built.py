"""What a tier needs that takes long to build, and what of it has not been built yet; builds nothing."""

from collections.abc import Iterator, Mapping, Sequence

from infra.cluster import addons, control_plane, kserve, node, tools
from infra.images import builder, debian
from infra.images.catalogue import REGISTRY, find
from vilam3.errors import PrerequisiteError

NODE = ("kubectl", "pause", *control_plane.PROGRAMS, *node.PROGRAMS, *addons.PROGRAMS)
PROGRAMS: Mapping[str, Sequence[str]] = {
    "node": NODE,
    "kserve": (*NODE, *kserve.PROGRAMS, "helm", "versitygw"),
}
IMAGES: Mapping[str, Sequence[str]] = {"kserve": ("ops", "cpu")}


def lacking(tier: str) -> str:
    """What is missing for a tier and how to come by it; empty where it can begin at once."""
    return "; ".join(_missing(tier))


def _missing(tier: str) -> Iterator[str]:
    try:
        node.prerequisites()
        tools.go_version()
    except PrerequisiteError as absent:
        yield str(absent)
        return
    if programs := [name for name in PROGRAMS[tier] if not tools.is_built(name)]:
        names = " ".join(programs)
        yield f"programs are not built: python -m infra.cluster build {names}"
    base = debian.reference()
    if roles := [role for role in IMAGES.get(tier, ()) if not builder.store().has(find(role).environment(base))]:
        yield f'environments of images are not built: make image IMAGES="{" ".join(roles)}" REGISTRY={REGISTRY}'
