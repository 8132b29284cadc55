"""Targets `fpga-DEVICE`: an analytical model of a zero-skipping, inter-layer pipelined accelerator."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
