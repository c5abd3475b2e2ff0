//! Generations of a cluster: how often it was formed anew by force.
//!
//! Decides: what a generation is to others. Each has keys and a certificate authority of its own,
//! so its nodes are strangers to those of any other: they neither hear nor believe each other. The
//! number is for people, who see by it what a stranger is. It stands in the authority's
//! certificate, which a node shows with its own; that proves nothing, and nothing depends on it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use nines_api::failure::Outcome;
use nines_model::names;
use rustls_pki_types::CertificateDer;

use super::{
    Admission, Credentials, Identity, Peer,
    certificate::{Authority, Subject, authority, of_authority_name},
    now_s, random,
};

/// The generation of a cluster that was never formed anew.
pub const FIRST: u64 = 1;

/// What a file without a generation has.
pub fn first() -> u64 {
    FIRST
}

/// Credentials of the node that forms a cluster anew.
pub fn found_generation(
    cluster: &str,
    generation: u64,
    me: Peer,
    witness: bool,
) -> Outcome<Credentials> {
    let now = now_s();
    let (ca_pem, ca_key) = authority(cluster, generation, now)?;
    let signer = Authority { cluster, ca_key: &ca_key };
    let (cert_pem, key_pem) = signer.with_key(&Subject::Node(me.name.clone(), me.id), now)?;
    let ca_key = if witness { String::new() } else { ca_key };
    let identity = Identity {
        cluster: cluster.to_owned(),
        generation,
        peers: vec![me.clone()],
        me,
        beat_key: data_encoding::HEXLOWER.encode(&random::<32>()),
        founding: true,
        has_log: false,
        witness,
        server: false,
        listen: Vec::new(),
    };
    Credentials::of(Admission::first(identity, (ca_pem, ca_key), (cert_pem, key_pem)), None)
}

/// The generation and cluster that an authority's certificate names; nothing proves it.
fn named(cert: &CertificateDer<'_>) -> Option<(u64, String)> {
    let cert = webpki::EndEntityCert::try_from(cert).ok()?;
    cert.valid_dns_names().find_map(of_authority_name)
}

/// Addresses at which somebody of another generation was met, and when.
static MET: Mutex<BTreeMap<IpAddr, (Instant, u64)>> = Mutex::new(BTreeMap::new());
/// So many are remembered.
const MET_MAX: usize = 64;
/// One that was met is told of for so long.
const TOLD: Duration = Duration::from_secs(60);

/// A generation of a cluster.
#[derive(Debug)]
pub struct Generation {
    number: u64,
    /// The cluster's name as certificates have it.
    cluster: String,
}

impl Generation {
    /// That of a node.
    pub fn of(identity: &Identity) -> Self {
        let Identity { cluster, generation, .. } = identity;
        Self { number: *generation, cluster: names::in_certificate(cluster) }
    }
}

/// A certificate chain was refused that somebody at this address showed.
pub fn meet(own: &Generation, at: IpAddr, chain: &[CertificateDer<'_>]) {
    let other = chain.iter().find_map(named).filter(|(_, cluster)| *cluster == own.cluster);
    let Some((generation, _)) = other.filter(|(other, _)| *other != own.number) else { return };
    let mut met = MET.lock().unwrap_or_else(PoisonError::into_inner);
    if met.len() < MET_MAX || met.contains_key(&at) {
        met.insert(at, (Instant::now(), generation));
    }
}

/// Who was met lately: address and generation.
pub fn met() -> Vec<(IpAddr, u64)> {
    let mut met = MET.lock().unwrap_or_else(PoisonError::into_inner);
    met.retain(|_, (at, _)| at.elapsed() < TOLD);
    met.iter().map(|(at, (_, generation))| (*at, *generation)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::der;

    #[test]
    fn an_authority_names_its_generation_and_only_another_one_of_this_cluster_is_told() {
        let me = Peer { id: 1, name: "lb1".into(), addresses: Vec::new(), port: 1, floats: false };
        let of = |cluster: &str, generation| {
            found_generation(cluster, generation, me.clone(), false).unwrap()
        };
        let (own, newer) = (of("my_shop", 2), of("my_shop", 3));
        let chain = |of: &Credentials| -> [CertificateDer<'static>; 2] {
            let keys = of.keys();
            [der(&keys.cert_pem).into(), der(keys.ca_pem()).into()]
        };
        let at = |n: u8| IpAddr::from([10, 99, 0, n]);
        let mine = Generation::of(&own.identity);
        meet(&mine, at(1), &chain(&own));
        meet(&mine, at(2), &chain(&of("other", 3)));
        meet(&mine, at(3), &chain(&newer));
        meet(&mine, at(4), &[b"no certificate".to_vec().into()]);
        let met: Vec<_> = met().into_iter().filter(|(a, _)| *a <= at(9) && *a >= at(0)).collect();
        assert_eq!(met, [(at(3), 3)]);
    }
}
