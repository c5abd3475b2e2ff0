//! What an agent says of itself: the XML that it prints for `-o metadata`.
//!
//! Decides: how that XML reads. Elements and attributes that it does not know are passed over.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use nines_model::printable;
use roxmltree::{Document, Node, ParsingOptions};

/// Elements and texts that metadata may have. The largest of Debian 12 has 400.
const NODES_MAX: u32 = 20_000;

/// An agent's parameters and actions, by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Name of the agent, by its own word: a link may be called otherwise.
    pub name: String,
    /// What it is for, on a line.
    pub summary: String,
    /// Keys that it reads.
    pub parameters: BTreeMap<String, Parameter>,
    /// Actions that it has.
    pub actions: BTreeMap<String, AgentAction>,
}

/// A key of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// What its values are.
    pub kind: Kind,
    /// Whether it must be given.
    pub required: bool,
    /// The value that it has when it is not given.
    pub default: Option<String>,
    /// It has a newer name, which says so with `obsoletes`. It is accepted all the same.
    pub deprecated: bool,
    /// The older name of the same parameter.
    pub obsoletes: Option<String>,
    /// What it is for, on a line.
    pub summary: String,
}

/// The values of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A whole number.
    Integer,
    /// A number of seconds.
    Seconds,
    /// `1`, `yes`, `on`, `true`, or the opposite.
    Boolean,
    /// One of these, in any case.
    Select(BTreeSet<String>),
}

/// An action of an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentAction {
    /// It is to be carried out whenever a node joins: what is called unfencing.
    pub automatic: bool,
    /// It must run on the node that it is for.
    pub on_target: bool,
}

impl Metadata {
    /// Reads it, or says why it is no metadata.
    pub fn parse(xml: &[u8]) -> Result<Self, Misread> {
        let xml = std::str::from_utf8(xml).map_err(|_| Misread::NotText)?;
        let options = ParsingOptions { nodes_limit: NODES_MAX, ..ParsingOptions::default() };
        let document = Document::parse_with_options(xml.trim_start(), options)
            .map_err(|why| Misread::NotXml(printable::clean(&why.to_string()).into_owned()))?;
        let root = document.root_element();
        if root.tag_name().name() != "resource-agent" {
            return Err(Misread::NotAnAgent);
        }
        let named = |tag: &'static str| {
            let all = root.descendants().filter(move |node| node.has_tag_name(tag));
            all.filter_map(|node| Some((node.attribute("name")?.to_owned(), node)))
        };
        let actions: BTreeMap<_, _> = named("action")
            .map(|(name, node)| {
                let is = |key| flag(node, key);
                let action = AgentAction { automatic: is("automatic"), on_target: is("on_target") };
                (name, action)
            })
            .collect();
        if actions.is_empty() {
            return Err(Misread::NoActions);
        }
        Ok(Self {
            name: root.attribute("name").unwrap_or_default().to_owned(),
            summary: one_line(root.attribute("shortdesc").unwrap_or_default()),
            parameters: named("parameter").map(|(name, node)| (name, parameter(node))).collect(),
            actions,
        })
    }

    /// The other name of a key, older or newer, if it has one.
    pub(super) fn other_name<'a>(&'a self, key: &str) -> Option<&'a str> {
        let older = self.parameters.get(key).and_then(|of| of.obsoletes.as_deref());
        older.or_else(|| {
            let newer = self.parameters.iter().find(|(_, of)| of.obsoletes.as_deref() == Some(key));
            newer.map(|(name, _)| name.as_str())
        })
    }
}

fn flag(node: Node<'_, '_>, key: &str) -> bool {
    matches!(node.attribute(key), Some("1" | "true" | "yes"))
}

fn parameter(node: Node<'_, '_>) -> Parameter {
    let child = |tag: &str| node.children().find(|child| child.has_tag_name(tag));
    let content = child("content");
    let options = content.into_iter().flat_map(|content| content.children());
    let options = options.filter(|option| option.has_tag_name("option"));
    let options = options.filter_map(|option| option.attribute("value")).map(str::to_owned);
    let kind = match content.and_then(|content| content.attribute("type")) {
        Some("integer") => Kind::Integer,
        Some("second") => Kind::Seconds,
        Some("boolean") => Kind::Boolean,
        Some("select") => Kind::Select(options.collect()),
        _ => Kind::Text,
    };
    Parameter {
        kind,
        required: flag(node, "required"),
        default: content.and_then(|content| content.attribute("default")).map(str::to_owned),
        deprecated: flag(node, "deprecated") || child("deprecated").is_some(),
        obsoletes: node.attribute("obsoletes").map(str::to_owned),
        summary: one_line(child("shortdesc").and_then(|text| text.text()).unwrap_or_default()),
    }
}

fn one_line(text: &str) -> String {
    printable::clean(&text.split_whitespace().collect::<Vec<_>>().join(" ")).into_owned()
}

/// Why a text is not the metadata of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misread {
    /// It is not UTF-8.
    NotText,
    /// It is no XML, for this reason.
    NotXml(String),
    /// It is XML of something else.
    NotAnAgent,
    /// It names no action.
    NoActions,
}

impl fmt::Display for Misread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotText => f.write_str("it is not UTF-8"),
            Self::NotXml(why) => write!(f, "it is not XML: {why}"),
            Self::NotAnAgent => f.write_str("it has no element resource-agent"),
            Self::NoActions => f.write_str("it names no action"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = r#"<?xml version="1.0" ?>
<resource-agent name="fence_apc" shortdesc="Fence agent
 for APC" >
<symlink name="fence_apc_old" shortdesc="a link"/>
<longdesc>a &lt;b&gt;</longdesc>
<parameters>
  <parameter name="ip" unique="0" required="1" obsoletes="ipaddr">
    <getopt mixed="-a, --ip=[ip]" /><content type="string" />
    <shortdesc lang="en">IP address</shortdesc>
  </parameter>
  <parameter name="ipaddr" required="1" deprecated="1"><content type="string"/></parameter>
  <parameter name="ipport"><content type="integer" default="23"/></parameter>
  <parameter name="delay"><content type="second" default="0"/></parameter>
  <parameter name="ssh"><content type="boolean" default=""/></parameter>
  <parameter name="method"><content type="select" default="onoff">
    <option value="onoff"/><option value="cycle"/></content></parameter>
  <parameter name="odd"/>
</parameters>
<actions>
  <action name="on" automatic="1" on_target="1"/><action name="off" automatic="0"/>
  <action name="status" timeout="20s"/>
</actions>
</resource-agent>"#;

    #[test]
    fn parameters_and_actions_are_read() {
        let read = Metadata::parse(XML.as_bytes()).unwrap();
        assert_eq!((&*read.name, &*read.summary), ("fence_apc", "Fence agent for APC"));
        let of = |name: &str| &read.parameters[name];
        let ip = Parameter {
            kind: Kind::Text,
            required: true,
            default: None,
            deprecated: false,
            obsoletes: Some("ipaddr".into()),
            summary: "IP address".into(),
        };
        assert_eq!(*of("ip"), ip);
        assert!(of("ipaddr").deprecated && of("ipaddr").required);
        assert_eq!(
            (&of("ipport").kind, of("ipport").default.as_deref()),
            (&Kind::Integer, Some("23"))
        );
        assert_eq!((&of("delay").kind, &of("ssh").kind), (&Kind::Seconds, &Kind::Boolean));
        let options = ["cycle", "onoff"].map(String::from).into();
        assert_eq!(of("method").kind, Kind::Select(options));
        assert_eq!(of("odd").kind, Kind::Text);
        assert_eq!(read.actions["on"], AgentAction { automatic: true, on_target: true });
        assert_eq!(read.actions.keys().collect::<Vec<_>>(), ["off", "on", "status"]);
        assert_eq!(read.other_name("ip"), Some("ipaddr"));
        assert_eq!((read.other_name("ipaddr"), read.other_name("ssh")), (Some("ip"), None));
    }

    #[test]
    fn what_is_no_metadata_says_why() {
        let why = |text: &[u8]| Metadata::parse(text).unwrap_err();
        assert_eq!(why(b"<resource-agent name=\"\xff\"/>"), Misread::NotText);
        assert!(matches!(why(b""), Misread::NotXml(_)));
        assert!(matches!(why(b"Usage: fence_x\n"), Misread::NotXml(_)));
        assert!(matches!(why(&XML.as_bytes()[..700]), Misread::NotXml(_)), "cut off");
        assert_eq!(why(b"<html/>"), Misread::NotAnAgent);
        assert_eq!(why(b"<resource-agent/>"), Misread::NoActions);
        let doctype = b"<!DOCTYPE a [<!ENTITY b \"c\">]><resource-agent>&b;</resource-agent>";
        assert!(matches!(why(doctype), Misread::NotXml(_)), "entities of its own");
        let deep = "<a>".repeat(100_000);
        assert!(matches!(why(deep.as_bytes()), Misread::NotXml(_)));
        let many = format!("<resource-agent>{}</resource-agent>", "<a/>".repeat(30_000));
        assert!(matches!(why(many.as_bytes()), Misread::NotXml(_)));
    }
}
