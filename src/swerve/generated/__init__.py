"""Generated protobuf stubs; `protos/generate.py` writes them."""
