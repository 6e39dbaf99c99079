"""See swap.sh. Arguments: apache.sh, version, ringkeeper.sh."""

import logging
import os
import pathlib
import shutil
import sys
import tempfile

from apache_server import Server, four_letters
from contents import first_run, second_run
from under_test import SUPER, Live, Ringkeeper, assert_same, read_all, zxid

APACHE, VERSION, RINGKEEPER = sys.argv[1:4]
ROUNDS = 3


def change(client, live, turn):
    """A few changes of each kind; each turn finds what those before it left."""
    client.create(f"/turn-{turn}/deep/er", str(turn).encode(), makepath=True)
    version = client.get("/data")[1].version
    client.set("/data", f"turn {turn}".encode(), version=version)
    client.create("/seq/n-", b"s", sequence=True)
    live.create(f"/ephemeral-{turn}", b"", ephemeral=True)
    if turn > 0:
        client.delete(f"/turn-{turn - 1}/deep/er")
        client.delete(f"/ephemeral-{turn - 1}")
    # Enough for both to take snapshots on the way.
    for _ in range(60):
        client.set("/large", os.urandom(100))


def swap(data, compression):
    apache = Server(APACHE, VERSION, data,
                    options=["--cfg", "snapCount=100", "--cfg", f"snapshot.compression.method={compression}"])
    apache.start()
    ringkeeper = Ringkeeper(RINGKEEPER, os.path.join(data, "zoo.cfg"))
    serving = apache
    try:
        first, second, closing = apache.client(), apache.client(), apache.client()
        first_run(first, closing, with_ttl=False)
        closing.stop()
        second_run(second)
        live = [Live(first), Live(second)]
        for turn in range(2 * ROUNDS):
            super_client = apache.client(auth=[SUPER])
            change(super_client, second, turn)
            super_client.stop()
            super_client.close()
            expected, zxid_before = read_all(apache), zxid(apache)
            stopping, serving = serving, None
            stopping.stop()
            following = ringkeeper if stopping is apache else apache
            following.start()
            serving = following
            when = f"turn {turn}, {type(stopping).__name__} to {type(following).__name__}"
            assert zxid(apache) == zxid_before, (when, zxid(apache), zxid_before)
            for one in live:
                one.assert_it_goes_on()
            assert_same(expected, read_all(apache), when)
            metrics = dict(line.split("\t") for line in four_letters(apache.port, b"mntr").splitlines())
            written = [file.name for file in pathlib.Path(data, "version-2").glob("snapshot.*")]
            assert all(name.endswith(compression) for name in written), written
            assert metrics["zk_digest_mismatches_count"] == "0", (when, metrics)
        said = pathlib.Path(data, "apache.log").read_text()
        assert "igests are not" not in said and "problem reading snap" not in said, said
        print(f"Apache {VERSION}: {2 * ROUNDS} times from one server to the other, {len(expected.splitlines())} znodes,",
              f"snapshots {compression or 'plain'}")
    finally:
        if serving:
            serving.stop()


def fork(data, digests):
    """Apache goes on after a crash of ringkeeper, without its log: then there are two histories, and the newer one counts."""
    apache = Server(APACHE, VERSION, data, options=["--cfg", f"digest.enabled={digests}"])
    ringkeeper = Ringkeeper(RINGKEEPER, os.path.join(data, "zoo.cfg"))
    apache.start()
    first = apache.client()
    first.create("/common", b"1")
    first.stop()
    first.close()
    apache.stop()
    ringkeeper.start()
    lost = apache.client()
    for number in range(20):
        lost.create(f"/ringkeeper-{number}", b"lost")
    lost.set("/common", b"ringkeeper")
    ringkeeper.crash()
    lost.stop()
    lost.close()
    apache.start()
    kept = apache.client()
    for number in range(10):
        kept.create(f"/apache-{number}", b"kept")
    kept.set("/common", b"apache")
    kept.stop()
    kept.close()
    expected = read_all(apache)
    apache.stop()
    for _ in range(2):
        ringkeeper.start()
        assert_same(expected, read_all(apache), f"digests {digests}")
        ringkeeper.crash()
    aside = [file.name for file in pathlib.Path(data, "version-2", "older-history.1").iterdir()]
    assert aside and all(name.startswith("ringlog.") for name in aside), aside
    print(f"Apache {VERSION}: two histories, digests {digests}: the newer one counts, {len(aside)} files of the other are kept")


def main():
    logging.disable(logging.CRITICAL)
    for compression in ("", "gz", "snappy"):
        data = tempfile.mkdtemp()
        try:
            swap(data, compression)
        except BaseException:
            print(f"kept for a look: {data}", file=sys.stderr)
            raise
        shutil.rmtree(data)
    for digests in ("true", "false"):
        data = tempfile.mkdtemp()
        try:
            fork(data, digests)
        except BaseException:
            print(f"kept for a look: {data}", file=sys.stderr)
            raise
        shutil.rmtree(data)
    sys.stdout.flush()
    # Clients that were not closed still try to reconnect.
    os._exit(0)


main()
