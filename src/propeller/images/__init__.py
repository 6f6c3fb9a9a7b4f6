"""Images: OCI references, the client that pulls and pushes Wasm, its cache, and the embedded OCI registry.

It knows nothing of tasks or proplets: it turns a reference into verified bytes, and bytes into an image.
"""
