//! The lines of a case: what happens.

use nines_core::{
    Event,
    wire::{Act, ApplySpec, Command, Give, command::Kind, pack},
};
use nines_model::{NodeId, ServerRef};

use super::network::{MS, Network};

/// Does what a line says.
pub fn follow(network: &mut Network, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["start", names @ ..] => names.iter().for_each(|name| network.start(name)),
        ["before", "that", names @ .., "ran", "for", length, "s"] => {
            names.iter().for_each(|name| network.start(name));
            network.run(number(length) * 1_000 * MS);
        }
        ["kill", names @ ..] => names.iter().for_each(|name| network.kill(name)),
        ["run", length, "ms"] => network.run(number(length) * MS),
        ["run", length, "s"] => network.run(number(length) * 1_000 * MS),
        [a, "and", b, "do", "not", "hear", "each", "other"] => {
            network.cut(a, b, true);
            network.cut(b, a, true);
        }
        [a, "and", b, "hear", "each", "other"] => {
            network.cut(a, b, false);
            network.cut(b, a, false);
        }
        [a, "does", "not", "hear", b] => network.cut(b, a, true),
        [a, "hears", b] => network.cut(b, a, false),
        ["tell", "every", "action", "of", name] => network.machine(name).verbose = true,
        ["the", "disk", "of", name, "fails:", ..] => {
            let why = after(line, "fails: ");
            network.machine(name).disk_fails = Some(why);
        }
        [name, "cannot", "take", vip, ..] => {
            let vip = vip.trim_end_matches(':').parse().expect("an address");
            let why = after(line, ": ");
            network.machine(name).refuses.insert(vip, why);
        }
        [name, "can", "take", vip] => {
            let vip = vip.parse().expect("an address");
            network.machine(name).refuses.remove(&vip);
        }
        [name, "finds", server, "good"] => checked(network, name, server, Ok("200".into())),
        [name, "finds", server, "bad:", ..] => {
            checked(network, name, server, Err(after(line, "bad: ")));
        }
        [name, "lacks", "the", "flows", "of", other] => {
            let behind = [NodeId(network.id(other))].into();
            network.event(name, Event::Behind(behind));
        }
        [name, "has", "all", "flows"] => network.event(name, Event::Behind([].into())),
        [name, "forwards", "the", "first", "packet", "for", vip] => {
            network.event(name, Event::FirstPacket(vip.parse().expect("an address")));
        }
        [name, "should", "stop"] => network.event(name, Event::Stop),
        [name, "will", "be", "replaced", "within", ms, "ms"] => {
            network.event(name, Event::Restart(number(ms)));
        }
        ["ask", name, words @ ..] => ask(network, name.trim_end_matches(':'), words),
        _ => panic!("not understood: {line:?}"),
    }
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("no number: {word:?}"))
}

fn after(line: &str, mark: &str) -> String {
    line.split_once(mark).unwrap_or_else(|| panic!("no reason in {line:?}")).1.to_owned()
}

fn checked(network: &mut Network, name: &str, server: &str, outcome: Result<String, String>) {
    let (service, server) = server.split_once('/').expect("service/server");
    let server = ServerRef::new(service, server);
    network.event(name, Event::Checked { server, outcome });
}

/// An operator asks a node for something.
fn ask(network: &mut Network, name: &str, words: &[&str]) {
    let kind = match words {
        [verb @ ("drain" | "undrain" | "standby" | "ready"), subjects @ ..] => Kind::Act(Act {
            verb: (*verb).into(),
            subjects: subjects.iter().map(|s| (*s).to_owned()).collect(),
            ..Act::default()
        }),
        ["move", vip, "to", to] => Kind::MoveRequest(Give {
            vip: pack(vip.parse().expect("an address")),
            to: (*to).into(),
            ..Give::default()
        }),
        ["apply", "the", "config", "without", "services"] => {
            let text = network.config();
            let end = text.find("[service").expect("it has services");
            let text = &text[..end];
            let spec = nines_model::config::parse(text).expect("it is right");
            Kind::ApplySpec(ApplySpec::whole(text.to_owned(), &spec, 0).expect("it has a form"))
        }
        _ => panic!("not understood: {words:?}"),
    };
    let command = Command { actor: "operator".into(), kind: Some(kind), ..Command::default() };
    network.event(name, Event::Propose { request: 1, command });
}
