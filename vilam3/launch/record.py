"""How a job went, for people: a page that needs nothing beside itself, and tags in MLflow."""

from collections.abc import Callable, Mapping
from pathlib import Path

from vilam3.artifacts import write_text
from vilam3.errors import ArtifactError, TrackingError
from vilam3.launch.job import Request
from vilam3.launch.run import Account
from vilam3.objects import open_store
from vilam3.progress import format_seconds
from vilam3.report import expense


def page(request: Request, account: Account) -> str:
    """The page as text."""
    rows = {
        "job": f"{account.job} in namespace {account.namespace}",
        "recipe": f"{request.recipe.name} ({request.recipe.digest[:12]})",
        "workers": str(account.workers),
        "worker hours": f"{account.worker_hours('starting', 'running'):.2f}, "
        f"of them {account.worker_hours('starting'):.2f} before a first step",
        "corpus": request.corpus,
        "base": request.base or "nothing",
        "news": account.news,
        **{f"time {phase}": format_seconds(seconds) for phase, seconds in account.seconds.items()},
    }
    failure = account.failure
    title = f"{request.stage}: {'failed' if failure else 'trained'} by a job"
    return expense.page(
        title,
        {request.stage: account.expense} if account.expense else {},
        facts=rows,
        failure=(failure.cause.name, failure.sentence) if failure else None,
    )


def tags(account: Account) -> Mapping[str, str]:
    """What MLflow is told of a job."""
    failure = account.failure
    return {
        "job": account.job,
        "namespace": account.namespace,
        "news": account.news,
        "failure": failure.cause.name if failure else "none",
        "failure_sentence": failure.sentence if failure else "",
        "retryable": str(failure.cause.is_retryable).lower() if failure else "",
        "worker_hours": f"{account.worker_hours('starting', 'running'):.4f}",
        "worker_hours_starting": f"{account.worker_hours('starting'):.4f}",
        **{f"seconds_{phase}": f"{seconds:.1f}" for phase, seconds in account.seconds.items()},
    }


def leave_page(text: str, account: Account) -> str:
    """Put the page beside the news, where it is found even if the launching step fails; returns a sentence."""
    place, _, key = account.news.rpartition("/")
    name = key.removesuffix(".json")
    try:
        open_store(place).put(f"{name}.html", text.encode())
    except ArtifactError as error:
        return f"the page could not be left: {error}"
    return f"how it went: {place}/{name}.html"


def tell_mlflow(request: Request, account: Account, *, runs: Path) -> str:
    """Tag a run of the job's own, since the training's may never have begun; returns a sentence.

    A tracking store that is away does not fail the job, which has cost more than its tags.
    """
    from vilam3.tracking import connect  # noqa: PLC0415 - mlflow takes seconds to import

    name, names = f"{request.recipe.name}-{request.stage}-job", request.recipe.tracking
    try:
        tracking = connect(experiment=names.experiment, registered_model=names.registered_model, runs=runs)
        run_id = tracking.begin_run(name, key=account.job)
        tracking.tag_run(run_id, tags(account))
        tracking.log_numbers(run_id, account.expense.numbers() if account.expense else {})
        tracking.finish_run(run_id, succeeded=account.failure is None)
    except TrackingError as error:
        return f"MLflow was not told: {error}"
    return f"MLflow: run {name} has tags of how it went"


def publish(
    request: Request, account: Account, *, runs: Path, page_file: Path | None, say: Callable[[str], None]
) -> None:
    """Tell everywhere how a job went."""
    text = page(request, account)
    if page_file is not None:
        write_text(page_file, text)
    say(leave_page(text, account))
    say(tell_mlflow(request, account, runs=runs))
