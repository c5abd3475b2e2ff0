//! A service whose servers are all gone: real clients hear so at once, and do not wait.

use std::{
    io::{ErrorKind, Result},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use super::{
    Net, can_run,
    packets::{get, lone_director, routed},
};

/// What a try fails with; `None`: somebody serves.
fn tried(net: &Net, udp: bool, to: SocketAddr) -> Option<ErrorKind> {
    let ask = move || -> Result<()> {
        if !udp {
            return TcpStream::connect_timeout(&to, Duration::from_secs(5)).map(drop);
        }
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.send(b"?")?;
        socket.recv(&mut [0; 9]).map(drop)
    };
    net.lab.within("client", ask).unwrap().err().map(|e| e.kind())
}

#[test]
fn clients_hear_that_nobody_serves() {
    if !can_run() {
        return;
    }
    let mut net = routed();
    net.web("r1", "[::]:8080");
    let service = |name: &str, listen: &str, server: &str| {
        format!(
            "[service.{name}]\nlisten = \"{listen}\"\nforward = \"nat\"\n\
             servers = {{ r = \"{server}\" }}\n\
             check = {{ port = 9, every = \"100ms\", timeout = \"100ms\", fall = 1 }}\n"
        )
    };
    let all = [
        service("web", "10.97.0.100:80", "10.97.1.11:8080"),
        service("six", "[2001:db8::100]:80", "[2001:db8:1::11]:8080"),
        service("dns", "10.97.0.100:53/udp", "10.97.1.11:5353"),
    ];
    lone_director(&mut net, &all.concat());
    for (udp, to) in
        [(false, "10.97.0.100:80"), (false, "[2001:db8::100]:80"), (true, "10.97.0.100:53")]
    {
        let to: SocketAddr = to.parse().unwrap();
        net.until(&format!("{to} is refused"), |n| {
            tried(n, udp, to) == Some(ErrorKind::ConnectionRefused)
        });
    }
    assert!(net.status("lb1")["drops"]["no-server"].as_u64().unwrap() >= 3);
    // Its check is answered from now on.
    net.web("r1", "[::]:9");
    net.until("it serves", |n| get(n, "client", "10.97.0.100:80").as_deref() == Some("r1"));
}
