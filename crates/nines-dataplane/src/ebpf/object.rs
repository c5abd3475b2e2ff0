//! The kernel object: committed bytes, and proof that they were built from the sources beside them.
//!
//! `cargo xtask bpf` builds it and writes both files; users need no eBPF compiler.

/// The object as loaded.
pub static BYTES: &[u8] = aya::include_bytes_aligned!("nines.bpf.o");

/// SHA-256 over the sources it was built from, hex; see `xtask/src/bpf.rs` for what is hashed.
pub static SOURCES_SHA256: &str = include_str!("nines.bpf.sha256");
