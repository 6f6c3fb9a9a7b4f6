"""The embedded OCI registry: the distribution specification v1.1 as an ASGI application.

It stores content through `ContentStore` and what belongs to which repository through `RegistryIndex`; whoever
wires it chooses both. It knows nothing of Wasm: any artifact may be pushed here.
"""
