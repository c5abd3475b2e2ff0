//! A disk that is full, and has room again.

use std::process::Command;

use super::{Net, can_run, node};

/// A file system of 16 MB for a state directory, as long as this lives.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// In place of this directory, with what it has.
    fn under(home: &std::path::Path) -> Self {
        let aside = home.with_extension("aside");
        std::fs::rename(home, &aside).unwrap();
        std::fs::create_dir(home).unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=16m", "tmpfs"];
        assert!(Command::new("mount").args(mount).arg(home).status().unwrap().success());
        let disk = Self(home.to_owned());
        for entry in std::fs::read_dir(&aside).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), home.join(entry.file_name())).unwrap();
        }
        disk
    }

    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("ballast")).unwrap();
        let piece = vec![0xa5; 4_096];
        while std::io::Write::write_all(&mut file, &piece).is_ok() {}
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Something that the log grows by: it is written on every disk.
fn write_much(net: &Net, host: &str) {
    let text = net.ok(host, &["config", "show"]);
    let comments = "# a comment that takes room on each disk\n".repeat(25_000);
    let file = net.write("more.toml", &format!("{text}{comments}"));
    let less = net.write("less.toml", &text);
    // Texts come and go until the disk of the other node has no room for one.
    for file in [&file, &less].into_iter().cycle().take(6) {
        net.nines(host, &["apply", "-y", file]);
    }
}

// scenario 37
#[test]
fn a_node_whose_disk_was_full_goes_on_by_itself() {
    if !can_run() {
        return;
    }
    let mut net = Net::of_three(32);
    let holder = net.holder("wit1");
    let other = if holder == "lb1" { "lb2" } else { "lb1" };
    nines_lab::kill(&mut net.agents.remove(other).unwrap());
    let disk = SmallDisk::under(&net.home.join(other));
    // It is a copy: the others confirm it.
    net.start(other);
    net.until("it is ready on its small disk", |n| {
        node(&n.status("wit1"), other)["state"] == "ready"
    });
    let pid = net.agents[other].id();
    disk.fill();
    write_much(&net, "wit1");
    net.until("all say that its disk is full, and the cluster goes on", |n| {
        let status = n.status("wit1");
        let line = node(&status, other);
        let told = line["next"].as_str().unwrap().contains("goes on by itself");
        line["state"] == "no vote" && told && status["quorate"] == true
    });
    assert_eq!(net.holder("wit1"), holder);
    let own = net.ok(other, &["status"]);
    assert!(own.contains("No space left on device"), "{own}");
    disk.empty();
    net.until("it is ready again, without anybody", |n| {
        let status = n.status("wit1");
        node(&status, other)["state"] == "ready" && status["votes"] == 3
    });
    assert_eq!(net.agents[other].id(), pid);
    assert!(net.log(other).contains("the disk has room again"));
    // And one that starts while it is full.
    nines_lab::kill(&mut net.agents.remove(other).unwrap());
    net.until("it is silent", |n| node(&n.status("wit1"), other)["state"] == "silent");
    disk.fill();
    net.start(other);
    net.until("it says so, or could open its log", |n| {
        ["no vote", "ready"].contains(&node(&n.status("wit1"), other)["state"].as_str().unwrap())
    });
    disk.empty();
    net.until("it is ready once more", |n| node(&n.status("wit1"), other)["state"] == "ready");
    nines_lab::kill(&mut net.agents.remove(other).unwrap());
    drop(disk);
}
