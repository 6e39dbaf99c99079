"""Ensembles of ringkeeper and Apache servers; mixed.sh has the manual."""

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NodeExistsError
from kazoo.handlers.threading import KazooTimeoutError

HERE = os.path.dirname(os.path.abspath(__file__))
RINGKEEPER = os.path.abspath(os.environ.get("RINGKEEPER", "target/debug/ringkeeper"))
PATIENCE = 60
# Out of the range that outgoing connections are given.
PORTS = iter(range(10000 + os.getpid() % 1000 * 20, 32000))
logging.getLogger("kazoo").setLevel(logging.CRITICAL)


def free_port():
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass
    raise SystemExit("no port is free")


def wait(what, look):
    """Waits until `look` finds something, at most PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {PATIENCE} s for {what}")


class Server:
    """One server of an ensemble, of either kind, on a directory of its own."""

    def __init__(self, root, number):
        self.number, self.root = number, root
        self.client_port, self.quorum_port, self.election_port = free_port(), free_port(), free_port()
        self.process, self.kind, self.generation = None, None, 0
        self.host = "127.0.0.1"

    def line(self, role="participant"):
        return f"server.{self.number}={self.host}:{self.quorum_port}:{self.election_port}:{role}"

    def settings(self, kind):
        """What is set beside the usual, and as flags of Apache's JVM."""
        return [], []

    def start(self, kind, lines, fresh=False):
        """`kind` is `ringkeeper` or a version of Apache's. Without `lines` ringkeeper starts with the file that it has."""
        assert self.process is None
        self.kind = kind
        self.generation += fresh
        directory = os.path.join(self.root, f"{self.number}.{self.generation}")
        os.makedirs(directory, exist_ok=True)
        data = os.path.join(directory, "data")
        settings = ["tickTime=1000", "initLimit=20", "syncLimit=10", "4lw.commands.whitelist=*"]
        more, flags = self.settings(kind)
        settings += more
        if kind == "ringkeeper":
            os.makedirs(data, exist_ok=True)
            with open(os.path.join(data, "myid"), "w") as file:
                file.write(f"{self.number}\n")
            config = os.path.join(directory, "zoo.cfg")
            if lines is not None:
                with open(config, "w") as file:
                    settings += [f"dataDir={data}", f"clientPort={self.client_port}", "ringkeeper.segmentBytes=1048576"]
                    file.write("\n".join(settings + lines) + "\n")
            command = [RINGKEEPER, "start-foreground", config]
        else:
            command = [os.path.join(HERE, "apache.sh"), "run", "--data", data, "--port", str(self.client_port)]
            command += ["--version", kind, "--myid", str(self.number)]
            for setting in settings + lines:
                command += ["--cfg", setting]
            for flag in flags:
                command += ["--java", flag]
        self.log = os.path.join(directory, "out")
        with open(self.log, "a") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=directory)

    def stop(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        self.process.wait(30)
        self.process = None

    def word(self, word):
        try:
            with socket.create_connection(("127.0.0.1", self.client_port), 1) as connection:
                connection.settimeout(2)
                connection.sendall(word.encode())
                answer = b""
                while chunk := connection.recv(65536):
                    answer += chunk
                return answer.decode()
        except OSError:
            return ""

    def figure(self, name):
        """A number of mntr, or None."""
        lines = [line.split("\t") for line in self.word("mntr").splitlines()]
        return next((int(line[1]) for line in lines if line[0] == f"zk_{name}"), None)

    def mode(self):
        if self.process and self.process.poll() is not None:
            raise AssertionError(f"server {self.number} ({self.kind}) ended: see {self.log}")
        modes = [line[6:] for line in self.word("srvr").splitlines() if line.startswith("Mode: ")]
        return modes[0] if modes else None

    def client(self):
        client = KazooClient(f"127.0.0.1:{self.client_port}", timeout=20)
        client.start(PATIENCE)
        return client


class Ensemble:
    def __init__(self, root, kinds):
        self.servers = [Server(root, number) for number in range(1, len(kinds) + 1)]
        self.lines = [server.line() for server in self.servers]
        for server, kind in zip(self.servers, kinds):
            server.start(kind, self.lines)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for server in self.servers:
            if server.process:
                server.stop()

    def running(self):
        return [server for server in self.servers if server.process]

    def wait_until_all_serve(self):
        for server in self.running():
            wait(f"server {server.number} ({server.kind}) to serve", server.mode)

    def leader(self):
        return wait("a leader", lambda: next((s for s in self.running() if s.mode() == "leader"), None))

    def addresses(self):
        return ",".join(f"127.0.0.1:{server.client_port}" for server in self.servers)


def tree_of(server):
    """All znodes: data, ACL and every field of the Stat."""
    client = server.client()
    try:
        client.sync("/")
        found, paths = {}, ["/"]
        while paths:
            path = paths.pop()
            # The configuration node is each server's own as long as nothing is reconfigured.
            if path != "/zookeeper/config":
                found[path] = (client.get(path), client.get_acls(path)[0])
            paths += [path.rstrip("/") + "/" + child for child in client.get_children(path)]
        return found
    finally:
        client.stop()
        client.close()


def assert_same_trees(ensemble):
    trees = [(server, tree_of(server)) for server in ensemble.running()]
    first, expected = trees[0]
    for server, tree in trees[1:]:
        different = {path for path in expected.keys() | tree.keys() if expected.get(path) != tree.get(path)}
        for path in sorted(different)[:5]:
            print(f"{path}: {first.kind} {expected.get(path)}, {server.kind} {tree.get(path)}")
        assert not different, f"{len(different)} znodes differ between {first.number} and {server.number}"
    for server in ensemble.running():
        figures = dict(line.split("\t", 1) for line in server.word("mntr").splitlines() if "\t" in line)
        assert figures.get("zk_digest_mismatches_count", "0") == "0", f"server {server.number} saw another digest"
        with open(server.log) as log:
            assert "Digests are not matching" not in log.read(), f"see {server.log}"


def digests_of(server):
    """Digests of the tree after every 128th transaction, by zxid."""
    lines = [line.split(": ") for line in server.word("hash").splitlines()]
    return {int(line[0], 16): int(line[1]) for line in lines if len(line) == 2}


def assert_same_digests(ensemble):
    client = ensemble.leader().client()
    try:
        client.create("/digests")
        for i in range(256):
            client.set("/digests", str(i).encode())
        newest = client.last_zxid // 128 * 128
    finally:
        client.stop()
        client.close()
    found = {s.number: wait(f"server {s.number}'s digest", lambda: digests_of(s).get(newest)) for s in ensemble.running()}
    assert len(set(found.values())) == 1, f"digests after {newest:x} differ: {found}"


def write_through(server, name):
    client = server.client()
    try:
        client.ensure_path(f"/{name}/deep")
        client.create(f"/{name}/ephemeral", b"e", ephemeral=True)
        assert client.create(f"/{name}/s-", sequence=True) == f"/{name}/s-0000000002"
        client.set(f"/{name}", name.encode())
        try:
            client.create(f"/{name}")
            raise AssertionError("a znode was created twice")
        except NodeExistsError:
            pass
        transaction = client.transaction()
        transaction.create(f"/{name}/in-multi", b"1")
        transaction.set_data(f"/{name}", b"2")
        transaction.check(f"/{name}", 77)
        assert any(isinstance(result, Exception) for result in transaction.commit())
        assert client.exists(f"/{name}/in-multi") is None
        for i in range(50):
            client.set(f"/{name}/deep", str(i).encode())
    finally:
        client.stop()
        client.close()


def mix(root, kinds):
    with Ensemble(root, kinds) as ensemble:
        ensemble.wait_until_all_serve()
        for server in ensemble.servers:
            write_through(server, f"by-{server.number}")
        assert_same_trees(ensemble)
        # Each that leads in its turn is killed, misses something, and comes back.
        led = set()
        for round in range(3):
            leader = ensemble.leader()
            led.add(leader.kind)
            leader.stop()
            ensemble.leader()
            ensemble.wait_until_all_serve()
            write_through(ensemble.running()[0], f"round-{round}")
            leader.start(leader.kind, ensemble.lines)
            ensemble.wait_until_all_serve()
            assert_same_trees(ensemble)
        assert_same_digests(ensemble)
        print(f"{' '.join(kinds)}: led by {' and '.join(sorted(led))}, and all trees are the same")


class MasterServer(Server):
    """One whose observers learn from followers. The port is the same for all, so each has an address of its own."""

    def __init__(self, root, number, port):
        super().__init__(root, number)
        self.host, self.port = f"127.0.0.{20 + number}", port

    def settings(self, kind):
        return [f"observerMasterPort={self.port}"] + (["peerType=observer"] if self.number == 4 else []), []


def observed(root, kinds):
    """Three servers, and an observer that goes on with another follower when its own is killed."""
    with Ensemble(root, []) as ensemble:
        port = free_port()
        ensemble.servers = [MasterServer(root, number, port) for number in range(1, 5)]
        *members, observer = ensemble.servers
        ensemble.lines = [server.line() for server in members] + [observer.line("observer")]
        for server, kind in zip(ensemble.servers, kinds):
            server.start(kind, ensemble.lines)
        ensemble.wait_until_all_serve()
        leader = ensemble.leader()
        first = wait("a master", lambda: observer.figure("observer_master_id"))
        assert first != leader.number, "it learns from the leader"
        master = members[first - 1]
        wait("the follower to count it", lambda: master.figure("synced_observers") == 1)
        for server in ensemble.servers:
            write_through(server, f"by-{server.number}")
        assert_same_trees(ensemble)
        client = observer.client()
        try:
            session = client.client_id[0]
            client.create("/kept", ephemeral=True)
            master.stop()
            wait("another master", lambda: observer.figure("observer_master_id") not in (None, first, -1))
            assert observer.figure("observer_master_id") != leader.number
            wait("the client to be connected", lambda: client.connected)
            wait("the session to be used", lambda: client.retry(client.exists, "/kept"))
            assert client.client_id[0] == session, "the session was lost"
            write_through(observer, "after")
            assert_same_trees(ensemble)
        finally:
            client.stop()
            client.close()
        print(f"{kinds[3]} observing behind {kinds[0]}: the session stays, and all trees are the same")


class Load(threading.Thread):
    """Creates znodes one after the other and remembers which were acknowledged."""

    def __init__(self, addresses):
        super().__init__(daemon=True)
        self.client = KazooClient(addresses, timeout=20, connection_retry={"max_tries": -1, "delay": 0.05})
        self.client.start(PATIENCE)
        self.session = self.client.client_id[0]
        self.client.create("/load")
        self.client.create("/load/alive", b"", ephemeral=True)
        self.acknowledged, self.done, self.error = [], False, None
        self.may_go_on, self.is_held = threading.Event(), threading.Event()
        self.may_go_on.set()

    def hold(self):
        self.may_go_on.clear()
        assert self.is_held.wait(PATIENCE), "the load does not come to an end"

    def go_on(self):
        self.is_held.clear()
        self.may_go_on.set()

    def run(self):
        number = 0
        while not self.done:
            if not self.may_go_on.is_set():
                self.is_held.set()
                self.may_go_on.wait()
            number += 1
            try:
                self.client.create(f"/load/n{number}", str(number).encode())
                self.acknowledged.append(number)
            except NodeExistsError:
                pass
            except (KazooException, KazooTimeoutError) as lost:
                self.error = lost
                time.sleep(0.02)

    def finish(self):
        self.done = True
        self.join(PATIENCE)
        assert len(self.acknowledged) > 100, f"hardly anything was written: {self.error}"
        wait("the client to be connected", lambda: self.client.connected)
        assert self.client.client_id[0] == self.session, "the session was lost"
        there = set(self.client.get_children("/load"))
        lost = [number for number in self.acknowledged if f"n{number}" not in there]
        assert not lost, f"{len(lost)} of {len(self.acknowledged)} acknowledged writes are lost: {lost[:5]}"
        assert "alive" in there, "an ephemeral of a live session is gone"
        self.client.stop()
        self.client.close()


class JavaLoad:
    """The same by Java's client: mixed/JavaLoad.java."""

    def __init__(self, root, addresses):
        command = ["java", "-Xmx128m", "-XX:+UseSerialGC", "-Djute.maxbuffer=67108864", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"]
        command += [os.environ["JAVA_LOAD"], "JavaLoad", addresses]
        self.log = os.path.join(root, "java-load.log")
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout.readline() == "ready\n", f"see {self.log}"

    def tell(self, what):
        self.process.stdin.write(what)
        self.process.stdin.flush()

    def hold(self):
        self.tell("h")
        assert self.process.stdout.readline() == "held\n", f"see {self.log}"

    def go_on(self):
        self.tell("g")

    def finish(self):
        said = self.process.communicate("e", 2 * PATIENCE)[0].strip()
        assert self.process.returncode == 0, f"{said}; see {self.log}"
        return said

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def rolling(root, version, rounds):
    with Ensemble(root, [version] * 3) as ensemble, contextlib.ExitStack() as at_end:
        ensemble.wait_until_all_serve()
        load = Load(ensemble.addresses())
        load.start()
        java = JavaLoad(root, ensemble.addresses())
        at_end.callback(java.kill)
        for _ in range(rounds):
            for kind in ["ringkeeper", version]:
                for server in ensemble.servers:
                    server.stop(signal.SIGTERM)
                    # What Apache's leader sends while others write is of no one moment, and the next digests do not fit it
                    # where the learner is Apache's as well: that is not what this is about.
                    held = [load, java] if "ringkeeper" not in (kind, ensemble.leader().kind) else []
                    for one in held:
                        one.hold()
                    # A server of the other kind begins with nothing, and copies all from the leader.
                    server.start(kind, ensemble.lines, fresh=True)
                    wait(f"server {server.number} to serve", server.mode)
                    for one in held:
                        one.go_on()
        load.finish()
        said = java.finish()
        assert_same_trees(ensemble)
        assert_same_digests(ensemble)
        print(f"{version} -> ringkeeper -> {version}: {len(load.acknowledged)} acknowledged writes, none lost; {said}")


def swapped(root, version, rounds):
    """One member after the other goes on as a server of the other kind, on the directory that it has."""
    with Ensemble(root, [version] * 3) as ensemble:
        ensemble.wait_until_all_serve()
        write_through(ensemble.servers[0], "before")
        load = Load(ensemble.addresses())
        load.start()
        for turn in range(rounds):
            server = ensemble.servers[turn % 3]
            for kind in ["ringkeeper", version]:
                # Apache may be killed; ringkeeper leaves what Apache can read where it is stopped.
                server.stop(signal.SIGKILL if kind == "ringkeeper" and turn % 2 else signal.SIGTERM)
                ensemble.leader()
                server.start(kind, ensemble.lines)
                wait(f"server {server.number} to serve", server.mode)
                write_through(server, f"turn-{turn}-{kind}")
            with open(server.log) as log:
                recovered = [line for line in log if "highest zxid is " in line]
            assert recovered and "highest zxid is 0x0," not in recovered[-1], f"it began with nothing: {server.log}"
        load.finish()
        assert_same_trees(ensemble)
        assert_same_digests(ensemble)
        print(f"{version} <-> ringkeeper, one of three on its directory, {2 * rounds} times:",
              f"{len(load.acknowledged)} acknowledged writes, none lost")


def main():
    version, long = sys.argv[1], "--long" in sys.argv[2:]
    root = tempfile.mkdtemp(prefix="mixed.", dir=os.path.dirname(RINGKEEPER))
    r = "ringkeeper"
    for index, kinds in enumerate([[r, version, version], [version, r, r], [version, version, r], [r, r, version]]):
        mix(os.path.join(root, f"mix{index}"), kinds)
    for kinds in [[r, r, r, version], [version, version, version, r]]:
        observed(os.path.join(root, f"observed-by-{kinds[3]}"), kinds)
    rolling(os.path.join(root, "rolling"), version, 10 if long else 1)
    swapped(os.path.join(root, "swapped"), version, 9 if long else 3)
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
