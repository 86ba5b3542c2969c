"""Compiles a pipeline to YAML and hands it to a Kubeflow Pipelines server."""

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path

from kfp import compiler
from kfp.dsl.base_component import BaseComponent

from vilam3.artifacts import whole_file
from vilam3.errors import EngineError, UserError


def write_yaml(pipeline: BaseComponent, path: Path) -> None:
    """Write KFP's intermediate representation, whole or not at all."""
    with whole_file(path) as partial:
        spelled = partial.with_suffix(".yaml")  # the compiler goes by the ending
        compiler.Compiler().compile(pipeline, str(spelled))
        spelled.replace(partial)


def check_arguments(
    pipeline: BaseComponent, given: Mapping[str, str | None], *, texts: Collection[str] = ()
) -> dict[str, str | int]:
    """The arguments of a pipeline, local paths made absolute.

    Args:
        pipeline: What they are for.
        given: By name; None is left out.
        texts: Names of those that are no paths.

    Raises:
        UserError: one is missing, has no effect, or is no number where one is needed.
    """
    known = dict(pipeline.component_spec.inputs or {})
    kept = {name: value for name, value in given.items() if value is not None}
    missing = [name for name, spec in known.items() if spec.default is None and name not in kept]
    if missing:
        raise UserError(f"{_flag(missing[0])} is required here: this recipe does not make it; give its path or URI")
    unused = [name for name in kept if name not in known]
    if unused:
        raise UserError(f"{_flag(unused[0])} has no effect here: the pipeline makes it from the recipe; leave it out")
    types = {name: known[name].type for name in kept}
    return {name: _typed(name, value, types[name], is_path=name not in texts) for name, value in kept.items()}


def _typed(name: str, value: str, type_: str, *, is_path: bool) -> str | int:
    if type_ == "Integer":
        if not value.isdecimal():
            raise UserError(f"{_flag(name)}={value}: not a whole number; write digits only")
        return int(value)
    return str(Path(value).absolute()) if is_path and "://" not in value else value


def submit(pipeline: BaseComponent, arguments: Mapping[str, str | int], *, endpoint: str, experiment: str) -> str:
    """Start a run and return its id.

    Raises:
        EngineError: the server refused or is out of reach.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # kfp's client imports parts of itself that it deprecates
        from kfp import client  # noqa: PLC0415 - imports the Kubernetes client

    try:
        started = client.Client(host=endpoint).create_run_from_pipeline_func(
            pipeline, arguments=dict(arguments), experiment_name=experiment
        )
    except Exception as error:  # the client raises whatever its layers raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise EngineError(f"{endpoint}: the run was not started: {reason}; check address and server") from error
    return str(started.run_id)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
