//! A config as what its proposer read: the nodes, VIPs and services by which it differs from the
//! one in force.
//!
//! Decides: what an `ApplySpec` command says, and when a node must not go by it. Only the proposer
//! reads the text. All others take its values, so that builds whose readers differ come to the same
//! config, and a change of one weight among ten thousand services costs each of them that service.

use std::{net::IpAddr, sync::Arc};

use nines_model::{NodeName, ServiceName, ServiceSpec, Spec};
use prost::Message;

use crate::{
    peek,
    vip_set::mix,
    wire::{Apply, ApplySpec, FenceEntry, SpecEdit},
};

mod forms;

impl ApplySpec {
    /// The command that puts this config in force in place of `before`, the one in force at this
    /// `revision`. An error: the log has no form for it, or no room.
    pub fn in_place_of(
        before: (&str, &Spec),
        after: (&str, &Spec),
        revision: u64,
    ) -> Result<Self, String> {
        fits(after.0, after.1)?;
        let text = Apply::in_place_of(before.0, after.0, revision);
        Self::new(text, SpecEdit::between(before.1, after.1), before.1, after.1)
    }

    /// The command that puts this config in force, whatever is; `expected` as in [`Apply`], errors
    /// as above.
    pub fn whole(text: String, spec: &Spec, expected: u64) -> Result<Self, String> {
        fits(&text, spec)?;
        let text = Apply::whole(text, expected);
        Self::new(text, SpecEdit::whole(spec), &Spec::default(), spec)
    }

    fn new(text: Apply, edit: SpecEdit, before: &Spec, after: &Spec) -> Result<Self, String> {
        if edit.applied_to(before).as_ref() != Some(after) {
            return Err("the log has no form for something in this config".into());
        }
        Ok(Self { text, edit, digest: digest(after) })
    }
}

/// Bytes that a config may take in a state, text and values: a state travels in one frame.
const ENCODED_MAX: usize = 48 << 20;

/// Whether a state has room for a config; an error says how much it takes.
pub fn fits(text: &str, spec: &Spec) -> Result<(), String> {
    let size = text.len() + SpecEdit::whole(spec).encoded_len();
    let mib = |bytes: usize| bytes.div_ceil(1 << 20);
    if size > ENCODED_MAX {
        let (size, most) = (mib(size), mib(ENCODED_MAX));
        return Err(format!("the config takes {size} MiB in the log, of at most {most} MiB"));
    }
    Ok(())
}

impl SpecEdit {
    /// How `after` differs from `before`.
    pub fn between(before: &Spec, after: &Spec) -> Self {
        let mut edit = Self::default();
        let general = forms::general(after);
        if forms::general(before) != general {
            edit.general = Some(general);
        }
        for (name, node) in &after.nodes {
            if before.nodes.get(name) != Some(node) {
                edit.nodes.push(forms::node(name.as_str(), node));
            }
        }
        for (addr, vip) in &after.vips {
            if before.vips.get(addr) != Some(vip) {
                edit.vips.push(forms::vip(*addr, vip));
            }
        }
        for (name, service) in &after.services {
            if before.services.get(name) != Some(service) {
                edit.services.push(forms::service(name.as_str(), service));
            }
        }
        let gone = |name: &&NodeName| !after.nodes.contains_key(*name);
        edit.nodes_gone = before.nodes.keys().filter(gone).map(ToString::to_string).collect();
        let gone = |addr: &&IpAddr| !after.vips.contains_key(*addr);
        edit.vips_gone = before.vips.keys().filter(gone).map(|addr| forms::octets(*addr)).collect();
        let gone = |name: &&ServiceName| !after.services.contains_key(*name);
        edit.services_gone = before.services.keys().filter(gone).map(ToString::to_string).collect();
        edit
    }

    /// All of a config.
    pub fn whole(spec: &Spec) -> Self {
        let general = Some(forms::general(spec));
        Self { whole: true, general, ..Self::between(&Spec::default(), spec) }
    }

    /// Whether it says anything about fencing. Without devices in force it does if the new config
    /// has any, and each change of what a cluster has once names all of them again.
    pub fn has_fencing(&self) -> bool {
        let of_all = self.general.as_ref();
        of_all.is_some_and(|all| !all.fence.is_empty() || all.fencing.is_some())
            || self.nodes.iter().any(|node| !node.fence.is_empty())
    }

    /// Whether it has anything of fencing that builds at the level `FENCING` do not read.
    pub fn has_self_fencing(&self) -> bool {
        let of_all = self.general.as_ref();
        let is_command = |device: &FenceEntry| !device.command.is_empty();
        of_all.is_some_and(|all| !all.watchdog.is_empty() || all.fence.iter().any(is_command))
            || self.nodes.iter().any(|node| node.watchdog.is_some())
    }

    /// Whether it says which users may do what: if the new config does, and any of what a cluster
    /// has once changes.
    pub fn has_access(&self) -> bool {
        self.general.as_ref().is_some_and(|all| all.access.is_some())
    }

    /// The config that it makes of `before`; `None`: it has something that this build cannot read,
    /// or it was made from another config.
    pub fn applied_to(&self, before: &Spec) -> Option<Spec> {
        let mut spec = if self.whole { Spec::default() } else { before.clone() };
        if let Some(general) = &self.general {
            forms::read_general(general, &mut spec)?;
        }
        for name in &self.nodes_gone {
            spec.nodes.remove(name.as_str())?;
        }
        for octets in &self.vips_gone {
            spec.vips.remove(&forms::addr(octets)?)?;
        }
        for name in &self.services_gone {
            spec.services.remove(name.as_str())?;
        }
        for node in &self.nodes {
            spec.nodes.insert(node.name.as_str().into(), forms::read_node(node)?);
        }
        for vip in &self.vips {
            let (addr, vip) = forms::read_vip(vip)?;
            spec.vips.insert(addr, vip);
        }
        for service in &self.services {
            let name = service.name.as_str().into();
            spec.services.insert(name, forms::read_service(service)?);
        }
        Some(spec)
    }
}

/// Whether this build reads all that an encoded [`crate::wire::Command`] says of a config. A field
/// that it does not know would be skipped, and a word that it does not know has no meaning here.
pub fn is_read_whole(command: &[u8]) -> bool {
    let Some(apply) = peek::field(command, peek::APPLIES_SPEC) else { return true };
    let Ok(decoded) = ApplySpec::decode(apply) else { return false };
    // What was skipped is missing in what is written again.
    let read = decoded.encoded_len() == apply.len() && decoded.encode_to_vec() == apply;
    let parts = SpecEdit {
        nodes_gone: Vec::new(),
        vips_gone: Vec::new(),
        services_gone: Vec::new(),
        ..decoded.edit
    };
    read && parts.applied_to(&Spec::default()).is_some()
}

/// What one part of a config adds to its digest.
fn share(kind: u64, part: &impl Message) -> u64 {
    let bytes = part.encode_to_vec();
    let word = |chunk: &[u8]| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    };
    let seed = mix(kind ^ (bytes.len() as u64) << 8);
    bytes.chunks(8).map(word).fold(seed, |hash, word| mix(hash.wrapping_add(mix(word))))
}

/// What the nodes, VIPs and services of a config add to its digest; of none: 0.
pub fn parts_digest(spec: &Spec) -> u64 {
    parts_digest_after(&Spec::default(), 0, spec)
}

/// Says whether two nodes have the same config: 64 bits to which each part of it adds its share.
/// It goes by what is encoded, and by no default of a build.
pub fn digest(spec: &Spec) -> u64 {
    digest_of(parts_digest(spec), spec)
}

/// The same by the digest of its parts.
pub fn digest_of(parts: u64, spec: &Spec) -> u64 {
    parts.wrapping_add(share(1, &forms::general(spec)))
}

/// The digest of the parts of `after`, by that of `before`. What they share is not looked at.
pub fn parts_digest_after(before: &Spec, digest: u64, after: &Spec) -> u64 {
    let mut digest = digest;
    for (spec, other, sign) in [(before, after, u64::MAX), (after, before, 1)] {
        let mut count = |share: u64| digest = digest.wrapping_add(share.wrapping_mul(sign));
        for (name, node) in spec.nodes.iter().filter(|(n, one)| other.nodes.get(*n) != Some(one)) {
            count(share(2, &forms::node(name.as_str(), node)));
        }
        for (addr, vip) in spec.vips.iter().filter(|(a, one)| other.vips.get(a) != Some(one)) {
            count(share(3, &forms::vip(*addr, vip)));
        }
        let same =
            |name: &ServiceName, one: &Arc<ServiceSpec>| other.services.get(name) == Some(one);
        for (name, service) in spec.services.iter().filter(|(name, one)| !same(name, one)) {
            count(share(4, &forms::service(name.as_str(), service)));
        }
    }
    digest
}

#[cfg(test)]
mod tests;
