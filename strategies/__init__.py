"""How a network is shrunk: one file per published method, and the mechanisms they share.

The public names stand in `__init__.pyi`; they are imported on first use, so that the command starts fast.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
