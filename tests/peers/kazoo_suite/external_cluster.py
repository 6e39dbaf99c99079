"""A pytest plug-in that lets kazoo's own tests run against servers that are already there.

kazoo's harness starts and stops an ensemble of its own. Its tests only see that ensemble through
`kazoo.testing.harness.get_global_cluster()`, so replacing that function is enough.

Configured by environment variables, which ../kazoo.sh sets:

KAZOO_SERVERS        HOST:PORT, or several of them with commas in between
KAZOO_SKIP_FILE      the tests to leave out, see `read_skips`
KAZOO_HAS            space-separated needs (in the sense of that file) that the servers meet
KAZOO_STOP_COMMAND   shell commands that stop and start the server $SERVER (HOST:PORT); the tests
KAZOO_START_COMMAND  that restart a server are skipped without them. A command returns when it is
                     done: the server is gone, or it answers.
"""

import logging
import os
import re
import subprocess
import sys
import types

import pytest

# The harness makes key stores for the servers it starts, so importing it takes these two packages
# (which bring a C compilation and an old pyOpenSSL along). Nothing here starts a server.
for unused in ("OpenSSL", "jks"):
    sys.modules[unused] = types.ModuleType(unused)

from kazoo.testing import harness  # noqa: E402

COMMAND_SECONDS_MAX = 60


class ExternalServer:
    """What the tests use of kazoo.testing.common.ManagedZooKeeper."""

    def __init__(self, address, stop_command, start_command):
        self.address = address
        self.running = True
        self._stop_command = stop_command
        self._start_command = start_command

    def stop(self):
        if not (self._stop_command and self._start_command):
            pytest.skip("no command given to stop and start the server")
        self._execute(self._stop_command)
        self.running = False

    def run(self):
        # Tests call this in `finally`, so also after a skip in `stop`.
        if not self.running:
            self._execute(self._start_command)
            self.running = True

    def _execute(self, command):
        # No pipes: a started server would inherit them and keep them open.
        subprocess.run(
            ["bash", "-c", command],
            env={**os.environ, "SERVER": self.address},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=COMMAND_SECONDS_MAX,
        )


class ExternalCluster:
    """What the harness uses of kazoo.testing.common.ZookeeperCluster.

    It lives longer than the harness thinks: `terminate`, called at the end of each test class,
    leaves the servers alone.
    """

    def __init__(self, addresses, stop_command, start_command):
        self._servers = [
            ExternalServer(address, stop_command, start_command) for address in addresses
        ]

    def __iter__(self):
        return iter(self._servers)

    def __getitem__(self, index):
        return self._servers[index]

    def start(self):
        for server in self:
            server.run()

    def terminate(self):
        self.start()

    def get_logs(self):
        return []


def read_skips(path, has):
    """Reads the skip file into {test id: reason}, without the lines whose need is in `has`.

    A line is `test id  # reason` or `test id  # [need] reason`. The test id is pytest's, relative
    to kazoo's source package; it may also name a whole file or class. A reason is required.
    """
    skips = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            parts = re.fullmatch(r"(\S+)\s+#\s*(?:\[(\S+)\]\s*)?(.+)", line)
            if not parts:
                raise pytest.UsageError(f"{path}:{number}: not of the form `test id  # reason`")
            test_id, need, reason = parts.groups()
            if need not in has:
                skips[test_id] = reason
    return skips


def pytest_configure(config):
    cluster = ExternalCluster(
        os.environ["KAZOO_SERVERS"].split(","),
        os.environ.get("KAZOO_STOP_COMMAND"),
        os.environ.get("KAZOO_START_COMMAND"),
    )
    harness.get_global_cluster = lambda: cluster
    # Some tests leave a reconnecting client behind, which would print its warnings between the end
    # of pytest's log capture and the end of the process.
    logging.getLogger("kazoo").addHandler(logging.NullHandler())


def pytest_collection_modifyitems(config, items):
    has = os.environ.get("KAZOO_HAS", "").split()
    skips = read_skips(os.environ["KAZOO_SKIP_FILE"], has)
    matched = set()
    for item in items:
        names = item.nodeid.split("::")
        for prefix in ("::".join(names[:length]) for length in range(1, len(names) + 1)):
            if prefix in skips:
                matched.add(prefix)
                item.add_marker(pytest.mark.skip(reason=skips[prefix]))
    # A misspelt or outdated line would go unnoticed. (`-k` selects later than this.)
    if stale := sorted(set(skips) - matched):
        raise pytest.UsageError("skips that match no test: " + ", ".join(stale))
