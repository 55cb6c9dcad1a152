"""The catalogue of messages: each kind that the processes of a run send each other, its ends, and its fields.

A message is one frame (`frames.py`): a kind, fields in JSON, and for some kinds bytes beside them. Receivers check
what comes against this table, `docs/reference/protocol.md` is made of it, and `MUSTER_TRACE=1` prints by it.

An agent imports this only when another process of its machine speaks to it: its controller is of the same version, and
each module that an agent imports is compiled again at each start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from muster.protocol.frames import OLDEST
from muster.protocol.message_types import (
    BY_NAME,
    CELLS,
    COUNT,
    ENVIRONMENT,
    FAILURE,
    FLAG,
    HIDDEN,
    HIDDEN_RECORDS,
    HIDDEN_WORDS,
    LAST,
    LATE,
    LIST,
    NUMBERS,
    OFFSETS,
    PAIRS,
    PID,
    PIDS,
    PLACE,
    PROCESSES,
    PROCESSES_BY_RUN,
    RECORDS,
    SECONDS,
    SECRET,
    SIGNAL,
    SIGNALS,
    STACKS,
    STRING,
    STRINGS,
    TABLE,
    TABLES,
    TEXT,
    TEXTS,
    TEXTS_BY_RUN,
    WANT,
    WAYS,
    WHOLE,
    WORD,
    Message,
    Type,
    maybe,
    or_null,
)

BEAT = 5.0
"""Seconds between two signs of life of a client that watches."""

CONTROLLER, AGENT, CLIENT, SHIM = "controller", "agent", "client", "shim"

PROXY, FORK_SERVER = "proxy", "fork server"

START_LEG = "a program that is sent to a host, before it begins"

HANDSHAKE_LEG = "controller and agent, before they know each other"

AGENT_LEG = "controller and agent"

CLIENT_LEG = "client and controller"

LOCAL_LEG = "client and agent"

SHIM_LEG = "rank shim and agent"

PROXY_LEG = "proxy and client"

FORK_LEG = "agent and fork server"

LEGS: Mapping[str, str] = {
    START_LEG: "Agents and proxies are sent as text to the stdin of a Python (`agent/bootstrap.py`). After it "
    "comes this "
    "message in place of arguments: nothing that a user has typed becomes a part of a program.",
    HANDSHAKE_LEG: "An agent on another node connects to its controller by TCP. Both prove that they know the secret "
    "of the run (`protocol/handshake.py`); frames after that end with a MAC. An agent that is a child process needs no "
    "proof: it says `hello` over its stdout.",
    AGENT_LEG: "Over stdin and stdout of the process that starts an agent, later over TCP, or on node 0 over a pair of "
    "sockets. Both are of the same version, or nothing is started. Each message of an agent has the time at "
    "which it was sent, `t`, on the monotonic clock of its machine.",
    CLIENT_LEG: "A command such as `muster attach` or `muster kill` and the controller of a detached run, over a local "
    "socket of node 0. The controller may be of an earlier version: it runs from the `muster.pyz` of its run.",
    LOCAL_LEG: "The same where the run belongs to a terminal of this machine: then its agent listens.",
    SHIM_LEG: "What an external launcher starts in place of the script, and the agent of its machine, over the agent's "
    "local socket.",
    PROXY_LEG: "A small program that a command sends to a host, where it connects to the controller "
    "(`agent/proxy.py`). It is sent by the command that it answers, so both are of one version.",
    FORK_LEG: "The interpreter that has imported torch and forks ranks (`agent/hook/fork_server.py`), over a pair of "
    "sockets. Its "
    "framing is its own: 4 bytes of length, then JSON, in which the kind is named `op`.",
}
"""Who speaks to whom, and how. Between two hosts themselves nothing is said: `probe_routes` only makes connections."""

SINCE: Mapping[str, int] = {
    **dict.fromkeys(("call", "unknown"), 4),
    **dict.fromkeys(
        (
            # before, a few short names meant different things between different processes
            "response",
            *("get_facts", "facts", "write_marker", "marker_written", "check_marker", "marker_checked"),
            *("open_probe_port", "probe_port", "probe_routes", "routes", "detach", "detached", "configure"),
            *("bring", "brought"),
            *("get_env_facts", "env_facts", "open_env", "env_opened", "fetch_env", "env_connected"),
            *("env_piece", "env_behind", "env_ready"),
            "take_place",
            *("relay", "relay_taken", "relay_end"),
            *("start_run", "stop_run", "run_hosted", "run_left", "begin_run", "release", "visit_run"),
            *("open_store", "store_opened", "start_ranks", "ranks_started", "rank_registered", "rank_pids"),
            *("rank_exited", "launcher_exited", "store_exited", "start_failed", "signal_ranks", "forward_signal"),
            *("signal_forwarded", "warn_preemption", "preemption_handlers", "scheduler_signal", "exec_request"),
            *("exec", "exec_exited", "exec_result", "subscribe", "unsubscribe", "credit", "first_output"),
            "no_progress",
            *("get_inspections", "rank_inspections", "get_collectives", "rank_collectives", "inspect", "collectives"),
            *(
                "get_stacks",
                "rank_stacks",
                "get_usage",
                "rank_usage",
                "rank_resources",
                "clean_up",
                "cleaned_up",
                "cleanup_waiting",
            ),
            *("keep_run_dir", "stop_requested", "agent_state", "agent_crashed", "ack"),
            *("attach", "heartbeat", "suspend", "stop", "finished"),
            *("register", "rank_command", "started", "exited", "recorded", "no_controller", "run_described"),
            *("python_probed", "preloaded", "preload_failed", "found_unfit", "fork_failed", "fork"),
        ),
        5,
    ),
}
"""The first version that has a kind, for those that the oldest one has not."""

FORMER: Mapping[str, str] = {
    "attach": "watch",
    "credit": "taken",
    "heartbeat": "beat",
    "suspend": "pause",
    "stop": "asked",
    "forward_signal": "pass",
    "finished": "over",
}
"""What kinds between a client and a controller were called before version 5, by their names now. Both ends may be of
different versions there. `state`, `answer` and `unknown`, by which they learn which, keep their names for ever."""

_NO_FIELDS: Mapping[str, Type] = {}

_USAGE: Mapping[str, Type] = {
    "progress": maybe(FLAG),
    "tail_of": maybe(or_null(WHOLE)),
    "only_steps": maybe(FLAG),
}

_VERSION = maybe(WHOLE)

_MOVED: Mapping[str, Type] = {"failed": STRING, "limit": FLAG}

_FACTS: Mapping[str, Type] = {
    **dict.fromkeys(("host", "boot", "reached_at", "script", "home", "unwritable"), TEXT),
    **dict.fromkeys(("cores", "all_cores"), WHOLE),
    **dict.fromkeys(("interface_names", "gpus", "temporary"), TEXTS),
    **dict.fromkeys(("cwd", "shared", "full"), FLAG),
    **dict.fromkeys(("limits", "shm"), TABLE),
    "interfaces": PAIRS,
    "env": ENVIRONMENT,
    # of an agent that a scheduler has started
    **dict.fromkeys(("name", "step", "python", "executable"), maybe(TEXT)),
    "folder": maybe(PLACE),
    "digests": maybe(BY_NAME),
    "ways": maybe(WAYS),
}


_CROSSING: Mapping[str, Type] = {"attempt": WHOLE, "node": WHOLE, "number": WHOLE}

_RELAY: Mapping[str, tuple[Any, ...]] = {
    "relay": (
        "Bytes of a connection between a rank and the store; `node`: that of the other end; `last`: none follow.",
        {**_CROSSING, "offset": COUNT, "last": FLAG},
        "the bytes from `offset` on",
    ),
    "relay_taken": (
        "Acknowledges the first `upto` bytes of such a connection: the socket has them.",
        {**_CROSSING, "upto": COUNT},
    ),
    "relay_end": ("Such a connection is gone.", _CROSSING),
}
"""What agents send each other by way of the controller (`agent/store_relay.py`)."""


def _leg(
    leg: str, sender: str, receiver: str, messages: Mapping[str, tuple[Any, ...]], **common: Type
) -> tuple[Message, ...]:
    return tuple(
        Message(leg, sender, receiver, kind, says, {**common, **fields}, "".join(more), SINCE.get(kind, OLDEST))
        for kind, (says, fields, *more) in messages.items()
    )


MESSAGES: tuple[Message, ...] = (
    *(
        Message(
            *(START_LEG, sender, receiver, "call", "What the program is to do.", {"name": WORD, "args": HIDDEN}),
            since=SINCE["call"],
        )
        for sender, receiver in ((CONTROLLER, AGENT), (CLIENT, PROXY))
    ),
    *_leg(
        HANDSHAKE_LEG,
        CONTROLLER,
        AGENT,
        {
            "challenge": (
                "The version that the controller speaks, and something to prove the secret with.",
                {"version": WHOLE, "nonce": SECRET},
            ),
            "welcome": (
                "Proves the secret in return; says which incarnation of the controller this is, and what it has heard.",
                {"incarnation": SECRET, "heard": COUNT, "mac": SECRET},
            ),
        },
    ),
    *_leg(
        HANDSHAKE_LEG,
        AGENT,
        CONTROLLER,
        {
            "response": (
                "Proves the secret; says which node this is, which controller it knew, and what it has heard of that.",
                {"node": WHOLE, "nonce": SECRET, "incarnation": SECRET, "heard": COUNT, "mac": SECRET},
            ),
        },
    ),
    *_leg(
        AGENT_LEG,
        CONTROLLER,
        AGENT,
        {
            "get_facts": (
                "Asks for the facts of the machine.",
                {"cwd": TEXT, "script": TEXT, "run_dir": TEXT},
            ),
            "write_marker": ("Asks for a marker in a run directory, which other nodes may share.", {"run_dir": TEXT}),
            "check_marker": ("Asks whether that marker is seen here.", {"run_dir": TEXT}),
            "compare": (
                "Asks which files of a directory differ from those of the sender.",
                {"root": TEXT, "home": maybe(TEXT), "place": maybe(or_null(PLACE))},
                "names and what identifies the files, as JSON",
            ),
            "remember": (
                "Has the agent write down which files were sent to this directory.",
                {"root": TEXT, "home": TEXT},
                "names and what identifies the files, as JSON",
            ),
            "bring": (
                "A piece of a file for a run directory that the node does not share: the function that ranks call.",
                {"run_dir": TEXT, "name": WORD, "offset": COUNT},
                "the bytes of the file from `offset` on",
            ),
            "get_env_facts": (
                "Asks what the host has for an environment that is to be sent.",
                {"named": TEXT, "usual": TEXT, "version": WORD, "folder": TEXT, "paths": TEXTS},
            ),
            "open_env": (
                "Has the host prepare for an environment, unless it has it.",
                {"root": TEXT, "address": WORD, "base": TEXT, "similar": TEXT, "secret": SECRET},
            ),
            "fetch_env": (
                "Has the host get the environment from another one, which gets it at the same time.",
                {"addresses": TEXTS, "port": WHOLE, "patience": SECONDS},
            ),
            "env_piece": (
                "A piece of the environment; hosts send the same message to those that fetch it from them.",
                {"packed": FLAG, "last": FLAG},
                "the list of files, then their contents",
            ),
            "open_probe_port": ("Asks for a port at which other nodes try to connect.", _NO_FIELDS),
            "probe_routes": (
                "Asks to try connections to another node.",
                {"addresses": TEXTS, "port": WHOLE, "patience": SECONDS},
            ),
            "probe": ("Asks for what `muster doctor` looks at.", {"names": TEXTS, "folders": TEXTS}),
            "clock": ("Asks what time it is on the agent's clock.", _NO_FIELDS),
            "detach": (
                "Has the agent leave the connection that started it, for a controller on node 0.",
                {
                    "configuration": HIDDEN,
                    "secret": SECRET,
                    "lease": SECONDS,
                    "address": TEXT,
                    "port": WHOLE,
                    "files": HIDDEN,
                    "stays": FLAG,
                },
                "muster.pyz, for node 0",
            ),
            "configure": (
                "Configures the agent for the run: what its node is to start, where, and with what.",
                {
                    "run_dir": TEXT,
                    "run_id": TEXT,
                    "token": SECRET,
                    "node": WHOLE,
                    "host": TEXT,
                    "commands": HIDDEN_RECORDS,
                    "environment": HIDDEN,
                    "preload": TEXTS,
                    "last_imports": maybe(or_null(TABLE)),
                    "stdin_rank": or_null(WHOLE),
                    "floor": TEXT,
                    "brings": HIDDEN,
                    "want": maybe(WANT),
                    "own_run_dir": maybe(FLAG),
                    "path_first": maybe(FLAG),
                    "rank_command": maybe(or_null(HIDDEN)),
                    "external_rendezvous": maybe(FLAG),
                    "stdin": maybe(or_null(WHOLE)),
                    "log_dir": maybe(TEXT),
                    "clock": maybe(or_null(SECONDS)),
                    "terminal": maybe(or_null(TABLE)),
                    "trace": maybe(FLAG),
                    "script": maybe(TEXT),
                    "hang_timeout": maybe(SECONDS),
                    "hang_from_start": maybe(FLAG),
                    "hold": maybe(FLAG),
                },
            ),
            "stand_by": (
                "Has the agent of a spare host wait until it takes the place of a node.",
                {
                    "run_dir": TEXT,
                    "run_id": TEXT,
                    "token": SECRET,
                    "node": WHOLE,
                    "parts": HIDDEN,
                    "own_run_dir": maybe(FLAG),
                },
            ),
            "start_run": (
                "Has the agent of a session host a run; `port` is that of its controller, 0 for node 0 of `nodes`.",
                {"run_id": TEXT, "sealed": FLAG, "port": WHOLE, "nodes": WHOLE},
                "what `detach` brings, as JSON; to other nodes than the first it is `sealed` (`protocol/sealing.py`)",
            ),
            "stop_run": (
                "Has the agent of a session end the run that is there; `cause`: because the scheduler ends the job.",
                {"by": STRING, "cause": maybe(STRING), "within": maybe(SECONDS)},
            ),
            "take_place": ("Has a spare host take the place of this node.", {"node": WHOLE}),
            "open_store": (
                "Has node 0, or the first node of a role, open the port of an attempt's store; `free`: find one more.",
                {"attempt": WHOLE, "host": TEXT, "free": maybe(FLAG), "relays": maybe(FLAG)},
            ),
            "start_ranks": (
                "Starts all ranks of the node; `store_node`: relay their connections to the store of that node.",
                {"attempt": WHOLE, "late": LATE, "store_node": maybe(WHOLE)},
            ),
            **_RELAY,
            "signal_ranks": (
                "Sends a signal to ranks, and to an external launcher; `inspect`: after an inspection of that number.",
                {"number": WHOLE, "ranks": NUMBERS, "launchers": maybe(FLAG), "inspect": maybe(or_null(WHOLE))},
            ),
            "forward_signal": ("Passes a signal on to the ranks that have a handler for it.", {"number": WHOLE}),
            "warn_preemption": (
                "Warns the ranks that have a handler for this signal that the job ends soon; `text` is for the user.",
                {"name": WORD, "cause": maybe(STRING), "text": maybe(STRING)},
            ),
            "exec": (
                "Starts something for the launcher of another node, as ssh would.",
                {"number": WHOLE, "words": HIDDEN_WORDS, "env": ENVIRONMENT, "by": WHOLE},
            ),
            "exec_result": (
                "What a launcher of this node had started on another one has ended.",
                {"number": WHOLE, "code": WHOLE},
            ),
            "resize": ("The size of the terminal that shows the run has changed.", {"rows": CELLS, "columns": CELLS}),
            "stdin": (
                "Input for the rank that reads stdin.",
                {"at": COUNT, "end": FLAG},
                "the input from byte `at` on",
            ),
            "subscribe": (
                "Subscribes to the output of ranks.",
                {"reader": WORD, "want": WANT, "offsets": OFFSETS, "tail": or_null(COUNT)},
            ),
            "unsubscribe": ("Ends a subscription.", {"reader": WORD}),
            "credit": (
                "So many bytes of a subscription were shown or kept, and as many more may be sent.",
                {"count": COUNT, "reader": maybe(WORD)},
            ),
            "get_stacks": (
                "Asks for the Python stacks of ranks.",
                {"ranks": or_null(NUMBERS), "number": WHOLE},
            ),
            "get_inspections": (
                "Asks what ranks are doing: stacks, collectives, threads.",
                {"ranks": or_null(NUMBERS), "number": WHOLE},
            ),
            "get_collectives": ("Asks when the ranks called their last collectives.", {"number": WHOLE}),
            "get_usage": (
                "Asks for memory, CPU, steps; `progress`: and collectives; `tail_of`: and last output of a rank.",
                {"number": WHOLE, **_USAGE},
            ),
            "clean_up": (
                "Has the node end what is left of the attempt.",
                {"patience": SECONDS, "well": maybe(FLAG)},
            ),
            "keep_run_dir": (
                "Not all of the logs could be copied: their run directory on the node is to be kept.",
                _NO_FIELDS,
            ),
            "bye": ("The run is over: send the rest of the logs, and end.", {"drain": maybe(FLAG)}),
        },
    ),
    *_leg(
        AGENT_LEG,
        AGENT,
        CONTROLLER,
        {
            "hello": (
                "The agent lives, and speaks this version.",
                {"version": WHOLE, "pid": WHOLE, "python": TEXT, "executable": TEXT, "host": TEXT},
            ),
            "facts": ("The facts of the machine.", _FACTS),
            "marker_written": ("The marker is there.", _NO_FIELDS),
            "marker_checked": ("Whether the marker is seen here.", {"shares": FLAG}),
            "compared": (
                "Digests of the files that differ, and files that were sent once and are no more.",
                {"digests": BY_NAME, "stale": TEXTS},
            ),
            "remembered": ("It is written down.", _NO_FIELDS),
            "brought": ("The piece is written; `failed` is the error if it is not.", {"failed": STRING}),
            "env_facts": (
                "What the host has for an environment: a base interpreter, space, and environments by address.",
                {
                    **dict.fromkeys(("machine", "base", "root", "failed"), TEXT),
                    "free": COUNT,
                    **dict.fromkeys(("known", "absent"), TEXTS),
                },
            ),
            "env_opened": (
                "The port at which other hosts get the environment; 0 if the host has it.",
                {"port": WHOLE, "failed": STRING},
            ),
            "env_connected": ("Whether the host reached the other one.", {"failed": STRING}),
            "env_behind": (
                "The host unpacks more slowly than pieces arrive, or no longer does: compression would not help it.",
                {"behind": FLAG},
            ),
            "env_ready": (
                "The environment is complete; else `failed`.",
                {"path": TEXT, "failed": STRING},
            ),
            "probe_port": ("The port at which other nodes may try to connect.", {"port": WHOLE}),
            "routes": ("Which addresses could be connected to, or why not.", {"ways": WAYS}),
            "probed": (
                "What the doctor wants to know.",
                {
                    "wall": SECONDS,
                    "at": SECONDS,
                    "infiniband": STRINGS,
                    "kills_user_processes": FLAG,
                    **dict.fromkeys(("mtus", "own", "nobody", "names", "folders", "torch", "smi"), TABLE),
                },
            ),
            "clock": ("The time is `t`.", _NO_FIELDS),
            "ready": (
                "Ranks can be started; `why` they will not be forked, where that is so.",
                {
                    "fork": FLAG,
                    "why": STRING,
                    "torch": maybe(or_null(STRING)),
                    "cuda": maybe(or_null(STRING)),
                    "times": maybe(or_null(TABLE)),
                    "found": maybe(STRINGS),
                },
            ),
            "run_hosted": (
                "Its controller listens at `port`; or why the run `failed`; `run_dir` if it was there before.",
                {"run_id": TEXT, "failed": STRING, "port": WHOLE, "run_dir": STRING},
            ),
            "run_left": ("Nothing of the run is left on the node.", {"run_id": TEXT}),
            "start_failed": (
                "Ranks cannot be started; `what` says which of the other fields there are.",
                {
                    "what": STRING,
                    **dict.fromkeys(("name", "module", "text"), maybe(STRING)),
                    **dict.fromkeys(("version", "torch"), maybe(or_null(STRING))),
                    **dict.fromkeys(("code", "signal"), maybe(or_null(WHOLE))),
                    **dict.fromkeys(("rank", "number"), maybe(WHOLE)),
                    **dict.fromkeys(("missing", "limit"), maybe(FLAG)),
                },
            ),
            "store_opened": (
                "The port of the attempt's store is open; `free` is another free port.",
                {"attempt": WHOLE, "port": WHOLE, "free": maybe(WHOLE)},
            ),
            **_RELAY,
            "ranks_started": (
                "The ranks of the node, or its launchers, were started.",
                {"attempt": WHOLE, "pids": PIDS},
            ),
            "rank_registered": (
                "A rank that an external launcher has started says who it is.",
                {"attempt": WHOLE, "rank": WHOLE, "launcher": TEXT, "world_size": or_null(WHOLE)},
            ),
            "rank_pids": ("The program of such a rank runs.", {"attempt": WHOLE, "pids": PIDS}),
            "launcher_exited": (
                "An external launcher has ended.",
                {
                    "attempt": WHOLE,
                    "code": or_null(WHOLE),
                    "signal": or_null(WHOLE),
                    "name": STRING,
                    "words": STRINGS,
                },
            ),
            "exec_request": (
                "A launcher wants to start something on another node.",
                {"number": WHOLE, "host": TEXT, "words": HIDDEN_WORDS, "env": ENVIRONMENT},
            ),
            "exec_exited": (
                "What was started for another node has ended.",
                {"number": WHOLE, "code": WHOLE, "by": WHOLE},
            ),
            "signal_forwarded": ("The ranks to which a signal was passed on.", {"number": WHOLE, "ranks": NUMBERS}),
            "scheduler_signal": ("The scheduler has sent SIGTERM to this agent.", _NO_FIELDS),
            "preemption_handlers": (
                "The ranks that have a handler for the warning; `cause`: of the end of the session's job.",
                {"ranks": NUMBERS, "cause": maybe(STRING)},
            ),
            "first_output": ("A rank has written its first output.", {"rank": WHOLE, "attempt": WHOLE}),
            "output": (
                "What a rank has written, for a subscription.",
                {"reader": WORD, "rank": WHOLE, "stream": WORD, "attempt": WHOLE, "offset": COUNT},
                "the bytes of the log from `offset` on",
            ),
            "unlogged": (
                "What a log lacks, as it cannot be written.",
                {
                    "attempt": WHOLE,
                    "rank": WHOLE,
                    "stream": WORD,
                    "missing": COUNT,
                    "why": STRING,
                    "going_on": FLAG,
                },
            ),
            "stdin_taken": ("The rank that reads stdin has taken it up to here.", {"upto": COUNT}),
            "rank_exited": (
                "A rank has ended: how, why as far as its stderr tells, what it used, and what the kernel knows of it.",
                {
                    "attempt": WHOLE,
                    "rank": WHOLE,
                    "code": or_null(WHOLE),
                    "signal": or_null(WHOLE),
                    "why": maybe(FAILURE),
                    "notes": maybe(STRINGS),
                    "asked": maybe(or_null(SECONDS)),
                    "usage": maybe(or_null(TABLE)),
                    "facts": maybe(or_null(TABLE)),
                },
            ),
            "store_exited": (
                "The process of the attempt's store has ended.",
                {"code": or_null(WHOLE), "signal": or_null(WHOLE)},
            ),
            "cleanup_waiting": ("Ranks have left processes behind, which are waited for.", {"left": PROCESSES}),
            "cleaned_up": (
                "Nothing of the attempt is left: what was killed, and what could not be.",
                {"ended": PROCESSES, "left": PROCESSES},
            ),
            "rank_stacks": (
                "The Python stacks of ranks, and the processes of ranks that cannot tell.",
                {"number": WHOLE, "texts": STACKS, "mute": PIDS},
            ),
            "no_progress": (
                "No rank of the node has made progress `since` this time on the agent's clock.",
                {"attempt": WHOLE, "since": SECONDS},
            ),
            "rank_inspections": (
                "What the ranks are doing (`core/inspection.py`); `epoch`: the time of day minus the monotonic clock.",
                {"number": WHOLE, "inspections": RECORDS, "epoch": SECONDS},
            ),
            "rank_collectives": (
                "When the ranks called their last collectives.",
                {"number": WHOLE, "times": RECORDS, "epoch": SECONDS},
            ),
            "rank_usage": ("Memory and CPU of the ranks.", {"number": WHOLE, "ranks": TABLES}),
            "rank_resources": (
                "Memory and CPU of the ranks over time, of an attempt that is over.",
                {"attempt": WHOLE, "began": SECONDS},
                "the text of `resources_NODE.json`",
            ),
            "provenance": (
                "What runs on the node: packages, code, machine; see `core/provenance.py`.",
                {"found": HIDDEN},
            ),
            "note": ("Something that the user should know.", {"text": STRING}),
            "stop_requested": (
                "Somebody on this machine wants the run to end; `cause`: a scheduler, which ends the session's job.",
                {"what": WORD, "by": TEXT, "cause": maybe(STRING), "within": maybe(SECONDS)},
            ),
            "agent_state": (
                "The last attempts started and listened for, and the `signals` in it so far, to a new controller.",
                {"started": LAST, "listened": LAST, "signals": maybe(COUNT)},
            ),
            "agent_crashed": (
                "The agent has failed, and ends; `limit`: its user may have no more processes.",
                {"text": STRING, "limit": FLAG},
            ),
        },
        t=SECONDS,
    ),
    *_leg(
        AGENT_LEG,
        AGENT,
        CONTROLLER,
        {"detached": ("The agent has left this connection; or why it could not, as in `agent_crashed`.", _MOVED)},
    ),
    *(
        Message(
            AGENT_LEG,
            sender,
            receiver,
            "ack",
            "So many messages have come; over TCP each end keeps what the other may not have.",
            {"heard": COUNT},
            since=SINCE["ack"],
        )
        for sender, receiver in ((CONTROLLER, AGENT), (AGENT, CONTROLLER))
    ),
    *_leg(
        CLIENT_LEG,
        CLIENT,
        CONTROLLER,
        {
            "attach": (
                "Subscribes to output and events; `owner`: the run ends with this client, which has sent the `stops`.",
                {
                    "want": WANT,
                    "offsets": OFFSETS,
                    "tail": or_null(COUNT),
                    "events": COUNT,
                    "owner": FLAG,
                    "stops": maybe(SIGNALS),
                    "version": _VERSION,
                },
            ),
            "state": (
                "Asks which version the controller speaks, and how the run stands; every controller answers it.",
                {"version": _VERSION},
            ),
            "credit": (
                "So many bytes of output of a node were shown, and as many more may be sent.",
                {"node": WHOLE, "count": COUNT},
            ),
            "heartbeat": ("A sign of life.", _NO_FIELDS),
            "suspend": ("The client is stopped, and gives no signs of life.", _NO_FIELDS),
            "stop": ("The user has sent this signal to end the run.", {"number": SIGNAL}),
            "forward_signal": ("The user has sent this signal for the ranks.", {"number": SIGNAL}),
            "kill": ("Asks to end the run.", {"by": maybe(TEXT)}),
            "begin_run": (
                "Asks a session to host a run.",
                _NO_FIELDS,
                "its configuration with the parts of all nodes, as JSON",
            ),
            "release": ("Asks a session to end; `force`: with its run.", {"by": maybe(TEXT), "force": maybe(FLAG)}),
            "resize": ("The size of the owner's terminal has changed.", {"rows": CELLS, "columns": CELLS}),
            "stdin": (
                "Input for the rank that reads stdin.",
                {"at": COUNT, "end": FLAG},
                "the input from byte `at` on",
            ),
            "stacks": ("Asks for the Python stacks of ranks.", {"ranks": maybe(or_null(NUMBERS))}),
            "inspect": (
                "Asks what ranks are doing; `keep`: the answer is also written to the run directory.",
                {"ranks": maybe(or_null(NUMBERS)), "keep": maybe(FLAG)},
            ),
            "collectives": ("Asks when the ranks called their last collectives.", _NO_FIELDS),
            "usage": (
                "Asks for memory, CPU, steps; `progress`: and collectives; `tail_of`: and last output of a rank.",
                _USAGE,
            ),
        },
    ),
    *_leg(
        CLIENT_LEG,
        CONTROLLER,
        CLIENT,
        {
            "run": (
                "What is watched, and how it stands.",
                {"id": TEXT, "phase": WORD, "plan": HIDDEN, "version": _VERSION},
            ),
            "event": ("A line of events.jsonl.", {"number": COUNT}, "the line, as JSON"),
            "output": (
                "What a rank has written.",
                {"node": WHOLE, "rank": WHOLE, "stream": WORD, "attempt": WHOLE, "offset": COUNT},
                "the bytes of the log from `offset` on",
            ),
            "stdin_taken": ("The rank that reads stdin has taken it up to here.", {"upto": COUNT}),
            "finished": (
                "The run is over: its outcome; `complete`: all agents have sent all output.",
                {"outcome": TABLE, "complete": maybe(FLAG)},
            ),
            "answer": (
                "The answer to the other requests; `missing` are nodes that did not answer.",
                {
                    "version": _VERSION,
                    "phase": maybe(WORD),
                    "attempt": maybe(WHOLE),
                    "alive": maybe(NUMBERS),
                    "parted": maybe(STRINGS),
                    "texts": maybe(STACKS),
                    "mute": maybe(PIDS),
                    "ranks": maybe(TABLES),
                    "missing": maybe(NUMBERS),
                    "snapshot": maybe(TABLE),
                    "times": maybe(RECORDS),
                    "clock_offsets": maybe(LIST),
                    "session": maybe(TABLE),
                },
            ),
            "unknown": (
                "The controller does not know the kind of message `what`.",
                {"what": STRING, "version": WHOLE},
            ),
        },
    ),
    *_leg(
        LOCAL_LEG,
        CLIENT,
        AGENT,
        {
            "state": ("Asks which version the agent speaks; an earlier one answers without it.", {"version": _VERSION}),
            "kill": ("Asks to end the run; the controller decides how.", {"by": maybe(or_null(TEXT))}),
            "end": ("Has the agent end everything by itself: the controller did not.", _NO_FIELDS),
            "stacks": ("Asks for the Python stacks of ranks.", {"ranks": maybe(or_null(NUMBERS))}),
            "inspect": (
                "Asks what ranks are doing; an agent writes it nowhere.",
                {"ranks": maybe(or_null(NUMBERS)), "keep": maybe(FLAG)},
            ),
            "collectives": ("Asks when the ranks called their last collectives.", _NO_FIELDS),
            "usage": (
                "Asks for memory, CPU, steps; `progress`: and collectives; `tail_of`: and last output of a rank.",
                _USAGE,
            ),
        },
    ),
    *_leg(
        LOCAL_LEG,
        AGENT,
        CLIENT,
        {
            "answer": (
                "The answer to any of these.",
                {
                    "version": _VERSION,
                    "texts": maybe(STACKS),
                    "mute": maybe(PIDS),
                    "ranks": maybe(TABLES),
                    "snapshot": maybe(TABLE),
                    "times": maybe(RECORDS),
                },
            ),
            "unknown": (
                "The agent does not know the kind of message `what`.",
                {"what": STRING, "version": WHOLE},
            ),
        },
    ),
    *_leg(
        SHIM_LEG,
        SHIM,
        AGENT,
        {
            "register": (
                "A rank says who it is, and wants to know what to run.",
                {
                    "version": WHOLE,
                    "rank": WHOLE,
                    "launcher": TEXT,
                    **dict.fromkeys(("world_size", "local_rank", "local_world_size", "node_rank"), or_null(WHOLE)),
                },
            ),
            "exec_request": (
                "A launcher wants to start something on another host.",
                {"host": TEXT, "words": HIDDEN_WORDS, "env": ENVIRONMENT},
            ),
            "started": ("The program of the rank runs.", {"pid": PID}),
            "exited": (
                "It has ended: how, when the launcher had asked it to, and what the kernel knows of it.",
                {
                    "code": or_null(WHOLE),
                    "signal": or_null(WHOLE),
                    "asked": maybe(or_null(SECONDS)),
                    "usage": maybe(TABLE),
                    "limits": maybe(TABLE),
                    "cgroups": maybe(STRING),
                },
            ),
        },
    ),
    *_leg(
        SHIM_LEG,
        AGENT,
        SHIM,
        {
            "rank_command": (
                "What the rank is to run; or why it was `refused`.",
                {
                    "refused": maybe(STRING),
                    **dict.fromkeys(("argv", "logs"), maybe(HIDDEN_WORDS)),
                    **dict.fromkeys(("args_index",), maybe(or_null(WHOLE))),
                    **dict.fromkeys(("cwd", "hook", "screen"), maybe(TEXT)),
                    "environment": maybe(HIDDEN),
                    "stack": maybe(TABLE),
                    "cpus": maybe(NUMBERS),
                    **dict.fromkeys(("out", "err"), maybe(TEXTS)),
                    "pipes": maybe(or_null(TEXTS)),
                    "stdin": maybe(FLAG),
                    "grace": maybe(SECONDS),
                },
            ),
            "exec_result": ("What was started on another host has ended.", {"code": WHOLE}),
            "recorded": ("The end of the rank is written down, so the shim may end.", _NO_FIELDS),
        },
    ),
    *_leg(
        PROXY_LEG,
        PROXY,
        CLIENT,
        {
            "no_controller": ("There is no controller here; `there`: the run directory is.", {"there": maybe(FLAG)}),
            "run_described": (
                "A run that was started elsewhere: its directory, job.json and plan.json, and the runs that fit.",
                {"there": TEXT, "files": Type("object of strings", BY_NAME.right), "fits": maybe(TEXTS)},
            ),
            "file": (
                "A piece of a file of the run.",
                {"name": TEXT, "offset": COUNT, "whole": FLAG},
                "the piece",
            ),
            "done": ("There is no more.", _NO_FIELDS),
            "cleaned": (
                "What `muster clean` has found of each run, and the processes that it could not end.",
                {"runs": PROCESSES_BY_RUN, "folders": TEXTS_BY_RUN, "left": PROCESSES, "environments": maybe(TEXTS)},
            ),
        },
    ),
    *_leg(
        PROXY_LEG,
        CLIENT,
        PROXY,
        {
            "files": (
                "Asks for what the files of the run have more than so many bytes; `last`: for nothing after that.",
                {"have": OFFSETS, "last": FLAG},
            ),
            "visit_run": ("Has the proxy leave a session for the controller of a run there.", {"run_dir": TEXT}),
        },
    ),
    *_leg(
        FORK_LEG,
        FORK_SERVER,
        AGENT,
        {
            "python_probed": (
                "This Python reaches the hook; which torch it would import.",
                {
                    "torch": or_null(STRING),
                    "cuda": or_null(STRING),
                    "has_torch": FLAG,
                    "python": STRING,
                    "path": STRINGS,
                },
            ),
            "preloaded": (
                "All is imported; or why ranks must not be forked.",
                {
                    "unfit": or_null(STRING),
                    "namesakes": STRINGS,
                    "reads": STRINGS,
                    "times": TABLE,
                    "torch": or_null(STRING),
                    "cuda": or_null(STRING),
                    "python": STRING,
                    "path": maybe(STRINGS),
                    "files": maybe(STRINGS),
                },
            ),
            "preload_failed": (
                "A module could not be imported.",
                {"module": STRING, "missing": FLAG, "text": STRING, "trace": STRING},
            ),
            "found_unfit": (
                "An import of the script cannot be made before the script makes it; the fork server exits.",
                {"statement": STRING, "why": STRING},
            ),
            "forked": ("The ranks were forked.", {"order": WHOLE, "pids": PIDS}),
            "fork_failed": (
                "They could not all be forked; `limit`: the user may have no more processes.",
                {"order": WHOLE, "pids": PIDS, "text": STRING, "limit": FLAG},
            ),
        },
    ),
    *_leg(
        FORK_LEG,
        AGENT,
        FORK_SERVER,
        {
            "fork": (
                "Forks ranks, or the process of the store, with the first `passes` files that came; it has no `op`.",
                {"order": WHOLE, "children": HIDDEN, "passes": WHOLE},
            )
        },
    ),
)


def between(sender: str, receiver: str) -> dict[str, Message]:
    """What is sent from one to the other once they know each other, by kind."""
    return {
        message.kind: message
        for message in MESSAGES
        if (message.sender, message.receiver) == (sender, receiver) and message.leg not in (START_LEG, HANDSHAKE_LEG)
    }


TO_CONTROLLER, TO_AGENT = between(AGENT, CONTROLLER), between(CONTROLLER, AGENT)

FROM_CLIENT, TO_CLIENT = between(CLIENT, CONTROLLER), between(CONTROLLER, CLIENT)

ON_MACHINE = {**between(CLIENT, AGENT), **between(SHIM, AGENT)}
"""What the agent hears from other processes of its machine."""
