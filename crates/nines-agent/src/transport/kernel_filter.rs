//! While a flood goes on, the kernel drops most of it before it takes room in the receive buffer.
//!
//! Decides: when a flood begins and ends, and what is still read meanwhile: each datagram of an
//! incarnation that was heard before, and by chance one of [`SAMPLE`] others, so that a node that
//! has just started is heard after a few of its heartbeats. A classic BPF program at the socket
//! compares salts (`datagram.rs` has the header); Linux, `Documentation/networking/filter.rst`.

use nines_model::{Millis, Time};
use socket2::SockFilter;

use super::replay::Salt;

/// While a flood goes on, one of so many datagrams of unknown incarnations is read. A power of two.
pub const SAMPLE: u32 = 64;
/// How long datagrams are counted before the count decides.
const WINDOW: Millis = Millis(100);
/// So many dropped datagrams in a window are a flood: half of what costs a slow core all its time.
const FLOOD: u64 = 500;
/// A window with fewer is calm.
const CALM: u64 = 100;
/// After so many calm windows the flood is over.
const OVER: u32 = 50;
/// Beyond so many incarnations the program would cost more than it saves.
const SALTS: usize = 256;

/// What the sockets need.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// A filter that lets these incarnations pass, in place of the one before.
    Attach(Vec<Salt>),
    /// No filter.
    Detach,
}

/// Whether there is a flood.
#[derive(Default)]
pub struct KernelFilter {
    since: Time,
    /// The count of dropped datagrams when the window began.
    dropped: u64,
    calm: u32,
    /// Whom the filter lets pass; `None`: there is no filter.
    passes: Option<Vec<Salt>>,
}

impl KernelFilter {
    /// Whether the kernel drops for us now.
    pub fn is_on(&self) -> bool {
        self.passes.is_some()
    }

    /// `dropped`: datagrams that came to nothing since the start, with an estimate of those that
    /// the kernel dropped; `known`: salts of the incarnations that were heard.
    pub fn look(
        &mut self,
        now: Time,
        dropped: u64,
        known: impl FnOnce() -> Vec<Salt>,
    ) -> Option<Change> {
        if now.since(self.since) < WINDOW.ns() {
            return None;
        }
        let count = dropped - std::mem::replace(&mut self.dropped, dropped);
        self.since = now;
        self.calm = if count < CALM { self.calm + 1 } else { 0 };
        if self.passes.is_some() && self.calm >= OVER {
            self.passes = None;
            return Some(Change::Detach);
        }
        if self.passes.is_none() && count < FLOOD {
            return None;
        }
        let known = known();
        if known.len() > SALTS {
            return self.passes.take().map(|_| Change::Detach);
        }
        if self.passes.as_ref() == Some(&known) {
            return None;
        }
        self.passes = Some(known.clone());
        Some(Change::Attach(known))
    }
}

/// The program that lets these incarnations pass, and of others one of [`SAMPLE`].
pub fn program(salts: &[Salt]) -> Vec<SockFilter> {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
    const IS: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const TAKE: u16 = 0x06; // BPF_RET | BPF_K: so many bytes, 0: none
    const WHOLE: u32 = u32::MAX;
    // SKF_AD_OFF + SKF_AD_RANDOM
    const RANDOM: u32 = 0xffff_f000 + 56;
    // Behind the UDP header, with which the program's bytes begin, and six bytes of ours.
    const SALT: u32 = 8 + 6;
    let mut program = Vec::with_capacity(salts.len() * 9 + 5);
    for salt in salts {
        for (n, word) in (0..4).zip(salt.chunks_exact(4)) {
            program.push(SockFilter::new(LOAD, 0, 0, SALT + 4 * n));
            let word = u32::from_be_bytes(word.try_into().expect("four bytes"));
            // Another salt's: behind the rest of this one's words.
            program.push(SockFilter::new(IS, 0, 7 - 2 * n as u8, word));
        }
        program.push(SockFilter::new(TAKE, 0, 0, WHOLE));
    }
    program.push(SockFilter::new(LOAD, 0, 0, RANDOM));
    program.push(SockFilter::new(AND, 0, 0, SAMPLE - 1));
    program.push(SockFilter::new(IS, 1, 0, 0));
    program.push(SockFilter::new(TAKE, 0, 0, 0));
    program.push(SockFilter::new(TAKE, 0, 0, WHOLE));
    program
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, time::Duration};

    use socket2::SockRef;

    use super::*;

    #[test]
    fn a_flood_begins_fast_and_ends_when_it_was_calm_for_five_seconds() {
        let mut filter = KernelFilter::default();
        let at = |ms| Time(1_000_000_000).plus(Millis(ms));
        let (one, two) = (vec![[1; 16]], vec![[1; 16], [2; 16]]);
        assert_eq!(filter.look(at(0), 0, Vec::new), None);
        assert_eq!(filter.look(at(100), 499, || one.clone()), None);
        assert_eq!(filter.look(at(199), 5_000, || one.clone()), None, "the window goes on");
        assert_eq!(filter.look(at(200), 5_000, || one.clone()), Some(Change::Attach(one.clone())));
        assert_eq!(filter.look(at(300), 5_000, || one.clone()), None);
        assert_eq!(filter.look(at(400), 5_100, || two.clone()), Some(Change::Attach(two.clone())));
        for n in 5..54 {
            assert_eq!(filter.look(at(n * 100), 5_199, || two.clone()), None, "{n}");
        }
        assert!(filter.is_on());
        assert_eq!(filter.look(at(5_400), 5_199, || two.clone()), Some(Change::Detach));
        assert_eq!(filter.look(at(5_500), 5_250, || two.clone()), None);
        let many = || vec![[7; 16]; SALTS + 1];
        assert_eq!(filter.look(at(5_600), 90_000, many), None, "too many to compare");
        assert!(!filter.is_on());
    }

    /// How many of so many datagrams with this salt a socket reads.
    fn read(socket: &UdpSocket, from: &UdpSocket, salt: Salt, count: usize) -> usize {
        let mut datagram = b"N9\x02\x00\x00\x01".to_vec();
        datagram.extend(salt);
        datagram.extend([0; 60]);
        let mut read = 0;
        let mut wait = |ms| {
            socket.set_read_timeout(Some(Duration::from_millis(ms))).unwrap();
            while socket.recv(&mut [0; 256]).is_ok_and(|length| length == datagram.len()) {
                read += 1;
            }
        };
        for n in 1..=count {
            from.send_to(&datagram, socket.local_addr().unwrap()).unwrap();
            if n % 50 == 0 {
                wait(1);
            }
        }
        wait(500);
        read
    }

    #[test]
    fn the_kernel_lets_known_incarnations_pass_and_few_others() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (socket, from) =
                (UdpSocket::bind(address).unwrap(), UdpSocket::bind(address).unwrap());
            let [mut near, mut far] = [[2; 16]; 2];
            (near[15], far[0]) = (3, 3);
            let known: Vec<Salt> = (1..=64).map(|n| [n * 2; 16]).collect();
            SockRef::from(&socket).attach_filter(&program(&known)).unwrap();
            for salt in [known[0], known[31], known[63]] {
                assert_eq!(read(&socket, &from, salt, 1_000), 1_000, "{salt:?}");
            }
            for salt in [near, far, [5; 16]] {
                let read = read(&socket, &from, salt, 6_400);
                assert!((30..300).contains(&read), "{salt:?}: {read}");
            }
            SockRef::from(&socket).detach_filter().unwrap();
            assert_eq!(read(&socket, &from, [5; 16], 100), 100);
        }
    }
}
