"""The configuration files that a lab writes for ssh, Slurm and the resolver."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest

from muster.errors import InvalidRequest
from muster.lab import config_files, requirements, sge
from muster.lab.spec import Folder, Shape, address, card

FOLDER = Folder("/var/lib/muster-lab")
SHAPES = {"usual": Shape(), "no-gpu": Shape(nodes=1, gpus=0, cpus=2)}

PASSWD = "root:x:0:0:root:/root:/bin/bash\nada:x:77:77::/home/other:/bin/sh\nsomebody:x:2001:2001::/:/bin/sh\n"
GROUP = "root:x:0:\n"


@pytest.mark.parametrize("name", SHAPES)
def test_the_texts_of_a_lab(golden: Callable[..., None], name: str) -> None:
    shape = SHAPES[name]
    users, number = config_files.passwd(PASSWD, FOLDER)
    found = {
        "slurm.conf": config_files.slurm_conf(shape, FOLDER, "proctrack/cgroup", {"KillWait": "9"}),
        "ssh_config": config_files.ssh_config(FOLDER, shape),
        "ssh_config outside": config_files.ssh_config_outside(FOLDER, shape, "connect"),
        "known_hosts": config_files.known_hosts(shape, "ssh-ed25519 AAAA comment"),
        "hosts of n1": config_files.hosts_file(shape, "n1"),
        "hosts of n1, loopback-name": config_files.hosts_file(shape, "n1", loopback=True),
        "nsswitch.conf": config_files.nsswitch(),
        "nsswitch.conf, slow-dns": config_files.nsswitch(slow=True),
        "resolv.conf, slow-dns": config_files.resolv_conf(slow=True),
        "passwd": users,
        "group": config_files.group(GROUP, number),
        "shadow": config_files.shadow(users),
    }
    golden(f"lab/{name}.txt", "\n".join(f"---- {title}\n{text}" for title, text in found.items()))


def test_the_texts_of_accounting(golden: Callable[..., None]) -> None:
    text = config_files.slurm_conf(Shape(nodes=1, accounting=True), FOLDER, "proctrack/cgroup", {})
    found = [line for line in text.splitlines() if "Account" in line or "JobAcct" in line]
    golden("lab/accounting.txt", "\n".join([*found, "---- slurmdbd.conf", config_files.slurmdbd_conf(FOLDER)]))


def test_the_packages_of_accounting_are_wanted_only_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "PATH", str(tmp_path))
    usual, more = requirements.missing(), requirements.missing(accounting=True)
    assert {"slurmdbd", "mariadb-server-core", "mariadb-client"} == set(more) - set(usual)
    assert set(usual) < set(more)


def test_only_slurm_has_accounting() -> None:
    with pytest.raises(InvalidRequest, match="--accounting"):
        Shape(scheduler="sge", accounting=True).check()


def test_addresses_are_unique_and_stable() -> None:
    hosts = Shape(nodes=250).hosts
    assert len(hosts) == len({address(host) for host in hosts}) == len({card(host) for host in hosts})
    assert ("10.77.0.1", "10.77.1.250") == (address("head"), address("n250"))


@pytest.mark.parametrize("shape", [Shape(0), Shape(251), Shape(1, -1), Shape(1, 17), Shape(1, 1, 0), Shape(1, 1, 2000)])
def test_impossible_shapes(shape: Shape) -> None:
    with pytest.raises(InvalidRequest):
        shape.check()


def test_grid_engine_of_a_lab() -> None:
    shape = SHAPES["no-gpu"]
    text = sge.setup(shape)
    assert "gpu" not in text and f"slots={shape.cpus}" in text
    assert all(f"pe_name {name}" in text for name in sge.ENVIRONMENTS)
    assert "gpu gpu INT <= YES YES 0 0" in sge.setup(shape._replace(gpus=2))
    told = "global  -  -\n" + "".join(f"{node} lx-amd64 2 1\n" for node in shape.node_names)
    assert sge.ready(told, shape)
    assert not sge.ready(told.replace("n1 lx-amd64 2", "n1 - -"), shape)
    assert "min_uid 0\nother x\n" == sge.configuration(FOLDER, "min_uid   1000\nother x\n")
    assert "SetEnv SGE_ROOT=" in config_files.sshd_config(FOLDER, shape._replace(scheduler="sge"))
    with pytest.raises(InvalidRequest, match="--scheduler pbs"):
        shape._replace(scheduler="pbs").check()
