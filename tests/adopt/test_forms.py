"""Forms of published scripts that `muster adopt` has misread once: what runs before what, defaults, wrappers, files."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from muster.adopt.files import adopt_file
from muster.adopt.text import as_json, facts

RUN = "torchrun --nproc_per_node 2 t.py"
JOB = "#!/bin/bash\n#SBATCH -N 2\n"


def adopted(text: str, path: str = "x.sh", **files: str) -> Any:
    named = {name.replace("__", "/"): content for name, content in files.items()}
    return adopt_file(path, text, lambda name: named.get(name))


def line_of(text: str, path: str = "x.sh", **files: str) -> str:
    (launch,) = as_json(adopted(text, path, **files))["launches"]
    return " ".join(shlex.split(launch["command"].replace("\\\n", " ")))


def says(text: str, **files: str) -> list[str]:
    return [remark.says for remark in adopted(text, **files).changed]


@pytest.mark.parametrize(
    "text",
    [
        f"CMD='{RUN}'\nexport A=1\nsource v\ncd /d\neval $CMD\nexport B=2\nsource w\n",
        f"run() {{\n{RUN}\nexport B=2\n}}\nexport A=1\nsource v\ncd /d\nrun\nsource w\n",
        f"export A=1\nmain() {{\nsource v\ncd /d\n{RUN}\nexport B=2\ncd /e\n}}\nmain\n",
        f"e() {{\nexport A=1\nsource v\n}}\nnever() {{\nexport C=2\nsource u\n}}\ncd /d\ne\n{RUN}\n",
        f"CMD='{RUN}'\ngo() {{\neval $CMD\n}}\nexport A=1\nsource v\ncd /d\ngo\nexport B=2\n",
    ],
)
def test_what_is_before_a_launch_is_what_is_executed_before_it(text: str):
    assert line_of(text) == "muster run -g 2 --cwd /d --env A=1 --setup source v t.py"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (': "${N:=4}"\ntorchrun --nproc_per_node $N t.py', "muster run -g 4 t.py"),
        (": ${D:=/fsx}\n: ${C:=$D/c.yaml}\ntorchrun --nproc_per_node 2 t.py $C", "muster run -g 2 t.py /fsx/c.yaml"),
        ("D=/fsx\n: ${C=${D}/c}\ntorchrun --nproc_per_node 2 t.py $C", "muster run -g 2 t.py /fsx/c"),
        (
            "if x; then : ${N:=4}; else : ${N:=8}; fi\ntorchrun --nproc_per_node 2 t.py --n $N",
            "muster run -g 2 t.py --n $N",
        ),
    ],
)
def test_defaults_of_variables(text: str, expected: str):
    assert line_of(text) == expected


def test_a_default_in_the_line_is_told():
    (remark,) = says(": ${N:=4}\ntorchrun --nproc_per_node $N t.py")
    assert remark == "N=4: defaults of variables of the environment, which are in the line"


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("./bind.sh torchrun --nnodes 2 --nproc_per_node 4 t.py a", "-g 4 -- ./bind.sh python t.py a"),
        ("./bind.sh accelerate launch --num_machines 2 --num_processes 8 t.py", "-g 4 -- ./bind.sh python t.py"),
        (
            "singularity_wrapper exec bash -c 'torchrun --nnodes 2 --nproc_per_node 4 t.py'",
            "-g 4 -- singularity_wrapper exec bash -c exec python t.py",
        ),
        (
            "shifter --image=i -V /a:/b torchrun --nnodes 2 --nproc_per_node 4 t.py",
            "-g 4 -- shifter --image=i -V /a:/b python t.py",
        ),
        ("python bench.py --launcher torchrun --n 1", "-g 1 bench.py --launcher torchrun --n 1"),
        ("./train --launcher torchrun --n 1", "-g 1 -- ./train --launcher torchrun --n 1"),
        ("./bind.sh --verbose torchrun --nnodes 2 --nproc_per_node 4 t.py", "-g 4 -- ./bind.sh --verbose python t.py"),
        ("./bind.sh ./train --x 1", "-g 1 -- ./bind.sh ./train --x 1"),
        ("echo torchrun t.py; srun python t.py", "-g 1 t.py"),
    ],
)
def test_a_program_between_srun_and_the_launcher(step: str, expected: str):
    assert line_of(f"{JOB}srun {step}\n") == f"muster run --slurm -N 2 {expected}"


@pytest.mark.parametrize("count", ["$(expr $SLURM_NNODES \\* 4)", "$(($SLURM_NNODES * 4))", "`expr 2 \\* 4`"])
def test_numbers_that_are_computed(count: str):
    text = f"{JOB}G=4\nsrun accelerate launch --num_machines 2 --num_processes {count} t.py\n"
    assert line_of(text) == "muster run --slurm -N 2 -g 4 t.py"


@pytest.mark.parametrize(
    "count",
    [
        "$(echo $CUDA_VISIBLE_DEVICES | tr ',' '\\n' | wc -l)",
        '$(python -c "import torch; print(torch.cuda.device_count())")',
        "`nvidia-smi -L | wc -l`",
    ],
)
def test_a_number_of_gpus_that_is_counted(count: str):
    assert line_of(f"N={count}\ntorchrun --nproc_per_node $N t.py") == "muster run -g gpu t.py"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("#SBATCH --mail-type=BEGIN\n#SBATCH --mail-type=END", "--mail-type BEGIN,END"),
        ("#SBATCH --gpus-per-task=4", "--gpus-per-node 4"),
        ("#SBATCH --gpus-per-node=4 --gpus-per-task=4", "--gpus-per-node 4"),
        ("#SBATCH --gpus-per-task=a100:2 --ntasks-per-node=2", "--gpus-per-node 4"),
    ],
)
def test_lines_of_sbatch(lines: str, expected: str):
    text = f"#!/bin/bash\n#SBATCH -N 1\n{lines}\nsrun -n 1 torchrun --nproc_per_node $SLURM_GPUS_ON_NODE t.py\n"
    each = "4" if "gpus" in lines else "gpu"
    assert line_of(text) == f"muster run --slurm -N 1 -g {each} {expected} t.py"


def test_the_variables_of_deepspeed():
    text = f"export A=1\nexport NCCL_X=1\n{'deepspeed --hostfile hf t.py'}\n"
    files = {".deepspeed_env": "NCCL_Y=a\nexport B='b c'\nPATH=/x\n", "~/.deepspeed_env": "B=old\nC=1\n"}
    line = line_of(text, **files)
    assert line.startswith("muster run --hostfile hf --launcher deepspeed --env A=1 --env NCCL_X=1 ")
    for item in ("--env NCCL_Y=a", "--env B=b c", "--env C=1"):
        assert item in line
    assert "PATH" not in line and any("PATH: not taken over" in remark for remark in says(text, **files))
    (passed,) = [remark for remark in says(text, **files) if "deepspeed passes only" in remark]
    assert passed.startswith("A: ")
    # on one host it reads no file
    assert "NCCL_Y" not in line_of("deepspeed --num_gpus 2 t.py", **files)


def test_a_file_of_variables_that_the_script_writes():
    text = 'A=x\necho "NCCL_Z=$A" > .deepspeed_env\necho "B=$HOME/b" >> .deepspeed_env\ndeepspeed -H hf t.py\n'
    assert "--env NCCL_Z=x" in line_of(text)
    assert any("B=$HOME/b: its value is known only where" in remark for remark in says(text))


def test_the_first_hosts_and_slots_of_deepspeed():
    text = "cat > hf <<EOF\na slots=4\nb slots=4\nc slots=4\nEOF\ndeepspeed -H hf --num_nodes 2 --num_gpus 2 t.py\n"
    assert line_of(text) == "muster run --hosts a,b -g 2 --launcher deepspeed t.py"


def test_options_of_deepspeed_have_underscores():
    # its parser knows no hyphens
    assert "--launcher-args --save_pid --venv_script=v.sh" in line_of(
        "deepspeed --hostfile hf --save_pid --venv_script v.sh --no_ssh_check t.py"
    )


@pytest.mark.parametrize(
    ("call", "each"),
    [
        ("mp.spawn(f, args=(4,), nprocs=4)", "4"),
        ("torch.multiprocessing.spawn(f, (n,), n, True)", "3"),
        ("mp.spawn(f, nprocs=torch.cuda.device_count())", "gpu"),
        ("mp.start_processes(f, nprocs=n)", "3"),
        ("mp.spawn(f)", "1"),
    ],
)
def test_the_number_of_ranks_that_a_script_spawns(call: str, each: str):
    line = line_of("python s.py --x", **{"s.py": f"import torch\nn = 3\n{call}\n"})
    assert line == f"muster run -g {each} --launcher spawn s.py --x"


def test_other_programs_that_are_spawned_are_no_ranks():
    line = line_of("python s.py", **{"s.py": "import torch, pexpect\npexpect.spawn('ls')\n"})
    assert line == "muster run -g 1 s.py"


@pytest.mark.parametrize("before", ["python -m pip install -e .", "python3 -m venv v", "python -m pip install x > log"])
def test_tools_of_python_are_no_ranks(before: str):
    assert line_of(f"{JOB}{before}\nsrun python t.py\n") == "muster run --slurm -N 2 -g 1 t.py"
    assert not adopted(f"{before}\n./run.py $@\n").launches


def test_placeholders():
    assert line_of(f'{RUN} --template "<title> <text>" --one "a <b>"') == (
        "muster run -g 2 t.py --template <title> <text> --one a <b>"
    )
    assert line_of('F="<my host file>"\ndeepspeed --hostfile $F t.py') == (
        "muster run --hostfile MY-HOST-FILE --launcher deepspeed t.py"
    )
    assert not any("in capitals" in remark for remark in says(f"# usage: x <name>\n{RUN}  # <n>\n"))


def test_options_that_are_not_known():
    text = f"{JOB}srun $OPTS --auto-resume=1 python t.py\n"
    assert [remark for remark in says(text) if "$OPTS" in remark] == [
        "srun $OPTS: its options are not known from this script; add those that muster needs"
    ]


def test_a_command_that_ends_in_a_backslash():
    found = adopted(f"{RUN} \\\n  --last 1 \\\n")
    assert not found.unknown and line_of(f"{RUN} \\\n  --last 1 \\\n") == "muster run -g 2 t.py --last 1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "export MASTER_ADDR=x WORLD_SIZE=2\nfor r in 0 1; do\nRANK=$r python t.py --lr 1 &\ndone\nwait\n",
            "-g 2 t.py --lr 1",
        ),
        (
            "for i in $(seq 0 3); do python t.py --rank $i --world-size 4 & done; wait",
            '-g 4 -- bash -c exec python t.py --rank "$RANK" --world-size 4',
        ),
        (
            "N=3\nfor ((i=0; i<N; i++)); do CUDA_VISIBLE_DEVICES=$i RANK=$i python -m p --local_rank=$i & done\nwait",
            '-g 3 -- bash -c exec env CUDA_VISIBLE_DEVICES="$RANK" python -m p --local_rank="$RANK"',
        ),
        (
            "CUDA_VISIBLE_DEVICES=0 python t.py --rank 0 --n 2 &\nCUDA_VISIBLE_DEVICES=1 python t.py --rank 1 --n 2\n",
            '-g 2 -- bash -c exec env CUDA_VISIBLE_DEVICES="$RANK" python t.py --rank "$RANK" --n 2',
        ),
        ("python prepare.py\nRANK=0 python t.py &\nRANK=1 python t.py &\nwait\n", "-g 2 t.py"),
    ],
)
def test_ranks_that_are_started_one_by_one(text: str, expected: str):
    assert line_of(text) == f"muster run {expected}"
    assert any("is one rank: muster starts them all" in remark for remark in says(text))


@pytest.mark.parametrize(
    "text",
    [
        "for s in 0 1; do python t.py --seed $s & done; wait",
        "for r in 1 2; do RANK=$r python t.py & done; wait",
        "for r in 0 1; do RANK=$r python t.py; done",
        "python a.py --rank 0 &\npython b.py --rank 1 &\nwait",
        "python t.py --rank 0 --x 1 &\npython t.py --rank 1 --x 5 &\nwait",
        "python t.py --seed 0 &\npython t.py --seed 1 &\nwait",
    ],
)
def test_other_programs_in_the_background_are_no_ranks_of_one_run(text: str):
    assert not any("is one rank: muster starts" in remark for remark in says(text))


def test_values_of_a_job_array():
    text = (
        "#!/bin/bash\n#SBATCH -N 1 --array=1-2\nLRS=(0.5 0.1 0.01)\nLR=${LRS[$SLURM_ARRAY_TASK_ID]}\n"
        f"export RUN=lr_$LR\n{RUN} --lr $LR --job $SLURM_JOB_ID"
    )
    assert line_of(text) == (
        "muster run --slurm -N 1 -g 2 --sweep lr=0.1,0.01 --env RUN=lr_{lr} "
        "-- bash -c exec python t.py --lr '{lr}' --job $SLURM_JOB_ID"
    )
    (remark,) = says(text)
    assert remark.startswith("--array=1-2 takes values of $LRS: the line has them as a sweep")


@pytest.mark.parametrize(
    "text",
    [
        "#SBATCH --array=0-5\nA=(1 2)\n{} --x ${{A[$SLURM_ARRAY_TASK_ID]}}",
        "#SBATCH --array=0-1\nA=(1 2)\n{} --x ${{A[$SLURM_ARRAY_TASK_ID]}} --i $SLURM_ARRAY_TASK_ID",
        "#SBATCH --array=0-1\nA=($(ls))\n{} --x ${{A[$SLURM_ARRAY_TASK_ID]}}",
    ],
)
def test_values_of_an_array_that_are_not_known(text: str):
    text = f"#!/bin/bash\n{text.format(RUN)}\n"
    assert "--array" in line_of(text) and "$A is an array of the script" in "".join(says(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "srun -p p --gres gpu:8 -n 16 --ntasks-per-node 8 -c 5 $X python t.py",
            "-N 2 -g 8 --partition p --gres gpu:8",
        ),
        ("G=${G:-4}\nsrun -p $1 --ntasks=$G --ntasks-per-node=8 python t.py", '-N 1 -n 4 --partition "$1"'),
    ],
)
def test_steps_without_a_batch_script(text: str, expected: str):
    (launch,) = as_json(adopted(text))["launches"]
    assert expected in launch["command"].replace(" \\\n ", "") and "?" not in launch["command"]
    assert ("--cpus-per-task 40" in launch["command"]) == ("-c 5" in text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f'screen -dmS n bash -c "cd /w && {RUN} --a 1"', "muster run -g 2 --cwd /w t.py --a 1"),
        (f"screen -S n -d -m {RUN}", "muster run -g 2 t.py"),
        (f'screen -dmS n\nscreen -S n -X stuff "{RUN}\\n"', "muster run -g 2 t.py"),
        (f'tmux new -d -s n\ntmux send-keys -t n "source v" C-m\ntmux send -t n "{RUN}" Enter', None),
    ],
)
def test_sessions_of_a_terminal(text: str, expected: str | None):
    assert line_of(text) == (expected or "muster run -g 2 --setup source v t.py")


def test_components_of_a_job():
    text = (
        "#!/bin/bash\n#SBATCH --nodes=2 --gpus-per-node=4\n#SBATCH hetjob\n#SBATCH --nodes=1 --partition=cpu\n"
        "srun --het-group=0 torchrun --nnodes 2 --nproc_per_node 4 t.py : --het-group=1 python server.py\n"
    )
    assert line_of(text) == "muster run --slurm -N 2 -g 4 --gpus-per-node 4 t.py"
    text = text.replace("=0 torchrun --nnodes 2", "=1 torchrun --nnodes 1")
    assert line_of(text) == "muster run --slurm -N 1 -g 4 --partition cpu t.py"
    assert any("several components" in remark for remark in says(text))


def test_nodes_of_ray_are_no_ranks():
    text = f"{JOB}srun -N1 -n1 bash -c 'pip install ray && ray start --head --block' &\npython d.py\n"
    assert "ray start" not in line_of(text) and not adopted(text.replace("python d.py\n", "")).launches


def test_paths_with_variables_are_expanded():
    (launch,) = as_json(adopted("mpirun -np 8 --hostfile $PBS_NODEFILE -d 8 python t.py"))["launches"]
    assert "--hostfile $PBS_NODEFILE" in launch["command"] and "-d 8" in launch["command"]


SUBMITIT = """
import argparse, os, submitit, subprocess
N = 2
p = argparse.ArgumentParser()
p.add_argument("--gpus", type=int, default=4)
args = p.parse_args()
class Trainer:
    def __call__(self, lr):
        env = submitit.JobEnvironment()
        subprocess.run({command})
ex = submitit.AutoExecutor(folder="logs")
ex.update_parameters(nodes=N, {size}, mem_gb=10 * args.gpus, slurm_additional_parameters={{"account": "x"}})
{submit}
"""


def test_numbers_of_submitit_that_are_not_literal():
    text = SUBMITIT.format(
        command='["python", "t.py", "--rank", str(env.global_rank)]',
        size="tasks_per_node=args.gpus, gpus_per_node=args.gpus, cpus_per_task=2",
        submit="ex.submit(Trainer(), 1)",
    )
    assert line_of(text, "x.py") == (
        "muster run --slurm -N 2 -g 4 --gpus-per-node 4 --mem 40G --account x --cpus-per-task 8 "
        '-- bash -c exec python t.py --rank "$RANK"'
    )
    found = adopted(text, "x.py")
    assert ("tasks_per_node=args.gpus", "the default of the option, 4, is in the line") in [
        (remark.text, remark.says) for remark in found.changed
    ]
    unknown = text.replace("tasks_per_node=args.gpus", "tasks_per_node=count()")
    assert ("tasks_per_node=count()", "not known from this program; add `-g RANKS`") in [
        (remark.text, remark.says) for remark in adopted(unknown, "x.py").changed
    ]


def test_a_launcher_in_the_tasks_of_submitit():
    text = SUBMITIT.format(
        command='f"torchrun --nnodes {N} --nproc_per_node {args.gpus} t.py --lr 1", shell=True',
        size="tasks_per_node=1, gpus_per_node=4",
        submit="ex.submit(Trainer(), 1)",
    )
    assert line_of(text, "x.py") == "muster run --slurm -N 2 -g 4 --gpus-per-node 4 --mem 40G --account x t.py --lr 1"


def test_jobs_of_submitit_for_a_list_are_a_sweep():
    text = (
        "import submitit, subprocess\ndef work(lr):\n    subprocess.run(['python', 't.py', f'--lr={lr}'])\n"
        "ex = submitit.AutoExecutor(folder='l')\njobs = [ex.submit(work, r) for r in (0.1, 0.2)]\n"
    )
    assert line_of(text, "x.py") == "muster run --slurm -N 1 -g 1 --sweep r=0.1,0.2 t.py --lr={r}"


def test_actors_of_ray():
    text = (
        "import ray, subprocess\nN = 4\n@ray.remote(num_gpus=1)\nclass Worker:\n    def run(self, rank):\n"
        "        subprocess.run(['python', 't.py', f'--rank={rank}'])\n"
        "ws = [Worker.remote() for _ in range(N)]\nray.get([w.run.remote(i) for i, w in enumerate(ws)])\n"
    )
    assert line_of(text, "x.py") == 'muster run -n 4 -- bash -c exec python t.py --rank="$RANK"'


@pytest.mark.parametrize("text", [f"{RUN} \\\n --a 1 \\\n 2>&1 | tee log", f"clear; {RUN} 2>&1 | tee -a log | tail"])
def test_the_pipe_of_a_launch_is_told_once(text: str):
    found = adopted(text)
    assert not found.unused and not found.unknown
    assert [remark.says.partition(":")[0] for remark in found.changed] == ["| tee"]


def test_variables_of_a_platform_are_not_those_of_ranks():
    text = "torchrun --nnodes $WORLD_SIZE --node_rank $RANK --nproc_per_node 8 t.py --nodes $WORLD_SIZE\n"
    assert any(remark.startswith("$WORLD_SIZE has a value of its own in each rank") for remark in says(text))
    assert not any("value of its own" in remark for remark in says(text.replace(" --nodes $WORLD_SIZE", "")))


def test_files_with_null_bytes_are_no_scripts():
    assert [remark.says for remark in adopted("ls\nmodule load c\0uda\n").unknown] == [
        "a null byte: the file is no script"
    ]
    assert line_of("python t.py", **{"t.py": "mp.spawn(\0"}) == "muster run -g 1 t.py"


@pytest.mark.filterwarnings("error")
def test_warnings_of_python_are_not_shown():
    assert not adopted("import submitit\nx = '\\d'\nif 1 is 1: pass\n", "x.py").launches


def test_scripts_that_submit_themselves():
    """A job that submits the next part of itself, and two that submit each other."""
    text = "sbatch x.sh\n"
    assert not adopt_file("x.sh", text, lambda _: text).launches
    both = {"a.sh": "sbatch b.sh\n", "b.sh": "sbatch a.sh\n"}
    assert not adopt_file("a.sh", both["a.sh"], both.get).launches


@pytest.mark.parametrize(
    ("text", "ranks"),
    [
        ('torchrun --nproc_per_node "$1" t.py', "an unknown number of ranks on 1 node"),
        ("#!/bin/bash\n#SBATCH --requeue\nsrun python t.py", "1 rank on each node of the job"),
        (f"{JOB}srun {RUN}", "4 ranks on 2 nodes, 2 on each"),
    ],
)
def test_the_number_of_ranks_in_words(text: str, ranks: str):
    (launch,) = adopted(text).launches
    assert ranks == dict(facts(launch))["ranks"]
