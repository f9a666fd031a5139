"""Predictions on disk: one netCDF file for a task and its prediction."""

from .files import check_replaceable, load, save

__all__ = ["check_replaceable", "load", "save"]
