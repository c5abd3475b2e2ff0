//! One director with its peer port, on real TLS, and machines that come to it.

use std::net::{IpAddr, Ipv4Addr};

use nines_core::{
    Config, Event, Node,
    wire::{Act, Command, command},
};
use nines_dataplane::process::boot_time;
use nines_model::{AdminCommand, Codes as _, Incarnation};

use super::*;
use crate::{
    core_thread::{self, CoreThread, Executors, Input, Work},
    identity::{Admits, StateDir, bootstrap, certificate, now_s},
    logger::Logger,
    transport::datagram::DatagramCipher,
    watchdog::Lessor,
};

mod authorities;

/// Bound for hangs only.
const PATIENCE: Duration = Duration::from_secs(30);

/// A disk that is never behind.
struct AtOnce;

impl Executors for AtOnce {
    fn take(&mut self, work: Work) -> Option<Event> {
        match work {
            Work::Persist(number, _) if number > 0 => Some(Event::Persisted(number)),
            _ => None,
        }
    }

    fn retry(&mut self) {}
}

/// lb1, which leads a cluster of one.
struct Director {
    at: SocketAddr,
    core: CoreHandle,
    home: StateDir,
    credentials: Arc<Credentials>,
    follows: Arc<std::sync::Mutex<Option<(u64, Instant)>>>,
    rotation: Arc<Rotation>,
}

impl Drop for Director {
    fn drop(&mut self) {
        self.core.put(Input::End);
        let _ = std::fs::remove_dir_all(&self.home.0);
    }
}

fn home(name: &str) -> StateDir {
    let folder = std::env::temp_dir().join(format!("nines-port-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    StateDir(folder)
}

async fn director(name: &str) -> Director {
    let (text, log) = ("[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.2\"\n", Logger::stderr());
    let spec = nines_model::config::parse(text).unwrap();
    let (mut all, kept) = bootstrap(text, &spec, identity::PORT).unwrap();
    let (home, credentials) = (home(name), Arc::new(all.remove(0)));
    home.keep(&credentials).unwrap();
    let config = Config {
        id: NodeId(1),
        name: "lb1".into(),
        boot: Incarnation(1),
        machine_boot: 1,
        place: 1,
        seeds: vec![NodeId(1)],
    };
    let node = Node::new(config, boot_time(), &kept);
    let (poll, core, inbox) = core_thread::channel().unwrap();
    let cipher = DatagramCipher::new(b"key", 1, [1; 16]);
    let (disk, told) = (Box::new(AtOnce), Box::new(|_: &Node| ()));
    let unguarded = (None, Lessor::of_witness());
    let (none, seed) = (Vec::new(), &[]);
    let thread =
        CoreThread::new(poll, inbox, node, none, cipher, seed, unguarded, disk, told, log.clone())
            .unwrap();
    std::thread::spawn(move || thread.run());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let counters: CountersAnswer = Box::new(|| Box::pin(async { b"counts".to_vec() }));
    let revision = Arc::default();
    let (follows, rotation) = (Arc::default(), Arc::default());
    let secrets = Secrets {
        core: core.clone(),
        credentials: Arc::clone(&credentials),
        home: home.clone(),
        log,
        follows: Arc::clone(&follows),
        rotation: Arc::clone(&rotation),
    };
    let port = PeerPort::new(secrets, revision, None, counters);
    tokio::spawn(serve(listener, port, Shares::of(1_024)));
    let leads = |node: &Node, _| node.consensus().leader() == Some(NodeId(1));
    while core.inspect(leads).await != Some(true) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Director { at, core, home, credentials, follows, rotation }
}

fn run(work: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().unwrap();
    runtime.block_on(async { timeout(PATIENCE, work).await.expect("it hangs") });
}

impl Director {
    /// Gives a machine a certificate of which two thirds are over.
    fn make_due(&self, machine: &Credentials, home: &StateDir) {
        let key = certificate::new_key().unwrap();
        let request = certificate::request(&key).unwrap();
        let keys = self.credentials.keys();
        let signer = keys.authority("t").unwrap();
        let made = now_s() - 70 * 86_400;
        let cert = signer.sign(&machine.subject(), &request, made).unwrap();
        machine.renew(home, &cert, &key).unwrap();
    }

    fn fingerprint(&self) -> [u8; 10] {
        identity::fingerprint(&identity::der(self.credentials.keys().ca_pem()))
    }

    fn secrets(&self) -> Secrets {
        Secrets {
            core: self.core.clone(),
            credentials: Arc::clone(&self.credentials),
            home: self.home.clone(),
            log: Logger::stderr(),
            follows: Arc::clone(&self.follows),
            rotation: Arc::clone(&self.rotation),
        }
    }

    fn request(&self, name: &str, admits: Admits) -> JoinRequest {
        let code = self.home.new_code(admits, "", 3_600, now_s()).unwrap().0;
        JoinRequest {
            secret: identity::read_code(&code).unwrap().0,
            name: name.into(),
            addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9))],
            port: identity::PORT,
            witness: admits == Admits::Witness,
            version: env!("CARGO_PKG_VERSION").into(),
            feature_level: FEATURE_LEVEL,
            server: admits == Admits::Server,
            request: String::new(),
            floats: false,
        }
    }

    async fn joined(&self, name: &str, admits: Admits) -> (Credentials, String) {
        let (request, key) = (self.request(name, admits), certificate::new_key().unwrap());
        let joined = join(self.at, self.fingerprint(), &request, &key, || Ok(())).await;
        (joined.unwrap(), key)
    }

    /// How others find it.
    fn peer(&self) -> Peer {
        let addresses = vec![self.at.ip()];
        Peer { id: 1, name: "lb1".into(), addresses, port: self.at.port(), floats: false }
    }

    /// What it answers to a question; `None`: it ends the line.
    async fn answers(&self, credentials: &Credentials) -> Option<Vec<u8>> {
        let mut line = connect(credentials, NodeId(1), self.at).await.ok()?;
        ask(&mut line, kind::QUESTION, b"").await.map(|(_, bytes)| bytes)
    }
}

async fn ask(line: &mut TlsStream<TcpStream>, what: u8, bytes: &[u8]) -> Option<(u8, Vec<u8>)> {
    put(line, what, bytes).await.ok()?;
    get(line, FRAME_MAX).await.ok()
}

#[test]
fn a_machine_joins_with_a_key_that_it_alone_has() {
    run(async {
        let lb1 = director("joins").await;
        for (name, admits) in
            [("lb2", Admits::Director), ("wit1", Admits::Witness), ("r1", Admits::Server)]
        {
            let (joined, key) = lb1.joined(name, admits).await;
            let keys = joined.keys();
            assert_eq!(keys.key_pem, key, "{name}");
            assert_eq!(!keys.ca_key.is_empty(), admits == Admits::Director, "{name}");
        }
        // The answer was lost: the same machine asks again with its code and key.
        let (request, key) =
            (lb1.request("lb3", Admits::Director), certificate::new_key().unwrap());
        for _ in 0..2 {
            join(lb1.at, lb1.fingerprint(), &request, &key, || Ok(())).await.unwrap();
        }
        let other = certificate::new_key().unwrap();
        let again = join(lb1.at, lb1.fingerprint(), &request, &other, || Ok(())).await;
        let why = again.err().unwrap().to_string();
        assert!(why.contains("used by lb3"), "{why}");
        // A name that is not the member's, and is one to certificates.
        let request = lb1.request("LB3", Admits::Director);
        let taken = join(lb1.at, lb1.fingerprint(), &request, &other, || Ok(())).await;
        let why = taken.err().unwrap().to_string();
        assert!(why.contains("LB3") && why.contains("the member lb3"), "{why}");
        let living = lb1.home.codes(now_s()).unwrap();
        assert_eq!(living.last().unwrap().used_by, "", "who is not let in uses no code");
    });
}

#[test]
fn an_older_machine_joins_by_a_new_member() {
    run(async {
        let lb1 = director("older-joins").await;
        let mut config = trust::joining_client(lb1.fingerprint());
        config.alpn_protocols = Vec::new();
        for (name, admits, what) in [
            ("lb2", Admits::Director, kind::JOIN),
            ("wit1", Admits::Witness, kind::JOIN),
            ("r1", Admits::Server, kind::JOIN_SERVER),
        ] {
            let stream = TcpStream::connect(lb1.at).await.unwrap();
            let server = rustls_pki_types::ServerName::IpAddress(lb1.at.ip().into());
            let connector = TlsConnector::from(Arc::new(config.clone()));
            let mut line = connector.connect(server, stream).await.unwrap();
            let request = lb1.request(name, admits);
            // What the build before writes: it knows neither of these.
            let mut request = serde_json::to_value(&request).unwrap();
            let fields = request.as_object_mut().unwrap();
            fields.remove("server");
            fields.remove("request");
            let request = serde_json::to_vec(&request).unwrap();
            let (answer, bytes) = ask(&mut line, what, &request).await.unwrap();
            assert_eq!(answer, kind::PAPERS, "{}", String::from_utf8_lossy(&bytes));
            let given: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert!(given["key_pem"].as_str().unwrap().contains("PRIVATE KEY"), "{name}");
            let has_ca_key = given["ca_key"].as_str().unwrap().contains("PRIVATE KEY");
            assert_eq!(has_ca_key, admits == Admits::Director, "{name}");
            assert_eq!(given["identity"]["server"], admits == Admits::Server);
        }
    });
}

#[test]
fn a_new_machine_joins_by_an_older_member() {
    run(async {
        let lb1 = director("joins-older").await;
        let mut config = (*lb1.credentials.keys().server).clone();
        config.alpn_protocols = Vec::new();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let credentials = Arc::clone(&lb1.credentials);
        let older = tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            let mut line = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            let (what, bytes) = get(&mut line, STRANGER_MAX).await.unwrap();
            let asked: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            let peer = Peer {
                id: 2,
                name: "lb2".into(),
                addresses: Vec::new(),
                port: 9119,
                floats: false,
            };
            let given = identity::admit(&credentials, Vec::new(), peer, Admits::Director, "");
            let given = serde_json::to_vec(&given.unwrap()).unwrap();
            put(&mut line, kind::PAPERS, &given).await.unwrap();
            (what, asked["request"].as_str().unwrap().to_owned())
        });
        let (request, key) =
            (lb1.request("lb2", Admits::Director), certificate::new_key().unwrap());
        let joined = join(at, lb1.fingerprint(), &request, &key, || Ok(())).await.unwrap();
        assert_eq!(older.await.unwrap(), (kind::JOIN, String::new()));
        assert_ne!(joined.keys().key_pem, key, "it was given one");
        // Its certificate is as good as any other.
        lb1.joined("lb2", Admits::Director).await;
        assert_eq!(lb1.answers(&joined).await.as_deref(), Some(&b"counts"[..]));
    });
}

#[test]
fn a_certificate_is_renewed_without_a_restart_and_no_line_ends() {
    run(async {
        let lb1 = director("renews").await;
        let (wit1, _) = lb1.joined("wit1", Admits::Witness).await;
        let own = home("renews-wit1");
        let mut line = connect(&wit1, NodeId(1), lb1.at).await.unwrap();
        assert!(ask(&mut line, kind::QUESTION, b"").await.is_some());
        let early = renewal::renew(&wit1, &own, vec![lb1.peer()]).await.unwrap_err();
        assert!(early.to_string().contains("not due"), "{early}");
        lb1.make_due(&wit1, &own);
        let mut line = connect(&wit1, NodeId(1), lb1.at).await.unwrap();
        let before = wit1.keys();
        renewal::renew(&wit1, &own, vec![lb1.peer()]).await.unwrap();
        assert_ne!(before.cert_pem, wit1.keys().cert_pem);
        assert_ne!(before.key_pem, wit1.keys().key_pem);
        assert_eq!(own.read("node.key").unwrap(), wit1.keys().key_pem);
        assert!(ask(&mut line, kind::QUESTION, b"").await.is_some(), "the line goes on");
        assert!(lb1.answers(&wit1).await.is_some());
        // The director shows its new one to who comes next, and the line still goes on.
        let (key, keys) = (certificate::new_key().unwrap(), lb1.credentials.keys());
        let request = certificate::request(&key).unwrap();
        let signer = keys.authority("t").unwrap();
        let cert = signer.sign(&lb1.credentials.subject(), &request, now_s()).unwrap();
        lb1.credentials.renew(&lb1.home, &cert, &key).unwrap();
        let next = open(&wit1, NodeId(1), lb1.at).await.unwrap();
        let shown = next.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        assert_eq!(shown, identity::der(&cert));
        assert!(ask(&mut line, kind::QUESTION, b"").await.is_some());
        std::fs::remove_dir_all(&own.0).unwrap();
    });
}

#[test]
fn who_was_off_until_its_certificate_ended_gets_another_and_nothing_else() {
    run(async {
        let lb1 = director("ended").await;
        let (wit1, key) = lb1.joined("wit1", Admits::Witness).await;
        let keys = lb1.credentials.keys();
        let request = certificate::request(&key).unwrap();
        let signer = keys.authority("t").unwrap();
        let long_ago = now_s() - 100 * 86_400;
        let cert = signer.sign(&wit1.subject(), &request, long_ago).unwrap();
        let own = home("ended-wit1");
        wit1.renew(&own, &cert, &key).unwrap();
        let told = renewal::trouble(wit1.keys().validity, now_s());
        assert!(told.contains("is over"), "{told}");
        assert_eq!(lb1.answers(&wit1).await, None);
        renewal::renew(&wit1, &own, vec![lb1.peer()]).await.unwrap();
        assert_eq!(renewal::trouble(wit1.keys().validity, now_s()), "");
        assert!(lb1.answers(&wit1).await.is_some());
        std::fs::remove_dir_all(&own.0).unwrap();
    });
}

#[test]
fn a_machine_gets_a_certificate_for_its_own_name_and_number_only() {
    run(async {
        let lb1 = director("own-name").await;
        let (wit1, _) = lb1.joined("wit1", Admits::Witness).await;
        let (r1, _) = lb1.joined("r1", Admits::Server).await;
        let own = home("own-name-wit1");
        lb1.make_due(&wit1, &own);
        lb1.make_due(&r1, &own);
        std::fs::remove_dir_all(&own.0).unwrap();
        let key = certificate::new_key().unwrap();
        let request = certificate::request(&key).unwrap();
        let renew = |name: &str| {
            serde_json::to_vec(&serde_json::json!({ "name": name, "request": request })).unwrap()
        };
        for (name, answer) in [("lb1", kind::REFUSED), ("r2", kind::REFUSED), ("r1", kind::ANSWER)]
        {
            let mut line = open(&r1, NodeId(1), lb1.at).await.unwrap();
            let said = ask(&mut line, kind::RENEW, &renew(name)).await.unwrap();
            assert_eq!(said.0, answer, "r1 as {name}");
        }
        for (name, answer) in [("lb1", kind::REFUSED), ("wit1", kind::ANSWER)] {
            let mut line = connect(&wit1, NodeId(1), lb1.at).await.unwrap();
            let said = ask(&mut line, kind::RENEW, &renew(name)).await.unwrap();
            assert_eq!(said.0, answer, "wit1 as {name}");
        }
        // A stranger has no certificate to show.
        let config = Arc::new(trust::joining_client(lb1.fingerprint()));
        let stream = TcpStream::connect(lb1.at).await.unwrap();
        let server = rustls_pki_types::ServerName::IpAddress(lb1.at.ip().into());
        let mut line = TlsConnector::from(config).connect(server, stream).await.unwrap();
        assert_eq!(ask(&mut line, kind::RENEW, &renew("r1")).await, None);
    });
}

#[test]
fn a_member_that_was_removed_is_not_heard_and_its_lines_end() {
    run(async {
        let lb1 = director("removed").await;
        let (wit1, _) = lb1.joined("wit1", Admits::Witness).await;
        let mut line = connect(&wit1, NodeId(1), lb1.at).await.unwrap();
        assert!(ask(&mut line, kind::QUESTION, b"").await.is_some());
        let act = Act {
            verb: AdminCommand::Remove.code().into(),
            subjects: vec!["wit1".into()],
            reason: String::new(),
            until_ms: 0,
        };
        let remove = Command { kind: Some(command::Kind::Act(act)), ..Command::default() };
        lb1.core.propose(remove).await.unwrap();
        assert!(get(&mut line, FRAME_MAX).await.is_err(), "the line ends by itself");
        assert_eq!(lb1.answers(&wit1).await, None, "its certificate counts no more");
        // Another machine under its name has another number, and is heard.
        let (second, _) = lb1.joined("wit1", Admits::Witness).await;
        assert!(second.identity.me.id > wit1.identity.me.id);
        assert!(lb1.answers(&second).await.is_some());
        assert_eq!(lb1.answers(&wit1).await, None);
    });
}

#[test]
fn a_member_without_the_key_of_the_authority_names_those_that_have_it() {
    run(async {
        let lb1 = director("keyless").await;
        let (wit1, _) = lb1.joined("wit1", Admits::Witness).await;
        let door = Door {
            core: lb1.core.clone(),
            home: lb1.home.clone(),
            credentials: Arc::new(wit1),
            guesses: Guesses::default(),
            rotation: Arc::default(),
            log: Logger::stderr(),
        };
        let request = lb1.request("lb3", Admits::Director);
        let refused = admit(&door, Some(request), lb1.at.ip()).await.err().unwrap();
        assert_eq!(
            refused.why,
            "wit1 has no CA key and lets no machine in; join by lb1 (10.0.0.2), with a code made \
             there"
        );
    });
}

#[test]
fn a_rotation_leaves_no_old_key_and_a_newcomer_gets_the_new_one() {
    run(async {
        let lb1 = director("rotates").await;
        let secrets = lb1.secrets();
        let before = lb1.credentials.heartbeat_keys();
        let rotated = secrets.rotate().await.unwrap();
        let after = lb1.credentials.heartbeat_keys();
        assert_eq!((rotated.key, rotated.have.as_slice()), (after.name(), &["lb1".into()][..]));
        assert!(before.sending != after.sending && !after.is_rotating());
        let kept = lb1.home.credentials().unwrap();
        assert!(kept.heartbeat_keys() == after, "also after a restart");
        for file in ["identity.json", "heartbeat-keys"] {
            assert!(!lb1.home.read(file).unwrap().contains(&before.sending), "{file}");
        }
        let (wit1, _) = lb1.joined("wit1", Admits::Witness).await;
        assert_eq!(wit1.identity.beat_key, after.sending);
        let (r1, _) = lb1.joined("r1", Admits::Server).await;
        assert_eq!(r1.identity.beat_key, "");
        // It joined, and is not heard yet: it gets the next key when it comes.
        let again = secrets.rotate().await.unwrap();
        assert_eq!(again.later, ["wit1"]);
    });
}

/// What a member says to the director about keys; what comes back.
async fn say_keys(lb1: &Director, by: &Credentials, put: &serde_json::Value) -> (u8, String) {
    let mut line = connect(by, NodeId(1), lb1.at).await.unwrap();
    let said = serde_json::to_vec(&serde_json::json!({ "put": put })).unwrap();
    let (what, bytes) = ask(&mut line, kind::HEARTBEAT_KEYS, &said).await.unwrap();
    (what, String::from_utf8_lossy(&bytes).into_owned())
}

#[test]
fn keys_are_told_by_directors_one_rotation_at_a_time() {
    run(async {
        let lb1 = director("tells-keys").await;
        let (lb2, _) = lb1.joined("lb2", Admits::Director).await;
        let (wit1, _) = lb1.joined("wit1", Admits::Witness).await;
        let now = lb1.credentials.heartbeat_keys();
        let (offered, _) = now.offered([]);
        let (other, _) = now.offered([]);
        let json = |keys: &crate::identity::HeartbeatKeys| serde_json::to_value(keys).unwrap();
        let (what, why) = say_keys(&lb1, &wit1, &json(&offered)).await;
        assert!(what == kind::REFUSED && why.contains("only directors"), "{why}");
        let (what, _) = say_keys(&lb1, &wit1, &serde_json::Value::Null).await;
        assert_eq!(what, kind::ANSWER, "who is a member may ask");
        let mut bad = json(&offered);
        bad["sending"] = "no key".into();
        assert_eq!(say_keys(&lb1, &lb2, &bad).await.0, kind::REFUSED);
        assert!(lb1.credentials.heartbeat_keys() == now);
        assert_eq!(say_keys(&lb1, &lb2, &json(&offered)).await.0, kind::ANSWER);
        assert_eq!(say_keys(&lb1, &lb2, &json(&offered)).await.0, kind::ANSWER, "again");
        let (what, why) = say_keys(&lb1, &lb2, &json(&other)).await;
        assert!(what == kind::REFUSED && why.contains("another rotation has begun"), "{why}");
        assert!(lb1.credentials.heartbeat_keys() == offered);
        let why = lb1.secrets().rotate().await.err().unwrap();
        assert!(why.why.contains("another rotation has begun"), "{why}");
    });
}
