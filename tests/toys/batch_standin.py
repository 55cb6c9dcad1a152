#!/usr/bin/env python3
"""Stand-ins for the programs of batch systems that cannot be had here. Each job is a process of this machine, which
plays all nodes; its files are in $BATCH_STANDIN. The program is chosen by the name under which this file is called.

They do what the manuals say, as far as muster uses it, and refuse every other option. No real one has been seen: what
passes here can still fail there.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(os.environ.get("BATCH_STANDIN", "/nonexistent"))
NODES = ("n1", "n2")
HOLD = HERE / "hold"
"""While this file exists, no job starts."""


def refuse(words: str, code: int = 1) -> None:
    """Exit with a message."""
    sys.stderr.write(words + "\n")
    sys.exit(code)


def take(words: list[str], with_value: str, without: str = "") -> tuple[list[tuple[str, str]], list[str]]:
    """Return the options at the beginning of a command line, by the names that are known, and the rest."""
    found = []
    while words and words[0].startswith("-") and words[0] != "--":
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name in without.split() and not equals:
            found.append((name, ""))
        elif name in with_value.split():
            found.append((name, value if equals else words.pop(0)))
        else:
            refuse(f"{Path(sys.argv[0]).name}: invalid option {word}", 2)
    return found, words[1:] if words[:1] == ["--"] else words


# ---- jobs ------------------------------------------------------------------------------------------------------------


def load(number: int) -> dict:
    return json.loads((HERE / f"{number}.json").read_text())


def save(job: dict) -> None:
    part = HERE / f"{job['number']}.part.{os.getpid()}"
    part.write_text(json.dumps(job))
    part.replace(HERE / f"{job['number']}.json")


def update(number: int, **fields: object) -> None:
    save({**load(number), **fields})


def all_jobs() -> list[dict]:
    return [load(int(path.stem)) for path in sorted(HERE.glob("*.json"), key=lambda path: int(path.stem))]


def submit(name: str, script: list[str], slots: list[str], output: str, env: dict, **more: object) -> int:
    """Take a job, and leave behind the process that runs it; return its number. `slots`: a host for each of them."""
    HERE.mkdir(exist_ok=True)
    number = len(list(HERE.glob("*.json"))) + 1
    job = {"number": number, "name": name, "state": "pending", "slots": slots, "code": None, "killed": False, **more}
    save({**job, "submitted": time.time(), "started": 0.0})
    if os.fork() == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        work(number, script, output, env)
        os._exit(0)
    return number


def work(number: int, script: list[str], output: str, env: dict) -> None:
    """Run a job."""
    while HOLD.exists():
        if load(number)["state"] != "pending":
            return
        time.sleep(0.05)
    if load(number)["state"] != "pending":
        return
    with open(output, "wb") as file:
        child = subprocess.Popen(
            script, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    update(number, state="running", pid=child.pid, started=time.time(), env=env)
    code = child.wait()
    update(number, state="done", code=code)


def kill(number: int) -> None:
    """SIGTERM to all processes of a job, as most batch systems do."""
    job = load(number)
    if job["state"] == "pending":
        update(number, state="done", killed=True)
    elif job["state"] == "running":
        update(number, killed=True)
        os.killpg(job["pid"], signal.SIGTERM)
    else:
        refuse(f"{number}: job has ended", 35)


def bare() -> dict:
    """The environment of a job to which the user passes none."""
    kept = ("PATH", "HOME", "USER", "LOGNAME", "BATCH_STANDIN")
    return {name: os.environ[name] for name in kept if name in os.environ}


def counted(slots: list[str]) -> dict:
    return {host: slots.count(host) for host in dict.fromkeys(slots)}


def ssh(words: list[str]) -> None:
    """A login on a node: a command with no more than a login's environment."""
    _, rest = take(words, "-o", "-T")
    host, line = rest
    if host not in NODES:
        refuse(f"ssh: Could not resolve hostname {host}", 255)
    os.execvpe("sh", ["sh", "-c", line], bare())


# ---- PBS -------------------------------------------------------------------------------------------------------------

SERVER = "pbs"


def qsub(words: list[str]) -> None:
    given, rest = take(words, "-C -N -S -j -o -r -l -q -A -P -W -M -m")
    asked = dict(given)
    resources = dict(value.partition("=")[::2] for name, value in given if name == "-l")
    if asked.get("-q", "workq") != "workq":
        refuse("qsub: Unknown queue", 170)
    count, _, chunk = resources["select"].partition(":")
    each = dict(piece.partition("=")[::2] for piece in chunk.split(":"))
    if int(count) > len(NODES):
        refuse("qsub: Job violates queue and/or server resource limits", 188)
    slots = [host for host in NODES[: int(count)] for _ in range(int(each["mpiprocs"]))]
    number = len(list(HERE.glob("*.json"))) + 1
    HERE.mkdir(exist_ok=True)
    (HERE / f"{number}.nodes").write_text("".join(f"{host}\n" for host in slots))
    env = {
        **bare(),
        "PBS_JOBID": f"{number}.{SERVER}",
        "PBS_NODEFILE": str(HERE / f"{number}.nodes"),
        "PBS_ENVIRONMENT": "PBS_BATCH",
        "PBS_O_WORKDIR": os.getcwd(),
    }
    script = [asked["-S"], *rest]
    print(f"{submit(asked['-N'], script, slots, asked['-o'], env, resources=resources)}.{SERVER}")


def of_pbs(word: str) -> int:
    number = word.partition(".")[0]
    if not (HERE / f"{number}.json").exists():
        refuse(f"qstat: Unknown Job Id {word}", 153)
    return int(number)


def qselect(words: list[str]) -> None:
    take(words, "-u")
    for job in all_jobs():
        if job["state"] != "done":
            print(f"{job['number']}.{SERVER}")


def qstat(words: list[str]) -> None:
    given, rest = take(words, "", "-f -w -x")
    jobs = [load(of_pbs(word)) for word in rest] if rest else [job for job in all_jobs() if job["state"] != "done"]
    for job in jobs:
        if job["state"] == "done" and ("-x", "") not in given:
            refuse(
                f"qstat: {job['number']}.{SERVER} Job has finished, use -x or -H to obtain historical job information",
                35,
            )
        letter = {"pending": "Q", "running": "R", "done": "F"}[job["state"]]
        print(f"Job Id: {job['number']}.{SERVER}")
        lines = {
            "Job_Name": job["name"],
            "Job_Owner": f"{os.environ.get('USER', 'root')}@head",
            "job_state": letter,
            "queue": "workq",
        }
        lines["ctime"] = lines["qtime"] = time.strftime("%a %b %d %H:%M:%S %Y", time.localtime(job["submitted"]))
        if letter == "Q":
            lines["comment"] = "Not Running: Insufficient amount of resource: ncpus"
        else:
            lines["exec_host"] = "+".join(f"{host}/0*{count}" for host, count in counted(job["slots"]).items())
            lines["stime"] = time.strftime("%a %b %d %H:%M:%S %Y", time.localtime(job["started"]))
        if letter == "F":
            lines["substate"] = "91" if job["killed"] else "92"
            if job["code"] is not None:
                lines["Exit_status"] = str(job["code"] if job["code"] >= 0 else 256 - job["code"])
        lines.update({f"Resource_List.{name}": value for name, value in job["resources"].items()})
        lines["Variable_List"] = "PBS_O_HOME=/root,PBS_O_LANG=C.UTF-8"
        print("".join(f"    {name} = {value}\n" for name, value in lines.items()))


def qdel(words: list[str]) -> None:
    for word in words:
        kill(of_pbs(word))


def pbsnodes(words: list[str]) -> None:
    take(words, "", "-av")
    for host in NODES:
        lines = {
            "Mom": host,
            "state": "free",
            "resources_available.ncpus": "8",
            "resources_available.mem": "16384000kb",
        }
        lines |= {"resources_available.ngpus": "4", "resources_assigned.ncpus": "2", "resources_assigned.ngpus": "1"}
        print(f"{host}\n" + "".join(f"     {name} = {value}\n" for name, value in lines.items()))


def pbs_tmrsh(words: list[str]) -> None:
    job, host = load(of_pbs(os.environ["PBS_JOBID"])), words[0]
    if host not in job["slots"]:
        refuse(f'pbs_tmrsh: host "{host}" is not a node in job <{os.environ["PBS_JOBID"]}>', 255)
    os.execvpe(words[1], words[1:], job["env"])


# ---- LSF -------------------------------------------------------------------------------------------------------------


def bsub(words: list[str]) -> None:
    given, rest = take(words, "-J -o -n -R -gpu -W -q -P -m -w -u", "-rn -x")
    asked = dict(given)
    if asked.get("-q", "normal") != "normal":
        refuse(f"{asked['-q']}: No such queue. Job not submitted.", 255)
    needs = [value for name, value in given if name == "-R" and value.startswith("span[ptile=")]
    each = int(needs[0][len("span[ptile=") : -1]) if needs else int(asked["-n"])
    hosts = NODES[: -(-int(asked["-n"]) // each)]
    slots = [host for host in hosts for _ in range(each)]
    number = len(list(HERE.glob("*.json"))) + 1
    env = {**os.environ, "LSB_JOBID": str(number)}
    env["LSB_MCPU_HOSTS"] = " ".join(f"{host} {count}" for host, count in counted(slots).items())
    submit(asked["-J"], rest, slots, asked["-o"].replace("%J", str(number)), env)
    print(f"Job <{number}> is submitted to default queue <normal>.")


def lsf_time(seconds: float) -> str:
    return time.strftime("%b %d %H:%M:%S %Y", time.localtime(seconds)) if seconds else "-"


def bjobs(words: list[str]) -> None:
    given, rest = take(words, "-o -u", "-a -json")
    jobs = [job for job in all_jobs() if ("-a", "") in given or rest or job["state"] != "done"]
    jobs = [job for job in jobs if not rest or str(job["number"]) in rest]
    if not jobs:
        refuse("No unfinished job found", 255)
    rows = []
    for job in jobs:
        state = {"pending": "PEND", "running": "RUN", "done": "DONE" if job["code"] == 0 else "EXIT"}[job["state"]]
        hosts = ":".join(f"{count}*{host}" for host, count in counted(job["slots"]).items())
        rows.append(
            {
                "JOBID": str(job["number"]),
                "STAT": state,
                "USER": "root",
                "QUEUE": "normal",
                "JOB_NAME": job["name"],
                "EXEC_HOST": "" if state == "PEND" else hosts,
                "PEND_REASON": "Job slot limit reached: 2 hosts;" if state == "PEND" else "",
                "SUBMIT_TIME": lsf_time(job["submitted"]),
                "START_TIME": lsf_time(job["started"]),
                "RUNTIMELIMIT": "",
                "EXIT_REASON": "TERM_OWNER: job killed by owner" if job["killed"] else "",
            }
        )
    print(json.dumps({"COMMAND": "bjobs", "JOBS": len(rows), "RECORDS": rows}, indent=2))


def bkill(words: list[str]) -> None:
    for word in words:
        kill(int(word))


def bhosts(words: list[str]) -> None:
    given, _ = take(words, "-o", "-json")
    known = "host_name status max njobs comments ngpus ngpus_alloc total_mem"
    if not set(dict(given)["-o"].split()) <= set(known.split()):
        refuse("bhosts: unknown field", 255)
    row = {
        "STATUS": "ok",
        "MAX": "8",
        "NJOBS": "2",
        "COMMENTS": "",
        "NGPUS": "4",
        "NGPUS_ALLOC": "1",
        "TOTAL_MEM": "16 G",
    }
    print(json.dumps({"COMMAND": "bhosts", "HOSTS": 2, "RECORDS": [{"HOST_NAME": host, **row} for host in NODES]}))


def blaunch(words: list[str]) -> None:
    _, rest = take(words, "", "-n")
    assert "-no-shell" == rest.pop(1), "a shell would split the words again"
    job = load(int(os.environ["LSB_JOBID"]))
    if rest[0] not in job["slots"]:
        refuse(f"blaunch: host {rest[0]} is not allocated to the job", 255)
    os.execvpe(rest[1], rest[1:], {**bare(), "LSB_JOBID": os.environ["LSB_JOBID"]})


# ---- Flux ------------------------------------------------------------------------------------------------------------

LETTERS = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
FIRST = 1 << 40
"""What is added to a number: ids of Flux are large."""


def f58(number: int) -> str:
    number, text = number + FIRST, ""
    while number:
        number, rest = divmod(number, 58)
        text = LETTERS[rest] + text
    return f"ƒ{text}"


def of_flux(word: str) -> int:
    if word.isdigit():
        return int(word)  # for the test, which knows numbers
    number = 0
    for letter in word[1:]:
        number = number * 58 + LETTERS.index(letter)
    return number - FIRST


def flux(words: list[str]) -> None:
    """In a job a command is about the job itself, unless it has --parent."""
    parent = words[0] == "--parent"
    words = words[1:] if parent else words
    inside = os.environ.get("FLUX_ENCLOSING_ID", "")
    if parent and not inside:
        refuse("flux: no parent instance", 1)
    job = load(of_flux(inside)) if inside and not parent else None
    {
        "batch": flux_batch,
        "jobs": flux_jobs,
        "cancel": flux_cancel,
        "resource": flux_resource,
        "hostlist": flux_hostlist,
        "exec": flux_exec,
        "proxy": flux_proxy,
    }[words[0]](words[1:], job)


def flux_batch(words: list[str], job: object) -> None:
    with_value = (
        "--job-name --output --nodes --nslots --cores-per-slot --gpus-per-slot --time-limit --queue --dependency"
    )
    given, rest = take(words, with_value)
    asked = dict(given)
    if asked.get("--queue", "batch") != "batch":
        refuse("flux-batch: ERROR: [Errno 22] Invalid queue 'x' specified", 1)
    hosts = list(NODES[: int(asked["--nodes"])])
    number = len(list(HERE.glob("*.json"))) + 1
    env = {**os.environ, "FLUX_ENCLOSING_ID": f58(number), "FLUX_URI": f"local:///run/{number}"}
    output = asked["--output"].replace("{{id.f58plain}}", f58(number).replace("ƒ", "f"))
    submit(asked["--job-name"], ["bash", *rest], hosts, output, env)
    print(f58(number))


def flux_jobs(words: list[str], inside: object) -> None:
    if inside:
        refuse("this stand-in has no jobs in jobs", 1)
    given, rest = take(words, "--count", "-a -A --json")
    jobs = [load(of_flux(word)) for word in rest] if rest else all_jobs()
    if not rest and ("-a", "") not in given:
        jobs = [job for job in jobs if job["state"] != "done"]
    rows = []
    for job in jobs:
        row = {
            "id": job["number"] + FIRST,
            "jobid": f58(job["number"]),
            "name": job["name"],
            "username": "root",
            "queue": "batch",
        }
        row |= {"t_submit": job["submitted"], "nnodes": len(job["slots"]), "urgency": 16}
        row["state"] = {"pending": "SCHED", "running": "RUN", "done": "INACTIVE"}[job["state"]]
        if job["started"]:
            row |= {"t_run": job["started"], "nodelist": "n[1-2]"}
        if job["state"] == "done":
            row["result"] = "CANCELED" if job["killed"] else "FAILED" if job["code"] else "COMPLETED"
        rows.append(row)
    print(json.dumps(rows[0] if rest else {"jobs": rows}))


def flux_cancel(words: list[str], inside: object) -> None:
    for word in words:
        kill(of_flux(word))


def flux_resource(words: list[str], inside: object) -> None:
    given, _ = take(words[1:], "-s -o", "-n")
    if dict(given)["-o"] != "{state}|{queue}|{nnodes}|{ncores}|{ngpus}|{nodelist}":
        refuse("flux-resource: unknown format", 1)
    print("free|batch|2|12|6|n[1-2]\nallocated|batch|2|4|2|n[1-2]\ndown|batch|0|0|0|")


def flux_hostlist(words: list[str], inside: dict | None) -> None:
    given, rest = take(words, "-F", "-e")
    if rest != ["instance"] or inside is None:
        refuse(f"flux-hostlist: unknown source {rest}", 1)
        return
    find = dict(given).get("-F")
    print(inside["slots"].index(find) if find else " ".join(inside["slots"]))


def flux_exec(words: list[str], inside: dict | None) -> None:
    given, rest = take(words, "-r", "-n")
    if inside is None:
        refuse("flux-exec: no parent instance", 1)
        return
    host = inside["slots"][int(dict(given)["-r"])]
    assert host in NODES
    os.execvpe(
        rest[0], rest, {**bare(), "FLUX_URI": os.environ["FLUX_URI"], "FLUX_ENCLOSING_ID": f58(inside["number"])}
    )


def flux_proxy(words: list[str], inside: object) -> None:
    job = load(of_flux(words[0]))
    if job["state"] != "running":
        refuse(f"flux-proxy: ERROR: job {words[0]} is inactive", 1)
    env = {**os.environ, "FLUX_ENCLOSING_ID": f58(job["number"]), "FLUX_URI": f"local:///run/{job['number']}"}
    os.execvpe(words[1], words[1:], env)


if __name__ == "__main__":
    globals()[Path(sys.argv[0]).name.replace("-", "_")](sys.argv[1:])
