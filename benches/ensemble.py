"""Ensembles of ringkeeper servers on this machine, for measurements."""

import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
PATIENCE = 60


def fail(message):
    sys.exit(f"{Path(sys.argv[0]).name}: {message}")


def wait_for(what, look, patience=PATIENCE):
    """Looks until there is something, and returns it."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        time.sleep(0.01)
    fail(f"waited {patience} s for {what}")


def add_options(parser):
    """What all measurements have."""
    parser.add_argument("--label", metavar="NAME", help="names the results (default: this commit)")
    parser.add_argument("--dir", type=Path, default=REPO / "target/bench", help="data directories, on a real disk")
    parser.add_argument("--port", type=int, default=24181, help="client ports are this and those after it")
    parser.add_argument("--profile", default="release", choices=["release", "debug"], help="which binaries")
    parser.add_argument("--no-build", action="store_true", help="use the binaries as they are")


def prepare(options, kind):
    """Builds, and makes the folder of the results. Returns the folders of the binaries and of the results."""
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPO, capture_output=True, text=True)
    commit = said.stdout.strip()
    binaries = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target")) / options.profile
    if not options.no_build:
        profile = ["--release"] if options.profile == "release" else []
        subprocess.run(["cargo", "build", *profile], cwd=REPO, check=True)
    runs = REPO / "benches/runs" / f"{datetime.now(timezone.utc):%Y-%m-%d}-{kind}-{options.label or commit}"
    if runs.exists():
        fail(f"{runs} is there already: choose another --label")
    (runs / "raw").mkdir(parents=True)
    load = Path("/proc/loadavg").read_text().split()[:3]
    (runs / "machine.txt").write_text(
        f"date: {datetime.now(timezone.utc):%FT%TZ}\ncommit: {commit}\nkernel: {platform.system()} {platform.release()}\n"
        f"cores: {os.cpu_count()}\nload before: {' '.join(load)}\nprofile: {options.profile}\n"
        f"repeat: benches/{kind} {' '.join(sys.argv[1:])}\n")
    return binaries, runs


class Server:
    """One server of an ensemble; those beyond the participants are observers."""

    def __init__(self, options, binaries, number, participants, observers=0):
        self.number = number
        self.port = options.port + number - 1
        self.dir = options.dir.resolve() / f"member-{number}"
        self.binary = binaries / "ringkeeper"
        shutil.rmtree(self.dir, ignore_errors=True)
        (self.dir / "data").mkdir(parents=True)
        (self.dir / "data/myid").write_text(f"{number}\n")
        lines = ["tickTime=2000", "initLimit=10", "syncLimit=5", f"dataDir={self.dir}/data", f"clientPort={self.port}",
                 "clientPortAddress=127.0.0.1", "maxClientCnxns=0", "4lw.commands.whitelist=*"]
        for i in range(participants + observers):
            port = options.port + 100 + 2 * i
            role = "participant" if i < participants else "observer"
            lines.append(f"server.{i + 1}=127.0.0.1:{port}:{port + 1}:{role}")
        if number > participants:
            lines.append("peerType=observer")
        self.config = self.dir / "zoo.cfg"
        self.config.write_text("\n".join(lines) + "\n")
        self.log = self.dir / "log"
        self.process = None

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([self.binary, "start-foreground", self.config], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)

    def srvr(self):
        """What it says of itself; None if it serves nobody."""
        if self.process.poll() is not None:
            fail(f"server {self.number} has ended: {self.log}")
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as stream:
                stream.sendall(b"srvr")
                answer = b""
                while chunk := stream.recv(4096):
                    answer += chunk
        except OSError:
            return None
        answer = answer.decode()
        return answer if "\nMode: " in answer else None

    def mode(self):
        said = self.srvr()
        return said and re.search(r"^Mode: (\S+)", said, re.MULTILINE).group(1)

    def zxid(self):
        said = self.srvr()
        return said and int(re.search(r"^Zxid: (\S+)", said, re.MULTILINE).group(1), 16)

    def resident_mb(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"^VmRSS:\s+(\d+)", status, re.MULTILINE).group(1)) // 1024

    def elections(self):
        return [int(ms) for ms in re.findall(rb"LEADER ELECTION TOOK - (\d+) MS", self.log.read_bytes())]

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()


def run_all(servers):
    for server in servers:
        server.start()
    wait_for("all to serve", lambda: True if all(server.mode() for server in servers) else None)


def leader_of(servers):
    return wait_for("a leader", lambda: next((server for server in servers if server.mode() == "leader"), None))


def end_all(servers):
    """Stops them. What they have written stays if something failed."""
    for server in servers:
        server.stop()
    if sys.exc_info()[0] is None:
        for server in servers:
            shutil.rmtree(server.dir, ignore_errors=True)
