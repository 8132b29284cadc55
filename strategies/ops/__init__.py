"""Mechanisms that strategies share: channel groups, shrinking, spectra, masks, integer grids, distillation."""
