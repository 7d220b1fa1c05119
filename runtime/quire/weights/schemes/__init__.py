"""Quantization schemes, neutral of devices and of file formats: what a quantized matrix is."""

from __future__ import annotations

from quire.weights.schemes.matrix import QuantizedMatrix, dequantize, join_rows
from quire.weights.schemes.quantize import quantize
from quire.weights.schemes.scheme import PLAIN, WeightScheme

__all__ = ["PLAIN", "QuantizedMatrix", "WeightScheme", "dequantize", "join_rows", "quantize"]
