"""The client's own messages against tritonclient's, which come from Triton's proto files."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import FieldDescriptor
from sightline import protocol
from tritonclient.grpc import service_pb2

OURS = {"Parameter": "ModelInferRequest.ParametersEntry", "InputTensor": "ModelInferRequest.InferInputTensor"}
OURS |= {"RequestedOutput": "ModelInferRequest.InferRequestedOutputTensor", "OutputTensor": "ModelInferResponse.InferOutputTensor"}
OURS |= {"RegionEntry": "SystemSharedMemoryStatusResponse.RegionsEntry"}


def theirs(name: str) -> object:
    outer, _, inner = OURS.get(name, name).partition(".")
    descriptor = getattr(service_pb2, outer).DESCRIPTOR
    return descriptor.nested_types_by_name[inner] if inner else descriptor


@pytest.mark.parametrize("name", protocol.MESSAGES)
def test_numbers_and_types_are_tritons(name: str) -> None:
    for field in protocol.message(name).DESCRIPTOR.fields:
        known = theirs(name).fields_by_number[field.number]
        assert (known.name, known.type, known.is_repeated) == (field.name, field.type, field.is_repeated)
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            assert theirs(field.message_type.name).name == known.message_type.name
        assert (known.containing_oneof is None) == (field.containing_oneof is None)


def test_what_one_writes_the_other_reads() -> None:
    asked = protocol.message("ModelInferRequest", model_name="inspect", id="7", raw_input_contents=[b"x"])
    asked.inputs.add(name="IMAGE", datatype="BYTES", shape=[1]).parameters.add(key="region").value.string_param = "r"
    asked.parameters.add(key="timeout").value.int64_param = 5
    read = service_pb2.ModelInferRequest.FromString(asked.SerializeToString())
    assert (read.model_name, read.id, read.raw_input_contents) == ("inspect", "7", [b"x"])
    assert read.parameters["timeout"].int64_param == 5 and read.inputs[0].parameters["region"].string_param == "r"
    status = service_pb2.SystemSharedMemoryStatusResponse()
    status.regions["one"].byte_size = 9
    answered = type(protocol.message("SystemSharedMemoryStatusResponse")).FromString(status.SerializeToString())
    assert [region.key for region in answered.regions] == ["one"]


def test_the_service_is_tritons() -> None:
    known = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for name in (*protocol.METHODS, "ModelStreamInfer"):
        method = known.methods_by_name[name]
        assert protocol._path(name) == (f"/{known.full_name}/{name}",) and method.output_type.name == f"{name}Response"
        assert method.input_type.name == ("ModelInferRequest" if name == "ModelStreamInfer" else f"{name}Request")
