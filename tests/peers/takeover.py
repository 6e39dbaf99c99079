"""See takeover.sh. Arguments: apache.sh, version, ringkeeper.sh."""

import difflib
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from apache_server import Server, dump, four_letters
from contents import first_run, second_run
from kazoo import security
from kazoo.client import KazooState

APACHE, VERSION, RINGKEEPER = sys.argv[1:4]
WAIT_SECONDS_MAX = 20
SUPER = ("digest", "super:super")


class Ringkeeper:
    """The server under test on the zoo.cfg of an Apache server; its super user is super:super too."""

    def __init__(self, config):
        super_user = security.make_digest_acl_credential("super", "super")
        flags = f"-Dzookeeper.DigestAuthenticationProvider.superDigest={super_user}"
        self._config, self._environment = config, {**os.environ, "SERVER_JVMFLAGS": flags}

    def _run(self, command):
        subprocess.run([RINGKEEPER, command, self._config], env=self._environment, check=True, timeout=60,
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
        while not self._client.connected:
            assert time.monotonic() < deadline, f"not connected again: {self._states}"
            time.sleep(0.02)
        assert self._client.client_id == self._session, "a new session"
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


def change(client, live):
    """More changes, after the takeover; each builds on something that Apache wrote."""
    # The next sequential name has the number of children ever made; a stat's cversion counts the removals too.
    stat = client.get("/seq")[1]
    ever_made = (stat.cversion + stat.children_count) // 2
    assert client.create("/seq/n-", b"s", sequence=True) == "/seq/n-%010d" % ever_made
    assert client.get("/ephemeral-second")[1].ephemeralOwner == live.client_id[0]
    client.set("/large", b"x" * 100_000)
    version = client.get("/data")[1].version
    client.set("/data", b"with its version", version=version)
    assert client.get("/data")[1].version == version + 1
    client.set_acls("/multi", security.READ_ACL_UNSAFE)
    client.delete("/a/b/c/d/e/f")
    client.create("/new/with/parents", b"n", makepath=True)
    client.create("/new/acl", None, acl=[security.make_digest_acl("new", "secret", all=True)])
    multi = client.transaction()
    multi.check("/new/with", 0)
    multi.create("/new/multi", b"m")
    multi.delete("/create2")
    assert not any(isinstance(result, Exception) for result in multi.commit())
    live.create("/new/ephemeral", b"e", ephemeral=True)
    live.create("/seq/e-", b"e", ephemeral=True, sequence=True)


def take_over(data):
    # Snapshots at some moments while it is filled, and logs before and after them. Clients stay connected all the
    # time: to a starting Apache server they may connect and never get an answer.
    apache = Server(APACHE, VERSION, data, options=["--cfg", "snapCount=20"])
    apache.start()
    ringkeeper = Ringkeeper(os.path.join(data, "zoo.cfg"))
    serving = apache
    try:
        first, second, closing = apache.client(), apache.client(), apache.client()
        # Nodes with a time to live are for servers that have them.
        first_run(first, closing, with_ttl=False)
        closing.stop()
        second_run(second)
        filled = read_all(apache)
        live = [Live(first), Live(second)]
        assert len(list(pathlib.Path(data, "version-2").glob("snapshot.*"))) > 1, "only the first, empty snapshot"
        zxid_of_apache = zxid(apache)
        serving = None
        apache.crash()

        ringkeeper.start()
        serving = ringkeeper
        assert zxid(apache) == zxid_of_apache, zxid(apache)
        for one in live:
            one.assert_it_goes_on()
        assert_same(filled, read_all(apache), "after the takeover")

        super_client = apache.client(auth=[SUPER])
        change(super_client, second)
        # The end of a session that Apache made.
        ephemerals = [line.split("\t")[0] for line in filled.splitlines() if f" {first.client_id[0]} " in line]
        assert len(ephemerals) == 2, ephemerals
        first.stop()
        assert not any(map(super_client.exists, ephemerals)), ephemerals
        super_client.stop()
        changed = read_all(apache)
        live = [Live(second)]
        for end in (ringkeeper.crash, ringkeeper.stop):
            serving = None
            end()
            ringkeeper.start()
            serving = ringkeeper
            for one in live:
                one.assert_it_goes_on()
            assert_same(changed, read_all(apache), f"after {end.__name__} and start")
        print(f"Apache {VERSION}, {zxid_of_apache}: {len(filled.splitlines())} znodes taken over,",
              f"{len(changed.splitlines())} after changes and restarts")
    finally:
        if serving:
            serving.stop()


def main():
    logging.disable(logging.CRITICAL)
    data = tempfile.mkdtemp()
    try:
        take_over(data)
    except BaseException:
        print(f"kept for a look: {data}", file=sys.stderr)
        raise
    shutil.rmtree(data)
    sys.stdout.flush()
    # Clients that were not closed still try to reconnect.
    os._exit(0)


main()
