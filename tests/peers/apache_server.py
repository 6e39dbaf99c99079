"""What golden.py, handback.py, swap.py and takeover.py share: an Apache server, and all that a client can read."""

import os
import pathlib
import signal
import socket
import subprocess

from kazoo import security
from kazoo.client import KazooClient


def dump(client):
    """One line a znode: path, data (hex, or null), the stat's fields as clients see them, the ACL."""
    lines, paths = [], ["/"]
    while paths:
        path = paths.pop()
        acls, _ = client.get_acls(path)
        data, stat = client.get(path)
        data = "null" if data is None else '"' + data.hex() + '"'
        acls = " ".join(f"{acl.perms}:{acl.id.scheme}:{acl.id.id}" for acl in acls)
        lines.append("\t".join([path, data, " ".join(str(field) for field in stat), acls]))
        paths += [path.rstrip("/") + "/" + child for child in client.get_children(path)]
    return "\n".join(sorted(lines)) + "\n"


def four_letters(port, word):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(word)
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


class Server:
    """An Apache server, run by apache.sh, with `options`, in the directory `data`. Its super user is super:super."""

    def __init__(self, apache, version, data, options=("--java", "-Dzookeeper.extendedTypesEnabled=true")):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.apache, self.version, self.data, self._options = apache, version, data, options

    def start(self):
        super_user = security.make_digest_acl_credential("super", "super")
        subprocess.run(
            [self.apache, "start", "--version", self.version, "--data", self.data, "--port", str(self.port),
             "--cfg", "preAllocSize=64", *self._options,
             "--java", f"-Dzookeeper.DigestAuthenticationProvider.superDigest={super_user}"],
            check=True, stdout=subprocess.DEVNULL)

    def stop(self):
        subprocess.run([self.apache, "stop", "--data", self.data], check=True)

    def crash(self):
        """kill -9; `stop` only removes the file of its pid then."""
        os.kill(int(pathlib.Path(self.data, "apache.pid").read_text()), signal.SIGKILL)
        self.stop()

    def client(self, auth=()):
        # To a starting Apache server a client may connect and never get an answer. kazoo waits for one as long as its session
        # lasts, divided by the addresses it knows; with one address its session would be over then.
        addresses = ",".join([f"127.0.0.1:{self.port}"] * 4)
        client = KazooClient(addresses, timeout=40, auth_data=list(auth))
        client.start()
        return client
