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
                    f"writing to {path} hangs",
                    "logs and checkpoints stop, and writing processes cannot be killed",
                    "check the file server, and `dmesg` on the host",
                )
            elif "error" in told:
                yield Finding("error", host, f"{path}: {told['error']}", "ranks read and write there", "mount it")
            elif not told["writes"]:
                why, full = told.get("why", ""), told.get("full", False)
                do = "free some space there" if full else "choose another directory: --run-dir, --cwd"
                # code may be in a read-only directory; run directories may not
                level = "warning" if path == cluster.folder and not full else "error"
                yield Finding(level, host, f"cannot write to {path}: {why}", "ranks read and write there", do)
            elif told["free"] < GIB:
                yield Finding(
                    "warning",
                    host,
                    f"{told['free'] // (1 << 20)} MiB free in {path}",
                    "a checkpoint that does not fit is lost",
                    "free some space there",
                )
            elif told["files"] is not None and told["files"] < 10000:
                yield Finding(
                    "warning",
                    host,
                    f"{told['files']} free inodes in {path}",
                    "a checkpoint that does not fit is lost",
                    "delete some files there",
                )


def temporary_files(cluster: ClusterFacts) -> Iterator[Finding]:
    """Check the temporary directories: external launchers use a file there, with the same path on all hosts."""
    why = "external launchers (torchrun, mpirun, …), compilers and workers need it"
    usable = {host: facts["temporary"] for host, facts in cluster.facts.items() if "temporary" in facts}
    for host, found in usable.items():
        if not found:
            do = "free some space in /tmp, or set TMPDIR"
            yield Finding("error", host, "no writable temporary directory: /tmp, /var/tmp, /dev/shm", why, do)
        elif "/tmp" not in found:
            do = "free some space there, or check how it is mounted with `findmnt /tmp`"
            yield Finding("warning", host, f"/tmp is full or not writable, using {found[0]}", why, do)
    if len(usable) > 1 and all(usable.values()) and not set.intersection(*map(set, usable.values())):
        host = next(iter(usable))
        do = "set the same TMPDIR on all hosts"
        yield Finding("error", host, "no temporary directory that is writable on all hosts", why, do)


def directories(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find directories that are missing or not shared on some hosts."""
    for host, facts in cluster.facts.items():
        told = facts["folders"].get(cluster.folder, {})
        if told.get("there") is False:
            yield Finding(
                "error",
                host,
                f"directory not found: {cluster.folder}",
                "ranks start there",
                "use `--sync`, or mount it",
            )
    sharing = {host: bool(facts["shared"]) for host, facts in cluster.facts.items()}
    for host, shares in sharing.items():
        if not shares and any(sharing.values()):
            yield Finding(
                "warning",
                host,
                "the run directory is not shared with this host, but with others",
                "a shared file system is not mounted there: checkpoints and data are missing too",
                "mount it, or use --run-dir",
            )
