//! Which hooks a device gets: XDP where its driver hands over what XDP can carry, and tc always.
//!
//! Decides: whether XDP is tried, and why it is not there, in words that status shows. Attaches
//! nothing.

use std::{collections::BTreeMap, fmt};

use crate::{Error, Result};

/// Whether native XDP is attached before tc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hooks {
    /// XDP on drivers that have it natively and carry finished packets (not veth), else tc.
    Auto,
    /// Never XDP.
    Tc,
    /// XDP also on veth; senders must not leave checksums to the device.
    Xdp,
}

/// What is known of a device before anything is tried.
pub struct Device<'a> {
    /// Kind of a virtual one ("veth", "bond"); empty for a real card.
    pub kind: &'a str,
    /// VLANs are on it, and it takes their tags off before XDP sees a frame.
    pub hides_vlans: bool,
}

/// What is on a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hook {
    tc: &'static str,
    /// What stands in the way of XDP; empty: nobody asked for it. `None`: it is there.
    no_xdp: Option<String>,
}

impl Hook {
    /// Whether XDP is there.
    pub fn has_xdp(&self) -> bool {
        self.no_xdp.is_none()
    }

    /// Whether tc's programs hang on links, which nobody takes off by the way.
    pub fn is_linked(&self) -> bool {
        self.tc == TCX
    }
}

/// By links (Linux 6.6), and by filters.
pub const TCX: &str = "tcx";
pub const CLSACT: &str = "clsact";

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.has_xdp() { "xdp+" } else { "" }, self.tc)
    }
}

/// All hooks in a line: "tcx on bond0, eth2 (no XDP: ...); xdp+tcx on eth0".
pub fn words(attached: &BTreeMap<String, Hook>) -> String {
    let mut alike: BTreeMap<&Hook, Vec<&str>> = BTreeMap::new();
    for (name, hook) in attached {
        alike.entry(hook).or_default().push(name);
    }
    let one = |(hook, names): (&Hook, Vec<&str>)| {
        let why = hook.no_xdp.as_ref().filter(|why| !why.is_empty());
        let why = why.map_or_else(String::new, |why| format!(" (no XDP: {why})"));
        format!("{hook} on {}{why}", names.join(", "))
    };
    alike.into_iter().map(one).collect::<Vec<_>>().join("; ")
}

/// What a device gets beside tc's programs. `attach` puts XDP's there; its failure is the reason
/// why they are not, unless they have been asked for.
pub fn choose(
    hooks: Hooks,
    device: &Device<'_>,
    tc: &'static str,
    attach: impl FnOnce() -> Result<()>,
) -> Result<Hook> {
    let no_xdp = match (hooks, unfit(device)) {
        (Hooks::Tc, _) => Some(String::new()),
        (Hooks::Auto, Some(why)) => Some(why),
        _ => match attach() {
            Err(failed) if hooks == Hooks::Xdp => return Err(failed),
            tried => tried.err().map(|failed| failed.why),
        },
    };
    Ok(Hook { tc, no_xdp })
}

/// Why XDP is no good there, though a driver might take it.
fn unfit(device: &Device<'_>) -> Option<String> {
    Some(match device.kind {
        // With its tag gone a frame looks as if it were of no VLAN.
        "" if device.hides_vlans => "the card takes tags of VLANs off first".into(),
        "" => return None,
        // skbs whose checksums nobody has computed and whose size no wire could carry; drivers of
        // real cards do not.
        "veth" => "veth hands over unfinished packets".into(),
        "vlan" => "a VLAN device".into(),
        kind => format!("a {kind} device"),
    })
}

/// The kernel did not take the programs: why in a few words, and what a person can do.
pub fn refusal(interface: &str, errno: Option<i32>, told: &dyn fmt::Display) -> Error {
    let what = format!("cannot attach nines_xdp to {interface}");
    let tc = "let packets take tc's way: nines agent --path auto";
    match errno {
        Some(libc::EBUSY | libc::EEXIST) => Error::new(what, "another program is on it")
            .next(format!("see which: ip link show dev {interface}; or {tc}")),
        Some(libc::EOPNOTSUPP) => Error::new(what, "the driver has no XDP").next(tc),
        _ => Error::new(what, format!("the driver refused: {told}")).next(tc),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What status says of a device of this kind, when attaching ends with this error.
    fn said(hooks: Hooks, kind: &str, errno: Option<i32>) -> Result<String> {
        let device = Device { kind, hides_vlans: false };
        let attach = || match errno {
            None => Ok(()),
            errno => Err(refusal("d0", errno, &"no queues left")),
        };
        let hook = choose(hooks, &device, TCX, attach)?;
        Ok(words(&[("d0".to_owned(), hook)].into()))
    }

    #[test]
    fn every_device_gets_a_hook_and_a_reason() {
        let refused = [Some(libc::EBUSY), Some(libc::EEXIST), Some(libc::EOPNOTSUPP), Some(5)];
        let whys = [
            "another program is on it",
            "another program is on it",
            "the driver has no XDP",
            "the driver refused: no queues left",
        ];
        for hooks in [Hooks::Auto, Hooks::Xdp] {
            assert_eq!(said(hooks, "", None).unwrap(), "xdp+tcx on d0");
            for (errno, why) in refused.into_iter().zip(whys) {
                match said(hooks, "", errno) {
                    Ok(words) => assert_eq!(words, format!("tcx on d0 (no XDP: {why})")),
                    Err(e) => {
                        assert_eq!(hooks, Hooks::Xdp, "Auto never fails for XDP");
                        assert_eq!(e.to_string(), format!("cannot attach nines_xdp to d0: {why}"));
                        assert!(e.next.unwrap().contains("--path auto"));
                    }
                }
            }
        }
        // Told to use tc: nothing is tried, nothing to explain.
        for kind in ["", "veth", "bond"] {
            assert_eq!(said(Hooks::Tc, kind, Some(libc::EBUSY)).unwrap(), "tcx on d0");
        }
    }

    #[test]
    fn devices_of_software_are_left_to_tc_unless_asked_for() {
        for (kind, why) in [
            ("veth", "veth hands over unfinished packets"),
            ("vlan", "a VLAN device"),
            ("bond", "a bond device"),
            ("bridge", "a bridge device"),
        ] {
            let expected = format!("tcx on d0 (no XDP: {why})");
            assert_eq!(said(Hooks::Auto, kind, None).unwrap(), expected, "never tried");
            assert_eq!(said(Hooks::Xdp, kind, None).unwrap(), "xdp+tcx on d0");
        }
        let card = Device { kind: "", hides_vlans: true };
        let hook = choose(Hooks::Auto, &card, CLSACT, || panic!("tried")).unwrap();
        let told = words(&[("d0".to_owned(), hook)].into());
        assert_eq!(told, "clsact on d0 (no XDP: the card takes tags of VLANs off first)");
    }

    #[test]
    fn devices_alike_share_their_words() {
        let veth = Device { kind: "veth", hides_vlans: false };
        let veth = choose(Hooks::Auto, &veth, TCX, || panic!("tried")).unwrap();
        let card = Device { kind: "", hides_vlans: false };
        let card = choose(Hooks::Auto, &card, TCX, || Ok(())).unwrap();
        let all = [("a", &veth), ("b", &card), ("c", &veth)];
        let all = all.map(|(name, hook)| (name.to_owned(), hook.clone())).into();
        let expected = "xdp+tcx on b; tcx on a, c (no XDP: veth hands over unfinished packets)";
        assert_eq!(words(&all), expected);
    }
}
