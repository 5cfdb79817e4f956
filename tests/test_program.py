"""Programs in the foreground of a terminal."""

import os
import signal
import subprocess
import sys

import psutil

START = "from orpo_qlora.program import run_foreground; run_foreground('http.server', ['0'])"


def test_a_program_in_the_foreground_does_not_outlive_its_command():
    command = subprocess.Popen(
        [sys.executable, "-c", START],
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with command:
        command.stdout.readline()  # the program serves
        [program] = psutil.Process(command.pid).children()
        command.send_signal(signal.SIGTERM)
        command.wait(60)
        assert psutil.wait_procs([program], 60)[1] == []
