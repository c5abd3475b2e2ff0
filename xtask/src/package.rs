//! `cargo xtask package`: Debian packages of a built binary: `nines`, and `nines-quorumd` with the
//! unit of the witness of many clusters.
//!
//! Decides: which files go where, and what the packages ask of the machine. `dpkg-deb` writes the
//! archives; the maintainer scripts are in packaging/debian and packaging/debian-quorumd.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// Files that are copied as they are: from the root of the repository, to the package.
const FILES: &[(&str, &str)] = &[
    ("packaging/nines.service", "usr/lib/systemd/system/nines.service"),
    ("packaging/nines-guard.service", "usr/lib/systemd/system/nines-guard.service"),
    ("packaging/nines-guard.path", "usr/lib/systemd/system/nines-guard.path"),
    ("packaging/nines.sysusers", "usr/lib/sysusers.d/nines.conf"),
    ("packaging/nines-quorum-disk.service", "usr/lib/systemd/system/nines-quorum-disk.service"),
    ("packaging/nines-quorum-disk.sysusers", "usr/lib/sysusers.d/nines-quorum-disk.conf"),
    ("README.md", "usr/share/doc/nines/README.md"),
    ("CHANGELOG.md", "usr/share/doc/nines/changelog.md"),
];
/// Likewise for the package of quorumd.
const FILES_OF_QUORUMD: &[(&str, &str)] = &[
    ("packaging/nines-quorumd.service", "usr/lib/systemd/system/nines-quorumd.service"),
    ("packaging/nines-quorumd.sysusers", "usr/lib/sysusers.d/nines-quorumd.conf"),
    ("docs/manual/quorumd.md", "usr/share/doc/nines-quorumd/README.md"),
];
/// Folders that are copied whole.
const FOLDERS: &[(&str, &str)] =
    &[("examples", "usr/share/doc/nines/examples"), ("docs", "usr/share/doc/nines/docs")];
/// Shells, and where each looks for completions.
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "usr/share/bash-completion/completions/nines"),
    ("zsh", "usr/share/zsh/vendor-completions/_nines"),
    ("fish", "usr/share/fish/vendor_completions.d/nines.fish"),
];
/// Names of the package's maintainer scripts.
const SCRIPTS: &[&str] = &["postinst", "prerm", "postrm"];

type Done<T = ()> = Result<T, String>;

/// Builds both packages in `out` from `binary`; gives their paths.
pub fn build_all(root: &Path, binary: &Path, out: &Path, version: &str) -> Done<[PathBuf; 2]> {
    let nines = build(root, binary, out, version)?;
    Ok([nines, build_quorumd(root, out, version)?])
}

/// The package of quorumd: the unit and its user. The program is that of the package `nines`.
fn build_quorumd(root: &Path, out: &Path, version: &str) -> Done<PathBuf> {
    let tree = out.join("deb-quorumd");
    let _ = fs::remove_dir_all(&tree);
    for (from, to) in FILES_OF_QUORUMD {
        install(&root.join(from), &tree.join(to), 0o644)?;
    }
    let copyright = tree.join("usr/share/doc/nines-quorumd/copyright");
    write(&copyright, copyright_text(root)?.as_bytes(), 0o644)?;
    let size = size(&tree) / 1024;
    let control = format!(
        "Package: nines-quorumd\nVersion: {version}\nArchitecture: all\nSection: net\n\
         Priority: optional\nMaintainer: nines developers <developers@nines.invalid>\n\
         Installed-Size: {size}\nDepends: nines (= {version}), systemd\n\
         Description: the witness of many nines clusters on one machine\n \
         A third vote for clusters of two nodes, which may be far away. It holds no address,\n \
         runs no program and needs no privilege.\n"
    );
    write(&tree.join("DEBIAN/control"), control.as_bytes(), 0o644)?;
    for script in SCRIPTS {
        let from = root.join("packaging/debian-quorumd").join(script);
        install(&from, &tree.join("DEBIAN").join(script), 0o755)?;
    }
    pack(&tree, out.join(format!("nines-quorumd_{version}_all.deb")))
}

/// Packs a tree and removes it; gives the package.
fn pack(tree: &Path, file: PathBuf) -> Done<PathBuf> {
    output(Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(tree).arg(&file))?;
    let _ = fs::remove_dir_all(tree);
    Ok(file)
}

/// Builds the package `nines`; gives its path.
fn build(root: &Path, binary: &Path, out: &Path, version: &str) -> Done<PathBuf> {
    if !binary.exists() {
        return Err(format!("no program at {}: cargo build --release", binary.display()));
    }
    let tree = out.join("deb");
    let _ = fs::remove_dir_all(&tree);
    install(binary, &tree.join("usr/bin/nines"), 0o755)?;
    // A package has no use for line tables; where strip is missing they stay.
    let _ = Command::new("strip").arg(tree.join("usr/bin/nines")).status();
    for (from, to) in FILES {
        install(&root.join(from), &tree.join(to), 0o644)?;
    }
    for (from, to) in FOLDERS {
        copy_folder(&root.join(from), &tree.join(to))?;
    }
    generated(binary, &tree)?;
    let copyright = tree.join("usr/share/doc/nines/copyright");
    write(&copyright, copyright_text(root)?.as_bytes(), 0o644)?;
    let needs = libc_version(binary)?;
    let size = size(&tree) / 1024;
    let arch = output(Command::new("dpkg").arg("--print-architecture"))?;
    let arch = arch.trim();
    write(&tree.join("DEBIAN/control"), control(version, arch, &needs, size).as_bytes(), 0o644)?;
    for script in SCRIPTS {
        let from = root.join("packaging/debian").join(script);
        install(&from, &tree.join("DEBIAN").join(script), 0o755)?;
    }
    pack(&tree, out.join(format!("nines_{version}_{arch}.deb")))
}

/// The package's control file. `size`: installed size, KiB.
fn control(version: &str, arch: &str, libc: &str, size: u64) -> String {
    format!(
        "Package: nines\nVersion: {version}\nArchitecture: {arch}\nSection: net\nPriority: optional\n\
         Maintainer: nines developers <developers@nines.invalid>\nInstalled-Size: {size}\n\
         Depends: libc6 (>= {libc}), libgcc-s1, systemd\nRecommends: iproute2\n\
         Suggests: fence-agents, keepalived, ldirectord\n\
         Description: high availability and load balancing in one binary\n \
         Nodes watch each other, addresses move when a machine dies, and a layer-4\n \
         director in the kernel sends every packet of a connection to one real server.\n"
    )
}

/// Manual pages and completions, as the program itself prints them.
fn generated(binary: &Path, tree: &Path) -> Done {
    let man = tree.join("usr/share/man/man1");
    output(Command::new(binary).args(["help", "man"]).arg(&man))?;
    for page in fs::read_dir(&man).map_err(|e| e.to_string())?.flatten() {
        output(Command::new("gzip").args(["-9", "-n"]).arg(page.path()))?;
    }
    for (shell, to) in COMPLETIONS {
        let text = output(Command::new(binary).args(["help", "completions", shell]))?;
        write(&tree.join(to), text.as_bytes(), 0o644)?;
    }
    Ok(())
}

fn copyright_text(root: &Path) -> Done<String> {
    let mit = fs::read_to_string(root.join("LICENSE-MIT")).map_err(|e| e.to_string())?;
    Ok(format!(
        "nines is licensed under Apache-2.0 or MIT, at your choice; its kernel object under MIT or\n\
         GPL-2. The Apache licence is in /usr/share/common-licenses/Apache-2.0. The MIT licence:\n\n\
         {mit}"
    ))
}

/// The newest glibc that the binary asks for, such as "2.34": the versions are names in the file.
fn libc_version(binary: &Path) -> Done<String> {
    let bytes = fs::read(binary).map_err(|e| format!("{}: {e}", binary.display()))?;
    let newest = newest_libc(&bytes).ok_or("the program names no version of glibc")?;
    Ok(format!("2.{newest}"))
}

/// N of the newest `GLIBC_2.N` in there.
fn newest_libc(bytes: &[u8]) -> Option<u32> {
    let mark = b"GLIBC_2.";
    let mut newest = None;
    let mut rest = bytes;
    // A debug build has 60 MB: the first letter is looked for before the word.
    while let Some(at) = rest.iter().position(|b| *b == mark[0]) {
        let found = rest[at..].strip_prefix(mark).unwrap_or_default();
        let digits: String = found.iter().copied().map(char::from).take(4).collect();
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        newest = newest.max(digits[..end].parse().ok());
        rest = &rest[at + 1..];
    }
    newest
}

fn install(from: &Path, to: &Path, mode: u32) -> Done {
    let bytes = fs::read(from).map_err(|e| format!("{}: {e}", from.display()))?;
    write(to, &bytes, mode)
}

fn write(to: &Path, bytes: &[u8], mode: u32) -> Done {
    let failed = |e: std::io::Error| format!("{}: {e}", to.display());
    fs::create_dir_all(to.parent().expect("a file in the tree")).map_err(failed)?;
    fs::write(to, bytes).map_err(failed)?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).map_err(failed)
}

fn copy_folder(from: &Path, to: &Path) -> Done {
    for entry in fs::read_dir(from).map_err(|e| format!("{}: {e}", from.display()))?.flatten() {
        let (path, into) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_folder(&path, &into)?;
        } else {
            install(&path, &into, 0o644)?;
        }
    }
    Ok(())
}

/// Bytes of all files below.
fn size(folder: &Path) -> u64 {
    let one = |path: PathBuf| match fs::metadata(&path) {
        Ok(data) if data.is_dir() => size(&path),
        Ok(data) => data.len(),
        Err(_) => 0,
    };
    fs::read_dir(folder).into_iter().flatten().flatten().map(|e| one(e.path())).sum()
}

fn output(command: &mut Command) -> Done<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.output().map_err(|e| format!("{name}: {e}"))?;
    if !done.status.success() {
        return Err(format!("{name}: {}", String::from_utf8_lossy(&done.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_libc_is_found_by_number_not_by_text() {
        assert_eq!(newest_libc(b"xGLIBC_2.9\0GLIBC_2.34\0GLIBC_2.4.1\0"), Some(34));
        assert_eq!(newest_libc(b"GLIBC_2."), None);
        assert_eq!(newest_libc(b""), None);
    }

    #[test]
    fn every_file_of_the_package_is_in_the_repository() {
        let root = crate::root();
        for (from, _) in FILES.iter().chain(FILES_OF_QUORUMD).chain(FOLDERS) {
            assert!(root.join(from).exists(), "{from}");
        }
        for (folder, script) in
            ["debian", "debian-quorumd"].iter().flat_map(|f| SCRIPTS.iter().map(move |s| (f, s)))
        {
            let mode = fs::metadata(root.join("packaging").join(folder).join(script));
            assert!(mode.is_ok_and(|m| m.permissions().mode() & 0o111 != 0), "{script} runs");
        }
    }
}
