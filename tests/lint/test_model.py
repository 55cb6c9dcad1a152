"""The model of shell scripts: which shell expands a variable, what is known of its value, what a command starts."""

from __future__ import annotations

from muster.lint.model import Command, Script, Source
from muster.lint.parse import read_script


def script(text: str, path: str = "job.sbatch") -> Script:
    return read_script(Source(path, text))


def shown(command: Command) -> list[str]:
    return [word.shown for word in command.argv]


def only(found: Script, name: str) -> Command:
    (command,) = [command for command in found.everything() if command.name == name]
    return command


def test_directives_have_canonical_names_and_end_at_the_first_command():
    found = script('#!/bin/bash\n#SBATCH -N2 --job-name "my job" # note\n\ndate\n#SBATCH --time=1:00\n')
    options = [
        (item.option.name, item.option.value and item.option.value.text, item.effective) for item in found.directives
    ]
    assert options == [("--nodes", "2", True), ("--job-name", "my job", True), ("--time", "1:00", False)]


def test_an_expansion_knows_the_shell_that_expands_it():
    text = """srun bash -c "echo $A \\$B" ; srun bash -c 'echo $C'"""
    outer, inner, late = (
        next(
            part.shell
            for command in script(text).everything()
            if command.name == "echo"
            for word in command.argv
            for part in word.expansions
            if part.name == name
        )
        for name in "ABC"
    )
    assert (outer.kind, inner.kind, late.kind) == ("batch", "step", "step")
    assert inner.number != late.number


def test_known_variables_are_expanded_and_split():
    found = script('N=2\nRUN="torchrun --nnodes $N"\nARGS=(--lr "1 2")\nARGS+=(-x)\nsrun $RUN t.py "${ARGS[@]}"\n')
    command = only(found, "srun")
    assert shown(command) == ["srun", "torchrun", "--nnodes", "2", "t.py", "--lr", "1 2", "-x"]
    assert [program.name for program in command.programs] == ["srun", "torchrun"]
    value = command.programs[1].value("--nnodes")
    assert value is not None and value.text == "2"


def test_expansions_in_one_pair_of_quotes_with_only_spaces_between_them():
    found = script(
        'L="torchrun  --nnodes 2"\nP="t.py --lr 1"\nsrun bash -c "$L $P"\necho "$A ${B}  $(date) $((N + 2))"\n'
    )
    assert shown(only(found, "torchrun")) == ["torchrun", "--nnodes", "2", "t.py", "--lr", "1"]
    word = only(found, "echo").argv[1]
    assert [part.source for part in word.expansions] == ["$A", "${B}", "$(date)", "$((N + 2))"]
    assert [part.name for part in word.expansions][:2] == ["A", "B"]
    assert word.shown == "$A ${B}  $(date) $((N + 2))"


def test_what_differs_between_branches_is_not_known():
    found = script("N=1\nif [ $1 = big ]; then N=2; M=3; else M=3; fi\n[ -n $2 ] && K=1\necho $N $M $K\n")
    assert shown(only(found, "echo")) == ["echo", "$N", "3", "$K"]


def test_loops_functions_and_read_change_variables():
    text = "i=0\nfor h in a b; do i=$((i+1)); ssh $h run $i; done\nread x < f\nf() { y=$1; }\ny=0; f 2; echo $x $y $i"
    found = script(text)
    assert shown(only(found, "ssh")) == ["ssh", "$h", "run", "$((i+1))"]
    assert shown(only(found, "echo")) == ["echo", "$x", "2", "$i"], "the value of i is not known after the loop"


def test_arithmetic_with_known_numbers():
    found = script("A=4; B=2\necho $((A * B)) $((SLURM_NNODES * A))")
    assert shown(only(found, "echo")) == ["echo", "8", "$((SLURM_NNODES * A))"]


def test_a_launcher_in_a_variable_is_parsed_where_it_runs():
    text = 'L="accelerate launch --machine_rank \\$SLURM_PROCID --num_processes 8"\nsrun bash -c "$L train.py"\n'
    found = script(text)
    command = only(found, "accelerate")
    rank = command.programs[0].value("--machine-rank")
    assert rank is not None and command.shell.kind == "step" and rank.expansions[0].shell.kind == "step"
    assert found.source.place(rank.span.start)[0] == 1, "it is written in the first line"


def test_wrappers_and_python_modules():
    text = "\n".join(
        (
            "singularity exec --nv -B /a:/b img.sif python3.11 -u -m torch.distributed.run --nproc_per_node=4 t.py",
            "CUDA_VISIBLE_DEVICES=0 nohup env A=1 deepspeed --num_gpus 2 t.py &",
            "/opt/bin/mpiexec -np 8 -bind-to none -mca btl self $(which python) t.py --x",
            "srun $SRUN_ARGS $PYTHON t.py",
            "timeout 5 ssh -p 22 $host uptime",
        )
    )
    names = [[program.name for program in command.programs] for command in script(text).commands if command.argv]
    assert names == [
        ["singularity", "torchrun"],
        ["nohup", "env", "deepspeed"],
        ["which"],
        ["mpirun", "python"],
        ["srun", "python"],
        ["timeout", "ssh"],
    ]


def test_heredocs_are_scripts_where_they_are_run_or_written():
    text = """\
sbatch <<'EOT'
#!/bin/bash
#SBATCH -N 4
srun python a.py $SLURM_PROCID
EOT
cat <<EOF > run.sh
#!/bin/bash
echo \\$SLURM_PROCID $A
EOF
cat > ds.json <<EOF
{"a": 1}
EOF
ssh n1 bash -s <<'EOF'
hostname
EOF
"""
    found = script(text, "submit.sh")
    kinds = [(inner.shell.kind, len(inner.directives)) for inner in found.nested]
    assert found.shell.kind == "script", "the #SBATCH line is in another script"
    assert kinds == [("batch", 1), ("file", 0), ("remote", 0)]
    assert [item.target for item in found.heredocs] == [None, "run.sh", "ds.json", None]


def test_background_pipes_and_loops():
    found = script("(a; b) &\nfor i in 1 2; do c & done\nd | e\nwhile read h; do f; done < hosts\n")
    by_name = {command.name: command for command in found.commands}
    assert [by_name[name].background for name in "abcde"] == [True, True, True, False, False]
    assert (by_name["d"].piped_to, by_name["e"].piped_from) == ("e", "d")
    assert by_name["f"].loop == "while" and by_name["f"].loop_stdin and not by_name["c"].loop_stdin


def test_an_exported_function_may_run_anywhere():
    found = script("f() { echo $SLURM_PROCID; }\nexport -f f\nsrun bash -c f\n")
    assert only(found, "echo").shell.kind == "file"


def test_text_that_is_not_ascii_and_dos_line_ends_keep_their_places():
    found = script('echo "größe" → $X\r\nsrun \\\r\n  -N 2 a\r\n')
    assert found.source.place(only(found, "echo").argv[3].span.start) == (1, 16)
    assert shown(only(found, "srun")) == ["srun", "-N", "2", "a"]


def test_text_that_is_no_shell_is_an_error_with_a_place():
    found = script("if [ 1 ; then\n  echo )\n")
    assert found.errors


def test_the_arguments_of_a_function_that_is_called_once():
    body = 'run() {\n  local s=$1; shift 2\n  torchrun "$s" "$@" $1\n  bash -c "echo" x\n}\n'
    assert shown(only(script(body + 'run t.py no "a b"\n'), "torchrun")) == ["torchrun", "t.py", "a b", "a", "b"]
    assert shown(only(script(body.replace("shift", "echo run it; shift") + "run t.py no a\n"), "torchrun"))[1] == "t.py"
    # other calls have other arguments
    assert shown(only(script(body + "run t.py x a\nrun u.py x b\n"), "torchrun"))[2:] == ["$@", "$1"]
    # the function's own arguments are not those of what it starts
    inner = "run() {\n  ssh h 'torchrun $1'\n  bash -c 'deepspeed $1'\n}\nrun t.py\necho $1\n"
    assert [shown(only(script(inner), name))[1] for name in ("torchrun", "deepspeed", "echo")] == ["$1"] * 3


def test_what_tmux_and_screen_type_is_a_script():
    for text in ("tmux new -d -s a 'cd x; torchrun t.py'", "tmux send-keys -t a 'torchrun t.py' C-m"):
        assert shown(only(script(text), "torchrun")) == ["torchrun", "t.py"]
    assert shown(only(script("screen -S a -X stuff 'torchrun t.py\\n'"), "torchrun"))[0] == "torchrun"
