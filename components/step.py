"""What makes a function a step: our image, and nothing installed when it starts.

The image holds kfp, the library and everything it imports. Its tag is the version of the program, never a moving name:
KFP's cache key holds the image as text, so a moving tag would serve stale results. A digest can be given at compile
time, see `pipelines.place`.
"""

from kfp import dsl

from vilam3 import __version__

REGISTRY = "localhost"  # where `make image` leaves it; an installation names its own when it compiles
IMAGE = f"{REGISTRY}/vilam3-gpu:{__version__}"

step = dsl.component(base_image=IMAGE, install_kfp_package=False)
