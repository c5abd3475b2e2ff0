//! BPF_PROG_TEST_RUN: one packet through one program, without a network. For packet tests and for
//! measuring what a packet costs.

use std::{
    net::IpAddr,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd},
};

use super::EbpfPlane;
use crate::{Error, Result};

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The program's return code.
    pub verdict: i32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// Mean time of one run, ns.
    pub nanoseconds: u32,
}

/// The fields of `union bpf_attr` that BPF_PROG_TEST_RUN reads (uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
}

impl EbpfPlane {
    /// Runs `packet` through the named program `repeat` times. XDP must be loaded by
    /// [`EbpfPlane::load_xdp`] first.
    pub fn test_run(&self, program: &str, packet: &[u8], repeat: u32) -> Result<Outcome> {
        self.run(program, packet, repeat, 0)
    }

    /// Once, with a packet that carries this mark (tc).
    pub fn test_run_marked(&self, program: &str, packet: &[u8], mark: u32) -> Result<Outcome> {
        self.run(program, packet, 1, mark)
    }

    fn run(&self, program: &str, packet: &[u8], repeat: u32, mark: u32) -> Result<Outcome> {
        run(program, self.program(program)?.as_raw_fd(), packet, repeat, mark)
    }

    /// A program, to be called by others.
    pub fn program(&self, name: &str) -> Result<OwnedFd> {
        let failed = |e: String| Error::new(format!("no program {name}"), e);
        let found = self.ebpf.program(name).ok_or_else(|| failed("not in the object".into()))?;
        let fd = found.fd().map_err(|e| failed(e.to_string()))?;
        fd.as_fd().try_clone_to_owned().map_err(|e| failed(e.to_string()))
    }

    /// How many instructions the kernel walked to verify each program that is loaded.
    pub fn verified(&self) -> Vec<(String, u64)> {
        let count = |program: &aya::programs::Program| -> Option<u64> {
            let fd = program.fd().ok()?.as_fd().as_raw_fd();
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
            info.lines().find_map(|l| l.strip_prefix("verified_insns:"))?.trim().parse().ok()
        };
        let all = self.ebpf.programs();
        all.filter_map(|(name, program)| Some((name.to_owned(), count(program)?))).collect()
    }

    /// Loads every program there is of a director, also what no service needs.
    pub fn load_everything(&mut self) -> Result<()> {
        super::programs::load_everything(&mut self.ebpf)?;
        super::programs::load_alone(&mut self.ebpf, super::programs::FLOW_IMPORT)
    }

    /// Loads the XDP programs without attaching them; they may send to every interface.
    pub fn load_xdp(&mut self) -> Result<()> {
        super::programs::load_xdp(&mut self.ebpf)?;
        let all = crate::address::interfaces()?.iter().map(|i| i.index).collect();
        super::attach::tell_express(&mut self.ebpf, &all)
    }

    /// Loads the programs of a real server without attaching them: it serves these addresses, and
    /// takes tunnels on these UDP ports.
    pub fn load_server(&mut self, vips: &[IpAddr], ports: &[u16]) -> Result<()> {
        super::attach::load_server(&mut self.ebpf)?;
        super::decap::put(&mut self.ebpf, vips, ports)
    }

    /// XDP sends nothing into this interface, as if its driver took no frames.
    pub fn takes_no_frames(&mut self, interface: &str) -> Result<()> {
        let all = crate::address::interfaces()?;
        let others = all.iter().filter(|i| i.name != interface).map(|i| i.index).collect();
        super::attach::tell_express(&mut self.ebpf, &others)
    }
}

/// The same of a program by its descriptor.
pub(super) fn run(
    program: &str,
    fd: RawFd,
    packet: &[u8],
    repeat: u32,
    mark: u32,
) -> Result<Outcome> {
    const BPF_PROG_TEST_RUN: libc::c_long = 10;
    let mut out = vec![0; packet.len() + 256];
    let mut attr = TestRun {
        prog_fd: fd as u32,
        data_size_in: packet.len() as u32,
        data_size_out: out.len() as u32,
        data_in: packet.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat,
        ..TestRun::default()
    };
    // `struct __sk_buff` as far as the kernel takes it from here: the mark is its third word.
    let mut context = [0u32; 48];
    context[2] = mark;
    if mark != 0 {
        attr.ctx_in = context.as_ptr() as u64;
        attr.ctx_size_in = size_of_val(&context) as u32;
    }
    let size = std::mem::size_of::<TestRun>();
    // SAFETY: `attr` and both buffers live through the call; sizes are theirs.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attr, size) };
    if rc < 0 {
        return Err(Error::new(format!("cannot run {program}"), std::io::Error::last_os_error()));
    }
    out.truncate(attr.data_size_out as usize);
    Ok(Outcome { verdict: attr.retval as i32, packet: out, nanoseconds: attr.duration })
}
