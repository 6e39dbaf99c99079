"""What journal and snapshot_under_load share: a server on a directory, and the load generator."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARIES = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
PATIENCE_S = 60


def fail(what):
    sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {what}")


def run(*command):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        fail(f"{command[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def load(port, *options):
    """Puts load on the server of that port."""
    return run(BINARIES / "ringkeeper-latency", "--servers", f"127.0.0.1:{port}", *options)


def ask(port, word):
    """What the server says to a four-letter word."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(word.encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """`ringkeeper` or `apache` with its data in the directory `data`, which may be there already."""

    def __init__(self, name, data, *settings):
        self.name, self.data, self.port = name, str(data), free_port()
        os.makedirs(self.data, exist_ok=True)
        self.out = pathlib.Path(self.data + ".out")
        if name == "apache":
            command = ["bash", str(ROOT / "tests/peers/apache.sh"), "run", "--data", self.data, "--port", str(self.port),
                       "--heap", "1g"]
            for setting in settings:
                command += ["--cfg", setting]
        else:
            config = pathlib.Path(self.data + ".cfg")
            lines = ["tickTime=2000", f"dataDir={self.data}", f"clientPort={self.port}", "clientPortAddress=127.0.0.1",
                     "4lw.commands.whitelist=*", "maxClientCnxns=0", "admin.enableServer=false", *settings]
            config.write_text("\n".join(lines) + "\n")
            command = [str(BINARIES / "ringkeeper"), "start-foreground", str(config)]
        with open(self.out, "w") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def __enter__(self):
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if "Mode: " in ask(self.port, "srvr"):
                    return self
            except OSError:
                pass
            time.sleep(0.02)
        self.__exit__()
        fail(f"{self.name} does not serve\n{self.said()}")

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(PATIENCE_S)

    def said(self):
        """What it has printed."""
        return self.out.read_text()

    def figures(self):
        """What `mntr` says, by name."""
        return dict(line.split("\t", 1) for line in ask(self.port, "mntr").splitlines() if "\t" in line)

    def flushes(self):
        figures = self.figures()
        return int(figures.get("ringkeeper_log_flushes", figures["zk_cnt_fsynctime"]))

    def resident_kib(self):
        """Memory now, and at its highest."""
        status = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines())
        return int(status["VmRSS"].split()[0]), int(status["VmHWM"].split()[0])
