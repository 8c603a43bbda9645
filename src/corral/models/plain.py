"""Checks that a module runs its type's own `forward` and nothing else, so that the type says what it computes."""

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registry
from torch.nn.utils import parametrizations, parametrize

from corral.errors import UsageError

# What torch's own parametrizations compute is a function of the stored tensors alone in eval mode.
PARAMETRIZATIONS = (parametrizations._Orthogonal, parametrizations._SpectralNorm, parametrizations._WeightNorm)
# What torch puts into the class that it makes for a parametrized module, beside a property for each tensor.
INJECTED = {"__getstate__", "__deepcopy__", "__module__", "__doc__"}


def kind_of(module: nn.Module) -> type[nn.Module]:
    """A module's exact type; where torch parametrized it, the type that it had before."""
    kind = type(module)
    if not parametrize.is_parametrized(module):
        return kind
    own = vars(kind).keys() - INJECTED - module.parametrizations.keys()  # type: ignore[operator,union-attr]
    # A class with more of its own was written by somebody, whatever it calls its submodules.
    return kind if own or len(kind.__bases__) != 1 else kind.__bases__[0]


def where(module: nn.Module, path: str = "") -> str:
    """A module's path and type, for messages."""
    return f"{path or 'the module'} ({kind_of(module).__name__})"


def join(path: str, name: str) -> str:
    """The path of a child."""
    return f"{path}.{name}" if path and name else path or name


def require_plain(module: nn.Module, path: str = "") -> None:
    """Prove that a call of a module runs the `forward` of its type on the tensors that it holds, and nothing else.

    Of its submodules only parametrizations are checked. Hooks on gradients and on loading may stay: neither changes a
    value. Types and functions that were changed for the whole process are not found. `path` names it in messages.

    Raises:
        UsageError: forward hooks or pre-hooks, of the module or of all modules (also those by which the old
            `spectral_norm`, `weight_norm` and pruning work); a method replaced on this one object; `compile()`; a
            parametrization that is not torch's own; an unregistered submodule, which no mode reaches; a tensor of
            another class than torch's, complex or sparse.
    """
    if registry._global_forward_hooks or registry._global_forward_pre_hooks:
        raise UsageError(
            "forward hooks on all modules (register_module_forward_hook) may change what every layer computes: "
            "remove them, nothing can be certified"
        )
    _check(module, path)
    if parametrize.is_parametrized(module):
        _check_parametrizations(module, path)


def require_plain_inside(module: nn.Module, path: str = "") -> None:
    """`require_plain` of a module and of everything in it.

    Raises:
        UsageError: as there.
    """
    for name, part in module.named_modules():
        require_plain(part, join(path, name))


def _check(module: nn.Module, path: str) -> None:
    place = where(module, path)
    for kind, hooks in (("hook", module._forward_hooks), ("pre-hook", module._forward_pre_hooks)):
        for hook in hooks.values():
            name = getattr(hook, "__name__", type(hook).__name__)
            raise UsageError(
                f"{place} has a forward {kind} ({name}), which may change what it computes: remove it to certify the "
                "module (for spectral_norm and weight_norm take torch.nn.utils.parametrizations, for pruning "
                "prune.remove)"
            )
    for name, value in vars(module).items():
        if callable(getattr(type(module), name, None)):
            raise UsageError(
                f"{place} has its {name} replaced on the object itself: certify a module that runs what its type says"
            )
        if isinstance(value, nn.Module):
            raise UsageError(f"{place} holds the module {name} unregistered, so that eval() misses it: register it")
    if module._compiled_call_impl is not None:
        raise UsageError(f"{place} was compiled in place, and nothing says by what: certify it uncompiled")
    held = (*module._parameters.items(), *module._buffers.items(), *vars(module).items())
    for name, tensor in held:
        if isinstance(tensor, Tensor) and not _ordinary(tensor):
            raise UsageError(
                f"{place} holds {name} as a {type(tensor).__name__} of {tensor.dtype}, {tensor.layout}: certify "
                "ordinary real, dense tensors"
            )


def _check_parametrizations(module: nn.Module, path: str) -> None:
    for name, chain in module.parametrizations.items():  # type: ignore[operator,union-attr]
        listed = type(chain) is parametrize.ParametrizationList
        strange = [part for part in chain if type(part) not in PARAMETRIZATIONS] if listed else [chain]
        if strange:
            raise UsageError(
                f"{where(module, path)} has its {name} parametrized by {type(strange[0]).__name__}, which may give "
                "another tensor each time: fix it by torch.nn.utils.parametrize.remove_parametrizations"
            )
        for part in (chain, *chain):
            _check(part, join(path, f"parametrizations.{name}"))


def _ordinary(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and not tensor.is_complex() and tensor.layout is torch.strided
