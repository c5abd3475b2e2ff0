//! Who this machine is in its cluster: names, numbers, keys, certificates, on disk.
//!
//! Decides: the layout of the state directory and how trust is made. One certificate authority a
//! cluster; each node has a certificate for its name; heartbeats are sealed with a key that all
//! share. Each machine makes its own key. Secrets are files of mode 0600; none is ever printed but
//! the join code.

use std::{
    fs,
    io::Write as _,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use nines_api::failure::{Failure, Kind, Outcome};
use nines_core::{
    node::rebuild::VOTERS_MAX,
    snapshot,
    state::State,
    wire::{HardState, Member, Persisted, Snapshot},
};
use ring::rand::SecureRandom as _;
use serde::{Deserialize, Serialize};

use self::certificate::{Authority, Subject, authority};

pub use self::{
    certificate::{
        der, fingerprint, new_key, number_of_tls_name, number_tls_name, server_tls_name,
    },
    credentials::{Admission, Credentials},
    generation::found_generation,
    heartbeat_keys::HeartbeatKeys,
    join_code::{Admits, JoinCode, read_code},
};

pub mod authorities;
pub mod certificate;
pub mod copied_state;
mod credentials;
pub mod generation;
mod heartbeat_keys;
pub mod join_code;
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
    /// Its generation: how often it was formed anew by force, and one.
    #[serde(default = "generation::first")]
    pub generation: u64,
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
        home.change_identity(|identity| identity.has_log = true)
    }
}

/// One change of an identity at a time: two threads make some.
static CHANGES: Mutex<()> = Mutex::new(());

/// A state directory.
#[derive(Clone, Debug)]
pub struct StateDir(pub PathBuf);

/// A failure of the disk.
pub(crate) fn disk(what: impl Into<String>, why: impl std::fmt::Display) -> Failure {
    Failure::new(Kind::Io, what, why).next("see whether the disk is full and the directory yours")
}

/// Makes a directory that only its owner can look into, and those above it.
pub(crate) fn make_directory(path: &Path) -> Outcome<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| disk(format!("cannot make {}", path.display()), e))
}

/// The time, in seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
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

    /// Changes what the newest identity of this machine says.
    pub(super) fn change_identity(&self, change: impl FnOnce(&mut Identity)) -> Outcome<()> {
        let _alone = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        let mut identity = self.identity()?;
        change(&mut identity);
        let text = serde_json::to_string_pretty(&identity).expect("plain data");
        self.write("identity.json", &text)
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
}

/// Makes the credentials of founding members who start together, and the log they start from.
pub fn bootstrap(
    text: &str,
    spec: &nines_model::Spec,
    port: u16,
) -> Outcome<(Vec<Credentials>, Persisted)> {
    let now = now_s();
    let (ca_pem, ca_key) = authority(&spec.name, generation::FIRST, now)?;
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
        let subject = Subject::Node(me.name.clone(), me.id);
        let signer = Authority { cluster: &spec.name, ca_key: &ca_key };
        let (cert_pem, key_pem) = signer.with_key(&subject, now)?;
        let witness = spec.nodes[me.name.as_str()].role == nines_model::Role::Witness;
        let identity = Identity {
            cluster: spec.name.clone(),
            generation: generation::FIRST,
            me: me.clone(),
            peers: peers.clone(),
            beat_key: beat_key.clone(),
            founding: true,
            has_log: false,
            witness,
            server: false,
            listen: Vec::new(),
        };
        let ca_key = if witness { String::new() } else { ca_key.clone() };
        let ca_pem = ca_pem.clone();
        let given = Admission::first(identity, (ca_pem, ca_key), (cert_pem, key_pem));
        credentials.push(Credentials::of(given, None)?);
    }
    let members = peers.iter().map(|peer| {
        let witness = spec.nodes[peer.name.as_str()].role == nines_model::Role::Witness;
        member(peer, witness)
    });
    let state = State::founded(text.into(), Arc::new(spec.clone()), members);
    let all: Vec<u64> = peers.iter().map(|p| p.id).collect();
    let (voters, learners) = all.split_at(all.len().min(VOTERS_MAX));
    let data = snapshot::encode(&state);
    let kept = Persisted {
        hard_state: HardState { term: 1, vote: 0, commit: 1 },
        snapshot: Snapshot {
            index: 1,
            term: 1,
            voters: voters.to_vec(),
            learners: learners.to_vec(),
            data,
        },
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

/// What a machine that joins is given. `request`: its certificate signing request, PEM; empty: it
/// is of a build that makes none, and gets a key. A real server gets no key of the cluster, so that
/// one that is broken into gives none away, and no witness gets the authority's.
pub fn admit(
    mine: &Credentials,
    peers: Vec<Peer>,
    newcomer: Peer,
    admits: Admits,
    request: &str,
) -> Outcome<Admission> {
    let cluster = &mine.identity.cluster;
    let (keys, now) = (mine.keys(), now_s());
    let signer = keys.authority(cluster).ok_or_else(|| {
        Failure::new(Kind::Denied, "cannot make a certificate", "the CA key is not on this machine")
    })?;
    let server = admits == Admits::Server;
    let subject = if server {
        Subject::Server(newcomer.name.clone())
    } else {
        Subject::Node(newcomer.name.clone(), newcomer.id)
    };
    let (cert_pem, key_pem) = match request {
        "" => signer.with_key(&subject, now)?,
        request => (signer.sign(&subject, request, now)?, String::new()),
    };
    let identity = Identity {
        cluster: cluster.clone(),
        generation: mine.identity.generation,
        me: newcomer,
        peers,
        beat_key: if server { String::new() } else { mine.heartbeat_keys().sending },
        founding: false,
        has_log: false,
        witness: admits == Admits::Witness,
        server,
        listen: Vec::new(),
    };
    let signs = admits == Admits::Director;
    let (ca_key, next_key) =
        if signs { (keys.ca_key.clone(), keys.next_key.clone()) } else { Default::default() };
    let authority = (keys.ca_pem().to_owned(), ca_key);
    let given = Admission::first(identity, authority, (cert_pem, key_pem));
    Ok(Admission { authorities: keys.rotated(), next_key, ..given })
}

#[cfg(test)]
mod tests {
    use super::{certificate::tls_name, *};

    #[test]
    fn a_real_server_is_no_node_of_its_name() {
        let text = "[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.2\"\n";
        let spec = nines_model::config::parse(text).unwrap();
        let (credentials, _) = bootstrap(text, &spec, PORT).unwrap();
        let lb1 = &credentials[0];
        let own = lb1.keys().cert_pem.clone();
        let named = |pem: &str, name: String| trust::names(&der(pem).into(), &name);
        assert!(named(&own, tls_name("lb1")) && named(&own, number_tls_name(1)));
        assert_eq!(trust::number(&der(&own).into()), Some(1));
        let peer =
            Peer { id: 0, name: "lb1".into(), addresses: Vec::new(), port: PORT, floats: false };
        let server = admit(lb1, Vec::new(), peer, Admits::Server, "").unwrap();
        let cert = &server.cert_pem;
        assert_eq!(trust::number(&der(cert).into()), None);
        assert!(named(cert, server_tls_name("lb1")));
        assert!(!named(cert, tls_name("lb1")) && !named(&own, server_tls_name("lb1")));
        assert!(server.ca_key.is_empty() && server.identity.beat_key.is_empty());
        // Nobody who joins takes it for a member's, whatever name it listens by.
        let anchor = der(&server.ca_pem).into();
        let anchor = webpki::anchor_from_trusted_cert(&anchor).unwrap();
        let passes = |pem: &str| {
            let cert = der(pem).into();
            let cert = webpki::EndEntityCert::try_from(&cert).unwrap();
            let provider = rustls::crypto::ring::default_provider();
            let algorithms = provider.signature_verification_algorithms.all;
            let (now, usage) = (rustls_pki_types::UnixTime::now(), webpki::KeyUsage::server_auth());
            let anchors = std::slice::from_ref(&anchor);
            cert.verify_for_usage(algorithms, anchors, &[], now, usage, None, None).is_ok()
        };
        assert!(passes(&own) && !passes(cert));
        for name in ["web 1", "*", ""] {
            let peer =
                Peer { id: 0, name: name.into(), addresses: Vec::new(), port: PORT, floats: false };
            assert!(admit(lb1, Vec::new(), peer, Admits::Server, "").is_err(), "{name}");
        }
    }

    #[test]
    fn who_admits_a_machine_never_has_its_key() {
        let text = "[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.2\"\n";
        let spec = nines_model::config::parse(text).unwrap();
        let (credentials, _) = bootstrap(text, &spec, PORT).unwrap();
        let peer =
            || Peer { id: 2, name: "lb2".into(), addresses: Vec::new(), port: PORT, floats: false };
        for (admits, ca_key) in
            [(Admits::Director, true), (Admits::Witness, false), (Admits::Server, false)]
        {
            let key = certificate::new_key().unwrap();
            let request = certificate::request(&key).unwrap();
            let given = admit(&credentials[0], Vec::new(), peer(), admits, &request).unwrap();
            assert!(given.key_pem.is_empty() && given.ca_key.is_empty() != ca_key, "{admits:?}");
            let other = Some(certificate::new_key().unwrap());
            assert!(Credentials::of(given.clone(), other).is_err(), "for its own key only");
            Credentials::of(given, Some(key)).unwrap();
            // An older build sends no request and gets a key.
            let given = admit(&credentials[0], Vec::new(), peer(), admits, "").unwrap();
            Credentials::of(given, None).unwrap();
        }
    }
}
