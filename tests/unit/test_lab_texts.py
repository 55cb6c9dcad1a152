"""The files that a lab writes for ssh, Slurm and the resolver, as texts."""

from __future__ import annotations

from typing import Callable

import pytest

from muster.errors import Impossible
from muster.lab import texts
from muster.lab.shape import Folder, Shape, address, card

FOLDER = Folder("/var/lib/muster-lab")
SHAPES = {"usual": Shape(), "no-gpu": Shape(nodes=1, gpus=0, cpus=2)}

PASSWD = "root:x:0:0:root:/root:/bin/bash\nada:x:77:77::/home/other:/bin/sh\nsomebody:x:2001:2001::/:/bin/sh\n"
GROUP = "root:x:0:\n"


@pytest.mark.parametrize("name", SHAPES)
def test_the_texts_of_a_lab(golden: Callable[..., None], name: str) -> None:
    shape = SHAPES[name]
    users, number = texts.passwd(PASSWD, FOLDER)
    found = {
        "slurm.conf": texts.slurm_conf(shape, FOLDER, "proctrack/cgroup", {"KillWait": "9"}),
        "ssh_config": texts.ssh_config(FOLDER, shape),
        "ssh_config outside": texts.ssh_config_outside(FOLDER, shape, "connect"),
        "known_hosts": texts.known_hosts(shape, "ssh-ed25519 AAAA comment"),
        "hosts of n1": texts.hosts_file(shape, "n1"),
        "hosts of n1, loopback-name": texts.hosts_file(shape, "n1", loopback=True),
        "nsswitch.conf": texts.nsswitch(),
        "nsswitch.conf, slow-dns": texts.nsswitch(slow=True),
        "resolv.conf, slow-dns": texts.resolv_conf(slow=True),
        "passwd": users,
        "group": texts.group(GROUP, number),
        "shadow": texts.shadow(users),
    }
    golden(f"lab/{name}.txt", "\n".join(f"---- {title}\n{text}" for title, text in found.items()))


def test_addresses_are_different_and_stay() -> None:
    hosts = Shape(nodes=250).hosts
    assert len(hosts) == len({address(host) for host in hosts}) == len({card(host) for host in hosts})
    assert ("10.77.0.1", "10.77.1.250") == (address("head"), address("n250"))


@pytest.mark.parametrize("shape", [Shape(0), Shape(251), Shape(1, -1), Shape(1, 17), Shape(1, 1, 0), Shape(1, 1, 2000)])
def test_impossible_shapes(shape: Shape) -> None:
    with pytest.raises(Impossible):
        shape.check()
