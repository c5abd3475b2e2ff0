//! Authorities of a cluster: which one signs certificates, and which ones are believed.
//!
//! Decides: which state follows which. A rotation takes three steps, each a later state: all
//! believe the new authority, too; all have certificates of it; nobody believes the old one. While
//! it lasts, the old authority vouches for the new one (`crossed`), so a machine that was off and
//! knows only the old one believes the others and is believed. Certificates are no secrets; the
//! keys that belong to them never stand here.

use nines_api::failure::{Failure, Kind, Outcome};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::{
    certificate::{self, der, fingerprint},
    now_s, random,
};

/// Authorities from before that may still be believed.
const BEFORE_MAX: usize = 2;

/// Which of two states is the later one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Order {
    /// Grows with each step; 0: no rotation yet.
    pub version: u64,
    /// Number of the rotation, which decides between two that began at once.
    pub rotation: u64,
}

impl Order {
    /// That of the next step of the same rotation.
    pub fn next(self) -> Self {
        Self { version: self.version + 1, ..self }
    }
}

/// How far a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// None has begun, or the last one has ended.
    Rest,
    /// The new authority is believed, and the old one signs.
    Believed,
    /// The new one signs, and the old one is still believed.
    Used,
}

/// The authorities at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorities {
    /// Which state is later.
    pub order: Order,
    /// Certificate of the authority that signs, PEM.
    pub signing: String,
    /// Certificate of the one that signs next, PEM; empty: none.
    pub next: String,
    /// Certificates of those that signed before and are still believed, PEM.
    pub before: Vec<String>,
    /// Certificate of the newest authority that the one before it has signed, PEM; empty: none.
    pub crossed: String,
}

/// What names an authority for people: the beginning of its fingerprint, hex.
pub fn name_of(ca_pem: &str) -> String {
    data_encoding::HEXLOWER.encode(&fingerprint(&der(ca_pem))[..4])
}

impl Authorities {
    /// Those of a cluster that has rotated none.
    pub fn first(ca_pem: String) -> Self {
        let (order, next, crossed) = (Order::default(), String::new(), String::new());
        Self { order, signing: ca_pem, next, before: Vec::new(), crossed }
    }

    /// How far a rotation is.
    pub fn phase(&self) -> Phase {
        match () {
            () if !self.next.is_empty() => Phase::Believed,
            () if !self.before.is_empty() => Phase::Used,
            () => Phase::Rest,
        }
    }

    /// Whether a rotation has begun and not ended.
    pub fn is_rotating(&self) -> bool {
        self.phase() != Phase::Rest
    }

    /// Certificates of all that are believed, PEM; the one that signs first.
    pub fn believed(&self) -> impl Iterator<Item = &str> {
        let next = Some(self.next.as_str()).filter(|next| !next.is_empty());
        let others = next.into_iter().chain(self.before.iter().map(String::as_str));
        std::iter::once(self.signing.as_str()).chain(others)
    }

    /// What is shown along with a certificate: who knows any one of these authorities believes it.
    pub fn shown(&self) -> impl Iterator<Item = &str> {
        let crossed = Some(self.crossed.as_str()).filter(|crossed| !crossed.is_empty());
        crossed.into_iter().chain(self.believed())
    }

    /// Names the authority that the cluster has, or gets.
    pub fn newest(&self) -> &str {
        if self.next.is_empty() { &self.signing } else { &self.next }
    }

    /// First step: all believe a new authority, too. Gives its key. `later_than`: the latest state
    /// that any member has; `ca_key`: key of the one that signs.
    pub fn offered(
        &self,
        later_than: u64,
        (cluster, generation): (&str, u64),
        ca_key: &str,
    ) -> Outcome<(Self, String)> {
        let now = now_s();
        let (next, next_key) = certificate::authority(cluster, generation, now)?;
        let crossed = certificate::crossed((cluster, generation), &next_key, ca_key, now)?;
        let rotation = u64::from_be_bytes(random::<8>());
        let order = Order { version: later_than.max(self.order.version) + 1, rotation };
        let (signing, before) = (self.signing.clone(), self.before.clone());
        Ok((Self { order, signing, next, before, crossed }, next_key))
    }

    /// Second step: the new one signs.
    pub fn used(&self) -> Self {
        let mut before = vec![self.signing.clone()];
        before.extend(self.before.iter().take(BEFORE_MAX - 1).cloned());
        let (signing, crossed) = (self.next.clone(), self.crossed.clone());
        Self { order: self.order.next(), signing, next: String::new(), before, crossed }
    }

    /// Third step: nobody believes any other.
    pub fn alone(&self) -> Self {
        Self { order: self.order.next(), ..Self::first(self.signing.clone()) }
    }

    /// The same once more, later than what others have: none of them has its keys.
    pub fn raised(&self, later_than: u64) -> Self {
        let version = later_than.max(self.order.version) + 1;
        Self { order: Order { version, ..self.order }, ..self.clone() }
    }

    /// Whether a certificate is one that the signing authority has made.
    pub fn has_signed(&self, cert_pem: &str) -> bool {
        let cert: CertificateDer<'_> = der(cert_pem).into();
        certificate::is_signed(&cert, &[der(&self.signing)], &[])
    }

    /// Whether a certificate comes from one that is believed, be it over or not. `others`:
    /// certificates that were shown along with it.
    pub fn believe(&self, cert: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> bool {
        let anchors: Vec<Vec<u8>> = self.believed().map(der).collect();
        certificate::is_signed(cert, &anchors, others)
    }

    /// An error: these cannot come after those that this machine has.
    pub fn must_follow(&self, now: &Self) -> Outcome<()> {
        let refuse = |why: &str| Failure::new(Kind::Changed, "the authorities were not taken", why);
        let known = |pem: &str| now.believed().any(|other| other == pem);
        match () {
            () if self.order <= now.order => Err(refuse("this machine has later ones")),
            () if self.before.len() > BEFORE_MAX => Err(refuse("there are too many")),
            () if !self.believed().all(certificate::is_authority) => {
                Err(refuse("one of them is no certificate of an authority"))
            }
            () if !known(&self.signing) && !self.believed().any(|pem| pem == now.signing) => {
                Err(refuse("they have nothing to do with the authority that this machine believes"))
            }
            () => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::certificate::{Authority, Subject};

    /// A state, and what comes of the authorities at each step.
    struct Steps {
        old: Authorities,
        offered: Authorities,
        used: Authorities,
        alone: Authorities,
        keys: [String; 2],
    }

    fn steps() -> Steps {
        let (ca_pem, ca_key) = certificate::authority("t", 1, now_s()).unwrap();
        let old = Authorities::first(ca_pem);
        let (offered, next_key) = old.offered(0, ("t", 1), &ca_key).unwrap();
        let used = offered.used();
        let alone = used.alone();
        Steps { old, offered, used, alone, keys: [ca_key, next_key] }
    }

    /// A certificate, and what a machine in this state shows with it.
    fn shows(state: &Authorities, ca_key: &str) -> Vec<CertificateDer<'static>> {
        let signer = Authority { cluster: "t", ca_key };
        let (cert, _) = signer.with_key(&Subject::Node("lb1".into(), 1), now_s()).unwrap();
        assert!(state.has_signed(&cert));
        std::iter::once(cert.as_str()).chain(state.shown()).map(|pem| der(pem).into()).collect()
    }

    fn believes(by: &Authorities, shown: &[CertificateDer<'_>]) -> bool {
        by.believe(&shown[0], &shown[1..])
    }

    #[test]
    fn in_each_step_all_believe_each_other_and_who_was_off_does_until_the_last() {
        let Steps { old, offered, used, alone, keys: [old_key, new_key] } = steps();
        let all = [(&old, &old_key), (&offered, &old_key), (&used, &new_key), (&alone, &new_key)];
        let shown: Vec<_> = all.iter().map(|(state, key)| shows(state, key)).collect();
        for (a, (by, _)) in all.iter().enumerate() {
            for (b, of) in shown.iter().enumerate() {
                // Only who believes the new one alone is apart from who knows none but the old one.
                let apart = a.max(b) == 3 && a.min(b) <= 1 && !(a == 1 && b == 3);
                assert_eq!(believes(by, of), !apart, "{a} of {b}");
            }
        }
        for pair in all.windows(2) {
            assert!(pair[1].0.must_follow(pair[0].0).is_ok());
            assert!(pair[0].0.must_follow(pair[1].0).is_err(), "never back");
        }
        assert!(used.must_follow(&old).is_ok(), "who was off skips one");
        assert!(alone.must_follow(&old).is_err(), "it was removed long ago");
        let phases = all.map(|(state, _)| state.phase());
        assert_eq!(phases, [Phase::Rest, Phase::Believed, Phase::Used, Phase::Rest]);
        assert!(
            offered.newest() == alone.signing && name_of(&old.signing) != name_of(used.newest())
        );
    }

    #[test]
    fn a_line_ends_with_the_authority_that_it_was_opened_by() {
        let Steps { old, offered, used, alone, keys: [old_key, new_key] } = steps();
        let (early, late) = (shows(&old, &old_key), shows(&used, &new_key));
        for (state, both) in [
            (&old, [true, true]),
            (&offered, [true, true]),
            (&used, [true, true]),
            (&alone, [false, true]),
        ] {
            assert_eq!([&early, &late].map(|of| believes(state, of)), both);
        }
        assert!(!old.believe(&late[0], &[]), "by the word of the old one only");
    }

    #[test]
    fn of_two_rotations_that_begin_at_once_one_wins_everywhere() {
        let Steps { old, offered, keys: [old_key, _], .. } = steps();
        let (other, _) = old.offered(0, ("t", 1), &old_key).unwrap();
        let (a, b) = (other.must_follow(&offered), offered.must_follow(&other));
        assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
        let raised = offered.raised(other.order.version);
        assert!(raised.must_follow(&other).is_ok());
        assert!(raised.must_follow(&offered).is_ok());
        assert!(offered.must_follow(&raised).is_err());
    }

    #[test]
    fn authorities_of_another_cluster_are_not_taken() {
        let (ours, theirs) = (steps(), steps());
        for foreign in [&theirs.offered, &theirs.used, &theirs.alone] {
            let why = foreign.must_follow(&ours.old).unwrap_err();
            assert!(why.why.contains("nothing to do"), "{why}");
        }
        let broken = Authorities { next: "no certificate".into(), ..ours.offered };
        assert!(broken.must_follow(&ours.old).unwrap_err().why.contains("no certificate"));
    }
}
