//! Packets in numbers that a wire carries: BPF_PROG_TEST_RUN makes frames of a program's own
//! (`BPF_F_TEST_XDP_LIVE_FRAMES`, 5.18), which go through drivers, XDP and stack as others do.
//!
//! The programs are too small for a compiler: each is written out below.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    path::PathBuf,
    time::{Duration, Instant},
};

use aya::programs::{
    SchedClassifier,
    links::LinkOrder,
    tc::{NlOptions, TcAttachOptions, TcAttachType, qdisc_add_clsact},
};

/// One instruction (uapi/linux/bpf.h, `struct bpf_insn`).
fn word(code: u8, dst: u8, src: u8, offset: i16, value: i32) -> u64 {
    u64::from_le_bytes({
        let (o, v) = (offset.to_le_bytes(), value.to_le_bytes());
        [code, src << 4 | dst, o[0], o[1], v[0], v[1], v[2], v[3]]
    })
}

/// `dst = value`, 64 bits: two words. `src` 2: the value of the array map with this descriptor.
fn load(dst: u8, src: u8, value: u64) -> [u64; 2] {
    let (low, high) = (value as u32 as i32, (value >> 32) as u32 as i32);
    [word(0x18, dst, src, 0, low), word(0, 0, 0, 0, high)]
}

const RETURN: fn(i32) -> [u64; 2] = |code| [word(0xb7, 0, 0, 0, code), word(0x95, 0, 0, 0, 0)];

/// What bpf(2) takes, as far as it is used here.
#[repr(C)]
#[derive(Default)]
struct Attr([u64; 16]);

fn bpf(command: libc::c_long, attr: &mut Attr) -> io::Result<i32> {
    // SAFETY: what the attribute points to outlives the call, in each caller.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<Attr>()) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc as i32) }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just given it to us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// `kind`: BPF_PROG_TYPE_SCHED_CLS is 3, XDP 6.
fn program(kind: u64, code: &[u64]) -> OwnedFd {
    let mut attr = Attr::default();
    let licence = c"Dual MIT/GPL";
    attr.0[0] = kind | (code.len() as u64) << 32;
    attr.0[1] = code.as_ptr() as u64;
    attr.0[2] = licence.as_ptr() as u64;
    owned(bpf(5, &mut attr).unwrap())
}

/// A program in the BPF file system, for as long as this lives.
struct Pin(PathBuf);

impl Pin {
    fn new(fd: RawFd, name: &str) -> Self {
        // SAFETY: no preconditions.
        let thread = unsafe { libc::gettid() };
        let path = PathBuf::from(format!("/sys/fs/bpf/nines-test-{thread}-{name}"));
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        let mut attr = Attr::default();
        attr.0[0] = name.as_ptr() as u64;
        attr.0[1] = fd as u64;
        bpf(6, &mut attr).unwrap();
        Self(path)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An XDP program that always says the same, on an interface while this lives, and counts.
pub struct Says {
    _link: OwnedFd,
    count: OwnedFd,
}

/// An array map of one u64.
fn number() -> OwnedFd {
    let mut attr = Attr::default();
    attr.0[0] = 2 | 4 << 32;
    attr.0[1] = 8 | 1 << 32;
    owned(bpf(0, &mut attr).unwrap())
}

/// Its value.
fn value_of(map: &OwnedFd) -> u64 {
    let (key, mut value) = (0u32, 0u64);
    let mut attr = Attr::default();
    attr.0[0] = map.as_raw_fd() as u64;
    attr.0[1] = &raw const key as u64;
    attr.0[2] = &raw mut value as u64;
    bpf(1, &mut attr).unwrap();
    value
}

impl Says {
    pub const DROP: i32 = 1;
    pub const PASS: i32 = 2;

    pub fn on(interface: &str, verdict: i32) -> Self {
        let count = number();
        let program = program(6, &counted(&count, verdict));
        let mut attr = Attr::default();
        // BPF_XDP is 37, XDP_FLAGS_DRV_MODE 4.
        attr.0[0] = program.as_raw_fd() as u64 | u64::from(index(interface)) << 32;
        attr.0[1] = 37 | 4 << 32;
        // The kernel takes a program off whose link was given up a moment later.
        let until = Instant::now() + Duration::from_secs(20);
        let link = loop {
            match bpf(28, &mut attr) {
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                done => break done.unwrap(),
            }
        };
        Self { _link: owned(link), count }
    }

    /// Frames that came.
    pub fn seen(&self) -> u64 {
        value_of(&self.count)
    }
}

/// A program that counts and says so.
fn counted(count: &OwnedFd, verdict: i32) -> Vec<u64> {
    let mut code = load(1, 2, count.as_raw_fd() as u64).to_vec();
    code.extend([word(0xb7, 2, 0, 0, 1), word(0xdb, 1, 2, 0, 0)]); // *r1 += 1, atomically
    code.extend(RETURN(verdict));
    code
}

pub fn index(interface: &str) -> u32 {
    let name = std::ffi::CString::new(interface).unwrap();
    // SAFETY: a NUL-terminated name.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

/// Nothing leaves this interface, from the end of its tc programs on.
pub struct Sink {
    _program: SchedClassifier,
    count: OwnedFd,
}

impl Sink {
    pub fn behind(interface: &str) -> Self {
        let count = number();
        let pin = Pin::new(program(3, &counted(&count, super::SHOT)).as_raw_fd(), "sink");
        let mut program = SchedClassifier::from_pin(&pin.0).unwrap();
        let _ = qdisc_add_clsact(interface);
        let last = TcAttachOptions::Netlink(NlOptions { priority: 99, ..NlOptions::default() });
        program.attach_with_options(interface, TcAttachType::Egress, last).unwrap();
        Self { _program: program, count }
    }

    /// Packets that came.
    pub fn seen(&self) -> u64 {
        value_of(&self.count)
    }
}

/// Another's program at an interface's ingress: it counts what comes to it, and passes it on.
pub struct Beside {
    _program: SchedClassifier,
    count: OwnedFd,
}

impl Beside {
    /// By tcx, before all that is there, or by a filter of clsact behind ours.
    pub fn on(interface: &str, tcx: bool) -> Self {
        let count = number();
        let pin = Pin::new(program(3, &counted(&count, super::NEXT)).as_raw_fd(), "beside");
        let mut program = SchedClassifier::from_pin(&pin.0).unwrap();
        let options = if tcx {
            TcAttachOptions::TcxOrder(LinkOrder::first())
        } else {
            let _ = qdisc_add_clsact(interface);
            TcAttachOptions::Netlink(NlOptions { priority: 99, ..NlOptions::default() })
        };
        program.attach_with_options(interface, TcAttachType::Ingress, options).unwrap();
        Self { _program: program, count }
    }

    /// Packets that came.
    pub fn seen(&self) -> u64 {
        value_of(&self.count)
    }
}

/// Frames like one, 64 bytes each, from `flows` ports of its sender (from port 1024) in turn.
pub struct Generator {
    program: OwnedFd,
    _turn: OwnedFd,
    frame: [u8; 64],
}

impl Generator {
    /// Into the interface from outside, so that its peer receives them.
    pub fn new(interface: &str, frame: &[u8], flows: u16) -> Self {
        let mut bytes = [0u8; 64];
        bytes[..frame.len()].copy_from_slice(frame);
        let turn = number();
        let mut code = vec![
            word(0x61, 2, 1, 0, 0),  // r2 = data
            word(0x61, 3, 1, 4, 0),  // r3 = data_end
            word(0xbf, 4, 2, 0, 0),  // r4 = r2
            word(0x07, 4, 0, 0, 64), // r4 += 64
            word(0x3d, 3, 4, 2, 0),  // if r3 >= r4 skip the return
        ];
        code.extend(RETURN(0));
        for (i, eight) in bytes.as_chunks::<8>().0.iter().enumerate() {
            code.extend(load(5, 0, u64::from_le_bytes(*eight)));
            code.push(word(0x7b, 2, 5, 8 * i as i16, 0)); // *(r2 + 8 i) = r5
        }
        code.extend(load(1, 2, turn.as_raw_fd() as u64));
        code.extend([
            word(0x79, 5, 1, 0, 0),                       // r5 = *r1
            word(0x07, 5, 0, 0, 1),                       // r5 += 1
            word(0xa5, 5, 0, 1, i32::from(flows)),        // if r5 < flows skip
            word(0xb7, 5, 0, 0, 0),                       // r5 = 0
            word(0x7b, 1, 5, 0, 0),                       // *r1 = r5
            word(0x07, 5, 0, 0, 1_024),                   // r5 += 1024
            word(0xdc, 5, 0, 0, 16),                      // r5 = be16 r5
            word(0x6b, 2, 5, 34, 0),                      // source port
            word(0xb7, 1, 0, 0, index(interface) as i32), // r1 = interface
            word(0xb7, 2, 0, 0, 0),                       // r2 = 0
            word(0x85, 0, 0, 0, 23),                      // bpf_redirect
            word(0x95, 0, 0, 0, 0),
        ]);
        Self { program: program(6, &code), _turn: turn, frame: bytes }
    }

    /// Sends `count` of them. Returns ns a frame, as the kernel measures: without what it does
    /// around such a run, which waits for other processors.
    pub fn send(&self, count: u32) -> f64 {
        let mut attr = Attr::default();
        attr.0[0] = self.program.as_raw_fd() as u64;
        attr.0[1] = self.frame.len() as u64;
        attr.0[2] = self.frame.as_ptr() as u64;
        attr.0[4] = u64::from(count);
        // BPF_F_TEST_XDP_LIVE_FRAMES
        attr.0[8] = 1 << 1;
        bpf(10, &mut attr).unwrap();
        (attr.0[4] >> 32) as f64
    }
}
