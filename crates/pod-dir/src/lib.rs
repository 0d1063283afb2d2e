//! What the shim and the CLI share: the pod's directory.
#![forbid(unsafe_code)]
