//! Who this machine is in its cluster: names, numbers, keys, certificates, on disk.
//!
//! Decides: the layout of the state directory and how trust is made. One certificate authority a
//! cluster; each node has a certificate for its name; heartbeats are sealed with a key that all
//! share. Secrets are files of mode 0600; none is ever printed but the join code.

use std::{
    fs,
    io::Write as _,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use nines_api::failure::{Failure, Kind, Outcome};
use nines_core::{
    snapshot,
    state::State,
    wire::{HardState, Member, Persisted, Snapshot},
};
use ring::rand::SecureRandom as _;
use serde::{Deserialize, Serialize};

use self::certificate::{authority, certificate};

pub use self::{
    certificate::{
        der, fingerprint, number_of_tls_name, number_tls_name, server_tls_name, tls_name,
    },
    join_code::read_code,
};

mod certificate;
pub mod copied_state;
mod join_code;
pub mod trust;

/// Port for heartbeats (UDP) and TLS (TCP) unless chosen otherwise.
pub const PORT: u16 = 9119;

/// A member as a joining node must know it before it has the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Number of the member in the consensus.
    pub id: u64,
    /// Name of the member.
    pub name: String,
    /// One a link.
    pub addresses: Vec<IpAddr>,
    /// UDP and TCP port that the member listens on for other nodes.
    pub port: u16,
    /// It runs on one of several hosts, whose addresses these are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub floats: bool,
}

/// What the file `identity.json` of a state directory says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Name of the cluster.
    pub cluster: String,
    /// This machine as a member.
    pub me: Peer,
    /// Members known when it joined.
    pub peers: Vec<Peer>,
    /// Key of heartbeats, hex.
    pub beat_key: String,
    /// Founding members start with a log of their own; others get it.
    pub founding: bool,
    /// It has got the log: without one it has lost it.
    #[serde(default)]
    pub has_log: bool,
    /// Votes and carries nothing: touches no kernel table.
    #[serde(default)]
    pub witness: bool,
    /// No node but a real server: has no key of the cluster, only a certificate to ask with.
    #[serde(default)]
    pub server: bool,
    /// Addresses that it listens on, if they are not those that others reach it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listen: Vec<IpAddr>,
}

impl Identity {
    /// This machine with the addresses that it listens on.
    pub fn bound(&self) -> Peer {
        let addresses = if self.listen.is_empty() { &self.me.addresses } else { &self.listen };
        Peer { addresses: addresses.clone(), ..self.me.clone() }
    }

    /// Whether this node has ever had a log.
    pub fn has_log(&self, home: &StateDir) -> bool {
        // Another thread may have noted it since this was read.
        self.founding || self.has_log || home.identity().is_ok_and(|now| now.has_log)
    }

    /// Notes that it has one.
    pub fn note_log(&self, home: &StateDir) -> Outcome<()> {
        if self.has_log(home) {
            return Ok(());
        }
        let noted = Self { has_log: true, ..self.clone() };
        let text = serde_json::to_string_pretty(&noted).expect("plain data");
        home.write("identity.json", &text)
    }
}

/// The secrets of a cluster, as they are handed to a node that joins.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credentials {
    /// The machine's identity.
    pub identity: Identity,
    /// Authority's certificate, PEM.
    pub ca_pem: String,
    /// Authority's key, PEM: every member may let others in.
    pub ca_key: String,
    /// Node's certificate, PEM.
    pub cert_pem: String,
    /// Node's key, PEM.
    pub key_pem: String,
}

/// A state directory.
#[derive(Clone, Debug)]
pub struct StateDir(pub PathBuf);

fn disk(what: impl Into<String>, why: impl std::fmt::Display) -> Failure {
    Failure::new(Kind::Io, what, why).next("see whether the disk is full and the directory yours")
}

/// Random bytes from the kernel.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new().fill(&mut bytes).expect("the kernel has random numbers");
    bytes
}

impl StateDir {
    /// The state directory of this path.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file whole, or not at all.
    pub fn write(&self, name: &str, text: &str) -> Outcome<()> {
        let path = self.file(name);
        let next = self.file(&format!("{name}.new"));
        let put = || {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&next)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&next, &path)
        };
        put().map_err(|e| {
            let _ = fs::remove_file(&next);
            disk(format!("cannot write {}", path.display()), e)
        })
    }

    /// Reads a file.
    pub fn read(&self, name: &str) -> Outcome<String> {
        let path = self.file(name);
        fs::read_to_string(&path).map_err(|e| disk(format!("cannot read {}", path.display()), e))
    }

    /// Whether this machine belongs to a cluster.
    pub fn is_member(&self) -> bool {
        self.file("identity.json").exists()
    }

    /// The identity of this machine.
    pub fn identity(&self) -> Outcome<Identity> {
        if !self.is_member() {
            return Err(Failure::new(
                Kind::Unreachable,
                "this machine belongs to no cluster",
                format!("there is no {}", self.file("identity.json").display()),
            )
            .next(
                "nines init NAME   on the first machine, then   nines join ADDR CODE   on others",
            ));
        }
        let text = self.read("identity.json")?;
        serde_json::from_str(&text).map_err(|e| disk("identity.json is damaged", e))
    }

    /// All credentials of this node.
    pub fn credentials(&self) -> Outcome<Credentials> {
        Ok(Credentials {
            identity: self.identity()?,
            ca_pem: self.read("ca.pem")?,
            ca_key: self.read("ca.key")?,
            cert_pem: self.read("node.pem")?,
            key_pem: self.read("node.key")?,
        })
    }

    /// Keeps credentials; `identity.json` comes last: before it this machine is no member, so a
    /// disk that fills up on the way leaves no half member.
    pub fn keep(&self, credentials: &Credentials) -> Outcome<()> {
        fs::create_dir_all(&self.0)
            .map_err(|e| disk(format!("cannot make {}", self.0.display()), e))?;
        self.write("ca.pem", &credentials.ca_pem)?;
        self.write("ca.key", &credentials.ca_key)?;
        self.write("node.pem", &credentials.cert_pem)?;
        self.write("node.key", &credentials.key_pem)?;
        let text = serde_json::to_string_pretty(&credentials.identity).expect("plain data");
        self.write("identity.json", &text)
    }
}

/// Makes the credentials of founding members who start together, and the log they start from.
pub fn bootstrap(
    text: &str,
    spec: &nines_model::Spec,
    port: u16,
) -> Outcome<(Vec<Credentials>, Persisted)> {
    let (ca_pem, ca_key) = authority(&spec.name)?;
    let beat_key = data_encoding::HEXLOWER.encode(&random::<32>());
    let peers: Vec<Peer> = spec
        .nodes
        .iter()
        .enumerate()
        .map(|(i, (name, node))| Peer {
            id: i as u64 + 1,
            name: name.to_string(),
            addresses: node.addresses.clone(),
            port,
            floats: false,
        })
        .collect();
    let mut credentials = Vec::new();
    for me in &peers {
        let names = vec![tls_name(&me.name), number_tls_name(me.id)];
        let (cert_pem, key_pem) = certificate(&spec.name, &ca_key, names, false)?;
        let identity = Identity {
            cluster: spec.name.clone(),
            me: me.clone(),
            peers: peers.clone(),
            beat_key: beat_key.clone(),
            founding: true,
            has_log: false,
            witness: spec.nodes[me.name.as_str()].role == nines_model::Role::Witness,
            server: false,
            listen: Vec::new(),
        };
        let (ca_pem, ca_key) = (ca_pem.clone(), ca_key.clone());
        credentials.push(Credentials { identity, ca_pem, ca_key, cert_pem, key_pem });
    }
    let members = peers.iter().map(|peer| {
        let witness = spec.nodes[peer.name.as_str()].role == nines_model::Role::Witness;
        member(peer, witness)
    });
    let state = State::founded(text.into(), Arc::new(spec.clone()), members);
    let voters: Vec<u64> = peers.iter().map(|p| p.id).collect();
    let data = snapshot::encode(&state);
    let kept = Persisted {
        hard_state: HardState { term: 1, vote: 0, commit: 1 },
        snapshot: Snapshot { index: 1, term: 1, voters, learners: Vec::new(), data },
        ..Persisted::default()
    };
    Ok((credentials, kept))
}

/// A peer as the log knows it.
pub fn member(peer: &Peer, witness: bool) -> Member {
    Member {
        id: peer.id,
        name: peer.name.clone(),
        witness,
        addresses: peer.addresses.iter().map(ToString::to_string).collect(),
        port: u32::from(peer.port),
        floats: peer.floats,
        ..Member::default()
    }
}

/// Credentials for a node that joins.
pub fn admit(
    mine: &Credentials,
    peers: Vec<Peer>,
    newcomer: Peer,
    witness: bool,
) -> Outcome<Credentials> {
    let names = vec![tls_name(&newcomer.name), number_tls_name(newcomer.id)];
    let (cert_pem, key_pem) = certificate(&mine.identity.cluster, &mine.ca_key, names, false)?;
    let identity = Identity {
        cluster: mine.identity.cluster.clone(),
        me: newcomer,
        peers,
        beat_key: mine.identity.beat_key.clone(),
        founding: false,
        has_log: false,
        witness,
        server: false,
        listen: Vec::new(),
    };
    let (ca_pem, ca_key) = (mine.ca_pem.clone(), mine.ca_key.clone());
    Ok(Credentials { identity, ca_pem, ca_key, cert_pem, key_pem })
}

/// Credentials for a real server: a web server that is broken into gives no key of the cluster
/// away.
pub fn admit_server(mine: &Credentials, peers: Vec<Peer>, newcomer: Peer) -> Outcome<Credentials> {
    let cluster = mine.identity.cluster.clone();
    let names = vec![server_tls_name(&newcomer.name)];
    let (cert_pem, key_pem) = certificate(&cluster, &mine.ca_key, names, true)?;
    let identity = Identity {
        cluster,
        me: newcomer,
        peers,
        beat_key: String::new(),
        founding: false,
        has_log: false,
        witness: false,
        server: true,
        listen: Vec::new(),
    };
    let ca_pem = mine.ca_pem.clone();
    Ok(Credentials { identity, ca_pem, ca_key: String::new(), cert_pem, key_pem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_server_is_no_node_of_its_name() {
        let text = "[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.2\"\n";
        let spec = nines_model::config::parse(text).unwrap();
        let (credentials, _) = bootstrap(text, &spec, PORT).unwrap();
        let named = |credentials: &Credentials, name: String| {
            trust::names(&der(&credentials.cert_pem).into(), &name)
        };
        assert!(
            named(&credentials[0], tls_name("lb1")) && named(&credentials[0], number_tls_name(1))
        );
        assert_eq!(trust::number(&der(&credentials[0].cert_pem).into()), Some(1));
        let peer =
            Peer { id: 0, name: "lb1".into(), addresses: Vec::new(), port: PORT, floats: false };
        let server = admit_server(&credentials[0], Vec::new(), peer).unwrap();
        assert_eq!(trust::number(&der(&server.cert_pem).into()), None);
        assert!(named(&server, server_tls_name("lb1")));
        assert!(
            !named(&server, tls_name("lb1")) && !named(&credentials[0], server_tls_name("lb1"))
        );
        assert!(server.ca_key.is_empty() && server.identity.beat_key.is_empty());
        // Nobody who joins takes it for a member's, whatever name it listens by.
        let anchor = der(&server.ca_pem).into();
        let anchor = webpki::anchor_from_trusted_cert(&anchor).unwrap();
        let passes = |credentials: &Credentials| {
            let cert = der(&credentials.cert_pem).into();
            let cert = webpki::EndEntityCert::try_from(&cert).unwrap();
            let provider = rustls::crypto::ring::default_provider();
            let algorithms = provider.signature_verification_algorithms.all;
            let (now, usage) = (rustls_pki_types::UnixTime::now(), webpki::KeyUsage::server_auth());
            let done = cert.verify_for_usage(
                algorithms,
                std::slice::from_ref(&anchor),
                &[],
                now,
                usage,
                None,
                None,
            );
            done.is_ok()
        };
        assert!(passes(&credentials[0]) && !passes(&server));
        for name in ["web 1", "*", ""] {
            let peer =
                Peer { id: 0, name: name.into(), addresses: Vec::new(), port: PORT, floats: false };
            assert!(admit_server(&credentials[0], Vec::new(), peer).is_err(), "{name}");
        }
    }
}
