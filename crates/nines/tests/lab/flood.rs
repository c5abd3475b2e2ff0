//! Strangers on the network send datagrams, broken frames and connections that say nothing: the
//! holder keeps its VIP, checks go on, and the agent answers.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};

use super::{Net, PATIENCE, can_run};

/// Port of heartbeats and TLS.
const PORT: u16 = 9119;

/// The same numbers in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.roll() as u8).collect()
    }

    /// Some of its bytes are others, or it ends early.
    fn mutate(&mut self, frame: &mut Vec<u8>) {
        for _ in 0..=self.roll() % 4 {
            let at = self.roll() as usize % frame.len();
            frame[at] = self.roll() as u8;
        }
        if self.roll().is_multiple_of(4) {
            frame.truncate(1 + self.roll() as usize % frame.len());
        }
    }
}

/// lb1 and lb2 with a web server behind them, a witness, and a host that is no member. Leases are
/// long, so that a busy machine is not what the test measures.
fn with_stranger(n: u8) -> Net {
    let at = |host: u8| format!("10.97.{n}.{host}/24");
    let hosts = [("lb1", 2), ("lb2", 3), ("wit1", 4), ("r1", 11), ("stranger", 66)];
    let addresses = hosts.map(|(_, host)| at(host));
    let wires: Vec<[(&str, &str); 1]> = addresses.iter().map(|a| [("br0", a.as_str())]).collect();
    let all: Vec<(&str, &[(&str, &str)])> =
        hosts.iter().zip(&wires).map(|((name, _), wire)| (*name, &wire[..])).collect();
    let mut net = Net::new(&all);
    net.web("r1", "0.0.0.0:8080");
    net.form(&["lb1", "lb2"], "wit1");
    let file = net.write(
        "cluster.toml",
        &format!(
            "[cluster]\nname = \"lab\"\n[timing]\nbeat = \"50ms\"\nlease = \"1s\"\n\
             election = \"1s\"\n[nodes]\nlb1 = \"10.97.{n}.2\"\nlb2 = \"10.97.{n}.3\"\n\
             wit1 = {{ addresses = \"10.97.{n}.4\", role = \"witness\" }}\n[service.web]\n\
             listen = \"10.97.{n}.100:80\"\nforward = \"nat\"\ncheck = {{ every = \"200ms\" }}\n\
             servers = {{ r1 = \"10.97.{n}.11:8080\" }}\n"
        ),
    );
    net.ok("lb1", &["apply", "-y", &file]);
    net.until("one holds the VIP, and the server is up", |n| {
        let status = n.status("wit1");
        status["verdict"] == "HEALTHY" && status["votes"] == 3
    });
    net
}

fn server_state(net: &Net, host: &str) -> String {
    let state = net.status(host)["services"][0]["servers"][0]["state"].clone();
    state.as_str().unwrap_or_default().to_owned()
}

/// While `attack` goes on: each node answers, the holder stays, and checks see what happens. Gives
/// the longest time that a status took.
fn serves_on(net: &mut Net, holder: &str, rounds: usize) -> Duration {
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        for host in ["lb1", "lb2", "wit1"] {
            let since = Instant::now();
            let status = net.status(host);
            longest = longest.max(since.elapsed());
            assert_eq!(status["vips"][0]["node"], holder, "round {round}: {status:#}");
            assert_eq!(status["votes"], 3, "round {round}: {status:#}");
        }
    }
    let mut web = net.agents.remove("r1-web-0.0.0.0:8080").unwrap();
    nines_lab::kill(&mut web);
    net.until("checks see that the server is down", |n| server_state(n, holder) == "DOWN");
    net.web("r1", "0.0.0.0:8080");
    net.until("and that it is up", |n| server_state(n, holder) == "up");
    assert_eq!(net.holder("wit1"), holder);
    longest
}

fn moves(net: &Net) -> usize {
    let events = net.ok("wit1", &["events", "-n", "10000"]);
    events.lines().filter(|line| line.contains("failover") || line.contains("moved")).count()
}

/// What a datagram of a member begins with, and then anything: a salt that nobody has heard.
fn like_a_beat(dice: &mut Dice, sender: u16) -> Vec<u8> {
    let mut datagram = b"N9\x02\x00".to_vec();
    datagram.extend(sender.to_be_bytes());
    datagram.extend(dice.bytes(120));
    datagram
}

/// Sends to these from one address until the end; `kinds`: ready-made datagrams.
fn flood(
    net: &Net,
    from: &str,
    to: Vec<SocketAddr>,
    kinds: Vec<Vec<u8>>,
) -> (Arc<AtomicBool>, Arc<AtomicU64>) {
    let (end, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (ended, count) = (Arc::clone(&end), Arc::clone(&sent));
    let from: SocketAddr = from.parse().unwrap();
    let work = move || {
        let socket = UdpSocket::bind(from).unwrap();
        let since = Instant::now();
        // 250,000 in a second, if the machine can.
        for n in 0.. {
            if n % 256 == 0 {
                let ahead = Duration::from_micros(n * 4).saturating_sub(since.elapsed());
                std::thread::sleep(ahead);
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                count.store(n, Ordering::Relaxed);
            }
            let _ = socket.send_to(&kinds[n as usize % kinds.len()], to[n as usize % to.len()]);
        }
    };
    net.lab.thread("stranger", work).unwrap();
    (end, sent)
}

fn dropped(net: &Net, host: &str, reason: &str) -> u64 {
    let name = format!("nines_dropped_datagrams_total{{reason=\"{reason}\"}} ");
    let metrics = net.ok(host, &["metrics"]);
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[test]
fn a_flood_of_datagrams_drowns_no_heartbeat() {
    if !can_run() {
        return;
    }
    let mut net = with_stranger(121);
    let holder = net.holder("wit1");
    let at = if holder == "lb1" { "10.97.121.2" } else { "10.97.121.3" };
    let to = vec![SocketAddr::new(at.parse::<IpAddr>().unwrap(), PORT)];
    let before = moves(&net);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let garbage: Vec<Vec<u8>> = (0..64)
        .flat_map(|n| [dice.bytes(20 + n), like_a_beat(&mut dice, 1 + n as u16 % 4)])
        .collect();
    let (end, sent) = flood(&net, "10.97.121.66:0", to.clone(), garbage);
    let longest = serves_on(&mut net, &holder, 8);
    end.store(true, Ordering::Relaxed);
    eprintln!("{} datagrams of a stranger; status in {longest:?}", sent.load(Ordering::Relaxed));
    assert!(longest < PATIENCE / 4, "{longest:?}");
    let strangers = dropped(&net, &holder, "unknown-source");
    assert!(strangers > 10_000, "{strangers}");
    // The same with the address of a member that does not hold the VIP: nobody answers ARP for it
    // at the stranger's, or it would be a fight over an address.
    let other = if holder == "lb1" { "10.97.121.3" } else { "10.97.121.2" };
    let quiet = || {
        let conf = "/proc/sys/net/ipv4/conf/all";
        std::fs::write(format!("{conf}/arp_ignore"), "1")?;
        std::fs::write(format!("{conf}/arp_announce"), "2")
    };
    net.lab.within("stranger", quiet).unwrap().unwrap();
    net.lab.ip("stranger", &format!("addr add {other}/32 dev lo")).unwrap();
    let forged = (0..4_096).map(|n| like_a_beat(&mut dice, 1 + n % 4)).collect();
    let (end, sent) = flood(&net, &format!("{other}:0"), to, forged);
    let longest = serves_on(&mut net, &holder, 8);
    end.store(true, Ordering::Relaxed);
    eprintln!("{} datagrams as a member; status in {longest:?}", sent.load(Ordering::Relaxed));
    assert!(longest < PATIENCE / 4, "{longest:?}");
    let forged = ["too-many-new", "not-authentic"].map(|why| dropped(&net, &holder, why));
    assert!(forged.iter().sum::<u64>() > 10_000, "{forged:?}");
    assert_eq!(moves(&net), before, "{}", net.ok("wit1", &["events"]));
}

/// Believes every server: what is tested is the other end.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519]
    }
}

/// For a stranger, or with the certificate of a member.
fn tls(member: Option<(&str, &str)>) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    Arc::new(match member {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![cert], key).unwrap()
        }
    })
}

fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// Says these frames over one line, and goes when the other end does not hear them any more.
fn say(config: &Arc<ClientConfig>, to: SocketAddr, frames: &[Vec<u8>]) -> std::io::Result<()> {
    let name = ServerName::try_from("lb1.nines").unwrap();
    let line = ClientConnection::new(Arc::clone(config), name).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(line, connect(to)?);
    frames.iter().try_for_each(|frame| stream.write_all(frame))?;
    stream.conn.send_close_notify();
    stream.flush()?;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    Ok(())
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as u32).to_be_bytes().to_vec();
    frame.push(kind);
    frame.extend(body);
    frame
}

/// 12,000 frames that are not what they should be: 4,000 where TLS begins, 1,000 of a stranger
/// inside TLS, 7,000 over lines with a member's certificate.
fn broken_frames(to: SocketAddr, member: (&str, &str)) {
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let name = ServerName::try_from("lb1.nines").unwrap();
    let mut hello = Vec::new();
    let mut line = ClientConnection::new(tls(None), name).unwrap();
    line.write_tls(&mut hello).unwrap();
    for _ in 0..4_000 {
        let mut broken = hello.clone();
        dice.mutate(&mut broken);
        if let Ok(mut stream) = connect(to) {
            let _ = stream.write_all(&broken);
        }
    }
    let ask =
        br#"{"secret":"x","name":"lb9","addresses":["10.0.0.9"],"port":9119,"witness":false}"#;
    let (stranger, insider) = (tls(None), tls(Some(member)));
    for n in 0..1_000 {
        let mut broken = frame([4, 11, 0, 1][n % 4], ask);
        dice.mutate(&mut broken);
        let _ = say(&stranger, to, &[broken]);
    }
    for n in 0..70 {
        // Who it is, as a member says it; then a hundred messages that are none.
        let mut frames = vec![frame(0, b"wit1")];
        frames.extend((0..100).map(|_| {
            let length = 1 + dice.roll() as usize % 400;
            frame(1, &dice.bytes(length))
        }));
        if n % 2 == 1 {
            let at = 1 + dice.roll() as usize % 100;
            dice.mutate(&mut frames[at]);
        }
        let _ = say(&insider, to, &frames);
    }
}

#[test]
fn broken_frames_and_idle_connections_keep_nobody_from_the_agent() {
    if !can_run() {
        return;
    }
    let mut net = with_stranger(122);
    let holder = net.holder("wit1");
    let at = if holder == "lb1" { "10.97.122.2" } else { "10.97.122.3" };
    let to = SocketAddr::new(at.parse::<IpAddr>().unwrap(), PORT);
    let before = moves(&net);
    let read = |name: &str| std::fs::read_to_string(net.home.join("wit1").join(name)).unwrap();
    let (cert, key) = (read("node.pem"), read("node.key"));
    let done = Arc::new(AtomicBool::new(false));
    let said = Arc::clone(&done);
    let work = move || {
        broken_frames(to, (&cert, &key));
        said.store(true, Ordering::Relaxed);
    };
    net.lab.thread("stranger", work).unwrap();
    let mut longest = serves_on(&mut net, &holder, 4);
    let limit = Instant::now() + 4 * PATIENCE;
    while !done.load(Ordering::Relaxed) {
        assert!(Instant::now() < limit, "frames are still sent");
        longest = longest.max(serves_on(&mut net, &holder, 1));
    }
    eprintln!("12,000 broken frames; status in {longest:?}");
    assert!(longest < PATIENCE / 4, "{longest:?}");
    let idle = net
        .lab
        .within("stranger", || (0..1_000).filter_map(|_| connect(to).ok()).collect::<Vec<_>>());
    let idle = idle.unwrap();
    assert_eq!(idle.len(), 1_000);
    let longest = serves_on(&mut net, &holder, 4);
    eprintln!("1,000 idle connections; status in {longest:?}");
    assert!(longest < PATIENCE / 4, "{longest:?}");
    drop(idle);
    assert_eq!(moves(&net), before, "{}", net.ok("wit1", &["events"]));
}
