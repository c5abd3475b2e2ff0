//! An agent on another machine: its API over TLS, with a token.
//!
//! Decides: whom the client believes. The other end must show a certificate that the cluster's own
//! authority signed for a node; which node it is does not matter, as all of them give the same
//! answers. A real server's certificate opens no port.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, Error,
    crypto::{CryptoProvider, ring::default_provider},
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, pem::PemObject as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    failure::{Failure, Kind, Outcome},
    verifier::{Shown, Verifier},
};

/// Port of the API where an address has none.
pub const PORT: u16 = 9120;

/// Where the API is, and what opens it.
pub struct Remote {
    /// As it was given, "https://10.0.0.2:9120".
    pub url: String,
    authority: String,
    /// What the request's head says: "Bearer nines_...".
    pub bearer: Option<String>,
    config: Arc<ClientConfig>,
}

fn usage(what: impl Into<String>, why: impl std::fmt::Display, next: &str) -> Failure {
    Failure::new(Kind::Usage, what, why).next(next)
}

/// Host and port of "https://HOST:PORT".
fn authority(url: &str) -> Option<String> {
    let rest = url.strip_prefix("https://")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let host_end = if rest.starts_with('[') {
        rest.find(']')? + 1
    } else {
        rest.find(':').unwrap_or(rest.len())
    };
    let (host, port) = rest.split_at(host_end);
    let sound = |c: char| c.is_ascii_alphanumeric() || ".-_:[]%".contains(c);
    if host.is_empty() || !host.chars().all(sound) {
        return None;
    }
    match port.strip_prefix(':') {
        None if port.is_empty() => Some(format!("{host}:{PORT}")),
        Some(number) if number.parse::<u16>().is_ok_and(|n| n > 0) => Some(rest.to_owned()),
        _ => None,
    }
}

impl Remote {
    /// Reads what is needed; `token`: a file with the token, `ca`: one with the authority's
    /// certificate, PEM.
    pub fn open(url: &str, token: Option<&Path>, ca: &Path) -> Outcome<Self> {
        let authority = authority(url).ok_or_else(|| {
            let what = format!("{url} is not the address of an API");
            usage(what, "", "write https://ADDRESS:PORT, as in https://10.0.0.2:9120")
        })?;
        let unread = |path: &Path, why: &dyn std::fmt::Display| {
            format!("cannot read {}: {why}", path.display())
        };
        let bearer = token.map(|path| {
            let text = std::fs::read_to_string(path);
            let text = text.map_err(|e| {
                let next = "name the file that has the token: --token-file FILE";
                usage("no token", unread(path, &e), next)
            })?;
            Ok(format!("Bearer {}", text.trim()))
        });
        let next = "copy ca.pem from the state directory of a node, and name it: --ca FILE";
        let no_ca = |why: &dyn std::fmt::Display| {
            usage(format!("{url} cannot be verified"), unread(ca, why), next)
        };
        let pem = std::fs::read(ca).map_err(|e| no_ca(&e))?;
        let cert = CertificateDer::from_pem_slice(&pem).map_err(|e| no_ca(&e))?;
        let anchor = webpki::anchor_from_trusted_cert(&cert).map_err(|e| no_ca(&e))?.to_owned();
        let provider = Arc::new(default_provider());
        let judge = move |shown: &Shown<'_>, by: &CryptoProvider| is_of_cluster(&anchor, shown, by);
        let verifier = Verifier::of(judge, Arc::clone(&provider));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| no_ca(&e))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let (url, bearer) = (url.to_owned(), bearer.transpose()?);
        Ok(Self { url, authority, bearer, config: Arc::new(config) })
    }

    /// A line to it, after the other end has proven itself.
    pub async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(&self.authority).await?;
        // All nodes of the cluster are believed, so it is asked for no name.
        let name = ServerName::try_from("api.nines").map_err(std::io::Error::other)?;
        TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await
    }
}

/// Whether somebody has a node's certificate of this authority.
fn is_of_cluster(
    authority: &TrustAnchor<'_>,
    shown: &Shown<'_>,
    provider: &CryptoProvider,
) -> Result<(), Error> {
    let bad = |_| Error::General("its certificate is not of this cluster".into());
    let cert = webpki::EndEntityCert::try_from(shown.cert).map_err(bad)?;
    let algorithms = provider.signature_verification_algorithms.all;
    let (anchors, usage) = (std::slice::from_ref(authority), webpki::KeyUsage::server_auth());
    let verified =
        cert.verify_for_usage(algorithms, anchors, shown.others, shown.now, usage, None, None);
    verified.map(drop).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_an_api_have_a_port() {
        for (url, is) in [
            ("https://10.0.0.2", "10.0.0.2:9120"),
            ("https://10.0.0.2:443/", "10.0.0.2:443"),
            ("https://lb1.example", "lb1.example:9120"),
            ("https://[2001:db8::2]", "[2001:db8::2]:9120"),
            ("https://[2001:db8::2]:1", "[2001:db8::2]:1"),
        ] {
            assert_eq!(authority(url).as_deref(), Some(is), "{url}");
        }
        for url in [
            "",
            "10.0.0.2",
            "http://10.0.0.2",
            "https://",
            "https://a:0",
            "https://a:x",
            "https://a b",
            "https://[::1",
            "https://[::1]x",
            "https://a/v1",
        ] {
            assert_eq!(authority(url), None, "{url}");
        }
    }
}
