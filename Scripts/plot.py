"""Draws figures from the files that tensattn writes; prints the path of each.

    plot.py --output FOLDER [LABEL=]FILE...

*.jsonl    metrics of training           -> loss-curve.png
*.json     reports of perplexity or demo -> loss-by-length.png, loss-by-position.png,
                                            time-by-length.png
           rows of bench                 -> bench.png (CPU), bench-cuda-forward.png,
                                            bench-cuda-forward-backward.png
           confusion matrices            -> confusion.png, or confusion-LABEL.png of several
           report of compare-encoders    -> encoder-accuracy.png, encoder-cost.png
"""

import argparse
import json
import pathlib
import statistics
import sys

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (the backend is chosen first)


def parse_input(text):
    label, separator, path = text.partition("=")
    path = pathlib.Path(path if separator else text)
    return label if separator else path.parent.name or path.stem, path


def read_metrics(path):
    lines = [json.loads(line) for line in path.read_text().splitlines() if line]
    train = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    held_out = [(line["step"], line["validation_loss"]) for line in lines
                if "validation_loss" in line]
    return train, held_out


def smoothed(values, weight=0.9):
    """A running mean without bias at the beginning."""
    mean, norm, result = 0.0, 0.0, []
    for value in values:
        mean = weight * mean + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        result.append(mean / norm)
    return result


def label_axes(axes, title, x_label, y_label):
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    return axes


def figure(title, x_label, y_label):
    axes = plt.figure(figsize=(7, 4.5), layout="constrained").gca()
    return label_axes(axes, title, x_label, y_label)


def save(axes, folder, name):
    if axes.get_legend() is None:
        axes.legend(fontsize="small")
    write(axes, folder, name)


def write(axes, folder, name):
    path = folder / name
    partial = path.with_suffix(".partial.png")
    axes.figure.savefig(partial, dpi=150)
    partial.replace(path)
    plt.close(axes.figure)
    print(path)


def length_axis(axes, contexts):
    contexts = sorted(set(contexts))
    axes.set_xscale("log", base=2)
    name = str
    if contexts[-1] >= 1 << 16 and all(context % 1024 == 0 for context in contexts):
        name = lambda context: f"{context >> 10} k" if context < 1 << 20 else f"{context >> 20} M"
    axes.set_xticks(contexts, [name(context) for context in contexts])
    axes.minorticks_off()


def draw_loss_curves(runs, folder):
    axes = figure("Training (lines) and validation (dots)", "step", "loss (nats per token)")
    for label, (train, held_out) in runs:
        steps, losses = zip(*train)
        (line,) = axes.plot(steps, smoothed(losses), label=label)
        if held_out:
            axes.plot(*zip(*held_out), "o", color=line.get_color(), markersize=4)
    save(axes, folder, "loss-curve.png")


def draw_reports(reports, folder):
    contexts = [row["context"] for _, report in reports for row in report["lengths"]]
    for key, name, title, y_label in [
        ("loss", "loss-by-length.png", "Validation loss", "loss (nats per token)"),
        ("ms_per_token", "time-by-length.png", "Forward pass", "ms per token"),
    ]:
        axes = figure(title, "context length (tokens)", y_label)
        for label, report in reports:
            rows = report["lengths"]
            axes.plot([row["context"] for row in rows], [row[key] for row in rows], "o-",
                      label=label)
        length_axis(axes, contexts)
        if key == "ms_per_token":
            axes.set_ylim(bottom=0)
        save(axes, folder, name)
    longest = max(contexts)
    axes = figure(f"Validation loss within sequences of {longest}", "position (tokens)",
                  "loss (nats per token)")
    for label, report in reports:
        ranges = report["positions"]
        edges = [ranges[0]["from"]] + [row["to"] for row in ranges]
        axes.stairs([row["loss"] for row in ranges], edges, baseline=None, label=label,
                    linewidth=1.8)
    axes.set_xscale("symlog", base=2, linthresh=64)
    save(axes, folder, "loss-by-position.png")


def draw_bench(rows, folder):
    axes = figure("Forward pass", "sequence length (tokens)", "ms a head")
    series = {}

    def add(label, row, key):
        if row.get(key) is not None:
            series.setdefault(label, {})[row["n"]] = row[key] / row.get("heads", 1)

    for row in rows:
        kind = f"{len(row['fold'].split('x'))} modes, {row['support']}, {row['normalization']}"
        add(kind, row, "forward_ms")
        for key, label in [("composed_forward_ms", f"{kind}, torch operations"),
                           ("window_forward_ms", "window"), ("full_forward_ms", "full")]:
            add(label, row, key)
    for label, points in series.items():
        xs = sorted(points)
        axes.plot(xs, [points[x] for x in xs], "o-", label=label)
    axes.set_yscale("log")
    axes.margins(y=0.3)
    length_axis(axes, [row["n"] for row in rows])
    save(axes, folder, "bench.png")


def draw_cuda_bench(rows, folder, suffix, floor_key, title):
    """Times of a head beside the floor, and ratios: to the floor, and of the peers to the kernels."""
    own_key = suffix + "_ms"
    rows = [row for row in rows if row.get(own_key) is not None]
    if not rows:
        return
    peers = [("flash", "flash-attention 2"), ("cudnn", "cuDNN"), ("window", "window 1024"),
             ("composed", "torch operations")]
    kinds = list(dict.fromkeys(f"{row['support']} {row['normalization']}" for row in rows))
    names = ["floor", *kinds, *(label for _, label in peers)]
    colors = {name: f"C{index}" for index, name in enumerate(names)}
    times, ratios = {}, {}  # (name, kind) -> {n: value}
    for row in rows:
        n, own, heads = row["n"], row[own_key], row.get("heads", 1)
        kind = f"{row['support']} {row['normalization']}"
        times.setdefault(("floor", ""), {})[n] = row[floor_key] / heads
        times.setdefault((kind, kind), {})[n] = own / heads
        ratios.setdefault((kind, kind), {})[n] = own / row[floor_key]
        for key, label in peers:
            peer = row.get(f"{key}_{own_key}")
            if peer is not None:
                times.setdefault((label, kind if key == "composed" else ""), {})[n] = peer / heads
                if key != "composed":
                    ratios.setdefault((label, kind), {})[n] = peer / own
    _, panels = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for axes, series, heading, y_label in [
        (panels[0], times, title, "ms a head"),
        (panels[1], ratios, "Kernels ÷ floor (lines), peers ÷ kernels (dashes)", "ratio of times"),
    ]:
        label_axes(axes, heading, "sequence length (tokens)", y_label)
        for (name, kind), points in sorted(series.items(), key=lambda item: names.index(item[0][0])):
            xs = sorted(points)
            own = name in kinds
            label = name if kind in ("", name) else f"{name}, {kind}"
            if axes is panels[1]:
                label = f"{name} ÷ floor" if own else f"{name} ÷ {kind}"
            marker = "s" if kind in kinds[1:] else "o"
            axes.plot(xs, [points[x] for x in xs], marker + ("-" if own else "--"), label=label,
                      color=colors[name], markersize=4)
        axes.set_yscale("log")
        length_axis(axes, [row["n"] for row in rows])
        axes.legend(fontsize="x-small")
    save(panels[0], folder, f"bench-cuda-{suffix.replace('_', '-')}.png")


def draw_confusion(label, matrix, folder, name):
    labels, counts = matrix.get("labels", []), matrix.get("counts", [])
    if not labels or any(len(row) != len(labels) for row in [counts, *counts]):
        sys.exit(f"Expected a confusion matrix of {len(labels)} labels of {label}, "
                 f"found rows of {[len(row) for row in counts]} counts.")
    size = len(labels)
    side = min(4 + 0.35 * size, 14)
    axes = plt.figure(figsize=(side + 1, side), layout="constrained").gca()
    # Shares of the actual label, so that rare labels show as clearly as frequent ones.
    shares = [[count / (sum(row) or 1) for count in row] for row in counts]
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    right = sum(counts[i][i] for i in range(size))
    total = sum(map(sum, counts))
    axes.set(title=f"{label}: {right} of {total} right", xlabel="predicted", ylabel="actual")
    axes.set_xticks(range(size), labels, rotation=90 if size > 4 else 0)
    axes.set_yticks(range(size), labels)
    for i, row in enumerate(counts if size <= 20 else []):
        for j, count in enumerate(row):
            axes.text(j, i, count or "", ha="center", va="center", fontsize="small",
                      color="white" if shares[i][j] > 0.6 else "black")
    axes.figure.colorbar(image, label="share of the actual label", shrink=0.8)
    write(axes, folder, name)


def draw_encoders(report, folder):
    encoders, plan = report["encoders"], report["plan"]
    names = {"mtsa": "MTSA", "multi-head": "multi-head", "disa": "DiSA", "bilstm": "Bi-LSTM",
             "cnn": "CNN"}
    labels = [names[row["family"]] for row in encoders]
    tokens, seeds = plan["base"]["data"]["length"], len(plan["seeds"])
    bars, lines = plt.figure(figsize=(10, 4.5), layout="constrained").subplots(1, 2)
    scores = [[100 * trial["accuracy"] for trial in row["trials"]] for row in encoders]
    bars.set(title=f"{tokens} tokens: {seeds} seeds (dots), their mean (bars)",
             ylabel="test accuracy (%)")
    bars.bar(labels, [statistics.mean(group) for group in scores], width=0.6, alpha=0.5)
    for place, group in enumerate(scores):
        bars.plot([place] * len(group), group, "k.", markersize=5)
    lines.set(title=f"The same models beyond {tokens} tokens", xlabel="sequence length (tokens)")
    for label, row, group in zip(labels, encoders, scores):
        points = {tokens: statistics.mean(group)}
        for tests in zip(*(trial["by_length"] for trial in row["trials"])):
            points[tests[0]["length"]] = 100 * statistics.mean(test["accuracy"] for test in tests)
        lines.plot(points.keys(), points.values(), "o-", label=label)
    length_axis(lines, [tokens] + plan["testLengths"])
    for axes in (bars, lines):
        axes.axhline(100 * report["chance"], color="gray", linestyle=":", label="guessing")
        if "order_blind_accuracy" in report:
            axes.axhline(100 * report["order_blind_accuracy"], color="gray", linestyle="--",
                         label="most without order")
        axes.set_ylim(0, 105)
        axes.grid(alpha=0.3)
    save(lines, folder, "encoder-accuracy.png")

    pair = plt.figure(figsize=(10, 4.5), layout="constrained").subplots(1, 2)
    lengths = [cost["length"] for row in encoders for cost in row["costs"]]
    for axes, key, unit, y_label in [(pair[0], "step_ms", 1, "ms a step of one sequence"),
                                     (pair[1], "peak_bytes", 1e6, "peak memory (MB)")]:
        for label, row in zip(labels, encoders):
            costs = [cost for cost in row["costs"] if cost.get(key)]
            axes.plot([cost["length"] for cost in costs], [cost[key] / unit for cost in costs],
                      "o-", label=label)
        axes.set(xlabel="sequence length (tokens)", ylabel=y_label)
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
        length_axis(axes, lengths)
        axes.tick_params(axis="x", labelrotation=45)
    save(pair[0], folder, "encoder-cost.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("inputs", nargs="+", metavar="[LABEL=]FILE")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    runs, reports, bench, confusions, encoders = [], [], [], [], []
    for label, path in map(parse_input, arguments.inputs):
        try:
            if path.suffix == ".jsonl":
                run = read_metrics(path)
                if not run[0]:
                    sys.exit(f"{path} holds no training loss.")
                runs.append((label, run))
                continue
            content = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            sys.exit(f"Expected metrics or a report at {path}: {error}")
        if isinstance(content, list):
            bench += content
        elif "counts" in content or "confusion" in content:
            confusions.append((label or path.stem, content.get("confusion", content)))
        elif "encoders" in content:
            encoders.append(content)
        elif "rows" in content:
            reports += [(row["report"]["name"], row["report"]) for row in content["rows"]]
        elif "report" in content:
            reports.append((label, content["report"]))
        elif "lengths" in content:
            reports.append((label, content))
        else:
            sys.exit(f"{path} is neither a report of perplexity, demo or compare-encoders "
                     "nor rows of bench nor a confusion matrix.")
    if runs:
        draw_loss_curves(runs, arguments.output)
    if reports:
        draw_reports(reports, arguments.output)
    on_cuda = [row for row in bench if "floor_ms" in row]
    on_cpu = [row for row in bench if "floor_ms" not in row]
    if on_cpu:
        draw_bench(on_cpu, arguments.output)
    draw_cuda_bench(on_cuda, arguments.output, "forward", "floor_ms", "Forward pass")
    draw_cuda_bench(on_cuda, arguments.output, "forward_backward", "floor_backward_ms",
                    "Forward and backward pass")
    for label, matrix in confusions:
        name = "".join(c if c.isalnum() else "-" for c in label)
        draw_confusion(label, matrix, arguments.output,
                       "confusion.png" if len(confusions) == 1 else f"confusion-{name}.png")
    for report in encoders:
        draw_encoders(report, arguments.output)


if __name__ == "__main__":
    main()
