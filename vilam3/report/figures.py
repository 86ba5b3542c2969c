"""The report's drawings as inline SVG, in colours that the page's light and dark styles define."""

import io
import re
from collections.abc import Sequence

import matplotlib as mpl

mpl.use("Agg")  # before pyplot: no display
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from vilam3.evaluate.results import TaskComparison
from vilam3.train.record import StageResult

# Drawn in these, shown in the page's variables: an SVG within the page takes part in its styles.
VARIABLES = {"#010203": "var(--ink)", "#040506": "var(--rule)", "#0a0b0c": "var(--without)", "#0d0e0f": "var(--with)"}
INK, RULE, WITHOUT, WITH = VARIABLES
STYLE = {
    "svg.fonttype": "none",  # text stays text, for readers and for search
    "svg.hashsalt": "vilam3",  # the same data gives the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": RULE,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
SMOOTHED_STEPS = 10
PERCENT = 100


def loss_curves(stages: Sequence[StageResult]) -> str:
    """One panel a stage: the loss of every step, and its running mean."""
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(stages), figsize=(2.6 * len(stages), 2.4), squeeze=False)
        for stage, panel in zip(stages, axes[0], strict=True):
            steps = range(1, len(stage.losses) + 1)
            panel.plot(steps, stage.losses, color=RULE, linewidth=0.8)
            panel.plot(steps, running_mean(stage.losses), color=WITH, linewidth=1.6)
            panel.set_title(stage.name, fontsize=9)
            panel.set_xlabel("step")
            panel.set_yscale("log")  # the first steps fall by more than all that follow
            panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_formatter("")
        axes[0][0].set_ylabel("loss")
        return _svg(figure)


def running_mean(losses: Sequence[float], *, steps: int = SMOOTHED_STEPS) -> list[float]:
    """Mean of each loss and those before it, over at most `steps` of them."""
    windows = (losses[max(0, end - steps) : end] for end in range(1, len(losses) + 1))
    return [sum(window) / len(window) for window in windows]


def task_bars(tasks: Sequence[TaskComparison]) -> str:
    """A pair of bars a task, with intervals, and a mark where the most frequent answer alone would stand."""
    with mpl.rc_context(STYLE):
        figure, panel = plt.subplots(figsize=(7.8, 0.62 * len(tasks) + 1.1))
        for place, row in enumerate(tasks):
            _bar(panel, place - 0.18, row, with_experts=False)
            _bar(panel, place + 0.18, row, with_experts=True)
            panel.plot(
                [PERCENT * row.majority] * 2, [place - 0.38, place + 0.38], color=INK, linewidth=1, linestyle=":"
            )
        panel.set_yticks(range(len(tasks)), [row.task for row in tasks])
        panel.invert_yaxis()
        panel.set_xlim(0, PERCENT)
        panel.set_xlabel("accuracy in %; the dotted line is what always giving the most frequent answer would score")
        panel.grid(axis="x", linewidth=0.5)
        panel.set_axisbelow(True)
        handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in (WITHOUT, WITH)]
        figure.legend(handles, ["without experts", "with experts"], loc="upper center", ncols=2)
        return _svg(figure, top=0.88)


def _bar(panel: Axes, place: float, row: TaskComparison, *, with_experts: bool) -> None:
    estimate = row.with_experts if with_experts else row.without_experts
    if estimate is None:
        return
    value = PERCENT * estimate.value
    whiskers = [[value - PERCENT * estimate.low], [PERCENT * estimate.high - value]]
    panel.barh(place, value, height=0.34, color=WITH if with_experts else WITHOUT)
    panel.errorbar(value, place, xerr=whiskers, color=INK, linewidth=1, capsize=2.5)


def _svg(figure: Figure, *, top: float = 1.0) -> str:
    figure.tight_layout(rect=(0, 0, 1, top))
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for drawn, shown in VARIABLES.items():
        text = text.replace(drawn, shown)
    # The page says how wide and what it shows; ids of one drawing must not meet those of another.
    text = re.sub(r'<svg ([^>]*?)height="[^"]*" ([^>]*?)width="[^"]*"', r'<svg aria-hidden="true" \1\2', text, count=1)
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
