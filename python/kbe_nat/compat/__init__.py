"""Our own code behind the interfaces of other packages.

- `kbe_nat.compat.netfilterqueue`: the interface of the netfilterqueue package.
"""

from kbe_nat.submodules import on_demand

__all__ = ["netfilterqueue"]

# Most programs need none.
__getattr__, __dir__ = on_demand(__name__, __all__)
