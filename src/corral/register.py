"""`corral.register`: adding a method, a head, an attack ... to corral from outside of it."""

from corral.analysis.registry import register_analysis
from corral.attacks.protocols import register_protocol
from corral.attacks.registry import register_attack
from corral.data.registry import register_data, register_path_data
from corral.models.backbones import register_backbone
from corral.registry import register as register_class
from corral.report.analysis.registry import register_figure


class Register:
    """What `corral.register` is: a decorator of classes, and a decorator of functions for every other noun."""

    analysis = staticmethod(register_analysis)
    attack = staticmethod(register_attack)
    figure = staticmethod(register_figure)
    data = staticmethod(register_data)
    path_data = staticmethod(register_path_data)
    protocol = staticmethod(register_protocol)
    backbone = staticmethod(register_backbone)
    __call__ = staticmethod(register_class)


register = Register()
