//! Rotations of the authority between members on real TLS, and what goes wrong with them.

use nines_api::failure::Outcome;

use super::*;
use crate::{
    identity::authorities::{Phase, name_of},
    transport::peer_port::{authorities::Standing, renewal},
};

/// A member beside lb1. It knows of the log what lb1 knows.
struct Other {
    credentials: Arc<Credentials>,
    home: StateDir,
    core: CoreHandle,
    /// Where it listens once it is up.
    at: SocketAddr,
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.home.0);
    }
}

impl Other {
    /// Joins; nobody listens there yet.
    async fn joins(lb1: &Director, name: &str, admits: Admits) -> Self {
        let code = lb1.home.new_code(admits, "", 3_600, now_s()).unwrap().0;
        Self::joins_by(lb1, name, admits, &code).await.unwrap()
    }

    async fn joins_by(lb1: &Director, name: &str, admits: Admits, code: &str) -> Outcome<Self> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = free.local_addr().unwrap();
        let (secret, fingerprint) = identity::read_code(code).unwrap();
        let request = JoinRequest {
            secret,
            addresses: vec![at.ip()],
            port: at.port(),
            ..lb1.request(name, admits)
        };
        let key = certificate::new_key().unwrap();
        let joined = join(lb1.at, fingerprint, &request, &key, || Ok(())).await?;
        let home = home(&format!("{}-{name}", lb1.at.port()));
        home.keep(&joined).unwrap();
        let (credentials, core) = (Arc::new(joined), lb1.core.clone());
        Ok(Self { credentials, home, core, at })
    }

    fn secrets(&self) -> Secrets {
        Secrets {
            core: self.core.clone(),
            credentials: Arc::clone(&self.credentials),
            home: self.home.clone(),
            log: Logger::stderr(),
            follows: Arc::default(),
            rotation: Arc::default(),
        }
    }

    /// Is up from now on.
    async fn starts(&self) {
        let listener = TcpListener::bind(self.at).await.unwrap();
        let counters: CountersAnswer = Box::new(|| Box::pin(async { b"counts".to_vec() }));
        let port = PeerPort::new(self.secrets(), Arc::default(), None, counters);
        tokio::spawn(serve(listener, port, Shares::of(256)));
    }

    fn authority(&self) -> String {
        name_of(self.credentials.keys().ca_pem())
    }

    async fn catches_up(&self, lb1: &Director) -> Outcome<()> {
        renewal::catch_up(&self.credentials, &self.home, vec![lb1.peer()]).await
    }
}

impl Director {
    fn authority(&self) -> String {
        name_of(self.credentials.keys().ca_pem())
    }

    fn phase(&self) -> Phase {
        self.credentials.keys().authorities.phase()
    }

    async fn rotates(&self) -> Standing {
        self.listens_where_it_is_found().await;
        self.secrets().rotate_authority().await.unwrap()
    }

    /// By the log lb1 is at an address of the config; others look for it there.
    async fn listens_where_it_is_found(&self) {
        let command = Command {
            kind: Some(command::Kind::Join(identity::member(&self.peer(), false))),
            ..Command::default()
        };
        let Some(command::Kind::Join(member)) = command.kind else { unreachable!() };
        let member = nines_core::wire::Member { feature_level: FEATURE_LEVEL, ..member };
        let kind = Some(command::Kind::Join(member));
        self.core.propose(Command { kind, ..Command::default() }).await.unwrap();
    }

    async fn removes(&self, name: &str) {
        let act = Act {
            verb: AdminCommand::Remove.code().into(),
            subjects: vec![name.into()],
            reason: String::new(),
            until_ms: 0,
        };
        let kind = Some(command::Kind::Act(act));
        self.core.propose(Command { kind, ..Command::default() }).await.unwrap();
        let name = name.to_owned();
        loop {
            let asked = name.clone();
            let is = self.core.inspect(move |node, _| node.state().member(&asked).is_some()).await;
            if is == Some(false) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A real server asks for its duty.
    async fn is_asked_by(&self, server: &Other) -> bool {
        let question = real_servers::Question {
            name: server.credentials.identity.me.name.clone(),
            authorities: Some(server.credentials.keys().authorities.order),
            ..real_servers::Question::default()
        };
        let question = serde_json::to_vec(&question).unwrap();
        let Ok(mut line) = open(&server.credentials, NodeId(1), self.at).await else {
            return false;
        };
        ask(&mut line, kind::DUTY, &question).await.is_some()
    }
}

#[test]
fn all_get_certificates_of_a_new_authority_and_only_directors_its_key() {
    run(async {
        let lb1 = director("ca-rotates").await;
        let (lb2, wit1) = (
            Other::joins(&lb1, "lb2", Admits::Director).await,
            Other::joins(&lb1, "wit1", Admits::Witness).await,
        );
        lb2.starts().await;
        wit1.starts().await;
        let before = lb1.authority();
        // What a thief has: all that wit1 had.
        let thief = Credentials::of(wit1.credentials.given(), None).unwrap();
        let mut line = connect(&thief, NodeId(1), lb1.at).await.unwrap();
        assert!(ask(&mut line, kind::QUESTION, b"").await.is_some());
        let done = lb1.rotates().await;
        assert!(done.ended && done.lacking().is_empty(), "{done:?}");
        assert_eq!(done.have, ["lb1", "lb2", "wit1"]);
        assert_ne!(done.authority, before);
        for (own, signs) in
            [(&lb1.credentials, true), (&lb2.credentials, true), (&wit1.credentials, false)]
        {
            let keys = own.keys();
            assert_eq!(name_of(keys.ca_pem()), done.authority);
            assert!(!keys.authorities.is_rotating() && keys.next_key.is_empty());
            assert!(keys.authorities.has_signed(&keys.cert_pem));
            assert_eq!(!keys.ca_key.is_empty(), signs);
            assert!(keys.ca_key.is_empty() || certificate::is_key_of(&keys.ca_key, keys.ca_pem()));
        }
        assert_eq!(wit1.home.read("ca.key").unwrap(), "");
        for own in [&lb2, &wit1] {
            assert!(lb1.answers(&own.credentials).await.is_some());
            // Also after a restart, and by the files that builds before this one read.
            let kept = own.home.credentials().unwrap();
            assert!(lb1.answers(&kept).await.is_some());
            assert_eq!(name_of(&own.home.read("ca.pem").unwrap()), done.authority);
        }
        assert!(get(&mut line, FRAME_MAX).await.is_err(), "its line ends by itself");
        assert_eq!(lb1.answers(&thief).await, None, "the old authority is forgotten");
        // lb2 lets machines in by the new one.
        let code = lb2.home.new_code(Admits::Witness, "", 3_600, now_s()).unwrap().0;
        assert_eq!(identity::read_code(&code).unwrap().1, lb1.fingerprint());
    });
}

#[test]
fn a_member_that_was_off_comes_back_and_until_then_the_old_authority_is_believed() {
    run(async {
        let lb1 = director("ca-off").await;
        let lb2 = Other::joins(&lb1, "lb2", Admits::Director).await;
        let wit1 = Other::joins(&lb1, "wit1", Admits::Witness).await;
        let [early, late] =
            [(); 2].map(|()| lb1.home.new_code(Admits::Witness, "", 3_600, now_s()).unwrap().0);
        let done = lb1.rotates().await;
        assert!(!done.ended && lb1.phase() == Phase::Used, "{done:?}");
        let lacking = done.lacking().join("\n");
        assert!(lacking.contains("lb2 (") && lacking.contains("wit1 ("), "{lacking}");
        // A code from before lets a machine in as long as the old one is believed.
        let wit2 = Other::joins_by(&lb1, "wit2", Admits::Witness, &early).await.unwrap();
        wit2.starts().await;
        assert_eq!(wit2.authority(), done.authority);
        // lb2 knows the old one only. It is heard, and hears the others.
        assert_ne!(lb2.authority(), done.authority);
        assert!(lb1.answers(&lb2.credentials).await.is_some());
        lb2.starts().await;
        assert!(!lb1.rotates().await.ended, "wit1 is still off");
        assert_eq!(lb2.authority(), done.authority);
        assert!(lb1.answers(&lb2.credentials).await.is_some());
        // wit1 never comes back.
        lb1.removes("wit1").await;
        let done = lb1.rotates().await;
        assert!(done.ended, "{done:?}");
        assert_eq!(lb2.credentials.keys().authorities.phase(), Phase::Rest);
        assert_eq!(lb1.answers(&wit1.credentials).await, None);
        let why = Other::joins_by(&lb1, "wit3", Admits::Witness, &late).await.err().unwrap();
        assert!(why.why.contains("made before its authority was rotated"), "{why}");
        let codes = lb1.home.codes(now_s()).unwrap();
        let keys = lb1.credentials.keys();
        let mut old = codes.iter().filter(|code| code.is_outdated(keys.ca_pem()));
        assert!(old.all(|code| code.over(now_s()).is_some()), "revoked: {codes:?}");
    });
}

#[test]
fn a_rotation_that_was_interrupted_is_taken_up_and_one_asked_for_twice_is_one() {
    run(async {
        let lb1 = director("ca-again").await;
        let wit1 = Other::joins(&lb1, "wit1", Admits::Witness).await;
        let first = lb1.authority();
        // The agent was killed after its first step: wit1 knows nothing of it.
        let keys = lb1.credentials.keys();
        let (offered, next_key) = keys.authorities.offered(0, ("t", 1), &keys.ca_key).unwrap();
        let own = (keys.cert_pem.clone(), keys.key_pem.clone());
        let signers = (keys.ca_key.clone(), next_key);
        lb1.credentials.put_authorities(&lb1.home, &offered, signers, own).unwrap();
        let kept = lb1.home.credentials().unwrap();
        assert_eq!(kept.keys().authorities, offered);
        assert!(!kept.keys().next_key.is_empty(), "its key is not lost");
        wit1.starts().await;
        lb1.listens_where_it_is_found().await;
        let (one, two) = (lb1.secrets(), lb1.secrets());
        let (one, two) = tokio::join!(one.rotate_authority(), two.rotate_authority());
        let done = one.unwrap();
        assert!(done.ended && done.authority == name_of(&offered.next), "{done:?}");
        // The second one found it begun, or found it ended and began another.
        assert!(two.unwrap().ended);
        assert_eq!(wit1.authority(), lb1.authority());
        assert_ne!(lb1.authority(), first);
        let again = lb1.rotates().await;
        assert!(again.ended && again.authority != done.authority);
        assert_eq!(wit1.authority(), again.authority);
    });
}

#[test]
fn another_director_goes_on_when_the_one_that_began_is_gone() {
    run(async {
        let lb1 = director("ca-gone").await;
        let lb2 = Other::joins(&lb1, "lb2", Admits::Director).await;
        lb1.listens_where_it_is_found().await;
        // lb2 began, told lb1 of the new authority, and then made the second step and stopped.
        let keys = lb2.credentials.keys();
        let (offered, next_key) = keys.authorities.offered(0, ("t", 1), &keys.ca_key).unwrap();
        let own = (keys.cert_pem.clone(), keys.key_pem.clone());
        let signers = (keys.ca_key.clone(), next_key);
        lb2.credentials.put_authorities(&lb2.home, &offered, signers.clone(), own).unwrap();
        let own = lb1.credentials.keys();
        let own = (own.cert_pem.clone(), own.key_pem.clone());
        lb1.credentials.put_authorities(&lb1.home, &offered, signers, own).unwrap();
        let done = lb1.secrets().rotate_authority().await.unwrap();
        assert!(!done.ended && done.authority == name_of(&offered.next), "{done:?}");
        lb2.starts().await;
        assert!(lb1.secrets().rotate_authority().await.unwrap().ended);
        assert_eq!(lb2.authority(), done.authority);
    });
}

#[test]
fn a_real_server_that_asks_is_waited_for() {
    run(async {
        let lb1 = director("ca-server").await;
        let r1 = Other::joins(&lb1, "r1", Admits::Server).await;
        assert!(lb1.is_asked_by(&r1).await);
        lb1.listens_where_it_is_found().await;
        let limit = Duration::from_secs(4);
        let waits = timeout(limit, lb1.secrets().rotate_authority()).await;
        assert!(waits.is_err() && lb1.phase() == Phase::Used);
        let (standing, _) = lb1.secrets().authorities_told().await.unwrap();
        assert!(standing.lacking().join(" ").contains("real server r1"), "{standing:?}");
        assert!(lb1.is_asked_by(&r1).await, "it is believed until it has a new one");
        r1.catches_up(&lb1).await.unwrap();
        assert_eq!(r1.authority(), lb1.authority());
        assert!(r1.credentials.keys().ca_key.is_empty());
        assert!(lb1.is_asked_by(&r1).await);
        assert!(lb1.rotates().await.ended);
        // The last step changes nothing for it but whom it believes.
        assert!(lb1.is_asked_by(&r1).await);
        r1.catches_up(&lb1).await.unwrap();
        assert!(!r1.credentials.keys().authorities.is_rotating());
        let early = r1.catches_up(&lb1).await.unwrap_err();
        assert!(early.why.contains("not due"), "{early}");
    });
}

#[test]
fn witnesses_and_other_clusters_rotate_nothing() {
    run(async {
        let (lb1, foreign) = (director("ca-ours").await, director("ca-theirs").await);
        let wit1 = Other::joins(&lb1, "wit1", Admits::Witness).await;
        let stranger = Other::joins(&foreign, "wit1", Admits::Witness).await;
        let why = wit1.secrets().rotate_authority().await.err().unwrap();
        assert!(why.why.contains("no director and has no CA key"), "{why}");
        assert!(why.next.as_ref().unwrap().contains("on a director (lb1)"), "{why}");
        let before = lb1.credentials.keys();
        // That somebody has later ones makes lb1 ask directors, and no director has any.
        let mut line = connect(&wit1.credentials, NodeId(1), lb1.at).await.unwrap();
        let said = serde_json::json!({ "latest": { "version": 9, "rotation": 1 } });
        let said = serde_json::to_vec(&said).unwrap();
        let (what, bytes) = ask(&mut line, kind::AUTHORITIES, &said).await.unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(what == kind::ANSWER && !text.contains("PRIVATE"), "{text}");
        assert!(lb1.answers(&stranger.credentials).await.is_none());
        assert!(stranger.catches_up(&lb1).await.is_err());
        // Authorities of another cluster are not taken from anybody.
        foreign.rotates().await;
        let theirs = foreign.credentials.keys();
        let own = (theirs.cert_pem.clone(), theirs.key_pem.clone());
        let put = lb1.credentials.put_authorities(
            &lb1.home,
            &theirs.authorities,
            (theirs.ca_key.clone(), String::new()),
            own,
        );
        assert!(put.unwrap_err().why.contains("nothing to do"));
        assert_eq!(lb1.credentials.keys().authorities, before.authorities);
        // A director that is given no key does not take the step: nobody could go on.
        let (offered, _) = before.authorities.offered(0, ("t", 1), &before.ca_key).unwrap();
        let own = (before.cert_pem.clone(), before.key_pem.clone());
        let signers = (before.ca_key.clone(), String::new());
        let put = lb1.credentials.put_authorities(&lb1.home, &offered, signers, own);
        assert!(put.unwrap_err().why.contains("a director needs it"));
    });
}
