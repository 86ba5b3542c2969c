"""What a launched job has cost, from the ledger that it left in the store: a killed one, too."""

from pathlib import Path

import pytest

from vilam3.launch import run
from vilam3.launch.run import Account
from vilam3.objects import FolderStore
from vilam3.train.ledger import Holding, Ledger
from vilam3.train.news import News


def account(**seconds: float) -> Account:
    return Account(job="job", namespace="here", news="", seconds=seconds, workers=2)  # type: ignore[arg-type]  # phases


def test_a_job_that_failed_has_cost_what_its_ledger_and_its_watcher_saw(tmp_path: Path) -> None:
    ledger = Ledger(FolderStore(tmp_path), "stage-1", holding=Holding(devices=2, holder="job"))
    ledger.begun(0)
    ledger.close()
    news = News(ledger=f"{tmp_path.as_uri()}/stage-1/ledger", kind="VilaM3Error")
    found = run._expense(news, account(queued=500.0, starting=40.0, running=60.0))
    assert found is not None
    assert found.queue_s == 500
    assert found.held_s == pytest.approx(200)
    assert sum(found.device_s.values()) == pytest.approx(200, rel=1e-3)
    assert found.device_s["machines"] == pytest.approx(200, rel=0.05)


def test_a_job_that_never_began_to_train_has_no_account(tmp_path: Path) -> None:
    assert run._expense(News(), account(queued=500.0)) is None
    assert run._expense(News(ledger=f"{tmp_path.as_uri()}/gone/ledger"), account(starting=5.0)) is None
