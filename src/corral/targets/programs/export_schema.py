"""What the document of a `torch.export` file may hold: every key by name, every text by what torch does with it.

The tables are torch's `torch/_export/serde/schema.py` of versions 2.8 to 2.13 without custom objects, effect tokens
and named tuples. torch ignores keys that it does not know and trusts the others: names become Python source, which
is executed, so a name is letters, digits and dots here; size expressions are evaluated; tree specs import modules.
"""

import json
import re
from typing import Any

from corral.targets.programs.operators import computes

NAME = re.compile(r"[\w.]*")
PATH = re.compile(r"[\w.@\-\[\]]*")
IDENTIFIER = re.compile(r"[^\W\d]\w*")
WORD = re.compile(r"[A-Za-z_]\w*")
SYMBOL = re.compile(r"[a-z]{1,2}\d+")
EXPRESSION = re.compile(r"(?:[A-Za-z_]\w*|'[a-z]{1,2}\d+'|\d+(?:\.\d+)?|[\s(),=+*/<>!&|~-])*")
# What torch writes into symbolic sizes, and nothing that could be called to another end.
FUNCTIONS = re.compile(
    "Symbol|Integer|Rational|Float|Add|Mul|Pow|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|Max|Min|Eq|Ne|Lt|Le|Gt|Ge|And|"
    "Or|Not|Abs|ModularIndexing|Where|IntTrueDiv|FloatTrueDiv|ToFloat|TruncToInt|FloorToInt|CeilToInt|Identity|"
    "positive|integer|nonnegative|nonzero|real|True|False|oo|int_oo"
)
OPERATOR = re.compile(r"torch\.ops\.(\w+)\.(\w+)(?:\.\w+)?")
# Python's arithmetic on sizes.
ARITHMETIC = re.compile(
    r"_operator\.(add|sub|mul|mod|pow|truediv|floordiv|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|not_|xor|getitem|lshift|"
    r"rshift)|math\.(ceil|floor|trunc|sqrt|pow)|torch\.sym_(int|float|max|min|not|ite|sum|sqrt|fresh_size)"
)
CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict")
# JSON holds no infinities: torch writes them as text.
SPECIAL_FLOATS = ("Infinity", "-Infinity", "NaN")


def _tables(text: str) -> dict[str, dict[str, str]]:
    """Tables by name, each of kinds by key, from lines "NAME: KEY KIND, KEY KIND, ..."; indented lines continue one."""
    lines = (line.split(": ") for line in text.strip().replace(",\n    ", ", ").splitlines())
    return {name: dict(field.split() for field in fields.split(", ")) for name, fields in lines}


# A kind is a table below, one of those of `_leaf`, or one of those in a list "[kind]" or a dictionary "{kind}".
OBJECTS = _tables("""
ExportedProgram: graph_module GraphModule, opset_version {int}, range_constraints {RangeConstraint},
    schema_version SchemaVersion, verifiers [name], torch_version text, guards_code dropped
SchemaVersion: major int, minor int
RangeConstraint: min_val int, max_val int
GraphModule: graph Graph, signature GraphSignature, module_call_graph [ModuleCallEntry], metadata dropped,
    treespec_namedtuple_fields dropped
Graph: inputs [Argument], outputs [Argument], nodes [Node], tensor_values {TensorMeta}, sym_int_values {SymInt},
    sym_bool_values {SymBool}, sym_float_values {SymFloat}, is_single_tensor_return bool, custom_obj_values nothing
Node: target operator, inputs [NamedArgument], outputs [Argument], metadata dropped, is_hop_single_tensor_return bool,
    name name
NamedArgument: name name, arg Argument, kind int
GraphArgument: name name, graph Graph
TensorArgument: name name
ComplexValue: real float, imag float
Device: type name, index int
SymExpr: expr_str expression, hint SymExprHint
TensorMeta: dtype int, sizes [SymInt], requires_grad bool, device Device, strides [SymInt], storage_offset SymInt,
    layout int
GraphSignature: input_specs [InputSpec], output_specs [OutputSpec]
UserInputSpec: arg Argument
InputToParameterSpec: arg TensorArgument, parameter_name path
InputToBufferSpec: arg TensorArgument, buffer_name path, persistent bool
InputToTensorConstantSpec: arg TensorArgument, tensor_constant_name path
InputToConstantInputSpec: name name, value ConstantValue
UserOutputSpec: arg Argument
LossOutputSpec: arg TensorArgument
BufferMutationSpec: arg TensorArgument, buffer_name path
ParameterMutationSpec: arg TensorArgument, parameter_name path
GradientToParameterSpec: arg TensorArgument, parameter_name path
GradientToUserInputSpec: arg TensorArgument, user_input_name path
UserInputMutationSpec: arg TensorArgument, user_input_name path
ModuleCallEntry: fqn path, signature ModuleCallSignature
ModuleCallSignature: inputs [Argument], outputs [Argument], in_spec tree, out_spec tree, forward_arg_names [identifier]
PayloadConfig: config {PayloadMeta}
PayloadMeta: path_name name, is_param bool, use_pickle bool, tensor_meta TensorMeta
""")
# Of these a document holds exactly one key each.
UNIONS = _tables("""
Argument: as_none bool, as_tensor TensorArgument, as_tensors [TensorArgument], as_int int, as_ints [int],
    as_float float, as_floats [float], as_string text, as_strings [text], as_sym_int SymIntArgument,
    as_sym_ints [SymIntArgument], as_scalar_type int, as_memory_format int, as_layout int, as_device Device,
    as_bool bool, as_bools [bool], as_sym_bool SymBoolArgument, as_sym_bools [SymBoolArgument], as_graph GraphArgument,
    as_optional_tensors [OptionalTensorArgument], as_operator operator, as_sym_float SymFloatArgument,
    as_sym_floats [SymFloatArgument], as_optional_tensor OptionalTensorArgument, as_complex ComplexValue,
    as_nested_tensors [[TensorArgument]], as_int_lists [[int]], as_string_to_argument {Argument},
    as_float_lists [[float]]
SymExprHint: as_int int, as_bool bool, as_float float
SymInt: as_expr SymExpr, as_int int
SymFloat: as_expr SymExpr, as_float float
SymBool: as_expr SymExpr, as_bool bool
SymIntArgument: as_name name, as_int int
SymFloatArgument: as_name name, as_float float
SymBoolArgument: as_name name, as_bool bool
OptionalTensorArgument: as_tensor TensorArgument, as_none bool
ConstantValue: as_none bool, as_int int, as_float float, as_string text, as_bool bool
InputSpec: user_input UserInputSpec, parameter InputToParameterSpec, buffer InputToBufferSpec,
    tensor_constant InputToTensorConstantSpec, constant_input InputToConstantInputSpec
OutputSpec: user_output UserOutputSpec, loss_output LossOutputSpec, buffer_mutation BufferMutationSpec,
    gradient_to_parameter GradientToParameterSpec, gradient_to_user_input GradientToUserInputSpec,
    user_input_mutation UserInputMutationSpec, parameter_mutation ParameterMutationSpec
""")


class RefusedError(Exception):
    """A part of a document that torch.export does not write, or that could do more than compute."""


def plain(kind: str, part: Any, key: str = "") -> Any:
    """A part of a document, checked to be of a kind: what comes back holds nothing but what the tables name.

    Raises:
        RefusedError: an unknown key, a value of another kind, or a text that could do more than compute.
    """
    if kind[0] in "[{":
        inner = kind[1:-1]
        if kind[0] == "[" and isinstance(part, list):
            return [plain(inner, item, key) for item in part]
        if kind[0] == "{" and isinstance(part, dict):
            return {_text("key", PATH.fullmatch(name), name): plain(inner, item, name) for name, item in part.items()}
        raise RefusedError(f"{key} is no {'list' if kind[0] == '[' else 'dictionary'}")
    if kind == "dropped":
        return type(part)() if isinstance(part, list | dict) else None
    if part is None and kind not in UNIONS:
        return None
    fields = OBJECTS.get(kind) or UNIONS.get(kind)
    if fields is None:
        return _leaf(kind, part, key)
    if not isinstance(part, dict) or (kind in UNIONS and len(part) != 1):
        raise RefusedError(f"{key} is no {kind}")
    unknown = sorted(set(part) - set(fields))
    if unknown:
        raise RefusedError(f"key {unknown[0][:60]!r} in {key or 'it'}")
    return {name: plain(fields[name], item, name) for name, item in part.items()}


def _leaf(kind: str, part: Any, key: str) -> Any:
    if kind == "nothing":
        fits = not part
    elif kind == "bool":
        fits = isinstance(part, bool)
    elif kind == "int":
        fits = isinstance(part, int)
    elif kind == "float":
        fits = isinstance(part, int | float) or part in SPECIAL_FLOATS
    elif not isinstance(part, str):
        fits = False
    elif kind == "tree":
        return _tree(part, key)
    else:
        fits = _fits(kind, part)
    return _text(key, fits, part)


def _text(key: str, fits: object, part: Any) -> Any:
    if not fits:
        raise RefusedError(f"{key} {str(part)[:60]!r}")
    return part


def _fits(kind: str, text: str) -> bool:
    if kind == "operator":
        found = OPERATOR.fullmatch(text)
        return bool(ARITHMETIC.fullmatch(text)) if found is None else computes(found[1], found[2])
    if kind == "expression":
        words = WORD.findall(text)
        return bool(EXPRESSION.fullmatch(text)) and all(
            FUNCTIONS.fullmatch(word) or SYMBOL.fullmatch(word) for word in words
        )
    patterns = {"name": NAME, "path": PATH, "identifier": IDENTIFIER}
    # What is left is "text": a value that an operator is given, and nothing that is evaluated.
    return kind == "text" or bool(patterns[kind].fullmatch(text))


def _tree(text: str, key: str) -> str:
    """A tree spec of tuples, lists and dictionaries alone, written anew."""
    try:
        protocol, spec = json.loads(text)
    except (TypeError, ValueError):
        raise RefusedError(f"{key} {text[:60]!r}") from None
    return json.dumps([_text(key, protocol == 1, protocol), _branch(spec, key)])


def _branch(spec: Any, key: str) -> dict[str, Any]:
    if not isinstance(spec, dict) or set(spec) != {"type", "context", "children_spec"}:
        raise RefusedError(f"{key} with {str(spec)[:60]!r}")
    kind, context, children = spec["type"], spec["context"], spec["children_spec"]
    if kind is None:
        plain_context = context is None and children == []
    else:
        try:
            found = json.loads(context)
        except (TypeError, ValueError):
            raise RefusedError(f"{key} with context {str(context)[:60]!r}") from None
        # The keys of a dictionary become names of arguments.
        plain_context = kind in CONTAINERS and (
            all(isinstance(name, int) or (isinstance(name, str) and IDENTIFIER.fullmatch(name)) for name in found)
            if kind == "builtins.dict" and isinstance(found, list)
            else found is None and kind != "builtins.dict"
        )
    if not plain_context or not isinstance(children, list):
        raise RefusedError(f"{key} with {str(kind)[:60]!r} and context {str(context)[:60]!r}")
    return {"type": kind, "context": context, "children_spec": [_branch(child, key) for child in children]}
