"""See takeover.sh. Arguments: apache.sh, version, ringkeeper.sh."""

import logging
import os
import pathlib
import shutil
import sys
import tempfile

from apache_server import Server
from contents import first_run, second_run
from kazoo import security
from under_test import SUPER, Live, Ringkeeper, assert_same, read_all, zxid

APACHE, VERSION, RINGKEEPER = sys.argv[1:4]
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
    ringkeeper = Ringkeeper(RINGKEEPER, os.path.join(data, "zoo.cfg"))
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
