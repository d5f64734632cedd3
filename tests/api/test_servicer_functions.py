"""`grpc_servicer_functions`: what they register, and what is said about wrong ones."""

import sys
from types import ModuleType

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from swerve import servicers


@pytest.fixture
def fake_module(monkeypatch):
    module = ModuleType("fake_servicers")
    module.__file__ = "fake_servicers.py"
    monkeypatch.setitem(sys.modules, "fake_servicers", module)
    return module


def test_every_kind_of_method_is_found_with_its_messages(probe):
    served = servicers.load([probe.add])

    kinds = {path: (method.client_streaming, method.server_streaming) for path, method in served.methods.items()}
    assert kinds == {
        "/probe.v1.Probe/__call__": (False, False),
        "/probe.v1.Probe/Unary": (False, False),
        "/probe.v1.Probe/Stream": (False, True),
        "/probe.v1.Probe/Collect": (True, False),
        "/probe.v1.Probe/Chat": (True, True),
    }
    method = served.methods["/probe.v1.Probe/__call__"]
    assert method.name == "__call__"
    assert method.request_class is probe.pb.Note
    assert method.response_class is probe.pb.Note
    assert method.deserialize(probe.pb.Note(text="x").SerializeToString()).text == "x"
    assert method.serialize(probe.pb.Note(text="x")) == probe.pb.Note(text="x").SerializeToString()


def test_messages_of_nested_packages_and_their_files_are_found(proto_dir):
    served = servicers.load(["probe_nested.inner_pb2_grpc:add_NestedServicer_to_server"])

    (method,) = served.methods.values()
    assert method.request_class.DESCRIPTOR.full_name == "probe_nested.deep.Part"
    assert method.response_class.DESCRIPTOR.full_name == "probe_nested.Whole"
    files = [FileDescriptorProto.FromString(data).name for data in served.file_descriptors]
    assert files == ["probe_nested/deep/parts.proto", "probe_nested/inner.proto"]


def test_services_of_one_file_are_served_together_and_the_file_once(probe):
    served = servicers.load([probe.add, "probe_pb2_grpc.add_SecondServicer_to_server", probe.add])

    assert len(served.methods) == 6
    assert len(served.file_descriptors) == 1
    assert [method.path for method in served.grpc_methods()] == list(served.methods)


def test_generated_code_of_older_grpc_that_only_adds_generic_handlers_works(fake_module):
    import grpc

    def add(servicer, server):
        handler = grpc.unary_unary_rpc_method_handler(servicer.Say)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("old.S", {"Say": handler}),))

    fake_module.add = add

    method = servicers.load(["fake_servicers.add"]).methods["/old.S/Say"]
    assert method.request_class is None
    assert method.deserialize(b"raw") == b"raw"


def test_a_module_that_does_not_exist_is_refused():
    with pytest.raises(ModuleNotFoundError) as caught:
        servicers.load(["no_such_module_pb2_grpc.add_X_to_server"])

    assert str(caught.value).startswith(
        "no_such_module_pb2_grpc.add_X_to_server can't be imported! Please make sure there are no typo in those "
        "functions. Or you might want to rebuild service definitions if .proto file is changed."
    )


@pytest.mark.parametrize("path", ["add_X", ":f", "m:"])
def test_a_path_that_is_no_path_is_refused(path):
    with pytest.raises(ModuleNotFoundError, match="can't be imported! Please make sure"):
        servicers.load([path])


def test_an_empty_path_is_refused():
    with pytest.raises(ModuleNotFoundError, match="A servicer function is empty and can't be imported!"):
        servicers.load([""])


def test_a_missing_function_is_refused(probe):
    with pytest.raises(AttributeError, match="has no attribute 'add_Y'"):
        servicers.load(["probe_pb2_grpc.add_Y"])


def test_what_is_no_function_is_refused(fake_module):
    fake_module.add = 3

    with pytest.raises(ValueError, match=r"^fake_servicers\.add is not a callable function! Please make sure the"):
        servicers.load(["fake_servicers.add"])


def test_a_function_that_registers_nothing_is_refused(fake_module):
    fake_module.add = lambda servicer, server: None

    with pytest.raises(ValueError, match=r"fake_servicers\.add registers no gRPC method"):
        servicers.load(["fake_servicers.add"])


def test_a_function_that_is_no_servicer_function_is_refused(fake_module):
    fake_module.add = lambda only: None

    with pytest.raises(ValueError, match=r"fake_servicers\.add failed when it was called with a servicer"):
        servicers.load(["fake_servicers.add"])


def test_a_module_that_raises_is_refused_with_its_error(tmp_path, monkeypatch):
    (tmp_path / "broken_pb2_grpc.py").write_text("raise RuntimeError('too old')\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ImportError, match="raised RuntimeError: too old"):
        servicers.load(["broken_pb2_grpc.add"])
