"""Plays transcripts of ZooKeeper's command lines against a running server and compares what they print.

    transcript.py zkcli --class-path PATH [--rewrite] HOST:PORT TRANSCRIPT...
    transcript.py ringkeeper --program PATH [--rewrite] HOST:PORT TRANSCRIPT...
    transcript.py cli_mt [--rewrite] HOST:PORT TRANSCRIPT...

zkcli is the command line of Apache's Java client, cli_mt that of the C client; ringkeeper is our
own shell, which is to print what zkcli prints.

A transcript is text, read line by line:

    # comment
    a> create /x hello       type a command into session `a`: a process of the command line that reads
                             from a pipe, started at its first command
    a< event                 wait for what `a` prints next by itself: one watch event
    a>! removewatches /x -a  type a command that makes the client print an event of its own, at any
                             time before or after the command is done
    a>~ whoami               type a command whose lines of output come in no particular order
    a! cut                   break the connection of `a` and let it make no other, until
    a! heal                  lets it
    $ get /x                 run one command in a process of its own
    anything else            the expected output of the line before, without empty lines

`a> quit` also waits for the end of the process. A process that exits with another code than 0
prints `[exit N]`.

The transcript lives in a node of its own, which is the root of its sessions and commands (a chroot
in the connection string). A session whose name starts with `root` and commands after `$$` are not
confined: there the node's path is written BASE, also in what is printed.

Times, zxids, session ids and the like differ from run to run and are masked.

With --rewrite the expected output is replaced by what was printed. Read the difference before
keeping it.
"""

import argparse
import os
import queue
import re
import socket
import subprocess
import sys
import threading
import time
import uuid

WAIT_SECONDS_MAX = 20


class Failure(Exception):
    pass


class ZkCli:
    """Apache's Java command line. Without a terminal it prints no prompt."""

    # A command that only prints this line marks the end of the output of the command before.
    mark_command = "printwatches"
    mark_line = "printwatches is on"

    # Printed at the start.
    greeting = re.compile(r"Connecting to .*|Welcome to ZooKeeper!|JLine support is disabled|WATCHER::"
                          r"|WatchedEvent state:SyncConnected type:None path:null.*|SLF4J.*")
    connected = re.compile(r"WatchedEvent state:SyncConnected .*")
    event = re.compile(r"WatchedEvent .*")

    def __init__(self, class_path):
        self._java = ["java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                      "-Dfile.encoding=UTF-8", "-cp", class_path, "org.apache.zookeeper.ZooKeeperMain"]

    def session(self, server):
        return self._java + ["-server", server]

    def once(self, server, text):
        return self._java + ["-server", server] + text.split()

    @staticmethod
    def mask(line):
        line = re.sub(r"^([cmp]Zxid) = 0x[0-9a-f]+$", r"\1 = ZXID", line)
        line = re.sub(r"^([cm]time) = .+$", r"\1 = TIME", line)
        line = re.sub(r"^ephemeralOwner = 0x[0-9a-f]{2,}$", "ephemeralOwner = SESSION", line)
        # Clients of 3.9 print an event's zxid, older ones do not.
        line = re.sub(r"^(WatchedEvent .*) zxid: -?\d+$", r"\1", line)
        # A list of names is a set to the server.
        if re.fullmatch(r"\[.*\]", line):
            line = "[" + ", ".join(sorted(line[1:-1].split(", "))) + "]"
        return line.rstrip()


class RingkeeperCli(ZkCli):
    """Our own shell. Its log goes to standard error, where it would get between the lines."""

    def __init__(self, program):
        self._program = ["env", "RINGKEEPER_CLI_LOG=off", program]

    def session(self, server):
        return self._program + ["-server", server]

    def once(self, server, text):
        return self._program + ["-server", server] + text.split()


class CliMt:
    """The C command line. Most of its commands are asynchronous, so the mark must be, too."""

    mark_command = "ls /mark"
    mark_line = "/mark: rc = -101"

    greeting = re.compile(r"Batch mode: .*|Watcher SESSION_EVENT state = CONNECTED_STATE|Got a new session id: .*")
    # It tells the id of a session when that is another one than before, so not after a reconnect.
    connected = re.compile(r"Got a new session id: .*")
    event = re.compile(r"Watcher .*")

    # Its standard output would be kept back until the end.
    _cli = ["stdbuf", "-oL", "/usr/lib/zookeeper/bin/cli_mt"]

    def session(self, server):
        return self._cli + ["-h", server]

    def once(self, server, text):
        return self._cli + ["-h", server, "-c", text]

    @staticmethod
    def mask(line):
        if re.match(r"time = \d+ msec|[-0-9]+ [0-9:,]+:\d+\(0x[0-9a-f]+\):ZOO_", line):
            return ""
        line = re.sub(r"^(\t[cm]zxid)=[0-9a-f]+$", r"\1=ZXID", line)
        line = re.sub(r"^(\t[cm]time *=) *.+$", r"\1 TIME", line)
        line = re.sub(r"^\tephemeralOwner = [0-9a-f]{2,}$", "\tephemeralOwner = SESSION", line)
        return line.rstrip()


class Relay:
    """Passes connections on to a server, until it is cut."""

    def __init__(self, server):
        self._server = server
        self._lock = threading.Lock()
        self._open = []
        self._is_cut = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        with self._lock:
            self._is_cut = True
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # It had ended already.
            self._open.clear()

    def heal(self):
        with self._lock:
            self._is_cut = False

    def close(self):
        self.cut()
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._is_cut:
                    client.close()
                    continue
                try:
                    server = socket.create_connection(self._server)
                except OSError:
                    client.close()
                    continue
                for connection in (client, server):
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open += [client, server]
            threading.Thread(target=self._pump, args=(client, server), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client), daemon=True).start()

    @staticmethod
    def _pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # The other direction ended the connection.


class Session:
    """A process of the command line that is fed line by line, behind a relay of its own."""

    def __init__(self, tool, server, chroot):
        self._tool = tool
        self._relay = Relay(server)
        self._process = subprocess.Popen(
            tool.session(self._relay.address + chroot), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, encoding="utf-8")
        self._lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self._until(self._tool.connected.fullmatch)

    def _is_greeting_or_event(self, line):
        return self._tool.greeting.fullmatch(line) or self._tool.event.fullmatch(line)

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _until(self, is_last):
        """The lines before and with the one that `is_last`, or up to the end."""
        lines = []
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while True:
            try:
                line = self._lines.get(timeout=max(0, deadline - time.monotonic()))
            except queue.Empty:
                raise Failure("no answer within %d s; so far: %s" % (WAIT_SECONDS_MAX, lines)) from None
            if line is None:
                return lines
            if line.strip():
                lines.append(line)
            if is_last(line):
                return lines

    def command(self, text, with_event=False):
        try:
            self._process.stdin.write(text + "\n")
            if text == "quit":
                self._process.stdin.flush()
                lines = self._until(lambda line: False)
                code = self._process.wait(WAIT_SECONDS_MAX)
                # The last events may or may not be printed before the process ends.
                lines = [line for line in lines if not self._is_greeting_or_event(line)]
                return lines + ([f"[exit {code}]"] if code else [])
            self._process.stdin.write(self._tool.mark_command + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return ["[the process has ended]"]
        lines = self._until(lambda line: line == self._tool.mark_line)
        if self._tool.mark_line not in lines:
            return lines + ["[the process has ended]"]
        if with_event and not any(map(self._tool.event.fullmatch, lines)):
            lines += self._until(self._tool.event.fullmatch)
        return [line for line in lines if line != self._tool.mark_line]

    def event(self):
        return self._until(self._tool.event.fullmatch)

    def act(self, action):
        if action == "cut":
            self._relay.cut()
        elif action == "heal":
            self._relay.heal()
        else:
            raise Failure(f"no such action: {action}")
        return []

    def close(self):
        self._process.kill()
        self._process.wait()
        self._relay.close()


class Player:
    def __init__(self, tool, server):
        host, _, port = server.rpartition(":")
        self._tool = tool
        self._server = (host, int(port))
        self._address = server
        self._base = "/transcript-" + uuid.uuid4().hex[:12]
        self._sessions = {}

    def play(self, line):
        """Carries out one line of the transcript; returns what was printed, masked."""
        if line.startswith("$$ "):
            printed = self._once("", line[3:])
        elif line.startswith("$ "):
            printed = self._once(self._base, line[2:])
        else:
            name, kind, text = STEP_OF_SESSION.fullmatch(line).groups()
            session = self._session(name)
            if kind == "<":
                printed = session.event()
            elif kind == "!":
                printed = session.act(text)
            else:
                printed = session.command(text.replace("BASE", self._base), with_event=kind == ">!")
        printed = [self._tool.mask(line.replace(self._base, "BASE")) for line in printed]
        # What says nothing about the server, such as the client's own log, is masked to nothing.
        printed = [line for line in printed if line]
        return sorted(printed) if line.split(" ")[0].endswith(">~") else printed

    def start(self):
        self._once("", "create " + self._base)

    def close(self):
        for session in self._sessions.values():
            session.close()

    def _session(self, name):
        if name not in self._sessions:
            chroot = "" if name.startswith("root") else self._base
            self._sessions[name] = Session(self._tool, self._server, chroot)
        return self._sessions[name]

    def _once(self, chroot, text):
        argv = self._tool.once(self._address + chroot, text.replace("BASE", self._base))
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                encoding="utf-8", timeout=WAIT_SECONDS_MAX, check=False)
        except subprocess.TimeoutExpired:
            raise Failure("not done within %d s" % WAIT_SECONDS_MAX) from None
        lines = [line for line in done.stdout.split("\n") if line.strip() and not self._tool.greeting.fullmatch(line)]
        return lines + ([f"[exit {done.returncode}]"] if done.returncode else [])


STEP_OF_SESSION = re.compile(r"(\w+)(<|>[!~]?|!) (.+)")


def is_step(line):
    return line.startswith(("$ ", "$$ ")) or STEP_OF_SESSION.fullmatch(line) is not None


def play_file(path, tool, server, rewrite):
    """Returns the number of steps and the list of failures; with `rewrite`, writes the file anew."""
    with open(path, encoding="utf-8") as file:
        lines = file.read().split("\n")
    steps, failures, new_lines = 0, [], []
    player = Player(tool, server)
    try:
        player.start()
        index = 0
        while index < len(lines):
            line = lines[index]
            new_lines.append(line)
            index += 1
            if not is_step(line):
                continue
            expected = []
            while lines[index] and not lines[index].startswith("#") and not is_step(lines[index]):
                expected.append(lines[index])
                index += 1
            steps += 1
            step_at = f"{path}:{index - len(expected)}: {line}"
            try:
                printed = player.play(line)
            except Failure as failure:
                # What follows would fail for that reason only.
                failures.append(f"{step_at}\n    {failure}")
                new_lines += expected + lines[index:]
                break
            new_lines += printed
            if printed != expected:
                difference = ["    - " + want for want in expected] + ["    + " + got for got in printed]
                failures.append("\n".join([step_at] + difference))
    finally:
        player.close()
    if rewrite:
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(new_lines))
    return steps, failures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tool", choices=["zkcli", "ringkeeper", "cli_mt"])
    parser.add_argument("--class-path")
    parser.add_argument("--program")
    parser.add_argument("--rewrite", action="store_true")
    parser.add_argument("server")
    parser.add_argument("transcripts", nargs="+")
    options = parser.parse_args()
    tools = {"zkcli": lambda: ZkCli(options.class_path), "ringkeeper": lambda: RingkeeperCli(options.program),
             "cli_mt": CliMt}
    tool = tools[options.tool]()

    failed = 0
    for path in options.transcripts:
        started = time.monotonic()
        steps, failures = play_file(path, tool, options.server, options.rewrite)
        failed += len(failures)
        print("%s %s: %d steps, %d failed (%.1f s)" % (
            "FAIL" if failures else "ok  ", os.path.basename(path), steps, len(failures), time.monotonic() - started))
        for failure in failures:
            print(failure)
    sys.exit(1 if failed and not options.rewrite else 0)


if __name__ == "__main__":
    main()
