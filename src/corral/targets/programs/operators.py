"""Which of torch's operators a program from a file may call: those that compute and touch nothing else.

An operator that reaches a file is told its name, as `aten::save` and `aten::from_file` are. So an operator passes if
every text that it takes is known to choose how it computes; one with any other text argument is refused, today's and
a later torch's alike. The namespaces that talk to processes, profilers and compilers are not among those let in.
"""

from functools import cache

import torch

NAMESPACES = ("aten", "prims", "quantized")
# Arguments of type text (or lists and dictionaries of text) of operators that only compute.
_TEXTS = (
    "UPLO activation algorithm api_name approximate assert_msg device_type driver equation indexing interpolation "
    "message mode norm ord p pad_mode padding padding_side reduce rounding_mode side "
    # What TorchScript does with text, lists and dictionaries themselves.
    "a b chars dict el fillchar idx input inputs item key l new old s self separator string substr t to_add type "
    "values "
    # Dimensions by their names, in overloads of flatten, mean, cat and others that torch 2.8 has and 2.13 has not.
    "dim dim0 dim1 dim2 dims end_dim names order out_dim outdim start_dim"
)
# TorchScript's own functions, as its printer writes them after `ops.prim.`: values, types, and nothing that runs Python
# or asks another process.
_PRIMITIVES = (
    "AutogradAdd AutogradAllNonZero AutogradAllZero AutogradAnyNonZero AutogradZero BroadcastSizes ChunkSizes "
    "ConstantChunk EnumName EnumValue IfThenElse ModuleContainerIndex NumToTensor Print RaiseException ReductionSizes "
    "StringIndex TupleIndex TupleUnpack Uninitialized VarConcat VarStack abs data device dtype grad id index is_cpu "
    "is_cuda is_ipu is_maia is_meta is_mkldnn is_mps is_mtia is_nested is_quantized is_sparse is_sparse_csr is_vulkan "
    "is_xla is_xpu isinstance itemsize layout max min name nbytes rangelist requires_grad tolist type unchecked_cast "
    "unchecked_unwrap_optional unwrap_optional"
)
# Operators that take a graph of others, which is checked like the rest.
_HIGHER_ORDER = (
    "associative_scan auto_functionalized auto_functionalized_v2 cond invoke_subgraph map_impl scan "
    "while_loop wrap_with_autocast wrap_with_set_grad_enabled"
)
TEXTS, PRIMITIVES, HIGHER_ORDER = (frozenset(words.split()) for words in (_TEXTS, _PRIMITIVES, _HIGHER_ORDER))


def computes(namespace: str, name: str) -> bool:
    """Whether an operator of this torch, named without its overload, only computes; False for one that it has not."""
    if namespace == "prim":
        return name in PRIMITIVES
    if namespace == "higher_order":
        return name in HIGHER_ORDER
    return namespace in NAMESPACES and _known().get((namespace, name), False)


@cache
def refused() -> frozenset[str]:
    """Names of aten's operators that do more than compute: a program cannot call them as methods either."""
    return frozenset(name for (namespace, name), plain in _known().items() if namespace == "aten" and not plain)


@cache
def _known() -> dict[tuple[str, str], bool]:
    """Every operator of the namespaces, and whether all of its overloads only compute."""
    known: dict[tuple[str, str], bool] = {}
    for schema in torch._C._jit_get_all_schemas():
        namespace, _, name = schema.name.partition("::")
        if namespace in NAMESPACES:
            texts = {argument.name for argument in schema.arguments if "str" in str(argument.type)}
            known[namespace, name] = known.get((namespace, name), True) and texts <= TEXTS
    return known
