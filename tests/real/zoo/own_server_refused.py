"""A rank cannot connect to a server of its own, which is no other rank."""

import socket

from loop import train


def fetch(rank):
    if rank == 2:
        socket.create_connection(("127.0.0.1", 1))


train(fetch)
