"""What a TorchScript archive may hold: code whose every operator only computes, and pickles of known classes.

The code is the text that torch's printer wrote, or that somebody wrote by hand. It is not parsed: it is cut into
words by rules no wider than those of torch's lexer, and every way from a word to an operator is closed but the named
ones. Operators are reached as `torch.NAME`, as `ops.NAMESPACE.NAME`, as methods `value.NAME` of any value, as
`getattr(value, "NAME")`, and through custom C++ classes.
"""

import pickletools
import re

from corral.targets.programs.operators import computes, refused

# Text in single or triple quotes, backslashes, comments and anything beyond ASCII are nothing that torch's printer
# writes outside quotes: refused, so that nothing is read here in another way than there.
TOKEN = re.compile(
    r'[ \n]+|(?P<word>[A-Za-z_]\w*)|(?P<text>"(?:\\[^\n]|[^"\\\n])*"(?!"))|[0-9.:,=()\[\]<>+*/%|&^~@;{}!-]', re.A
)
NAMED = re.compile(r'"[\w.]*"', re.A)
# Members of the name `torch` that are types and values.
TYPES = ("device", "dtype", "layout", "memory_format", "Generator", "Stream")
CLASSES = ("quantized",)
# What torch's TorchScript pickler writes.
_STEPS = (
    "APPEND APPENDS BINFLOAT BINGET BININT BININT1 BININT2 BINPERSID BINPUT BINUNICODE BUILD EMPTY_DICT EMPTY_LIST "
    "EMPTY_TUPLE GLOBAL LONG1 LONG_BINGET LONG_BINPUT MARK NEWFALSE NEWOBJ NEWTRUE NONE PROTO REDUCE SETITEM SETITEMS "
    "STOP TUPLE TUPLE1 TUPLE2 TUPLE3"
)
STEPS = frozenset(_STEPS.split())
# Script classes (their code is checked), packed weights of quantized layers, tensors, and lists of one type.
PICKLED = re.compile(
    r"__torch__(\.(?!torch\.classes\b)\w+)* \w+|__torch__\.torch\.classes\.quantized \w+|"
    r"torch\.jit\._pickle (build_(intlist|tensorlist|doublelist|boollist)|restore_type_tag)|"
    r"torch\._utils _rebuild_(tensor_v2|qtensor|sparse_tensor|meta_tensor_no_storage)|"
    r"torch (\w+Storage|device|per_tensor_affine|per_channel_affine)|collections OrderedDict|builtins complex",
    re.ASCII,
)


def unsafe(source: str) -> str | None:
    """What in one file of a program's code could do more than compute, for a message; None where nothing can."""
    words = _words(source)
    if words is None:
        return "text that torch.jit.save does not write"
    found = (_found(words, place, word) for place, word in enumerate(words))
    return next((part for part in found if part is not None), None)


def _words(source: str) -> list[str] | None:
    words, end = [], 0
    for match in TOKEN.finditer(source):
        if match.start() != end:
            return None
        end = match.end()
        if not match[0].isspace():
            words.append(match[0])
    return words if end == len(source) else None


def _found(words: list[str], place: int, word: str) -> str | None:
    before = words[place - 1] if place else ""
    # What follows, where it follows after a dot.
    ahead = words[place + 1 : place + 6] + [""] * 5
    first = ahead[1] if ahead[0] == "." else ""
    second = ahead[3] if ahead[2] == "." else ""
    if word in refused():
        return f"the operator {word}"
    if word == "classes" and before == "." and words[place - 2] == "torch" and first not in CLASSES:
        return f"the C++ class torch.classes.{first}"
    if word == "getattr" and not _getattr_is_plain(words[place + 1 :]):
        return "a getattr that torch.jit.save does not write"
    if before == ".":
        return None
    if word == "torch" and not (
        computes("aten", first) or first in TYPES or (first, second) == ("classes", CLASSES[0])
    ):
        return f"torch.{first}"
    if word == "ops" and not computes(first, second):
        return f"the operator {first}::{second}"
    return None


def _getattr_is_plain(ahead: list[str]) -> bool:
    """Whether it is `(VALUE, "NAME")`, of a name that is not refused; the value's words are checked like all others."""
    depth, commas = 0, list[int]()
    for place, word in enumerate(ahead):
        depth += (word in "([") - (word in ")]")
        if depth == 0:
            # From the comma on: a name and the end.
            last = ahead[commas[0] + 1 : place] if len(commas) == 1 else []
            return len(last) == 1 and bool(NAMED.fullmatch(last[0])) and last[0][1:-1] not in refused()
        if word == "," and depth == 1:
            commas.append(place)
    return False


def unsafe_pickle(content: bytes) -> str | None:
    """What in a pickle TorchScript does not write, for a message; None where nothing is.

    It is read as a list of steps, and no class that they name is made. TorchScript's own unpickler, in C++, imports no
    Python; what it makes of a class is decided by the class's name.
    """
    try:
        for step, argument, _ in pickletools.genops(content):
            if step.name not in STEPS:
                return f"the step {step.name}"
            if step.name == "GLOBAL" and not PICKLED.fullmatch(str(argument)):
                return f"the class {str(argument)[:60]!r}"
    except ValueError as error:
        return f"a damaged pickle ({error})"
    return None
