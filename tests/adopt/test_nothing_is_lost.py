"""`muster adopt`: a line that is not the whole launch says so, with the line of the script; secrets are in nothing."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from muster.adopt.files import adopt_file
from muster.adopt.text import as_json, in_words

RUN = "torchrun --standalone --nproc_per_node=2 t.py"
JOB = "#!/bin/bash\n#SBATCH --nodes=2 --ntasks-per-node=4\n"


def adopted(text: str, name: str = "x.sh", **files: str) -> Any:
    return adopt_file(name, text, lambda path: files.get(path.partition(".")[0]))


def line_of(text: str, **files: str) -> str:
    (launch,) = as_json(adopted(text, **files))["launches"]
    return str(launch["command"])


def said(text: str, **files: str) -> list[tuple[int, str]]:
    """The remarks that are no comment on the whole file: (line, sentence)."""
    found = adopted(text, **files)
    return [(remark.line, remark.says) for remark in (*found.changed, *found.unused, *found.unknown)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"for lr in 0.1 0.01; do\n{RUN} --lr $lr\ndone", "muster run -g 2 --sweep lr=0.1,0.01 t.py --lr '{lr}'"),
        (
            f"for s in 1e-3 'a b'; do {RUN} --out=run-$s; done",
            "muster run -g 2 --sweep 's=[\"1e-3\", \"a b\"]' t.py '--out=run-{s}'",
        ),
        (
            f"for s in 1 2; do export SEED=$s; {RUN}; done",
            "muster run -g 2 --sweep s=1,2 --env 'SEED={s}' t.py",
        ),
        (f"for s in 1 2; do O=out/$s; {RUN} --o $O; done", "muster run -g 2 --sweep s=1,2 t.py --o 'out/{s}'"),
        (
            (
                "#!/bin/bash\n#SBATCH -N 2 --ntasks-per-node=1\n"
                "for s in 1 2; do srun torchrun --nproc_per_node=2 t.py $s; done"
            ),
            "muster run --slurm -N 2 -g 2 --sweep s=1,2 t.py '{s}'",
        ),
        (f"for s in $(seq 3); do {RUN} $s; done", "muster run -g 2 --sweep s=1,2,3 t.py '{s}'"),
        (f"for s in {{2..3}}; do {RUN} $s; done", "muster run -g 2 --sweep s=2,3 t.py '{s}'"),
        (f'L=(1 2)\nfor s in "${{L[@]}}"; do {RUN} $s; done', "muster run -g 2 --sweep s=1,2 t.py '{s}'"),
        (f"exec {RUN} --a b", "muster run -g 2 t.py --a b"),
        (JOB + "srun bash -c 'RANK=$SLURM_PROCID exec python t.py'", "muster run --slurm -N 2 -g 4 t.py"),
        (JOB + "srun -N1 -n1 python t.py", "muster run --slurm -N 1 -g 1 t.py"),
        (JOB + "srun -n1 python t.py", "muster run --slurm -N 1 -g 1 t.py"),
        (JOB + "srun -n 6 python t.py", "muster run --slurm -N 2 -g 3 t.py"),
        (JOB + "srun -n 3 python t.py", "muster run --slurm -N 2 -n 3 t.py"),
        (JOB + "srun --ntasks-per-node=2 python t.py", "muster run --slurm -N 2 -g 2 t.py"),
        (JOB + "srun -N1 -n1 torchrun --nproc_per_node=2 t.py", "muster run --slurm -N 1 -g 2 t.py"),
        (
            JOB + "for i in 0 1; do srun -N1 -n1 -w ${N[$i]} torchrun --nnodes=2 --node_rank=$i t.py & done; wait",
            "muster run --slurm -N 2 -g 1 t.py",
        ),
        (
            "srun -p gpu -t 1:00 -J j --gres=gpu:2 -N 2 --ntasks-per-node=2 python t.py",
            "muster run --slurm -N 2 -g 2 --partition gpu --time 1:00 --name j --gres gpu:2 t.py",
        ),
        (f"cd -- /data\n{RUN}", "muster run -g 2 --cwd /data t.py"),
        (f"cd /data; cd sub\n{RUN}", "muster run -g 2 --cwd /data/sub t.py"),
        (f"(cd /data; ls)\n{RUN}", "muster run -g 2 t.py"),
        (f'cd "$(dirname "$0")"/../x\n{RUN}', "muster run -g 2 --cwd ../x t.py"),
        (
            f"cd $(git rev-parse --show-toplevel)/a\n{RUN}",
            'muster run -g 2 --cwd "$(git rev-parse --show-toplevel)/a" t.py',
        ),
        (f"nohup {RUN} > log &", "muster run -g 2 --detach t.py"),
        (
            "#!/bin/bash\n#SBATCH -N 1 --export=ALL,LR=0.1\nsrun python t.py",
            "muster run --slurm -N 1 -g 1 --env LR=0.1 t.py",
        ),
        (
            "for h in a b; do ssh u@$h 'cd /x; torchrun --nnodes 2 t.py' & done; wait",
            "muster run --hosts u@a,u@b -g 1 --cwd /x t.py",
        ),
        (
            "for h in $(cat hf); do ssh -n $h 'cd /x; torchrun --nnodes 2 t.py' & done; wait",
            "muster run --hostfile hf -N 2 -g 1 --cwd /x t.py",
        ),
        (
            "for h in `cat hf`; do ssh -n $h 'cd /x; torchrun --nnodes 2 t.py' & done; wait",
            "muster run --hostfile hf -N 2 -g 1 --cwd /x t.py",
        ),
        (f"env -u B A=1 {RUN}", "muster run -g 2 --env A=1 t.py"),
        (f"sudo -u bob A=1 {RUN}", "muster run -g 2 --env A=1 -- sudo -u bob A=1 python t.py"),
        (
            f"export K_TOKEN=$(cat k)\n{RUN} --hf_token=$K_TOKEN --x",
            "muster run -g 2 --setup 'export K_TOKEN=$(cat k)' t.py --hf_token=$(cat k) --x",
        ),
        ("mpiexec.hydra -n 2 -genvlist A,MASTER_ADDR python t.py", "muster run -n 2 --launcher mpirun --env A t.py"),
    ],
)
def test_the_line_is_the_launch(text: str, expected: str):
    assert line_of(text) == expected


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (
            f"for lr in $(cat lrs); do\n{RUN} $lr\ndone",
            1,
            "in a loop, one after the other; the line is one pass of it: write",
        ),
        (
            f"\nfor g in 0,1 2,3; do\nCUDA_VISIBLE_DEVICES=$g {RUN} &\ndone\nwait",
            2,
            "at the same time; the line is one",
        ),
        (f"for s in 1 2; do\n{RUN}\ndone", 1, "in a loop, one after the other; the line is one pass of it"),
        (f"for s in 1 2; do export CUDA_VISIBLE_DEVICES=$(f $s)\n{RUN}; done", 1, "write a value in place of $s"),
        (f"while read -r lr; do\n{RUN} $lr\ndone < lrs.txt", 1, "write a value in place of $lr"),
        (f"for h in a b; do for s in 1 2; do ssh $h '{RUN}' $s; done; done", 1, "a run of its own on each host"),
        (f"go() {{\n{RUN} $1\n}}\nfor s in *.yaml; do go $s; done", 4, "in a loop"),
        (f'if [ "$1" = big ]; then\n{RUN}\nfi', 1, "only on a condition"),
        (f"case $1 in a)\n{RUN};; esac", 1, "only on a condition"),
        (f"[ -f x ] && {RUN}", 1, "only on a condition"),
        (f"N=$1\n{RUN} --n $N", 2, '"$1": the arguments of the script'),
        (f"read N\n{RUN} --n $N", 2, "$N: set by the script"),
        (f"read N\nexport M=x$N\n{RUN}", 3, "$N: set by the script"),
        (f"{RUN} > out.log 2>&1", 1, "> out.log: not taken over"),
        (f"env -u B A=1 {RUN}", 1, "env --unset B: not taken over"),
        (f'cd "${{2:-sub}}"\n{RUN}', 2, "${2:-sub}: its default is in the line"),
        (f"ssh n1 'pkill torchrun'\n{RUN}", 1, "run it before"),
        ("ssh $H 'cd /x; torchrun t.py'", 1, "ssh $H: the host is not known from this script; add --hosts"),
        (f"export HF_TOKEN={'x' * 9}\n{RUN}\n{RUN}", 1, "set it where you start muster"),
        (f"cd /x && {RUN} > out.log", 1, "> out.log: not taken over"),
        ("ssh n1 'cd /x && nohup torchrun t.py > out.log 2>&1 &'", 1, "> out.log: not taken over"),
        (f"N=${{1:-2}}\n{RUN} --n $N", 2, "${1:-2}: its default is in the line"),
        (f"{RUN} --n ${{N:-2}}", 1, "${N:-2}: its default is in the line"),
        (f"./prepare.sh\n{RUN}", 1, "`muster adopt ./prepare.sh` reads it"),
        ("bash go.sh", 1, "`muster adopt go.sh` reads it"),
        ("#!/bin/bash\n#SBATCH -N 2\n#SBATCH hetjob\n#SBATCH -N 1\nsrun python t.py", 3, "a job of several components"),
        (f"{RUN} 2>&1 | tee out.log", 1, "| tee: not taken over"),
        (f"{RUN} < data", 1, "< data: not taken over"),
        (JOB + "srun --output=rank-%t.log --cpu-bind=none python t.py", 3, "srun --output=rank-%t.log: not taken over"),
        (
            JOB + "srun --output=rank-%t.log --cpu-bind=none python t.py",
            3,
            "srun --cpu-bind=none: an option of the step",
        ),
        ("#!/bin/bash\n#SBATCH -N 1 --requeue\nsrun python t.py", 2, "a number of times, here 10"),
        ("mpirun -np 2 -x PATH --bind-to core python t.py", 1, "-x PATH: not taken over"),
        ("mpirun -np 2 -x PATH --bind-to core python t.py", 1, "--bind-to core: not taken over"),
        ("torchrun --rdzv-conf=timeout=9 t.py", 1, "--rdzv-conf timeout=9: not taken over"),
        ("ssh n1 torchrun t.py", 1, "home directory of the host"),
        ("ssh -p 2222 n1 'cd /x; torchrun t.py'", 1, "ssh -p 2222: not taken over"),
        ("accelerate launch --config_file a.yaml t.py", 1, "a.yaml is not here to be read"),
        (f"{RUN}\nssh n1 rm -rf /tmp/x", 2, "it comes after it"),
        (f"mkdir -p out\n{RUN}", 1, "run it before, if the ranks need the directory"),
        (f"cat > conf.yaml <<EOF\nx\nEOF\n{RUN}", 1, "it writes conf.yaml: run it before"),
        (f"setup() {{\n module load cuda\n}}\n{RUN}", 2, "it is in a function that is not called"),
        ("if x; then\nsource a.sh\nfi\n" + RUN, 2, "only on a condition in the script"),
        (f"go() {{\n{RUN} $1\n}}\ngo a\ngo b", 2, "go is called 2 times (lines 4, 5); the line is one call"),
        (f"go() {{\n{RUN} $1\n}}\ngo a\ngo b", 2, '"$1": the arguments of go'),
        (f"until {RUN}; do\nsleep 9\ndone", 1, "in a loop"),
        (
            "for r in 0 1; do\nRANK=$r python t.py &\ndone\nwait",
            1,
            "each pass of the loop is one rank: muster starts them all",
        ),
        (f"seq 3 | xargs -I{{}} {RUN} {{}}", 1, "xargs starts it once for each item"),
        (f"parallel {RUN} ::: 1 2\n{RUN}", 1, "it seems to start ranks, and is not in the line"),
        (f"screen -dmS job bash -c 'cd /x && {RUN}'", 1, "the ranks of the script run in screen"),
        (f"{RUN}\n{RUN}", 2, "several launches (lines 1, 2)"),
    ],
)
def test_what_the_line_does_not_have_is_named_with_its_line(text: str, line: int, words: str):
    assert [at for at, says in said(text) if words in says] == [line], said(text)


@pytest.mark.parametrize(
    "text",
    [
        "for h in n1 n2; do ssh -n $h 'cd /x; torchrun --nnodes 2 t.py' & done; wait",
        (
            'H=(a b)\nfor i in "${!H[@]}"; do '
            'ssh -n "${H[$i]}" "cd $PWD && torchrun --nnodes=2 --node-rank=$i t.py" & done; wait'
        ),
        "cat > hostfile <<EOF\na slots=2\nEOF\ndeepspeed --hostfile hostfile t.py",
        "export A=1\ncd /x\nmodule load a\n" + RUN,
    ],
)
def test_what_is_in_the_line_is_not_said_to_be_left_out(text: str):
    found = adopted(text)
    assert not found.unused and not found.unknown
    assert not [remark.says for remark in found.changed if "loop" in remark.says or "home" in remark.says]


def test_a_loop_that_submits_jobs_is_told():
    inner = "#!/bin/bash\n#SBATCH -N 1\ntorchrun --nproc_per_node 2 t.py $1\n"
    found = adopted("for lr in 0.1 0.2; do\n sbatch job.sbatch $lr\ndone\nsbatch job.sbatch 3\n", job=inner)
    says = [(remark.text, remark.says) for remark in found.changed]
    assert any("line 1" in text and "in a loop" in words for text, words in says), says
    assert any("line 4" in text and "several jobs" in words for text, words in says), says


def test_a_script_that_srun_starts_is_read_as_closely():
    inner = "#!/bin/bash\ncd /data\nfor s in $(cat f); do\npython t.py --s $s $1 > log\ndone\n"
    text = JOB + "srun -N1 -n1 task.sh $2 >> all\n"
    assert line_of(text, task=inner) == "muster run --slurm -N 1 -g 1 --cwd /data t.py --s $s $2"
    says = [(remark.text, remark.says) for remark in adopted(text, task=inner).changed]
    for text, words in [
        ("task.sh, line 3", "write a value in place of $s"),
        ("task.sh, line 4", "> log: not taken over"),
        ("", '"$2": the arguments of the script'),
        ("", ">> all: not taken over"),
    ]:
        assert any(one.startswith(text) and words in what for one, what in says), (words, says)


def test_the_number_of_ranks_on_the_hosts_of_pdsh():
    def ranks(hosts: str) -> object:
        return as_json(adopted(f"pdsh -w {hosts} torchrun --nnodes 2 --nproc_per_node 4 t.py"))["launches"][0]["ranks"]

    assert ranks("n1,n2") == 8
    assert ranks("n[1-2]") is None


def test_a_python_program_without_a_launcher_says_how_it_is_started():
    found = adopted("import os\nprint(1)\n", "t.py")
    assert [remark.says for remark in found.unknown] == [
        "a Python program that starts no ranks with submitit or Ray: `muster run t.py` starts it"
    ]


def test_the_container_has_the_name_that_the_script_has():
    assert any(says.startswith("apptainer: ") for _, says in said(f"apptainer exec a.sif {RUN}"))


def test_a_command_of_submitit():
    text = (
        "import submitit, sys\nex = submitit.AutoExecutor(folder='x')\n"
        "ex.update_parameters(nodes=2, tasks_per_node=4)\n"
        "ex.submit(submitit.helpers.CommandFunction([sys.executable, 't.py', '--lr', '0.1']))\n"
    )
    (launch,) = as_json(adopted(text, "a.py"))["launches"]
    assert launch["command"] == "muster run --slurm -N 2 -g 4 t.py --lr 0.1"


KEY = "sk-1234567890abcdef"
HF = "hf_abcdefghijklmnopqrstuvwxyz012345"
HEX = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "line",
    [
        f"{RUN} --api-key {KEY} --lr 0.1",
        f"{RUN} --api-key={KEY}",
        f"API_KEY={KEY} {RUN} --k {KEY}",
        f"{RUN} --hub {HF}",
        f"srun -n 2 bash -c 'python t.py --token {HF} $SLURM_JOB_ID'",
        f"huggingface-cli login --token {HF}\n{RUN}",
        f"wandb login {HEX}\n{RUN}",
        f"export HF_TOKEN={HF}",
        f"export HF_TOKEN={HF}\n{RUN}",
        f"{'x' * 70} {HF}\n{RUN}",
        f"export WANDB_API_KEY={HEX}; curl -H {HEX}\n{RUN}",
        f"module load a; export DB=postgres://ann:{KEY}@db/x\n{RUN}",
        f"if x; then export HF_TOKEN={HF}; fi\n{RUN}",
        f"eval 'export HF_TOKEN={HF}'\n{RUN}",
        f"accelerate launch --num_processes 2 --hf-token {HF} t.py",
        f"#!/bin/bash\n#SBATCH -N 1 --export=ALL,HF_TOKEN={HF}\nsrun python t.py",
        f"cat <<EOF\n{HF}\nEOF\n{RUN}",
    ],
)
def test_no_secret_is_printed(line: str):
    for text in (line, line.replace("\n", " && ")):
        found = adopted(text)
        whole = in_words(found) + json.dumps(as_json(found))
        for secret in (KEY, HF, HEX):
            assert secret[:7] not in whole, whole


def test_a_secret_argument_becomes_a_variable():
    text = f"{RUN} --api-key {KEY} --lr 0.1"
    assert line_of(text) == 'muster run -g 2 t.py --api-key "$API_KEY" --lr 0.1'
    assert (1, "a secret: set API_KEY where you start muster") in said(text)


def test_a_secret_of_submitit():
    text = (
        "import submitit, sys\nex = submitit.AutoExecutor(folder='x')\n"
        f"ex.submit(submitit.helpers.CommandFunction([sys.executable, 't.py', '--token', '{HF}']))\n"
    )
    assert HF not in json.dumps(as_json(adopted(text, "a.py")))


WAYS_BACK = [
    *((kind, ["-H", "n1,n2", "-g", "2"]) for kind in ("bash", "tmux", "torchrun", "accelerate", "deepspeed", "mpirun")),
    *((kind, ["-N", "2", "-g", "2", "--time", "10"]) for kind in ("sbatch", "srun", "submitit")),
    ("mpich", ["--slurm", "-N", "2", "-g", "2"]),
]


@pytest.mark.parametrize(("kind", "options"), WAYS_BACK)
def test_the_way_back_from_export_is_the_same_run(kind: str, options: list[str], muster: Any, tmp_path: Path):
    (tmp_path / "t.py").write_text("")
    env = {**os.environ, "HF_TOKEN": "hf_secret"}
    words = [*options, "--env", "A=b c", "--env", "HF_TOKEN", "--name", "my run", "--max-restarts", "0"]
    program = ["t.py", "-o", "x", "a  b", "$HOME", "it's", "x" * 130]
    assert muster("export", kind, *words, "-o", "first", *program, env=env).returncode == 0
    done = muster("adopt", "first")
    assert done.returncode == 0, done.stderr
    line = done.stdout.partition("\n")[0]
    back = shlex.split(line)
    assert back[:2] == ["muster", "run"] and back[-len(program) :] == program
    assert "hf_secret" not in done.stdout
    # the options are those of `muster run`, and they are a file of the same text again
    assert muster("export", kind, *back[2 : -len(program)], "-o", "second", *program, env=env).returncode == 0
    texts = [re.sub(r"(?m)^# .*\n", "", (tmp_path / name).read_text()) for name in ("first", "second")]
    port = r"port=\d+|port \d+"
    assert re.sub(port, "", texts[0]) == re.sub(port, "", texts[1])


@pytest.mark.parametrize("kind", ["kubernetes", "jobset", "ray"])
def test_there_is_no_way_back_from_pods_and_ray(kind: str, muster: Any, tmp_path: Path):
    (tmp_path / "t.py").write_text("")
    image = [] if kind == "ray" else ["--image", "i"]
    assert muster("export", kind, "-N", "2", "-g", "2", *image, "-o", "f", "t.py").returncode == 0
    done = muster("adopt", "f")
    assert done.returncode == 1 and "starts no pods" in done.stdout


def test_a_directory_that_collapses_to_one_that_is_there_is_not_found(muster: Any, tmp_path: Path):
    (tmp_path / "t.py").write_text("")
    for path in ("$(dirname $0)/..", "absent/..", "absent"):
        done = muster("run", "-g", "1", "--cwd", path, "t.py")
        assert done.returncode == 2 and f"--cwd {path}: directory not found" in done.stderr, done.stderr
