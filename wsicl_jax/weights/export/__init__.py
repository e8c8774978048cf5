"""Writes networks as PyTorch, safetensors, StableHLO and ONNX files, each with a model card.

Every file is read back and compared with the network before it appears. Reading of weights for
use lies in the folder above.
"""
