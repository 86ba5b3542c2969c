"""Which cluster can be used as which."""

from infra.cluster.plan import LEVELS, SERVES


def test_every_level_serves_as_itself_and_as_an_api_server() -> None:
    assert all({level, "api"} <= set(SERVES[level]) for level in LEVELS)


def test_pretended_nodes_run_no_pod_and_a_real_one_is_not_a_thousand() -> None:
    assert "node" not in SERVES["simulated"]
    assert "simulated" not in SERVES["node"]
    assert "simulated" not in SERVES["full"]
