#!/usr/bin/env python3
"""Medians of the raw results of compare, and how the two servers stand to each other.

    benches/summary.py RUN_DIRECTORY [--plot PROGRAM]

Reads raw/<round>-<server>-<scenario>.json; writes summary.json, summary.txt and, for a README, summary.md, and prints
the text. With --plot, PROGRAM (ringkeeper-latency) draws both servers over each other, in the rounds that stand for the
median: pictures/<scenario>-*.png and .svg.
"""

import argparse
import json
import pathlib
import statistics
import subprocess

SERVERS = ["apache", "ringkeeper"]

# The floor is the machine's own. If it moved by more than this from one round to another, something else was using
# the machine, and the comparison is worth nothing.
FLOOR_SPREAD_MAX = 1.5

# Scenario, what to call it, where it stands in the JSON, a factor for the unit, unit, and whether more is better
# (None: neither, it is there to compare with).
METRICS = [
    ("set", "set 1 KB, 32 x 16", "operations_per_second", 1, "/s", True),
    ("set", "  p50", "latency_us/set/p50", 1e-3, "ms", False),
    ("set", "  p99", "latency_us/set/p99", 1e-3, "ms", False),
    ("set", "  p99.9", "latency_us/set/p99.9", 1e-3, "ms", False),
    ("set", "  server CPU per write", "server_cpu_us_per_op", 1, "us", False),
    ("create", "create 1 KB, 32 x 16", "operations_per_second", 1, "/s", True),
    ("create", "  p50", "latency_us/create/p50", 1e-3, "ms", False),
    ("create", "  p99", "latency_us/create/p99", 1e-3, "ms", False),
    ("create", "  p99.9", "latency_us/create/p99.9", 1e-3, "ms", False),
    ("create", "  server CPU per write", "server_cpu_us_per_op", 1, "us", False),
    ("open", "set 1 KB at a fixed rate", "operations_per_second", 1, "/s", True),
    ("open", "  p50", "latency_us/set/p50", 1e-3, "ms", False),
    ("open", "  p99", "latency_us/set/p99", 1e-3, "ms", False),
    ("open", "  p99.9", "latency_us/set/p99.9", 1e-3, "ms", False),
    ("open", "  max", "latency_us/set/max", 1e-3, "ms", False),
    ("open", "  send lag of the generator, p50", "open_loop/send_lag_us/p50", 1e-3, "ms", None),
    ("open", "  send lag of the generator, p99", "open_loop/send_lag_us/p99", 1e-3, "ms", None),
    ("open", "  server CPU", "server_cpu_cores", 100, "% core", False),
    ("lone", "set 100 B, 1 x 1, p50", "latency_us/set/p50", 1, "us", False),
    ("lone", "  p99", "latency_us/set/p99", 1, "us", False),
    ("lone", "  server CPU per write", "server_cpu_us_per_op", 1, "us", False),
    ("fio", "  floor by fio: fdatasync, p50", "jobs/0/sync/lat_ns/percentile/50.000000", 1e-3, "us", None),
    ("fio", "  floor by fio: fdatasync, p99", "jobs/0/sync/lat_ns/percentile/99.000000", 1e-3, "us", None),
    ("probe", "  floor: fdatasync of 4 KiB, p50", "latency_us/fdatasync/p50", 1, "us", None),
    ("probe", "  floor: loopback round trip, p50", "latency_us/loopback/p50", 1, "us", None),
    ("probe", "  floor: 64 KiB durable writes", "direct_writes_per_second", 1, "/s", None),
    ("get", "get 1 KB, 32 x 16", "operations_per_second", 1, "/s", True),
    ("get", "  p50", "latency_us/get/p50", 1e-3, "ms", False),
    ("get", "  p99", "latency_us/get/p99", 1e-3, "ms", False),
    ("get", "  server CPU per read", "server_cpu_us_per_op", 1, "us", False),
    ("mixed", "90% get, 10% set, 32 x 16", "operations_per_second", 1, "/s", True),
    ("mixed", "  get, p99", "latency_us/get/p99", 1e-3, "ms", False),
    ("mixed", "  set, p99", "latency_us/set/p99", 1e-3, "ms", False),
    ("multi", "multi of 10 sets of 1 KB, 32 x 4", "operations_per_second", 1, "/s", True),
    ("multi", "  p99", "latency_us/multi/p99", 1e-3, "ms", False),
    ("startup", "start-up with many znodes", "startup_seconds", 1, "s", False),
    ("startup", "  resident after filling", "filled_rss_kb", 1 / 1024, "MiB", False),
    ("startup", "  resident after start-up", "started_rss_kb", 1 / 1024, "MiB", False),
]


# The round with the median of this value stands for the others in pictures.
REPRESENTED_BY = {
    "set": "operations_per_second",
    "create": "operations_per_second",
    "open": "latency_us/set/p99",
    "lone": "latency_us/set/p50",
    "get": "operations_per_second",
    "mixed": "operations_per_second",
    "multi": "operations_per_second",
    "sweep": None,
}


def at(result, path):
    for name in path.split("/"):
        if isinstance(result, list) and name.isdigit() and int(name) < len(result):
            result = result[int(name)]
        elif isinstance(result, dict) and name in result:
            result = result[name]
        else:
            return None
    return result


def values(raw, server, scenario, path, factor):
    """One value a round."""
    found = []
    for file in sorted(raw.glob(f"*-{server}-{scenario}.json")):
        value = at(json.loads(file.read_text()), path)
        if value is not None:
            found.append(value * factor)
    return found


def median_round(raw, server, scenario, path):
    """The file of the round that stands for the others; None if there is none."""
    files = sorted(raw.glob(f"*-{server}-{scenario}.json"))
    if path is not None:
        found = [(at(json.loads(file.read_text()), path), file) for file in files]
        files = [file for value, file in sorted(pair for pair in found if pair[0] is not None)]
    return files[(len(files) - 1) // 2] if files else None


def plot(program, run):
    """Draws what was measured of both servers, and says which files those are."""
    drawn = []
    for scenario, path in REPRESENTED_BY.items():
        rounds = {server: median_round(run / "raw", server, scenario, path) for server in SERVERS}
        results = [f"{server}={file}" for server, file in rounds.items() if file is not None]
        if results:
            (run / "pictures").mkdir(exist_ok=True)
            command = [program, "plot", *results, "--out", str(run / "pictures" / scenario)]
            drawn += subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return drawn


def markdown(rows):
    """The table for a README: medians and ratios, without the ranges."""
    lines = ["| | Apache 3.9 | ringkeeper | better by |", "| --- | ---: | ---: | ---: |"]
    for row in rows:
        cells = [f"{digits(row[server]['median'])} {row['unit']}" if server in row else "-" for server in SERVERS]
        better = f"{row['better_by']:.2f} x" if "better_by" in row else ""
        name = row["name"].strip()
        # What is indented belongs to the line above it.
        name = f"&nbsp;&nbsp;{name}" if row["name"].startswith(" ") else name
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {better} |")
    return "\n".join(lines) + "\n"


def is_disturbed(raw, name):
    floors = [value for server in SERVERS for value in values(raw, server, "probe", f"latency_us/{name}/p50", 1)]
    return len(floors) > 1 and max(floors) > FLOOR_SPREAD_MAX * min(floors)


def digits(value):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--plot", metavar="PROGRAM")
    arguments = parser.parse_args()
    run = arguments.run
    raw = run / "raw"
    failed = sorted(file.stem for file in raw.glob("*.failed"))
    lines = [f"{'':<34}{'':>8}{'apache':>12}{'(range)':>22}{'ringkeeper':>12}{'(range)':>22}{'better by':>11}"]
    summary = {"metrics": [], "failed": failed}
    for scenario, name, path, factor, unit, more_is_better in METRICS:
        medians, cells = {}, ""
        row = {"scenario": scenario, "name": name, "metric": path, "unit": unit, "more_is_better": more_is_better}
        for server in SERVERS:
            found = values(raw, server, scenario, path, factor)
            if found:
                medians[server] = statistics.median(found)
                row[server] = {"median": medians[server], "rounds": found}
                span = f"({digits(min(found))} .. {digits(max(found))})"
                cells += f"{digits(medians[server]):>12}{span:>22}"
            else:
                cells += f"{'-':>12}{'':>22}"
        if not medians:
            continue
        better = ""
        if len(medians) == 2 and more_is_better is not None and min(medians.values()) > 0:
            ratio = medians["ringkeeper"] / medians["apache"]
            row["better_by"] = ratio if more_is_better else 1 / ratio
            better = f"{row['better_by']:.2f}x"
        summary["metrics"].append(row)
        lines.append(f"{name:<34}{unit:>8}{cells}{better:>11}")
    lines += [f"failed: {name}" for name in failed]
    summary["disturbed"] = [name for name in ("fdatasync", "loopback") if is_disturbed(raw, name)]
    for name in summary["disturbed"]:
        lines.append(f"NOT COMPARABLE: the floor ({name}) moved by more than {FLOOR_SPREAD_MAX}x between rounds")
    text = "\n".join(lines) + "\n"
    (run / "summary.txt").write_text((run / "machine.txt").read_text() + "\n" + text)
    (run / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    (run / "summary.md").write_text(markdown(summary["metrics"]))
    print(text, end="")
    if arguments.plot:
        for file in plot(arguments.plot, run):
            print(file)


main()
