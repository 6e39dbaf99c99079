"""Compares the AdminServers of two servers, the first of which is right, and looks at the second one's metrics.

    admin.py CLIENTS ADMIN CLIENTS ADMIN METRICS        addresses, as host:port

What may differ is named here: figures that depend on time or on the program are compared by their type alone.
"""

import http.client
import json
import re
import sys

from kazoo.client import KazooClient

COMMANDS = [
    "configuration", "connections", "dirs", "dump", "environment", "get_trace_mask", "hash", "is_read_only",
    "last_snapshot", "leader", "monitor", "observers", "ruok", "server_stats", "set_trace_mask",
    "set_trace_mask?traceMask=306", "set_trace_mask?traceMask=x", "stats", "voting_view", "watch_summary", "watches",
    "watches_by_path", "zabstate", "bogus", "snapshot", "restore", "observer_connection_stat_reset",
    # By their other names.
    "conf", "config", "cons", "env", "envi", "gtmk", "isro", "lsnp", "lead", "mntr", "obsr", "srvr", "stmk", "stat",
    "wchs", "wchc", "wchp", "orst",
]
# They change what the others say.
RESETS = ["connection_stat_reset", "stat_reset", "crst", "srst"]
# Keys whose values need only be of the same kind.
FREE = {
    "client_port", "data_dir", "data_log_dir", "remote_socket_address", "session_id", "established", "last_zxid",
    "last_response_time", "last_latency", "min_latency", "avg_latency", "max_latency", "datadir_size", "logdir_size",
    "data_dir_size", "log_dir_size", "uptime", "version", "timestamp", "packets_sent", "packets_received",
    "last_processed_zxid", "last_buffer_size", "min_buffer_size", "max_buffer_size", "digest", "zxid", "last_cxid",
    "num_alive_client_connections", "zookeeper.version", "last_operation",
}
# Of these Apache has one for each namespace, or the Java machine does.
ABSENT_FIGURES = re.compile(r"(read|write)_per_namespace|jvm_|_per_namespace")
failures = 0


def fail(what):
    global failures
    failures += 1
    print(f"admin: {what}")


def ask(address, path, method="GET"):
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request(method, path)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, response.getheader("Content-Type"), body


def shape(value, key=""):
    """What must be equal: numbers that may differ become their kind, ids of sessions and times become N."""
    if isinstance(value, dict):
        if key in ("expiry_time_to_session_ids",):
            # The dead buckets of Apache's are empty sets here and there.
            return sorted(len(ids) for ids in value.values() if ids)
        if key in ("session_id_to_ephemeral_paths", "session_id_to_watched_paths"):
            return sorted(sorted(paths) for paths in value.values())
        return [(name, shape(item, name)) for name, item in value.items()]
    if isinstance(value, list):
        if key == "digests":
            return "a list"
        if value and all(isinstance(item, int) for item in value):
            return ["N"] * len(value)
        return [shape(item, key) for item in value]
    if key in FREE or key.startswith(("java.", "os.", "user.", "host.")):
        return "a number" if isinstance(value, (int, float)) else type(value).__name__
    return value


def compare(command, left, right):
    path = f"/commands/{command}"
    (status, kind, text), (own_status, own_kind, own_text) = ask(left, path), ask(right, path)
    if (status, kind) != (own_status, own_kind):
        fail(f"{path}: {status} {kind} there, {own_status} {own_kind} here")
        return
    theirs, ours = json.loads(text), json.loads(own_text)
    # Printed alike: what Python makes of theirs, in the way of ours, is ours.
    if list(theirs)[-2:] != list(ours)[-2:]:
        fail(f"{path}: ends with {list(theirs)[-2:]} there, with {list(ours)[-2:]} here")
    for body in (text, own_text):
        if not body.startswith("{\n  \"") or body.endswith("\n") or not body.endswith("\n}"):
            fail(f"{path}: is not printed as Apache prints it: {body!r}")
    if theirs.get("command") == "monitor":
        missing = {name for name in set(theirs) - set(ours) if not ABSENT_FIGURES.search(name)}
        if missing:
            fail(f"{path}: without {sorted(missing)}")
        kinds = {name for name in set(theirs) & set(ours)
                 if isinstance(theirs[name], str) != isinstance(ours[name], str)}
        if kinds:
            fail(f"{path}: {sorted(kinds)} are of another kind")
        return
    if theirs.get("command") in ("server_stats", "stats"):
        theirs["server_stats"] = dict(sorted(theirs["server_stats"].items()))
        ours["server_stats"] = dict(sorted(ours["server_stats"].items()))
    if shape(theirs) != shape(ours):
        fail(f"{path}:\n  there {shape(theirs)}\n  here  {shape(ours)}")


def populate(clients):
    """Some of everything; returns the sessions, which stay."""
    watcher = KazooClient(hosts=clients)
    watcher.start()
    watcher.create("/a", b"x")
    watcher.create("/a/live", b"", ephemeral=True)
    watcher.get("/a", watch=lambda event: None)
    watcher.exists("/none", watch=lambda event: None)
    other = KazooClient(hosts=clients)
    other.start()
    other.get("/a", watch=lambda event: None)
    return [watcher, other]


def metrics(address):
    status, kind, text = ask(address, "/metrics")
    if (status, kind) != (200, "text/plain; version=0.0.4; charset=utf-8"):
        fail(f"/metrics: {status} {kind}")
    samples = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = re.fullmatch(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{quantile="[0-9.]+",\})? (NaN|-?[0-9.]+(E-?[0-9]+)?)', line)
        if not match:
            fail(f"/metrics: {line!r}")
            continue
        samples[match[1] + (match[2] or "")] = float(match[3])
    for name, value in [("num_alive_connections", 2), ("ephemerals_count", 1), ("watch_count", 3), ("global_sessions", 2)]:
        if samples.get(name) != value:
            fail(f"/metrics: {name} is {samples.get(name)}, not {value}")
    if not samples.get("process_resident_memory_bytes", 0) > 1e6 or not samples.get("readlatency_count", 0) > 0:
        fail("/metrics: no memory, or no reads")
    status, _, text = ask(address, "/metrics?name[]=znode_count")
    if not re.fullmatch(r"# HELP znode_count znode_count\n# TYPE znode_count gauge\nznode_count [0-9.]+\n", text):
        fail(f"/metrics?name[]=znode_count: {text!r}")
    if ask(address, "/other")[0] != 404 or ask(address, "/metrics", "TRACE")[0] != 403:
        fail("/other is there, or TRACE is allowed")


def main():
    left_clients, left, right_clients, right, exported = sys.argv[1:]
    sessions = populate(left_clients) + populate(right_clients)
    for path in ["/commands", "/commands/"]:
        if ask(left, path) != ask(right, path):
            fail(f"{path}: {ask(left, path)} there, {ask(right, path)} here")
    if ask(left, "/")[0] != ask(right, "/")[0] or ask(left, "/")[1] != ask(right, "/")[1]:
        fail(f"/: {ask(left, '/')} there, {ask(right, '/')} here")
    for command in COMMANDS:
        compare(command, left, right)
    if ask(right, "/commands/ruok", "PUT")[0] != 405 or ask(right, "/commands/ruok", "HEAD")[2] != "":
        fail("PUT is allowed, or HEAD has a body")
    told = json.loads(ask(right, "/commands/icfg")[2])["initial_configuration"]
    if "metricsProvider.className=" not in told:
        fail(f"the configuration is told as {told!r}")
    metrics(exported)
    for command in RESETS:
        compare(command, left, right)
    for session in sessions:
        session.stop()
        session.close()
    print(f"admin: {len(COMMANDS) + len(RESETS)} commands compared, {failures} differences")
    sys.exit(failures > 0)


main()
