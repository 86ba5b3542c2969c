"""When Python looks for garbage in a server."""

import gc


def settle() -> None:
    """Leave out of every later search what has been made until now, which stays.

    Looking through the hundreds of thousands of objects of the libraries would halt every stream for a tenth of a
    second, again and again.
    """
    gc.collect()
    gc.freeze()
