"""Doctor's checks of storage: directories, free space and temporary files. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from muster.diagnostics.findings import GIB, ClusterFacts, Finding


def free_space(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find directories that hang, are not writable, or are nearly full."""
    for host, facts in cluster.facts.items():
        for path, told in facts["folders"].items():
            if "hangs" in told or told.get("seconds", 0.0) > 2.0:
                yield Finding(
                    "error",
                    host,
                    f"writing in {path} hangs",
                    "logs and checkpoints stop, and whoever writes cannot be ended",
                    "see the file server; `dmesg` there",
                )
            elif "error" in told:
                yield Finding("error", host, f"{path}: {told['error']}", "ranks read and write there", "mount it")
            elif not told["writes"]:
                why, full = told.get("why", ""), told.get("full", False)
                do = "free some space there" if full else "choose another folder: --run-dir, --cwd"
                # code may be in a read-only directory; run directories may not
                level = "warning" if path == cluster.folder and not full else "error"
                yield Finding(level, host, f"cannot write in {path}: {why}", "ranks read and write there", do)
            elif told["free"] < GIB:
                yield Finding(
                    "warning",
                    host,
                    f"{path} has {told['free'] // (1 << 20)} MiB left",
                    "a checkpoint that finds no room is lost",
                    "free some space there",
                )
            elif told["files"] is not None and told["files"] < 10000:
                yield Finding("warning", host, f"{path} has room for {told['files']} files", "as above", "delete some")


def temporary_files(cluster: ClusterFacts) -> Iterator[Finding]:
    """Check the temporary directories: external launchers use a file there, with the same path on all hosts."""
    why = "launchers of others (torchrun, mpirun, …) are given a file there; compilers and workers want it too"
    usable = {host: facts["temporary"] for host, facts in cluster.facts.items() if "temporary" in facts}
    for host, found in usable.items():
        if not found:
            do = "free some space in /tmp, or name another one by TMPDIR"
            yield Finding("error", host, "no temporary directory can be written: /tmp, /var/tmp, /dev/shm", why, do)
        elif "/tmp" not in found:
            do = "free some space there, or see how it is mounted: `findmnt /tmp`"
            yield Finding("warning", host, f"/tmp cannot be written; {found[0]} is used instead", why, do)
    if len(usable) > 1 and all(usable.values()) and not set.intersection(*map(set, usable.values())):
        host = next(iter(usable))
        yield Finding("error", host, "no temporary directory can be written on all hosts", why, "TMPDIR, alike on all")


def directories(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find directories that are missing or not shared on some hosts."""
    for host, facts in cluster.facts.items():
        told = facts["folders"].get(cluster.folder, {})
        if told.get("there") is False:
            yield Finding(
                "error", host, f"there is no folder {cluster.folder}", "the ranks start there", "`--sync`, or mount it"
            )
    sharing = {host: bool(facts["shared"]) for host, facts in cluster.facts.items()}
    for host, shares in sharing.items():
        if not shares and any(sharing.values()):
            yield Finding(
                "warning",
                host,
                "it does not share the folder of runs, and others do",
                "a shared folder that is not mounted there: checkpoints and data are missing too",
                "`mount` there, or `--run-dir`",
            )
