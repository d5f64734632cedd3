"""The ratios of a run as a picture beside its JSON: `python -m benchmarks.plot RESULTS.json`."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

MET, MISSED = "#2f7d4f", "#b5402f"


def draw(results: Path) -> Path:
    """A bar for each goal that is a ratio: how many times better than the other side, with its spread and the goal."""
    run = json.loads(results.read_text())
    goals = [(row["name"], goal) for row in run["rows"] for goal in row["goals"] if goal["over"]]
    figure, axes = pyplot.subplots(figsize=(10, 1.6 + 0.4 * len(goals)), layout="constrained")
    for place, (_, goal) in enumerate(goals):
        # Where less is better, the inverse is how many times better.
        inverse = goal["at_most"] is not None
        values = sorted(1 / value if inverse else value for value in goal["values"])
        middle = 1 / goal["median"] if inverse else goal["median"]
        wanted = 1 / goal["at_most"] if inverse else goal["at_least"]
        error = [[max(0.0, middle - values[0])], [max(0.0, values[-1] - middle)]]
        axes.barh(place, middle, xerr=error, color=MET if goal["met"] else MISSED, capsize=3, left=0)
        axes.plot([wanted, wanted], [place - 0.45, place + 0.45], color="black", linewidth=2)
        axes.annotate(f" {middle:.3g}", (max(values[-1], wanted), place), va="center")
    labels = [f"{name}: {goal['figure']} of {goal['side']} against {goal['over']}" for name, goal in goals]
    axes.set_yticks(range(len(goals)), labels, fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.15, y=0.01)
    axes.invert_yaxis()
    axes.set_xlabel("times better than the other side\n(median, least and greatest; the black line is the goal)")
    axes.set_title(f"{run['when'][:10]}, {run['machine']['cores']} cores, {run['machine']['processor']}", fontsize=9)
    picture = results.with_suffix(".png")
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)
    return picture


if __name__ == "__main__":
    print(draw(Path(sys.argv[1])))
