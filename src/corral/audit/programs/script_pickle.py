"""The pickles of a TorchScript archive, read as a list of steps: which classes they name, without making any.

TorchScript's own unpickler, in C++, imports no Python; what it makes of a class is decided by the class's name.
"""

import pickletools
import re

# What torch's TorchScript pickler writes.
_STEPS = (
    "APPEND APPENDS BINFLOAT BINGET BININT BININT1 BININT2 BINPERSID BINPUT BINUNICODE BUILD EMPTY_DICT EMPTY_LIST "
    "EMPTY_TUPLE GLOBAL LONG1 LONG_BINGET LONG_BINPUT MARK NEWFALSE NEWOBJ NEWTRUE NONE PROTO REDUCE SETITEM SETITEMS "
    "STOP TUPLE TUPLE1 TUPLE2 TUPLE3"
)
STEPS = frozenset(_STEPS.split())
# Script classes (their code is checked), packed weights of quantized layers, tensors, and lists of one type.
CLASSES = re.compile(
    r"__torch__(\.(?!torch\.classes\b)\w+)* \w+|__torch__\.torch\.classes\.quantized \w+|"
    r"torch\.jit\._pickle (build_(intlist|tensorlist|doublelist|boollist)|restore_type_tag)|"
    r"torch\._utils _rebuild_(tensor_v2|qtensor|sparse_tensor|meta_tensor_no_storage)|"
    r"torch (\w+Storage|device|per_tensor_affine|per_channel_affine)|collections OrderedDict|builtins complex",
    re.ASCII,
)


def unsafe_pickle(content: bytes) -> str | None:
    """What in a pickle TorchScript does not write, for a message; None where nothing is.

    Args:
        content: the whole pickle.
    """
    try:
        for step, argument, _ in pickletools.genops(content):
            if step.name not in STEPS:
                return f"the step {step.name}"
            if step.name == "GLOBAL" and not CLASSES.fullmatch(str(argument)):
                return f"the class {str(argument)[:60]!r}"
    except ValueError as error:
        return f"a damaged pickle ({error})"
    return None
