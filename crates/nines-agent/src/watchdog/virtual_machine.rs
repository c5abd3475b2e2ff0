//! Whether this machine is a virtual one.
//!
//! Decides: by what that is known. A hypervisor that pauses the machine pauses its watchdog as
//! well, and no clock of the machine shows it: what rests on a watchdog alone is not safe there.

use std::fs;

/// The processor's flag for a guest, in /proc/cpuinfo (CPUID 1, ECX bit 31).
const FLAG: &str = "hypervisor";
/// What virtual machines call themselves, in the files of /sys/class/dmi/id.
const NAMES: [&str; 10] = [
    "Bochs",
    "BHYVE",
    "Google Compute Engine",
    "KVM",
    "OpenStack",
    "Parallels Virtual Platform",
    "QEMU",
    "VirtualBox",
    "VMware",
    "Xen",
];

/// Whether this machine is a virtual one, as far as it says so itself.
pub fn is_one() -> bool {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let names = ["product_name", "sys_vendor", "bios_vendor"]
        .map(|file| read(&format!("/sys/class/dmi/id/{file}")));
    judged(&read("/proc/cpuinfo"), &names.join("\n"))
        || !read("/sys/hypervisor/type").is_empty()
        || fs::exists("/proc/device-tree/hypervisor").unwrap_or(false)
}

fn judged(processor: &str, names: &str) -> bool {
    let is_flags = |line: &&str| line.starts_with("flags") || line.starts_with("Features");
    let has_flag = |line: &str| line.split_whitespace().any(|word| word == FLAG);
    processor.lines().filter(is_flags).any(has_flag)
        || NAMES.iter().any(|name| names.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_known_by_its_processor_or_by_its_name() {
        let guest = "model name\t: a hypervisor's dream\nflags\t\t: fpu vme hypervisor lahf_lm\n";
        let host = "model name\t: a hypervisor's dream\nflags\t\t: fpu vme lahf_lm\n";
        for (processor, names, is) in [
            (guest, "PowerEdge R640\nDell Inc.\nDell Inc.\n", true),
            (host, "PowerEdge R640\nDell Inc.\nDell Inc.\n", false),
            ("Features\t: fp asimd\n", "KVM Virtual Machine\nQEMU\nEFI\n", true),
            ("", "", false),
        ] {
            assert_eq!(judged(processor, names), is, "{processor} {names}");
        }
    }
}
