//! Voters that promise something else than what a heartbeat names: the last VIP of its set is
//! missing. A voter that did not compare a set's contents with its name would do this.

use nines_core::{
    vip_set::{Name, VipSet, unpack_all},
    wire::{Frame, frame},
};
use prost::Message as _;

use super::World;

impl World {
    /// Changes heartbeats so that they ask for less, and their acks so that they grant all.
    pub(super) fn misread(&mut self, bytes: &mut Vec<u8>) {
        let Ok(mut frame) = Frame::decode(bytes.as_slice()) else { return };
        let kinds = frame.kind.iter_mut().chain(frame.rest.iter_mut().flat_map(|f| &mut f.kind));
        for kind in kinds {
            match kind {
                frame::Kind::Heartbeat(beat) => {
                    let said: Name = (beat.set_a, beat.set_b);
                    if let Some(part) = &mut beat.part
                        && let Some(mut pairs) = unpack_all(&part.contents)
                        && pairs.len() > 1
                    {
                        pairs.pop();
                        let less = VipSet::new(pairs);
                        self.misread.insert(less.name(), said);
                        *part = less.parts().remove(0);
                    }
                    let known = self.misread.iter().find(|(_, whole)| **whole == said);
                    if let Some((less, _)) = known {
                        (beat.set_a, beat.set_b) = *less;
                    }
                }
                frame::Kind::Ack(ack) => {
                    if let Some(whole) = self.misread.get(&(ack.set_a, ack.set_b)) {
                        (ack.set_a, ack.set_b) = *whole;
                    }
                }
                _ => {}
            }
        }
        *bytes = frame.encode_to_vec();
    }
}
