"""`muster adopt` on a corpus of scripts of all forms: the command line, and what is said about it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any, Callable

import pytest

from muster.adopt.files import adopt_file
from muster.adopt.script import adopt_script
from muster.adopt.text import as_json, in_words
from muster.config.options import RunOptions
from muster.config.parse import names_in, parse

CORPUS = Path(__file__).parent / "corpus"
FILES = sorted(path.name for path in CORPUS.iterdir() if path.suffix in (".sh", ".sbatch", ".py"))


def read_file(name: str) -> str | None:
    path = CORPUS / name
    return path.read_text() if path.is_file() else None


def adopted(name: str, text: str = "", given: tuple[str, ...] = ()) -> Any:
    text = text or (CORPUS / name).read_text()
    return adopt_file(name, text, read_file, given)


def command(text: str, name: str = "x.sh", given: tuple[str, ...] = ()) -> str:
    """The command line for a script with one launch."""
    (launch,) = as_json(adopted(name, text, given))["launches"]
    return str(launch["command"])


@pytest.mark.parametrize("name", FILES)
def test_in_words(name: str, golden: Callable[..., None]):
    golden(f"adopt-{name}.txt", in_words(adopted(name)) + "\n")


@pytest.mark.parametrize("name", FILES)
def test_json_is_complete_and_the_line_can_be_typed(name: str, muster: Any, tmp_path: Path):
    found = json.loads(json.dumps(as_json(adopted(name))))
    assert [launch["command"].startswith("muster run ") for launch in found["launches"]] == [True]
    (launch,) = found["launches"]
    assert launch["understood"].keys() >= {"starts", "ranks", "rank 0", "port", "passed on", "ends"}
    # its options exist
    import shlex

    words = shlex.split(launch["command"])[2:]
    parsed = parse([word for word in words if word != "-G"], tuple(names_in("slurm", RunOptions.table).values()))
    assert parsed.operands


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("torchrun --nproc_per_node=4 t.py", "muster run -g 4 t.py"),
        ("torchrun --nproc_per_node gpu -m pkg.train a", "muster run -g gpu -m pkg.train a"),
        ("torchrun t.py", "muster run -g 1 t.py"),
        ("N=3\ntorchrun --nproc_per_node=$((N + 1)) t.py 'a b' $HOME", "muster run -g 4 t.py 'a b' $HOME"),
        ("torchrun --nproc_per_node=${GPUS:-2} --max_restarts 3 t.py", "muster run -g 2 --max-restarts 3 t.py"),
        ("torchrun --nproc_per_node $(nvidia-smi -L | wc -l) t.py", "muster run -g gpu t.py"),
        ('torchrun --nproc_per_node 2 t.py --name "run-$(date +%s)"', 'muster run -g 2 t.py --name run-"$(date +%s)"'),
        ("export A=1; export B=x$A\ntorchrun --nproc_per_node 2 t.py", "muster run -g 2 --env A=1 --env B=x1 t.py"),
        ("A='b c' torchrun --nproc_per_node 2 t.py", "muster run -g 2 --env 'A=b c' t.py"),
        ("A=1\ntorchrun --nproc_per_node 2 t.py", "muster run -g 2 t.py"),
        ("export HF_TOKEN=hf_abcdefgh\ntorchrun --nproc_per_node 2 t.py", "muster run -g 2 --env HF_TOKEN t.py"),
        ("module load cuda/12\ntorchrun --nproc_per_node 2 t.py", "muster run -g 2 --setup 'module load cuda/12' t.py"),
        (
            "export PATH=/opt/x:$PATH\ntorchrun --nproc_per_node 2 t.py",
            "muster run -g 2 --setup 'export PATH=/opt/x:$PATH' t.py",
        ),
        ("cd /data/run\ntorchrun --nproc_per_node 2 t.py", "muster run -g 2 --cwd /data/run t.py"),
        ("python -m torch.distributed.launch --use_env --nproc_per_node 2 t.py", "muster run -g 2 t.py"),
        ("accelerate launch --num_processes 4 t.py", "muster run -g 4 t.py"),
        (
            "accelerate launch --num_processes 8 --num_machines 2 --mixed_precision bf16 t.py",
            "muster run --hosts NODE0,NODE1 -g 4 --launcher accelerate --launcher-args --mixed_precision=bf16 t.py",
        ),
        ("deepspeed --num_gpus 4 t.py", "muster run -g 4 --launcher deepspeed t.py"),
        ("deepspeed --no_local_rank --num_gpus 4 t.py", "muster run -g 4 t.py"),
        (
            "deepspeed --include 10.0.0.1@10.0.0.2 t.py",
            "muster run --hosts 10.0.0.1,10.0.0.2 -g gpu --launcher deepspeed t.py",
        ),
        (
            "mpirun -H <host 1>:<gpus>,<host 2>:<gpus> python t.py",
            "muster run --hosts HOST-1:GPUS,HOST-2:GPUS --launcher mpirun t.py",
        ),
        (
            "#!/bin/bash\n#SBATCH -N 2\nsrun torchrun --nnodes 2 --nproc_per_node $SLURM_GPUS_ON_NODE t.py <in >out",
            "muster run --slurm -N 2 -g gpu t.py",
        ),
        ("mpirun -np 4 python t.py", "muster run -n 4 --launcher mpirun t.py"),
        ("mpirun -np 4 -H a:2,b:2 ./train x", "muster run --hosts a:2,b:2 --launcher mpirun -- ./train x"),
        (
            "mpirun -np 4 --hostfile hf -npernode 2 python -m m",
            "muster run --hostfile hf -g 2 -n 4 --launcher mpirun -m m",
        ),
        ("srun -N 2 --ntasks-per-node=4 python t.py", "muster run --slurm -N 2 -g 4 t.py"),
        ("srun -n 6 python t.py", "muster run --slurm -n 6 t.py"),
        (
            "#!/bin/bash\n#SBATCH -N 2\n#SBATCH --ntasks=6\nsrun python t.py",
            "muster run --slurm -N 2 -n 6 t.py",
        ),
        (
            "#!/bin/bash\n#SBATCH -N2 --ntasks-per-node=2 --cpus-per-task=3\nsrun python t.py --id $SLURM_JOB_ID",
            "muster run --slurm -N 2 -g 2 --cpus-per-task 6 -- bash -c 'exec python t.py --id $SLURM_JOB_ID'",
        ),
        (
            "singularity exec --nv a.sif torchrun --nproc_per_node 2 t.py",
            "muster run -g 2 -- singularity exec --nv a.sif python t.py",
        ),
        (
            "uv run python -m torch.distributed.run --nproc_per_node 2 -m pkg.t x",
            "muster run -g 2 -- uv run python -m pkg.t x",
        ),
        ("srun -N 2 --ntasks-per-node 2 bash -c 'python t.py a'", "muster run --slurm -N 2 -g 2 t.py a"),
        (
            "srun -N 2 --ntasks-per-node 2 ./wrap.sh python t.py",
            "muster run --slurm -N 2 -g 2 -- ./wrap.sh python t.py",
        ),
        ("source ~/x/activate\ntorchrun --nproc_per_node 2 t.py", "muster run -g 2 --setup 'source ~/x/activate' t.py"),
        ("mpiexec.hydra -n 2 -genv A 4 python t.py", "muster run -n 2 --launcher mpirun --env A=4 t.py"),
        (
            "#!/bin/bash\n#SBATCH -n 4 --ntasks-per-node=2\nsrun python t.py",
            "muster run --slurm -N 2 -g 2 t.py",
        ),
        (
            "python -m torch.distributed.launch --nproc_per_node=8 --nnodes=2 --master_addr=a --use_env m.py",
            "muster run --hosts a,NODE1 -g 8 m.py",
        ),
        (
            """#!/bin/bash
#SBATCH -N 2
export L='torchrun --nnodes 2 --nproc_per_node 4'
srun bash -c "$L --node_rank \\$SLURM_PROCID t.py"
""",
            "muster run --slurm -N 2 -g 4 --env 'L=torchrun --nnodes 2 --nproc_per_node 4' t.py",
        ),
        (
            """#!/bin/bash
#SBATCH -N 2
cat > r_$SLURM_JOB_ID.sh <<EOF
torchrun --nnodes 2 --nproc_per_node 4 t.py
EOF
srun bash r_$SLURM_JOB_ID.sh
""",
            "muster run --slurm -N 2 -g 4 t.py",
        ),
        (
            "#!/bin/bash\n#SBATCH -N 2 --ntasks-per-node=4 --gpus-per-task=1\nsrun singularity exec a.sif python t.py",
            "muster run --slurm -N 2 -g 4 --gpus-per-task 1 -- singularity exec a.sif python t.py",
        ),
        (
            "V=/opt/v\nsource $V/bin/activate\nexport PATH=$V/bin:$PATH\ntorchrun --nproc_per_node 2 t.py",
            "muster run -g 2 --setup 'source /opt/v/bin/activate' --setup 'export PATH=/opt/v/bin:$PATH' t.py",
        ),
        (
            "mpirun -np 2 -mca btl ^openib -x PATH -x A python t.py",
            "muster run -n 2 --launcher mpirun --launcher-args \"--mca btl '^openib'\" --env A t.py",
        ),
        (
            "for h in n1 n2; do ssh $h torchrun --nnodes 2 --nproc_per_node 2 t.py & done; wait",
            "muster run --hosts n1,n2 -g 2 t.py",
        ),
        (
            "for h in a b; do ssh -n $h \"tmux new -d -s x 'cd /; torchrun --nnodes=2 --nproc-per-node=2 t.py'\"; done",
            "muster run --hosts a,b -g 2 --cwd / t.py",
        ),
        ("tmux send-keys -t a 'torchrun --nproc_per_node 2 t.py --x 1' C-m", "muster run -g 2 t.py --x 1"),
        ("srun -N 2 --ntasks-per-node 2 bash -c 'exec python t.py a'", "muster run --slurm -N 2 -g 2 t.py a"),
        (
            """#!/bin/bash
#SBATCH -N 2 --ntasks-per-node=1
L="accelerate launch --num_processes 8 --num_machines 2 --machine_rank \\$SLURM_PROCID"
P="t.py --a b"
srun bash -c "$L $P"
""",
            "muster run --slurm -N 2 -g 4 t.py --a b",
        ),
        (
            "srun -N 2 --ntasks-per-node=4 --container-image=a/b:1 --container-mounts=$PWD:/w,/d:/d:ro python t.py",
            'muster run --slurm -N 2 -g 4 --container a/b:1 --mount "$PWD:/w" --mount /d:/d:ro t.py',
        ),
        (
            'cd "$(dirname "$0")"\ncat > hf <<EOF\na slots=2\n# no\nb slots=2\nEOF\ndeepspeed --hostfile hf t.py',
            "muster run --hosts a:2,b:2 --launcher deepspeed t.py",
        ),
        (
            """for s in 1 2; do
sbatch <<EOF
#!/bin/bash
#SBATCH -N 2 --job-name=j
#SBATCH --ntasks-per-node=1
srun torchrun --nnodes 2 --nproc_per_node 4 t.py --seed $s
EOF
done
""",
            "muster run --slurm -N 2 -g 4 --sweep s=1,2 --name j t.py --seed '{s}'",
        ),
        (
            "export A=ib0\nmpirun -np 2 -x A -x B -x MASTER_ADDR=a python t.py",
            "muster run -n 2 --launcher mpirun --env A=ib0 --env B t.py",
        ),
        (
            "cat > a.yaml <<EOF\nnum_machines: 2\nnum_processes: 16\nEOF\naccelerate launch --config_file a.yaml t.py",
            "muster run --hosts NODE0,NODE1 -g 8 --launcher accelerate --launcher-args --config_file=a.yaml t.py",
        ),
        (
            'go() {\n  local s=$1; shift\n  torchrun --nproc_per_node 2 "$s" "$@"\n}\ngo t.py --a "b c"\n',
            "muster run -g 2 t.py --a 'b c'",
        ),
        (
            "if nvidia-smi; then GPUS=$(nvidia-smi -L | wc -l); else GPUS=2; fi\ntorchrun --nproc_per_node $GPUS t.py",
            "muster run -g gpu t.py",
        ),
        (
            """tmux send-keys -t a 'source v/bin/activate' C-m
tmux send-keys -t b 'source w/bin/activate' C-m
tmux send-keys -t a 'torchrun --nproc_per_node 2 t.py' C-m
""",
            "muster run -g 2 --setup 'source v/bin/activate' t.py",
        ),
        (
            "#!/bin/bash\n#SBATCH -N 1 --array=0-7%2\ntorchrun --nproc_per_node 2 t.py $SLURM_ARRAY_TASK_ID",
            "muster run --slurm -N 1 -g 2 --array 0-7%2 -- bash -c 'exec python t.py $SLURM_ARRAY_TASK_ID'",
        ),
        ("pdsh -w n[1-4] torchrun --nnodes 4 --nproc_per_node 8 t.py", "muster run --hosts 'n[1-4]' -g 8 t.py"),
    ],
)
def test_one_line(text: str, expected: str):
    assert command(text) == expected


@pytest.mark.parametrize("name", FILES)
def test_no_part_of_a_script_is_too_strange(name: str):
    lines = (CORPUS / name).read_text().splitlines(keepends=True)
    for count in range(len(lines)):
        for text in ("".join(lines[:count]), "".join(lines[count:])):
            if not name.endswith(".py"):
                in_words(adopted(name, text or "#"))


def test_a_job_script_in_a_heredoc_names_what_is_to_be_filled_in():
    job = "#!/bin/bash\n#SBATCH -N 1 -J x-$n\ntorchrun t.py --n $n --id \\$SLURM_JOB_ID\n"
    text = f"cat > j.sh <<EOF\n{job}EOF\nsbatch j.sh\n"
    found = adopted("x.sh", text)
    assert [remark.says for remark in found.changed if "$n" in remark.says] == [
        "this is the job script that the file writes for sbatch; write a value in place of $n, once for each job"
    ]
    assert '--name "x-$n"' in as_json(found)["launches"][0]["command"]


def test_the_container_of_pyxis_is_told_if_its_image_is_not_known():
    found = adopted("x.sh", "srun -N 2 --container-name=c --container-workdir=/w python t.py")
    assert [remark.says.partition(":")[0] for remark in found.changed] == [
        "--container-name c",
        "--container-workdir /w",
    ]


def test_arguments_of_a_function_of_submitit():
    text = """
import submitit, subprocess, sys
def work(args, *more):
    subprocess.run([sys.executable, "t.py", *args, *more])
e = submitit.AutoExecutor(folder="x")
e.update_parameters(nodes=2, tasks_per_node=4)
e.submit(work, ["--model", "b"])
"""
    found = adopted("x.py", text)
    assert as_json(found)["launches"][0]["command"] == (
        "muster run --slurm -N 2 -g 4 -- bash -c 'exec python t.py --model b \"$more\"'"
    )
    assert [remark.text for remark in found.changed] == ["more"]


def test_an_array_of_the_script_is_told():
    text = "#!/bin/bash\n#SBATCH -N 1 -a 0-2\nL=(1 2)\nX=${L[$SLURM_ARRAY_TASK_ID]}\ntorchrun t.py --lr $X"
    assert ["$L is an array of the script" in remark.says for remark in adopted("x.sh", text).changed] == [True]


def test_a_variable_of_tasks_in_a_variable_is_told():
    text = "#!/bin/bash\n#SBATCH -N 2\nA=$SLURM_NODEID\nsrun torchrun --nnodes 2 --node_rank $A t.py"
    assert ["$SLURM_NODEID"] == [remark.text for remark in adopted("x.sh", text).changed]


def test_a_script_that_submits_another_one():
    inner = (
        "#!/bin/bash\n#SBATCH -N 1\nsrun torchrun --nnodes $SLURM_NNODES --nproc_per_node $SLURM_GPUS_ON_NODE t.py $1\n"
    )
    found = adopt_script("x.sh", "sbatch --nodes 2 --gpus 16 job.sbatch 0.1\n", {"job.sbatch": inner}.get)
    assert as_json(found)["launches"][0]["command"] == "muster run --slurm -N 2 -g 8 --gpus 16 t.py 0.1"
    assert found.path == "job.sbatch"


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("python t.py", "exec python t.py"),
        ("source v/bin/activate && export RANK=$SLURM_PROCID && python -m t a", None),
        ('$WITH_CONDA; export A="b c"; cd /x; python t.py', "$WITH_CONDA && export 'A=b c' && exec python t.py"),
        ("torchrun --nnodes 2 --nproc_per_node 4 t.py --id $SLURM_JOB_ID", "exec python t.py --id $SLURM_JOB_ID"),
    ],
)
def test_a_shell_in_a_container_stays_in_it(inside: str, expected: str | None):
    text = f"#!/bin/bash\n#SBATCH -N 2\nsrun singularity exec --nv a.sif bash -c '{inside}'"
    words = shlex.split(command(text))
    expected = expected or "source v/bin/activate && exec python -m t a"
    assert words[words.index("--") + 1 :] == ["singularity", "exec", "--nv", "a.sif", "bash", "-c", expected]
    assert "--setup" not in words


def test_options_of_sbatch_on_the_command_line():
    text = (
        "#!/bin/bash\n#SBATCH --nodes=1\nsrun torchrun --nnodes $SLURM_NNODES --nproc_per_node $SLURM_GPUS_ON_NODE t.py"
    )
    assert command(text, given=("--nodes", "2", "--gpus", "16")) == "muster run --slurm -N 2 -g 8 --gpus 16 t.py"


def test_what_is_not_understood_has_its_line():
    found = adopted("x.sh", "rsync -a data /scratch\nnvidia-smi\ntorchrun --nproc_per_node 2 t.py\nfi\n")
    first = found.unknown[0]
    assert (first.line, first.text) == (1, "rsync -a data /scratch")
    assert [remark.line for remark in found.unused] == [2]
    assert not adopted("x.sh", "ls\n").launches


def test_command(muster: Any, tmp_path: Path):
    (tmp_path / "job.sh").write_text("torchrun --nproc_per_node 2 t.py\n")
    (tmp_path / "none.sh").write_text("echo hi\n")
    assert muster("adopt", "job.sh").stdout.startswith("muster run -g 2 t.py\n")
    assert json.loads(muster("adopt", "--json", "job.sh").stdout)["launches"][0]["ranks_per_node"] == "2"
    assert muster("adopt", "none.sh").returncode == 1
    for words in (["adopt"], ["adopt", "absent.sh"], ["adopt", "a", "b"]):
        done = muster(*words)
        assert done.returncode == 2 and "hint: " in done.stderr, done.stderr
