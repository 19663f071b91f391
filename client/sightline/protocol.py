"""The part of Triton's gRPC service that the client speaks: messages and methods, as in `grpc_service.proto` of triton-inference-server.

Made here rather than taken from tritonclient, which brings 35 MB of other packages along; a test compares them with its own. They live
in a descriptor pool of their own, so both can be used in one process. A proto map is a list of `key` and `value` on the wire.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# message -> its fields: number, name, type; a star means repeated
MESSAGES = {
    "ModelReadyRequest": "1 name string, 2 version string",
    "ModelReadyResponse": "1 ready bool",
    "InferParameter": "2 int64_param int64?, 3 string_param string?",
    "Parameter": "1 key string, 2 value InferParameter",
    "InputTensor": "1 name string, 2 datatype string, 3 shape int64*, 4 parameters Parameter*",
    "RequestedOutput": "1 name string",
    "ModelInferRequest": (
        "1 model_name string, 3 id string, 4 parameters Parameter*, 5 inputs InputTensor*, 6 outputs RequestedOutput*, "
        "7 raw_input_contents bytes*"
    ),
    "OutputTensor": "1 name string, 2 datatype string, 3 shape int64*",
    "ModelInferResponse": "1 model_name string, 3 id string, 5 outputs OutputTensor*, 6 raw_output_contents bytes*",
    "ModelStreamInferResponse": "1 error_message string, 2 infer_response ModelInferResponse",
    "SystemSharedMemoryRegisterRequest": "1 name string, 2 key string, 3 offset uint64, 4 byte_size uint64",
    "SystemSharedMemoryRegisterResponse": "",
    "SystemSharedMemoryUnregisterRequest": "1 name string",
    "SystemSharedMemoryUnregisterResponse": "",
    "SystemSharedMemoryStatusRequest": "1 name string",
    "RegionEntry": "1 key string",
    "SystemSharedMemoryStatusResponse": "1 regions RegionEntry*",
}
METHODS = ("ModelReady", "ModelInfer", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister", "SystemSharedMemoryStatus")
_Field = descriptor_pb2.FieldDescriptorProto


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="sightline.proto", package="inference", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for words in filter(None, fields.split(", ")):
            number, field, kind = words.split()
            made = message.field.add(name=field, number=int(number))
            made.label = _Field.LABEL_REPEATED if kind.endswith("*") else _Field.LABEL_OPTIONAL
            if kind.endswith("?"):  # one of several
                message.oneof_decl or message.oneof_decl.add(name="choice")
                made.oneof_index = 0
            if (kind := kind.rstrip("*?")) in MESSAGES:
                made.type, made.type_name = _Field.TYPE_MESSAGE, f".inference.{kind}"
            else:
                made.type = _Field.Type.Value(f"TYPE_{kind.upper()}")
    return file


_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(_file().SerializeToString())


def message(kind: str, /, **values: Any) -> Any:
    """A new message of that kind."""
    return _CLASSES[kind](**values)


_CLASSES: dict[str, Any] = {name: message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"inference.{name}")) for name in MESSAGES}


class Service:
    """The methods on a channel, blocking or of asyncio; each is called as gRPC's own stubs are."""

    ModelReady: Any
    ModelInfer: Any
    SystemSharedMemoryRegister: Any
    SystemSharedMemoryUnregister: Any
    SystemSharedMemoryStatus: Any

    def __init__(self, channel: Any) -> None:
        for name in METHODS:
            setattr(self, name, channel.unary_unary(*_path(name), **_codec(name)))
        self.ModelStreamInfer = channel.stream_stream(*_path("ModelStreamInfer"), **_codec("ModelStreamInfer", "ModelInferRequest"))


def _path(name: str) -> tuple[str]:
    return (f"/inference.GRPCInferenceService/{name}",)


def _codec(name: str, request: str | None = None) -> dict[str, Any]:
    asked, answered = _CLASSES[request or f"{name}Request"], _CLASSES[f"{name}Response"]
    return {"request_serializer": asked.SerializeToString, "response_deserializer": answered.FromString}
