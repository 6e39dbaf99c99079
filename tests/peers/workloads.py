"""What some well-known systems ask of ZooKeeper, as scripts of operations: see workloads.sh.

Each works below a node of its own and asserts what the system relies on. Nothing here waits without a bound, and
nothing sleeps.
"""

import json
import os
import queue
import socket
import sys

from kazoo.client import KazooClient
from kazoo.exceptions import BadVersionError, NoAuthError, NodeExistsError, NoNodeError, NotEmptyError, RolledBackError
from kazoo.security import make_digest_acl

PATIENCE_S = 20


class Clients:
    """Clients below one node, closed at the end whatever happens."""

    def __init__(self, server, name):
        self.server = server
        self.root = f"/workload-{name}-{os.getpid()}"
        self.open = []
        bare = KazooClient(hosts=server)
        bare.start(PATIENCE_S)
        bare.create(self.root)
        bare.stop()
        bare.close()

    def new(self, **options):
        client = KazooClient(hosts=self.server + self.root, timeout=10, **options)
        client.start(PATIENCE_S)
        self.open.append(client)
        return client

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for client in self.open:
            client.stop()
            client.close()


class Events:
    """A watch whose events can be waited for."""

    def __init__(self):
        self.events = queue.Queue()

    def __call__(self, event):
        self.events.put(event)

    def next(self):
        return self.events.get(timeout=PATIENCE_S)


def commit(client, *operations):
    """A transaction that must succeed; each operation is a function of the transaction."""
    transaction = client.transaction()
    for operation in operations:
        operation(transaction)
    results = transaction.commit()
    failed = [result for result in results if isinstance(result, Exception)]
    assert not failed, results
    return results


def session_of(client):
    return client.client_id[0]


def kafka(clients):
    """Broker registration, controller election with fencing, change notifications, many reads in one go."""
    one, two = clients.new(), clients.new()
    for path in ("/brokers/ids", "/brokers/topics", "/isr_change_notification"):
        one.ensure_path(path)
    one.create("/controller_epoch", b"0")

    # The registration has null data at first, and the broker's epoch is the czxid out of the setData in the same multi.
    def register(client, broker):
        path = f"/brokers/ids/{broker}"
        created, stat = commit(
            client,
            lambda t: t.create(path, b"", ephemeral=True),
            lambda t: t.set_data(path, json.dumps({"broker": broker}).encode(), version=0),
        )
        assert created == path
        assert stat.czxid == stat.mzxid == client.exists(path).czxid and stat.version == 1
        return stat.czxid

    first, second = register(one, 1), register(two, 2)
    assert second > first
    results = one.transaction()
    results.create("/brokers/ids/2", b"", ephemeral=True)
    results.set_data("/brokers/ids/2", b"x", version=0)
    results = results.commit()
    assert isinstance(results[0], NodeExistsError) and isinstance(results[1], Exception), results
    assert two.exists("/brokers/ids/2").owner_session_id == session_of(two)

    # Who creates /controller and moves the epoch on in one step is the controller.
    def elect(client, epoch, version):
        transaction = client.transaction()
        transaction.create("/controller", str(session_of(client)).encode(), ephemeral=True)
        transaction.set_data("/controller_epoch", str(epoch).encode(), version=version)
        return transaction.commit()

    results = elect(one, 1, 0)
    assert results[0] == "/controller" and results[1].version == 1, results
    results = elect(two, 1, 0)
    assert isinstance(results[0], NodeExistsError), results
    assert two.exists("/controller").owner_session_id == session_of(one)
    gone = Events()
    assert two.exists("/controller", watch=gone)
    # A controller that has lost its place cannot write: its writes check the epoch's version.
    fenced = one.transaction()
    fenced.check("/controller_epoch", version=0)
    fenced.create("/brokers/topics/t", b"")
    results = fenced.commit()
    assert isinstance(results[0], BadVersionError), results
    assert not one.exists("/brokers/topics/t")

    changes = Events()
    two.get_children("/isr_change_notification", watch=changes)
    path = one.create("/isr_change_notification/isr_change_", b"{}", sequence=True)
    assert changes.next().type == "CHILD"
    assert two.get_children("/isr_change_notification") == [path.rpartition("/")[2]]
    two.delete(path)

    topics = [f"/brokers/topics/topic-{number}" for number in range(200)]
    for path in topics:
        one.create_async(path, path.encode())
    reads = [one.get_async(path) for path in topics]
    for path, read in zip(topics, reads):
        assert read.get(timeout=PATIENCE_S)[0] == path.encode()

    one.stop()
    assert gone.next().type == "DELETED"
    results = elect(two, 2, 1)
    assert results[1].version == 2, results


def hbase(clients):
    """Region servers, the master's address, multis of many kinds, retries that find their own success."""
    master, backup, server = clients.new(), clients.new(), clients.new()
    for path in ("/hbase/rs", "/hbase/region-in-transition", "/hbase/table", "/hbase/backup-masters", "/hbase/splitWAL"):
        master.ensure_path(path)
    master.create("/hbase/master", b"host,16000,1", ephemeral=True)
    backup.create("/hbase/backup-masters/host,16000,2", b"x", ephemeral=True)
    try:
        backup.create("/hbase/master", b"host,16000,2", ephemeral=True)
        raise AssertionError("two masters")
    except NodeExistsError:
        pass
    master_gone, servers = Events(), Events()
    backup.exists("/hbase/master", watch=master_gone)
    master.get_children("/hbase/rs", watch=servers)
    server.create("/hbase/rs/host,16020,1", b"PBUF", ephemeral=True)
    assert servers.next().path == "/hbase/rs"

    regions = [f"/hbase/region-in-transition/{number:032x}" for number in range(50)]
    commit(master, *[lambda t, path=path: t.create(path, b"OFFLINE") for path in regions])
    commit(
        master,
        *[lambda t, path=path: t.set_data(path, b"OPENING", version=0) for path in regions[:25]],
        *[lambda t, path=path: t.delete(path, version=0) for path in regions[25:]],
    )
    assert master.get_children("/hbase/region-in-transition") and master.get(regions[0])[1].version == 1
    # A delete of what has children fails as a whole.
    results = master.transaction()
    results.delete(regions[0])
    results.delete("/hbase/region-in-transition")
    results = results.commit()
    assert isinstance(results[0], RolledBackError) and isinstance(results[1], NotEmptyError), results
    assert master.exists(regions[0])

    # After a lost reply the set is tried again, and the data tell that it was one's own.
    stat = master.set(regions[0], b"mine", version=1)
    try:
        master.set(regions[0], b"mine", version=1)
        raise AssertionError("set twice at one version")
    except BadVersionError:
        data, found = master.get(regions[0])
        assert data == b"mine" and found.mzxid == stat.mzxid

    # Log splitting: tasks are taken by who sets them first.
    task = master.create("/hbase/splitWAL/wal", b"unassigned")
    stat = server.set(task, b"owned host,16020,1", version=0)
    done = Events()
    master.get(task, watch=done)
    server.set(task, b"done", version=stat.version)
    assert done.next().type == "CHANGED"
    master.delete(task)

    master.stop()
    assert master_gone.next().type == "DELETED"
    backup.create("/hbase/master", b"host,16000,2", ephemeral=True)
    backup.delete("/hbase", recursive=True)


def hadoop(clients):
    """The active name node's lock under an ACL of its own, with the breadcrumb that says whom to fence."""
    acl = make_digest_acl("ha", "secret", all=True)
    auth = [("digest", "ha:secret")]
    active, standby, stranger = clients.new(auth_data=auth), clients.new(auth_data=auth), clients.new()
    active.ensure_path("/hadoop-ha", acl=[acl])
    active.create("/hadoop-ha/ns", b"", acl=[acl])
    lock, crumb = "/hadoop-ha/ns/ActiveStandbyElectorLock", "/hadoop-ha/ns/ActiveBreadCrumb"
    active.create(lock, b"nn1", acl=[acl], ephemeral=True)
    active.create(crumb, b"nn1", acl=[acl])
    for forbidden in (lambda: stranger.get(lock), lambda: stranger.create("/hadoop-ha/ns/x"), lambda: stranger.delete(crumb)):
        try:
            forbidden()
            raise AssertionError("a stranger may")
        except NoAuthError:
            pass
    try:
        standby.create(lock, b"nn2", acl=[acl], ephemeral=True)
        raise AssertionError("two active ones")
    except NodeExistsError:
        pass
    freed = Events()
    stat = standby.exists(lock, watch=freed)
    assert stat.owner_session_id == session_of(active) != session_of(standby)
    active.stop()
    assert freed.next().type == "DELETED"
    standby.create(lock, b"nn2", acl=[acl], ephemeral=True)
    data, stat = standby.get(crumb)
    assert data == b"nn1", "the one to be fenced"
    standby.set(crumb, b"nn2", version=stat.version)


def solr(clients):
    """The overseer's queue, state by compare-and-set, per-replica states by the parent's cversion, leader election."""
    overseer, node, other = clients.new(), clients.new(), clients.new()
    for path in ("/overseer/queue", "/live_nodes", "/collections/c/leader_elect/shard1/election", "/configs/_default"):
        overseer.ensure_path(path)
    node.create("/live_nodes/127.0.0.1:8983_solr", b"", ephemeral=True)

    waiting = Events()
    assert overseer.get_children("/overseer/queue", watch=waiting) == []
    response = node.create("/overseer/queue/qnr-", b"", ephemeral=True, sequence=True)
    request = response.replace("qnr-", "qn-")
    answered = Events()
    node.get(response, watch=answered)
    node.create(request, b'{"operation":"create"}')
    assert waiting.next().type == "CHILD"
    overseer.set(response, b"done")
    overseer.delete(request)
    assert answered.next().type == "CHANGED" and node.get(response)[0] == b"done"

    state = "/collections/c/state.json"
    overseer.create(state, b"{}")
    watched = Events()
    node.get(state, watch=watched)
    stat = overseer.set(state, b'{"v":1}', version=0)
    assert watched.next().type == "CHANGED"
    try:
        other.set(state, b'{"v":2}', version=0)
        raise AssertionError("an old version was taken")
    except BadVersionError:
        assert other.get(state)[1].version == stat.version
    # Each replica's state is a child whose name says it; cversion counts the changes.
    before = node.exists(state).cversion
    node.create(f"{state}/core_node1:1:D", b"")
    commit(node, lambda t: t.delete(f"{state}/core_node1:1:D"), lambda t: t.create(f"{state}/core_node1:2:A:L", b""))
    stat = other.exists(state)
    assert stat.cversion == before + 3 and stat.numChildren == 1 and stat.version == 1, stat
    assert other.get_children(state) == ["core_node1:2:A:L"]

    election = "/collections/c/leader_elect/shard1/election"
    places = [client.create(f"{election}/n_", b"", ephemeral=True, sequence=True) for client in (node, other)]
    assert places == sorted(places)
    ahead = Events()
    assert other.exists(places[0], watch=ahead)
    node.stop()
    assert ahead.next().type == "DELETED"
    other.create("/collections/c/leader", b"other", ephemeral=True)
    assert overseer.get_children("/live_nodes") == []
    try:
        overseer.get("/configs/_default/nobody")
        raise AssertionError("it is not there")
    except NoNodeError:
        pass

    host, port = clients.server.rsplit(":", 1)
    for word, expected in (("ruok", "imok"), ("conf", "clientPort="), ("mntr", "zk_znode_count")):
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
            connection.sendall(word.encode())
            text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        assert expected in text, (word, text)


def main(server):
    failed = 0
    for workload in (kafka, hbase, hadoop, solr):
        try:
            with Clients(server, workload.__name__) as clients:
                workload(clients)
            print(f"{workload.__name__}: ok")
        except Exception:  # One that fails does not keep the others from being run.
            failed += 1
            print(f"{workload.__name__}: FAILED")
            sys.excepthook(*sys.exc_info())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
