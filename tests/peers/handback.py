"""See handback.sh. Arguments: apache.sh, version, directory of the snapshot, directory of the golden files."""

import difflib
import logging
import os
import pathlib
import shutil
import sys
import tempfile

from apache_server import Server, dump, four_letters

APACHE, VERSION, SNAPSHOTS, GOLDEN = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]), pathlib.Path(sys.argv[4])


def main():
    logging.disable(logging.CRITICAL)
    data = tempfile.mkdtemp()
    shutil.copytree(SNAPSHOTS, pathlib.Path(data, "version-2"))
    server = Server(APACHE, VERSION, data)
    server.start()
    try:
        found = dump(server.client(auth=[("digest", "super:super")]))
        metrics = dict(line.split("\t") for line in four_letters(server.port, b"mntr").splitlines())
        said = pathlib.Path(data, "apache.log").read_text()
    finally:
        server.stop()
    shutil.rmtree(data)

    expected = (GOLDEN / "dump.txt").read_text()
    lines = difflib.unified_diff(expected.splitlines(), found.splitlines(), "expected", "found", lineterm="", n=0)
    print("\n".join(lines))
    assert found == expected
    assert metrics["zk_digest_mismatches_count"] == "0", metrics
    assert "igest" not in said and "problem reading snap" not in said, said
    print(f"Apache {metrics['zk_version'].split(',')[0]} read {metrics['zk_znode_count']} znodes from", end=" ")
    print(", ".join(sorted(file.name for file in SNAPSHOTS.iterdir())))
    sys.stdout.flush()
    # The client still tries to reconnect.
    os._exit(0)


main()
