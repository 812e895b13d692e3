"""Runs a program at a pseudo-terminal and answers its two questions; what it shows is printed.

    terminal.py FIRST SECOND PROGRAM ARGUMENT...
"""

import os
import pty
import sys
import termios
import time

answers = [answer.encode() + b"\n" for answer in sys.argv[1:3]]
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[3], sys.argv[3:])
shown = b""
while True:
    try:
        part = os.read(terminal, 1024)
    except OSError:  # the program has closed its end
        break
    if not part:
        break
    shown += part
    if answers and shown.count(b": ") > 2 - len(answers):
        # Nobody types as fast as this: the question comes a moment before the echo goes.
        while termios.tcgetattr(terminal)[3] & termios.ECHO:
            time.sleep(0.001)
        os.write(terminal, answers.pop(0))
_, status = os.waitpid(pid, 0)
print(shown.decode())
sys.exit(os.waitstatus_to_exitcode(status))
