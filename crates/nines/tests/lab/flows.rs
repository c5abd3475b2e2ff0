//! Connections that no hash could find again, through the death of their director and back.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use super::{Net, can_run};

const CONFIG: &str = "[cluster]\nname = \"lab\"\n[nodes]\nlb1 = \"10.97.0.2\"\nlb2 = \"10.97.0.3\"\n\
    wit1 = { addresses = \"10.97.0.4\", role = \"witness\" }\n\
    [vip.outer]\naddress = \"10.97.0.100\"\nprefer = [\"lb1\"]\n\
    [vip.inner]\naddress = \"10.97.1.100\"\nprefer = [\"lb1\"]\n\
    [vip.own]\naddress = \"10.97.0.101\"\nprefer = [\"lb1\"]\n\
    [service.full]\nlisten = \"10.97.0.101:82/tcp\"\nforward = \"full-nat\"\n\
    check = \"none\"\nservers = { r1 = \"10.97.0.11:7\", r2 = \"10.97.0.12:7\" }\n\
    [service.told]\nlisten = \"10.97.0.101:83/tcp\"\nforward = \"full-nat\"\n\
    check = \"none\"\nproxy-protocol = \"v2\"\n\
    servers = { r1 = \"10.97.0.11:8\", r2 = \"10.97.0.12:8\" }\n\
    [service.pooled]\nlisten = \"10.97.0.101:84/tcp\"\nforward = \"full-nat\"\nscheduler = \"wlc\"\n\
    check = \"none\"\nsource-pool = [\"10.97.1.151\", \"10.97.1.152\"]\n\
    servers = { r1 = \"10.97.1.11:9\", r2 = \"10.97.1.12:9\" }\n\
    [service.translated]\nlisten = \"10.97.0.100:81/tcp\"\nforward = \"nat\"\nscheduler = \"rr\"\n\
    check = \"none\"\nservers = { r1 = \"10.97.1.11:7\", r2 = \"10.97.1.12:7\" }\n\
    [service.direct]\nlisten = \"10.97.0.100:7/tcp\"\nscheduler = \"lc\"\n\
    check = \"none\"\nservers = { r1 = \"10.97.1.11\", r2 = \"10.97.1.12\" }\n";

/// Connections of each kind.
const EACH: usize = 1_000;

/// Gives back what comes, on every connection, until the test ends; first come `told` bytes that
/// say who the client is.
fn echo(net: &Net, host: &str, port: u16, told: usize) {
    let serve = move || {
        let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut open: Vec<(TcpStream, usize)> = Vec::new();
        let mut buffer = [0; 64];
        loop {
            while let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true).unwrap();
                open.push((stream, told));
            }
            open.retain_mut(|(stream, told)| match stream.read(&mut buffer) {
                Ok(0) => false,
                Ok(n) => {
                    let skip = n.min(*told);
                    *told -= skip;
                    stream.write_all(&buffer[skip..n]).is_ok()
                }
                Err(e) => e.kind() == std::io::ErrorKind::WouldBlock,
            });
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    net.lab.thread(host, serve).unwrap();
}

fn open(net: &Net, to: &'static str) -> Vec<TcpStream> {
    let connect = move || {
        // One after the other has its answer: the server's backlog is short.
        let one = |_| {
            let mut stream =
                TcpStream::connect_timeout(&to.parse().unwrap(), Duration::from_secs(5))?;
            stream.write_all(&[0])?;
            stream.read_exact(&mut [0])?;
            Ok(stream)
        };
        (0..EACH).map(one).collect::<std::io::Result<Vec<_>>>()
    };
    net.lab.within("client", connect).unwrap().unwrap()
}

/// How many connections give back what they are told.
fn answering(streams: &mut [TcpStream], word: u8) -> usize {
    let told = streams.iter_mut().filter_map(|s| s.write_all(&[word]).ok().map(|()| s));
    let told: Vec<&mut TcpStream> = told.collect();
    told.into_iter()
        .filter_map(|stream| {
            stream.set_read_timeout(Some(Duration::from_secs(8))).ok()?;
            let mut answer = [0];
            stream.read_exact(&mut answer).ok()?;
            (answer[0] == word).then_some(())
        })
        .count()
}

fn hosts() -> Net {
    let net = Net::new(&[
        ("client", &[("br0", "10.97.0.1/24")]),
        ("lb1", &[("br0", "10.97.0.2/24"), ("br1", "10.97.1.2/24")]),
        ("lb2", &[("br0", "10.97.0.3/24"), ("br1", "10.97.1.3/24")]),
        ("wit1", &[("br0", "10.97.0.4/24")]),
        ("r1", &[("br1", "10.97.1.11/24"), ("br0", "10.97.0.11/24")]),
        ("r2", &[("br1", "10.97.1.12/24"), ("br0", "10.97.0.12/24")]),
    ]);
    for (host, own) in [("r1", "10.97.1.11"), ("r2", "10.97.1.12")] {
        net.ok(host, &["server", "prepare", "10.97.0.100"]);
        net.lab.ip(host, "route add table 100 default via 10.97.1.100").unwrap();
        net.lab.ip(host, &format!("rule add from {own} table 100")).unwrap();
        echo(&net, host, 7, 0);
        echo(&net, host, 8, 28);
        echo(&net, host, 9, 0);
    }
    net
}

/// Whom a server's connections are with.
fn peers(net: &Net, host: &str) -> String {
    let mut command = std::process::Command::new("ss");
    command.args(["-Htn", "state", "established"]).stdout(std::process::Stdio::piped());
    super::text(&net.lab.spawn(host, command).unwrap().wait_with_output().unwrap().stdout)
}

fn both_on(net: &Net, node: &str) -> bool {
    let status = net.status("wit1");
    status["vips"].as_array().unwrap().iter().all(|v| v["node"] == node)
        && status["vips"].as_array().unwrap().len() == 5
}

fn state_of(net: &Net, node: &str) -> String {
    let nodes = net.status("wit1")["nodes"].as_array().unwrap().clone();
    let found = nodes.into_iter().find(|n| n["name"] == node);
    found.map_or_else(String::new, |n| n["state"].as_str().unwrap_or_default().to_owned())
}

// scenario 41
#[test]
fn a_director_dies_and_comes_back_and_no_connection_is_lost() {
    if !can_run() {
        return;
    }
    let mut net = hosts();
    net.form(&["lb1", "lb2"], "wit1");
    let file = net.write("cluster.toml", CONFIG);
    net.ok("lb1", &["apply", &file]);
    net.until("lb1 serves and lb2 has its flows", |n| {
        both_on(n, "lb1") && state_of(n, "lb2") == "ready"
    });
    let mut streams = open(&net, "10.97.0.100:81");
    streams.extend(open(&net, "10.97.0.100:7"));
    // Their servers live in the client's subnet and know of no director.
    streams.extend(open(&net, "10.97.0.101:82"));
    streams.extend(open(&net, "10.97.0.101:83"));
    // In the servers' own network there are sources for them, which go where the VIP goes.
    streams.extend(open(&net, "10.97.0.101:84"));
    assert_eq!(answering(&mut streams, 1), 5 * EACH);
    for (host, source) in [("r1", "10.97.1.151:"), ("r2", "10.97.1.152:")] {
        assert!(peers(&net, host).contains(source), "{host} sees {source}");
    }
    let told = net.fails("wit1", &["move", "10.97.1.151", "--to", "lb2"], 2);
    assert!(told.contains("10.97.1.151 follows 10.97.0.101"), "{told}");

    let metrics = net.ok("lb1", &["metrics"]);
    for line in [
        "nines_service_connections_total{service=\"translated\"} 1000",
        "nines_server_connections{service=\"direct\",server=\"r1\",state=\"active\"} 500",
        "nines_flow_sync_lag_seconds{peer=\"lb2\"} 0.",
        "nines_address_held{address=\"10.97.0.100\",node=\"lb1\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }

    nines_lab::kill(net.agents.get_mut("lb1").unwrap());
    net.until("lb2 took over", |n| both_on(n, "lb2"));
    assert_eq!(answering(&mut streams, 2), 5 * EACH, "lb1 died");

    // What lb1 knew is as good as gone: a reboot.
    net.forget_kernel("lb1");
    net.start("lb1");
    net.until("lb1 has caught up", |n| state_of(n, "lb1") == "ready");
    net.ok("wit1", &["move", "outer", "--to", "lb1"]);
    net.ok("wit1", &["move", "inner", "--to", "lb1"]);
    net.ok("wit1", &["move", "own", "--to", "lb1"]);
    net.until("lb1 serves again", |n| both_on(n, "lb1"));
    assert_eq!(answering(&mut streams, 3), 5 * EACH, "failback");
}
