"""What the vision tower made of pictures, remembered by scope and content.

Legend: K positions of an image, H width of the language model.
"""

import hashlib
import threading
from collections import OrderedDict

from PIL import Image
from torch import Tensor


def image_key(image: Image.Image, *, scope: str) -> bytes:
    """What stands for a picture: another scope, another size or one other pixel gives another key."""
    told = hashlib.sha256(f"{len(scope)}:{scope}:{image.mode}:{image.width}x{image.height}:".encode())
    if image.mode == "P":
        told.update(bytes(image.getpalette() or []))
    told.update(image.tobytes())
    return told.digest()


class FeatureStore:
    """Features of pictures within a bound of memory; what was used longest ago goes first. Safe to share."""

    def __init__(self, most_bytes: int) -> None:
        """Hold at most so much."""
        self.most_bytes = most_bytes
        self.nbytes = 0
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: bytes) -> bool:
        """Whether a picture is remembered now."""
        return key in self._kept

    def get(self, key: bytes) -> Tensor | None:
        """Features (K, H) of a picture, if it is remembered."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: bytes, features_KH: Tensor) -> None:
        """Remember a picture, and forget those there is no memory for."""
        with self._lock:
            if features_KH.nbytes > self.most_bytes or key in self._kept:
                return
            self._kept[key] = features_KH
            self.nbytes += features_KH.nbytes
            while self.nbytes > self.most_bytes:
                _, forgotten = self._kept.popitem(last=False)
                self.nbytes -= forgotten.nbytes
