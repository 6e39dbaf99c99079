"""See golden.sh. Arguments: apache.sh, version, directory to write to."""

import logging
import os
import pathlib
import shutil
import struct
import sys
import tempfile

from apache_server import Server, dump
from contents import first_run, second_run

APACHE, VERSION, GOLDEN = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])


def without_padding(log):
    at = 16
    while at + 12 <= len(log) and log[at + 8 : at + 12] != bytes(4):
        at += 12 + struct.unpack_from("!i", log, at + 8)[0] + 1
    return log[:at]


def main():
    logging.disable(logging.CRITICAL)
    data = tempfile.mkdtemp()
    server = Server(APACHE, VERSION, data)
    server.start()
    try:
        client, closing = server.client(), server.client()
        first_run(client, closing)
        closing.stop()
        # The other client is not closed: its session and ephemerals must outlive the server.
        server.stop()
        server.start()
        second_run(server.client())
        text = dump(server.client(auth=[("digest", "super:super")]))
    finally:
        server.stop()

    shutil.rmtree(GOLDEN, ignore_errors=True)
    os.makedirs(GOLDEN)
    for file in sorted(pathlib.Path(data, "version-2").iterdir()):
        content = file.read_bytes()
        if file.name.startswith("log."):
            content = without_padding(content)
        (GOLDEN / file.name).write_bytes(content)
        print(file.name, len(content))
    (GOLDEN / "dump.txt").write_text(text)
    shutil.rmtree(data)
    # The clients still try to reconnect.
    os._exit(0)


main()
