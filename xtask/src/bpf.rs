//! Builds the kernel object and puts it, with the digest of its sources, beside the loader.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Directory of the committed object, from the root.
const HOME: &str = "crates/nines-dataplane/src/ebpf";

/// Sources of the object, in the order in which they are hashed.
fn sources(root: &Path) -> Vec<PathBuf> {
    let mut files =
        vec!["crates/nines-bpf/Cargo.lock".into(), "crates/nines-bpf/Cargo.toml".into()];
    for folder in ["crates/nines-abi/src", "crates/nines-bpf/src"] {
        let mut inside = Vec::new();
        gather(root, Path::new(folder), &mut inside);
        inside.sort();
        files.extend(inside);
    }
    files
}

/// All files below a folder.
fn gather(root: &Path, folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(root.join(folder)).expect("a folder of sources").flatten() {
        let path = folder.join(entry.file_name());
        if entry.path().is_dir() {
            gather(root, &path, into);
        } else {
            into.push(path);
        }
    }
}

/// SHA-256 over name, length and text of every source, hex.
pub fn digest(root: &Path) -> String {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    for file in sources(root) {
        let text = fs::read(root.join(&file)).expect("a listed source can be read");
        hash.update(format!("{} {}\n", file.display(), text.len()).as_bytes());
        hash.update(&text);
    }
    hash.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// Builds to `out`; without `out` the committed object and its digest are replaced.
pub fn build(root: &Path, out: Option<&str>) -> Result<(), String> {
    let target = root.join("target/bpf");
    let built = Command::new("cargo")
        .args(["build", "--release", "--locked", "--target", "bpfel-unknown-none"])
        .current_dir(root.join("crates/nines-bpf"))
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", "bpf-linker")
        .env("CARGO_TARGET_DIR", &target)
        .env_remove("RUSTUP_TOOLCHAIN")
        .status()
        .map_err(|e| format!("cannot run cargo: {e}"))?;
    if !built.success() {
        return Err(
            "the kernel object did not build; tools: CONTRIBUTING.md, \"The kernel object\"".into(),
        );
    }
    let object = target.join("bpfel-unknown-none/release/nines-bpf");
    let to = out.map_or_else(|| root.join(HOME).join("nines.bpf.o"), PathBuf::from);
    fs::copy(&object, &to).map_err(|e| format!("cannot write {}: {e}", to.display()))?;
    if out.is_none() {
        let digest_file = root.join(HOME).join("nines.bpf.sha256");
        fs::write(&digest_file, digest(root)).map_err(|e| e.to_string())?;
    }
    println!("built {}", to.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_object_was_built_from_the_sources_beside_it() {
        let root = crate::root();
        let kept = fs::read_to_string(root.join(HOME).join("nines.bpf.sha256")).unwrap();
        assert_eq!(kept, digest(&root), "sources changed: run `cargo xtask bpf`");
    }
}
