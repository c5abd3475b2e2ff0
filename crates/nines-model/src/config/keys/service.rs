//! The keys of a service, of its servers and of their checks.

use super::{Key, Shape, key, must};
use crate::{Forward, Scheduler, SchedulerFlags};

/// Keys of a section `[service.NAME]`.
pub const SERVICE: &[Key] = &[
    must(
        "listen",
        Shape::Text("`address:port/protocol`; the protocol is `tcp` (the default), `udp` or `sctp`"),
        "VIP, ports and protocol of the service. The port may be a range (`8000-8999`), or `*` for \
         every port that no other service has. The address may be a network of at most 32 \
         addresses (`10.0.0.96/28`), each of which is a VIP.",
    )
    .like("listen = \"10.0.0.100:80/tcp\""),
    key(
        "mark",
        Shape::Number(1, u32::MAX),
        "Mark that nftables, iptables or tc sets. The service takes the packets with this mark, \
         whatever port and protocol they are for. `listen` then has the port `*`.",
    )
    .means("the service takes the packets to its VIP and ports")
    .like("mark   = 7\nlisten = \"10.0.0.100:*\"\ncheck  = { port = 443 }"),
    must(
        "servers",
        Shape::Named(&Shape::TextOrTable("an address, with NAT and full NAT also `address:port`", SERVER)),
        "Real servers of the service by name.",
    )
    .like("servers = { r1 = \"10.0.0.11\", r2 = { address = \"10.0.0.12\", weight = 2 } }"),
    key(
        "forward",
        Shape::Choice(&Forward::NAMES),
        "Forwarding method: direct routing (`dr`), NAT, full NAT, the director itself (`local`), or \
         a tunnel (`ipip`, `gue`, `gre`).",
    )
    .is("\"dr\"")
    .like("forward = \"nat\""),
    key("tunnel-port", Shape::Number(1, 65_535), "UDP port of real servers that receives `gue`.")
        .is("6080")
        .like("forward     = \"gue\"\ntunnel-port = 6081"),
    key(
        "tunnel-checksum",
        Shape::Choice(&["none", "full"]),
        "Checksum of the outer header of `gue` and `gre`.",
    )
    .is("\"none\"")
    .like("forward         = \"gre\"\ntunnel-checksum = \"full\""),
    key(
        "scheduler",
        Shape::Choice(&Scheduler::NAMES),
        "Rule that selects the server of a new flow.",
    )
    .is("\"maglev\"")
    .like("scheduler = \"wlc\""),
    key(
        "scheduler-flags",
        Shape::Choices(&SchedulerFlags::NAMES),
        "Options of the schedulers `sh` and `mh`. `fallback`: another server takes the flow if the \
         selected one takes none. `port`: the client's port is hashed, too.",
    )
    .is("[]")
    .like("scheduler       = \"sh\"\nscheduler-flags = [\"fallback\", \"port\"]"),
    key(
        "datagrams",
        Shape::Choice(&["flows", "single"]),
        "What is scheduled of a UDP service: flows, or each datagram by itself.",
    )
    .is("\"flows\"")
    .like("listen    = \"10.0.0.100:514/udp\"\ndatagrams = \"single\""),
    key(
        "persist",
        Shape::Duration,
        "Time without traffic of a client after which its next flow may go to another server. Until \
         then its new flows go to the server of its last one. 1 s to 30 days.",
    )
    .means("no persistence")
    .like("persist = \"300s\""),
    key(
        "persist-prefix",
        Shape::Number(1, 128),
        "Number of leading bits of an address that `persist` compares: clients that share them are \
         one client. At most 32 for an IPv4 service.",
    )
    .means("all bits")
    .like("persist        = \"300s\"\npersist-prefix = 24"),
    key(
        "persist-by",
        Shape::Choice(&["client", "sip-call"]),
        "What `persist` distinguishes: clients, or (UDP) the calls of a client by the Call-ID of \
         SIP.",
    )
    .means("`\"client\"`")
    .like("listen     = \"10.0.0.100:5060/udp\"\npersist    = \"300s\"\npersist-by = \"sip-call\""),
    key(
        "allow",
        Shape::Texts("networks or addresses"),
        "Clients that may connect. All others are denied. The longest prefix of `allow` and `deny` \
         decides.",
    )
    .means("all clients")
    .like("allow = [\"10.0.0.0/8\"]"),
    key(
        "deny",
        Shape::Texts("networks or addresses"),
        "Clients that may not connect. The longest prefix of `allow` and `deny` decides.",
    )
    .is("[]")
    .like("deny = [\"10.66.0.0/16\", \"10.1.2.3\"]"),
    key(
        "rate",
        Shape::Text("a number with `/s` or `/m`, 1 to 1000000"),
        "Maximum rate of new connections of one client, a second or a minute.",
    )
    .means("no limit")
    .like("rate = \"20/s\""),
    key(
        "rate-burst",
        Shape::Number(1, 1_000_000),
        "Number of new connections that a client may open at once.",
    )
    .means("the number in `rate`")
    .like("rate       = \"20/s\"\nrate-burst = 50"),
    key(
        "rate-prefix",
        Shape::Number(1, 128),
        "Number of leading bits of an address that `rate` compares: clients that share them are \
         one client. At most 32 for an IPv4 service.",
    )
    .means("all bits")
    .like("rate        = \"20/s\"\nrate-prefix = 24"),
    key(
        "syn-cookies",
        Shape::Text("a number with `/s` or `/m`, 1 to 1000000"),
        "Rate of new TCP connections of the service above which new clients must return a cookie.",
    )
    .means("no cookies")
    .like("syn-cookies = \"5000/s\""),
    key(
        "source-pool",
        Shape::Texts("addresses, 8 at most"),
        "Source addresses that servers behind full NAT see in place of the VIP. Each is a VIP \
         itself and follows the VIP of the service.",
    )
    .means("servers see the VIP")
    .like("forward     = \"full-nat\"\nsource-pool = [\"10.0.1.200\", \"10.0.1.201\"]"),
    key(
        "proxy-protocol",
        Shape::Choice(&["v2"]),
        "Version of the PROXY protocol by which servers behind full NAT learn the client's address \
         (TCP).",
    )
    .means("no header")
    .like("forward        = \"full-nat\"\nproxy-protocol = \"v2\""),
    key(
        "check",
        Shape::ChoiceOrTable(&["tcp", "udp", "none"], CHECK),
        "Health check of the servers. `tcp`: a connection opens. `udp`: an empty datagram brings \
         back no ICMP error. `none`: servers are always up.",
    )
    .means("`\"tcp\"`; of a UDP service `\"udp\"`, of an SCTP service `\"none\"`")
    .like("check = { http = \"/healthz\", every = \"5s\" }"),
];

/// One of `servers`
pub const SERVER: &[Key] = &[
    must(
        "address",
        Shape::Text("an address, with NAT and full NAT also `address:port`"),
        "Address of the server. A loopback address is each director itself.",
    )
    .like("r2 = { address = \"10.0.0.12\" }"),
    key(
        "weight",
        Shape::Number(0, 65_535),
        "Share of new flows, relative to the weights of the other servers. A server of weight 0 \
         gets none.",
    )
    .is("1")
    .like("r2 = { address = \"10.0.0.12\", weight = 2 }"),
    key("forward", Shape::Choice(&Forward::NAMES), "Forwarding method for this server.")
        .means("`forward` of the service")
        .like("r2 = { address = \"192.0.2.12\", forward = \"ipip\" }"),
    key(
        "upper",
        Shape::Number(1, 4_000_000_000),
        "Number of flows at which the server gets no new ones.",
    )
    .means("no limit")
    .like("r2 = { address = \"10.0.0.12\", upper = 1000 }"),
    key(
        "lower",
        Shape::Number(1, 4_000_000_000),
        "Number of flows below which the server gets new ones again after it had `upper`.",
    )
    .means("three quarters of `upper`")
    .like("r2 = { address = \"10.0.0.12\", upper = 1000, lower = 900 }"),
    key(
        "quic-id",
        Shape::Text(
            "one to eight bytes in hexadecimal, as many as the service's other servers have",
        ),
        "Server id in QUIC connection ids (UDP): packets of unknown flows that carry it go to this \
         server.",
    )
    .means("no id")
    .like("r2 = { address = \"10.0.0.12\", quic-id = \"0a02\" }"),
    key(
        "role",
        Shape::Choice(&["real", "sorry"]),
        "A sorry server gets new flows only while no other server of the service takes any.",
    )
    .is("\"real\"")
    .like("r2 = { address = \"10.0.0.19\", role = \"sorry\" }"),
];

/// Keys of the table `check` of a service.
pub const CHECK: &[Key] = &[
    key(
        "http",
        Shape::Text("a path with its query"),
        "Path that the director requests from the server by HTTP GET.",
    )
    .means("no HTTP check")
    .like("check = { http = \"/healthz\" }"),
    key(
        "https",
        Shape::Text("a path with its query"),
        "Path that the director requests by HTTP GET over TLS. It does not verify the certificate.",
    )
    .means("no HTTPS check")
    .like("check = { https = \"/healthz\" }"),
    key("host", Shape::Text("a name or address"), "`Host` header of an HTTP check.")
        .means("the VIP, with its port if that is not 80 (443)")
        .like("check = { http = \"/\", host = \"shop.example\" }"),
    key(
        "status",
        Shape::Number(200, 599),
        "Status code with which the server must answer an HTTP check.",
    )
    .means("200")
    .like("check = { http = \"/\", status = 204 }"),
    key("contains", Shape::Text("any text"), "Text that the body of the answer must contain.")
        .means("any body passes")
        .like("check = { http = \"/\", contains = \"ready\" }"),
    key("port", Shape::Number(1, 65_535), "Port of the server to check.")
        .means("the port of the server; a service on many ports must name one")
        .like("check = { http = \"/\", port = 8080 }"),
    key(
        "proto",
        Shape::Choice(&["tcp", "udp"]),
        "Protocol of a check that is not HTTP. `tcp`: a connection opens. `udp`: an empty datagram \
         brings back no ICMP error.",
    )
    .means("the protocol of the service")
    .like("check = { proto = \"tcp\", port = 53 }"),
    key("every", Shape::Duration, "Pause between two checks of a server, at least 10 ms.")
        .is("\"2s\"")
        .like("check = { every = \"5s\" }"),
    key(
        "timeout",
        Shape::Duration,
        "Time after which a check without a complete answer has failed, at least 10 ms.",
    )
    .means("1 s, or `every` if that is shorter")
    .like("check = { every = \"5s\", timeout = \"3s\" }"),
    key(
        "way",
        Shape::Choice(&["direct", "forwarded"]),
        "`direct`: the director connects to the server's own address. `forwarded`: the server must \
         also answer as the VIP to packets that arrive as clients' packets do (direct routing and \
         tunnels, TCP).",
    )
    .is("\"direct\"")
    .like("check = { http = \"/\", way = \"forwarded\" }"),
    key("rise", Shape::Number(1, 100), "Number of consecutive good checks that bring a server up.")
        .is("2")
        .like("check = { rise = 3 }"),
    key("fall", Shape::Number(1, 100), "Number of consecutive bad checks that take a server down.")
        .is("2")
        .like("check = { fall = 3 }"),
];
