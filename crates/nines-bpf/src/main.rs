//! The nines kernel programs: they guard addresses and forward packets, at tc and at XDP.
//!
//! Decides: nothing. The programs are in `entry`; they ask `pipeline` for a verdict and carry it
//! out.
//!
//! Each module uses only those before it in this list: atomic, kernel, clock, maps, frame, fib,
//! verdict, parse, guard, service, flow, schedule, forward, nat, tunnel, reply, pipeline,
//! flow_sync, entry.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod atomic;
mod clock;
mod entry;
mod fib;
mod flow;
mod flow_sync;
mod forward;
mod frame;
mod guard;
mod kernel;
mod maps;
mod nat;
mod parse;
mod pipeline;
mod reply;
mod schedule;
mod service;
mod tunnel;
mod verdict;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Licence of the object as the kernel reads it.
#[no_mangle]
#[link_section = "license"]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
