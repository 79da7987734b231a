"""Pickles of tensors, followed and never executed.

Two dozen of a pickle's instructions are enough for a dictionary of tensors. Any other is refused, nothing is
called, and no numbers are read: what comes out says only where they lie.
"""

import pickletools
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

MAX_TENSORS = 10_000
MAX_BYTES = 4 << 20
MAX_INSTRUCTIONS = 100 * MAX_TENSORS
MAX_STACK = 10_000  # a pickler hands over a thousand entries at a time
MAX_DIMENSIONS = 8
DTYPES = {
    "torch BFloat16Storage": torch.bfloat16,
    "torch HalfStorage": torch.float16,
    "torch FloatStorage": torch.float32,
}
CONSTANTS = {"NEWTRUE": True, "NEWFALSE": False, "NONE": None}
MARK = object()


@dataclass(frozen=True)
class Storage:
    """Numbers that a file holds under a key. length: how many."""

    key: str
    dtype: torch.dtype
    length: int


@dataclass(frozen=True)
class Described:
    """A tensor as a pickle describes it. offset, stride: in numbers of its storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Global:
    name: str


def follow(data: bytes | BinaryIO) -> Any:
    """What a pickle describes, read up to its end. ValueError names the first thing that is no tensor's."""
    try:
        return _Machine().run(data)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as fault:
        raise ValueError(f"damaged, {type(fault).__name__}") from fault


def tensors(state: Any) -> dict[str, Described]:
    """The tensors of a state dictionary. ValueError when it is none, or holds too many."""
    if not isinstance(state, dict) or not all(isinstance(value, Described) for value in state.values()):
        raise ValueError("no dictionary of tensors")
    if len(state) > MAX_TENSORS:
        raise ValueError(f"{len(state):,} tensors, more than {MAX_TENSORS:,}")
    return state


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes | BinaryIO) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data), 1):
            if opcode.name == "STOP":
                return self.stack.pop()
            if count > MAX_INSTRUCTIONS or len(self.stack) > MAX_STACK:
                raise ValueError("more instructions than a dictionary of tensors takes")
            self._do(opcode.name, argument)
        raise ValueError("the end is missing")

    def _do(self, instruction: str, argument: Any) -> None:
        stack, memo = self.stack, self.memo
        match instruction:
            case "PROTO" | "FRAME":
                pass
            case "GLOBAL":
                stack.append(_Global(argument))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                if not isinstance(name, str) or not isinstance(module, str):
                    raise ValueError("a name that is no text")
                stack.append(_Global(f"{module} {name}"))
            case "MARK":
                stack.append(MARK)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1":
                stack.append(argument)
            case "NEWTRUE" | "NEWFALSE" | "NONE":
                stack.append(CONSTANTS[instruction])
            case "TUPLE":
                stack.append(tuple(self._marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(instruction[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_called(stack.pop(), arguments))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._set([key], [value])
            case "SETITEMS":
                items = self._marked()
                self._set(items[::2], items[1::2])
            case "APPEND":
                item = stack.pop()
                self._last(list).append(item)
            case "APPENDS":
                items = self._marked()
                self._last(list).extend(items)
            case "BUILD":
                stack.pop()  # the attributes of a dictionary, such as torch's `_metadata`
            case other:
                raise ValueError(f"instruction {other}")

    def _marked(self) -> list[Any]:
        """What was put on the stack since the last mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not MARK:
            at -= 1
            if at < 0:
                raise ValueError("a mark is missing")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _last(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"an entry of what is no {kind.__name__}")
        return self.stack[-1]

    def _set(self, keys: list[Any], values: list[Any]) -> None:
        # tuples of tuples would take forever to hash, or all of the C stack
        if len(keys) != len(values) or not all(type(key) is str for key in keys):
            raise ValueError("a key that is no text")
        self._last(dict).update(zip(keys, values, strict=True))


def _storage(described: Any) -> Storage:
    # before torch 1.6 a view of another storage could follow; torch itself wrote None from 0.4 on
    kind, dtype, key, _, length = described[:5]
    if kind != "storage" or not isinstance(dtype, _Global) or dtype.name not in DTYPES or any(described[5:]):
        raise ValueError(f"storage of {dtype.name if isinstance(dtype, _Global) else 'no known kind'}")
    if type(length) is not int or not 0 <= length < 2**48 or type(key) is not str:
        raise ValueError("a storage without a length")
    return Storage(key, DTYPES[dtype.name], length)


def _called(function: Any, arguments: Any) -> Any:
    name = function.name if isinstance(function, _Global) else "what is no function"
    if name == "collections OrderedDict" and arguments == ():
        return {}
    if name == "torch._utils _rebuild_parameter" and isinstance(arguments[0], Described):
        return arguments[0]
    if name != "torch._utils _rebuild_tensor_v2":
        raise ValueError(f"a call of {name.replace(' ', '.')}")
    storage, offset, shape, stride = arguments[:4]
    if not isinstance(storage, Storage) or len(shape) != len(stride):
        raise ValueError("a tensor without a storage")
    if len(shape) > MAX_DIMENSIONS or not all(
        type(number) is int and 0 <= number < 2**48 for number in (offset, *shape, *stride)
    ):
        raise ValueError("a tensor of an impossible shape")
    return Described(storage, offset, tuple(shape), tuple(stride))
