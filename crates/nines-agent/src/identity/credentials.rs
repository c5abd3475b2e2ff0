//! The keys of a machine: in memory, where they can be renewed, and in its state directory.
//!
//! Decides: which keys a connection uses, always the newest; and that a certificate and its key
//! change together, on disk, too, and with them the authorities. The authority's key is only where
//! it may be used: a witness or real server has none.

use std::{
    fs,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
};

use nines_api::failure::{Failure, Kind, Outcome};
use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    Identity, StateDir,
    authorities::Authorities,
    certificate::{self, Subject, Validity, der},
    heartbeat_keys::HeartbeatKeys,
    trust,
};

/// A new certificate and its key wait here until both are in their files.
const RENEWED: &str = "node.renewed";
/// The key of a machine that has asked to be let in.
const JOINING: &str = "joining.key";

/// File of the authorities, once they were rotated.
const AUTHORITIES: &str = "authorities";

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
    /// All authorities; `None`: the one above alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorities: Option<Authorities>,
    /// Key of the authority that signs next, PEM; empty: none, or not for this machine.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub next_key: String,
}

impl Admission {
    /// In a cluster that has rotated no authority. `authority`, `own`: certificate and key, PEM.
    pub fn first(identity: Identity, authority: (String, String), own: (String, String)) -> Self {
        let ((ca_pem, ca_key), (cert_pem, key_pem)) = (authority, own);
        let (authorities, next_key) = (None, String::new());
        Self { identity, ca_pem, ca_key, cert_pem, key_pem, authorities, next_key }
    }

    /// The authorities.
    pub fn authorities(&self) -> Authorities {
        self.authorities.clone().unwrap_or_else(|| Authorities::first(self.ca_pem.clone()))
    }

    /// From then on with these keys.
    pub fn with(self, keys: &Keys) -> Self {
        Self {
            ca_pem: keys.ca_pem().to_owned(),
            ca_key: keys.ca_key.clone(),
            cert_pem: keys.cert_pem.clone(),
            key_pem: keys.key_pem.clone(),
            authorities: keys.rotated(),
            next_key: keys.next_key.clone(),
            ..self
        }
    }
}

/// Keys and certificates at one moment, and what TLS makes of them.
pub struct Keys {
    /// The authorities: one that signs, and others that are believed.
    pub authorities: Authorities,
    /// Key of the authority that signs, PEM; empty: it may not be used here.
    pub ca_key: String,
    /// Key of the one that signs next, PEM; empty: none, or it may not be used here.
    pub next_key: String,
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
    fn of(
        authorities: Authorities,
        (ca_key, next_key): (String, String),
        (cert_pem, key_pem): (String, String),
    ) -> Outcome<Self> {
        let server = trust::server(&authorities, &cert_pem, &key_pem)?;
        let api = trust::api_server(&authorities, &cert_pem, &key_pem)?;
        let validity = Validity::of(&der(&cert_pem)).unwrap_or(Validity { from: 0, until: 0 });
        Ok(Self { authorities, ca_key, next_key, cert_pem, key_pem, validity, server, api })
    }

    /// Certificate of the authority that signs, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.authorities.signing
    }

    /// The authorities, if they were ever rotated.
    pub fn rotated(&self) -> Option<Authorities> {
        (self.authorities.order.version > 0).then(|| self.authorities.clone())
    }

    /// The authority as it signs; `None`: its key is not here.
    pub fn authority<'a>(&'a self, cluster: &'a str) -> Option<certificate::Authority<'a>> {
        let is_here = !self.ca_key.is_empty();
        is_here.then_some(certificate::Authority { cluster, ca_key: &self.ca_key })
    }

    fn signer_keys(&self) -> (String, String) {
        (self.ca_key.clone(), self.next_key.clone())
    }
}

/// Writes credentials to where another machine finds them.
type Elsewhere = Box<dyn Fn(&Admission) -> Outcome<()> + Send + Sync>;

/// Who this machine is, and its keys as they are now.
pub struct Credentials {
    /// The machine's identity.
    pub identity: Identity,
    keys: RwLock<Arc<Keys>>,
    pub(super) heartbeat: Mutex<HeartbeatKeys>,
    /// One change of the keys at a time.
    changing: Mutex<()>,
    /// Tells that the authorities have changed.
    changed: watch::Sender<()>,
    /// Where they are kept besides: the voter of a quorum disk runs on several hosts.
    elsewhere: OnceLock<Elsewhere>,
}

impl Credentials {
    /// What a machine needs to have these, its own key included.
    pub fn given(&self) -> Admission {
        let none = || (String::new(), String::new());
        let beat_key = self.heartbeat_keys().sending;
        let identity = Identity { beat_key, ..self.identity.clone() };
        Admission::first(identity, none(), none()).with(&self.keys())
    }

    /// Those that a machine was given; `key_pem`: the key that it has made, if it has.
    pub fn of(admission: Admission, key_pem: Option<String>) -> Outcome<Self> {
        let authorities = admission.authorities();
        let Admission { identity, ca_key, next_key, cert_pem, key_pem: given, .. } = admission;
        let own = (cert_pem, key_pem.unwrap_or(given));
        let keys = RwLock::new(Arc::new(Keys::of(authorities, (ca_key, next_key), own)?));
        let heartbeat = Mutex::new(HeartbeatKeys::first(&identity));
        let (changed, _) = watch::channel(());
        let (changing, elsewhere) = (Mutex::new(()), OnceLock::new());
        Ok(Self { identity, keys, heartbeat, changing, changed, elsewhere })
    }

    /// The keys now. Whoever needs them later asks again.
    pub fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes whenever the authorities do.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// From now on the keys are written there, too, before they count.
    pub fn keep_elsewhere(&self, elsewhere: Elsewhere) {
        let _ = self.elsewhere.set(elsewhere);
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
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.keys();
        if !now.authorities.has_signed(cert_pem) {
            let what = "the new certificate was not taken";
            return Err(Failure::new(Kind::Changed, what, "another authority has signed it"));
        }
        let own = (cert_pem.to_owned(), key_pem.to_owned());
        self.put(home, Keys::of(now.authorities.clone(), now.signer_keys(), own)?)
    }

    /// From now on these authorities count; `signers`: the keys of the one that signs and of the
    /// next one, as far as this machine may have them; `own`: its certificate and key from now on.
    /// An error: they do not follow those that it has, and nothing has changed.
    pub fn put_authorities(
        &self,
        home: &StateDir,
        next: &Authorities,
        signers: (String, String),
        own: (String, String),
    ) -> Outcome<()> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let refuse = |why: &str| Failure::new(Kind::Changed, "the authorities were not taken", why);
        next.must_follow(&self.keys().authorities)?;
        if !next.has_signed(&own.0) {
            return Err(refuse("another authority has signed the certificate of this machine"));
        }
        let fits = |key: &str, pem: &str| certificate::is_key_of(key, pem);
        let signers = if self.admits_nobody() { Default::default() } else { signers };
        let has_keys = fits(&signers.0, &next.signing)
            && (next.next.is_empty() || fits(&signers.1, &next.next));
        if !self.admits_nobody() && !has_keys {
            return Err(refuse("the key of an authority is missing, and a director needs it"));
        }
        self.put(home, Keys::of(next.clone(), signers, own)?)?;
        self.changed.send_replace(());
        Ok(())
    }

    /// Called by who holds `changing`.
    fn put(&self, home: &StateDir, keys: Keys) -> Outcome<()> {
        if let Some(elsewhere) = self.elsewhere.get() {
            elsewhere(&self.given().with(&keys))?;
        }
        home.put_renewed(&keys)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        Ok(())
    }

    /// Forgets the authority's key where it may not be used; whether it was there.
    pub fn drop_ca_key(&self, home: &StateDir) -> Outcome<bool> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.keys();
        if !self.admits_nobody() || now.ca_key.is_empty() {
            return Ok(false);
        }
        // Builds before this one want the file: a machine that goes back to one must start.
        home.write("ca.key", "")?;
        let own = (now.cert_pem.clone(), now.key_pem.clone());
        let keys = Keys::of(now.authorities.clone(), Default::default(), own)?;
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
        let first = Admission::first(
            self.identity()?,
            (self.read("ca.pem")?, ca_key),
            (self.read("node.pem")?, self.read("node.key")?),
        );
        let rotated = self.rotated(&first.ca_pem)?;
        let (authorities, next_key) = rotated.map(|r| (r.authorities, r.next_key)).unzip();
        let next_key = next_key.unwrap_or_default();
        let admission = Admission { authorities, next_key, ..first };
        let heartbeat = self.heartbeat_keys(&admission.identity)?;
        let credentials = Credentials::of(admission, None)?;
        Ok(Credentials { heartbeat: Mutex::new(heartbeat), ..credentials })
    }

    /// Keeps credentials; `identity.json` comes last: before it this machine is no member, so a
    /// disk that fills up on the way leaves no half member.
    pub fn keep(&self, credentials: &Credentials) -> Outcome<()> {
        super::make_directory(&self.0)?;
        let _ = fs::remove_file(self.file(RENEWED));
        self.forget_heartbeat_keys();
        self.write_keys(&Renewed::of(&credentials.keys()))?;
        let text = serde_json::to_string_pretty(&credentials.identity).expect("plain data");
        self.write("identity.json", &text)
    }

    /// The authorities that this machine believes; nothing is changed on disk.
    pub fn authorities(&self) -> Outcome<Authorities> {
        let ca_pem = self.read("ca.pem")?;
        let rotated = self.rotated(&ca_pem)?.map(|rotated| rotated.authorities);
        Ok(rotated.unwrap_or_else(|| Authorities::first(ca_pem)))
    }

    /// What a rotation of the authorities has left; `None`: there was none, or it was another
    /// cluster's.
    fn rotated(&self, ca_pem: &str) -> Outcome<Option<Rotated>> {
        if !self.file(AUTHORITIES).exists() {
            return Ok(None);
        }
        let rotated: Rotated = serde_json::from_str(&self.read(AUTHORITIES)?).map_err(|e| {
            // The reason may not name what is in the file.
            let why = format!("line {}, column {}", e.line(), e.column());
            Failure::new(Kind::Io, format!("{AUTHORITIES} is damaged"), why).next(format!(
                "remove {}; other members give what was in it",
                self.file(AUTHORITIES).display()
            ))
        })?;
        // A build that knows no such file leaves it when the machine joins another cluster.
        Ok((rotated.authorities.signing == ca_pem).then_some(rotated))
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

    /// Writes new keys: all, or none, also if the machine stops between.
    fn put_renewed(&self, keys: &Keys) -> Outcome<()> {
        self.write(RENEWED, &serde_json::to_string(&Renewed::of(keys)).expect("plain data"))?;
        self.finish_renewal()
    }

    fn finish_renewal(&self) -> Outcome<()> {
        if !self.file(RENEWED).exists() {
            return Ok(());
        }
        let text = self.read(RENEWED)?;
        let all: Renewed = serde_json::from_str(&text).map_err(|e| {
            Failure::new(Kind::Io, format!("{RENEWED} is damaged"), e)
                .next(format!("remove {}", self.file(RENEWED).display()))
        })?;
        self.write_keys(&all)?;
        fs::remove_file(self.file(RENEWED))
            .map_err(|e| super::disk(format!("cannot remove {RENEWED}"), e))
    }

    fn write_keys(&self, all: &Renewed) -> Outcome<()> {
        if let Some(Authority { ca_pem, ca_key, rotated }) = &all.authority {
            match rotated {
                Some(rotated) => {
                    let text = serde_json::to_string(rotated).expect("plain data");
                    self.write(AUTHORITIES, &text)?;
                }
                None => self.forget_authorities(),
            }
            self.write("ca.pem", ca_pem)?;
            self.write("ca.key", ca_key)?;
        }
        self.write("node.key", &all.key_pem)?;
        self.write("node.pem", &all.cert_pem)
    }

    /// Forgets what a rotation of the authorities has left.
    pub(super) fn forget_authorities(&self) {
        let _ = fs::remove_file(self.file(AUTHORITIES));
    }
}

/// What [`RENEWED`] has.
#[derive(Serialize, Deserialize)]
struct Renewed {
    cert_pem: String,
    key_pem: String,
    /// `None`: a build that rotates none wrote it.
    #[serde(default)]
    authority: Option<Authority>,
}

/// What it has of the authorities.
#[derive(Serialize, Deserialize)]
struct Authority {
    ca_pem: String,
    ca_key: String,
    rotated: Option<Rotated>,
}

/// What [`AUTHORITIES`] has.
#[derive(Serialize, Deserialize)]
struct Rotated {
    authorities: Authorities,
    next_key: String,
}

impl Renewed {
    fn of(keys: &Keys) -> Self {
        let (ca_pem, ca_key) = (keys.ca_pem().to_owned(), keys.ca_key.clone());
        let next_key = keys.next_key.clone();
        let rotated = keys.rotated().map(|authorities| Rotated { authorities, next_key });
        let authority = Some(Authority { ca_pem, ca_key, rotated });
        Self { cert_pem: keys.cert_pem.clone(), key_pem: keys.key_pem.clone(), authority }
    }
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
        let both = Renewed { cert_pem: cert.clone(), key_pem: key.clone(), authority: None };
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
