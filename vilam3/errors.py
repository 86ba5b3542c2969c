"""Every error this library raises on purpose.

    VilaM3Error                 our fault or the world's: exit 1, HTTP 500
    ├── UserError               your input: exit 2, HTTP 400
    │   ├── RecipeError         a recipe file or one of its values
    │   ├── DataError           an image, volume, study, sample or corpus
    │   │   └── TooLargeError   beyond a stated limit: HTTP 413
    │   ├── CheckpointError     a model directory: missing, corrupt or of the wrong shape
    │   ├── ExpertError         unknown expert, unknown argument, wrong modality
    │   ├── GateError           a challenger that must not be promoted
    │   ├── NotFoundError       a run, study, answer or model that is not there: HTTP 404
    │   └── PrerequisiteError   a program, right or kernel feature that this machine lacks
    ├── ArtifactError           an output that could not be written or read back whole
    │   └── OutOfReachError     a store that does not answer; trying again may help
    ├── ClusterError            Kubernetes refused, is out of reach or did not get ready
    │   └── ClusterOutOfReachError  an API server that does not answer; trying again may help
    ├── JobFailedError          a launched training job failed, and would again
    ├── JobLostError            a launched training job was lost to a fault of machines; start it again: exit 75
    ├── TrackingError           MLflow
    ├── Cancelled               the caller has gone: nobody reads the result, HTTP 499
    ├── PreemptedError          asked to end; the state is saved, run it again: exit 75
    ├── DivergedError           the loss is no number; the last good checkpoint is kept
    ├── SupersededError         another process has taken over this run
    ├── UnfitError              a machine on which training must not begin; found before the first step
    ├── BusyError               more callers wait than are held; says when to come back: HTTP 429
    ├── PacsError               the PACS refused or is out of reach: HTTP 503
    └── EngineError             the model server or engine failed or is out of reach: HTTP 503

A message says where, which value, which rule and what to do:
``recipe train.batch_size=30: not a multiple of num_workers=8; use 24 or 32``.
"""

from typing import ClassVar


class VilaM3Error(Exception):
    """Root of the tree; carries how a command line and an HTTP server report it."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500


class UserError(VilaM3Error):
    """The caller can mend this."""

    exit_code = 2
    http_status = 400


class RecipeError(UserError):
    """A recipe cannot be used as written."""


class DataError(UserError):
    """An image, volume, study, sample or corpus cannot be used."""


class TooLargeError(DataError):
    """An input is beyond a stated limit of pixels, bytes, files or nesting."""

    http_status = 413


class CheckpointError(UserError):
    """A model directory is missing, corrupt or of the wrong shape."""


class ExpertError(UserError):
    """An expert call cannot be served; the text is fit for the model and for the reader."""


class GateError(UserError):
    """A challenger does not meet the recipe's floors or does not beat the champion."""


class NotFoundError(UserError):
    """What was asked for by name or id does not exist."""

    http_status = 404


class PrerequisiteError(UserError):
    """This machine lacks a program, a right or a kernel feature; the text says how to come by it."""


class ArtifactError(VilaM3Error):
    """An output could not be written whole, or does not match its digest."""


class OutOfReachError(ArtifactError):
    """A store does not answer, or answers that it cannot now."""


class ClusterError(VilaM3Error):
    """A Kubernetes cluster refused, is out of reach or did not get ready."""


class ClusterOutOfReachError(ClusterError):
    """An API server does not answer, or answers that it cannot now."""


class JobFailedError(VilaM3Error):
    """A launched training job failed for a reason that starting it again would not mend."""


class JobLostError(VilaM3Error):
    """A launched training job was lost to a fault of machines, not of what it was given; it may be started again."""

    exit_code = 75  # as of `PreemptedError`


class TrackingError(VilaM3Error):
    """The tracking store refused or is out of reach."""


class Cancelled(VilaM3Error):  # noqa: N818 - the caller's decision, not a fault
    """The caller has gone, and the work stops where it is."""

    http_status = 499


class PreemptedError(VilaM3Error):
    """Long work was asked to end and has saved its state; the same command goes on with it."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: schedulers retry it


class DivergedError(VilaM3Error):
    """Training came to a loss that is no number, and would again; the last good checkpoint is kept."""


class SupersededError(VilaM3Error):
    """A later process of the same run writes its checkpoints now; this one must not."""


class UnfitError(VilaM3Error):
    """A machine, its link, disk, clock or store is not fit for training; found before the first step."""


class PacsError(VilaM3Error):
    """The archive of images refused or is out of reach."""

    http_status = 503


class EngineError(VilaM3Error):
    """The engine that generates text failed or is out of reach."""

    http_status = 503


class BusyError(VilaM3Error):
    """More callers wait than are held."""

    http_status = 429

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        """Say how long to wait."""
        super().__init__(message)
        self.retry_after_s = retry_after_s
