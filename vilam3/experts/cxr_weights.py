"""Weight files of the chest x-ray ensemble, read without running what they may contain.

The published DenseNet files are pickled torch modules in the format from before torch 1.6, which torch's own
tensors-only reader refuses. Here a pickle may name nothing but the classes such a module is made of, and those of
torchxrayvision become empty shells: only the tensors are taken out, under the names they have in the module.
"""

import pickle  # read with the allow-list below
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch
from torch import nn

from vilam3.errors import CheckpointError

State = Mapping[str, torch.Tensor]


class _Shell(nn.Module):
    """Stands in for a torchxrayvision module: holds its parts, computes nothing."""


SHELLS = frozenset({"DenseNet", "_DenseBlock", "_DenseLayer", "_Transition"})
ALLOWED: Mapping[str, frozenset[str]] = {
    "collections": frozenset({"OrderedDict"}),
    "builtins": frozenset({"set"}),
    "__builtin__": frozenset({"set"}),
    "torch": frozenset({"FloatStorage", "LongStorage", "Size"}),
    "torch._utils": frozenset({"_rebuild_tensor_v2", "_rebuild_parameter"}),
    "torch.nn.backends.thnn": frozenset({"_get_thnn_function_backend"}),
    "torch.nn.modules.activation": frozenset({"ReLU"}),
    "torch.nn.modules.batchnorm": frozenset({"BatchNorm2d"}),
    "torch.nn.modules.container": frozenset({"Sequential"}),
    "torch.nn.modules.conv": frozenset({"Conv2d"}),
    "torch.nn.modules.linear": frozenset({"Linear"}),
    "torch.nn.modules.pooling": frozenset({"AvgPool2d", "MaxPool2d"}),
    "torch.nn.parameter": frozenset({"Parameter"}),
}


class _Unpickler(pickle.Unpickler):
    """Resolves the names in ALLOWED and no others."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - as the base class
        if module == "torchxrayvision.models" and name in SHELLS:
            return _Shell
        if name in ALLOWED.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no such network is made of")


class _Pickle:
    """What `torch.load` needs of a pickle module."""

    Unpickler: ClassVar[type[pickle.Unpickler]] = _Unpickler

    @staticmethod
    def load(stream: BinaryIO, **options: Any) -> Any:  # noqa: ANN401 - as pickle.load
        return _Unpickler(stream, **options).load()


def read_state(path: Path) -> State:
    """The tensors of a weight file by parameter name: of a state dict, a checkpoint with `model`, or a whole module.

    Raises:
        CheckpointError: missing, damaged, or it names code that such a file has no use for.
    """
    if not path.is_file():
        raise CheckpointError(f"CXR weights {path}: no such file; download it or write an ensemble.json without it")
    if _is_script(path):
        raise CheckpointError(f"CXR weights {path}: is a script, not weights; download the file again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old files carry source text, and torch compares it with ours
            # Not weights_only: that refuses old modules. The unpickler of _Pickle is the restriction.
            stored = torch.load(path, map_location="cpu", pickle_module=_Pickle, weights_only=False)
    except Exception as error:  # a damaged or hostile file raises anything; this is the boundary
        raise CheckpointError(
            f"CXR weights {path}: not readable as weights ({error}); download the file again"
        ) from error
    if isinstance(stored, nn.Module):
        return _state_of(stored)
    state = stored.get("model", stored) if isinstance(stored, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(f"CXR weights {path}: holds neither a state dict nor a module; download the file again")
    return state


def _is_script(path: Path) -> bool:
    """Whether torch would hand the file to its script interpreter instead of our unpickler."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def _state_of(module: nn.Module) -> State:
    for part in module.modules():
        if not hasattr(part, "_non_persistent_buffers_set"):  # came with torch 1.6
            part._non_persistent_buffers_set = set()  # noqa: SLF001 - what torch itself sets since
    return module.state_dict()
