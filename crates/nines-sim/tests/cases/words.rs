//! Words of a line: forms with gaps, names, times.

use std::{collections::BTreeMap, net::IpAddr};

use nines_model::{Millis, Spec};

/// What stands in the gaps `{}` of a form, if the text has this form. A gap ends where the words
/// after it first come.
pub fn gaps<'a, const N: usize>(text: &'a str, form: &str) -> Option<[&'a str; N]> {
    let (first, after) = form.split_once("{}")?;
    let mut rest = text.strip_prefix(first)?;
    let mut found = [""; N];
    for (gap, after) in found.iter_mut().zip(after.split("{}")) {
        let end = if after.is_empty() { rest.len() } else { rest.find(after)? };
        (*gap, rest) = (&rest[..end], &rest[end + after.len()..]);
    }
    (rest.is_empty() && found.iter().all(|gap| !gap.is_empty())).then_some(found)
}

/// A number, also one with a fraction.
pub fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

/// "300 ms", "2.5 s", "10 min", "1 day".
pub fn time(text: &str) -> Result<Millis, String> {
    let (count, unit) = text.split_once(' ').unwrap_or((text, ""));
    let ms = match unit {
        "ms" => 1.0,
        "s" => 1e3,
        "min" => 60e3,
        "day" | "days" => 86_400e3,
        _ => return Err(format!("{text:?} is no time")),
    };
    Ok(Millis((number(count)? * ms).round() as u64))
}

/// Names of the nodes and VIPs of a config.
pub struct Names {
    /// The number of a node is its place here, from 1.
    pub nodes: Vec<String>,
    vips: BTreeMap<String, IpAddr>,
}

impl Names {
    pub fn of(spec: &Spec) -> Self {
        Self {
            nodes: spec.nodes.keys().map(ToString::to_string).collect(),
            vips: spec.vips.keys().map(|vip| (spec.vip_name(*vip), *vip)).collect(),
        }
    }

    pub fn node(&self, name: &str) -> Result<u64, String> {
        let place = self.nodes.iter().position(|known| known == name);
        place.map(|place| place as u64 + 1).ok_or_else(|| format!("no node is called {name:?}"))
    }

    /// "lb1", "lb1 and lb2", "lb1, lb2 and wit", "all nodes".
    pub fn nodes(&self, text: &str) -> Result<Vec<u64>, String> {
        if text == "all nodes" {
            return Ok((1..=self.nodes.len() as u64).collect());
        }
        let words = text.split([',', ' ']).filter(|word| !["", "and"].contains(word));
        words.map(|name| self.node(name)).collect()
    }

    pub fn vip(&self, name: &str) -> Result<IpAddr, String> {
        self.vips.get(name).copied().ok_or_else(|| format!("no VIP is called {name:?}"))
    }

    /// What a machine is called; a copy has a number after all nodes.
    pub fn of_node(&self, id: u64) -> String {
        self.nodes.get(id as usize - 1).cloned().unwrap_or_else(|| "the copy".into())
    }

    pub fn of_vip(&self, vip: IpAddr) -> &str {
        self.vips.iter().find(|(_, known)| **known == vip).map_or("?", |(name, _)| name)
    }
}

#[test]
fn gaps_are_what_stands_between_the_words_of_a_form() {
    assert_eq!(gaps("cut a, b from c", "cut {} from {}"), Some(["a, b", "c"]));
    assert_eq!(gaps("start a", "start {}"), Some(["a"]));
    assert_eq!(gaps("a leads", "{} leads"), Some(["a"]));
    for other in ["start", "start ", "a leads b", "x start a"] {
        assert_eq!(gaps::<1>(other, "start {}"), None, "{other}");
    }
    assert_eq!(gaps::<1>("a leads b", "{} leads"), None);
}

#[test]
fn times_have_units() {
    assert_eq!(time("2.5 s"), Ok(Millis(2_500)));
    assert_eq!(time("10 min"), Ok(Millis(600_000)));
    assert!(time("5").is_err() && time("x s").is_err() && time("5 weeks").is_err());
}
