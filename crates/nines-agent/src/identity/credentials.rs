//! The keys of a machine: in memory, where they can be renewed, and in its state directory.
//!
//! Decides: which keys a connection uses, always the newest; and that a certificate and its key
//! change together, on disk, too. The authority's key is only where it may be used: a witness or
//! real server has none.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use nines_api::failure::{Failure, Kind, Outcome};
use rustls::ServerConfig;
use serde::{Deserialize, Serialize};

use super::{
    Identity, StateDir,
    certificate::{self, Authority, Subject, Validity, der},
    heartbeat_keys::HeartbeatKeys,
    trust,
};

/// A new certificate and its key wait here until both are in their files.
const RENEWED: &str = "node.renewed";
/// The key of a machine that has asked to be let in.
const JOINING: &str = "joining.key";

/// What a machine that joins is given. The build before sent its credentials in this form.
#[derive(Clone, Serialize, Deserialize)]
pub struct Admission {
    /// The machine's identity.
    pub identity: Identity,
    /// Authority's certificate, PEM.
    pub ca_pem: String,
    /// Authority's key, PEM; empty: this machine lets nobody in.
    pub ca_key: String,
    /// The machine's certificate, PEM.
    pub cert_pem: String,
    /// The machine's key, PEM; empty: it has made that itself.
    pub key_pem: String,
}

/// Keys and certificates at one moment, and what TLS makes of them.
pub struct Keys {
    /// Authority's certificate, PEM.
    pub ca_pem: String,
    /// Authority's key, PEM; empty: it may not be used here.
    pub ca_key: String,
    /// Own certificate, PEM.
    pub cert_pem: String,
    /// Own key, PEM.
    pub key_pem: String,
    /// From when until when the certificate is valid.
    pub validity: Validity,
    /// For the port that others connect to.
    pub server: Arc<ServerConfig>,
    /// For the API's port.
    pub api: Arc<ServerConfig>,
}

impl Keys {
    fn of(ca_pem: String, ca_key: String, cert_pem: String, key_pem: String) -> Outcome<Self> {
        let server = trust::server(&ca_pem, &cert_pem, &key_pem)?;
        let api = trust::api_server(&ca_pem, &cert_pem, &key_pem)?;
        let validity = Validity::of(&der(&cert_pem)).unwrap_or(Validity { from: 0, until: 0 });
        Ok(Self { ca_pem, ca_key, cert_pem, key_pem, validity, server, api })
    }

    /// The authority as it signs; `None`: its key is not here.
    pub fn authority<'a>(&'a self, cluster: &'a str) -> Option<Authority<'a>> {
        (!self.ca_key.is_empty()).then_some(Authority { cluster, ca_key: &self.ca_key })
    }
}

/// Who this machine is, and its keys as they are now.
pub struct Credentials {
    /// The machine's identity.
    pub identity: Identity,
    keys: RwLock<Arc<Keys>>,
    pub(super) heartbeat: Mutex<HeartbeatKeys>,
}

impl Credentials {
    /// What a machine needs to have these, its own key included.
    pub fn given(&self) -> Admission {
        let keys = self.keys();
        Admission {
            identity: self.identity.clone(),
            ca_pem: keys.ca_pem.clone(),
            ca_key: keys.ca_key.clone(),
            cert_pem: keys.cert_pem.clone(),
            key_pem: keys.key_pem.clone(),
        }
    }

    /// Those that a machine was given; `key_pem`: the key that it has made, if it has.
    pub fn of(admission: Admission, key_pem: Option<String>) -> Outcome<Self> {
        let Admission { identity, ca_pem, ca_key, cert_pem, key_pem: given } = admission;
        let keys = Keys::of(ca_pem, ca_key, cert_pem, key_pem.unwrap_or(given))?;
        let heartbeat = Mutex::new(HeartbeatKeys::first(&identity));
        Ok(Self { identity, keys: RwLock::new(Arc::new(keys)), heartbeat })
    }

    /// The keys now. Whoever needs them later asks again.
    pub fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whom this machine's certificate names.
    pub fn subject(&self) -> Subject {
        let me = &self.identity.me;
        if self.identity.server {
            Subject::Server(me.name.clone())
        } else {
            Subject::Node(me.name.clone(), me.id)
        }
    }

    /// Whether this machine may not have the authority's key.
    pub fn admits_nobody(&self) -> bool {
        self.identity.witness || self.identity.server
    }

    /// From now on this certificate and key count, on disk and for every new connection. Lines that
    /// are open go on.
    pub fn renew(&self, home: &StateDir, cert_pem: &str, key_pem: &str) -> Outcome<()> {
        let now = self.keys();
        let (ca_pem, ca_key) = (now.ca_pem.clone(), now.ca_key.clone());
        let keys = Keys::of(ca_pem, ca_key, cert_pem.into(), key_pem.into())?;
        home.put_renewed(cert_pem, key_pem)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        Ok(())
    }

    /// Forgets the authority's key where it may not be used; whether it was there.
    pub fn drop_ca_key(&self, home: &StateDir) -> Outcome<bool> {
        let now = self.keys();
        if !self.admits_nobody() || now.ca_key.is_empty() {
            return Ok(false);
        }
        // Builds before this one want the file: a machine that goes back to one must start.
        home.write("ca.key", "")?;
        let (ca_pem, cert_pem) = (now.ca_pem.clone(), now.cert_pem.clone());
        let keys = Keys::of(ca_pem, String::new(), cert_pem, now.key_pem.clone())?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        Ok(true)
    }
}

impl StateDir {
    /// All credentials of this machine.
    pub fn credentials(&self) -> Outcome<Credentials> {
        self.finish_renewal()?;
        let has_ca_key = self.file("ca.key").exists();
        let ca_key = if has_ca_key { self.read("ca.key")? } else { String::new() };
        let admission = Admission {
            identity: self.identity()?,
            ca_pem: self.read("ca.pem")?,
            ca_key,
            cert_pem: self.read("node.pem")?,
            key_pem: self.read("node.key")?,
        };
        let heartbeat = self.heartbeat_keys(&admission.identity)?;
        let credentials = Credentials::of(admission, None)?;
        Ok(Credentials { heartbeat: Mutex::new(heartbeat), ..credentials })
    }

    /// Keeps credentials; `identity.json` comes last: before it this machine is no member, so a
    /// disk that fills up on the way leaves no half member.
    pub fn keep(&self, credentials: &Credentials) -> Outcome<()> {
        super::make_directory(&self.0)?;
        let keys = credentials.keys();
        let _ = fs::remove_file(self.file(RENEWED));
        self.forget_heartbeat_keys();
        self.write("ca.pem", &keys.ca_pem)?;
        self.write("ca.key", &keys.ca_key)?;
        self.write("node.pem", &keys.cert_pem)?;
        self.write("node.key", &keys.key_pem)?;
        let text = serde_json::to_string_pretty(&credentials.identity).expect("plain data");
        self.write("identity.json", &text)
    }

    /// The key with which this machine asks to be let in: that of the request before, if its answer
    /// was lost, or a new one.
    pub fn joining_key(&self) -> Outcome<String> {
        match fs::read_to_string(self.file(JOINING)) {
            Ok(key) if certificate::request(&key).is_ok() => Ok(key),
            _ => certificate::new_key(),
        }
    }

    /// Keeps that key until the answer is there.
    pub fn keep_joining_key(&self, key_pem: &str) -> Outcome<()> {
        super::make_directory(&self.0).map_err(|why| why.next("run as root"))?;
        self.write(JOINING, key_pem)
    }

    /// The answer is there.
    pub fn forget_joining_key(&self) {
        let _ = fs::remove_file(self.file(JOINING));
    }

    /// Writes a new certificate and its key: both, or neither, also if the machine stops between.
    fn put_renewed(&self, cert_pem: &str, key_pem: &str) -> Outcome<()> {
        let both = Renewed { cert_pem: cert_pem.into(), key_pem: key_pem.into() };
        self.write(RENEWED, &serde_json::to_string(&both).expect("plain data"))?;
        self.finish_renewal()
    }

    fn finish_renewal(&self) -> Outcome<()> {
        if !self.file(RENEWED).exists() {
            return Ok(());
        }
        let text = self.read(RENEWED)?;
        let both: Renewed = serde_json::from_str(&text).map_err(|e| {
            Failure::new(Kind::Io, format!("{RENEWED} is damaged"), e)
                .next(format!("remove {}", self.file(RENEWED).display()))
        })?;
        self.write("node.key", &both.key_pem)?;
        self.write("node.pem", &both.cert_pem)?;
        fs::remove_file(self.file(RENEWED))
            .map_err(|e| super::disk(format!("cannot remove {RENEWED}"), e))
    }
}

/// What [`RENEWED`] has.
#[derive(Serialize, Deserialize)]
struct Renewed {
    cert_pem: String,
    key_pem: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{PORT, bootstrap};

    fn home(name: &str) -> StateDir {
        let folder = std::env::temp_dir().join(format!("nines-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        StateDir(folder)
    }

    fn lb1_and_wit1() -> Vec<Credentials> {
        let text = "[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.2\"\n\
                    wit1 = { addresses = \"10.0.0.3\", role = \"witness\" }\n";
        let spec = nines_model::config::parse(text).unwrap();
        bootstrap(text, &spec, PORT).unwrap().0
    }

    fn signed(by: &Credentials, whose: &Credentials) -> (String, String) {
        let key = certificate::new_key().unwrap();
        let keys = by.keys();
        let request = certificate::request(&key).unwrap();
        let now = crate::identity::now_s();
        (keys.authority("t").unwrap().sign(&whose.subject(), &request, now).unwrap(), key)
    }

    #[test]
    fn a_certificate_and_its_key_change_together() {
        let (home, nodes) = (home("renewed"), lb1_and_wit1());
        home.keep(&nodes[0]).unwrap();
        let before = nodes[0].keys();
        let (cert, key) = signed(&nodes[0], &nodes[0]);
        assert!(nodes[0].renew(&home, &cert, &before.key_pem).is_err(), "another's key");
        assert_eq!(home.credentials().unwrap().keys().cert_pem, before.cert_pem);
        nodes[0].renew(&home, &cert, &key).unwrap();
        assert_eq!(nodes[0].keys().cert_pem, cert);
        assert_eq!(home.credentials().unwrap().keys().key_pem, key);
        // The machine stopped when only one of the two files was written.
        let (cert, key) = signed(&nodes[0], &nodes[0]);
        let both = Renewed { cert_pem: cert.clone(), key_pem: key.clone() };
        home.write(RENEWED, &serde_json::to_string(&both).unwrap()).unwrap();
        home.write("node.key", &key).unwrap();
        let found = home.credentials().unwrap().keys();
        assert_eq!((&found.cert_pem, &found.key_pem), (&cert, &key));
        assert!(!home.file(RENEWED).exists());
        fs::remove_dir_all(&home.0).unwrap();
    }

    #[test]
    fn only_directors_have_the_key_of_the_authority() {
        let (home, nodes) = (home("ca-key"), lb1_and_wit1());
        assert!(!nodes[0].keys().ca_key.is_empty() && nodes[1].keys().ca_key.is_empty());
        assert!(nodes[1].keys().authority("t").is_none());
        // A witness of the build before has it.
        home.keep(&nodes[1]).unwrap();
        home.write("ca.key", &nodes[0].keys().ca_key).unwrap();
        let witness = home.credentials().unwrap();
        assert!(witness.drop_ca_key(&home).unwrap());
        assert!(witness.keys().ca_key.is_empty());
        assert_eq!(home.read("ca.key").unwrap(), "");
        assert!(!witness.drop_ca_key(&home).unwrap(), "only once");
        home.keep(&nodes[0]).unwrap();
        let director = home.credentials().unwrap();
        assert!(!director.drop_ca_key(&home).unwrap() && !director.keys().ca_key.is_empty());
        fs::remove_file(home.file("ca.key")).unwrap();
        assert!(home.credentials().unwrap().keys().ca_key.is_empty(), "a file that is gone");
        fs::remove_dir_all(&home.0).unwrap();
    }
}
