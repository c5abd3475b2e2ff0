//! TLS between nodes: whom this machine believes.
//!
//! Decides: a peer is a member if its certificate comes from our authority; which member, its
//! certificate's number says. A node that joins knows the authority only by the fingerprint in its
//! join code.

use std::{net::IpAddr, sync::Arc, time::Duration};

use nines_api::{
    failure::{Failure, Kind, Outcome},
    verifier::{Shown, Verifier},
};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerifier as _},
    },
    crypto::{CryptoProvider, ring::default_provider},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};

use crate::identity::{
    self,
    authorities::Authorities,
    certificate::Validity,
    generation::{self, Generation},
};

fn trouble(e: impl std::fmt::Display) -> Failure {
    Failure::new(Kind::Io, "this node's certificates cannot be used", e)
        .next("remove the state directory and join again")
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}

/// What a member that reads signing requests says in a handshake (ALPN): others know by it, and
/// nobody between can take it away, that it reads the kinds of frame that came with them.
pub const SIGNS_REQUESTS: &[u8] = b"nines/2";

fn chain(by: &Authorities, cert_pem: &str) -> Vec<CertificateDer<'static>> {
    // The authorities go along: a joining node compares their fingerprints.
    std::iter::once(cert_pem).chain(by.shown()).map(|pem| identity::der(pem).into()).collect()
}

fn key(pem: &str) -> Outcome<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(trouble)
}

fn roots(by: &Authorities) -> Outcome<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for ca_pem in by.believed() {
        roots.add(identity::der(ca_pem).into()).map_err(trouble)?;
    }
    Ok(Arc::new(roots))
}

/// For the port that members, and nodes that want to join, connect to.
pub fn server(by: &Authorities, cert_pem: &str, key_pem: &str) -> Outcome<Arc<ServerConfig>> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(by)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(trouble)?;
    let verifier = Arc::new(AlsoOver(verifier));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(trouble)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(by, cert_pem), key(key_pem)?)
        .map_err(trouble)?;
    config.alpn_protocols = vec![SIGNS_REQUESTS.to_vec()];
    // Each connection shows its certificate anew: what has ended or was taken back does not go on.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// For the API over TCP: callers show tokens, not certificates.
pub fn api_server(by: &Authorities, cert_pem: &str, key_pem: &str) -> Outcome<Arc<ServerConfig>> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(trouble)?
        .with_no_client_auth()
        .with_single_cert(chain(by, cert_pem), key(key_pem)?)
        .map_err(trouble)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// For a connection to a member at this address. `by`: the authorities that this node believes;
/// `cert_pem`, `key_pem`: of this node.
pub fn client(
    (by, cert_pem, key_pem): (&Authorities, &str, &str),
    own: Generation,
    at: IpAddr,
) -> Outcome<Arc<ClientConfig>> {
    let library = WebPkiServerVerifier::builder_with_provider(roots(by)?, provider());
    let library = library.build().map_err(trouble)?;
    // Believes what the library believes; a member of another generation is noticed.
    let judge = move |Shown { cert, others, name, now }: &Shown<'_>, _: &CryptoProvider| {
        let verified = library.verify_server_cert(cert, others, name, &[], *now);
        if verified.is_err() {
            generation::meet(&own, at, others);
        }
        verified.map(drop)
    };
    let verifier = Verifier::of(judge, provider());
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(trouble)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain(by, cert_pem), key(key_pem)?)
        .map_err(trouble)?;
    config.alpn_protocols = vec![SIGNS_REQUESTS.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Believes clients of the cluster, also those whose certificate is over: a machine that was off
/// for long comes back with such a one, and asks for another. The port lets it ask for nothing
/// else.
#[derive(Debug)]
struct AlsoOver(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AlsoOver {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let at = match Validity::of(end_entity) {
            Some(validity) if validity.is_over(now.as_secs()) => validity.until,
            _ => now.as_secs(),
        };
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
        self.0.verify_client_cert(end_entity, intermediates, at)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Whether a certificate is over now.
pub fn is_over(cert: &CertificateDer<'_>) -> bool {
    Validity::of(cert).is_none_or(|validity| validity.is_over(identity::now_s()))
}

/// Whether a certificate has this TLS name.
pub fn names(cert: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(name) = ServerName::try_from(name) else { return false };
    webpki::EndEntityCert::try_from(cert)
        .is_ok_and(|c| c.verify_is_valid_for_subject_name(&name).is_ok())
}

/// The first name in a certificate: it is the same in one that was renewed.
pub fn first_name(cert: &CertificateDer<'_>) -> String {
    let cert = webpki::EndEntityCert::try_from(cert).ok();
    let first = cert.as_ref().and_then(|cert| cert.valid_dns_names().next());
    first.map(str::to_owned).unwrap_or_default()
}

/// The member's number in a certificate; `None`: it is not a member's.
pub fn number(cert: &CertificateDer<'_>) -> Option<u64> {
    let cert = webpki::EndEntityCert::try_from(cert).ok()?;
    let mut found = cert.valid_dns_names().filter_map(identity::number_of_tls_name);
    found.next()
}

/// Whether somebody shows an authority with this fingerprint and a certificate signed by it;
/// `None`: everybody is believed (health checks, which name servers by address).
fn is_by_fingerprint(
    wanted: Option<[u8; 10]>,
    shown: &Shown<'_>,
    provider: &CryptoProvider,
) -> Result<(), Error> {
    let Some(wanted) = wanted else { return Ok(()) };
    let bad = |why: &str| Error::General(why.into());
    let authority = shown.others.iter().find(|c| identity::fingerprint(c) == wanted);
    let authority = authority.ok_or_else(|| {
        bad("the code is of another cluster, or was made before its authority was rotated")
    })?;
    let anchor = webpki::anchor_from_trusted_cert(authority)
        .map_err(|_| bad("the CA certificate is not valid"))?;
    let cert = webpki::EndEntityCert::try_from(shown.cert)
        .map_err(|_| bad("its certificate cannot be read"))?;
    let algorithms = provider.signature_verification_algorithms.all;
    let (anchors, usage) = ([anchor], webpki::KeyUsage::server_auth());
    let verified =
        cert.verify_for_usage(algorithms, &anchors, shown.others, shown.now, usage, None, None);
    verified.map(drop).map_err(|e| match e {
        webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => {
            bad("its certificate is not valid by this machine's clock")
        }
        _ => bad("its certificate is not of that cluster"),
    })
}

fn special(fingerprint: Option<[u8; 10]>) -> ClientConfig {
    let judge =
        move |shown: &Shown<'_>, by: &CryptoProvider| is_by_fingerprint(fingerprint, shown, by);
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has them all")
        .dangerous()
        .with_custom_certificate_verifier(Verifier::of(judge, provider()))
        .with_no_client_auth()
}

/// For a node that joins, which knows a fingerprint.
pub fn joining_client(fingerprint: [u8; 10]) -> ClientConfig {
    let mut config = special(Some(fingerprint));
    config.alpn_protocols = vec![SIGNS_REQUESTS.to_vec()];
    config
}

/// For health checks over TLS.
pub fn unverified_client() -> ClientConfig {
    special(None)
}
