"""Our shell at a terminal: the prompt, completion, events above the line, colours, a history that lasts.

    shell_terminal.py PROGRAM HOST:PORT
"""

import os
import pty
import re
import select
import stat
import subprocess
import sys
import tempfile
import time
import uuid

WAIT_SECONDS_MAX = 20
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
GREEN = "\x1b[32m"
UP = "\x1b[A"


class Terminal:
    """The shell in a terminal of its own."""

    def __init__(self, program, server, home, **variables):
        variables = {"HOME": home, "TERM": "xterm", "PATH": os.environ["PATH"], **variables}
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.execve(program, [program, "-server", server], variables)
        self.seen = ""

    def type(self, text):
        self.seen = ""
        os.write(self._terminal, text.encode())

    def wait_for(self, text):
        """Waits until the text is seen, with escape sequences taken out."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while text not in ESCAPE.sub("", self.seen):
            if not select.select([self._terminal], [], [], max(0, deadline - time.monotonic()))[0]:
                sys.exit(f"FAIL terminal: no {text!r} within {WAIT_SECONDS_MAX} s, but {self.seen!r}")
            try:
                data = os.read(self._terminal, 65536)
            except OSError:
                sys.exit(f"FAIL terminal: no {text!r} up to the end, but {self.seen!r}")
            self.seen += data.decode(errors="replace")

    def quit(self):
        self.type("quit\r")
        _, status = os.waitpid(self._pid, 0)
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(status)


def check(holds, what):
    if not holds:
        sys.exit(f"FAIL terminal: {what}")


def main():
    program, server = sys.argv[1:]
    node = "terminal-" + uuid.uuid4().hex[:8]
    with tempfile.TemporaryDirectory() as home:
        shell = Terminal(program, server, home)
        shell.wait_for("JLine support is enabled")
        shell.wait_for(f"[zk: {server}(CONNECTED) 0] ")
        check(GREEN in shell.seen, f"no colour in {shell.seen!r}")
        # Tab completes a command, and a path that the server has; a name with a blank gets its quote.
        shell.type(f"crea\t/{node} hello\r")
        shell.wait_for(f"Created /{node}")
        shell.wait_for("1] ")
        shell.type(f"get /{node[:-1]}\t\r")
        shell.wait_for("\nhello")
        shell.wait_for("2] ")
        shell.type(f'create "/{node}/a b" blank\r')
        shell.wait_for(f"Created /{node}/a b")
        shell.type(f"get /{node}/a\t\"\r")
        shell.wait_for("\nblank")
        shell.wait_for("4] ")
        shell.type("addauth digest bob:secret\r")
        shell.wait_for("5] ")
        # An event appears above what is being typed, which stays.
        shell.type(f"get -w /{node}\r")
        shell.wait_for("6] ")
        shell.type("ls /zoo")
        shell.wait_for("ls /zoo")
        subprocess.run([program, "-server", server, "set", f"/{node}", "other"], check=True, capture_output=True)
        shell.wait_for(f"WatchedEvent state:SyncConnected type:NodeDataChanged path:/{node} ")
        shell.wait_for("6] ls /zoo")
        shell.type("keeper\r")
        shell.wait_for("[config, quota]")
        # Between two lines Ctrl-C ends the shell, as it does Apache's.
        shell.wait_for("7] ")
        # Ctrl-C drops the line and nothing else; `watch` ends by it.
        shell.type("get /nothing\x03")
        shell.wait_for("7] ")
        shell.type(f"watch /{node}\r")
        shell.wait_for("Ctrl-C ends it")
        shell.type("\x03")
        shell.wait_for("8] ")
        check(shell.quit() == 0, "the shell does not end well")

        history = os.path.join(home, ".ringkeeper_cli_history")
        with open(history, encoding="utf-8") as file:
            text = file.read()
        check(f"get -w /{node}" in text and "secret" not in text, f"the history is {text!r}")
        check(stat.S_IMODE(os.stat(history).st_mode) == 0o600, "others can read the history")

        # The history is there in another run; NO_COLOR is heeded.
        shell = Terminal(program, server, home, NO_COLOR="1")
        shell.wait_for(f"[zk: {server}(CONNECTED) 0] ")
        check(GREEN not in shell.seen, f"colours in {shell.seen!r}")
        shell.type(UP + UP + UP)
        shell.wait_for("ls /zookeeper")
        shell.type("\r")
        shell.wait_for("[config, quota]")
        shell.wait_for("1] ")
        shell.type("get /nothing-there\r")
        shell.wait_for("Node does not exist: /nothing-there")
        shell.wait_for("2] ")
        check(shell.quit() == 1, "the exit code is not that of the last command")
    print("ok   terminal: prompt, completion, events, interrupts, colours, history")


if __name__ == "__main__":
    main()
