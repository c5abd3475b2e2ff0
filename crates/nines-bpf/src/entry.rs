//! The programs that the kernel calls, by the hook that they are for.
//!
//! Decides: how a [`crate::verdict::Verdict`] becomes a kernel return code, one match a hook. The
//! entry programs know flows; what is rarer goes on in another program by a tail call.
//!
//! Programs are always inlined into what the kernel calls: a tail call may not lie in a function
//! (without type information).

mod real_server;
mod tc;
mod xdp;
