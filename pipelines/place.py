"""Where a step runs: resources, tolerations, image and retries, from the recipe; on this machine none of it applies."""

from dataclasses import dataclass
from typing import Literal, get_args

from kfp import kubernetes
from kfp.dsl import PipelineTask
from kfp.dsl.pipeline_channel import PipelineChannel

from vilam3.settings import ResourceSettings

INSTALLATION = "vilam3"  # ConfigMap of an installation, with the endpoints its steps need
ENDPOINTS = {"mlflow_tracking_uri": "MLFLOW_TRACKING_URI"}
RUNS = "/tmp/vilam3"  # noqa: S108 - a volume of the pod's own, the only place to write on a read-only root
PRICE = {"price_per_gpu_hour": "VILAM3_PRICE_PER_GPU_HOUR", "currency": "VILAM3_CURRENCY"}
STORE = {"checkpoints": "VILAM3_CHECKPOINTS", "aws_default_region": "AWS_DEFAULT_REGION"}
STORE_ENDPOINT = {"aws_endpoint_url": "AWS_ENDPOINT_URL"}
STORE_SECRET = "vilam3-s3"  # noqa: S105 - a name; an installation puts its own in its place
STORE_KEYS = {key: key for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
TEMPLATE, TEMPLATE_FOLDER = "vilam3-job", "/etc/vilam3"  # ConfigMap of an installation, and where its file goes
LIGHT_CPU, LIGHT_MEMORY = "1", "4Gi"
WATCH_CPU, WATCH_MEMORY = "100m", "1Gi"  # a launcher waits; MLflow's client is most of its memory
NUM_RETRIES = 3
WINDOW = "604800s"  # KFP counts the wall clock since the first attempt, waiting for a node included: a week


LauncherName = Literal["here", "jobs"]
LAUNCHERS: tuple[LauncherName, ...] = get_args(LauncherName)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the steps of a pipeline run.

    Attributes:
        resources: Of steps that compute, as the recipe says; None on this machine.
        image: Replaces the steps' image, such as a reference by digest; empty keeps it.
        launcher: Where stages train: in the pods of their steps, or by a job each.
    """

    resources: ResourceSettings | None = None
    image: str = ""
    launcher: LauncherName = "here"

    def light(self, task: PipelineTask) -> PipelineTask:
        """A step that computes little."""
        if self.resources is None:
            return task
        task.set_cpu_request(LIGHT_CPU).set_cpu_limit(LIGHT_CPU)
        task.set_memory_request(LIGHT_MEMORY).set_memory_limit(LIGHT_MEMORY)
        return self._settle(task)

    def resolving(self, task: PipelineTask, *, looks: bool = True) -> PipelineTask:
        """The step that settles what a run is made of; where it `looks` at given places, no cache may answer for it."""
        task.set_caching_options(enable_caching=not looks)
        if looks and self.resources is not None and self.launcher == "here":
            _reach_store(task, optional=True)
        return self.light(task)

    def heavy(self, task: PipelineTask, *, name: str = "", gpus: PipelineChannel | int | None = None) -> PipelineTask:
        """A step that trains, fits or evaluates: with accelerators, on the nodes that the recipe names.

        Args:
            task: The step.
            name: Shown for it, where it is not enough to know the component.
            gpus: How many accelerators; None for the recipe's.
        """
        if self.resources is None:
            return task
        if name:
            task.set_display_name(name)
        wanted = self.resources
        task.set_cpu_request(wanted.cpu).set_cpu_limit(wanted.cpu)
        task.set_memory_request(wanted.memory).set_memory_limit(wanted.memory)
        if gpus is not None or wanted.gpus:
            task.set_accelerator_type(wanted.accelerator).set_accelerator_limit(wanted.gpus if gpus is None else gpus)
            kubernetes.empty_dir_mount(task, volume_name="shm", mount_path="/dev/shm", medium="Memory")  # noqa: S108 - shared memory between the processes of one pod
        for one in wanted.tolerations:
            kubernetes.add_toleration(
                task, key=one.key, operator=one.operator, value=one.value, effect=one.effect or None
            )
        for label, value in wanted.node_selector.items():
            kubernetes.add_node_selector(task, label_key=label, label_value=value)
        return self._settle(task)

    def launching(self, task: PipelineTask, *, name: str) -> PipelineTask:
        """A step that launches a job and waits for it: it takes next to nothing, and knows its pod and the template."""
        if self.resources is None:
            return task
        task.set_display_name(name)
        task.set_cpu_request(WATCH_CPU).set_cpu_limit(LIGHT_CPU)
        task.set_memory_request(WATCH_MEMORY).set_memory_limit(WATCH_MEMORY)
        kubernetes.use_field_path_as_env(task, env_name="VILAM3_POD", field_path="metadata.name")
        kubernetes.use_config_map_as_volume(task, config_map_name=TEMPLATE, mount_path=TEMPLATE_FOLDER)
        return self._settle(task)

    def _settle(self, task: PipelineTask) -> PipelineTask:
        if self.image:
            task.set_container_image(self.image)
        task.set_env_variable("VILAM3_RUNS", RUNS)
        kubernetes.empty_dir_mount(task, volume_name="scratch", mount_path="/tmp")  # noqa: S108 - see RUNS
        kubernetes.use_config_map_as_env(task, config_map_name=INSTALLATION, config_map_key_to_env=ENDPOINTS)
        kubernetes.use_config_map_as_env(task, config_map_name=INSTALLATION, config_map_key_to_env=PRICE, optional=True)
        if self.launcher == "jobs":  # results stay in the store
            _reach_store(task, optional=False)
        return task.set_retry(
            num_retries=NUM_RETRIES, backoff_duration="60s", backoff_factor=2, backoff_max_duration=WINDOW
        )


def _reach_store(task: PipelineTask, *, optional: bool) -> None:
    """Endpoint and keys of the installation's object store, if they are `optional` only where there are any."""
    kubernetes.use_config_map_as_env(task, config_map_name=INSTALLATION, config_map_key_to_env=STORE, optional=optional)
    kubernetes.use_config_map_as_env(
        task, config_map_name=INSTALLATION, config_map_key_to_env=STORE_ENDPOINT, optional=True
    )
    kubernetes.use_secret_as_env(
        task, secret_name=STORE_SECRET, secret_key_to_env=STORE_KEYS, optional=True
    )  # or a role of the cloud
