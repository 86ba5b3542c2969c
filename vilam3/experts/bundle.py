"""MONAI bundles in the published layout: ``configs/inference.json``, ``configs/metadata.json``, ``models/model.pt``.

One loader serves the published ``vista3d`` and ``brats_mri_segmentation`` bundles and our own small ones. It differs
from the published demo where that one is slow or unsafe:

- The network is built and loaded once and kept. Transforms, dataset and evaluator are parsed anew for each study,
  because a resolved MONAI config cannot change its input; that takes milliseconds, and the parser gets the kept
  network in place of its definition.
- Weights are read as tensors only. The config's own ``initialize`` steps are left out: they would load the weights
  again with unrestricted pickle and seed the random generators of the whole process.
- ``logging.conf`` is not applied: it would replace the logging of the process.
- Data is loaded in the calling thread, since a server must not fork.
- Where the config's steps are understood (see `vilam3.experts.streamed`), its network runs window by window over the
  study in memory, with the same labels as the config's own way, which holds the scores of all classes at once and
  writes the study to a file first. Any other config has its own way, and so do points for a network that takes them.

A bundle's config and scripts are Python code and run as such: install bundles only from sources you trust.
"""

import copy
import json
import logging
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from vilam3.artifacts import sha256_file
from vilam3.data.nifti import write_volume
from vilam3.data.study import Volume
from vilam3.errors import CheckpointError, NotFoundError, VilaM3Error
from vilam3.experts.protocol import Watch, unwatched
from vilam3.experts.scripts import BundleScripts
from vilam3.experts.shared import shared
from vilam3.experts.watching import WatchedInferer
from vilam3.scratch import scratch

CONFIG = "configs/inference.json"
METADATA = "configs/metadata.json"
WEIGHTS = "models/model.pt"
WEIGHTS_KEY = "model"
UNVISITED = 255  # what the published post-processing writes where the network gave no number
GRID_TOLERANCE_MM = 0.01

# What MONAI prints and warns about for every study, though nothing is wrong: each file it writes, an optional CUDA
# reader that is not installed, a default that changed before our pin, preprocessing that has nothing to invert, and
# torch's own use of TorchScript, which it imports. Ignite logs each error that it raises as well.
NOISY_LOGGERS = ("monai.data.image_writer", "monai.data.nvimgcodec_pydicom_plugin", "ignite.engine.engine")
NOISE = (
    "NvImgCodecPydicomReader: nvImageCodec decoder plugin did not register",
    ".*Orientationd.__init__:labels: Current default value",
    "inverse has been called but no invertible transforms",
    "`torch.jit.[a-z]+` is deprecated",
)

Ids = NDArray[np.uint8]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Click:
    """A voxel that is, or is not, part of what is sought; indices of the volume."""

    xyz: tuple[int, int, int]
    positive: bool = True


@dataclass(slots=True, kw_only=True, eq=False, weakref_slot=True)
class Bundle:
    """One bundle directory; opening it is cheap, the network is loaded with the first study.

    Attributes:
        root: The directory.
        metadata: Its ``metadata.json``.
        device: Torch device name.
    """

    root: Path
    metadata: Mapping[str, Any]
    device: str = "cpu"
    _config: dict[str, Any] = field(repr=False)
    _scripts: BundleScripts = field(repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _network: Any = field(default=None, repr=False)
    _plan: Any = field(default=None, repr=False)
    _whole_because: str = field(default="", repr=False)
    _digest: str = field(default="", repr=False)

    @classmethod
    def open(cls, root: Path, *, device: str = "cpu") -> "Bundle":
        """Read a bundle's descriptions; whoever opens it again while it is kept gets the same one.

        Args:
            root: The bundle directory.
            device: Where its network will run.

        Raises:
            NotFoundError: there is no such directory.
            CheckpointError: a file is missing or no JSON.
        """
        if not root.is_dir():
            raise NotFoundError(f"expert bundle {root}: no such directory; put the bundle there or fit a small one")
        if not (root / WEIGHTS).is_file():
            raise CheckpointError(f"expert bundle {root}: {WEIGHTS} is missing; download the bundle's large files")
        files = [root.resolve() / name for name in (CONFIG, METADATA, WEIGHTS)]
        return shared(lambda: cls._read(root.resolve(), device), files=files, name=(cls, device))

    @classmethod
    def _read(cls, root: Path, device: str) -> "Bundle":
        config = _read_json(root, CONFIG)
        return cls(
            root=root,
            metadata=_read_json(root, METADATA),
            device=device,
            _config=config,
            _scripts=BundleScripts(root),
        )

    @property
    def version(self) -> str:
        """From the metadata."""
        return str(self.metadata.get("version", "unknown"))

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the weights file, computed once."""
        if not self._digest:
            self._digest = sha256_file(self.root / WEIGHTS)
        return self._digest

    @property
    def known_digest(self) -> str:
        """`weights_digest` where the weights have been read, else empty: reading them takes long."""
        return self._digest

    def segment(
        self,
        volumes: Sequence[Volume],
        *,
        label_prompt: Sequence[int] | None = None,
        clicks: Sequence[Click] = (),
        watch: Watch = unwatched,
    ) -> Ids:
        """Segment one image; calls from several threads take turns.

        Args:
            volumes: The channels, on one grid; given to the config as one file or as a list of files.
            label_prompt: Label ids to look for, for bundles that take prompts.
            clicks: Voxels for a network with a point head; its bundle takes them for a single label id.
            watch: Told how far it is, between windows.

        Returns:
            uint8 label ids on the grid of the volumes; 0 is background.

        Raises:
            CheckpointError: the bundle cannot be used, or its answer is not on the grid it was asked about.
            VilaM3Error: the bundle failed on this image.
            Cancelled: by `watch`.
        """
        with self._lock:
            watch(0.0)
            ids = None
            if len(volumes) == 1 and not clicks:
                ids = self._streamed(volumes[0], label_prompt, watch)
            if ids is None:
                prompts: dict[str, Any] = {} if label_prompt is None else {"label_prompt": list(label_prompt)}
                if clicks:
                    prompts["points"] = [list(click.xyz) for click in clicks]
                    prompts["point_labels"] = [int(click.positive) for click in clicks]
                ids = self._in_its_own_way(volumes, prompts, watch)
            watch(1.0)
            return ids

    @property
    def takes_clicks(self) -> bool:
        """Whether its network has a point head."""
        return hasattr(self.network(), "point_head")

    def _streamed(self, volume: Volume, label_prompt: Sequence[int] | None, watch: Watch) -> Ids | None:
        """The answer window by window, or None where the config says what is not understood."""
        from vilam3.experts.streamed import NotStreamableError  # noqa: PLC0415 - seconds to import

        if self._whole_because:
            return None
        try:
            self._plan = self._plan or self._planned()
            return self._guarded(lambda: self._plan.segment(volume, label_prompt=label_prompt, watch=watch))
        except NotStreamableError as error:
            if self._plan is None:
                self._whole_because = str(error)
                log.info("bundle runs in its own way", extra={"bundle": self.root.name, "because": str(error)})
            return None

    def _planned(self) -> Any:  # noqa: ANN401 - its module is imported late
        from vilam3.experts.streamed import NotStreamableError, Plan  # noqa: PLC0415 - seconds to import

        network = self.network()
        try:
            with self._scripts.importable():
                return Plan.of(self._parser({"network": network}), network, device=self.device)
        except NotStreamableError:
            raise
        except Exception as error:  # what is wrong with the config is said where it is run in its own way
            raise NotStreamableError(f"{type(error).__name__} while it was read") from error

    def _in_its_own_way(self, volumes: Sequence[Volume], prompts: Mapping[str, Any], watch: Watch) -> Ids:
        """The answer by the config's own evaluator, which reads and writes files."""
        with scratch("vilam3-bundle-") as folder:
            files = _write_channels(folder, volumes)
            out = folder / "out"
            out.mkdir()
            item = {"image": files[0] if len(files) == 1 else files, **prompts}
            self._guarded(lambda: self._evaluator(item, out, watch).run())
            return self._read_answer(out, like=volumes[0])

    def warm_up(self, volumes: Sequence[Volume], *, label_prompt: Sequence[int] | None = None) -> None:
        """Load the weights, know their digest, and run once; see `segment`."""
        assert self.weights_digest
        self.segment(volumes, label_prompt=label_prompt)

    def _guarded(self, work: Callable[[], Any]) -> Any:  # noqa: ANN401 - as `work`
        """The outcome, with whatever goes wrong in the bundle's own code said in one sentence."""
        from vilam3.experts.streamed import NotStreamableError  # noqa: PLC0415 - seconds to import

        try:
            return work()
        except (VilaM3Error, NotStreamableError):
            raise
        except Exception as error:  # MONAI wraps whatever goes wrong in its own chain of errors
            first: BaseException = error
            while first.__cause__ is not None:
                first = first.__cause__
            raise VilaM3Error(
                f"expert bundle {self.root.name} {self.version}: failed on this study ({type(first).__name__}: {first})"
            ) from error

    def network(self) -> Any:  # noqa: ANN401 - a torch module, which must not be imported to parse a command line
        """The loaded network, in evaluation mode.

        Raises:
            CheckpointError: it cannot be built, or the weights do not fit.
        """
        if self._network is None:
            self._network = self._load_network()
        return self._network

    def _parser(self, overrides: Mapping[str, Any]) -> Any:  # noqa: ANN401 - MONAI ships no types
        _quieten()
        from monai.bundle import ConfigParser  # noqa: PLC0415 - seconds to import
        from torch import device  # noqa: PLC0415 - likewise

        config = copy.deepcopy(self._config)
        config |= {"bundle_root": str(self.root), "device": device(self.device)} | dict(overrides)
        config["_meta_"] = dict(self.metadata)
        return ConfigParser(config=config)

    def _load_network(self) -> Any:  # noqa: ANN401 - see network
        import torch  # noqa: PLC0415 - seconds to import

        where = f"expert bundle {self.root}: {WEIGHTS}"
        with self._scripts.importable():
            network = self._parser({}).get_parsed_content("network")
        try:
            stored = torch.load(self.root / WEIGHTS, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged or hostile file raises anything; this is the boundary
            raise CheckpointError(f"{where} is damaged or holds more than tensors; download it again") from error
        state = stored.get(WEIGHTS_KEY, stored) if isinstance(stored, dict) else stored
        try:
            network.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            detail = str(error).strip().splitlines()[-1].strip()
            raise CheckpointError(f"{where} does not fit network_def of {CONFIG}: {detail}") from error
        return network.eval()

    def _evaluator(self, item: Mapping[str, Any], out: Path, watch: Watch) -> Any:  # noqa: ANN401 - MONAI ships no types
        overrides: dict[str, Any] = {
            "network": self.network(),
            "output_dir": str(out),
            "output_dtype": "uint8",
            "output_ext": ".nii.gz",
            "separate_folder": False,
            **self._input(item),
        }
        parser = self._parser(overrides)
        for key, value in (("dataloader#num_workers", 0), ("dataloader#shuffle", False)):
            if key.split("#")[0] in parser:
                parser[key] = value
        if self.device == "cpu" and "evaluator#amp" in parser:
            parser["evaluator#amp"] = False  # the configs mean CUDA's
        with self._scripts.importable():
            evaluator = parser.get_parsed_content("evaluator")
        evaluator.inferer = WatchedInferer(inferer=evaluator.inferer, watch=watch)
        return evaluator

    def _input(self, item: Mapping[str, Any]) -> dict[str, Any]:
        if "input_dict" in self._config:
            return {"input_dict": dict(item)}
        if "test_datalist" in self._config:
            return {"test_datalist": [dict(item)]}
        raise CheckpointError(
            f"expert bundle {self.root}: {CONFIG} has neither input_dict nor test_datalist, so it cannot be told "
            f"what to read; add one of them"
        )

    def _read_answer(self, out: Path, *, like: Volume) -> Ids:
        written = sorted(out.rglob("*.nii.gz"))
        if len(written) != 1:
            raise CheckpointError(
                f"expert bundle {self.root}: its SaveImaged wrote {len(written)} files instead of one .nii.gz; "
                f"check that {CONFIG} uses output_dir and output_ext"
            )
        stored: Any = nib.load(written[0])
        spatial = (*stored.shape, 1, 1, 1)[:3]  # MONAI's writer drops axes of length 1 at the end
        if int(np.prod(stored.shape)) != int(np.prod(spatial)):
            raise CheckpointError(f"expert bundle {self.root}: its answer has several channels {stored.shape}, not one")
        voxels = np.nan_to_num(np.asanyarray(stored.dataobj).reshape(spatial), nan=0)
        image: Any = nib.as_closest_canonical(nib.Nifti1Image(voxels.astype(np.uint8), stored.affine))
        ids = np.asanyarray(image.dataobj)
        if ids.shape != like.voxels_XYZ.shape or not np.allclose(image.affine, like.affine_RAS, atol=GRID_TOLERANCE_MM):
            raise CheckpointError(
                f"expert bundle {self.root}: its answer of shape {ids.shape} is not on the grid of the image "
                f"{like.voxels_XYZ.shape}; check that postprocessing of {CONFIG} inverts preprocessing"
            )
        return np.where(ids == UNVISITED, 0, ids).astype(np.uint8)


def _quieten() -> None:
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)


def _write_channels(folder: Path, volumes: Sequence[Volume]) -> list[str]:
    files = []
    for index, volume in enumerate(volumes):
        path = folder / f"image-{index}.nii"
        write_volume(path, replace(volume, stored_axes="RAS"))
        files.append(str(path))
    return files


def _read_json(root: Path, name: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((root / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"expert bundle {root}: {name} is missing; copy the whole bundle") from error
    except ValueError as error:
        raise CheckpointError(f"expert bundle {root}: {name} is not JSON ({error}); copy the bundle again") from error
    return content
