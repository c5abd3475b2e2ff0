use super::parse;
use crate::{
    forward::Forward,
    spec::{CheckKind, Persist, Role, Scheduler},
    time::Millis,
};

const WHOLE: &str = r#"
[cluster]
name = "web"

[nodes]
lb1 = "10.99.0.2"
lb2 = ["10.99.0.3", "10.98.0.3"]
wit1 = { addresses = ["10.99.0.4"], role = "witness" }

[service.web]
listen = "10.99.0.100:80/tcp"
scheduler = "wrr"
servers = { r1 = "10.99.0.11", r2 = { address = "10.99.0.12", weight = 3 } }
check = { http = "/healthz", every = "500ms" }

[service.dns]
listen = "[2001:db8::64]:53/udp"
forward = "nat"
servers = { n1 = "[2001:db8::1]:5353" }
check = "none"

[vip.db]
address = "10.99.0.101/24"
interface = "eth0"
prefer = ["lb2"]
"#;

#[test]
fn whole_file_reads() {
    let spec = parse(WHOLE).unwrap();
    assert_eq!(spec.name, "web");
    assert_eq!(spec.nodes["lb2"].addresses.len(), 2);
    assert_eq!(spec.nodes["wit1"].role, Role::Witness);
    assert_eq!(spec.directors().collect::<Vec<_>>(), ["lb1", "lb2"]);
    let web = &spec.services["web"];
    assert_eq!((web.scheduler, web.servers["r2"].weight), (Scheduler::Wrr, 3));
    assert_eq!(web.check.every, Millis(500));
    assert!(matches!(&web.check.kind, CheckKind::Http { path, .. } if path == "/healthz"));
    assert_eq!(spec.services["dns"].forward, Forward::Nat);
    assert_eq!(spec.services["dns"].servers["n1"].addr.port(), 5353);
    assert_eq!(spec.vips.len(), 3);
    assert_eq!(spec.vip_name("10.99.0.100".parse().unwrap()), "web");
    assert_eq!(spec.find_vips("db"), ["10.99.0.101".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(spec.find_servers("r2").len(), 1);
}

#[test]
fn vips_of_a_network_are_found_by_its_service_and_called_by_their_addresses() {
    let spec = parse(
        "[cluster]\nname = \"web\"\n[nodes]\nlb1 = \"10.0.0.2\"\n[service.web]\n\
         listen = \"10.0.0.8/31:80\"\nservers = { r1 = \"10.0.0.11\" }\n\
         [service.mail]\nlisten = \"10.0.0.9:25\"\nservers = { r1 = \"10.0.0.11\" }\n",
    )
    .unwrap();
    let vips: [std::net::IpAddr; 2] = ["10.0.0.8", "10.0.0.9"].map(|vip| vip.parse().unwrap());
    assert_eq!(spec.vips.keys().copied().collect::<Vec<_>>(), vips);
    assert_eq!(spec.find_vips("web"), vips);
    assert_eq!(spec.find_vips("10.0.0.9"), vips[1..]);
    assert_eq!(spec.vip_name(vips[0]), "10.0.0.8", "web has more than one");
    assert_eq!(spec.vip_name(vips[1]), "mail");
    assert_eq!(spec.services_on(vips[1]).count(), 2);
}

/// One service of a cluster with these lines.
fn service(lines: &str) -> Result<crate::ServiceSpec, String> {
    let text =
        format!("[cluster]\nname = \"web\"\n[nodes]\nlb1 = \"10.0.0.2\"\n[service.web]\n{lines}\n");
    let spec = parse(&text).map_err(|errors| {
        errors.iter().map(|e| e.message.clone()).collect::<Vec<_>>().join("\n")
    })?;
    Ok((*spec.services["web"]).clone())
}

#[test]
fn listen_has_ranges_and_networks() {
    let on = |listen: &str| {
        service(&format!(
            "listen = \"{listen}\"\nservers = {{ r = \"10.0.0.11\" }}\ncheck = {{ port = 80 }}"
        ))
    };
    for listen in ["10.0.0.100:8000-8999/tcp", "10.0.0.96/28:80/tcp", "10.0.0.96/30:80-81/tcp"] {
        let read = on(listen).unwrap();
        assert_eq!(read.listen.to_string(), listen);
        assert_eq!(read.listen.vips().count(), 1 << (32 - read.listen.prefix));
    }
    assert_eq!(on("10.0.0.96/28:80").unwrap().listen.to_string(), "10.0.0.96/28:80/tcp");
    for (wrong, why) in [
        ("10.0.0.100:90-80", "ends before it begins"),
        ("10.0.0.100/28:80", "is not a network"),
        ("10.0.0.0/26:80", "more than 32"),
        ("10.0.0.0/29:80", "fixed address of node lb1"),
        ("10.0.0.8/29:80", "cannot be the VIP itself"),
        ("10.0.0.100:0-5", "port 0 is not a valid port"),
        ("10.0.0.100", "not a valid address and port"),
        ("2001:db8::/124:80", "not a valid address and port"),
        ("10.0.0.100:80/icmp", "not a protocol"),
    ] {
        let said = on(wrong).unwrap_err();
        assert!(said.contains(why), "{wrong}: {said}");
    }
    let unchecked = "listen = \"10.0.0.100:80-90\"\nservers = { r = \"10.0.0.11\" }";
    assert!(service(unchecked).unwrap_err().contains("does not say which one is checked"));
}

#[test]
fn clients_rates_and_cookies_and_ids_read() {
    let with = |proto: &str, lines: &str, server: &str| {
        service(&format!(
            "listen = \"10.0.0.100:80/{proto}\"\ncheck = \"none\"\n{lines}\n\
             servers = {{ a = {{ address = \"10.0.0.11\", quic-id = \"0a01\" }}, {server} }}"
        ))
    };
    let other = "b = { address = \"10.0.0.12\", quic-id = \"0a02\" }";
    let read = with("udp", "rate = \"300/m\"\nrate-prefix = 24", other).unwrap();
    let rate = read.rate.unwrap();
    assert_eq!((rate.rate.every_ns(), rate.burst, rate.prefix), (200_000_000, 300, 24));
    assert_eq!(read.servers["b"].quic_id.unwrap().to_string(), "0a02");
    for (proto, lines, server, why) in [
        ("udp", "rate = \"20\"", other, "is not a valid rate"),
        ("udp", "rate-burst = 5", other, "without rate means nothing"),
        ("udp", "syn-cookies = \"100/s\"", other, "syn-cookies needs TCP, not udp"),
        ("tcp", "", other, "QUIC needs UDP, not tcp"),
        ("udp", "", "b = { address = \"10.0.0.12\", quic-id = \"0a01\" }", "server a's already"),
        ("udp", "", "b = { address = \"10.0.0.12\", quic-id = \"0a\" }", "not as long"),
        (
            "udp",
            "",
            "b = { address = \"10.0.0.12\", quic-id = \"xyz\" }",
            "is not a valid server id",
        ),
    ] {
        let said = with(proto, lines, server).unwrap_err();
        assert!(said.contains(why), "{lines} {server}: {said}");
    }
    let tcp =
        "listen = \"10.0.0.100:80\"\nsyn-cookies = \"1000/s\"\nservers = { r = \"10.0.0.11\" }";
    assert_eq!(service(tcp).unwrap().cookies.unwrap().to_string(), "1000/s");
}

#[test]
fn checks_may_go_the_way_of_clients_where_tcp_does() {
    let with = |proto: &str, way: &str| {
        format!(
            "[cluster]\nname = \"web\"\n[nodes]\nlb1 = \"10.0.0.2\"\n[service.web]\n\
             listen = \"10.0.0.100:80/{proto}\"\nservers = {{ r1 = \"10.0.0.11\" }}\n\
             check = {{ port = 80, way = \"{way}\" }}\n"
        )
    };
    assert!(parse(&with("tcp", "forwarded")).unwrap().services["web"].check.forwarded);
    assert!(!parse(&with("udp", "direct")).unwrap().services["web"].check.forwarded);
    assert!(told(&with("udp", "forwarded"))[0].contains("asks over TCP"));
    assert!(told(&with("tcp", "forward"))[0].contains("forward"));
}

#[test]
fn full_nat_maps_ports() {
    let with = |proto: &str, server: &str| {
        format!(
            "[cluster]\nname = \"web\"\n[nodes]\nlb1 = \"10.0.0.2\"\n[service.web]\n\
             listen = \"10.0.0.100:80/{proto}\"\nforward = \"full-nat\"\n\
             servers = {{ r1 = \"{server}\" }}\n"
        )
    };
    for proto in ["tcp", "udp", "sctp"] {
        let spec = parse(&with(proto, "10.9.0.11:8080")).unwrap();
        assert_eq!(spec.services["web"].forward, Forward::FullNat);
        assert_eq!(spec.services["web"].servers["r1"].addr.port(), 8080);
    }
    assert!(told(&with("tcp", "[2001:db8::11]:80"))[0].contains("different families"));
}

#[test]
fn a_service_by_mark_takes_what_is_marked() {
    let with = |listen: &str, lines: &str| {
        format!(
            "[cluster]\nname = \"web\"\n[nodes]\nlb1 = \"10.0.0.2\"\n\
             [service.one]\nlisten = \"10.0.0.100:80\"\nservers = {{ r1 = \"10.0.0.11\" }}\n\
             [service.web]\nlisten = \"{listen}\"\nmark = 7\ncheck = {{ port = 80 }}\n{lines}"
        )
    };
    let nat = "forward = \"nat\"\nservers = { r1 = \"10.0.0.11:8080\", me = \"127.0.0.1\" }\n";
    let spec = parse(&with("10.0.0.100:*", nat)).unwrap();
    let web = &spec.services["web"];
    assert_eq!(web.traffic(), crate::Traffic::Marked { mark: 7, v6: false });
    assert_eq!(web.takes(), "mark 7, 10.0.0.100");
    assert_eq!(web.servers["r1"].addr.port(), 8080, "NAT maps to one port");
    assert!(told(&with("10.0.0.100:80", nat))[0].contains("the rule that sets the mark"));
    assert!(
        told(&with("10.0.0.100:*", "servers = { r1 = \"10.0.0.11:8080\" }"))[0].contains("NAT")
    );
    let cookies = format!("syn-cookies = \"9/s\"\n{nat}");
    assert!(told(&with("10.0.0.100:*", &cookies))[0].contains("too late"));
    let six = "forward = \"nat\"\nservers = { r1 = \"2001:db8::11\" }\n";
    let said = told(&with("[2001:db8::100]:*", six));
    assert!(said[0].contains("one address"), "{said:?}");
    let again = "[service.more]\nlisten = \"10.0.0.101:*\"\nmark = 7\ncheck = \"none\"\n\
                 servers = { r1 = \"10.0.0.11\" }";
    assert!(told(&with("10.0.0.100:*", &format!("{nat}{again}")))[0].contains("mark 7 already"));
    let said = |listen: &str, lines: &str| told(&with(listen, lines)).concat();
    assert!(said("10.0.0.100:*/udp", nat).contains("every protocol"));
    assert!(
        said("10.0.0.100:*", &nat.replace("127.0.0.1", "127.0.0.1:8080"))
            .contains("keep their port")
    );
    let proxy =
        "proxy-protocol = \"v2\"\nforward = \"full-nat\"\nservers = { r1 = \"10.0.0.11\" }\n";
    assert!(said("10.0.0.100:*", proxy).contains("PROXY header"));
    let all = "[service.all]\nlisten = \"10.0.0.100:*\"\npersist = \"300s\"\ncheck = \"none\"\n\
               servers = { r1 = \"10.0.0.11\" }";
    assert!(said("10.0.0.100:*", &format!("{nat}{all}")).contains("before it has a mark"));
    let none = with("10.0.0.100:*", nat).replace("mark = 7", "mark = 0");
    assert!(told(&none).concat().contains("mark must be 1 to"));
    // What belongs to UDP goes with a mark, which takes UDP too.
    let single = format!("datagrams = \"single\"\n{nat}");
    assert!(parse(&with("10.0.0.100:*", &single)).unwrap().services["web"].one_packet);
}

#[test]
fn a_director_that_serves_is_no_client_and_no_ipvs() {
    let with = |lines: &str, full: &str| {
        format!(
            "[cluster]\nname = \"web\"\n{lines}[nodes]\nlb1 = \"10.0.0.2\"\nlb2 = \"10.0.0.3\"\n\
             [service.web]\nlisten = \"10.0.0.100:80\"\nservers = {{ a = \"10.0.0.2\", b = \"10.0.0.3\" }}\n\
             [service.admin]\nlisten = \"10.0.0.100:443\"\nforward = \"full-nat\"\n\
             servers = {{ a = \"10.0.0.3:8443\" }}\n{full}"
        )
    };
    assert!(told(&with("", ""))[0].contains("director lb2 has 10.0.0.100 on lo"));
    assert!(parse(&with("", "source-pool = [\"10.0.0.200\"]\n")).is_ok());
    let ipvs = "[forwarding]\ndataplane = \"ipvs\"\n";
    let said = told(&with(ipvs, "source-pool = [\"10.0.0.200\"]\n"));
    assert!(said[0].contains("IPVS would choose again"), "{said:?}");
    let vip = "[vip.x]\naddress = \"10.0.0.9\"\ninterface = \"lo\"\n";
    assert!(told(&with(vip, "source-pool = [\"10.0.0.200\"]\n"))[0].contains("on lo"));
}

#[test]
fn lists_of_clients_name_networks_of_the_services_family() {
    let with = |lines: &str| {
        format!(
            "[cluster]\nname = \"web\"\n[nodes]\nlb1 = \"10.0.0.2\"\n[service.web]\n\
             listen = \"10.0.0.100:80/tcp\"\nservers = {{ r1 = \"10.0.0.11\" }}\n{lines}"
        )
    };
    let read = |lines: &str| {
        let sources = parse(&with(lines)).unwrap().services["web"].sources.clone();
        let told = sources.iter().map(|((a, len), may)| format!("{may} {a}/{len}"));
        told.collect::<Vec<_>>()
    };
    assert_eq!(read(""), Vec::<String>::new());
    assert_eq!(read("deny = [\"192.0.2.77/24\"]\n"), ["false 192.0.2.0/24"]);
    assert_eq!(
        read("allow = [\"10.0.0.0/8\"]\ndeny = [\"10.1.1.1\"]\n"),
        ["false 0.0.0.0/0", "true 10.0.0.0/8", "false 10.1.1.1/32"]
    );
    let wrong = |lines: &str| told(&with(lines)).remove(0);
    assert!(
        wrong("deny = [\"2001:db8::/32\"]\n")
            .contains("not of the same address family as 10.0.0.100")
    );
    assert!(wrong("deny = [\"10.0.0.0/33\"]\n").contains("is not a valid network"));
    assert!(wrong("deny = [\"lan\"]\n").contains("\"lan\" is not a valid network"));
    let both = wrong("allow = [\"10.0.0.0/8\"]\ndeny = [\"10.2.3.4/8\"]\n");
    assert!(both.contains("in allow and in deny"), "{both}");
}

#[test]
fn persistence_has_a_time_and_a_prefix() {
    let with = |lines: &str| {
        format!(
            "[cluster]\nname = \"web\"\n[nodes]\nlb1 = \"10.0.0.2\"\n[service.web]\n\
             listen = \"10.0.0.100:80/tcp\"\nscheduler = \"wlc\"\n\
             servers = {{ r1 = \"10.0.0.11\" }}\n{lines}"
        )
    };
    let read = |lines: &str| parse(&with(lines)).unwrap().services["web"].persist;
    assert_eq!(read(""), None);
    let whole = Persist { time: Millis(300_000), prefix: 32 };
    assert_eq!(read("persist = \"300s\"\n"), Some(whole));
    assert_eq!(
        read("persist = \"5m\"\npersist-prefix = 24\n"),
        Some(Persist { prefix: 24, ..whole })
    );
    assert!(told(&with("persist-prefix = 24\n"))[0].contains("without persist"));
    assert!(told(&with("persist = \"1ms\"\n"))[0].contains("1s to 30 days"));
    let wide = told(&with("persist = \"300s\"\npersist-prefix = 64\n"));
    assert!(wide[0].contains("persist-prefix must be 1 to 32"), "{wide:?}");
}

#[test]
fn sources_of_a_pool_are_vips_that_go_with_theirs() {
    let with = |lines: &str| {
        format!(
            "[cluster]\nname = \"web\"\n[nodes]\nlb1 = \"10.0.0.2\"\n[service.web]\n\
             listen = \"10.0.0.100:80\"\nservers = {{ r1 = \"10.0.1.11:8080\" }}\n\
             forward = \"full-nat\"\n{lines}"
        )
    };
    let spec = parse(&with("source-pool = [\"10.0.1.152\", \"10.0.1.151\"]\n")).unwrap();
    let ip = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    assert_eq!(spec.services["web"].pool, ["10.0.1.151", "10.0.1.152"].map(ip));
    let with_whom = |text: &str| spec.vips[&ip(text)].with;
    assert_eq!(with_whom("10.0.1.151"), Some(ip("10.0.0.100")));
    assert_eq!(with_whom("10.0.0.100"), None);
    assert_eq!(spec.find_vips("web"), [ip("10.0.0.100")], "what moves is the VIP");
    let wrong = |lines: &str| told(&with(lines)).join("\n");
    assert!(wrong("source-pool = [\"lan\"]\n").contains("\"lan\" is not a valid address"));
    assert!(wrong("source-pool = [\"2001:db8::1\"]\n").contains("is not of 10.0.0.100's family"));
    assert!(wrong("source-pool = [\"10.0.1.1\", \"10.0.1.1\"]\n").contains("there twice"));
    assert!(wrong("source-pool = [\"10.0.0.100\"]\n").contains("is the VIP of service web"));
    assert!(wrong("source-pool = [\"10.0.0.2\"]\n").contains("the fixed address of node lb1"));
    assert!(wrong("source-pool = [\"10.0.1.11\"]\n").contains("is a server of service web"));
    let nine: Vec<String> = (1..10).map(|n| format!("\"10.0.1.{n}\"")).collect();
    assert!(wrong(&format!("source-pool = [{}]\n", nine.join(", "))).contains("9 sources"));
    let prefers =
        "source-pool = [\"10.0.1.9\"]\n[vip.s]\naddress = \"10.0.1.9\"\nprefer = [\"lb1\"]\n";
    assert!(wrong(prefers).contains("prefers nothing by itself"), "{}", wrong(prefers));
    let other = "source-pool = [\"10.0.1.9\"]\n[service.b]\nlisten = \"10.0.0.101:80\"\n\
                 forward = \"full-nat\"\nservers = { r1 = \"10.0.1.11\" }\nsource-pool = [\"10.0.1.9\"]\n";
    assert!(wrong(other).contains("goes with"), "{}", wrong(other));
    let same_vip = other.replace("10.0.0.101:80", "10.0.0.100:81");
    assert!(parse(&with(&same_vip)).is_ok(), "services on one VIP share sources");
    let dr = with("source-pool = [\"10.0.1.9\"]\n").replace("full-nat", "dr").replace(":8080", "");
    assert!(told(&dr)[0].contains("source-pool needs full NAT"), "{:?}", told(&dr));
    let network =
        with("source-pool = [\"10.0.1.9\"]\n").replace("10.0.0.100:80", "10.0.0.96/28:80");
    assert!(told(&network)[0].contains("one VIP, not with a network"), "{:?}", told(&network));
}

#[test]
fn persistence_may_go_by_sips_calls() {
    let with = |lines: &str| {
        format!(
            "[cluster]\nname = \"pbx\"\n[nodes]\nlb1 = \"10.0.0.2\"\n[service.sip]\n\
             servers = {{ r1 = \"10.0.0.11\" }}\ncheck = \"none\"\n{lines}"
        )
    };
    let udp = "listen = \"10.0.0.100:5060/udp\"\n";
    let read = |lines: &str| parse(&with(lines)).unwrap().services["sip"].by_call;
    assert!(read(&format!("{udp}persist = \"60s\"\npersist-by = \"sip-call\"\n")));
    assert!(!read(&format!("{udp}persist = \"60s\"\npersist-by = \"client\"\n")));
    let lone = told(&with(&format!("{udp}persist-by = \"sip-call\"\n")));
    assert!(lone[0].contains("persist-by without persist"), "{lone:?}");
    let tcp = "listen = \"10.0.0.100:5060\"\npersist = \"60s\"\npersist-by = \"sip-call\"\n";
    assert!(told(&with(tcp))[0].contains("in UDP only, not in tcp"), "{:?}", told(&with(tcp)));
    let other = told(&with(&format!("{udp}persist = \"60s\"\npersist-by = \"call\"\n")));
    assert!(other[0].contains("sip-call"), "{other:?}");
}

/// "line:col message | help" of every diagnostic.
fn told(text: &str) -> Vec<String> {
    let found = parse(text).unwrap_err();
    found
        .iter()
        .map(|d| {
            let (line, col) = d.line_col(text);
            format!("{line}:{col} {} | {}", d.message, d.help.as_deref().unwrap_or("-"))
        })
        .collect()
}

#[test]
fn every_error_at_once_with_its_place() {
    let text = "[cluster]\nname = \"web\"\n[service.web]\nlisten = \"10.0.0.1\"\nshceduler = \"rr\"\n\
                servers = { r1 = \"10.0.0.300\" }\ncheck = { every = 5 }\n[timming]\n";
    assert_eq!(
        told(text),
        [
            "4:10 \"10.0.0.1\" is not a valid address and port | write address:port/protocol, as \
             \"10.0.0.100:80/tcp\" or \"[2001:db8::1]:53/udp\"",
            "5:1 unknown key \"shceduler\" | did you mean \"scheduler\"?",
            "7:19 a time needs a unit | write every = \"5s\"   (ms, s, m, h or d)",
            "8:2 unknown key \"timming\" | did you mean \"timing\"?",
        ]
    );
}

#[test]
fn mistakes_that_would_hurt_are_refused() {
    let base = "[cluster]\nname = \"x\"\n[nodes]\nlb1 = \"10.0.0.2\"\n";
    for (text, wanted) in [
        (
            "[service.a]\nlisten = \"10.0.0.9:80\"\nservers = { r = \"10.0.0.1\" }\n\
          [service.b]\nlisten = \"10.0.0.9:80/tcp\"\nservers = { r = \"10.0.0.1\" }",
            "listens on 10.0.0.9:80/tcp already",
        ),
        (
            "[service.a]\nlisten = \"10.0.0.2:80\"\nservers = { r = \"10.0.0.1\" }",
            "fixed address of node lb1",
        ),
        (
            "[service.a]\nlisten = \"10.0.0.9:80\"\nservers = { r = \"10.0.0.1:81\" }",
            "only NAT maps ports",
        ),
        ("[service.a]\nlisten = \"10.0.0.9:80\"\nservers = { r = \"::1\" }", "different families"),
        ("[service.a]\nlisten = \"10.0.0.9:80\"\nservers = {}", "at least one server"),
        ("[service.a]\nlisten = \"10.0.0.9:80\"\nservers = { r = \"10.0.0.9\" }", "the VIP itself"),
        ("[vip.v]\naddress = \"10.0.0.9/33\"", "must be 1 to 32"),
        ("[vip.v]\naddress = \"10.0.0.9\"\nprefer = [\"lb2\"]", "unknown node \"lb2\""),
        ("[timing]\nlease = \"30ms\"", "shorter than four beats"),
        (
            "[service.\"a b\"]\nlisten = \"10.0.0.9:80\"\nservers = { r = \"10.0.0.1\" }",
            "is not a valid name",
        ),
    ] {
        let told = told(&format!("{base}{text}"));
        assert!(told.iter().any(|t| t.contains(wanted)), "{text}\n{told:?}");
    }
}

#[test]
fn broken_toml_is_told_with_its_place() {
    assert!(told("[cluster\nname = \"x\"")[0].starts_with("1:"));
    assert_eq!(told("")[0].split(" | ").next().unwrap(), "1:1 the section [cluster] is missing");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_damage_to_a_good_file_makes_it_panic(at in 0usize..700, junk in "[\\[\\]={}\"0-9a-z\n ]{0,4}") {
        let at = at.min(WHOLE.len());
        let text = format!("{}{junk}{}", &WHOLE[..at], &WHOLE[(at + junk.len()).min(WHOLE.len())..]);
        if let Err(found) = parse(&text) {
            for d in found {
                d.line_col(&text);
            }
        }
    }
}

#[test]
fn a_service_on_every_port_says_how_clients_stay_and_what_is_checked() {
    let with = |lines: &str| {
        parse(&format!(
            "[cluster]\nname = \"web\"\n[nodes]\nlb1 = \"10.0.0.2\"\n[service.web]\n\
             listen = \"10.0.0.100:*/tcp\"\nservers = {{ r1 = \"10.0.0.11\" }}\n{lines}"
        ))
    };
    let wrong = |lines: &str| with(lines).unwrap_err().remove(0).message;
    assert!(wrong("check = \"none\"\n").contains("needs persistence"));
    assert!(wrong("persist = \"300s\"\n").contains("which one is checked"));
    let spec = with("persist = \"300s\"\ncheck = { port = 80 }\n").unwrap();
    assert_eq!(spec.services["web"].listen.to_string(), "10.0.0.100:*/tcp");
}

#[test]
fn tunnels_flags_and_limits_are_read_and_refused_where_they_mean_nothing() {
    let with = |lines: &str, servers: &str| {
        parse(&format!(
            "[cluster]\nname = \"web\"\n[nodes]\nlb1 = \"10.0.0.2\"\n[service.web]\n\
             listen = \"10.0.0.100:80\"\nservers = {{ {servers} }}\n{lines}"
        ))
    };
    let one = "r1 = \"10.0.0.11\"";
    let spec = with(
        "forward = \"gue\"\ntunnel-port = 7000\ntunnel-checksum = \"full\"\n",
        "r1 = \"2001:db8::1\", r2 = { address = \"10.0.0.12\", forward = \"dr\", upper = 9 }",
    )
    .unwrap();
    let web = &spec.services["web"];
    assert_eq!(web.forward.to_string(), "gue port 7000 with checksum");
    assert_eq!((web.servers["r2"].forward, web.servers["r2"].limit.upper), (Some(Forward::Dr), 9));
    for (lines, servers, wanted) in [
        ("", "r1 = \"2001:db8::1\"", "different families"),
        ("scheduler-flags = [\"port\"]\n", one, "has no flags"),
        ("scheduler = \"sh\"\nscheduler-flags = [\"prot\"]\n", one, "prot"),
        ("datagrams = \"single\"\n", one, "has no datagrams"),
        ("", "r1 = { address = \"10.0.0.11\", lower = 3 }", "lower must be"),
    ] {
        let found = with(lines, servers).unwrap_err();
        assert!(found[0].message.contains(wanted), "{lines}{servers}: {found:?}");
    }
}

#[test]
fn silent_connections_end_when_the_file_says() {
    let with = |lines: &str| {
        format!("[cluster]\nname = \"web\"\n[nodes]\nlb1 = \"10.0.0.2\"\n[forwarding]\n{lines}")
    };
    let idle = parse(&with("tcp-timeout = \"2h\"\nudp-timeout = \"30s\"")).unwrap().idle;
    assert_eq!((idle.tcp, idle.fin, idle.udp), (7_200, 120, 30));
    for wrong in ["1s", "9500ms", "32d"] {
        assert!(told(&with(&format!("fin-timeout = \"{wrong}\"")))[0].contains("9s to 31 days"));
    }
}
