"""Every exported form as text: goldens, quoting, what shellcheck says, secrets, and what is not expressed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Callable

import pytest
from kubernetes_schemas import JOBSET, TRAINJOB

from muster.config.options import RUN, RunOptions
from muster.core.layout import layout
from muster.core.model import Host, Job, Program
from muster.errors import InvalidRequest
from muster.export import _ALL, EXPORTS, check, dropped, text_of
from muster.export._shell import quote
from muster.export.wanted import Batch, Wanted
from muster.runtimes.container import ContainerOptions
from muster.schedulers import SCHEDULERS, options_of

WORDS = ("--lr", "0.1", 'it\'s "so"', "a b", "$HOME `date` $(x)", "two\nlines", "größe", "*", "", "\\n", "#x", "!!")
JOB = Job(
    program=Program("script", ("train.py", "--lr", "0.1", "a b")),
    launcher="fork",
    python="/venv/bin/python",
    python_source="",
    cwd="/home/ann/my work",
    transport="ssh",
    env={"HF_HOME": "/data/hf", "NCCL_DEBUG": "WARN", "HF_TOKEN": "hf_secret", "NAME": "it's"},
)
NODES = layout([(Host("n1", user="ann"), 2), (Host("n2"), 2)])
WANTED = Wanted(
    JOB, NODES, "train", "muster export …", "1.0", chosen=("HF_TOKEN", "NAME"), hosts=True, image="repo/img"
)
SLURM = WANTED._replace(
    job=JOB._replace(scheduler="slurm", transport="step"),
    hosts=False,
    batch=Batch((("partition", "gpu"), ("time", "1:00:00"), ("gpus-per-node", "2"), ("cpus-per-task", "4"))),
)
HERE = WANTED._replace(nodes=NODES[:1], hosts=False, job=JOB._replace(transport="local", env={}), chosen=())


def _forms() -> dict[str, tuple[str, Wanted]]:
    found = {}
    for kind, row in EXPORTS.items():
        for source in row.nodes:
            name = f"{kind}-on-{source}" if len(row.nodes) > 1 else kind
            found[name] = (kind, WANTED if source == "hosts" else SLURM)
    return {
        **found,
        "bash-here": ("bash", HERE),
        "mpirun-here": ("mpirun", HERE),
        "accelerate-here": ("accelerate", HERE),
    }


FORMS = _forms()
SHELL = [name for name, (kind, _) in FORMS.items() if kind not in ("submitit", "ray", "kubernetes", "jobset")]
HARD = {
    name: wanted._replace(
        job=wanted.job._replace(
            program=Program("script", ("dir with $x/it's.py", *WORDS)),
            env={"TEXT": "one\ntwo $HOME 'x'", "EMPTY": "", "API_KEY": "k"},
            cwd="/tmp/a 'b' $c",
        ),
        chosen=("TEXT", "EMPTY", "API_KEY"),
    )
    for name, (_, wanted) in FORMS.items()
}


@pytest.mark.parametrize("name", FORMS)
def test_text(name: str, golden: Callable[..., None]):
    kind, wanted = FORMS[name]
    golden(f"export-{name}.txt", text_of(kind, wanted))


@pytest.mark.parametrize("name", FORMS)
def test_no_secret_is_written_but_its_name_is(name: str):
    kind, wanted = FORMS[name]
    text = text_of(kind, wanted)
    assert "hf_secret" not in text
    assert ("HF_TOKEN" in text) == ("HF_TOKEN" in wanted.job.env)


@pytest.mark.parametrize("name", SHELL)
def test_shellcheck_has_nothing_to_say(name: str):
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    for wanted in (FORMS[name][1], HARD[name]):
        text = text_of(FORMS[name][0], wanted)
        done = subprocess.run(["shellcheck", "-s", "bash", "-"], input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + text


@pytest.mark.parametrize("name", SHELL)
def test_lint_has_nothing_to_say(name: str, muster: Any, tmp_path: Path):
    kind, wanted = FORMS[name]
    (tmp_path / "job.sh").write_text(text_of(kind, wanted))
    done = muster("lint", "job.sh")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", ["submitit", "ray"])
def test_python_is_valid_and_has_the_very_arguments(kind: str):
    text = text_of(kind, HARD[kind])
    compile(text, kind, "exec")
    assert all(repr(word) in text for word in WORDS)


@pytest.mark.parametrize(("kind", "schema"), [("kubernetes", TRAINJOB), ("jobset", JOBSET)])
def test_manifests_fit_their_schema(kind: str, schema: dict[str, object]):
    yaml, jsonschema = pytest.importorskip("yaml"), pytest.importorskip("jsonschema")
    for wanted in (
        FORMS[kind][1],
        HARD[kind],
        FORMS[kind][1]._replace(job=JOB._replace(scheduler="slurm", timeout=60)),
    ):
        jsonschema.validate(yaml.safe_load(text_of(kind, wanted)), schema)


def test_a_manifest_runs_the_very_arguments():
    yaml = pytest.importorskip("yaml")
    wanted = HARD["kubernetes"]
    trainer = yaml.safe_load(text_of("kubernetes", wanted))["spec"]["trainer"]
    shell = trainer["command"][-1].replace("$$(", "$(").replace(wanted.job.cwd, "/")
    # in place of the interpreter a program that prints its arguments, and in place of the directory one that exists
    shell = shell.replace("cd -- " + quote(wanted.job.cwd), "cd /").replace(
        "exec python -m torch.distributed.run", "exec printf '%s\\0'"
    )
    done = subprocess.run(["bash", "-ec", shell], capture_output=True, text=True)
    assert done.stdout.split("\0")[:-1] == list(wanted.job.program.argv)
    assert {"name": "TEXT", "value": "one\ntwo $HOME 'x'"} in trainer["env"]


@pytest.mark.parametrize("word", [*WORDS, "\udcff\x01", "\u200b'", "-n", "~", "a=~", "{a,b}", "\t", "'", "''"])
def test_quoting(word: str):
    done = subprocess.run(
        ["bash", "-c", f"printf %s {quote(word)}"],
        capture_output=True,
        env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
    )
    assert done.stdout == word.encode(errors="surrogateescape")
    assert "\n" not in quote(word)


def test_every_option_is_expressed_or_has_a_reason():
    for kind, row in EXPORTS.items():
        options = RunOptions(("argv", {option.key: "x" for option in RUN}))
        told = "\n".join(dropped(row, options))
        for option in RUN:
            assert (option in row.expresses or option in _ALL) != (f"{option.long_name}: " in told), (kind, option.key)


def test_no_reason_is_a_default():
    told = dropped(EXPORTS["bash"], RunOptions(("argv", {option.key: "x" for option in RUN})))
    vague = {line.partition(":")[0] for line in told if line.endswith("nothing like it")}
    # options that are errors, or that only a scheduler has
    errors = {
        "--wrap",
        "--on",
        "--sweep",
        "--array",
        "--chain",
        "--max-parallel",
        "--all-roles",
        "--virtual-local-rank",
    }
    assert vague <= errors | {
        option.long_name
        for table in (*(options_of(name).run.table for name in SCHEDULERS), ContainerOptions.table)
        for option in table
    }


def test_containers():
    job = SLURM.job._replace(runtime="pyxis", runtime_value="img:1", mounts=("/data:/data",), python="python3")
    text = text_of("srun", SLURM._replace(job=job))
    assert "--container-image=img:1 '--container-mounts=/home/ann/my work:/home/ann/my work,/data:/data'" in text
    with pytest.raises(InvalidRequest, match="--container img: `muster export bash` starts no container"):
        check("bash", RunOptions(("argv", {"container": "img"})))
    check("jobset", RunOptions(("argv", {"container": "img"})))
    check("sbatch", RunOptions(("argv", {"container": "img", "container_runtime": "pyxis"})))


def test_defaults_and_what_is_off_is_not_reported():
    assert dropped(EXPORTS["bash"], RunOptions(("argv", {"sync": False}))) == ()


@pytest.mark.parametrize(
    ("kind", "given", "says"),
    [
        ("sbatch", {"hosts": "n1"}, "takes no hosts: Slurm"),
        ("jobset", {"hosts": "n1"}, "takes no hosts: the cluster"),
        ("bash", {"sweep": ("lr=1,2",)}, "--sweep: `muster export bash` writes one run"),
        ("bash", {"slurm": True}, "writes nothing for Slurm"),
        ("bash", {"wrap": "nsys -o {rank}"}, "--wrap nsys -o {rank}: "),
        ("bash", {"launcher": "accelerate"}, "starts ranks with torchrun"),
    ],
)
def test_what_cannot_be_expressed_is_an_error(kind: str, given: dict[str, object], says: str):
    with pytest.raises(InvalidRequest, match=says.replace("{", "\\{")) as error:
        check(kind, RunOptions(("argv", given)))
    assert error.value.hint


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"program": Program("script", ("t.py", "--api-key", "s3cret"))}, "argument --api-key: it holds a secret"),
        ({"program": Program("script", ("t.py", "https://ann:pw@host/x"))}, "it holds a secret"),
        ({"setup": ("export HF_TOKEN=s3cret",)}, "--setup: a line holds a secret"),
        ({"program": Program("function", ("m:f",))}, "a function cannot be exported"),
        ({"program": Program("script", ("x",), source="print()")}, "from stdin"),
    ],
)
def test_secrets_in_arguments_are_an_error(change: dict[str, object], says: str):
    with pytest.raises(InvalidRequest, match=says) as error:
        text_of("bash", WANTED._replace(job=JOB._replace(**change)))
    assert "s3cret" not in str(error.value)


def test_nodes_with_different_numbers_of_ranks():
    uneven = WANTED._replace(nodes=layout([(Host("n1"), 2), (Host("n2"), 1)]))
    with pytest.raises(InvalidRequest, match="same number of ranks"):
        text_of("bash", uneven)
    assert "hosts=n1:2,n2:1" in text_of("mpirun", uneven)
    assert "'n1 slots=2' 'n2 slots=1'" in text_of("deepspeed", uneven)


def test_settings_of_single_hosts():
    nodes = layout([(Host("n1", gpus=("2", "3"), python="/opt/py"), 2), (Host("n2", setup=("module load a",)), 2)])
    text = text_of("bash", WANTED._replace(nodes=nodes))
    assert "CUDA_VISIBLE_DEVICES=2,3" in text and "python=/opt/py" in text and "module load a" in text


def test_command_line(tmp_path, muster):  # type: ignore[no-untyped-def]
    (tmp_path / "train.py").write_text("")
    done = muster("export", "bash", "-g", "2", "--hang-timeout", "1h", "--env", "HF_TOKEN=abc123", "train.py", "a b")
    assert done.returncode == 0, done.stderr
    assert "warning: not in this form: --hang-timeout: only muster watches" in done.stderr
    assert "# Not in this form: --hang-timeout" in done.stdout and "abc123" not in done.stdout
    done = muster("export", "sbatch", "-N2", "--gpus-per-node=4", "-o", "job.sh", "train.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "--nproc-per-node=4" in (tmp_path / "job.sh").read_text()
    assert (tmp_path / "job.sh").stat().st_mode & 0o111
    for words in (["export"], ["export", "slurm", "train.py"], ["export", "jobset", "-N2", "-g2", "train.py"]):
        done = muster(*words)
        assert (
            done.returncode and "error: " in done.stderr and "hint: " in done.stderr and "Traceback" not in done.stderr
        )


def test_yaml_scalars():
    yaml = pytest.importorskip("yaml")
    from muster.export._yaml import dump

    value = {
        "a": ["yes", "1", "1e3", "0x1", "~", "a: b", "- x", "é", "", " ", "on", "2026-01-01", None, True, 1, {"b": []}]
    }
    assert yaml.safe_load("\n".join(dump(value))) == json.loads(json.dumps(value))
