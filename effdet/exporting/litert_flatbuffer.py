"""Editing a .tflite file: reading and writing the flatbuffer, adding tensors and operators, removing transposes.

Which operators a deployed detector needs is in `litert_faces.py`; conversion from PyTorch is in `litert_file.py`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.errors import ConfigError
from effdet.runtimes.litert_file import IDENTIFIER, quiet_libraries

_TYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int64": 4, "int8": 9}  # TensorType of the schema
_TO_CHANNELS_FIRST, _TO_CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


class LiteRTGraph:
    """The graph of a .tflite file with one subgraph, as objects of the schema that can be changed.

    Attributes:
        schema: the module of the schema's classes.
        model: the whole file, a `ModelT` of the schema.
        subgraph: its only subgraph, a `SubGraphT`.
    """

    def __init__(self, content: bytes) -> None:
        """The graph of a file's content.

        Raises:
            ConfigError: it has more than one subgraph, or ai-edge-litert is not installed.
        """
        self.schema = import_schema()
        self.model: Any = self.schema.ModelT.InitFromPackedBuf(bytearray(content), 0)
        if len(self.model.subgraphs) != 1:
            raise ConfigError(f"the .tflite file has {len(self.model.subgraphs)} subgraphs; expected 1")
        self.subgraph: Any = self.model.subgraphs[0]
        for buffer in self.model.buffers:
            if buffer.offset > 1:  # large constants may stand behind the flatbuffer
                buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
                buffer.offset = buffer.size = 0

    def content(self) -> bytes:
        """The content of the file with all changes."""
        import flatbuffers

        self._drop_unused_buffers()
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())

    def constant(self, tensor: int) -> NDArray[Any] | None:
        """The values of a constant tensor, None for a tensor that is computed."""
        described = self.subgraph.tensors[tensor]
        data = self.model.buffers[described.buffer].data
        if data is None or not len(data):
            return None
        dtype = {number: name for name, number in _TYPES.items()}[described.type]
        shape = () if described.shape is None else tuple(described.shape)
        return np.frombuffer(bytes(data), dtype).reshape(shape)

    def set_constant(self, tensor: int, values: NDArray[Any]) -> None:
        """Give a constant tensor other values, its type and its shape; other tensors keep theirs."""
        described = self.subgraph.tensors[tensor]
        described.buffer = self.add_buffer(values.tobytes())
        described.shape, described.type = list(values.shape), _TYPES[str(values.dtype)]

    def add_buffer(self, data: bytes) -> int:
        """Number of a new buffer with some bytes."""
        self.model.buffers.append(self.schema.BufferT(data=np.frombuffer(data, np.uint8)))
        return len(self.model.buffers) - 1

    def add_constant(self, name: str, values: NDArray[Any]) -> int:
        """Number of a new constant tensor."""
        tensor = self.add_tensor(name, values.shape, str(values.dtype))
        self.set_constant(tensor, values)
        return tensor

    def add_tensor(
        self, name: str, shape: tuple[int, ...], dtype: str, quantization: tuple[float, int] | None = None
    ) -> int:
        """Number of a new tensor that is computed; `quantization` is (scale, zero point) of all its values."""
        parameters = None
        if quantization is not None:
            scale, zero_point = quantization
            parameters = self.schema.QuantizationParametersT(scale=[scale], zeroPoint=[zero_point])
        self.subgraph.tensors.append(
            self.schema.TensorT(
                shape=list(shape), type=_TYPES[dtype], buffer=0, name=name, quantization=parameters, hasRank=True
            )
        )
        return len(self.subgraph.tensors) - 1

    def add_operator(
        self,
        kind: str,
        inputs: list[int],
        outputs: list[int],
        *,
        version: int = 1,
        options: Any = None,
        custom: bytes | None = None,
        first: bool = False,
    ) -> None:
        """Add an operator behind all others, or before them.

        Args:
            kind: a builtin operator by its name in the schema, such as 'LOGISTIC'; with `custom`, a custom operator.
            inputs: tensors that it reads.
            outputs: tensors that it computes.
            version: of the builtin operator.
            options: the schema's options of the builtin operator.
            custom: options of a custom operator, in the flexbuffer format.
            first: whether it runs before all others.
        """
        operator = self.schema.OperatorT(opcodeIndex=self._code(kind, version, custom is not None))
        operator.inputs, operator.outputs = inputs, outputs
        if custom is not None:
            operator.customOptions = np.frombuffer(custom, np.uint8)
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, name)
            operator.builtinOptions = options
        if first:
            self.subgraph.operators.insert(0, operator)
        else:
            self.subgraph.operators.append(operator)

    def _code(self, kind: str, version: int, custom: bool) -> int:
        """Index of an operator's code in the file, which is added if it is not there."""
        builtin = self.schema.BuiltinOperator.CUSTOM if custom else getattr(self.schema.BuiltinOperator, kind)
        name = kind.encode() if custom else None
        for index, code in enumerate(self.model.operatorCodes):
            if (self._builtin(code), code.customCode, code.version) == (builtin, name, version):
                return index
        code = self.schema.OperatorCodeT(min(builtin, 127), name, version, builtin)
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def kind(self, operator: Any) -> str:
        """Name of an operator in the schema."""
        builtin = self._builtin(self.model.operatorCodes[operator.opcodeIndex])
        return str(next(name for name, value in vars(self.schema.BuiltinOperator).items() if value == builtin))

    @staticmethod
    def _builtin(code: Any) -> int:
        return int(max(code.builtinCode, code.deprecatedBuiltinCode))  # old files have the second alone

    def readers(self, tensor: int) -> list[Any]:
        """The operators that read a tensor."""
        return [operator for operator in self.subgraph.operators if tensor in list(operator.inputs)]

    def name_tensors(self, inputs: list[str], outputs: list[str]) -> None:
        """Give the inputs and outputs of the graph names, in its signature too."""
        for tensors, names in ((self.subgraph.inputs, inputs), (self.subgraph.outputs, outputs)):
            for tensor, name in zip(tensors, names, strict=True):
                self.subgraph.tensors[tensor].name = name
        for signature in self.model.signatureDefs or []:
            signature.inputs = self._named(self.subgraph.inputs)
            signature.outputs = self._named(self.subgraph.outputs)

    def _named(self, tensors: list[int]) -> list[Any]:
        return [
            self.schema.TensorMapT(name=self.subgraph.tensors[tensor].name, tensorIndex=tensor) for tensor in tensors
        ]

    def drop_unused(self) -> None:
        """Remove the tensors that no operator reads or computes, and number the others anew."""
        used = {int(tensor) for tensor in (*self.subgraph.inputs, *self.subgraph.outputs)}
        for operator in self.subgraph.operators:
            used.update(int(tensor) for tensor in (*operator.inputs, *operator.outputs))
        numbers = {-1: -1} | {old: new for new, old in enumerate(sorted(used - {-1}))}
        self.subgraph.tensors = [self.subgraph.tensors[tensor] for tensor in sorted(used - {-1})]
        for holder in (self.subgraph, *self.subgraph.operators):
            holder.inputs = [numbers[int(tensor)] for tensor in holder.inputs]
            holder.outputs = [numbers[int(tensor)] for tensor in holder.outputs]
        for signature in self.model.signatureDefs or []:
            for entry in (*signature.inputs, *signature.outputs):
                entry.tensorIndex = numbers[entry.tensorIndex]

    def _drop_unused_buffers(self) -> None:
        holders = [*self.subgraph.tensors, *(self.model.metadata or [])]
        used = sorted({0, *(int(holder.buffer) for holder in holders)})  # the first is empty by convention
        numbers = {old: new for new, old in enumerate(used)}
        self.model.buffers = [self.model.buffers[buffer] for buffer in used]
        for holder in holders:
            holder.buffer = numbers[int(holder.buffer)]

    def set_metadata(self, name: str, data: bytes) -> None:
        """Add or replace a named block of bytes that interpreters ignore."""
        others = [entry for entry in self.model.metadata or [] if entry.name not in (name, name.encode())]
        self.model.metadata = [*others, self.schema.MetadataT(name=name, buffer=self.add_buffer(data))]


def import_schema() -> Any:
    """The classes of the .tflite format.

    Raises:
        ConfigError: ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise not_installed("ai-edge-litert") from None
    return schema_py_generated


def not_installed(package: str) -> ConfigError:
    """The error that says which extra has a package."""
    return ConfigError(f'{package} is not installed; run: pip install "efficientdet-torch[litert]"')


def remove_input_transposes(graph: LiteRTGraph) -> bool:
    """Let the operators at the graph's input work on channels-last images, and drop the two transposes around them.

    Converted networks transpose images [B, H, W, C] to channels first, normalise and pad them, and transpose them back
    for the first convolution. Returns whether there was such a chain.
    """
    chain: list[Any] = []
    tensor = graph.subgraph.inputs[0]
    while True:
        readers = graph.readers(tensor)
        if len(readers) != 1 or len(chain) > 8:
            return False
        (operator,) = readers
        chain.append(operator)
        if graph.kind(operator) == "TRANSPOSE" and len(chain) > 1:
            break
        tensor = operator.outputs[0]
    first, *inner, last = chain
    kinds = {graph.kind(operator) for operator in inner}
    if graph.kind(first) != "TRANSPOSE" or not kinds <= {"CAST", "SUB", "MUL", "DIV", "ADD", "PAD", "QUANTIZE"}:
        return False
    if not _permutes(graph, first, _TO_CHANNELS_FIRST) or not _permutes(graph, last, _TO_CHANNELS_LAST):
        return False
    previous = first.inputs[0]
    for operator in inner:
        operator.inputs = [previous, *(_channels_last(graph, operator, tensor) for tensor in operator.inputs[1:])]
        previous = operator.outputs[0]
        described = graph.subgraph.tensors[previous]
        described.shape = [described.shape[axis] for axis in _TO_CHANNELS_LAST]
        described.shapeSignature = None
    for reader in graph.readers(last.outputs[0]):
        reader.inputs = [previous if tensor == last.outputs[0] else tensor for tensor in reader.inputs]
    graph.subgraph.operators = [
        operator for operator in graph.subgraph.operators if operator is not first and operator is not last
    ]
    graph.drop_unused()
    return True


def correct_nearest_resizing(graph: LiteRTGraph) -> None:
    """Let nearest-neighbour resizing take the pixel that PyTorch takes where sizes are no multiples of each other.

    litert-torch 0.10 writes half-pixel centres, which is right for multiples alone: of 3 pixels resized to 5, PyTorch
    gives 0 0 1 1 2, and half-pixel centres give 0 0 1 2 2.
    """
    for operator in graph.subgraph.operators:
        if graph.kind(operator) == "RESIZE_NEAREST_NEIGHBOR":
            operator.builtinOptions.halfPixelCenters = False
            code = graph.model.operatorCodes[operator.opcodeIndex]
            code.version = min(code.version, 2)  # version 3 is that of half-pixel centres


def _permutes(graph: LiteRTGraph, transpose: Any, axes: list[int]) -> bool:
    order = graph.constant(transpose.inputs[1])
    return order is not None and order.tolist() == axes


def _channels_last(graph: LiteRTGraph, operator: Any, tensor: int) -> int:
    """The constant of an operator, for images with channels last."""
    values = graph.constant(tensor)
    assert values is not None
    if graph.kind(operator) == "PAD":
        moved = values[_TO_CHANNELS_LAST]
    elif values.ndim <= 1:
        return tensor
    else:
        moved = values.reshape((1,) * (4 - values.ndim) + values.shape).transpose(_TO_CHANNELS_LAST)
    return graph.add_constant(f"{operator.outputs[0]}_constant", np.ascontiguousarray(moved))


@contextmanager
def quiet() -> Iterator[None]:
    """Within it, progress bars, prints, warnings and logs of the conversion libraries are not shown."""
    prints = redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO())
    with quiet_libraries(), prints[0], prints[1], warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
