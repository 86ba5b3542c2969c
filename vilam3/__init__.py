"""VILA-M3 as a platform: data, model, experts, training, evaluation and the dialogue between them.

The library does the work; the folders beside it (components, pipelines, serving, infra) wire it to one
framework each. It knows none of them.
"""

from importlib.metadata import version

__version__ = version("vilam3")
