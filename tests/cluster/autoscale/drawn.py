"""Replicas over time as a picture, with the time of the load behind them."""

import html
import io
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # before pyplot: no display
from matplotlib import pyplot as plt

from tests.cluster.autoscale.reaction import DEPLOYMENT, PER_SECOND, Reaction
from vilam3.artifacts import write_text

STYLE = {"svg.fonttype": "none", "svg.hashsalt": "vilam3", "font.size": 9, "axes.grid": True, "grid.linewidth": 0.4}


def write_page(reaction: Reaction, file: Path, *, machine: str) -> None:
    """One page that needs nothing beside itself."""
    text = (
        f"<!doctype html><meta charset=utf-8><title>{title(reaction)}</title><style>body{{font:15px sans-serif;"
        f"max-width:60em;margin:2em auto}}</style><h1>{title(reaction)}</h1><p>{html.escape(summary(reaction))}</p>"
        f"<p>Measured on {html.escape(machine)}.</p>{picture(reaction)}\n"
    )
    write_text(file, text)


def title(reaction: Reaction) -> str:
    """What is shown."""
    return f"Replicas of {DEPLOYMENT} by {reaction.scaler.upper()}"


def summary(reaction: Reaction) -> str:
    """The figures in a sentence."""
    return (
        f"{reaction.requests} requests in {reaction.load_s:.0f} s, {len(reaction.lost)} lost; a second replica was"
        f" ready {reaction.up_s:.0f} s after the first request, one was left {reaction.down_s:.0f} s after the last."
    )


def picture(reaction: Reaction) -> str:
    """Replicas asked for and ready, as SVG."""
    moments = [one.at_s for one in reaction.replicas]
    with mpl.rc_context(STYLE):
        figure, panel = plt.subplots(figsize=(9, 3.2))
        panel.axvspan(0, reaction.load_s, alpha=0.12, label=f"load: {PER_SECOND} requests a second")
        panel.step(moments, [one.wanted for one in reaction.replicas], where="post", linestyle="--", label="asked for")
        panel.step(moments, [one.ready for one in reaction.replicas], where="post", label="ready")
        panel.set_ylim(0)
        panel.set_xlabel("seconds from the first request")
        panel.set_ylabel("replicas")
        panel.legend(loc="upper right", fontsize=8)
        figure.tight_layout()
        stream = io.StringIO()
        figure.savefig(stream, format="svg")
        plt.close(figure)
    return stream.getvalue()[stream.getvalue().index("<svg") :]
