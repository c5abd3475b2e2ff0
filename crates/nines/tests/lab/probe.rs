//! Networks that carry small packets and lose large ones.

use super::{Net, can_run, node};

/// Bytes of the largest packet that passes: heartbeats are smaller.
const SMALL_MAX: u32 = 1_300;

fn problems(net: &Net, by: &str) -> String {
    net.status(by)["problems"].to_string()
}

// scenario 38
#[test]
fn large_frames_that_do_not_pass_are_named_and_nothing_moves() {
    if !can_run() {
        return;
    }
    let net = Net::of_three(38);
    let holder = net.holder("wit1");
    let to = ["10.97.38.4".to_owned()];
    for director in ["lb1", "lb2"] {
        net.lab.drop_large(director, SMALL_MAX, &to).unwrap();
    }
    net.until("both sides name the link and the direction", |n| {
        let (there, here) = (problems(n, "wit1"), problems(n, "lb1"));
        there.contains("large datagrams from lb1 to wit1 do not pass, heartbeats do")
            && there.contains("large datagrams from lb2 to wit1 do not pass, heartbeats do")
            && here.contains("link 1 (10.97.38.4): large datagrams from lb1 to wit1 do not pass")
            && here.contains("ping -M do -s 1420 10.97.38.4")
    });
    // Between the directors nothing is wrong: a large config is agreed on by the two.
    let config = net.ok("lb1", &["config", "show"]);
    let large = format!("{config}{}", "# a comment\n".repeat(4_000));
    net.ok("lb1", &["apply", "-y", &net.write("large.toml", &large)]);
    net.until("the leader names what TCP does not bring", |n| {
        let leader = n.status("lb1")["leader"].as_str().unwrap_or_default().to_owned();
        let lost = "what fits no datagram does not reach it over TCP from";
        leader != "wit1" && problems(n, &leader).contains(lost)
    });
    assert_eq!(net.holder("lb1"), holder);
    assert!(net.ok("lb1", &["why", "lb1"]).contains("large datagrams from lb1 to wit1"));
    for director in ["lb1", "lb2"] {
        net.lab.pass_again(director).unwrap();
    }
    net.until("all is well again", |n| {
        let status = n.status("wit1");
        let same = status["revision"] == n.status("lb1")["revision"];
        same && status["verdict"] == "HEALTHY" && n.status("lb1")["verdict"] == "HEALTHY"
    });
    assert_eq!(node(&net.status("wit1"), &holder)["state"], "active");
}
