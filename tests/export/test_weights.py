# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Weights of a graph: a linear layer computes what it would, as closely as its bits allow."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from model_folders import error_of

from flashsloth.export.onnx import save
from flashsloth.export.weights import WeightWriter
from flashsloth.folders.tensors import LazyTensor


INPUTS, OUTPUTS, ROWS = 100, 60, 40  # 100 is no whole number of groups


def lazy(tensor: torch.Tensor) -> LazyTensor:
    return LazyTensor(tuple(tensor.shape), tensor.dtype, lambda: tensor)


@pytest.fixture
def tensors() -> dict[str, LazyTensor]:
    torch.manual_seed(0)
    return {"linear": lazy(torch.randn(OUTPUTS, INPUTS).bfloat16()), "table": lazy(torch.randn(ROWS, INPUTS))}


def model_of(tensors: dict[str, LazyTensor], dtype: str) -> ir.Model:
    """Embeddings, and a linear layer of them, in the forms in which the exporter writes these."""
    ids = ir.val("ids", ir.DataType.INT64, ["n"])
    kind = ir.DataType.FLOAT16 if dtype == "float16" else ir.DataType.FLOAT
    table, weight = ir.val("table", kind, [ROWS, INPUTS]), ir.val("linear", kind, [OUTPUTS, INPUTS])
    gather = ir.node("Gather", [table, ids], {"axis": 0})
    transpose = ir.node("Transpose", [weight], {"perm": [1, 0]})
    matmul = ir.node("MatMul", [gather.outputs[0], transpose.outputs[0]])
    for node, name, width in ((gather, "x", INPUTS), (matmul, "y", OUTPUTS)):
        node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(kind)
        node.outputs[0].shape = ir.Shape(["n", width])
    graph = ir.Graph(
        [ids, table, weight],
        [matmul.outputs[0]],
        nodes=[gather, transpose, matmul],
        opset_imports={"": 20},
        name="graph",
    )
    parameters = graph.inputs[1:]
    del graph.inputs[1:]
    WeightWriter(tensors, dtype, "table").write(graph, parameters)
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-6), ("float16", 2e-3), ("int8", 0.02), ("int4", 0.15)])
def test_a_linear_layer_of_embeddings(tensors, dtype, error):
    model = ir.to_proto(model_of(tensors, dtype))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    ids = np.arange(ROWS)
    (found,) = session.run(None, {"ids": ids})
    expected = (tensors["table"].read() @ tensors["linear"].read().float().T).numpy()
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < error


def test_bits_and_operators_are_those_that_are_asked_for(tensors):
    sizes = {dtype: len(ir.to_proto(model_of(tensors, dtype)).SerializeToString()) for dtype in ("float32", "int8")}
    assert sizes["int8"] < 0.4 * sizes["float32"]
    operators = {node.op_type for node in model_of(tensors, "int8").graph}
    assert {"DynamicQuantizeLinear", "MatMulInteger"} <= operators and "MatMul" not in operators
    (product,) = [node for node in model_of(tensors, "int4").graph if node.op_type == "MatMulNBits"]
    expected = {"bits": 4, "block_size": 32, "accuracy_level": 4, "K": INPUTS, "N": OUTPUTS}
    assert {name: attribute.value for name, attribute in product.attributes.items()} == expected


@pytest.mark.parametrize("dtype", ["float32", "int8", "int4"])
def test_numbers_that_are_not_finite_are_named(tensors, dtype, tmp_path):
    tensors["linear"].read()[3, 4] = torch.nan
    message = error_of(save, model_of(tensors, dtype), tmp_path / "model.onnx")
    assert "linear holds numbers that are not finite in torch.float32" in message


def test_numbers_beyond_float16_are_named(tensors, tmp_path):
    tensors["linear"].read()[3, 4] = 1e5
    message = error_of(save, model_of(tensors, "float16"), tmp_path / "model.onnx")
    assert "linear holds numbers that are not finite in torch.float16" in message
