//! Backups, and a cluster that is formed anew from one.

use super::{Net, can_run, manual::Shop, node};

/// The page's cluster loses lb2 and wit1; lb1 begins anew, wit1 joins it. lb2 comes back as it was.
#[test]
fn the_page_on_backups_does_what_it_says_and_an_old_node_stays_a_stranger() {
    if !can_run() {
        return;
    }
    let shop = Shop::new();
    shop.page("docs/manual/first-cluster.md", "lb1", true);
    shop.until("all is well", "lb1", "nines status", "shop  HEALTHY");
    shop.run("lb2", "systemctl stop nines");
    shop.run("wit1", "systemctl stop nines");
    shop.page("docs/manual/backup-and-restore.md", "lb1", false);
    shop.until("wit1 has its vote", "lb1", "nines status", "quorum 2 of 2");
    let restored = "generation 2 of shop begins on lb1";
    shop.until("it is told, with its reason", "wit1", "nines events", restored);
    assert!(shop.run("wit1", "nines events").contains("lb2 and wit1 are lost"));
    assert!(shop.run("lb1", "nines status").contains("shop (generation 2)"));
    assert!(shop.run("lb1", "nines backup show shop-2.backup").contains("shop, generation 2"));
    // lb2 has missed all of that.
    shop.run("lb2", "systemctl start nines");
    let stranger = "says that it belongs to generation 2 of cluster shop; this is generation 1";
    shop.until("lb2 says what lb1 is", "lb2", "nines status", stranger);
    assert!(shop.run("lb2", "nines status").contains("quorum 1 of 3"), "it has no majority");
    assert!(shop.run("lb1", "nines status").contains("quorum 2 of 2"), "nor a place here");
    shop.run("lb2", "systemctl stop nines");
}

/// What is refused, and that it changes nothing.
#[test]
fn a_backup_that_is_not_whole_forms_nothing() {
    if !can_run() {
        return;
    }
    let mut net =
        Net::new(&[("lb1", &[("br0", "10.97.31.2/24")]), ("lb2", &[("br0", "10.97.31.3/24")])]);
    net.ok("lb1", &["init", "lab", "--node", "lb1"]);
    let file = net.home.join("lab.backup").to_str().unwrap().to_owned();
    net.fails("lb1", &["backup", "save", &file], 3);
    net.start("lb1");
    assert!(net.ok("lb1", &["backup", "save", &file]).contains("revision 1"));
    assert!(net.fails("lb1", &["backup", "save", &file], 4).contains("is there already"));
    let force = ["--force-new-generation", "--reason", "a test", "--node"];
    let restore = |file: &str, node: &str| -> Vec<String> {
        let words = ["backup", "restore", file].into_iter().chain(force).chain([node]);
        words.map(str::to_owned).collect()
    };
    let fails = |net: &Net, host: &str, file: &str, node: &str, code| {
        let words = restore(file, node);
        net.fails(host, &words.iter().map(String::as_str).collect::<Vec<_>>(), code)
    };
    assert!(fails(&net, "lb1", &file, "lb1", 4).contains("an agent runs"));
    nines_lab::kill(&mut net.agents.remove("lb1").unwrap());
    assert!(fails(&net, "lb1", &file, "lb1", 4).contains("is lb1 of cluster lab already"));
    assert!(net.fails("lb2", &["backup", "restore", &file], 4).contains("--force-new-generation"));
    assert!(fails(&net, "lb2", &file, "lb2", 5).contains("lb2 is no node of lab"));
    assert!(fails(&net, "lb2", &file, "lb1", 2).contains("10.97.31.2 is on no interface"));
    let whole = std::fs::read(&file).unwrap();
    let cut = net.home.join("cut.backup");
    std::fs::write(&cut, &whole[..whole.len() - 9]).unwrap();
    let said = fails(&net, "lb2", cut.to_str().unwrap(), "lb2", 2);
    assert!(said.contains("cut.backup cannot be used") && said.contains("is cut short"), "{said}");
    assert!(!net.home.join("lb2").exists(), "nothing was changed");
    std::fs::rename(net.home.join("lb1"), net.home.join("lb1-old")).unwrap();
    let words = restore(&file, "lb1");
    net.ok("lb1", &words.iter().map(String::as_str).collect::<Vec<_>>());
    net.start("lb1");
    net.until("it leads alone", |n| n.status("lb1")["quorate"] == true);
    let status = net.status("lb1");
    assert_eq!((&status["generation"], &node(&status, "lb1")["id"]), (&2.into(), &2.into()));
}
