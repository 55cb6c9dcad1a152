"""Grid Engine in a lab instead of Slurm: its files, the commands of its daemons, and its configuration. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from muster.lab.spec import HEAD, Folder, Shape
from muster.linux.shell import quote

PROGRAMS = "/usr/lib/gridengine"
"""Directory of the programs in Debian; those in /usr/bin are scripts that set SGE_ROOT and start these."""

TEMPLATE = "/usr/share/gridengine/default-configuration"
"""The global configuration that Debian suggests."""

_PORTS = {"SGE_QMASTER_PORT": "6444", "SGE_EXECD_PORT": "6445"}

ENVIRONMENTS: Mapping[str, str] = {
    "smp": "$pe_slots",
    "fill": "$fill_up",
    "round": "$round_robin",
    **{f"mpi{each}": str(each) for each in (1, 2, 4, 8)},
}
"""The parallel environments by name, with their allocation rules."""


def variables(folder: Folder) -> dict[str, str]:
    """Return the environment variables with which its programs find this cluster."""
    return {"SGE_ROOT": folder.sge, "SGE_CELL": "default", **_PORTS}


def files(folder: Folder, template: str) -> dict[str, str]:
    """Return the contents of the files that exist before the first start, by path. `template` is that of Debian."""
    common = f"{folder.sge}/default/common"
    bootstrap = {
        "admin_user": "none",
        "default_domain": "none",
        "ignore_fqdn": "true",
        "spooling_method": "classic",
        "spooling_lib": "libspoolc",
        "spooling_params": _spool(folder),
        "binary_path": PROGRAMS,
        "qmaster_spool_dir": f"{folder.sge}/spool",
        "security_mode": "none",
        "listener_threads": "2",
        "worker_threads": "2",
        "scheduler_threads": "1",
    }
    return {
        f"{common}/bootstrap": "".join(f"{key} {value}\n" for key, value in bootstrap.items()),
        f"{common}/act_qmaster": f"{HEAD}\n",
        f"{folder.sge}/configuration": configuration(folder, template),
    }


def directories(folder: Folder) -> list[str]:
    """Return the directories of these files and of the daemons."""
    return [f"{folder.sge}/default/common", f"{folder.sge}/spool/job_scripts", f"{folder.sge}/execd"]


LINKS = ("bin", "lib", "util", "utilbin")
"""Directories of SGE_ROOT that come with the package, in /var/lib/gridengine."""


def _spool(folder: Folder) -> str:
    return f"{folder.sge}/default/common;{folder.sge}/spool"


def configuration(folder: Folder, template: str) -> str:
    """Return the global configuration: jobs of root are allowed, and accounting is written at once."""
    own = {
        "execd_spool_dir": f"{folder.sge}/execd",
        "min_uid": "0",
        "min_gid": "0",
        "mailer": "/bin/true",
        "administrator_mail": "none",
        "load_report_time": "00:00:05",
        "reporting_params": "accounting=true reporting=false flush_time=00:00:01 accounting_flush_time=00:00:00 "
        "joblog=false sharelog=00:00:00",
    }
    for key, value in own.items():
        template = re.sub(rf"^{key}\s.*$", f"{key} {value}", template, flags=re.MULTILINE)
    return template


def initialize(folder: Folder) -> list[list[str]]:
    """Return the commands that create the database, before the first start of the qmaster."""
    resources, defaults = "/usr/share/gridengine/util/resources", f"{PROGRAMS}/spooldefaults"
    return [
        [f"{PROGRAMS}/spoolinit", "classic", "libspoolc", _spool(folder), "init"],
        [defaults, "configuration", f"{folder.sge}/configuration"],
        [defaults, "complexes", f"{resources}/centry"],
        [defaults, "usersets", f"{resources}/usersets"],
        [defaults, "managers", "root"],
    ]


def daemon(folder: Folder, program: str) -> list[str]:
    """Return the command of `qmaster` or `execd`, in the foreground."""
    words = [f"{name}={value}" for name, value in {**variables(folder), "SGE_ND": "1"}.items()]
    return ["env", *words, f"{PROGRAMS}/sge_{program}"]


def environment(name: str, rule: str) -> str:
    """Return the configuration of a parallel environment with tight integration."""
    keys = {
        "pe_name": name,
        "slots": "9999",
        "user_lists": "NONE",
        "xuser_lists": "NONE",
        "start_proc_args": "NONE",
        "stop_proc_args": "NONE",
        "allocation_rule": rule,
        "control_slaves": "TRUE",
        "job_is_first_task": "FALSE",
        "urgency_slots": "min",
        "accounting_summary": "TRUE",
        "qsort_args": "NONE",
    }
    return "".join(f"{key} {value}\n" for key, value in keys.items())


def host(name: str, shape: Shape) -> str:
    """Return the configuration of a node."""
    gpus = f",gpu={shape.gpus}" if shape.gpus else ""
    keys = {"hostname": name, "load_scaling": "NONE", "complex_values": f"slots={shape.cpus}{gpus}"}
    others = ("user_lists", "xuser_lists", "projects", "xprojects", "usage_scaling", "report_variables")
    return "".join(f"{key} {value}\n" for key, value in {**keys, **dict.fromkeys(others, "NONE")}.items())


def setup(shape: Shape) -> str:
    """Return the shell script that configures the running qmaster: nodes, a queue, parallel environments, a GPU.

    `notify` is long enough for ranks to end after SIGUSR2.
    """
    own = {
        "qname": "all.q",
        "hostlist": " ".join(shape.node_names),
        "load_thresholds": "NONE",
        "pe_list": " ".join(ENVIRONMENTS),
        "slots": str(shape.cpus),
        "shell": "/bin/bash",
        "shell_start_mode": "unix_behavior",
        "notify": "00:00:15",
    }
    lines = ["set -e", "made=$(mktemp)", 'trap "rm -f $made" EXIT']
    if shape.gpus:
        lines += ['qconf -sc >"$made"', 'echo "gpu gpu INT <= YES YES 0 0" >>"$made"', 'qconf -Mc "$made"']
    for node in shape.node_names:
        lines += _feed(host(node, shape), "-Ae")
        lines.append(f"qconf -as {node}")
    lines.append(f"qconf -as {HEAD}")
    for name, rule in ENVIRONMENTS.items():
        lines += _feed(environment(name, rule), "-Ap")
    lines.append(_edited("qconf -sq", own, "-Aq"))
    quick = {"schedule_interval": "0:0:1", "flush_submit_sec": "1", "flush_finish_sec": "1"}
    lines.append(_edited("qconf -ssconf", quick, "-Msconf"))
    return "\n".join(lines) + "\n"


def _feed(text: str, option: str) -> Sequence[str]:
    return [f'printf %s {quote(text)} >"$made"', f'qconf {option} "$made"']


def _edited(show: str, own: Mapping[str, str], option: str) -> str:
    """Return shell lines that change keys of a template and load it."""
    changes = " ".join(f"-e {quote(f's|^{key} .*|{key} {value}|')}" for key, value in own.items())
    return f'{show} | sed {changes} >"$made"\nqconf {option} "$made"'


def ready(out: str, shape: Shape) -> bool:
    """Return whether all nodes have reported, from the output of `qhost`."""
    told = {words[0]: words[2] for line in out.splitlines() if len(words := line.split()) > 2}
    return all(told.get(node, "-") != "-" for node in shape.node_names)
