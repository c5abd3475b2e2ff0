use std::path::PathBuf;

use super::*;
use crate::{
    identity::{self, PORT, StateDir},
    quorum_disk::device::Use,
};

/// Credentials of a voter that nobody let in.
pub fn some_credentials() -> crate::identity::Credentials {
    let text = "[cluster]\nname = \"t\"\n[nodes]\nlb1 = \"10.0.0.2\"\n";
    let spec = nines_model::config::parse(text).unwrap();
    identity::bootstrap(text, &spec, PORT).unwrap().0.remove(0)
}

/// A formatted file in place of a disk, for two hosts.
pub fn formatted(test: &str) -> (PathBuf, Header) {
    let path = std::env::temp_dir().join(format!("nines-qdisk-{test}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(least(2)).unwrap();
    let header = Header {
        disk: 77,
        cluster: "t".into(),
        authority: "ab".into(),
        node: "qd".into(),
        hosts: vec!["10.0.0.2".parse().unwrap(), "10.0.0.3".parse().unwrap()],
        port: 9118,
        area: area(least(2), 2).unwrap(),
    };
    let device = Device::open(&path, Use::Format).unwrap();
    format(&device, &header, &some_credentials().given()).unwrap();
    (path, header)
}

const A: HostNumber = HostNumber(0);

fn block(sequence: u64) -> Block {
    let claim = Ballot { epoch: 4, host: HostNumber(1) };
    Block { run: 5, sequence, claim, owned: Ballot::NONE }
}

#[test]
fn what_is_written_is_read() {
    let (path, written) = formatted("layout");
    let device = Device::open(&path, Use::Blocks).unwrap();
    assert_eq!(header(&device).unwrap(), written);
    let secrets = credentials(&device).unwrap();
    assert_eq!(secrets.identity.me.name, "lb1");
    let read = || blocks(&device, &written).unwrap();
    assert_eq!(read(), [Seen::Block(Block::default()); 2]);
    for sequence in 1..5 {
        write_block(&device, written.disk, A, &block(sequence)).unwrap();
        assert_eq!(read(), [Seen::Block(block(sequence)), Seen::Block(Block::default())]);
    }
    std::fs::remove_file(&path).unwrap();
}

/// Whatever part of a write comes to the disk: the block before it is there, or the new one.
#[test]
fn a_torn_write_leaves_the_block_before_it() {
    let old = piece(name::BLOCK, VERSION, &encode(7, &block(8)));
    let new = piece(name::BLOCK, VERSION, &encode(7, &block(9)));
    let before = piece(name::BLOCK, VERSION, &encode(7, &block(7)));
    for cut in 0..=512 {
        let torn = [&new[..cut], &before[cut..]].concat();
        let seen = block_in(7, &[&old[..], &torn[..]].concat());
        let whole = torn == new;
        assert_eq!(seen, Seen::Block(block(if whole { 9 } else { 8 })), "{cut}");
    }
    assert_eq!(block_in(7, &[9; 8_192]), Seen::Damaged);
    assert_eq!(block_in(8, &[old, new].concat()), Seen::Damaged, "of another formatting");
}

#[test]
fn each_thing_that_can_be_wrong_with_a_disk_has_a_message_of_its_own() {
    let (path, written) = formatted("wrong");
    let device = Device::open(&path, Use::Log).unwrap();
    let mut good = vec![0; BLOCK as usize];
    device.read(0, &mut good).unwrap();
    let with = |bytes: &[u8]| {
        device.write(0, bytes).unwrap();
        header(&device).unwrap_err()
    };
    let none = with(&vec![0; BLOCK as usize]);
    assert!(none.what.contains("is no quorum disk") && none.kind == Kind::NotFound, "{none}");
    let mut newer = good.clone();
    newer[8] = 9;
    let newer = with(&newer);
    assert!(newer.why.contains("version 9") && newer.kind == Kind::Unsafe, "{newer}");
    let mut damaged = good.clone();
    damaged[40] ^= 1;
    let damaged = with(&damaged);
    assert!(damaged.what.contains("is damaged") && damaged.kind == Kind::Io, "{damaged}");
    let other = Header { disk: 78, cluster: "other".into(), ..written.clone() };
    let text = serde_json::to_vec(&other).unwrap();
    device.write(0, &piece(name::HEADER, VERSION, &text)).unwrap();
    let anew = blocks(&device, &written).unwrap_err();
    assert!(anew.what.contains("formatted anew") && anew.why.contains("other"), "{anew}");
    device.write(CREDENTIALS + 30, &[1; 4]).unwrap();
    assert!(credentials(&device).err().unwrap().what.contains("credentials"));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_device_has_room_for_all_hosts_or_is_too_small() {
    assert_eq!(least(2), 33 << 20);
    assert_eq!(area(least(2), 2), Some(AREA_MIN));
    assert_eq!(area(least(2) - 1, 2), None);
    assert_eq!(area(1 << 40, 8), Some(AREA_MAX));
}

#[test]
fn the_voter_gets_the_newest_credentials_that_any_host_has_written_whole() {
    let (path, _) = formatted("newer");
    let device = Device::open(&path, Use::Log).unwrap();
    let first = credentials(&device).unwrap();
    let own = StateDir(path.with_extension("state"));
    let voter = identity::Credentials::of(first.clone(), None).unwrap();
    own.keep(&voter).unwrap();
    let signer = (first.ca_key.clone(), String::new());
    let (offered, next_key) = voter.keys().authorities.offered(0, ("t", 1), &signer.0).unwrap();
    let own_pair = (first.cert_pem.clone(), first.key_pem.clone());
    voter.put_authorities(&own, &offered, (signer.0, next_key), own_pair).unwrap();
    let host = HostNumber(1);
    write_credentials(&device, host, &voter.given()).unwrap();
    assert_eq!(credentials(&device).unwrap().authorities, Some(offered.clone()));
    // Another host has older ones, and wrote them later.
    write_credentials(&device, A, &first).unwrap();
    assert_eq!(credentials(&device).unwrap().authorities, Some(offered));
    // A write that was cut off.
    device.write(NEWER + NEWER_ROOM * u64::from(host.0) + 64, b"x").unwrap();
    assert_eq!(credentials(&device).unwrap().authorities, None);
    std::fs::remove_dir_all(&own.0).unwrap();
    std::fs::remove_file(&path).unwrap();
}
