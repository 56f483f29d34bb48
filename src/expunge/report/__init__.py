"""The audit as one HTML file that opens offline: verdict, scores, plots, answers, and the record of how they came about."""

from expunge.report.page import render

__all__ = ["render"]
