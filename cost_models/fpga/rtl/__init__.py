"""Verilog of the accelerator that the FPGA model describes: a generator of chains of blocks, and their simulation."""

from .generate import RtlBlock, RtlChain, write_chain
from .simulate import RtlSimulation, rtl_images, rtl_reference, simulate_rtl

__all__ = ["RtlBlock", "RtlChain", "RtlSimulation", "rtl_images", "rtl_reference", "simulate_rtl", "write_chain"]
