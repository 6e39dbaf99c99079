"""Gives Apache's shell and ours the same commands on the same server and compares all that they print.

    shells.py --class-path PATH --program PATH [--show] HOST:PORT SCRIPT...

A script is text, read line by line:

    # comment
    @ /path             the chroot of what follows; a session begins anew at its next command
    > get /shells/a     type a command into the session, which reads from a pipe
    <                   wait for one more watch event in the session
    $ get "/shells/a b" run one command in a process of its own; quoted as for a POSIX shell. The words
                        before the command's name may be options of the program

A script is played with one shell, then with the other. The word `shells` in it stands for the name of
a new node, another one each time. For every step standard output, standard error and the exit code have to be the same to the byte, and so
have the watch events of a session, in their order. What differs from run to run is masked: zxids,
times, session ids. So is what docs/tools.md names: our own commands in the usage, the version.

--show prints the answers of Apache's shell, for whoever writes a script.
"""

import argparse
import difflib
import itertools
import os
import re
import select
import shlex
import subprocess
import sys
import time
import uuid

WAIT_SECONDS_MAX = 20
ATTEMPTS_MAX = 3

# Each command is followed by two that only mark where its output ends, on either stream.
MARKS = b"printwatches\nend-of-step\n"
OUT_MARK = re.compile(rb"printwatches is (on|off)\n(Not connected\n)?\Z")
ERR_MARK = b"Command not found: Command not found end-of-step\n"
# An unknown command prints this first.
USAGE = "ZooKeeper -server host:port"
# What Java's shell tells an event with: two lines, and another thread's may come between them.
HEADING = "\nWATCHER::\n"
EVENT = re.compile(r"\n(WatchedEvent [^\n]*)\n")


class Failure(Exception):
    pass


def mask(text):
    text = re.sub(r"(?m)^([cmp]Zxid) = 0x[0-9a-f]+$", r"\1 = ZXID", text)
    text = re.sub(r"(?m)^([cm]time) = [A-Z][a-z]{2} [A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d [A-Z+-][A-Z0-9]+ \d{4}$",
                  r"\1 = TIME", text)
    text = re.sub(r"(?m)^ephemeralOwner = 0x[0-9a-f]{2,}$", "ephemeralOwner = SESSION", text)
    text = re.sub(r"zxid: [1-9]\d*", "zxid: ZXID", text)
    text = re.sub(r"(?m)^(ZooKeeper CLI version: 3\.9\.5-)\S+, built on .*$", r"\1VERSION", text)
    text = re.sub(r"(?m)^    and, beyond Apache's shell:\n(\t.*\n)*", "", text)
    # The order of a set, which is the server's.
    text = re.sub(r"(?m)^\[(/.*)\]$", lambda found: "[" + ", ".join(sorted(found[1].split(", "))) + "]", text)
    # What a JVM without a logger says.
    return re.sub(r"(?m)^SLF4J.*\n", "", text)


def in_order(events):
    """With those of one removal of watches sorted: Java's client tells them in the order of a hash."""
    sorted_events = []
    for is_removal, group in itertools.groupby(events, lambda event: "WatchRemoved" in event):
        sorted_events += sorted(group) if is_removal else group
    return sorted_events


def without_events(out):
    return EVENT.sub("", out.replace(HEADING, ""))


class Session:
    """A shell that reads commands from a pipe."""

    def __init__(self, command):
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
        self._out, self._err = b"", b""
        self.events = []
        self.headings = 0
        self._awaited = 0
        self._until(lambda: "SyncConnected" in self._out.decode())
        self.greeting = self._take()

    def _until(self, condition):
        """Reads from both streams until the condition holds, or they end."""
        streams = [self._process.stdout, self._process.stderr]
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while not condition():
            ready, _, _ = select.select(streams, [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise Failure(f"nothing more within {WAIT_SECONDS_MAX} s; so far:\n{self._out.decode()}"
                              f"{self._err.decode()}")
            for stream in ready:
                data = os.read(stream.fileno(), 65536)
                if not data:
                    streams.remove(stream)
                elif stream is self._process.stdout:
                    self._out += data
                else:
                    self._err += data
            if not streams:
                return

    def _take(self):
        out, err = self._out.decode(), self._err.decode()
        self._out, self._err = b"", b""
        self.events += EVENT.findall(out)
        self.headings += out.count(HEADING)
        return mask(without_events(out)), mask(err)

    def command(self, text):
        self._process.stdin.write(text.encode() + b"\n")
        if text == "quit":
            self._process.stdin.close()
            self._until(lambda: False)
            return *self._take(), self._process.wait(WAIT_SECONDS_MAX)
        self._process.stdin.write(MARKS)
        self._process.stdin.flush()
        # Events may come between and behind the marks.
        self._until(lambda: self._err.endswith(ERR_MARK)
                    and OUT_MARK.search(without_events(self._out.decode()).encode()))
        out, err = self._take()
        return OUT_MARK.sub(b"", out.encode()).decode(), err[:err.rindex(USAGE)], None

    def event(self):
        self._awaited += 1
        self._until(lambda: len(self.events) + len(EVENT.findall(self._out.decode())) > self._awaited)
        out, err = self._take()
        return out, err, None

    def close(self):
        self._process.kill()
        self._process.wait()


def environment():
    return {**os.environ, "RINGKEEPER_CLI_LOG": "off", "TZ": "UTC", "LC_ALL": "C.UTF-8"}


class Shell:
    def __init__(self, command, server):
        self._command, self._server = command, server

    def _at(self, chroot):
        return self._command + ["-server", self._server + chroot]

    def once(self, chroot, words):
        done = subprocess.run(self._at(chroot) + words, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=WAIT_SECONDS_MAX, check=False, env=environment())
        out = done.stdout.decode()
        # Whether the event of the connection is printed before the command is done is chance in Java.
        return mask(without_events(out)), mask(done.stderr.decode()), done.returncode

    def play(self, steps):
        """The answers to all steps, and the events of all sessions."""
        # Of one length, for texts tell places in paths.
        node = "shells" + uuid.uuid4().hex[:10]
        if self.once("", ["create", "/" + node])[2]:
            sys.exit(f"{self._server}: cannot create /{node}")
        answers, events = self._play([step.replace("shells", node) for step in steps])
        return [unnamed(answer, node) for answer in answers], [event.replace(node, "shells") for event in events]

    def _play(self, steps):
        answers, sessions, chroot, session = [], [], "", None
        try:
            for step in steps:
                kind, text = step[0], step[1:].strip()
                if kind == "$":
                    answers.append(self.once(chroot, shlex.split(text)))
                    continue
                if session is None and kind in "><":
                    session = Session(self._at(chroot))
                    sessions.append(session)
                if kind == "@":
                    if session is not None:
                        session.close()
                    chroot, session = text, None
                    answers.append(None)
                elif kind == "<":
                    answers.append(session.event())
                else:
                    answers.append(session.command(text))
                    if text == "quit":
                        session.close()
                        session = None
        except Failure as failure:
            answers.append(f"{step}: {failure}")
        finally:
            if session is not None:
                session.close()
        events = [mask(event) for session in sessions for event in in_order(session.events)]
        return answers, events + [f"{session.headings} headings" for session in sessions]


def unnamed(answer, node):
    if isinstance(answer, str):
        return answer.replace(node, "shells")
    return answer and (answer[0].replace(node, "shells"), answer[1].replace(node, "shells"), answer[2])


def steps_of(path):
    with open(path, encoding="utf-8") as file:
        lines = [(number, line) for number, line in enumerate(file.read().split("\n"), 1)]
    steps = [(number, line) for number, line in lines if line and not line.startswith("#")]
    for number, line in steps:
        if line[0] not in "@><$":
            sys.exit(f"{path}:{number}: what is this? {line}")
    return steps


def text_of(answer):
    if not isinstance(answer, tuple):
        return str(answer)
    out, err, code = answer
    lines = [f"      | {line}" for line in out.split("\n")[:-1]] + ([f"      | {out}"] if out[-1:] not in ("", "\n") else [])
    lines += [f"    err {line}" for line in err.split("\n")[:-1]]
    return "\n".join(lines + ([f"    exit {code}"] if code is not None else []))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--class-path", required=True)
    parser.add_argument("--program", required=True)
    parser.add_argument("--show", action="store_true")
    parser.add_argument("server")
    parser.add_argument("scripts", nargs="+")
    options = parser.parse_args()
    java = ["java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8", "-cp",
            options.class_path, "org.apache.zookeeper.ZooKeeperMain"]
    shells = [Shell(java, options.server), Shell([options.program], options.server)]

    failed = 0
    for path in options.scripts:
        # Apache's shell prints events from a thread of its own, now and then in the middle of an answer, and ends without
        # the last of them. What differs because of that does not differ again; what really does, does so each time.
        for attempt in range(ATTEMPTS_MAX):
            differences = play(shells, path, options.show)
            if not differences:
                break
        failed += len(differences)
        for difference in differences:
            print(difference)
        sys.stdout.flush()
    sys.exit(1 if failed else 0)


def play(shells, path, show):
    """What the two shells differ in when they play a script side by side."""
    started = time.monotonic()
    steps = steps_of(path)
    (want, want_events), (got, got_events) = [shell.play([line for _, line in steps]) for shell in shells]
    differences = []
    for index, (number, line) in enumerate(steps):
        pair = [answers[index] if index < len(answers) else "not played" for answers in (want, got)]
        if show:
            print(line, text_of(pair[0]), sep="\n")
        # That neither of them answers is no agreement.
        if pair[0] != pair[1] or isinstance(pair[0], str):
            differences.append(f"{path}:{number}: {line}\n  Apache's shell\n{text_of(pair[0])}\n  ours\n"
                               f"{text_of(pair[1])}")
        if "not played" in pair:
            break
    if want_events != got_events:
        diff = difflib.unified_diff(want_events, got_events, "Apache's shell", "ours", lineterm="")
        differences.append("\n  ".join([f"{path}: events", *diff]))
    print("%s %s: %d steps, %d different (%.1f s)" % (
        "FAIL" if differences else "ok  ", os.path.basename(path), len(steps), len(differences),
        time.monotonic() - started))
    return differences


if __name__ == "__main__":
    main()
