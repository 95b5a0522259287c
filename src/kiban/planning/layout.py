"""The layouts that planning weighs are those that training takes."""

from kiban.model.layout import RECOMPUTE, Layout, divisors, fault

__all__ = ["RECOMPUTE", "Layout", "divisors", "fault"]
