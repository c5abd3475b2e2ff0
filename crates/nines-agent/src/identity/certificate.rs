//! The certificate authority of a cluster, and the certificates that it signs.
//!
//! Decides: the names in certificates, what each kind of certificate may be used for, how long it
//! is valid, and when a new one is due. Who needs one makes the key itself and sends a signing
//! request: of that only the public key counts, all else the authority writes.

use nines_api::failure::{Failure, Kind, Outcome};
use nines_model::names;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::{CertificateDer, UnixTime};

const DAY: u64 = 86_400;
/// How long a node's or real server's certificate is valid, in seconds.
const LIFE: u64 = 90 * DAY;
/// How long a new authority is valid, in seconds.
const AUTHORITY_LIFE: u64 = 3_652 * DAY;
/// A certificate begins to be valid so long before it was made, in seconds: clocks differ.
const EARLIER: u64 = 3_600;
/// A certificate that ends within so many seconds is told of.
pub const NEARLY_OVER: u64 = 14 * DAY;
/// RFC 5280 has room for so many characters in a common name.
const COMMON_NAME: usize = 64;

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

/// Sets from when until when a certificate is valid that is made `now`, in seconds since 1970.
fn valid(params: &mut CertificateParams, now: u64, life: u64) {
    let at = |s: u64| rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(s);
    (params.not_before, params.not_after) = (at(now.saturating_sub(EARLIER)), at(now + life));
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

/// What the certificate of an authority says that is made now.
fn new_authority_params(cluster: &str, generation: u64, now: u64) -> CertificateParams {
    let mut params = authority_params(cluster);
    valid(&mut params, now, AUTHORITY_LIFE);
    // A cluster's name may be none for a certificate; then only its keys tell its generations.
    if let Ok(name) = authority_name(cluster, generation).try_into() {
        params.subject_alt_names = vec![SanType::DnsName(name)];
    }
    params
}

/// A new authority: certificate and key, PEM.
pub(super) fn authority(cluster: &str, generation: u64, now: u64) -> Outcome<(String, String)> {
    let key = KeyPair::generate().map_err(trouble)?;
    let cert = new_authority_params(cluster, generation, now).self_signed(&key).map_err(trouble)?;
    Ok((cert.pem(), key.serialize_pem()))
}

/// A certificate, PEM, by which the authority with the key `old` vouches for the one with `new`.
pub(super) fn crossed(
    (cluster, generation): (&str, u64),
    new: &str,
    old: &str,
    now: u64,
) -> Outcome<String> {
    let [new, old] = [new, old].map(|key| KeyPair::from_pem(key).map_err(trouble));
    let issuer = Issuer::new(authority_params(cluster), old?);
    let cert = new_authority_params(cluster, generation, now).signed_by(&new?, &issuer);
    Ok(cert.map_err(trouble)?.pem())
}

/// Whether a private key belongs to an authority's certificate; both PEM.
pub fn is_key_of(ca_key: &str, ca_pem: &str) -> bool {
    let Ok(key) = KeyPair::from_pem(ca_key) else { return false };
    let cert = der(ca_pem);
    x509_parser::parse_x509_certificate(&cert).is_ok_and(|(_, cert)| {
        cert.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
    })
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

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A member, by name and number.
    Node(String, u64),
    /// A real server, by name. It opens no port that others could take for a member's.
    Server(String),
}

impl Subject {
    /// Names that TLS compares.
    fn tls_names(&self) -> Vec<String> {
        match self {
            Self::Node(name, id) => vec![tls_name(name), number_tls_name(*id)],
            Self::Server(name) => vec![server_tls_name(name)],
        }
    }

    /// For a line of the log.
    pub fn words(&self) -> String {
        match self {
            Self::Node(name, id) => format!("{name}, member {id},"),
            Self::Server(name) => format!("real server {name}"),
        }
    }

    /// Common name, for people.
    fn common_name(&self, cluster: &str) -> String {
        let mut words = match self {
            Self::Node(name, id) => format!("nines node {name}, member {id}, cluster {cluster}"),
            Self::Server(name) => format!("nines real server {name}, cluster {cluster}"),
        };
        let end = words.char_indices().nth(COMMON_NAME).map_or(words.len(), |(at, _)| at);
        words.truncate(end);
        words
    }
}

/// The authority as it signs.
pub struct Authority<'a> {
    /// Name of the cluster.
    pub cluster: &'a str,
    /// Its key, PEM.
    pub ca_key: &'a str,
}

impl Authority<'_> {
    /// Signs what a request asks for, at `now`, in seconds since 1970. Of the request, PEM, its
    /// public key counts, if it is signed with the private key that belongs to it.
    pub fn sign(&self, subject: &Subject, request: &str, now: u64) -> Outcome<String> {
        self.issue(subject, &read(request)?.public_key, now)
    }

    /// A certificate and a key that is made here, for machines that send no request.
    pub fn with_key(&self, subject: &Subject, now: u64) -> Outcome<(String, String)> {
        let key = KeyPair::generate().map_err(trouble)?;
        Ok((self.issue(subject, &key, now)?, key.serialize_pem()))
    }

    fn issue(&self, subject: &Subject, key: &impl PublicKeyData, now: u64) -> Outcome<String> {
        let names = subject.tls_names();
        let unfit = |name: &&String| rustls_pki_types::ServerName::try_from(name.as_str()).is_err();
        if let Some(name) = names.iter().find(unfit) {
            return Err(Failure::new(
                Kind::Usage,
                format!("{name} is not a valid name for a certificate"),
                "",
            )
            .next("choose another --node: letters, digits, dots and dashes"));
        }
        let issuer_key = KeyPair::from_pem(self.ca_key).map_err(trouble)?;
        let issuer = Issuer::new(authority_params(self.cluster), issuer_key);
        let mut params = CertificateParams::new(names).map_err(trouble)?;
        valid(&mut params, now, LIFE);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject.common_name(self.cluster));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if matches!(subject, Subject::Node(..)) {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        Ok(params.signed_by(key, &issuer).map_err(trouble)?.pem())
    }
}

fn read(request: &str) -> Outcome<CertificateSigningRequestParams> {
    CertificateSigningRequestParams::from_pem(request)
        .map_err(|e| Failure::new(Kind::Usage, "the certificate signing request is not valid", e))
}

/// What names the public key of a request, PEM: its SHA-256, hex.
pub fn key_of(request: &str) -> Outcome<String> {
    let key = read(request)?.public_key;
    let digest = ring::digest::digest(&ring::digest::SHA256, key.der_bytes());
    Ok(data_encoding::HEXLOWER.encode(digest.as_ref()))
}

/// A new private key, PEM.
pub fn new_key() -> Outcome<String> {
    Ok(KeyPair::generate().map_err(trouble)?.serialize_pem())
}

/// A certificate signing request for a private key; both PEM.
pub fn request(key_pem: &str) -> Outcome<String> {
    let key = KeyPair::from_pem(key_pem).map_err(trouble)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.serialize_request(&key).and_then(|request| request.pem()).map_err(trouble)
}

/// From when until when a certificate is valid, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub from: u64,
    /// Last second.
    pub until: u64,
}

impl Validity {
    /// Of a certificate; `None`: it cannot be read.
    pub fn of(der: &[u8]) -> Option<Self> {
        let (_, cert) = x509_parser::parse_x509_certificate(der).ok()?;
        let second = |at: x509_parser::time::ASN1Time| u64::try_from(at.timestamp()).unwrap_or(0);
        let validity = cert.validity();
        Some(Self { from: second(validity.not_before), until: second(validity.not_after) })
    }

    /// Whether a new certificate is due: two thirds of this one's life are over, its life begins
    /// later, or is longer than any that is given today.
    pub fn is_due(self, now: u64) -> bool {
        let life = self.until.saturating_sub(self.from);
        now < self.from || now >= self.from + life / 3 * 2 || life > LIFE + 2 * EARLIER
    }

    /// Whether it is over.
    pub fn is_over(self, now: u64) -> bool {
        now > self.until
    }
}

/// The bytes of the first certificate in PEM text.
pub fn der(pem: &str) -> Vec<u8> {
    use rustls_pki_types::pem::PemObject as _;
    rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes())
        .map(|d| d.to_vec())
        .unwrap_or_default()
}

/// Whether this is the certificate of an authority, PEM.
pub(super) fn is_authority(ca_pem: &str) -> bool {
    let cert = der(ca_pem).into();
    webpki::anchor_from_trusted_cert(&cert).is_ok()
}

/// Whether a certificate, over or not, comes from one of these authorities, by way of `others` that
/// they vouch for.
pub(super) fn is_signed(
    cert: &CertificateDer<'_>,
    authorities: &[Vec<u8>],
    others: &[CertificateDer<'_>],
) -> bool {
    let authorities: Vec<CertificateDer<'_>> =
        authorities.iter().map(|der| der.as_slice().into()).collect();
    let anchors: Vec<_> =
        authorities.iter().filter_map(|ca| webpki::anchor_from_trusted_cert(ca).ok()).collect();
    let (Some(validity), Ok(cert)) = (Validity::of(cert), webpki::EndEntityCert::try_from(cert))
    else {
        return false;
    };
    let at = super::now_s().clamp(validity.from, validity.until.max(validity.from));
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at));
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    let usage = webpki::KeyUsage::client_auth();
    cert.verify_for_usage(algorithms.all, &anchors, others, at, usage, None, None).is_ok()
}

/// First 10 bytes of the SHA-256 of the authority's certificate: enough to name it, short to type.
pub fn fingerprint(ca_der: &[u8]) -> [u8; 10] {
    let digest = ring::digest::digest(&ring::digest::SHA256, ca_der);
    digest.as_ref()[..10].try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn signed(subject: &Subject) -> (Vec<u8>, String) {
        let (_, ca_key) = authority("shop", 1, NOW).unwrap();
        let authority = Authority { cluster: "shop", ca_key: &ca_key };
        let key = new_key().unwrap();
        (der(&authority.sign(subject, &request(&key).unwrap(), NOW).unwrap()), key)
    }

    #[test]
    fn a_certificate_says_in_words_whose_it_is() {
        let common_name = |subject: &Subject| {
            let cert = signed(subject).0;
            let (_, cert) = x509_parser::parse_x509_certificate(&cert).unwrap();
            cert.subject().to_string()
        };
        let node = Subject::Node("lb1".into(), 3);
        assert_eq!(common_name(&node), "CN=nines node lb1, member 3, cluster shop");
        let server = Subject::Server("r1".into());
        assert_eq!(common_name(&server), "CN=nines real server r1, cluster shop");
        let long = Subject::Node("l".repeat(63), 3);
        assert_eq!(common_name(&long).len(), COMMON_NAME + 3, "as much as X.509 has room for");
    }

    #[test]
    fn a_request_gives_its_public_key_and_nothing_else() {
        let (_, ca_key) = authority("shop", 1, NOW).unwrap();
        let authority = Authority { cluster: "shop", ca_key: &ca_key };
        let key = KeyPair::generate().unwrap();
        let mut wishes = CertificateParams::new(["lb1.nines".to_owned()]).unwrap();
        wishes.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        wishes.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let wishes = wishes.serialize_request(&key).unwrap().pem().unwrap();
        let cert = der(&authority.sign(&Subject::Server("r1".into()), &wishes, NOW).unwrap());
        let (_, read) = x509_parser::parse_x509_certificate(&cert).unwrap();
        assert_eq!(read.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
        assert!(!read.is_ca());
        // The same key in another request is the same key.
        let one = key_of(&request(&key.serialize_pem()).unwrap()).unwrap();
        assert_eq!(one, key_of(&wishes).unwrap());
        assert_ne!(one, key_of(&request(&new_key().unwrap()).unwrap()).unwrap());
        let cert = cert.into();
        let cert = webpki::EndEntityCert::try_from(&cert).unwrap();
        assert_eq!(cert.valid_dns_names().collect::<Vec<_>>(), ["r1.nines.server"]);
        // A request that is not signed with its own key is none.
        let other = KeyPair::generate().unwrap();
        let der = rustls_pki_types::CertificateSigningRequestDer::from(
            CertificateParams::default().serialize_request(&other).unwrap(),
        );
        let mut bytes = der.to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert!(CertificateSigningRequestParams::from_der(&bytes.into()).is_err());
        for bad in ["", "no request", &key.serialize_pem()] {
            let why = authority.sign(&Subject::Server("r1".into()), bad, NOW).unwrap_err();
            assert!(why.what.contains("signing request"), "{why}");
        }
    }

    #[test]
    fn a_new_one_is_due_at_two_thirds_of_its_life() {
        let cert = signed(&Subject::Node("lb1".into(), 1)).0;
        let validity = Validity::of(&cert).unwrap();
        assert_eq!((validity.from, validity.until), (NOW - 3_600, NOW + 90 * DAY));
        for (at, due) in
            [(NOW - 3_601, true), (NOW, false), (NOW + 59 * DAY, false), (NOW + 60 * DAY, true)]
        {
            assert_eq!(validity.is_due(at), due, "{at}");
        }
        assert!(!validity.is_over(NOW + 90 * DAY) && validity.is_over(NOW + 90 * DAY + 1));
        // Those of builds that knew no end are valid for two thousand years.
        let endless = Validity { from: 157_766_400, until: 67_090_000_000 };
        assert!(endless.is_due(NOW));
        assert_eq!(Validity::of(b"no certificate"), None);
    }
}
