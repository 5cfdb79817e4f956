"""Notes every look outside this machine: on PYTHONPATH, armed by a file's name in OUTGOING."""

import ipaddress
import os
import sys


def is_local(host):
    if host in {None, "", b"", "localhost", "0.0.0.0"}:
        return True
    host = host.decode() if isinstance(host, bytes) else str(host)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hear(event, arguments):
    if event == "socket.connect":
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # others are local sockets
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if not is_local(host):
        with open(os.environ["OUTGOING"], "a", encoding="utf-8") as file:  # noqa: PTH123
            file.write(f"{event} {host} {sys.argv}\n")


if os.environ.get("OUTGOING"):
    sys.addaudithook(hear)
