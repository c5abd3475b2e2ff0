//! Servers that are told who their clients are, behind full NAT, by real stacks on both sides.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use super::{Net, can_run, packets::lone_director};

/// Bytes each way, once connected.
const LENGTH: usize = 300_000;

/// Who the header says the client is, and whom it asked; `None`: a check.
fn told(stream: &mut TcpStream) -> std::io::Result<Option<(SocketAddr, SocketAddr)>> {
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    assert_eq!(&head[..12], b"\r\n\r\n\0\r\nQUIT\n", "the signature");
    let mut rest = vec![0; usize::from(u16::from_be_bytes([head[14], head[15]]))];
    stream.read_exact(&mut rest)?;
    let port = |i: usize| u16::from_be_bytes([rest[i], rest[i + 1]]);
    Ok(match (head[12], head[13], rest.len()) {
        (0x20, 0, 0) => None,
        (0x21, 0x11, 12) => {
            let ip = |i: usize| <[u8; 4]>::try_from(&rest[i..i + 4]).unwrap();
            Some(((ip(0), port(8)).into(), (ip(4), port(10)).into()))
        }
        (0x21, 0x21, 36) => {
            let ip = |i: usize| <[u8; 16]>::try_from(&rest[i..i + 16]).unwrap();
            Some(((ip(0), port(32)).into(), (ip(16), port(34)).into()))
        }
        other => panic!("no header of ours: {other:?}"),
    })
}

/// Speaks first: who it was told asks. Then gives back what it gets.
fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let Some((client, asked)) = told(&mut stream)? else {
        stream.read_exact(&mut [0; 16])?;
        return stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
    };
    stream.write_all(format!("{client} asks {asked}\n").as_bytes())?;
    let (mut from, mut buffer) = (stream.try_clone()?, [0; 8_192]);
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n])?,
        }
    }
}

fn server(net: &Net, host: &str) {
    let listen = || {
        let listener = TcpListener::bind("[::]:8080").unwrap();
        for stream in listener.incoming().flatten() {
            std::thread::spawn(|| serve(stream));
        }
    };
    net.lab.thread(host, listen).unwrap();
}

/// A conversation: hears who the server takes it for, then says a lot and has it back.
fn talk(net: &Net, vip: &'static str) -> std::io::Result<()> {
    let work = move || {
        let vip: SocketAddr = vip.parse().unwrap();
        let mut stream = TcpStream::connect_timeout(&vip, Duration::from_secs(10))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let expected = format!("{} asks {vip}\n", stream.local_addr()?);
        let mut greeting = vec![0; expected.len()];
        stream.read_exact(&mut greeting)?;
        assert_eq!(String::from_utf8_lossy(&greeting), expected);
        let said: Vec<u8> = (0..LENGTH).map(|i| (i % 251) as u8).collect();
        let (mut out, all) = (stream.try_clone()?, said.clone());
        let says = std::thread::spawn(move || out.write_all(&all));
        let mut heard = vec![0; LENGTH];
        stream.read_exact(&mut heard)?;
        assert!(heard == said, "every byte, in order");
        says.join().unwrap()
    };
    net.lab.within("client", work).unwrap()
}

#[test]
fn servers_are_told_who_their_clients_are() {
    if !can_run() {
        return;
    }
    let mut net = Net::new(&[
        ("client", &[("br0", "10.97.0.1/24")]),
        ("lb1", &[("br0", "10.97.0.2/24")]),
        ("r1", &[("br0", "10.97.0.11/24")]),
    ]);
    net.also_v6(&[("client", 1), ("lb1", 2), ("r1", 11)]);
    server(&net, "r1");
    let service = |name: &str, listen: &str, server: &str| {
        format!(
            "[service.{name}]\nlisten = \"{listen}\"\nforward = \"full-nat\"\n\
             proxy-protocol = \"v2\"\nservers = {{ r1 = \"{server}\" }}\n\
             check = {{ http = \"/\", every = \"100ms\", rise = 1, fall = 10 }}\n"
        )
    };
    let four = service("four", "10.97.0.100:80", "10.97.0.11:8080");
    let six = service("six", "[2001:db8::100]:80", "[2001:db8::11]:8080");
    lone_director(&mut net, &(four + &six));
    // Their checks speak the language of a server that expects the header.
    net.until("both are up", |n| {
        n.status("lb1")["services"].as_array().unwrap().iter().all(|s| s["up"] == 1)
    });
    for vip in ["10.97.0.100:80", "[2001:db8::100]:80"] {
        net.until("it answers", |n| talk(n, vip).is_ok());
        talk(&net, vip).unwrap();
    }
    // Every eleventh packet is lost, of each side by turns: handshakes, headers, data. Checks too:
    // it takes many of them in a row to call a server dead.
    for (host, vip) in
        [("client", "10.97.0.100:80"), ("r1", "10.97.0.100:80"), ("lb1", "[2001:db8::100]:80")]
    {
        net.lab.lose(host, 11).unwrap();
        for _ in 0..6 {
            talk(&net, vip).unwrap();
        }
        net.lab.pass_again(host).unwrap();
    }
}
