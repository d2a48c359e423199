# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The weights of an exported graph: in float32, float16, 8 or 4 bits. Each tensor is read, cast or quantized, and written
on its own.

onnxruntime's quantizers take whole models: they hold all weights in float32, which for the published model are 11 GB.
Their functions for a single weight are called here, on the same graph.

- int8: dynamic. A linear layer quantizes its input when it runs, by one scale and zero point for the whole tensor, and
  multiplies integers. Weights have a scale for each output. They are unsigned, because x86 without VNNI saturates
  products with signed ones (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
- int4: `MatMulNBits` of onnxruntime, symmetric, with a scale for each group of 32 neighbours. Accuracy level 4 lets it
  quantize inputs to 8 bits, also in groups, and is what makes it fast on a CPU.

The embeddings of tokens have 8 bits in both, with a scale for each token. Small tensors, norms, biases and
convolutions keep float32.
"""

import logging
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import onnx_ir as ir
import torch

from flashsloth.folders.tensors import NOT_FINITE, LazyTensor, is_finite


DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.float32, "int4": torch.float32}
GROUP_SIZE = 32  # weights that share a scale, in int4
ACCURACY_LEVEL = 4  # of MatMulNBits: inputs in 8 bits
SMALLEST_QUANTIZED = 1 << 12  # elements; the time and size of smaller weights do not matter
INT8_LEVELS, INT8_ZERO = 127, 128  # symmetric, as unsigned numbers
SMALLEST_SCALE = 1e-12  # of a row of zeros, which must not be divided by
DOMAIN = "com.microsoft"  # of onnxruntime's own operators
TO_NUMPY = {torch.float32: np.float32, torch.float16: np.float16}


class WeightWriter:
    """
    Puts weights into a graph that was traced without them.

    Args:
        tensors (`Mapping[str, LazyTensor]`): The checkpoint.
        dtype (`str`): One of `WEIGHTS`.
        embeddings (`str`): The name of the embeddings of tokens.
    """

    def __init__(self, tensors: Mapping[str, LazyTensor], dtype: str, embeddings: str):
        self.tensors, self.dtype, self.embeddings = tensors, dtype, embeddings
        self.float_dtype = DTYPES[dtype]
        self._quantized_inputs: dict[ir.Value, list[ir.Value]] = {}

    def write(self, graph: ir.Graph, parameters: list[ir.Value]) -> None:
        """
        Gives each parameter its weights.

        Args:
            graph (`ir.Graph`): A graph.
            parameters (`list[ir.Value]`): Its inputs that stand for the tensors of the checkpoint with their names.
        """
        for parameter in parameters:
            transposes = [node for node, _ in parameter.uses()]
            if all(map(_is_transpose_of_linear, transposes)):
                for transpose in transposes:
                    self._write_linear(graph, parameter, transpose)
            elif parameter.name == self.embeddings and self.dtype in ("int8", "int4"):
                for gather, _ in list(parameter.uses()):
                    self._write_embeddings(graph, parameter, gather)
            else:
                weight = self._initializer(
                    graph, parameter.name, parameter.shape, lambda n=parameter.name: self._read(n)
                )
                parameter.replace_all_uses_with(weight)

    def _read(self, name: str) -> np.ndarray:
        """A tensor of the checkpoint in the dtype of computation."""
        tensor = self.tensors[name].read()
        cast = tensor.to(self.float_dtype)
        if not is_finite(cast):
            raise ValueError(f"{name} holds numbers that are not finite in {cast.dtype}. {NOT_FINITE}")
        return cast.numpy()

    def _write_linear(self, graph: ir.Graph, parameter: ir.Value, transpose: ir.Node) -> None:
        """A weight `(out, in)`, whose transpose is multiplied."""
        name, (outputs, inputs) = parameter.name, parameter.shape
        is_small = outputs * inputs < SMALLEST_QUANTIZED
        for matmul, _ in list(transpose.outputs[0].uses()):
            if self.dtype == "int8" and not is_small:
                product = self._multiply_int8(graph, name, matmul, inputs, outputs)
            elif self.dtype == "int4" and not is_small:
                product = self._multiply_int4(graph, name, matmul, inputs, outputs)
            else:
                weight = self._initializer(graph, name, (inputs, outputs), lambda: self._read(name).T)
                matmul.replace_input_with(1, weight)
                continue
            product.name = matmul.outputs[0].name
            product.dtype, product.shape = matmul.outputs[0].dtype, matmul.outputs[0].shape
            matmul.outputs[0].replace_all_uses_with(product, replace_graph_outputs=True)
            graph.remove(matmul, safe=True)
        graph.remove(transpose, safe=True)

    def _multiply_int8(self, graph: ir.Graph, name: str, matmul: ir.Node, inputs: int, outputs: int) -> ir.Value:
        """The nodes that `onnxruntime.quantization.quantize_dynamic` makes, which onnxruntime fuses to one."""

        @lru_cache(maxsize=1)
        def parts() -> tuple[np.ndarray, np.ndarray]:
            values, scales = _int8_rows(self._read(name))
            return values.T, scales[:, 0]

        values = self._initializer(graph, f"{name}_quantized", (inputs, outputs), lambda: parts()[0], np.uint8)
        scales = self._initializer(graph, f"{name}_scale", (outputs,), lambda: parts()[1])
        zero = self._constant(graph, "int8_zero", np.array(INT8_ZERO, np.uint8))
        x = matmul.inputs[0]
        if x not in self._quantized_inputs:
            quantize = ir.node("DynamicQuantizeLinear", [x], num_outputs=3)
            graph.insert_before(matmul, quantize)
            self._quantized_inputs[x] = list(quantize.outputs)
        quantized, x_scale, x_zero = self._quantized_inputs[x]
        product = ir.node("MatMulInteger", [quantized, values, x_zero, zero])
        cast = ir.node("Cast", product.outputs, {"to": ir.DataType.FLOAT})
        scale = ir.node("Mul", [x_scale, scales])
        scaled = ir.node("Mul", [cast.outputs[0], scale.outputs[0]])
        graph.insert_before(matmul, [product, cast, scale, scaled])
        return scaled.outputs[0]

    def _multiply_int4(self, graph: ir.Graph, name: str, matmul: ir.Node, inputs: int, outputs: int) -> ir.Value:
        quantizer = _int4_quantizer()

        @lru_cache(maxsize=1)
        def parts() -> tuple[np.ndarray, np.ndarray]:
            packed, scales, _ = quantizer.qbits_block_quant(np.ascontiguousarray(self._read(name).T))
            return packed, scales

        groups = -(-inputs // GROUP_SIZE)
        packed_shape = (outputs, groups, GROUP_SIZE // 2)
        packed = self._initializer(graph, f"{name}_q4", packed_shape, lambda: parts()[0], np.uint8)
        scales = self._initializer(graph, f"{name}_scales", (outputs, groups), lambda: parts()[1])
        attributes = {"K": inputs, "N": outputs, "bits": 4, "block_size": GROUP_SIZE, "accuracy_level": ACCURACY_LEVEL}
        product = ir.node("MatMulNBits", [matmul.inputs[0], packed, scales], attributes, domain=DOMAIN)
        graph.opset_imports[DOMAIN] = 1
        graph.insert_before(matmul, product)
        return product.outputs[0]

    def _write_embeddings(self, graph: ir.Graph, parameter: ir.Value, gather: ir.Node) -> None:
        """Embeddings `(vocabulary, width)` in 8 bits, looked up and then multiplied by the scales of their rows."""
        name, (rows, width) = parameter.name, parameter.shape
        parts = lru_cache(maxsize=1)(lambda: _int8_rows(self._read(name)))
        values = self._initializer(graph, f"{name}_quantized", (rows, width), lambda: parts()[0], np.uint8)
        scales = self._initializer(graph, f"{name}_scale", (rows, 1), lambda: parts()[1])
        zero = self._constant(graph, "embeddings_zero", np.array(INT8_ZERO, np.float32))
        ids = gather.inputs[1]
        looked_up, scale = (ir.node("Gather", [table, ids], {"axis": 0}) for table in (values, scales))
        cast = ir.node("Cast", looked_up.outputs, {"to": ir.DataType.FLOAT})
        centred = ir.node("Sub", [cast.outputs[0], zero])
        scaled = ir.node("Mul", [centred.outputs[0], scale.outputs[0]])
        graph.insert_before(gather, [looked_up, scale, cast, centred, scaled])
        output = scaled.outputs[0]
        output.dtype, output.shape = gather.outputs[0].dtype, gather.outputs[0].shape
        gather.outputs[0].replace_all_uses_with(output, replace_graph_outputs=True)
        graph.remove(gather, safe=True)

    def _initializer(self, graph: ir.Graph, name: str, shape, read: Callable[[], np.ndarray], dtype=None) -> ir.Value:
        """A tensor that is read, or made, when it is written."""
        kind = ir.DataType.from_numpy(np.dtype(dtype or TO_NUMPY[self.float_dtype]))
        tensor = ir.LazyTensor(
            lambda: ir.tensor(np.ascontiguousarray(read()), dtype=kind), kind, ir.Shape(shape), name=name
        )
        value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(shape), type=ir.TensorType(kind))
        graph.register_initializer(value)
        return value

    def _constant(self, graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
        if name not in graph.initializers:
            tensor = ir.tensor(array, name=name)
            value = ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
            graph.register_initializer(value)
        return graph.initializers[name]


def _int8_rows(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """8-bit values of a matrix, and a scale `(rows, 1)` for each row."""
    scales = np.maximum(np.abs(weight).max(axis=1, keepdims=True) / INT8_LEVELS, SMALLEST_SCALE).astype(np.float32)
    values = np.rint(weight / scales)
    values += INT8_ZERO
    return values.astype(np.uint8), scales


def _int4_quantizer():
    """onnxruntime's quantizer for a single weight. Its module configures the root logger when it is imported."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    from onnxruntime.quantization import matmul_nbits_quantizer

    root.handlers[:], root.level = handlers, level
    config = matmul_nbits_quantizer.DefaultWeightOnlyQuantConfig(
        block_size=GROUP_SIZE, is_symmetric=True, accuracy_level=ACCURACY_LEVEL, bits=4
    )
    return matmul_nbits_quantizer.DefaultWeightOnlyQuantizer(config)


def _is_transpose_of_linear(node: ir.Node) -> bool:
    """Whether a node transposes the weight of linear layers, and does nothing else."""
    if node.op_type != "Transpose":
        return False
    uses = list(node.outputs[0].uses())
    return bool(uses) and all(user.op_type == "MatMul" and index == 1 for user, index in uses)
