"""What takeover.py and swap.py share: the server under test, and what must go on when one server follows another."""

import difflib
import os
import subprocess
import time

from apache_server import dump, four_letters
from kazoo import security
from kazoo.client import KazooState

WAIT_SECONDS_MAX = 60
SUPER = ("digest", "super:super")


class Ringkeeper:
    """The server under test on the zoo.cfg of an Apache server; its super user is super:super too."""

    def __init__(self, script, config):
        super_user = security.make_digest_acl_credential("super", "super")
        flags = f"-Dzookeeper.DigestAuthenticationProvider.superDigest={super_user}"
        self._script, self._config, self._environment = script, config, {**os.environ, "SERVER_JVMFLAGS": flags}

    def _run(self, command):
        subprocess.run([self._script, command, self._config], env=self._environment, check=True, timeout=60,
                       stdout=subprocess.DEVNULL)

    def start(self):
        self._run("start")

    def stop(self):
        self._run("stop")

    def crash(self):
        self._run("crash")


class Live:
    """A client that goes through everything with its session. (kazoo's watches end with a connection.)"""

    def __init__(self, client):
        self._client, self._session, self._states = client, client.client_id, []
        client.add_listener(self._states.append)

    def assert_it_goes_on(self):
        """The session is the same, and was never lost."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        # None while it is not connected.
        while (found := self._client.client_id) is None:
            assert time.monotonic() < deadline, f"not connected again: {self._states}"
            time.sleep(0.02)
        assert found == self._session, f"{self._session} has become {found}: {self._states}"
        assert KazooState.LOST not in self._states, self._states


def read_all(server):
    client = server.client(auth=[SUPER])
    text = dump(client)
    client.stop()
    client.close()
    return text


def assert_same(expected, found, when):
    lines = difflib.unified_diff(expected.splitlines(), found.splitlines(), "expected", "found", lineterm="", n=0)
    assert found == expected, when + "\n" + "\n".join(lines)


def zxid(server):
    lines = four_letters(server.port, b"srvr").splitlines()
    return next(line for line in lines if line.startswith("Zxid: "))
