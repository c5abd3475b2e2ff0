//! The certificate authority of a cluster, and the certificates that it signs.
//!
//! Decides: the names in certificates, and what each kind of certificate may be used for.

use nines_api::failure::{Failure, Kind, Outcome};
use nines_model::names;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};

fn trouble(e: impl std::fmt::Display) -> Failure {
    Failure::new(Kind::Io, "cannot make a certificate", e)
}

/// What the authority's certificate says; the same whenever it signs.
fn authority_params(cluster: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("nines cluster {cluster}"));
    params
}

/// The name by which an authority says of which generation of which cluster it is.
fn authority_name(cluster: &str, generation: u64) -> String {
    format!("g{generation}.{}.nines-generation", names::in_certificate(cluster))
}

/// The generation and the cluster in such a name; `None`: any other name.
pub(super) fn of_authority_name(name: &str) -> Option<(u64, String)> {
    let (number, cluster) = name.strip_suffix(".nines-generation")?.split_once('.')?;
    Some((number.strip_prefix('g')?.parse().ok()?, cluster.to_owned()))
}

/// A new authority: certificate and key, PEM.
pub(super) fn authority(cluster: &str, generation: u64) -> Outcome<(String, String)> {
    let key = KeyPair::generate().map_err(trouble)?;
    let mut params = authority_params(cluster);
    // A cluster's name may be none for a certificate; then only its keys tell its generations.
    if let Ok(name) = authority_name(cluster, generation).try_into() {
        params.subject_alt_names = vec![SanType::DnsName(name)];
    }
    let cert = params.self_signed(&key).map_err(trouble)?;
    Ok((cert.pem(), key.serialize_pem()))
}

/// The name in a node's certificate.
pub fn tls_name(node: &str) -> String {
    format!("{}.nines", names::in_certificate(node))
}

/// The name in a real server's: no node has it, whatever it is called.
pub fn server_tls_name(server: &str) -> String {
    format!("{}.server", tls_name(server))
}

/// The number in a node's certificate, as a name that no node can be called: a member that has not
/// got the log yet knows by it who speaks.
pub fn number_tls_name(id: u64) -> String {
    format!("n{id}.nines-number")
}

/// The number in a name that [`number_tls_name`] made; `None`: any other name.
pub fn number_of_tls_name(name: &str) -> Option<u64> {
    name.strip_prefix('n')?.strip_suffix(".nines-number")?.parse().ok()
}

/// A certificate and key for these TLS names; `guest`: it opens no port that others could take for
/// a member's.
pub(super) fn certificate(
    cluster: &str,
    ca_key: &str,
    names: Vec<String>,
    guest: bool,
) -> Outcome<(String, String)> {
    let unfit = |name: &&String| rustls_pki_types::ServerName::try_from(name.as_str()).is_err();
    if let Some(name) = names.iter().find(unfit) {
        return Err(Failure::new(
            Kind::Usage,
            format!("{name} is not a valid name for a certificate"),
            "",
        )
        .next("choose another --node: letters, digits, dots and dashes"));
    }
    let issuer_key = KeyPair::from_pem(ca_key).map_err(trouble)?;
    let issuer = Issuer::new(authority_params(cluster), issuer_key);
    let key = KeyPair::generate().map_err(trouble)?;
    let mut params = CertificateParams::new(names).map_err(trouble)?;
    if guest {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    }
    let cert = params.signed_by(&key, &issuer).map_err(trouble)?;
    Ok((cert.pem(), key.serialize_pem()))
}

/// The bytes of the first certificate in PEM text.
pub fn der(pem: &str) -> Vec<u8> {
    use rustls_pki_types::pem::PemObject as _;
    rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes())
        .map(|d| d.to_vec())
        .unwrap_or_default()
}

/// First 10 bytes of the SHA-256 of the authority's certificate: enough to name it, short to type.
pub fn fingerprint(ca_der: &[u8]) -> [u8; 10] {
    let digest = ring::digest::digest(&ring::digest::SHA256, ca_der);
    digest.as_ref()[..10].try_into().expect("SHA-256 has 32 bytes")
}
