//! What ipvsadm orders beyond the difference of two tables: one change by itself, counts, idle
//! limits. Errors are the kernel's numbers: who asks has words for them.

use std::io;

use nines_model::Traffic;

use super::{Attributes, Ipvs, SERVICE, TIMEOUTS, command, dest, name, nested, nla, service};
use crate::ipvs::Change;

impl Ipvs {
    /// Carries out one change.
    pub fn tell(&self, change: &Change) -> io::Result<()> {
        let of = |traffic: &Traffic| nested(SERVICE, &name(*traffic));
        let (command, attributes) = match change {
            Change::Add(traffic, new) => (command::NEW_SERVICE, vec![service(*traffic, new)]),
            Change::Set(traffic, new) => (command::SET_SERVICE, vec![service(*traffic, new)]),
            Change::Remove(traffic) => (command::DEL_SERVICE, vec![of(traffic)]),
            Change::AddDest(traffic, new) => (command::NEW_DEST, vec![of(traffic), dest(new)]),
            Change::SetDest(traffic, new) => (command::SET_DEST, vec![of(traffic), dest(new)]),
            Change::RemoveDest(traffic, old) => (command::DEL_DEST, vec![of(traffic), dest(old)]),
        };
        self.ask(command, attributes, 0).map(drop)
    }

    /// Takes every service out.
    pub fn flush(&self) -> io::Result<()> {
        self.ask(command::FLUSH, Vec::new(), 0).map(drop)
    }

    /// Starts the counts of a service, or of all, again from zero.
    pub fn zero(&self, only: Option<Traffic>) -> io::Result<()> {
        let only = only.map(|traffic| nested(SERVICE, &name(traffic)));
        self.ask(command::ZERO, only.into_iter().collect(), 0).map(drop)
    }

    /// Idle limits in seconds: established TCP, TCP after a FIN, UDP.
    pub fn timeouts(&self) -> io::Result<[u32; 3]> {
        let answers = self.ask(command::GET_CONFIG, Vec::new(), 0)?;
        let all = Attributes::of(answers.first().map_or(&[], |a| a.bytes.as_slice()));
        Ok([0, 1, 2].map(|place| all.u32(TIMEOUTS + place)))
    }

    /// Sets those that are not 0.
    pub fn set_timeouts(&self, seconds: [u32; 3]) -> io::Result<()> {
        let all = (TIMEOUTS..).zip(seconds).filter(|(_, seconds)| *seconds != 0);
        let all = all.map(|(kind, seconds)| nla(kind, seconds.to_ne_bytes())).collect();
        self.ask(command::SET_CONFIG, all, 0).map(drop)
    }
}
