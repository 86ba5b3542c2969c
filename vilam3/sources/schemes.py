"""How addresses of images elsewhere begin; imports nothing, so that a command line can look at them at once."""

SCHEMES = ("http", "https", "s3", "dicomweb")


def is_elsewhere(uri: str) -> bool:
    """Whether this is the address of an image elsewhere."""
    scheme, colon, _ = uri.partition("://")
    return bool(colon) and scheme.lower() in SCHEMES
