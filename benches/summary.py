#!/usr/bin/env python3
"""Medians of the raw results of compare.sh, and how the two servers stand to each other.

    benches/summary.py RUN_DIRECTORY

Reads raw/<round>-<server>-<scenario>.json; writes summary.json and summary.txt, and prints the latter.
"""

import json
import pathlib
import statistics
import sys

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
    ("open", "set 1 KB at 10,000 /s", "operations_per_second", 1, "/s", True),
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
    ("probe", "  floor: fdatasync of 4 KiB, p50", "latency_us/fdatasync/p50", 1, "us", None),
    ("probe", "  floor: loopback round trip, p50", "latency_us/loopback/p50", 1, "us", None),
    ("probe", "  floor: 64 KiB durable writes", "direct_writes_per_second", 1, "/s", None),
    ("get", "get 1 KB, 32 x 16", "operations_per_second", 1, "/s", True),
    ("get", "  p50", "latency_us/get/p50", 1e-3, "ms", False),
    ("get", "  p99", "latency_us/get/p99", 1e-3, "ms", False),
    ("get", "  server CPU per read", "server_cpu_us_per_op", 1, "us", False),
    ("startup", "start-up with many znodes", "startup_seconds", 1, "s", False),
    ("startup", "  resident after filling", "filled_rss_kb", 1 / 1024, "MiB", False),
    ("startup", "  resident after start-up", "started_rss_kb", 1 / 1024, "MiB", False),
]


def at(result, path):
    for name in path.split("/"):
        if name not in result:
            return None
        result = result[name]
    return result


def values(raw, server, scenario, path, factor):
    """One value a round."""
    found = []
    for file in sorted(raw.glob(f"*-{server}-{scenario}.json")):
        value = at(json.loads(file.read_text()), path)
        if value is not None:
            found.append(value * factor)
    return found


def is_disturbed(raw, name):
    floors = [value for server in SERVERS for value in values(raw, server, "probe", f"latency_us/{name}/p50", 1)]
    return len(floors) > 1 and max(floors) > FLOOR_SPREAD_MAX * min(floors)


def digits(value):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main():
    run = pathlib.Path(sys.argv[1])
    raw = run / "raw"
    failed = sorted(file.stem for file in raw.glob("*.failed"))
    lines = [f"{'':<34}{'':>8}{'apache':>12}{'(range)':>22}{'ringkeeper':>12}{'(range)':>22}{'better by':>11}"]
    summary = {"metrics": [], "failed": failed}
    for scenario, name, path, factor, unit, more_is_better in METRICS:
        medians, cells = {}, ""
        row = {"scenario": scenario, "metric": path, "unit": unit, "more_is_better": more_is_better}
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
    print(text, end="")


main()
