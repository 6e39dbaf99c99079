"""Mixed ensembles whose members change while they run; mixed.sh has the manual."""

import os
import shutil
import sys
import tempfile

from kazoo.client import KazooClient
from kazoo.exceptions import (
    BadVersionError,
    ConnectionClosedError,
    ConnectionLoss,
    NewConfigNoQuorumError,
    NoAuthError,
    SessionExpiredError,
)
from kazoo.security import make_digest_acl_credential

from mixed import PATIENCE, RINGKEEPER, Load, Server, assert_same_trees, wait

SUPER = make_digest_acl_credential("super", "admin")


def version_of(text):
    return int(text.rsplit("version=", 1)[1], 16)


class Member(Server):
    """A server that may be reconfigured. Its client port stands in its line."""

    def line(self, role="participant"):
        return f"{super().line(role)};127.0.0.1:{self.client_port}"

    def settings(self, kind):
        super_user = f"DigestAuthenticationProvider.superDigest={SUPER}"
        if kind == "ringkeeper":
            return ["reconfigEnabled=true", super_user], []
        return ["reconfigEnabled=true"], [f"-Dzookeeper.{super_user}"]


class Ensemble:
    """Servers 1 to 3, of which the last one leads first."""

    def __init__(self, root, kinds):
        self.root, self.servers = root, []
        self.servers = [Member(root, number) for number in range(1, 4)]
        lines = [server.line() for server in self.servers]
        for index in (2, 0):
            self.servers[index].start(kinds[index], lines)
        wait("server 3 to lead", lambda: self.servers[2].mode() == "leader")
        self.servers[1].start(kinds[1], lines)
        self.wait_for_modes()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for server in self.servers:
            if server.process:
                server.stop()

    def running(self):
        return [server for server in self.servers if server.process]

    def wait_for_modes(self):
        for server in self.running():
            wait(f"server {server.number} ({server.kind}) to serve", server.mode)

    def leader(self):
        return wait("a leader", lambda: next((s for s in self.running() if s.mode() == "leader"), None))

    def addresses(self):
        return ",".join(f"127.0.0.1:{server.client_port}" for server in self.servers)

    def join(self, kind):
        """Starts a server that the others do not know."""
        server = Member(self.root, len(self.servers) + 1)
        # It knows the first three, whatever has become of them, and itself.
        lines = [other.line() for other in self.servers[:3]] + [server.line()]
        self.servers.append(server)
        server.start(kind, lines)
        wait(f"server {server.number} ({kind}) to follow", lambda: server.mode() == "follower")
        return server

    def admin(self, server):
        client = KazooClient(f"127.0.0.1:{server.client_port}", timeout=20, auth_data=[("digest", "super:admin")])
        client.start(PATIENCE)
        return client

    def reconfigure(self, through, joining=(), leaving=()):
        """Changes the members by a client of the server `through`, and waits until all who run know."""
        before = version_of(wait(f"server {through.number} to serve", lambda: self.config_of(through)))
        admin = self.admin(through)
        try:
            joining = ",".join(server.line(role) for server, role in joining)
            leaving = ",".join(str(server.number) for server in leaving)
            text, stat = admin.reconfig(joining=joining, leaving=leaving, new_members=None)
            text = text.decode()
            assert version_of(text) == stat.mzxid > before, text
        except (ConnectionLoss, ConnectionClosedError, SessionExpiredError):
            # The server has another leader now, and was faster to turn its clients away than to answer.
            text = wait("a newer configuration", lambda: self.newer_config(through, before))
        finally:
            admin.stop()
            admin.close()
        for server in self.running():
            wait(f"server {server.number} ({server.kind}) to know {text}", lambda: self.config_of(server) == text)
        return text

    def newer_config(self, server, before):
        text = self.config_of(server)
        return text if text and version_of(text) > before else None

    def config_of(self, server):
        client = KazooClient(f"127.0.0.1:{server.client_port}", timeout=20)
        try:
            client.start(PATIENCE)
            client.sync("/")
            return client.get("/zookeeper/config")[0].decode()
        except Exception:
            # It is about to serve again.
            return None
        finally:
            client.stop()
            client.close()


def refusals(ensemble):
    nobody = KazooClient(f"127.0.0.1:{ensemble.servers[0].client_port}", timeout=20)
    nobody.start(PATIENCE)
    admin = ensemble.admin(ensemble.servers[0])
    unknown = ",".join(f"server.{n}=127.0.0.1:{n}:2;3" for n in (21, 22, 23, 24))
    for client, error, joining, leaving, version in [
        (nobody, NoAuthError, None, "2", -1),
        (admin, BadVersionError, None, "2", 7),
        (admin, NewConfigNoQuorumError, unknown, None, -1),
    ]:
        try:
            client.reconfig(joining=joining, leaving=leaving, new_members=None, from_config=version)
            raise AssertionError(f"{joining} {leaving} was done instead of {error}")
        except error:
            pass
    for client in (nobody, admin):
        client.stop()
        client.close()


def reconfigure(root, kinds, joiners):
    """Servers of `kinds`, the last of which leads first, under load; `joiners` join them."""
    with Ensemble(root, kinds) as ensemble:
        servers = ensemble.servers
        first = ensemble.config_of(servers[0])
        assert first.endswith("version=100000000") and first == ensemble.config_of(servers[2]), first
        refusals(ensemble)
        load = Load(ensemble.addresses())
        load.start()
        new = [ensemble.join(kind) for kind in joiners]
        ensemble.reconfigure(servers[0], joining=[(server, "participant") for server in new])
        # Down to an observer, and up again.
        ensemble.reconfigure(servers[1], joining=[(servers[0], "observer"), (new[0], "observer")])
        for server in (servers[0], new[0]):
            wait(f"server {server.number} to observe", lambda: server.mode() == "observer")
        ensemble.reconfigure(new[0], joining=[(servers[0], "participant"), (new[0], "participant")])
        for server in (servers[0], new[0]):
            wait(f"server {server.number} to follow", lambda: server.mode() == "follower")
        # Every leader is removed in its turn, until there is one of the other kind at least; and they come back.
        led = []
        for _ in range(3):
            leader = ensemble.leader()
            led.append(leader.kind)
            through = next(server for server in servers if server is not leader)
            ensemble.reconfigure(through, leaving=[leader])
            wait(f"server {leader.number} to follow", lambda: leader.mode() == "follower")
            assert ensemble.leader() is not leader
        gone = [server for server in servers if f"server.{server.number}=" not in ensemble.config_of(servers[0])]
        assert len(gone) == 3, gone
        ensemble.reconfigure(servers[0], joining=[(server, "participant") for server in gone])
        leader = ensemble.leader()
        leader.stop()
        ensemble.leader()
        ensemble.wait_for_modes()
        load.finish()
        # Whoever was away during a change learns of it.
        left = ensemble.reconfigure(ensemble.running()[0], leaving=[leader])
        others = ensemble.running()
        back = next((server for server in others if server.kind == "ringkeeper"), None)
        if back:
            back.stop()
            back.start("ringkeeper", None)
            wait(f"server {back.number} to serve", back.mode)
            assert ensemble.config_of(back) == left
        assert_same_trees(ensemble)
        print(f"{' '.join(kinds)} and {' '.join(joiners)}: removed leaders were {', '.join(led)}; all trees are the same")


def main():
    version, r = sys.argv[1], "ringkeeper"
    root = tempfile.mkdtemp(prefix="reconfig.", dir=os.path.dirname(RINGKEEPER))
    reconfigure(os.path.join(root, "0"), [r, version, version], [r, version])
    reconfigure(os.path.join(root, "1"), [version, r, r], [r, version])
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
