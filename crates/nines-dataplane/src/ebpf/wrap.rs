//! A program that times other XDP programs: it puts the packet back as it was, with the next flow's
//! address and port, and tail-calls the program. So BPF_PROG_TEST_RUN can repeat a run a million
//! times whatever the program does to the packet. Small enough to be written out by hand.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use super::testrun;
use crate::{Error, Result};

/// Bytes of a packet that are put back: all that programs change.
const KEPT: usize = 64;
/// Where things are in the wrapper's own memory, a map of one value.
const LENGTH: i16 = 64;
const FLOWS: i16 = 72;
const FLOW: i16 = 80;
const V6: i16 = 88;
const MEMORY: usize = 96;

/// Commands of the system call bpf, from linux/bpf.h.
const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const OBJ_GET: libc::c_long = 7;
const ARRAY: u64 = 2;
const PROG_ARRAY: u64 = 3;
const XDP: u64 = 6;
const ATTACH_XDP: u64 = 37;

fn bpf(command: libc::c_long, attr: &[u64; 16]) -> Result<i32> {
    // SAFETY: what the attribute points to outlives the call, in each caller.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(attr)) };
    let failed = || Error::new(format!("bpf({command})"), io::Error::last_os_error());
    if rc < 0 { Err(failed()) } else { Ok(rc as i32) }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just given it to us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn pair(low: u64, high: u64) -> u64 {
    low | high << 32
}

fn map(kind: u64, value: u64) -> Result<OwnedFd> {
    let mut attr = [0; 16];
    (attr[0], attr[1]) = (pair(kind, 4), pair(value, 1));
    bpf(MAP_CREATE, &attr).map(owned)
}

fn set(map: &OwnedFd, value: *const u8) -> Result<()> {
    let key = 0u32;
    let mut attr = [0; 16];
    attr[0] = map.as_raw_fd() as u64;
    attr[1] = &raw const key as u64;
    attr[2] = value as u64;
    bpf(MAP_UPDATE, &attr).map(drop)
}

/// One instruction (`struct bpf_insn`).
fn word(code: u8, dst: u8, src: u8, offset: i16, value: i32) -> u64 {
    let (o, v) = (offset.to_le_bytes(), value.to_le_bytes());
    u64::from_le_bytes([code, src << 4 | dst, o[0], o[1], v[0], v[1], v[2], v[3]])
}

/// Instructions and jumps to labels.
#[derive(Default)]
struct Code {
    words: Vec<u64>,
    jumps: Vec<(usize, &'static str)>,
    labels: Vec<(&'static str, usize)>,
}

impl Code {
    fn put(&mut self, code: u8, dst: u8, src: u8, offset: i16, value: i32) {
        self.words.push(word(code, dst, src, offset, value));
    }

    fn jump(&mut self, code: u8, dst: u8, src: u8, value: i32, to: &'static str) {
        self.jumps.push((self.words.len(), to));
        self.put(code, dst, src, 0, value);
    }

    fn here(&mut self, label: &'static str) {
        self.labels.push((label, self.words.len()));
    }

    fn done(mut self) -> Vec<u64> {
        for (at, to) in self.jumps {
            let (_, label) = self.labels.iter().find(|(name, _)| *name == to).expect("a label");
            let offset = (*label as i64 - at as i64 - 1) as i16;
            self.words[at] |= u64::from(offset as u16) << 16;
        }
        self.words
    }
}

/// Operation codes of instructions. Registers hold, all along: r6 the context, r7 the first byte of
/// the packet, r8 the one behind the last, r9 the wrapper's memory.
const MOVE: u8 = 0xbf;
const MOVE_VALUE: u8 = 0xb7;
const ADD_VALUE: u8 = 0x07;
const SUBTRACT: u8 = 0x1f;
const AND_VALUE: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const BIG_ENDIAN: u8 = 0xdc;
const LOAD_POINTER: u8 = 0x18;
const LOAD4: u8 = 0x61;
const LOAD8: u8 = 0x79;
const STORE8: u8 = 0x7b;
const STORE2: u8 = 0x6b;
const JUMP: u8 = 0x05;
const JUMP_EQUAL_VALUE: u8 = 0x15;
const JUMP_UNEQUAL_VALUE: u8 = 0x55;
const JUMP_GREATER: u8 = 0x2d;
const JUMP_LESS: u8 = 0xad;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// Functions of the kernel, by number.
const TAIL_CALL: i32 = 12;
const ADJUST_HEAD: i32 = 44;

/// The wrapper: `memory` and `targets` are its maps, by descriptor.
fn code(memory: i32, targets: i32) -> Vec<u64> {
    let mut c = Code::default();
    c.put(MOVE, 6, 1, 0, 0);
    c.pointer(9, 2, memory);
    c.packet_ends();
    c.put_length_back();
    c.put_bytes_back();
    c.next_flow();
    c.here("call");
    c.put(MOVE, 1, 6, 0, 0);
    c.pointer(2, 1, targets);
    c.put(MOVE_VALUE, 3, 0, 0, 0);
    c.put(CALL, 0, 0, 0, TAIL_CALL);
    c.here("end");
    c.put(MOVE_VALUE, 0, 0, 0, 0);
    c.put(EXIT, 0, 0, 0, 0);
    c.done()
}

impl Code {
    /// Address of a map, or of its value, which takes two instructions.
    fn pointer(&mut self, dst: u8, kind: u8, descriptor: i32) {
        self.put(LOAD_POINTER, dst, kind, 0, descriptor);
        self.put(0, 0, 0, 0, 0);
    }

    fn packet_ends(&mut self) {
        self.put(LOAD4, 7, 6, 0, 0);
        self.put(LOAD4, 8, 6, 4, 0);
    }

    /// As long as it was: what was put before it goes (bpf_xdp_adjust_head).
    fn put_length_back(&mut self) {
        self.put(MOVE, 2, 8, 0, 0);
        self.put(SUBTRACT, 2, 7, 0, 0);
        self.put(LOAD8, 1, 9, LENGTH, 0);
        self.put(SUBTRACT, 2, 1, 0, 0);
        self.jump(JUMP_EQUAL_VALUE, 2, 0, 0, "whole");
        self.put(MOVE, 1, 6, 0, 0);
        self.put(CALL, 0, 0, 0, ADJUST_HEAD);
        self.jump(JUMP_UNEQUAL_VALUE, 0, 0, 0, "end");
        self.packet_ends();
        self.here("whole");
    }

    fn put_bytes_back(&mut self) {
        self.put(MOVE, 1, 7, 0, 0);
        self.put(ADD_VALUE, 1, 0, 0, KEPT as i32);
        self.jump(JUMP_GREATER, 1, 8, 0, "end");
        for at in (0..KEPT as i16).step_by(8) {
            self.put(LOAD8, 1, 9, at, 0);
            self.put(STORE8, 7, 1, at, 0);
        }
    }

    /// The next of so many flows: port 1024 to 33791, then the next address.
    fn next_flow(&mut self) {
        self.put(LOAD8, 1, 9, FLOWS, 0);
        self.jump(JUMP_EQUAL_VALUE, 1, 0, 0, "call");
        self.put(LOAD8, 2, 9, FLOW, 0);
        self.put(ADD_VALUE, 2, 0, 0, 1);
        self.jump(JUMP_LESS, 2, 1, 0, "counted");
        self.put(MOVE_VALUE, 2, 0, 0, 0);
        self.here("counted");
        self.put(STORE8, 9, 2, FLOW, 0);
        self.put(MOVE, 3, 2, 0, 0);
        self.put(AND_VALUE, 3, 0, 0, 0x7fff);
        self.put(ADD_VALUE, 3, 0, 0, 1_024);
        self.put(BIG_ENDIAN, 3, 0, 0, 16);
        self.put(SHIFT_RIGHT, 2, 0, 0, 15);
        self.put(ADD_VALUE, 2, 0, 0, 257);
        self.put(BIG_ENDIAN, 2, 0, 0, 16);
        self.put(LOAD8, 5, 9, V6, 0);
        self.jump(JUMP_UNEQUAL_VALUE, 5, 0, 0, "six");
        self.put(STORE2, 7, 3, 34, 0);
        self.put(STORE2, 7, 2, 28, 0);
        self.jump(JUMP, 0, 0, 0, "call");
        self.here("six");
        self.put(STORE2, 7, 3, 54, 0);
        self.put(STORE2, 7, 2, 36, 0);
    }
}

fn load(code: &[u64]) -> Result<OwnedFd> {
    let licence = c"Dual MIT/GPL";
    let mut said = vec![0u8; 1 << 16];
    let mut attr = [0; 16];
    attr[0] = pair(XDP, code.len() as u64);
    attr[1] = code.as_ptr() as u64;
    attr[2] = licence.as_ptr() as u64;
    attr[3] = pair(1, said.len() as u64);
    attr[4] = said.as_mut_ptr() as u64;
    // Of one array only programs that may be attached alike.
    attr[8] = pair(0, ATTACH_XDP);
    bpf(PROG_LOAD, &attr).map(owned).map_err(|why| {
        let text = said.split(|b| *b == 0).next().unwrap_or_default();
        Error { why: format!("{}: {}", why.why, String::from_utf8_lossy(text)), ..why }
    })
}

/// A program that returns this at once: what the wrapper itself costs.
pub fn empty(verdict: i32) -> Result<OwnedFd> {
    load(&[word(MOVE_VALUE, 0, 0, 0, verdict), word(EXIT, 0, 0, 0, 0)])
}

/// An XDP program that is pinned.
pub fn pinned(path: &str) -> Result<OwnedFd> {
    let name = std::ffi::CString::new(path).map_err(|e| Error::new(path, e))?;
    let mut attr = [0; 16];
    attr[0] = name.as_ptr() as u64;
    bpf(OBJ_GET, &attr).map(owned).map_err(|why| Error { what: path.to_owned(), ..why })
}

/// The program that puts packets back and calls another one, with its maps.
#[derive(Debug)]
pub struct Wrapper {
    memory: OwnedFd,
    targets: OwnedFd,
    program: OwnedFd,
}

impl Wrapper {
    /// Loads the program and makes its maps.
    pub fn new() -> Result<Self> {
        let (memory, targets) = (map(ARRAY, MEMORY as u64)?, map(PROG_ARRAY, 4)?);
        let program = load(&code(memory.as_raw_fd(), targets.as_raw_fd()))?;
        Ok(Self { memory, targets, program })
    }

    /// Nanoseconds and verdict of a run of `target` with `packet`, the mean of `repeat`, each time
    /// with the next of so many flows, from `first` on; 1: always the same.
    pub fn run(
        &self,
        target: BorrowedFd<'_>,
        packet: &[u8],
        (first, flows): (u64, u64),
        repeat: u32,
    ) -> Result<(f64, i32)> {
        let mut memory = [0u8; MEMORY];
        memory[..KEPT].copy_from_slice(&packet[..KEPT]);
        let mut number = |at: i16, n: u64| {
            memory[at as usize..at as usize + 8].copy_from_slice(&n.to_ne_bytes());
        };
        number(LENGTH, packet.len() as u64);
        number(FLOWS, if flows > 1 { flows } else { 0 });
        number(FLOW, first);
        number(V6, u64::from(packet[12] == 0x86));
        set(&self.memory, memory.as_ptr())?;
        let target = target.as_raw_fd();
        set(&self.targets, (&raw const target).cast())?;
        let out = testrun::run("the wrapper", self.program.as_raw_fd(), packet, repeat, 0)?;
        Ok((f64::from(out.nanoseconds), out.verdict))
    }
}
