//! `nines quorumd run`, `join`, `list`, `forget`

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::ErrorKind,
    net::IpAddr,
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use nines_agent::{QUORUMD_PORT, QuorumdOptions, StateDir, quorumd_folders, run_quorumd};
use nines_api::{
    client::Client,
    failure::{Failure, Kind, Outcome},
    states::NodeState,
    types::{Quorumd, QuorumdCluster},
};
use nines_model::{names, printable::clean};

use super::{
    init,
    join::{GivenCode, Joins, enter, given_code},
};
use crate::{
    context::{Context, SOCKET, STATE},
    output::{columns, print_json},
};

/// Where quorumd keeps its clusters, unless chosen otherwise.
const OWN_STATE: &str = "/var/lib/nines-quorumd";
/// Where quorumd answers, unless chosen otherwise.
const OWN_SOCKET: &str = "/run/nines-quorumd/quorumd.sock";

/// quorumd: one machine that votes as the witness of many clusters.
///
/// It runs no VIP, no check and no program, and needs no privilege. Its state is in
/// /var/lib/nines-quorumd and its socket in /run/nines-quorumd, unless --state and --socket name
/// others.
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct QuorumdArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Run quorumd (systemd does this).
    Run,
    /// Become the witness of one more cluster; quorumd begins to vote there by itself.
    Join(JoinArgs),
    /// List the clusters that it votes for.
    List,
    /// Forget a cluster that this witness was removed from.
    Forget(ForgetArgs),
}

#[derive(Args)]
struct JoinArgs {
    /// Address of a member, or its address:port.
    address: String,
    #[command(flatten)]
    code: GivenCode,
    /// Name of this witness in the cluster; by default the host name up to the first dot.
    #[arg(long)]
    node: Option<String>,
    /// Address by which the members reach this machine, once for each link; by default the first
    /// address found.
    #[arg(long = "address", id = "own", value_name = "ADDRESS")]
    own: Vec<IpAddr>,
    /// Address to listen on, if the members reach this machine by another one (NAT).
    #[arg(long, value_name = "ADDRESS", requires = "own")]
    listen: Vec<IpAddr>,
    /// UDP and TCP port for this cluster; by default the first from 9130 on that no other cluster
    /// has.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Name of the folder in the state directory; by default the name of the cluster.
    #[arg(long, value_name = "NAME")]
    folder: Option<String>,
}

#[derive(Args)]
struct ForgetArgs {
    /// Name of the folder, as `nines quorumd list` shows it.
    folder: String,
    /// Forget it although the cluster still counts this witness's vote.
    #[arg(long)]
    force: bool,
}

/// `--state` and `--socket`, or quorumd's own places.
fn places(context: &Context) -> (PathBuf, PathBuf) {
    let or = |given: &Path, usual: &str, own: &str| {
        if given == Path::new(usual) { own.into() } else { given.to_owned() }
    };
    (or(&context.state, STATE, OWN_STATE), or(&context.socket, SOCKET, OWN_SOCKET))
}

/// Runs it.
pub fn run(context: &Context, args: &QuorumdArgs) -> Outcome<u8> {
    let (state, socket) = places(context);
    match &args.what {
        What::Run => run_quorumd(&QuorumdOptions { state, socket })?,
        What::Join(args) => join(context, &state, args)?,
        What::List => list(context, &socket)?,
        What::Forget(args) => forget(context, &state, &socket, args)?,
    }
    Ok(0)
}

fn join(context: &Context, state: &Path, args: &JoinArgs) -> Outcome<()> {
    let addresses = match (&args.own[..], &args.listen[..]) {
        (own, [_, ..]) => own.to_vec(),
        (own, []) => init::addresses(own)?,
    };
    make_state(state)?;
    let _alone = lock(state)?;
    if let Some(name) = &args.folder {
        is_folder(state, name)?;
    }
    let taken: BTreeSet<u16> = folders(state)?
        .values()
        .filter_map(|home| home.identity().ok())
        .map(|who| who.me.port)
        .collect();
    let port = args.port.or_else(|| (QUORUMD_PORT..=u16::MAX).find(|port| !taken.contains(port)));
    let port = port.filter(|port| !taken.contains(port)).ok_or_else(|| {
        let what = format!("port {} is another cluster's", args.port.unwrap_or_default());
        Failure::new(Kind::Usage, what, "each cluster has a port of its own")
            .next("leave --port out: the first free one is taken")
    })?;
    // Until it is whole it is nobody's, and has no name that quorumd takes for a cluster's.
    // If the answer is lost, the key of this attempt stays in it for the next one.
    let half = StateDir(state.join(format!(".joining-{port}")));
    let wanted = Joins {
        name: init::name(args.node.as_ref()),
        addresses,
        listen: args.listen.clone(),
        port,
        witness: true,
        server: false,
        floats: false,
    };
    let joined =
        given_code(&args.code).and_then(|code| enter(&half, &args.address, &code, &wanted));
    let named = joined.and_then(|who| {
        let folder = match &args.folder {
            Some(name) => name.clone(),
            None => free_name(state, &who.cluster)?,
        };
        give_to_owner_of(state, &half.0)?;
        let to = state.join(&folder);
        std::fs::rename(&half.0, &to).map_err(|e| cannot("rename", &half.0, e))?;
        Ok((folder, who))
    });
    let (folder, who) = named.inspect_err(|why| {
        if why.kind != Kind::Unreachable {
            let _ = std::fs::remove_dir_all(&half.0);
        }
    })?;
    if context.json() {
        print_json(&serde_json::json!({
            "schema": 1, "cluster": who.cluster, "node": who.me.name, "role": "witness",
            "folder": folder, "port": port,
        }));
    } else {
        outln!(
            "{} is a witness of cluster {} now, on port {port} (UDP and TCP). \
             See it vote:  nines quorumd list",
            who.me.name,
            who.cluster
        );
    }
    Ok(())
}

fn cannot(what: &str, path: &Path, e: std::io::Error) -> Failure {
    Failure::new(Kind::Io, format!("cannot {what} {}", path.display()), e).next("run as root")
}

fn make_state(state: &Path) -> Outcome<()> {
    std::fs::create_dir_all(state).map_err(|e| cannot("make", state, e))
}

/// One join at a time: two would choose the same port.
fn lock(state: &Path) -> Outcome<File> {
    let folder = File::open(state).map_err(|e| cannot("open", state, e))?;
    folder.lock().map_err(|e| cannot("lock", state, e))?;
    Ok(folder)
}

/// The folders of the clusters that it votes for; none before the first.
fn folders(state: &Path) -> Outcome<BTreeMap<String, StateDir>> {
    match quorumd_folders(state) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(BTreeMap::new()),
        found => found.map_err(|e| cannot("read", state, e)),
    }
}

/// Whether the folder of another cluster can have this name.
fn is_folder(state: &Path, name: &str) -> Outcome<()> {
    let refused = |what, why| {
        Err(Failure::new(Kind::Usage, what, why).next("choose another --folder, or leave it out"))
    };
    if !names::is_name(name) {
        let why = "letters, digits, dots, dashes and underscores, a letter or digit first";
        return refused(format!("\"{}\" is no name for a folder", clean(name)), why);
    }
    if state.join(name).exists() {
        let what = format!("there is a folder {name} in {} already", state.display());
        return refused(what, "each cluster has a folder of its own");
    }
    Ok(())
}

/// A name for the folder that no other cluster has: clusters of different owners may have the same
/// name. The other machine says what its cluster's name is.
fn free_name(state: &Path, cluster: &str) -> Outcome<String> {
    if !names::is_name(cluster) {
        let what = format!("\"{}\" is no name of a cluster", clean(cluster));
        return Err(Failure::new(Kind::Denied, what, "nothing was kept")
            .next("see whether the address is that of a member"));
    }
    let more = (2..).map(|n| format!("{cluster}-{n}"));
    let mut names = std::iter::once(cluster.to_owned()).chain(more);
    Ok(names.find(|name| !state.join(name).exists()).expect("there is no end of numbers"))
}

/// quorumd runs as a user of its own, to whom its state directory belongs.
fn give_to_owner_of(state: &Path, folder: &Path) -> Outcome<()> {
    let owner = std::fs::metadata(state).map_err(|e| cannot("read", state, e))?;
    let give = |path: &Path| {
        chown(path, Some(owner.uid()), Some(owner.gid())).map_err(|e| cannot("give away", path, e))
    };
    give(folder)?;
    for file in std::fs::read_dir(folder).map_err(|e| cannot("read", folder, e))?.flatten() {
        give(&file.path())?;
    }
    Ok(())
}

fn view(socket: &Path) -> Outcome<Quorumd> {
    Client::Socket(socket).get("/v1/quorumd").map_err(|why| match why.kind {
        Kind::Unreachable => {
            let what = format!("quorumd does not answer on {}", socket.display());
            Failure::new(Kind::Unreachable, what, why.why)
                .next("systemctl start nines-quorumd   (or: nines quorumd run)")
        }
        _ => why,
    })
}

fn list(context: &Context, socket: &Path) -> Outcome<()> {
    let view = view(socket)?;
    if context.json() {
        print_json(&view);
    } else {
        out!("{}", table(&view.clusters));
    }
    Ok(())
}

fn table(clusters: &[QuorumdCluster]) -> String {
    if clusters.is_empty() {
        return "no cluster; nines quorumd join ADDRESS CODE\n".into();
    }
    let titles = ["FOLDER", "CLUSTER", "WITNESS", "PORT", "STATE", "VOTES HEARD", "LEADER"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    let or_dash = |text: &str| if text.is_empty() { "-".into() } else { text.to_owned() };
    rows.extend(clusters.iter().map(|c| {
        let heard = format!("{} of {}", c.heard, c.voters);
        vec![
            c.folder.clone(),
            or_dash(&c.cluster),
            or_dash(&c.node),
            c.port.to_string(),
            or_dash(&c.state.to_string()),
            if c.voters == 0 { "-".into() } else { heard },
            or_dash(&c.leader),
        ]
    }));
    let mut out = columns(&rows);
    for c in clusters.iter().filter(|c| !c.text.is_empty()) {
        out.push_str(&format!("\n{}: {} {}\n", c.folder, c.node, c.text));
        if !c.next.is_empty() {
            out.push_str(&format!("  {}\n", c.next));
        }
    }
    for c in clusters.iter().filter(|c| c.dropped > 0) {
        out.push_str(&format!(
            "\n{}: {} datagrams were not opened, because more came to port {} than the cluster's \
             members send\n",
            c.folder, c.dropped, c.port
        ));
    }
    out
}

fn forget(context: &Context, state: &Path, socket: &Path, args: &ForgetArgs) -> Outcome<()> {
    let folders = folders(state)?;
    let Some(home) = folders.get(&args.folder) else {
        let names: Vec<&str> = folders.keys().map(String::as_str).collect();
        let there = if names.is_empty() { "none".into() } else { names.join(", ") };
        let what = format!("there is no folder {} in {}", args.folder, state.display());
        return Err(Failure::new(Kind::NotFound, what, format!("there are: {there}"))
            .next("nines quorumd list"));
    };
    let who = home.identity()?;
    if !args.force {
        let shown = view(socket)?;
        let left = shown.clusters.iter().find(|c| c.folder == args.folder);
        if !left.is_some_and(|c| c.state.is(NodeState::Removed)) {
            let (node, cluster) = (&who.me.name, &who.cluster);
            let what = format!("cluster {cluster} counts the vote of {node}");
            return Err(Failure::new(Kind::Unsafe, what, "nothing was forgotten").next(format!(
                "on a member: nines node remove {node}; if that cluster is no more: --force"
            )));
        }
    }
    // Renamed first: half a folder is nobody's.
    let gone = state.join(format!(".gone-{}-{}", args.folder, std::process::id()));
    std::fs::rename(&home.0, &gone).map_err(|e| cannot("rename", &home.0, e))?;
    std::fs::remove_dir_all(&gone).map_err(|e| cannot("remove", &gone, e))?;
    if context.json() {
        print_json(&serde_json::json!({ "schema": 1, "folder": args.folder }));
    } else {
        outln!("cluster {} is forgotten", who.cluster);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(folder: &str, state: NodeState) -> QuorumdCluster {
        QuorumdCluster {
            folder: folder.into(),
            cluster: "shop".into(),
            node: "q1".into(),
            port: 9130,
            state: state.into(),
            voters: 3,
            heard: 2,
            leader: "lb1".into(),
            votes: true,
            ..QuorumdCluster::default()
        }
    }

    #[test]
    fn the_list_says_what_is_wrong_below_it() {
        let mut broken = cluster("shop-2", NodeState::NoVote);
        broken.text = "votes no more: its log is gone".into();
        broken.next = "nines code".into();
        broken.dropped = 7;
        let text = table(&[cluster("shop", NodeState::Ok), broken]);
        assert_eq!(
            text,
            "FOLDER  CLUSTER  WITNESS  PORT  STATE    VOTES HEARD  LEADER\n\
             shop    shop     q1       9130  ok       2 of 3       lb1\n\
             shop-2  shop     q1       9130  no vote  2 of 3       lb1\n\
             \n\
             shop-2: q1 votes no more: its log is gone\n  nines code\n\
             \n\
             shop-2: 7 datagrams were not opened, because more came to port 9130 than the \
             cluster's members send\n"
        );
        assert!(table(&[]).contains("nines quorumd join"));
    }

    #[test]
    fn two_clusters_of_one_name_get_two_folders() {
        let state = std::env::temp_dir().join(format!("nines-quorumd-{}", std::process::id()));
        std::fs::create_dir_all(state.join("shop")).unwrap();
        assert_eq!(free_name(&state, "shop").unwrap(), "shop-2");
        assert_eq!(free_name(&state, "bank").unwrap(), "bank");
        assert!(free_name(&state, "../etc").is_err());
        is_folder(&state, "bank").unwrap();
        for bad in ["shop", "../x", ".x"] {
            assert!(is_folder(&state, bad).is_err(), "{bad}");
        }
        std::fs::remove_dir_all(&state).unwrap();
    }
}
