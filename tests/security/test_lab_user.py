"""The lab's second user stays unprivileged: it really tries to become root, by everything it can reach."""

from __future__ import annotations

import re

from muster.lab import Lab

TRIES = """
cd {folder}
for key in $(find . -type f \\( -name 'id*' -o -name '*key*' \\) 2>/dev/null) none; do
  cp "$key" ~/key 2>/dev/null || echo x > ~/key
  chmod 600 ~/key
  for host in head n1 127.0.0.1; do
    ssh -n -i ~/key -oIdentitiesOnly=yes -oBatchMode=yes -oStrictHostKeyChecking=no root@$host id -un 2>/dev/null
    ssh -n -oBatchMode=yes root@$host id -un 2>/dev/null
  done
done
srun -n1 --uid=0 id -un 2>/dev/null
find . -path ./share -prune -o -path ./behind-share -prune -o -path ./scratch -prune -o -path ./home/ada -prune \\
  -o -writable ! -type l -print 2>/dev/null | sed 's/^/writable: /'
cat munge/key ssh/host_key ssh/id_root 2>/dev/null | wc -c
"""


def test_ada_does_not_become_root(lab: Lab) -> None:
    done = lab.run("n1", ["bash", "-c", TRIES.format(folder=lab.folder.path)], user="ada", cwd="/", timeout=240)
    *won, read = done.stdout.splitlines()
    hers = {"writable: ./munge/socket", "writable: ./ssh/id_ada"}
    # while a step is ending, its slurmstepd still listens; Slurm lets everybody connect and checks who it is
    won = [line for line in won if not re.fullmatch(r"writable: \./slurm/spool-\w+/\w+_\d+\.\w+", line)]
    assert set(won) <= hers, done.stdout + done.stderr
    assert "0" == read
    own = lab.run("n1", ["ssh", "-n", "-oBatchMode=yes", "n1", "id", "-un"], user="ada", cwd="/")
    assert "ada\n" == own.stdout, own.stderr


def test_root_opens_both_accounts(lab: Lab) -> None:
    for name in ("ada", "root"):
        done = lab.run("head", ["ssh", "-n", "-oBatchMode=yes", f"{name}@n1", "id", "-un"], cwd="/")
        assert f"{name}\n" == done.stdout, done.stderr
