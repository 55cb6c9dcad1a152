"""Files with pickled values: the results of ranks. Tensors and arrays lie beside the pickle, so a reader can map them.

    16 bytes  MAGIC
    buffers   of arrays and tensors, each at a multiple of 64 bytes, large ones at a multiple of a page
    pickle    protocol 5, with the buffers out of band
    index     JSON: where the buffers and the pickle are, the tensors, and what the writer says about the value
    16 bytes  length of the index (8 bytes, big-endian), and END

The file is written from its beginning to its end, so it can be copied while it grows; without its end it is incomplete.
Ranks get this module as text (`payloads/call.py`): it is standard library only, and imports torch if the value has
tensors.
"""

from __future__ import annotations

import copyreg
import functools
import io
import json
import mmap
import os
import pickle
import sys
import types
from collections import ChainMap
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, ClassVar, NamedTuple

MAGIC, END = b"muster result 1\n", b"\nresult\n"

_IN_BAND = 4096
"""Bytes of a buffer below which it stays in the pickle."""
_MAPPED = 1 << 20
"""Bytes of a buffer from which it is mapped instead of read."""
_SMALL, _PAGE = 64, mmap.ALLOCATIONGRANULARITY
_MAP_NORESERVE = 0x4000
"""Linux: mapped memory does not count before it is used, so a file may be larger than the memory."""
_DEEPEST, _MOST = 8, 2000
"""Limits of the search for what cannot be pickled: levels, and values."""


class Incomplete(ValueError):
    """The file is no result, or its end is missing."""


class Stored(NamedTuple):
    """A value read from a file, or what is said about it."""

    says: Mapping[str, Any]
    """What the writer said about the value."""
    path: str
    contents: Mapping[str, Any]
    """The index at the end of the file."""

    def value(self) -> Any:
        """Unpickle the value: this may run code that the writer chose."""
        return _read_value(self.path, self.contents)


# ---- writing --------------------------------------------------------------------------------------------------------


@functools.cache
def pickler() -> Any:
    """Return a class of cloudpickle picklers that keeps what cloudpickle loses, and notes source files in `sources`."""
    import cloudpickle

    sources: set[str] = set()

    def code(obj: types.CodeType) -> Any:
        # since 3.1 cloudpickle replaces the name of the source file, without which tracebacks show no line
        make, args, *more = cloudpickle.Pickler.dispatch_table[types.CodeType](obj)
        sources.add(obj.co_filename)
        return (make, tuple(obj.co_filename if item == "<dynamic-code>" else item for item in args), *more)

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table: ClassVar[Any] = ChainMap({types.CodeType: code}, cloudpickle.Pickler.dispatch_table)

        def reducer_override(self, obj: Any) -> Any:
            # by default unpickling calls __init__ with the message: an exception with other parameters breaks there
            kind = type(obj)
            usual = getattr(kind, "__reduce__", None) is BaseException.__reduce__
            if isinstance(obj, BaseException) and usual and isinstance(kind.__init__, types.FunctionType):
                return copyreg.__newobj__, (kind, *obj.args), vars(obj) or None  # type: ignore[attr-defined]
            return super().reducer_override(obj)

    Pickler.sources = sources
    return Pickler


def _pickler(file: BinaryIO, buffers: list[Any], tensors: list[dict[str, Any]]) -> Any:
    """Return a pickler that puts large buffers and plain tensors aside."""
    known: dict[int, int] = {}
    storages: dict[int, int] = {}
    kept: list[Any] = []  # ids stay valid as long as their objects live

    def aside(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _IN_BAND:
            return True
        buffers.append(raw)
        return False

    class Pickler(pickler()):  # type: ignore[misc]
        def persistent_id(self, obj: Any) -> Any:
            torch: Any = sys.modules.get("torch")
            if torch is None or type(obj) not in (torch.Tensor, torch.nn.Parameter) or not _is_plain(obj, torch):
                return None
            if id(obj) not in known:
                known[id(obj)] = len(tensors)
                kept.append(obj)
                tensors.append(_put_tensor(obj, torch, storages, buffers, kept))
            return known[id(obj)]

    return Pickler(file, protocol=5, buffer_callback=aside)


def _is_plain(tensor: Any, torch: Any) -> bool:
    return tensor.layout is torch.strided and not tensor.is_quantized and tensor.device.type != "meta"


def _put_tensor(tensor: Any, torch: Any, storages: dict[int, int], buffers: list[Any], kept: list[Any]) -> Any:
    """Put the storage of a tensor aside, once for all tensors that share it; return how to make the tensor again."""
    import ctypes

    data = tensor.detach().cpu().resolve_conj().resolve_neg()
    storage = data.untyped_storage()
    if storage.data_ptr() not in storages:
        kept.append(storage)
        raw = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr()) if storage.nbytes() else b""
        storages[storage.data_ptr()] = len(buffers)
        buffers.append(memoryview(raw).cast("B"))
    return {
        "buffer": storages[storage.data_ptr()],
        "dtype": str(data.dtype).partition(".")[2],
        "offset": data.storage_offset(),
        "shape": list(data.shape),
        "stride": list(data.stride()),
        "grad": tensor.requires_grad,
        "parameter": type(tensor) is torch.nn.Parameter,
    }


def write(path: str, value: Any, says: Mapping[str, Any]) -> None:
    """Write a value, and what is said about it, to a new file. Raises OSError, and what pickling raises."""
    main, buffers, tensors = io.BytesIO(), [], []  # type: tuple[io.BytesIO, list[Any], list[dict[str, Any]]]
    _pickler(main, buffers, tensors).dump(value)
    _write(path, main.getbuffer(), buffers, tensors, says)


def write_words(path: str, says: Mapping[str, Any]) -> None:
    """Write what is said about a value that cannot be pickled. Raises OSError."""
    _write(path, b"", [], [], says)


def _write(path: str, main: Any, buffers: list[Any], tensors: list[Any], says: Mapping[str, Any]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with open(os.open(path, flags, 0o600), "wb") as file:
        file.write(MAGIC)
        places = [_put(file, buffer) for buffer in buffers]
        place = _put(file, main)
        index = {"buffers": places, "pickle": place, "tensors": tensors, "says": dict(says)}
        text = json.dumps(index).encode()
        file.write(text + len(text).to_bytes(8, "big") + END)


def _put(file: BinaryIO, data: Any) -> tuple[int, int]:
    """Write bytes at the next suitable offset; return offset and length."""
    size = memoryview(data).nbytes
    unit = _PAGE if size >= _MAPPED else _SMALL
    file.write(bytes(-file.tell() % unit))
    offset = file.tell()
    file.write(data)
    return offset, size


# ---- reading --------------------------------------------------------------------------------------------------------


def read(path: str) -> Stored:
    """Return what a file says about its value, which is not unpickled yet. Raises OSError, and `Incomplete`."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        tail = len(END) + 8
        if size < len(MAGIC) + tail or file.read(len(MAGIC)) != MAGIC:
            raise Incomplete("not a result")
        file.seek(size - tail)
        ending = file.read(tail)
        length = int.from_bytes(ending[:8], "big")
        if ending[8:] != END or length > size - len(MAGIC) - tail:
            raise Incomplete("incomplete")
        file.seek(size - tail - length)
        try:
            index = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise Incomplete("damaged") from None
    return Stored(index["says"], path, index)


def _read_value(path: str, index: Mapping[str, Any]) -> Any:
    tensors: dict[int, Any] = {}
    storages: dict[int, Any] = {}
    of_tensors = {tensor["buffer"] for tensor in index["tensors"]}

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            if pid not in tensors:
                tensors[pid] = _tensor(index["tensors"][pid], buffers, storages)
            return tensors[pid]

    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        buffers = [_get(file, *place) for place in index["buffers"]]
        file.seek(index["pickle"][0])
        out_of_band = [buffer for number, buffer in enumerate(buffers) if number not in of_tensors]
        return Unpickler(file, buffers=out_of_band).load()  # which reads large objects to where they stay


def _get(file: BinaryIO, offset: int, length: int) -> Any:
    """Return a buffer of the file, writable without effect on the file; a large one is mapped."""
    if length < _MAPPED:
        return bytearray(os.pread(file.fileno(), length, offset))
    flags = mmap.MAP_PRIVATE | _MAP_NORESERVE
    return mmap.mmap(file.fileno(), length, flags, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset)


def _tensor(how: Mapping[str, Any], buffers: list[Any], storages: dict[int, Any]) -> Any:
    import torch

    number, dtype = how["buffer"], getattr(torch, how["dtype"])
    if number not in storages:
        buffer = buffers[number]
        whole = torch.frombuffer(buffer, dtype=torch.uint8) if len(buffer) else torch.empty(0, dtype=torch.uint8)
        storages[number] = whole.untyped_storage()
    found: Any = torch.empty(0, dtype=dtype)
    found = found.set_(storages[number], how["offset"], tuple(how["shape"]), tuple(how["stride"]))
    if how["parameter"]:
        return torch.nn.Parameter(found, requires_grad=how["grad"])
    return found.requires_grad_(how["grad"]) if how["grad"] else found


# ---- what cannot be pickled -----------------------------------------------------------------------------------------


def why_not(value: Any, name: str, error: BaseException) -> str:
    """Return the path to the part of a value that cannot be pickled, and why: `train.<closure>.lock: cannot …`."""
    budget = [_MOST]
    seen: set[int] = set()
    path, at_fault = name, value
    for _ in range(_DEEPEST):
        seen.add(id(at_fault))
        for step, part in _parts(at_fault):
            budget[0] -= 1
            if budget[0] < 0:
                break
            failed = fails(part) if id(part) not in seen else None
            if failed is not None:
                path, at_fault, error = path + step, part, failed
                break
        else:
            break
    words = str(error).partition("\n")[0] or type(error).__name__
    return f"{path}: {words}"


def fails(value: Any) -> BaseException | None:
    """Return the exception of pickling a value; None if that works."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, types.ModuleType)):
        return None
    try:
        _pickler(io.BytesIO(), [], []).dump(value)
    except Exception as error:
        return error
    return None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a value that are pickled with it, each with the step that leads to it."""
    if isinstance(value, types.FunctionType):
        code = value.__code__
        for name, cell in zip(code.co_freevars, value.__closure__ or ()):
            try:
                yield f".<closure>.{name}", cell.cell_contents
            except ValueError:  # an empty cell
                pass
        names = _global_names(code)
        yield from ((f".<global>.{name}", value.__globals__[name]) for name in names if name in value.__globals__)
        yield from ((f".<default>[{number}]", part) for number, part in enumerate(value.__defaults__ or ()))
        yield from ((f".<default>.{name}", part) for name, part in (value.__kwdefaults__ or {}).items())
    elif isinstance(value, functools.partial):
        yield ".func", value.func
        yield from ((f".args[{number}]", part) for number, part in enumerate(value.args))
        yield from ((f".keywords[{name!r}]", part) for name, part in value.keywords.items())
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
        yield ".__func__", value.__func__
    elif isinstance(value, dict):
        yield from ((f"[{key!r}]", part) for key, part in list(value.items()))
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{number}]", part) for number, part in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from (("{…}", part) for part in list(value))
    elif isinstance(value, type):
        yield from ((f".{name}", part) for name, part in list(vars(value).items()) if callable(part))
    else:
        yield from ((f".{name}", part) for name, part in list(getattr(value, "__dict__", {}).items()))
        for name in getattr(type(value), "__slots__", ()):
            if hasattr(value, name):
                yield f".{name}", getattr(value, name)


def _global_names(code: types.CodeType) -> list[str]:
    """Return the names that a function and the functions in it read, in order."""
    found = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found += _global_names(constant)
    return list(dict.fromkeys(found))
