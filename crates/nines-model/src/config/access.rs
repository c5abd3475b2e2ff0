//! The section `[access]`.
//!
//! Decides: what can be the name of a group.

use super::{
    keys,
    reader::{Reader, Table},
};
use crate::{
    access::{Access, is_group},
    printable::clean,
};

/// Groups that a role may have.
const GROUPS: usize = 32;

pub(super) fn read(r: &mut Reader, root: &Table<'_>) -> Option<Access> {
    let table = r.table(root, "access")?;
    r.known(&table, keys::ACCESS);
    let mut access = Access::default();
    for (key, groups) in [
        ("viewer", &mut access.viewer),
        ("operator", &mut access.operator),
        ("admin", &mut access.admin),
    ] {
        let Some(value) = table.get(key) else { continue };
        for (group, span) in r.strings(&value) {
            if !is_group(&group) {
                let message = format!("\"{}\" is not the name of a group", clean(&group));
                let help = "write it as /etc/group does, or as a number: \"ops\", \"1005\"";
                r.error(span, message, Some(help.into()));
            } else if !groups.contains(&group) {
                groups.push(group);
            }
        }
        if groups.len() > GROUPS {
            let help = "make one group of them";
            r.error(value.span, format!("{key} has more than {GROUPS} groups"), Some(help.into()));
        }
    }
    Some(access)
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    #[test]
    fn groups_are_read_and_what_can_be_none_is_refused() {
        let read = |lines: &str| {
            let text = format!("[cluster]\nname = \"t\"\n{lines}");
            parse(&text).map(|spec| spec.access).map_err(|all| all[0].message.clone())
        };
        assert_eq!(read(""), Ok(None));
        let none = read("[access]\n").unwrap().unwrap();
        assert!(none.viewer.is_empty() && none.operator.is_empty() && none.admin.is_empty());
        let some = "[access]\nviewer = [\"staff\", \"_ssh\", \"staff\"]\nadmin = [\"1005\"]\n";
        let some = read(some).unwrap().unwrap();
        assert_eq!(
            (some.viewer.join(" "), some.admin.join(" ")),
            ("staff _ssh".into(), "1005".into())
        );
        let bad = read("[access]\nadmin = [\"a b\"]\n").unwrap_err();
        assert_eq!(bad, "\"a b\" is not the name of a group");
        assert!(read("[access]\nadmins = [\"a\"]\n").unwrap_err().contains("admins"));
        let many: Vec<String> = (0..33).map(|n| format!("\"g{n}\"")).collect();
        let many = read(&format!("[access]\nviewer = [{}]\n", many.join(","))).unwrap_err();
        assert_eq!(many, "viewer has more than 32 groups");
    }
}
