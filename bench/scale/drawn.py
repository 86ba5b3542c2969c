"""The experiment as a picture: pods that have nodes, and what the API server takes, over the same time."""

import html
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # before pyplot: no display
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.scale.experiment import EXPERT_PODS, GANG_POD
from bench.scale.measured import Measured
from bench.scale.observed import Sample
from vilam3.artifacts import write_text

SHOWN = ("kube-apiserver", "kube-scheduler", "kube-controller-manager", "etcd", "kwok")
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "vilam3", "font.size": 9, "axes.grid": True, "grid.linewidth": 0.4}
SINCE = {EXPERT_PODS: "after their nodes went silent", GANG_POD: "after their nodes were declared out of service"}
SMOOTHED = 5  # samples
TRUTH = (
    "No accelerator and no container was at work: API server, scheduler, controllers and KubeRay's operator are real,"
    " the nodes and what runs on them are pretended by KWOK. It shows scheduling and the load of the API, nothing else."
)


def write_page(measured: Measured, file: Path, *, machine: str) -> None:
    """One page that needs nothing beside itself."""
    rows = "".join(f"<tr><td>{html.escape(name)}<td>{value}" for name, value in facts(measured))
    text = (
        "<!doctype html><meta charset=utf-8><title>A thousand pretended nodes</title>"
        "<style>body{font:15px sans-serif;max-width:60em;margin:2em auto}td{padding:.2em 1em .2em 0}</style>"
        f"<h1>A thousand pretended nodes</h1><p>{TRUTH}</p><p>Measured on {html.escape(machine)}.</p>"
        f"{picture(measured)}<table>{rows}</table>\n"
    )
    write_text(file, text)


def facts(measured: Measured) -> list[tuple[str, str]]:
    """What was measured, in words."""
    replaced = [
        (f"{measured.lost_pods[name]} lost {name} started elsewhere, {since}", f"{measured.replaced_s[name]:.0f} s")
        for name, since in SINCE.items()
    ]
    return [
        ("1000 nodes ready after", f"{measured.nodes_ready_s:.1f} s"),
        ("200 experts and a gang of 512 accelerators scheduled after", f"{measured.scheduled_s:.1f} s"),
        ("1000 pods scheduled in", f"{measured.thousand_pods_s:.1f} s"),
        ("of 1000 nodes all accelerators free, then", f"{measured.whole_nodes_left}"),
        ("API server, processor time for 1000 pods", f"{measured.apiserver_cpu_s_per_1000_pods:.1f} s"),
        ("API server, for heartbeats of 1000 nodes alone", f"{measured.idle_apiserver_cores:.2f} cores"),
        ("API server, most memory", f"{measured.apiserver_memory_mb:.0f} MB"),
        *replaced,
        (
            "of a gang for which the zone has too few nodes",
            f"{measured.unfit_placed} workers hold accelerators, {measured.unfit_pending} wait: without Kueue",
        ),
    ]


def picture(measured: Measured) -> str:
    """Three panels over one time axis, as SVG."""
    with mpl.rc_context(STYLE):
        figure, panels = plt.subplots(3, 1, figsize=(9, 8), sharex=True)
        panels[0].step(measured.placed_s, range(1, len(measured.placed_s) + 1), where="post")
        panels[0].set_ylabel("pods given a node")
        for name in SHOWN:
            taken = measured.samples[name]
            panels[1].plot(*_cores(taken), label=name, linewidth=1)
            panels[2].plot([one.at_s for one in taken], [one.memory_mb for one in taken], label=name, linewidth=1)
        panels[1].set_ylabel("cores")
        panels[2].set_ylabel("memory in MB")
        panels[2].set_xlabel("seconds")
        panels[1].legend(loc="upper right", fontsize=8)
        for panel in panels:
            _mark(panel, measured, named=panel is panels[0])
        figure.tight_layout()
        stream = io.StringIO()
        figure.savefig(stream, format="svg")
        plt.close(figure)
    return stream.getvalue()[stream.getvalue().index("<svg") :]


def _cores(taken: Sequence[Sample]) -> tuple[list[float], list[float]]:
    """Moments, and the cores in use up to each, over a few samples."""
    pairs = [(earlier, later) for earlier, later in zip(taken, taken[SMOOTHED:], strict=False)]
    return [later.at_s for _, later in pairs], [
        (later.cpu_s - earlier.cpu_s) / (later.at_s - earlier.at_s) for earlier, later in pairs
    ]


def _mark(panel: Axes, measured: Measured, *, named: bool) -> None:
    for name, moment in measured.marks.items():
        panel.axvline(moment, color="#888", linewidth=0.6, linestyle=":")
        if named:
            panel.text(
                moment, 1.0, f" {name}", rotation=90, va="top", fontsize=7, transform=panel.get_xaxis_transform()
            )
